"""The regressor: its losses, means of their logarithms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import column_or_1d, validate_data

from fuseprop import losses, ops
from fuseprop._checks import unmasked
from fuseprop.sklearn._base import MLP, is_stochastic, store
from fuseprop.sklearn._objective import is_scored_by_r2, regression_loss
from fuseprop.sklearn._parameters import documented

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray


@documented()
class MLPRegressor(RegressorMixin, MLP):  # type: ignore[misc]  # scikit-learn has no types
    """A network that predicts numbers."""

    __module__ = "fuseprop.sklearn"  # where it is found, in pickles too

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
    ) -> None:
        store(self, locals())

    def _loss(self) -> losses.Loss:
        return regression_loss(self.loss)

    def _check_data(
        self, X: Any, y: Any, *, fresh: bool, incremental: bool, classes: NDArray[Any] | None
    ) -> tuple[Any, NDArray[Any], int, str]:
        del incremental, classes
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=True,
            dtype=(np.float64, np.float32),
            reset=fresh,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        target = y.reshape(len(y), -1).astype(X.dtype)
        return X, target, target.shape[1], "exp" if self._loss().spec.link == "log" else "identity"

    @available_if(is_stochastic)  # type: ignore[untyped-decorator]  # scikit-learn has no types
    def partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Any:
        """Go through the data once; return self.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        """
        return self._train(X, y, sample_weight, incremental=True)

    def _answer(self, scores: FloatArray) -> NDArray[Any]:
        return ops.exp(scores) if self.out_activation_ == "exp" else scores

    def _quality(self, target: NDArray[Any], scores: FloatArray, weight: NDArray[Any] | None) -> float:
        loss = self._loss()
        if not is_scored_by_r2(loss):
            return -float(loss(scores, target, weight))
        answer = self._answer(scores)
        return float(r2_score(target, answer, sample_weight=weight)) if np.isfinite(answer).all() else np.nan

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the predictions for X, (N,) or (N, outputs)."""
        answer = self._answer(self._scores(X))
        return answer[:, 0] if answer.shape[1] == 1 else answer

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Return the R^2 of the predictions for X, whatever the loss."""
        unmasked(y, "y")
        unmasked(sample_weight, "sample_weight")
        return float(super().score(X, y, sample_weight))
