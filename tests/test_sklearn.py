"""The estimators of `nnbp.sklearn`: scikit-learn's checks, its MLPs as the reference, and what nnbp adds."""

from __future__ import annotations

import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network as reference
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import nnbp
import nnbp.sklearn as ours
from nnbp.sklearn import MLPClassifier, MLPRegressor, from_estimator

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

IRIS, SPECIES = load_iris(return_X_y=True)
IRIS = StandardScaler().fit_transform(IRIS)
NAMES = load_iris().target_names[SPECIES]
BINARY = (IRIS, SPECIES == 1)
MULTILABEL = IRIS[:60], make_multilabel_classification(60, random_state=0)[1]
TWO_VALUES = tuple(map(StandardScaler().fit_transform, make_regression(60, 5, n_targets=2, random_state=0)))
VALUES = (TWO_VALUES[0], TWO_VALUES[1][:, 0])
QUICK: dict[str, Any] = {"hidden_layer_sizes": 8, "max_iter": 20, "random_state": 0}


@parametrize_with_checks([MLPClassifier(), MLPRegressor(), MLPClassifier(n_networks=2, max_iter=20)])  # type: ignore[untyped-decorator]
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


# scikit-learn's own estimators are the reference: the same initial parameters, and no order of samples of our own.

TRAININGS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam, epsilon": {"epsilon": 0.1, "beta_1": 0.5, "beta_2": 0.9},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05},
    "sgd, plain": {"solver": "sgd", "learning_rate_init": 0.05, "momentum": 0.0},
    "sgd, heavy ball": {"solver": "sgd", "learning_rate_init": 0.05, "nesterovs_momentum": False},
    "sgd, invscaling": {"solver": "sgd", "learning_rate_init": 0.5, "learning_rate": "invscaling", "power_t": 0.2},
    "sgd, adaptive": {
        "solver": "sgd", "learning_rate_init": 0.02, "learning_rate": "adaptive", "tol": 0.2, "n_iter_no_change": 2,
        "max_iter": 100,
    },
    "alpha": {"alpha": 3.0},
    "logistic": {"activation": "logistic", "hidden_layer_sizes": (7, 5)},
    "early stopping": {"early_stopping": True, "tol": 0.05, "n_iter_no_change": 3, "max_iter": 60},
    "tol": {"tol": 0.03, "n_iter_no_change": 2, "max_iter": 200, "learning_rate_init": 0.05},
}  # fmt: skip
DATA: dict[str, tuple[str, Any]] = {
    "binary": ("MLPClassifier", BINARY), "classes": ("MLPClassifier", (IRIS, NAMES)),
    "multilabel": ("MLPClassifier", MULTILABEL), "values": ("MLPRegressor", VALUES),
    "several values": ("MLPRegressor", TWO_VALUES),
}  # fmt: skip


