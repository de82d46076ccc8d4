"""scikit-learn's MLPClassifier; it draws batches and initial weights itself."""

from __future__ import annotations

import warnings
from typing import Any

from numpy.typing import NDArray

from ..peer import Peer


class SklearnMlp(Peer):
    """MLPClassifier without momentum, weight decay or early end."""

    label = "scikit-learn"
    modules = ("sklearn",)
    distributions = ("scikit-learn", "scipy")
    own_order = True

    def reset(self) -> None:
        """`fit` always begins anew."""

    def fit(self, epochs: int) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        case = self.case
        self.net = MLPClassifier(
            case.sizes[1:-1],
            activation=case.activation,
            solver=case.optimizer,
            alpha=0.0,
            batch_size=case.batch,
            learning_rate_init=case.rate,
            max_iter=epochs,
            n_iter_no_change=epochs + 1,
            momentum=0.0,
            nesterovs_momentum=False,
            random_state=self.problem.seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.net.fit(self.problem.X, self.problem.y)

    def loss(self) -> float:
        from sklearn.metrics import log_loss

        return float(log_loss(self.problem.y, self.net.predict_proba(self.problem.X), labels=self.net.classes_))

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self.net.predict(X)
        return found
