"""Losses: value, gradient and Hessian in one pass over the data.

A loss is a small immutable object: its constructor takes the parameters, and with pred and target of one shape

- ``loss(pred, target, sample_weight=None, reduction="mean")`` is the value, a float (an array of pred's dtype with
  reduction "none"),
- ``loss.gradient(...)`` is its derivative by pred, an array like pred,
- ``loss.value_and_grad(...)`` is both,
- ``loss.grad_and_hess(pred, target, sample_weight=None, hess_floor=None)`` are the first and second derivatives per
  sample, unreduced: what gradient boosting takes.

With sample weights w, of shape (N,) or pred's, the value and the gradient are multiplied by w, and "mean" divides by
the sum of the broadcast weights; without weights by pred's size (0 if that is 0). `grad_and_hess` is weighted, never
divided; `hess_floor` replaces the second derivative by max(d2, floor) before the weight.

pred's dtype rules: float32 stays float32, float64 stays float64, integers and booleans become float64, any other dtype
is a TypeError; target and weights are cast to it. Any strides. Sums accumulate in float64, so a value is a Python float
of that precision, and the same bits on any number of threads. ``out=`` receives the gradient; it may be pred or target
itself, any other overlap is a ValueError. Nothing is written if an argument is refused.

Where PyTorch broadcasts pred against target, shapes must be equal here: (N,) against (N, 1) is an error, not a matrix.

To add one: the class with its Spec here, the functor and its row in csrc/kernels/losses, and the formulas in
reference.py.
"""

from __future__ import annotations

from typing import Literal

from numpy.typing import ArrayLike

from fuseprop import _core, _registry
from fuseprop._checks import real
from fuseprop._formula import Formula
from fuseprop._registry import register
from fuseprop._typing import FloatArray

__all__ = [
    "BinaryCrossEntropyWithLogits",
    "HalfSquaredError",
    "Huber",
    "LogCosh",
    "Loss",
    "SoftmaxCrossEntropy",
    "get",
    "names",
]

Reduction = Literal["mean", "sum", "none"]


class Loss(Formula, _core.Loss):
    """What all losses share; see the module's description."""

    __slots__ = ("_parameters",)

    def __call__(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        reduction: Reduction = "mean",
    ) -> float | FloatArray:
        """Return the value: a float, or an array with reduction "none"."""
        return self._value(pred, target, sample_weight, reduction)

    def gradient(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        reduction: Reduction = "mean",
        out: FloatArray | None = None,
    ) -> FloatArray:
        """Return the derivative of the value by pred, of pred's shape (of the sum of the values for "none")."""
        return self._gradient(pred, target, sample_weight, reduction, out)

    def value_and_grad(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        reduction: Reduction = "mean",
        out: FloatArray | None = None,
    ) -> tuple[float | FloatArray, FloatArray]:
        """Return (value, gradient), from one pass over the data."""
        return self._value_and_grad(pred, target, sample_weight, reduction, out)

    def grad_and_hess(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        hess_floor: float | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return (first, second derivative by pred), per sample and weighted; max(d2, hess_floor) if it is given."""
        return self._grad_and_hess(pred, target, sample_weight, hess_floor)


@register("loss", "half_squared_error")
class HalfSquaredError(Loss):
    """r^2 / 2 with r = pred - target; d1 = r, d2 = 1.

    Half of PyTorch's MSELoss. Any real target.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register("loss", "huber", parameters={"delta": 1.0}, examples=({"delta": 0.25}, {"delta": 1.35}))
class Huber(Loss):
    """r^2 / 2 if abs(r) <= delta, else delta (abs(r) - delta / 2), with r = pred - target.

    d1 = clip(r, -delta, delta); d2 = 1 where abs(r) <= delta, else 0. Equal to PyTorch's HuberLoss. Any real target.

    Parameters
    ----------
    delta
        Where the linear part begins, > 0.

    Notes
    -----
    Source: Huber (1964), *Robust Estimation of a Location Parameter*.
    """

    __slots__ = ()

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__(delta=real(delta, "delta", above=0.0))


@register("loss", "log_cosh")
class LogCosh(Loss):
    """log(cosh(r)) with r = pred - target; d1 = tanh(r), d2 = 1 / cosh^2(r).

    Like r^2 / 2 near 0, where it keeps its relative accuracy, and abs(r) - log 2 far from it, where it does not
    overflow. Any real target. PyTorch has none.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register(
    "loss",
    "binary_cross_entropy_with_logits",
    parameters={"pos_weight": 1.0},
    examples=({"pos_weight": 3.0}, {"pos_weight": 0.2}),
    target_domain="unit",
    aliases=("bce_with_logits",),
)
class BinaryCrossEntropyWithLogits(Loss):
    """w y softplus(-z) + (1 - y) softplus(z), for the logit z = pred and y = target in [0, 1].

    d1 = (1 - y) s(z) - w y s(-z) and d2 = (1 - y + w y) s(z) s(-z), with full relative accuracy in both tails. Soft
    targets are allowed; a target outside of [0, 1] is a ValueError (PyTorch computes with it).

    Parameters
    ----------
    pos_weight
        The weight w of the positive class, >= 0.
    """

    __slots__ = ()

    def __init__(self, pos_weight: float = 1.0) -> None:
        super().__init__(pos_weight=real(pos_weight, "pos_weight", least=0.0))


@register("loss", "softmax_cross_entropy", target_domain="classes")
class SoftmaxCrossEntropy(Loss, _core.SoftmaxCrossEntropy):
    """-sum_j q_j log softmax(z)_j for logits z = pred of shape (N, C).

    target is labels, integers of any width and shape (N,), or distributions q of shape (N, C) with entries in [0, 1].
    With A = sum_j q_j (1 for labels) and p = softmax(z), the gradient is A p - q and the Hessian's diagonal
    A p (1 - p); p_y - 1 is formed as minus the sum of the other classes, so nothing cancels. The softmax, the loss and
    the gradient are fused: one read of the logits, one write of the gradient.

    sample_weight has shape (N,); "mean" divides by N or the sum of the weights, "none" gives (N,). Equal to PyTorch's
    CrossEntropyLoss, except that an empty batch gives 0 rather than NaN. A row with a NaN, a +inf, or nothing but
    -inf is NaN throughout.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()

    def grad_and_hess(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        hess_floor: float | None = None,
        hessian: Literal["diagonal", "upper"] = "diagonal",
    ) -> tuple[FloatArray, FloatArray]:
        """Return (gradient, Hessian), both (N, C), per sample and weighted.

        hessian is "diagonal", A p (1 - p), or "upper", 2 A p (1 - p): what XGBoost uses, an upper bound of the full
        matrix. max(hess, hess_floor) is taken before the weight.
        """
        return self._grad_and_hess(pred, target, sample_weight, hess_floor, hessian)


def names() -> list[str]:
    """Return the names of all losses, for `get`."""
    return list(_registry.losses())


def get(name: str, **parameters: float) -> Loss:
    """Return the loss of this name, or alias, with these parameters.

    Raises
    ------
    ValueError
        If there is none of this name; the message says which ones are near.
    TypeError
        If the loss does not take a parameter that is given.
    """
    loss: Loss = _registry.find("loss", name).cls(**parameters)
    return loss
