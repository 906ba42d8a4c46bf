"""What the estimators share: checks of the data, the network, training by passes over the data or by L-BFGS."""

from __future__ import annotations

import operator
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, compute_sample_weight, shuffle
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fuseprop import activations, losses, nn, optim
from fuseprop._checks import training_weights, unmasked
from fuseprop.sklearn._objective import as_reported, penalized
from fuseprop.sklearn._parameters import check_parameters, layer_sizes

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray

_ROWS = 4096  # of a sparse matrix that are dense at once


class Views(list["FloatArray"]):
    """Views into a network; an array that is assigned to one of them is copied into it."""

    def __setitem__(self, index: Any, value: Any) -> None:
        view, array = self[operator.index(index)], np.asarray(value)
        if array.shape != view.shape:
            raise ValueError(f"the array for [{index}] has shape {array.shape}; expected {view.shape}")
        view[...] = array


def dense(x: Any) -> Any:
    return x.toarray() if scipy.sparse.issparse(x) else x


def is_stochastic(estimator: Any) -> bool:
    if estimator.solver == "lbfgs":
        raise AttributeError("partial_fit takes one step after another: of the solvers, 'lbfgs' cannot")
    return True


def store(estimator: Any, arguments: dict[str, Any]) -> None:
    """Keep the constructor's arguments as they are: scikit-learn's convention."""
    for name, value in arguments.items():
        if name not in ("self", "__class__"):
            setattr(estimator, name, value)