def assert_same(mine: Any, theirs: Any, X: Any) -> None:
    for a, b in zip([*mine.coefs_, *mine.intercepts_], [*theirs.coefs_, *theirs.intercepts_], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(mine, name) == getattr(theirs, name), name
    np.testing.assert_array_equal(mine.predict(X[:9]).shape, theirs.predict(X[:9]).shape)


@pytest.mark.parametrize("options", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize(("name", "data"), DATA.values(), ids=DATA)
def test_training_is_that_of_scikit_learn(name: str, data: Any, options: dict[str, Any]) -> None:
    """One batch: equal in everything, also in what is recorded; but of several values the loss is the sum."""
    X, y = data
    outputs = y.shape[1] if name == "MLPRegressor" and y.ndim == 2 else 1
    options = {**QUICK, "batch_size": len(X), "tol": 1e-4, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(reference, name)(**options).fit(X, y)
        mine = getattr(ours, name)(**options)
        if not mine.early_stopping:
            mine.tol *= outputs
        mine.fit(X, y)
    assert_same(mine, theirs, X)
    if outputs == 1:
        np.testing.assert_allclose(mine.loss_curve_, theirs.loss_curve_, rtol=1e-7)
        assert mine.best_loss_ == (None if mine.early_stopping else pytest.approx(theirs.best_loss_, rel=1e-7))
    if mine.early_stopping:
        np.testing.assert_allclose(mine.validation_scores_, theirs.validation_scores_, rtol=1e-9)
        assert len(mine.validation_loss_curve_) == mine.n_iter_
    else:
        assert mine.validation_scores_ is None
        assert mine.validation_loss_curve_ is None


@pytest.mark.parametrize(("name", "data"), DATA.values(), ids=DATA)
def test_batches_warm_starts_and_partial_fits_are_those_of_scikit_learn(name: str, data: Any) -> None:
    X, y = data[0][:60], data[1][-60:]
    options = {**QUICK, "batch_size": 20, "shuffle": False, "alpha": 0.5, "tol": 0.0}
    warm, stepped = [], []
    for library in (reference, ours):
        warm.append(getattr(library, name)(warm_start=True, **options).fit(X, y).fit(X, y))
        stepped.append(getattr(library, name)(solver="sgd", learning_rate="invscaling", **options))
        known = {} if name == "MLPRegressor" else {"classes": warm[-1].classes_}
        for rows in (slice(0, 60), slice(0, 40), slice(20, 60)):
            stepped[-1].partial_fit(X[rows], y[rows], **known)
    for theirs, mine in (warm, stepped):
        assert_same(mine, theirs, X)
        assert len(mine.loss_curve_) == len(theirs.loss_curve_)


@pytest.mark.parametrize("name", ["binary", "classes", "values"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_weights_are_those_of_scikit_learn(name: str, solver: str) -> None:
    """Also their sum: alpha is divided by it."""
    name, (X, y) = DATA[name]
    weights = np.random.default_rng(0).uniform(0.0, 5.0, len(X))
    options = {**QUICK, "batch_size": len(X), "alpha": 20.0, "solver": solver, "activation": "tanh", "tol": 1e-7}
    options["max_iter"] = 400 if solver == "lbfgs" else 20
    theirs, mine = (getattr(library, name)(**options).fit(X, y, weights) for library in (reference, ours))
    assert mine.loss_ == pytest.approx(theirs.loss_, rel=1e-6)
    if solver == "adam":
        assert_same(mine, theirs, X)


# What scikit-learn's tools do with an estimator.


@pytest.mark.parametrize("options", [{}, {"solver": "sgd", "n_networks": 2}, {"solver": "lbfgs"}, {"dropout": 0.1}])
def test_a_pickle_predicts_the_same_and_trains_on_like_the_original(options: dict[str, Any]) -> None:
    mlp = MLPClassifier(**QUICK, warm_start=True, **options).fit(IRIS, NAMES)
    copy = pickle.loads(pickle.dumps(mlp))
    np.testing.assert_array_equal(copy.predict_proba(IRIS), mlp.predict_proba(IRIS))
    assert copy.loss_curve_ == mlp.loss_curve_
    for each in (mlp, copy):
        if each.solver != "lbfgs":
            each.partial_fit(IRIS, NAMES).partial_fit(IRIS, NAMES)
        each.fit(IRIS, NAMES)
    np.testing.assert_array_equal(copy.predict_proba(IRIS), mlp.predict_proba(IRIS))


def test_a_pickle_keeps_the_state_of_the_optimizer() -> None:
    mlp = MLPRegressor(**QUICK).partial_fit(*VALUES).partial_fit(*VALUES)
    copy = pickle.loads(pickle.dumps(mlp))
    np.testing.assert_array_equal(copy.partial_fit(*VALUES).coefs_[0], mlp.partial_fit(*VALUES).coefs_[0])


def test_clones_have_equal_arguments_and_no_memory() -> None:
    mlp = MLPClassifier(activation=[nnbp.LeakyReLU(0.1)], solver=nnbp.RMSprop(0.01), **QUICK).fit(IRIS, NAMES)
    copy = clone(mlp)
    assert copy.get_params() == mlp.get_params()
    assert not hasattr(copy, "coefs_")
    np.testing.assert_array_equal(copy.fit(IRIS, NAMES).predict_proba(IRIS), mlp.predict_proba(IRIS))


def test_a_search_over_a_pipeline_in_several_processes() -> None:
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(solver="lbfgs", random_state=0, device="cpu"))
    grid = {"mlpclassifier__alpha": [1e-4, 1e3], "mlpclassifier__hidden_layer_sizes": [4]}
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(IRIS, NAMES)
    assert search.best_params_["mlpclassifier__alpha"] == 1e-4
    assert search.best_score_ > 0.9
    importance = permutation_importance(search, IRIS, NAMES, n_repeats=2, random_state=0)
    assert importance.importances_mean[2:].min() > importance.importances_mean[:2].max()


# What nnbp adds.


def test_validation_loss_curve_of_every_solver() -> None:
    for solver in ("adam", "sgd", "lbfgs", "rmsprop", nnbp.Rprop()):
        mlp = MLPClassifier(solver=solver, early_stopping=True, **QUICK).fit(IRIS, NAMES)
        assert len(mlp.validation_loss_curve_) == len(mlp.validation_scores_) == len(mlp.loss_curve_) == mlp.n_iter_
        assert mlp.best_validation_score_ == max(mlp.validation_scores_)
        assert np.isfinite(mlp.validation_loss_curve_).all()


def test_early_stopping_leaves_the_parameters_with_the_best_score() -> None:
    X, y = load_diabetes(return_X_y=True)
    mlp = MLPRegressor(
        early_stopping=True, learning_rate_init=1.0, random_state=0, max_iter=30, n_iter_no_change=60
    ).fit(X, y)
    # The samples that are set aside are the ones that scikit-learn's random state draws, after the initial parameters.
    rng = np.random.RandomState(0)
    for n_in, n_out in ((10, 100), (100, 1)):
        rng.uniform(size=(n_in + 1) * n_out)
    _, held_out = train_test_split(np.arange(len(X)), test_size=0.1, random_state=rng)
    assert mlp.score(X[held_out], y[held_out]) == pytest.approx(mlp.best_validation_score_, rel=1e-9)
    assert mlp.validation_scores_[-1] < mlp.best_validation_score_


def test_dropout_drops_in_training_alone() -> None:
    base = {**QUICK, "hidden_layer_sizes": (20, 10)}
    plain, one, two = (MLPClassifier(dropout=p, **base).fit(IRIS, NAMES) for p in (0.0, 0.5, (0.5, 0.0)))
    assert [type(layer).__name__ for layer in two.networks_[0].layers] == ["Dense", "Dropout", "Dense", "Dense"]
    assert [type(layer).__name__ for layer in one.networks_[0].layers].count("Dropout") == 2
    assert not np.allclose(plain.coefs_[0], one.coefs_[0])
    np.testing.assert_array_equal(one.predict_proba(IRIS), one.predict_proba(IRIS))
    with pytest.raises(ValueError, match="one for each; there are 2 hidden layers, received 3"):
        MLPClassifier(dropout=(0.1, 0.1, 0.1), **base).fit(IRIS, NAMES)


def test_class_weights_by_label_are_sample_weights() -> None:
    weights = {"setosa": 1.0, "versicolor": 5.0, "virginica": 0.5}
    by_class = MLPClassifier(class_weight=weights, **QUICK).fit(IRIS, NAMES)
    by_sample = MLPClassifier(**QUICK).fit(IRIS, NAMES, sample_weight=[weights[name] for name in NAMES])
    np.testing.assert_array_equal(by_class.coefs_[0], by_sample.coefs_[0])
    MLPClassifier(class_weight=weights, **QUICK).partial_fit(IRIS[50:100], NAMES[50:100], classes=list(weights))
    with pytest.raises(ValueError, match="partial_fit sees a part"):
        MLPClassifier(class_weight="balanced").partial_fit(IRIS, NAMES, classes=list(weights))


def test_activations_losses_and_schedules_of_nnbp() -> None:
    mlp = MLPRegressor(
        loss=nnbp.Quantile(0.9), hidden_layer_sizes=(8, 4), activation=["gelu", nnbp.ELU()], solver=nnbp.AdamW(0.02),
        schedule="cosine", max_iter=300, tol=0.0, random_state=0,
    ).fit(*VALUES)  # fmt: skip
    assert [layer.f.name for layer in mlp.networks_[0].layers] == ["gelu", "elu", "identity"]
    below = np.mean(VALUES[1] <= mlp.predict(VALUES[0]) + 1e-3)
    assert 0.8 < below <= 1.0
    poisson = MLPRegressor(loss="poisson", solver="lbfgs", random_state=0).fit(VALUES[0], np.exp(VALUES[1]))
    assert poisson.out_activation_ == "exp"
    assert poisson.score(VALUES[0], np.exp(VALUES[1])) > 0.9


def test_callbacks_see_every_epoch_and_may_end_training() -> None:
    seen = []

    def callback(state: nnbp.TrainingState) -> None:
        seen.append(state.logs["loss"])
        if state.epoch == 3:
            state.stop = "enough"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mlp = MLPClassifier(callbacks=[callback], random_state=0).fit(IRIS, NAMES)
    assert mlp.n_iter_ == 3
    assert seen == mlp.loss_curve_


def test_an_ensemble_predicts_the_mean_of_networks_of_different_seeds() -> None:
    mlp = MLPClassifier(n_networks=3, **QUICK).fit(IRIS, NAMES)
    parts = [net.predict_proba(IRIS) for net in mlp.networks_]
    np.testing.assert_allclose(mlp.predict_proba(IRIS), np.mean(parts, axis=0), rtol=1e-12)
    assert len({part.tobytes() for part in parts}) == 3
    # The first network is that of no ensemble, but for the order of its samples.
    alone = MLPClassifier(**QUICK, batch_size=150).fit(IRIS, NAMES)
    first = MLPClassifier(n_networks=3, batch_size=150, **QUICK).fit(IRIS, NAMES)
    np.testing.assert_array_equal(first.coefs_[0], alone.coefs_[0])
    values = MLPRegressor(n_networks=2, solver="lbfgs", early_stopping=True, **QUICK).fit(*VALUES)
    assert values.predict(VALUES[0]).shape == (60,)


def test_frames_of_every_library_and_their_names() -> None:
    pandas, polars, pyarrow = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
    names = ["a", "b", "c", "d"]
    frame = pandas.DataFrame(IRIS, columns=names)
    expected = MLPClassifier(**QUICK).fit(IRIS, NAMES).predict_proba(IRIS)
    for X in (frame, polars.DataFrame(IRIS, schema=names), pyarrow.table(frame)):
        mlp = MLPClassifier(**QUICK).fit(X, NAMES)
        np.testing.assert_array_equal(mlp.predict_proba(X), expected)
        assert mlp.feature_names_in_.tolist() == names
        with pytest.raises(ValueError, match="feature names should match"):
            mlp.predict(frame[names[::-1]])


@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.csc_matrix, scipy.sparse.coo_array])
def test_sparse_matrices_are_as_dense_ones(kind: Any) -> None:
    X = np.where(IRIS > 0, IRIS, 0.0)
    dense = MLPClassifier(early_stopping=True, **QUICK).fit(X, NAMES)
    sparse = MLPClassifier(early_stopping=True, **QUICK).fit(kind(X), NAMES)
    np.testing.assert_array_equal(sparse.predict_proba(kind(X)), dense.predict_proba(X))


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"n_networks": 2}])
def test_a_large_sparse_matrix_is_never_dense_as_a_whole(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    m, n = 1500, 5000
    X = scipy.sparse.random_array((m, n), density=1e-3, random_state=np.random.default_rng(0), format="csr")
    y = X.sum(axis=1) > 2.5
    mlp = MLPClassifier(4, max_iter=2, random_state=0, device="cpu", **options)
    expected = clone(mlp).fit(X.toarray(), y).predict_proba(X.toarray())
    toarray, largest = scipy.sparse.csr_array.toarray, []

    def watched(matrix: Any, *args: Any, **kwargs: Any) -> Any:
        largest.append(math.prod(matrix.shape))
        return toarray(matrix, *args, **kwargs)

    monkeypatch.setattr(scipy.sparse.csr_array, "toarray", watched)
    np.testing.assert_array_equal(mlp.fit(X, y).predict_proba(X), expected)
    mlp.set_params(early_stopping=False).partial_fit(X, y)
    assert 0 < max(largest) < m * n


def test_parameters_may_be_assigned_and_changed_in_place() -> None:
    mlp = MLPRegressor(**QUICK, device="cpu").fit(*VALUES)
    before = mlp.predict(VALUES[0])
    mlp.coefs_ = [W * 0 for W in mlp.coefs_]
    np.testing.assert_allclose(mlp.predict(VALUES[0]), mlp.intercepts_[-1][0])
    mlp.intercepts_[-1][...] = 7.0
    np.testing.assert_allclose(pickle.loads(pickle.dumps(mlp)).predict(VALUES[0]), 7.0)
    assert not np.allclose(before, 7.0)


@pytest.mark.parametrize("library", [reference, ours])
@pytest.mark.parametrize(("name", "data"), DATA.values(), ids=DATA)
def test_a_network_of_an_estimator_predicts_the_same(library: Any, name: str, data: Any) -> None:
    X, y = data
    mlp = getattr(library, name)(activation="tanh", **QUICK).fit(X, y)
    net = from_estimator(mlp, device="cpu", weight_decay=0.1)
    expected = mlp.predict_proba(X) if name == "MLPClassifier" else mlp.predict(X)
    got = net.predict_proba(X) if name == "MLPClassifier" else net.predict(X)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    assert net.weight_decay == 0.1
    with pytest.raises(NotFittedError):
        from_estimator(getattr(library, name)())


# What goes wrong.


def test_a_training_that_diverges_is_an_error_and_leaves_finite_parameters() -> None:
    mlp = MLPRegressor(solver="sgd", learning_rate_init=1e6, random_state=0)
    with pytest.raises(nnbp.DataError, match=r"non-finite parameter weights.*Training diverged: epoch"):
        mlp.fit(*VALUES)
    assert all(np.isfinite(W).all() for W in mlp.coefs_)


def test_too_few_epochs_are_one_warning_of_scikit_learn() -> None:
    for solver, message in (("adam", "Maximum iterations"), ("lbfgs", "failed to converge after 3 iterations")):
        with pytest.warns(ConvergenceWarning, match=message) as caught:
            MLPClassifier(solver=solver, max_iter=3, n_networks=2).fit(IRIS, NAMES)
        assert len(caught) == 1
        assert caught[0].filename == __file__


def test_ctrl_c_ends_the_training_and_keeps_what_there_is() -> None:
    def interrupt(state: nnbp.TrainingState) -> None:
        if state.epoch == 2:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted by user"):
        mlp = MLPClassifier(callbacks=[interrupt], random_state=0).fit(IRIS, NAMES)
    assert mlp.predict(IRIS).shape == (150,)


def test_the_solver_and_early_stopping_may_change_between_warm_starts() -> None:
    mlp = MLPClassifier(warm_start=True, early_stopping=True, **QUICK).fit(IRIS, NAMES)
    for options in ({"solver": "lbfgs"}, {"early_stopping": False}, {"solver": "sgd"}, {"early_stopping": True}):
        before = mlp.set_params(**options).coefs_[0].copy()
        mlp.fit(IRIS, NAMES)
        assert not np.array_equal(mlp.coefs_[0], before)
        assert (mlp.best_loss_ is None) == mlp.early_stopping
    assert mlp.set_params(early_stopping=False).partial_fit(IRIS, NAMES).n_iter_ == 1


class OnDevice:
    """What all arrays of a GPU have in common; NumPy cannot take it for one of its own."""

    __cuda_array_interface__: Any = {}  # noqa: RUF012
    downloads = 0

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, key: Any) -> OnDevice:
        return OnDevice(self.array[key])

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def get(self) -> Any:
        OnDevice.downloads += 1
        return self.array


