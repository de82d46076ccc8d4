"""For test suites: comparisons of functions and devices, records, assertions, and example problems."""

from nnbp.testing.assertions import assert_devices_agree, assert_gradients, example_problem, example_targets
from nnbp.testing.comparison import compare
from nnbp.testing.records import compare_with, record

__all__ = [
    "assert_devices_agree",
    "assert_gradients",
    "compare",
    "compare_with",
    "example_problem",
    "example_targets",
    "record",
]