class MLP(BaseEstimator):  # type: ignore[misc]  # scikit-learn is not typed
    """What the classifier and the regressor share."""

    # --- what depends on the kind -------------------------------------------------------------------------------

    def _check_data(
        self, X: Any, y: Any, *, fresh: bool, incremental: bool, classes: NDArray[Any] | None
    ) -> tuple[Any, NDArray[Any], int, str]:
        """Return X, the targets as the loss takes them, the number of outputs and `out_activation_`."""
        raise NotImplementedError

    def _loss(self) -> losses.Loss:
        raise NotImplementedError

    def _answer(self, scores: FloatArray) -> NDArray[Any]:
        """Return predictions, as encoded as the targets, for the outputs of the network."""
        raise NotImplementedError

    def _quality(self, target: NDArray[Any], scores: FloatArray, weight: NDArray[Any] | None) -> float:
        """Return the validation score, the higher the better, for finite outputs of the network."""
        raise NotImplementedError

    # --- the network --------------------------------------------------------------------------------------------

    @property
    def coefs_(self) -> list[FloatArray]:
        """The weights of the layers, (in, out) each: views into `model_`."""
        return self._parameters("weight")

    @property
    def intercepts_(self) -> list[FloatArray]:
        """The biases of the layers: views into `model_`."""
        return self._parameters("bias")

    def _parameters(self, name: str) -> list[FloatArray]:
        if "model_" not in self.__dict__:
            raise AttributeError(f"this {type(self).__name__} is not fitted yet")
        return Views(array for key, array in self.model_.parameters().items() if key.endswith(name))

    def _initialize(self, features: int, outputs: int, out_activation: str, dtype: np.dtype[Any]) -> None:
        """Make the network, with Glorot's bound for weights and biases, drawn as scikit-learn draws them."""
        sizes = [features, *layer_sizes(self.hidden_layer_sizes), outputs]
        pairs = list(pairwise(sizes))
        layers = [nn.Dense(m, n, self.activation) for m, n in pairs[:-1]] + [nn.Dense(*pairs[-1])]
        self.model_ = nn.Sequential(layers, rng=0, dtype=dtype)
        hidden = layers[0].activation if len(layers) > 1 else None
        factor = 2.0 if isinstance(hidden, activations.Sigmoid) else 6.0
        for coef, intercept in zip(self.coefs_, self.intercepts_, strict=True):
            bound = np.sqrt(factor / sum(coef.shape))
            coef[...] = self._random_state.uniform(-bound, bound, coef.shape)
            intercept[...] = self._random_state.uniform(-bound, bound, intercept.shape)
        self.n_layers_, self.n_outputs_, self.out_activation_ = len(sizes), outputs, out_activation
        self.n_iter_ = self.t_ = 0
        for name in ("_optimizer", "loss_curve_", "validation_scores_", "best_validation_score_", "best_loss_"):
            self.__dict__.pop(name, None)

    def _begin_record(self) -> None:
        """Make what is missing of the attributes in which SGD and Adam record a training.

        In a new network that is all of them; in one that is there already, what another solver did not record, or
        early stopping.
        """
        if not hasattr(self, "loss_curve_"):
            self.loss_curve_: list[float] = []
            self._no_improvement = 0
        if self.early_stopping and getattr(self, "validation_scores_", None) is None:
            self.validation_scores_: list[float] | None = []
            self.best_validation_score_: float | None = -np.inf
            self.best_loss_: float | None = None
            self._no_improvement = 0
        elif not self.early_stopping and getattr(self, "best_loss_", None) is None:
            self.validation_scores_ = self.best_validation_score_ = None
            self.best_loss_ = np.inf
            self._no_improvement = 0

    def _scores(self, X: Any, check: bool = True) -> FloatArray:
        """Return the outputs of the network, before the output's activation."""
        if check:
            check_is_fitted(self, "model_")
            unmasked(X, "X")
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        if not scipy.sparse.issparse(X):
            return self.model_.predict(X)
        rows = X.tocsr()
        parts = [self.model_.predict(rows[i : i + _ROWS].toarray()) for i in range(0, rows.shape[0], _ROWS)]
        scores: Any = np.concatenate(parts)
        return scores  # type: ignore[no-any-return]  # from Any of SciPy

    # --- training -----------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Any:
        """Train the network, from new initial values unless `warm_start` is set; return self.

        Parameters
        ----------
        X
            (N, features), an array or a sparse matrix.
        y
            (N,) or (N, outputs): numbers for the regressor; classes, or a matrix of 0 and 1 with a column for each
            label, for the classifier.
        sample_weight
            (N,), or None.
        """
        return self._train(X, y, sample_weight, incremental=False)

    def _train(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        *,
        incremental: bool,
        classes: NDArray[Any] | None = None,
    ) -> Any:
        before = self.__dict__.copy()
        try:
            data, validation = self._prepare(X, y, sample_weight, incremental=incremental, classes=classes)
        except BaseException:  # so that nothing of the new data stands beside the old network
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        if self.solver == "lbfgs":
            self._minimize(*data)
        else:
            self._descend(*data, validation=validation, incremental=incremental)
        if not np.isfinite(self.model_.flat_parameters).all():
            raise ValueError("training ended with parameters that are not finite; scale X, or lower learning_rate_init")
        return self

    def _prepare(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        *,
        incremental: bool,
        classes: NDArray[Any] | None,
    ) -> tuple[tuple[Any, NDArray[Any], NDArray[Any] | None, Any], tuple[Any, Any, Any] | None]:
        """Check everything and make what is not there yet.

        Return X, targets, weights and the function to minimize; and X, targets and weights for early stopping, or None.
        """
        for value, name in ((X, "X"), (y, "y"), (sample_weight, "sample_weight")):
            unmasked(value, name)
        check_parameters(self)
        if self.early_stopping and incremental:
            raise ValueError("partial_fit cannot stop early: early_stopping is True; expected False")
        fresh = not hasattr(self, "model_") or not (self.warm_start or incremental)
        X, target, outputs, out_activation = self._check_data(
            X, y, fresh=fresh, incremental=incremental, classes=classes
        )
        weight = self._weights(X, y, sample_weight)
        self._random_state = check_random_state(self.random_state)
        if fresh:
            self._initialize(X.shape[1], outputs, out_activation, X.dtype)
        elif (outputs, out_activation) != (self.n_outputs_, self.out_activation_):
            raise ValueError(
                f"y, with the loss, needs a network with {outputs} outputs and out_activation_ {out_activation!r}; "
                f"expected what the fitted one has, {self.n_outputs_} and {self.out_activation_!r}"
            )
        loss = self._loss()
        if not loss.spec.over_classes:
            whole = target[:, 0] if outputs == 1 else target
            try:  # here rather than in some batch, which is shuffled
                loss(np.zeros_like(whole), whole)
            except ValueError as error:
                raise ValueError(f"y does not fit the loss: {error}") from None
        function = as_reported(loss, outputs, line_search=self.solver == "lbfgs")
        if self.solver == "lbfgs":
            return (dense(X), target, weight, function), None
        self._begin_record()
        self._optimizer = self._make_optimizer(self.__dict__.get("_optimizer") if incremental else None)
        if not self.early_stopping:
            return (X, target, weight, function), None
        X, target, weight, validation = self._split(X, target, weight)
        return (X, target, weight, function), validation

    def _weights(self, X: Any, y: Any, sample_weight: ArrayLike | None) -> NDArray[Any] | None:
        """Return the samples' weights, those of their classes included."""
        weight: NDArray[Any] | None = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, X, dtype=X.dtype)
            training_weights(weight, "sample_weight")
            if not weight.any():
                raise ValueError("sample_weight has only zeros; expected at least one number > 0")
        class_weight = getattr(self, "class_weight", None)
        if class_weight is not None:
            by_class = compute_sample_weight(class_weight, y).astype(X.dtype)
            weight = by_class if weight is None else weight * by_class
            if not weight.any():
                raise ValueError(f"class_weight is {class_weight!r}, with which all samples weigh 0")
        return weight

    def _minimize(self, X: Any, target: NDArray[Any], weight: NDArray[Any] | None, function: Any) -> None:
        """L-BFGS over the flat buffer."""
        model = self.model_
        objective = penalized(function, model, X, target, weight, alpha=self.alpha)
        options = {"maxiter": self.max_iter, "maxfun": self.max_fun, "gtol": self.tol}
        start = model.flat_parameters.astype(np.float64)
        found = scipy.optimize.minimize(objective, start, method="L-BFGS-B", jac=True, options=options)
        model.flat_parameters[...] = found.x
        self.loss_, self.n_iter_ = float(found.fun), min(int(found.nit), self.max_iter)
        if found.status != 0:
            warnings.warn(
                f"lbfgs failed to converge after {found.nit} iterations: {found.message}. Increase max_iter, max_fun, "
                "or scale the data",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _make_optimizer(self, saved: optim.Optimizer | dict[str, Any] | None) -> optim.Optimizer:
        """Return an optimizer: the saved one, or one with the saved state, if that is of this kind."""
        kind: type[optim.SGD | optim.Adam] = optim.SGD if self.solver == "sgd" else optim.Adam
        options: dict[str, Any] = {"betas": (self.beta_1, self.beta_2), "eps": self.epsilon}
        if kind is optim.SGD:
            nesterov = bool(self.nesterovs_momentum and self.momentum > 0)
            options = {"momentum": self.momentum, "nesterov": nesterov}
        if saved is not None:
            if isinstance(saved, optim.Optimizer):
                found, has = type(saved).__name__, saved._parameters
            else:
                found, has = saved["optimizer"], saved["options"]
            if found != kind.__name__ or any(has[name] != value for name, value in options.items()):
                saved = None
        if isinstance(saved, optim.Optimizer):
            return saved
        groups: list[dict[str, Any]] = [{"params": self.coefs_}, {"params": self.intercepts_, "weight_decay": 0.0}]
        optimizer = kind(groups, lr=self.learning_rate_init, **options)
        if saved is not None:  # of a copy, or from a file
            optimizer.load_state_dict(saved)
        return optimizer

    def _descend(
        self,
        X: Any,
        target: NDArray[Any],
        weight: NDArray[Any] | None,
        function: Any,
        *,
        validation: tuple[Any, Any, Any] | None,
        incremental: bool,
    ) -> None:
        """SGD or Adam on mini-batches."""
        model, optimizer = self.model_, self._optimizer
        X = X.tocsr() if scipy.sparse.issparse(X) else X
        n = X.shape[0]
        batch_size = min(200, n) if self.batch_size == "auto" else self.batch_size
        if batch_size > n:
            warnings.warn(f"batch_size is {batch_size}, more than the {n} samples: it is set to {n}", stacklevel=4)
            batch_size = n
        order = np.arange(n)
        best, begin = model.flat_parameters.copy(), len(self.validation_scores_ or ())
        interrupted = False
        self.n_iter_ = 0
        try:
            for _ in range(1 if incremental else self.max_iter):
                if self.shuffle:
                    order = shuffle(order, random_state=self._random_state)
                self.loss_ = self._pass(X, target, weight, function, order=order, batch_size=batch_size)
                self.n_iter_ += 1
                self.t_ += n
                self.loss_curve_.append(self.loss_)
                if self.verbose:
                    print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
                if self._has_improved(validation):
                    best[...] = model.flat_parameters
                if self.solver == "sgd" and self.learning_rate == "invscaling":
                    optimizer.lr = self.learning_rate_init / (self.t_ + 1) ** self.power_t
                if self._no_improvement > self.n_iter_no_change:
                    if self.solver != "sgd" or self.learning_rate != "adaptive" or optimizer.lr <= 1e-6:
                        break
                    optimizer.lr /= 5.0
                    self._no_improvement = 0
                if not incremental and self.n_iter_ == self.max_iter:
                    warnings.warn(
                        f"training has not converged within max_iter = {self.max_iter} passes over the data",
                        ConvergenceWarning,
                        stacklevel=4,
                    )
        except KeyboardInterrupt:
            interrupted = True
        scored = bool(self.validation_scores_ and np.isfinite(self.validation_scores_[begin:]).any())
        if scored:
            model.flat_parameters[...] = best
        if interrupted:
            which = "best validation score" if scored else "last step"
            warnings.warn(f"training was interrupted; the network is that of the {which}", stacklevel=4)

    def _pass(
        self,
        X: Any,
        target: NDArray[Any],
        weight: NDArray[Any] | None,
        function: Any,
        *,
        order: NDArray[np.intp],
        batch_size: int,
    ) -> float:
        """Go through the data once, with one step for each batch; return the mean loss, penalty included."""
        optimizer, coefs = self._optimizer, self.coefs_
        total = 0.0
        for begin in range(0, len(order), batch_size):
            rows = order[begin : begin + batch_size]
            wb = None if weight is None else weight[rows]
            count = float(len(rows)) if wb is None else float(wb.sum())
            decay = self.alpha / count if count else 0.0
            optimizer.groups[0].weight_decay = decay
            penalty = 0.5 * decay * sum(float(np.vdot(coef, coef)) for coef in coefs)
            value = self.model_.train_step(dense(X[rows]), target[rows], function, optimizer, wb)
            total += len(rows) * (value + penalty)
        return total / len(order)

    def _split(self, X: Any, target: NDArray[Any], weight: NDArray[Any] | None) -> tuple[Any, Any, Any, Any]:
        """Set samples aside for validation."""
        arrays = (X, target) if weight is None else (X, target, weight)
        stratify = target if is_classifier(self) and self.n_outputs_ == 1 else None
        parts = train_test_split(
            *arrays, random_state=self._random_state, test_size=self.validation_fraction, stratify=stratify
        )
        training, aside = parts[::2], parts[1::2]
        if aside[0].shape[0] < 2:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction:g}, which of {X.shape[0]} samples is less than 2; "
                "expected a larger share, or more samples"
            )
        none = () if weight is not None else (None,)
        return (*training, *none, (*aside, *none))

    def _has_improved(self, validation: Any) -> bool:
        """Count the epochs without improvement by `tol`; return whether the validation score is the best so far."""
        if validation is None:
            assert self.best_loss_ is not None
            finite = np.isfinite(self.loss_)
            better = finite and self.loss_ <= self.best_loss_ - self.tol
            self._no_improvement = 0 if better else self._no_improvement + 1
            if finite:
                self.best_loss_ = min(self.best_loss_, self.loss_)
            return False
        X, target, weight = validation
        scores = self._scores(X, check=False)
        score = self._quality(target, scores, weight) if np.isfinite(scores).all() else np.nan
        assert self.validation_scores_ is not None
        assert self.best_validation_score_ is not None
        self.validation_scores_.append(score)
        if self.verbose:
            print(f"Validation score: {score:.6f}")
        finite = np.isfinite(score)
        better = finite and score >= self.best_validation_score_ + self.tol
        self._no_improvement = 0 if better else self._no_improvement + 1
        if not (finite and score > self.best_validation_score_):
            return False
        self.best_validation_score_ = score
        return True

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if isinstance(state.get("_optimizer"), optim.Optimizer):  # its arrays are the network's own
            state["_optimizer"] = state["_optimizer"].state_dict()
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
