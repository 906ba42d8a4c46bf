"""The estimators."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import scipy.optimize
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from scipy.special import xlogy
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, compute_sample_weight, shuffle
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from fuseprop import activations, losses, nn, ops, optim
from fuseprop._checks import choice, flag, integer, real, training_weights, unmasked

_Class = TypeVar("_Class", bound=type[Any])

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray

_ROWS = 4096  # of a sparse matrix that are dense at once
_LOSSES = {"squared_error": "half_squared_error"}  # scikit-learn's names where they mean something else here


class _OverOutputs:
    """A loss of several outputs, as scikit-learn reports it: a mean over the samples, and a sum over the outputs.

    Where `mean_value` says so, the value is a mean over the outputs too: of everything but deviances and labels. Its
    gradient is `mean_gradient`'s to choose: that of the value for a line search, which compares the two; that of the
    sum, the number of outputs times as long, for the steps that scikit-learn takes in SGD and Adam.
    """

    def __init__(self, loss: losses.Loss, *, mean_value: bool, mean_gradient: bool) -> None:
        self.loss, self.mean_value, self.mean_gradient = loss, mean_value, mean_gradient

    def __call__(
        self, pred: FloatArray, target: NDArray[Any], weight: NDArray[Any] | None = None
    ) -> tuple[float, FloatArray]:
        rows = float(len(pred)) if weight is None else float(weight.sum(dtype=np.float64))
        value, gradient = self.loss.value_and_grad(pred, target, weight, "sum")
        if rows == 0:
            return 0.0, gradient
        over_outputs = rows * pred.shape[1]
        gradient /= over_outputs if self.mean_gradient else rows
        total = float(value)
        if isinstance(self.loss, losses.Poisson):  # the half deviance, without its terms in y alone
            terms = xlogy(target, target) - target
            total += float(np.sum(terms if weight is None else terms * weight[:, np.newaxis]))
        return total / (over_outputs if self.mean_value else rows), gradient


class Views(list["FloatArray"]):
    """Views into a network; an array that is assigned to one of them is copied into it."""

    def __setitem__(self, index: Any, value: Any) -> None:
        view, array = self[operator.index(index)], np.asarray(value)
        if array.shape != view.shape:
            raise ValueError(f"the array for [{index}] has shape {array.shape}; expected {view.shape}")
        view[...] = array


def _dense(x: Any) -> Any:
    return x.toarray() if scipy.sparse.issparse(x) else x


def _is_stochastic(estimator: Any) -> bool:
    if estimator.solver == "lbfgs":
        raise AttributeError("partial_fit takes one step after another: of the solvers, 'lbfgs' cannot")
    return True


class _MLP(BaseEstimator):  # type: ignore[misc]  # scikit-learn is not typed
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

    def _sizes(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if np.iterable(sizes) else [sizes]
        return [integer(size, f"hidden_layer_sizes[{i}]", least=1) for i, size in enumerate(sizes)]

    def _check_parameters(self) -> None:
        self._sizes()
        choice(self.solver, "solver", ("lbfgs", "sgd", "adam"))
        choice(self.learning_rate, "learning_rate", ("constant", "invscaling", "adaptive"))
        for name in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping"):
            flag(getattr(self, name), name)
        for name in ("alpha", "power_t", "tol"):
            real(getattr(self, name), name, least=0.0)
        for name in ("learning_rate_init", "epsilon"):
            real(getattr(self, name), name, above=0.0)
        for name in ("validation_fraction", "beta_1", "beta_2"):
            real(getattr(self, name), name, least=0.0, below=1.0)
        real(self.momentum, "momentum", least=0.0, most=1.0)
        for name in ("max_iter", "max_fun"):
            integer(getattr(self, name), name, least=1)
        if self.n_iter_no_change != np.inf:
            integer(self.n_iter_no_change, "n_iter_no_change", least=1)
        if self.batch_size != "auto":
            integer(self.batch_size, "batch_size", least=1)

    def _initialize(self, features: int, outputs: int, out_activation: str, dtype: np.dtype[Any]) -> None:
        """Make the network, with Glorot's bound for weights and biases, drawn as scikit-learn draws them."""
        sizes = [features, *self._sizes(), outputs]
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
        self._check_parameters()
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
        one = outputs == 1 or loss.spec.over_classes
        function: Any = loss
        if not one or isinstance(loss, losses.Poisson):
            mean = out_activation == "identity"
            function = _OverOutputs(loss, mean_value=mean, mean_gradient=mean and self.solver == "lbfgs")
        if self.solver == "lbfgs":
            return (_dense(X), target, weight, function), None
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
            for of_output in class_weight if isinstance(class_weight, list) else [class_weight]:
                for key, value in of_output.items() if isinstance(of_output, dict) else ():
                    real(value, f"class_weight[{key!r}]", least=0.0)
            by_class = compute_sample_weight(class_weight, y).astype(X.dtype)
            weight = by_class if weight is None else weight * by_class
            if not weight.any():
                raise ValueError(f"class_weight is {class_weight!r}, with which all samples weigh 0")
        return weight

    def _minimize(self, X: Any, target: NDArray[Any], weight: NDArray[Any] | None, function: Any) -> None:
        """L-BFGS over the flat buffer."""
        model = self.model_
        rows = len(X) if weight is None else float(weight.sum())
        decay = (
            np.concatenate([np.full(p.size, self.alpha * (p.ndim == 2)) for p in model.parameters().values()]) / rows
        )
        call = function.value_and_grad if isinstance(function, losses.Loss) else function

        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            model.flat_parameters[...] = flat
            scores = model(X, training=True)
            value, gradient = call(scores, target, *(() if weight is None else (weight,)))
            model.backward(gradient)
            return float(value) + 0.5 * float(decay @ (flat * flat)), model.flat_gradients + decay * flat

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
            value = self.model_.train_step(_dense(X[rows]), target[rows], function, optimizer, wb)
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


