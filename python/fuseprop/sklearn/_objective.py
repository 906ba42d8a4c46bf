"""What is minimized: the losses, as scikit-learn names and reports them, and with the penalty for L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from fuseprop import losses, nn

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray

#: The losses of scikit-learn's regressor, by its names for them.
_SCIKIT_LEARN = {"squared_error": "half_squared_error", "poisson": "poisson"}
#: Of those that are half a deviance there: the terms in the target alone that the loss leaves out here.
_DEVIANCES: dict[str, Callable[[Any], Any]] = {"poisson": lambda y: xlogy(y, y) - y}


def regression_loss(loss: Any) -> losses.Loss:
    """Return the regressor's loss, given by scikit-learn's name, by the name here, or as an object."""
    loss = losses.get(_SCIKIT_LEARN.get(loss, loss)) if isinstance(loss, str) else loss
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


def is_scored_by_r2(loss: losses.Loss) -> bool:
    """Whether early stopping looks at R^2: for a squared error, of which it is another form, and as in scikit-learn."""
    return loss.spec.curvature == "constant" or loss.spec.name in _SCIKIT_LEARN.values()


class OverOutputs:
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
        if self.loss.spec.name in _DEVIANCES:
            terms = _DEVIANCES[self.loss.spec.name](target)
            total += float(np.sum(terms if weight is None else terms * weight[:, np.newaxis]))
        return total / (over_outputs if self.mean_value else rows), gradient

    value_and_grad = __call__  # a loss has it by this name


def as_reported(loss: losses.Loss, outputs: int, *, line_search: bool) -> losses.Loss | OverOutputs:
    """Return the loss, or what makes of it the value that scikit-learn reports and the gradient that it uses."""
    spec = loss.spec
    if (outputs == 1 or spec.over_classes) and spec.name not in _DEVIANCES:
        return loss
    mean = spec.prediction == "value" and spec.link == "identity"
    return OverOutputs(loss, mean_value=mean, mean_gradient=mean and line_search)


def penalized(
    function: losses.Loss | OverOutputs,
    model: nn.Sequential,
    X: Any,
    target: NDArray[Any],
    weight: NDArray[Any] | None,
    *,
    alpha: float,
) -> Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]:
    """Return the mean loss and the L2 penalty of the weights, with their gradient, as a function of all parameters.

    The parameters are float64, whatever the network's are: `optim.lbfgs` would see the penalty of rounded ones.
    """
    rows = len(X) if weight is None else float(weight.sum())
    decay = np.concatenate([np.full(p.size, alpha * (p.ndim == 2)) for p in model.parameters().values()]) / rows

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        model.flat_parameters[...] = flat
        scores = model(X, training=True)
        value, gradient = function.value_and_grad(scores, target, *(() if weight is None else (weight,)))
        model.backward(gradient)
        return float(value) + 0.5 * float(decay @ (flat * flat)), model.flat_gradients + decay * flat

    return objective
