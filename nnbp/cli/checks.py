"""What the commands share that check nnbp itself: how they tell what they found."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from nnbp.cli.common import Exit
from nnbp.formatting import json_text
from nnbp.nn.activations import Activation
from nnbp.testing.gradients import GradientReport
from nnbp.testing.parity import ParityReport

CHECK_FAILED = 1
"""Exit code of a check that ran and found something wrong."""

HIDDEN = [name for name in Activation.built_in() if name != "softmax"]
"""nnbp's own activations of hidden layers."""

Report = GradientReport | ParityReport


def verdict(cases: Sequence[tuple[Any, Report]], name: str) -> str:
    """The first words of the last line of a table of cases, each with its report: whether all of them passed."""
    failed = sum(not report.passed for _, report in cases)
    return f"FAILED: {failed} of {len(cases)} {name}" if failed else f"PASSED: {len(cases)} {name}"


def conclude(arguments: argparse.Namespace, cases: Sequence[tuple[Mapping[str, Any], Report]], page: str) -> int:
    """Prints what a check found, as JSON or as the page; the exit code, 0, or 1 if a case failed."""
    passed = all(report.passed for _, report in cases)
    reports = [{**case, **report.as_dict()} for case, report in cases]
    print(json_text({"passed": passed, "reports": reports}) if arguments.json else page)
    return Exit.DONE if passed else CHECK_FAILED