_PARAMETERS = """
    Parameters
    ----------
    {first}hidden_layer_sizes : sequence of int
        Units of each hidden layer.
    activation : str or Activation
        Of the hidden layers: elementwise, without learned parameters.
    solver : "adam", "sgd" or "lbfgs"
        "lbfgs" (scipy's L-BFGS-B) uses all samples in each step.
    alpha : float
        Factor of the L2 penalty of the weights, divided by the number of samples, or their weight, in a batch.
    batch_size : int or "auto"
        Samples per step; "auto" is 200, or all if there are fewer.
    learning_rate : "constant", "invscaling" or "adaptive"
        Of "sgd": fixed; learning_rate_init / (samples seen + 1)^power_t; or divided by 5 whenever training would stop.
    learning_rate_init, power_t : float
        The first learning rate, and the exponent of "invscaling".
    max_iter, max_fun : int
        Passes over the data, or iterations of "lbfgs", and its calls of the loss.
    shuffle : bool
        Whether each pass has an order of its own.
    random_state : int, RandomState or None
        Draws initial values, orders and the validation set.
    tol, n_iter_no_change : float, int
        Training stops when loss (or validation score) has not improved by `tol` in more passes than this.
    verbose : bool
        Whether to print the loss after each pass.
    warm_start : bool
        Whether `fit` goes on from the parameters that are there.
    momentum, nesterovs_momentum : float, bool
        Of "sgd".
    early_stopping, validation_fraction : bool, float
        Whether to set this share aside, stop by the score on it, and keep the best parameters.
        {score}
    beta_1, beta_2, epsilon : float
        Of "adam".
    {last}
    Attributes
    ----------
    model_ : fuseprop.nn.Sequential
        The network. `coefs_` and `intercepts_` are its weights and biases.
    loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, n_iter_, t_
        As in scikit-learn: the last loss, the lowest, all; scores; passes; samples seen.
    {attributes}n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        Layers with the input's, outputs, the output's activation, and what X had.

    Raises
    ------
    ValueError, TypeError
        When fitted, if a parameter is not one of the above, if X and y do not fit, if a weight is negative or all are
        0, or if an array is masked. Nothing has changed then. And if the training ends with parameters that are not
        finite.
"""


