"""The pytest plugin in a suite of somebody else."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

SUITE = """
import numpy as np
import nnbp

X, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 3

def network(device, units=6):
    return nnbp.Network([4, units, 3], activation="tanh", loss="cross_entropy", device=device, seed=0)

def test_device(nnbp_device):
    assert network(nnbp_device).device == nnbp_device

def test_training(nnbp_device, nnbp_reference):
    report = nnbp_reference(network(nnbp_device), X, y, steps=5, optimizer="sgd")
    assert report is None or report.updates == 5
    nnbp_reference(network(nnbp_device, 7), X, y)
"""


NETWORK = "network(nnbp_device)"
REPORT = f"report = nnbp_reference({NETWORK}, X, y, steps"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.delenv("NNBP_REQUIRE_GPU", raising=False)
    pytester.makeconftest('pytest_plugins = ["nnbp.testing.pytest_plugin"]')
    pytester.makepyfile(test_suite=SUITE)
    return pytester


def run(suite: pytest.Pytester, *options: str) -> Any:
    return suite.runpytest_subprocess("-p", "no:cacheprovider", "-n", "0", "-W", "error", *options)


def test_references_are_written_only_if_that_is_asked_for(suite: pytest.Pytester) -> None:
    done = run(suite, "--nnbp-device", "cpu")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(
        ["nnbp: device cpu", "There is no reference *test_training.safetensors*Write it with `pytest*"]
    )
    assert not list(suite.path.rglob("*.safetensors"))
    run(suite, "--nnbp-device", "cpu", "--nnbp-record").assert_outcomes(passed=2)
    found = sorted(path.relative_to(suite.path).as_posix() for path in suite.path.rglob("*.safetensors"))
    folder = "references/test_suite"
    assert found == [f"{folder}/test_training-2.safetensors", f"{folder}/test_training.safetensors"]
    before = [(suite.path / name).read_bytes() for name in found]
    run(suite, "--nnbp-device", "cpu").assert_outcomes(passed=2)
    assert [(suite.path / name).read_bytes() for name in found] == before


def test_results_are_properties_and_json(suite: pytest.Pytester) -> None:
    references = "--nnbp-references=kept"
    run(suite, "--nnbp-record", references, "--nnbp-device", "cpu")
    assert len(list((suite.path / "kept").rglob("*.safetensors"))) == 2
    done = suite.runpytest_subprocess(
        "-n", "2", references, "--nnbp-device", "cpu", "--nnbp-report=found.json", "--junitxml=found.xml"
    )
    done.assert_outcomes(passed=2)
    found = json.loads((suite.path / "found.json").read_text(encoding="utf-8"))
    assert [(one["test"], one["reference"], one["passed"]) for one in found] == [
        ("test_suite.py::test_training", name, True) for name in ("test_training", "test_training-2")
    ]
    assert found[0]["devices"] == ["cpu (recorded)", "cpu"]
    assert found[0]["faults"] == []
    properties = ElementTree.parse(suite.path / "found.xml").iter("property")
    assert [item.get("name") for item in properties] == ["nnbp.test_training", "nnbp.test_training-2"]


def test_a_fault_fails_the_test_and_is_named(suite: pytest.Pytester) -> None:
    run(suite, "--nnbp-record", "--nnbp-device", "cpu")
    wrong = "nnbp.Tanh.f = lambda self, z: np.tanh(1.001 * z)\nnnbp.Tanh.df = lambda self, z, a: 1.001 * (1 - a * a)\n"
    (suite.path / "test_suite.py").write_text(SUITE.replace("X, y =", f"{wrong}X, y ="))
    done = run(suite, "--nnbp-device", "cpu", "--nnbp-report=found.json")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(["*first beyond its bound: a1 on cpu,*"])
    (found,) = json.loads((suite.path / "found.json").read_text(encoding="utf-8"))
    assert found["faults"][0] == "a1 on cpu: fault"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("units=6", "units=5", "network"), ("default_rng(0)", "default_rng(1)", "X"), ("% 3", "% 2", "y"),
        (REPORT, f"net = {NETWORK}; net.weights[0][...] = 7; {REPORT.replace(NETWORK, 'net')}", "parameters"),
        ("steps=5", "steps=10", "training"), ('"sgd"', '"adam"', "training"),
        ("X, y, steps=5", "X, y, np.arange(20), steps=5", "sample_weight"),
    ],
)  # fmt: skip
def test_a_reference_of_something_else_is_not_used(suite: pytest.Pytester, old: str, new: str, what: str) -> None:
    run(suite, "--nnbp-record", "--nnbp-device", "cpu")
    (suite.path / "test_suite.py").write_text(SUITE.replace(old, new))
    done = run(suite, "--nnbp-device", "cpu")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines([f"*test_training.safetensors' differ in {what}. If that is intended, record*"])


def test_two_tests_have_two_references(suite: pytest.Pytester) -> None:
    one = "    def test_same(self, nnbp_device, nnbp_reference):\n        nnbp_reference(network(nnbp_device), X, y)\n"
    (suite.path / "test_suite.py").write_text(f"{SUITE}\nclass TestA:\n{one}\nclass TestB:\n{one}")
    run(suite, "--nnbp-record", "--nnbp-device", "cpu").assert_outcomes(passed=4)
    assert len(list(suite.path.rglob("*same*.safetensors"))) == 2
    other = '@pytest.mark.parametrize("name", ["a/b", "a b"])\ndef test_it(name, nnbp_reference):\n    nnbp_reference('
    (suite.path / "test_suite.py").write_text(f"import pytest\n{SUITE}\n{other}network('cpu'), X, y)\n")
    done = run(suite, "--nnbp-record", "--nnbp-device", "cpu", "-k", "test_it")
    done.assert_outcomes(passed=1, failed=1, deselected=2)
    done.stdout.fnmatch_lines(["*have the same reference, test_it-a-b. Rename one."])


def test_without_a_gpu_the_cpu_is_used_or_required_to_be_enough(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nnbp

    if any(device.works for device in nnbp.devices()[1:]):
        pytest.skip("a GPU works here")
    done = run(suite, "--nnbp-device", "cuda", "-k", "device")
    done.assert_outcomes(passed=1, deselected=1)
    done.stdout.fnmatch_lines(["nnbp: device cpu in place of cuda: *"])
    monkeypatch.setenv("NNBP_REQUIRE_GPU", "1")
    done = run(suite, "--nnbp-device", "cuda")
    done.assert_outcomes(errors=2)
    done.stdout.fnmatch_lines(["NNBP_REQUIRE_GPU is set, and *"])
    done = run(suite, "--nnbp-device", "typewriter")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*--nnbp-device: *typewriter*"])


def test_the_page_of_the_documentation_is_a_suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks are files, by the names in their first lines; its commands give what it says."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    text = (Path(__file__).parents[2] / "docs" / "cross-device.md").read_text(encoding="utf-8")
    for block in text.split("```python\n")[1:]:
        code = block.partition("\n```")[0]
        name = code.partition("\n")[0].removeprefix("# ")
        if name.endswith(".py"):
            (pytester.path / name).write_text(code + "\n", encoding="utf-8")
    run(pytester, "--nnbp-record").assert_outcomes(passed=2)
    run(pytester).assert_outcomes(passed=2)
