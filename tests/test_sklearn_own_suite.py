"""scikit-learn's own tests of its multilayer perceptrons, from its wheel, run on nnbp's estimators instead."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import sklearn.neural_network

import nnbp.sklearn

pytestmark = pytest.mark.filterwarnings("ignore")

EXCEPTIONS = {
    "test_gradient": "It calls _loss_grad_lbfgs, a private method; tests of nnbp compare its gradients.",
    "test_lbfgs_classification_maxfun[X1-y1]": (
        "It expects that max_fun=10 is too few for every activation; with the logistic one nnbp's search converges "
        "in 7 evaluations, SciPy's in more than 10."
    ),
}
"""The tests that are left out, and why."""


class _Private:
    """Private attributes that some tests read, from where nnbp has the same numbers."""

    def __getattr__(self, name: str) -> Any:
        if name == "_no_improvement_count":
            return self._trainings[0].since
        if name == "_optimizer":
            return SimpleNamespace(learning_rate=self.learning_rate_init * self._trainings[0].factor)
        raise AttributeError(name)


class MLPClassifier(_Private, nnbp.sklearn.MLPClassifier):  # type: ignore[misc]
    pass


class MLPRegressor(_Private, nnbp.sklearn.MLPRegressor):  # type: ignore[misc]
    pass


def _suite() -> ModuleType:
    """scikit-learn's test module, executed while the two names stand for nnbp's classes."""
    spec = find_spec("sklearn.neural_network.tests.test_mlp")
    assert spec is not None, "scikit-learn's wheel has its tests"
    assert spec.loader is not None, "they are a file"
    suite = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn.neural_network, "MLPClassifier", MLPClassifier)
        patch.setattr(sklearn.neural_network, "MLPRegressor", MLPRegressor)
        spec.loader.exec_module(suite)
    return suite


_TESTS = {name: function for name, function in vars(_suite()).items() if name.startswith("test_")}
globals().update(_TESTS)


@pytest.fixture(autouse=True)
def _left_out(request: pytest.FixtureRequest) -> None:
    if reason := EXCEPTIONS.get(request.node.name):
        pytest.skip(reason)


@pytest.fixture
def global_random_seed() -> int:
    """The default of the fixture in scikit-learn's conftest."""
    return 42


def test_this_is_the_whole_suite_and_runs_on_nnbp() -> None:
    assert len(_TESTS) > 35
    assert {name.partition("[")[0] for name in EXCEPTIONS} <= set(_TESTS)
    names = [_TESTS["test_fit"].__globals__[name] for name in ("MLPClassifier", "MLPRegressor")]
    assert names == [MLPClassifier, MLPRegressor]