def _documented(*, score: str, first: str = "", last: str = "", attributes: str = "") -> Callable[[_Class], _Class]:
    """Class decorator: adds the parameters and attributes to the docstring."""

    def add(cls: _Class) -> _Class:
        cls.__doc__ = f"{cls.__doc__}\n{_PARAMETERS.format(score=score, first=first, last=last, attributes=attributes)}"
        return cls

    return add


@_documented(
    score="The score is the accuracy.",
    last='class_weight : dict, "balanced" or None\n        Factors of the samples\' weights by their class.\n',
    attributes="classes_ : array\n        The classes, sorted.\n    ",
)
class MLPClassifier(ClassifierMixin, _MLP):  # type: ignore[misc]  # scikit-learn has no types
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
        _store(self, locals())

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
        y = _dense(y)
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

    @available_if(_is_stochastic)  # type: ignore[untyped-decorator]  # scikit-learn has no types
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
        answer: NDArray[Any] = scores.argmax(axis=1) if self.out_activation_ == "softmax" else (scores > 0).astype(int)
        return answer

    def _quality(self, target: NDArray[Any], scores: FloatArray, weight: NDArray[Any] | None) -> float:
        return float(accuracy_score(target.astype(int), self._answer(scores), sample_weight=weight))

    def predict(self, X: Any) -> Any:
        """Return the classes of X, (N,), or the labels, (N, outputs): a sparse matrix if y was one in the training."""
        answer = self._answer(self._scores(X))
        if self.out_activation_ == "logistic" and self.n_outputs_ > 1:
            return scipy.sparse.csr_matrix(answer) if self._sparse_labels else answer
        classes: NDArray[Any] = self.classes_[np.minimum(answer.reshape(len(answer)), len(self.classes_) - 1)]
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


@_documented(
    first="""loss : str or Loss
        "squared_error" (half of it, as in scikit-learn), "poisson" (its half deviance), or one of `fuseprop.losses`.
        With Poisson, Gamma and Tweedie the network predicts the logarithm of the mean, and `predict` gives the mean.
    """,
    score="The score is R^2 for the squared error and Poisson, as in scikit-learn, and minus the loss for any other.",
)
class MLPRegressor(RegressorMixin, _MLP):  # type: ignore[misc]  # scikit-learn has no types
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
        _store(self, locals())

    def _loss(self) -> losses.Loss:
        loss = losses.get(_LOSSES.get(self.loss, self.loss)) if isinstance(self.loss, str) else self.loss
        if not isinstance(loss, losses.Loss):
            raise TypeError(f"loss must be a Loss or a name, found {type(loss).__name__}")
        spec = loss.spec
        if spec.over_classes or spec.prediction != "value":
            raise ValueError(f"loss is {loss!r}, which is not of a regression")
        if spec.kind_of_value != "sum":
            raise ValueError(f"loss is {loss!r}, which is no sum over samples")
        if np.ndim(getattr(loss, "q", 0.0)):
            raise ValueError(f"loss is {loss!r}, which has a quantile for each column; expected one")
        return loss

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

    @available_if(_is_stochastic)  # type: ignore[untyped-decorator]  # scikit-learn has no types
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
        if not isinstance(loss, losses.HalfSquaredError | losses.SquaredError | losses.Poisson):
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


def _store(estimator: Any, arguments: dict[str, Any]) -> None:
    """Keep the constructor's arguments as they are: scikit-learn's convention."""
    for name, value in arguments.items():
        if name not in ("self", "__class__"):
            setattr(estimator, name, value)
