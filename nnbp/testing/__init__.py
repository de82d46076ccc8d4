"""For test suites: assertions on gradients and devices, and example problems."""

from nnbp.testing.assertions import assert_devices_agree, assert_gradients, example_problem, example_targets

__all__ = ["assert_devices_agree", "assert_gradients", "example_problem", "example_targets"]