@pytest.mark.parametrize("early_stopping", [False, True])
def test_arrays_of_a_device_reach_the_network_as_they_are(early_stopping: bool) -> None:
    """A network on the CPU downloads them; the estimator itself does not."""
    mlp = MLPClassifier(early_stopping=early_stopping, device="cpu", **QUICK)
    expected = mlp.fit(IRIS, NAMES).predict_proba(IRIS)
    X: Any = OnDevice(IRIS)
    mlp.fit(X, NAMES)
    OnDevice.downloads = 0
    np.testing.assert_array_equal(mlp.predict_proba(X), expected)
    assert OnDevice.downloads == 1
    assert mlp.n_features_in_ == 4
    with pytest.raises(ValueError, match="3 features"):
        mlp.predict(X[:, :3])


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"solver": "lbfgs"}, {"n_networks": 2}])
def test_arrays_of_cupy_come_back_as_such(options: dict[str, Any]) -> None:
    cupy = pytest.importorskip("cupy")
    X = cupy.asarray(IRIS)
    mlp = MLPClassifier(device="cuda", **QUICK, **options).fit(X, NAMES)
    assert isinstance(mlp.predict_proba(X), cupy.ndarray)
    on_cpu = MLPClassifier(device="cpu", **QUICK, **options).fit(IRIS, NAMES)
    np.testing.assert_allclose(mlp.predict_proba(X).get(), on_cpu.predict_proba(IRIS), atol=1e-3)
    assert mlp.predict(X).tolist() == mlp.predict(IRIS).tolist()
    values = MLPRegressor(device="cuda", **QUICK, **options).fit(cupy.asarray(VALUES[0]), cupy.asarray(VALUES[1]))
    assert isinstance(values.predict(cupy.asarray(VALUES[0])), cupy.ndarray)
    assert pickle.loads(pickle.dumps(values)).coefs_[0].shape == (5, 8)
    with pytest.raises(ValueError, match="read-only"):
        values.coefs_[0][...] = 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_layer_sizes": (5, 0)}, "must be > 0"),
        ({"activation": "rulu"}, "did you mean 'relu'"),
        ({"activation": ["relu", "relu"]}, "one for each; there are 1 hidden layers, received 2"),
        ({"solver": "adamax"}, "Unknown optimizer"),
        ({"loss": "huber"}, "for classes; received huber"),
        ({"alpha": -1.0}, "'alpha' parameter"),
        ({"n_networks": 0}, "'n_networks' parameter"),
        ({"dropout": 1.5}, "Dropout"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLPClassifier(**options).fit(IRIS, NAMES)


def test_verbose_prints_what_scikit_learn_prints(capsys: pytest.CaptureFixture[str]) -> None:
    options = {**QUICK, "verbose": True, "solver": "sgd", "learning_rate": "adaptive", "tol": 10.0, "batch_size": 135}
    printed = []
    for library in (reference, ours):
        library.MLPClassifier(early_stopping=True, n_iter_no_change=2, **options).fit(IRIS, NAMES)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "Setting learning rate to 0.000200" in printed[1]


def test_a_callback_that_takes_gradients_does_not_disturb_lbfgs() -> None:
    def look(state: nnbp.TrainingState) -> None:
        state.network.gradients(IRIS[:3], np.eye(3)[[2, 2, 2]])

    options = {**QUICK, "solver": "lbfgs", "activation": "tanh"}
    disturbed, alone = (MLPClassifier(callbacks=each, **options).fit(IRIS, NAMES) for each in ([look], []))
    np.testing.assert_array_equal(disturbed.coefs_[0], alone.coefs_[0])
