"""For test suites: assertions on gradients and devices, records of what a device computes, and example problems."""

from nnbp.testing.assertions import assert_devices_agree, assert_gradients, example_problem, example_targets
from nnbp.testing.records import compare_with, record

__all__ = [
    "assert_devices_agree",
    "assert_gradients",
    "compare_with",
    "example_problem",
    "example_targets",
    "record",
]
