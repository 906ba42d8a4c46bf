"""The classifier: classes and their encoding, probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d, validate_data

from fuseprop import activations, losses, ops
from fuseprop._checks import unmasked
from fuseprop.sklearn._base import MLP, dense, is_stochastic, store
from fuseprop.sklearn._parameters import documented

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray


@documented(attributes="classes_ : array\n        The classes, sorted.\n    ")
class MLPClassifier(ClassifierMixin, MLP):  # type: ignore[misc]  # scikit-learn has no types
    """A network that classifies: softmax cross-entropy, or the logistic loss for two classes or for labels."""

    __module__ = "fuseprop.sklearn"  # where it is found, in pickles too

    def __init__(
        self,
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
        class_weight: Any = None,
    ) -> None:
        store(self, locals())

    def _loss(self) -> losses.Loss:
        softmax = self.out_activation_ == "softmax"
        return losses.SoftmaxCrossEntropy() if softmax else losses.BinaryCrossEntropyWithLogits()

    def _check_data(
        self, X: Any, y: Any, *, fresh: bool, incremental: bool, classes: NDArray[Any] | None
    ) -> tuple[Any, NDArray[Any], int, str]:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, dtype=(np.float64, np.float32), reset=fresh
        )
        if fresh:
            self._sparse_labels = scipy.sparse.issparse(y)
        y = dense(y)
        check_classification_targets(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if type_of_target(y).startswith("multilabel"):
            self.classes_ = np.arange(y.shape[1])
            return X, y.astype(X.dtype), y.shape[1], "logistic"
        if y.ndim == 2:
            raise ValueError(f"y has shape {y.shape} and several classes in a column; expected (N,), or 0 and 1 alone")
        found = np.unique(y)
        if fresh:
            self.classes_ = found if classes is None else classes
        unknown = np.setdiff1d(found, self.classes_)
        if unknown.size or (self.warm_start and not incremental and found.size != self.classes_.size):
            raise ValueError(f"y has the classes {found.tolist()}; expected those of before, {self.classes_.tolist()}")
        labels = np.searchsorted(self.classes_, y)
        if self.classes_.size > 2:
            return X, labels, self.classes_.size, "softmax"
        return X, labels[:, np.newaxis].astype(X.dtype), 1, "logistic"

    @available_if(is_stochastic)  # type: ignore[untyped-decorator]  # scikit-learn has no types
    def partial_fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, classes: ArrayLike | None = None
    ) -> Any:
        """Go through the data once; return self.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        classes
            All classes that there will be; needed in the first call.
        """
        if self.class_weight == "balanced":
            raise ValueError("class_weight is 'balanced', which needs all samples at once; give partial_fit a dict")
        unmasked(classes, "classes")
        given = None if classes is None else np.unique(np.asarray(classes))
        if not hasattr(self, "classes_"):
            if given is None:
                raise ValueError("classes is None; in the first call of partial_fit all classes are needed")
        elif given is not None and not np.array_equal(given, self.classes_):
            raise ValueError(f"classes is {classes!r}; expected those of the first call, {self.classes_.tolist()}")
        return self._train(X, y, sample_weight, incremental=True, classes=given)

    def _answer(self, scores: FloatArray) -> NDArray[Any]:
        if self.n_outputs_ == 1 and self.classes_.size == 1:  # whatever its score
            return np.zeros(scores.shape, int)
        answer: NDArray[Any] = scores.argmax(axis=1) if self.out_activation_ == "softmax" else (scores > 0).astype(int)
        return answer

    def _quality(self, target: NDArray[Any], scores: FloatArray, weight: NDArray[Any] | None) -> float:
        return float(accuracy_score(target.astype(int), self._answer(scores), sample_weight=weight))

    def predict(self, X: Any) -> Any:
        """Return the classes of X, (N,), or the labels, (N, outputs): a sparse matrix if y was one in the training."""
        answer = self._answer(self._scores(X))
        if self.out_activation_ == "logistic" and self.n_outputs_ > 1:
            return scipy.sparse.csr_matrix(answer) if self._sparse_labels else answer
        classes: NDArray[Any] = self.classes_[answer.reshape(len(answer))]
        return classes

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Return the probabilities of the classes, or the labels, of X, (N, C): 1 of one class alone."""
        scores = self._scores(X)
        if self.classes_.size == 1:
            return np.ones_like(scores)
        if self.out_activation_ == "softmax":
            return ops.softmax(scores)
        sigmoid = activations.Sigmoid()
        return sigmoid(scores) if self.n_outputs_ > 1 else np.hstack([sigmoid(-scores), sigmoid(scores)])

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Return the logarithms of `predict_proba` of X, which do not go through the probabilities."""
        scores = self._scores(X)
        if self.classes_.size == 1:
            return np.zeros_like(scores)
        if self.out_activation_ == "softmax":
            return ops.log_softmax(scores)
        log = activations.LogSigmoid()
        return log(scores) if self.n_outputs_ > 1 else np.hstack([log(-scores), log(scores)])

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Return the share of samples of X whose prediction is y, all of its labels."""
        unmasked(y, "y")
        unmasked(sample_weight, "sample_weight")
        return float(super().score(X, y, sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
