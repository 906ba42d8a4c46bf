"""Losses: value, gradient and Hessian in one pass over the data.

A loss is a small immutable object: its constructor takes the parameters, and with pred and target of one shape

- ``loss(pred, target, sample_weight=None, reduction="mean")`` is the value, a float (an array of pred's dtype with
  reduction "none"),
- ``loss.gradient(...)`` is its derivative by pred, an array like pred,
- ``loss.value_and_grad(...)`` is both,
- ``loss.grad_and_hess(pred, target, sample_weight=None, hess_floor=None, *, out=None)`` are the first and second
  derivatives per sample, unreduced: what gradient boosting takes.

With sample weights w, of shape (N,) or pred's, the value and the gradient are multiplied by w, and "mean" divides by
the sum of the broadcast weights; without weights by pred's size. Where that sum or size is 0, value and gradient are 0.
Weights of any size will do: in a "mean" a common factor has no influence, and a "sum" is right wherever a Python float
can hold it. Negative weights mean what they say: they multiply, and count in the sum that a "mean" divides by; what
trains with them (`nn`, the estimators, the boosters' objectives) refuses them, as it would run away from such a sample
without bound. A weight of 0 beside others does not hide a NaN or an infinite value: 0 times it is NaN. `grad_and_hess`
is weighted, never divided; `hess_floor`, a finite number, replaces the second derivative by max(d2, floor) before the
weight. float64 weights beside float32 predictions are cast; if float32 cannot hold the largest of them at full
precision (below 1.2e-38, or above 3.4e38), that is a ValueError, while small ones beside it may round to 0.

pred's dtype rules: float32 stays float32, float64 stays float64, integers and booleans become float64, any other dtype
is a TypeError; target and weights are cast to it, before the target is checked. Any strides. Each element's term is
rounded to pred's dtype; their sum accumulates in float64 and is a Python float, the same bits on any number of threads.
``out=`` receives the gradient; it may be pred, target or a sample_weight of pred's shape itself, any other overlap is a
ValueError. `grad_and_hess` takes a tuple of two such arrays, apart from each other, or with None for a new one. Nothing
is written if an argument is refused: targets are read once more before the caller's arrays are written.

Masked arrays are refused, since their mask would be lost. Another thread may write to the arrays of a running call: the
result is then made of old and new values, labels included, and nothing else is touched. It must not resize them or
change their dtype or shape meanwhile, as with NumPy's own functions.

Targets, and the predictions of BinaryCrossEntropy, outside of what a loss is defined for are a ValueError that names
the first one: ``target[3] is 0.5; hinge expects -1 or 1``. A NaN target is outside of every domain but those that say
any real number; a NaN prediction gives NaN in value and derivatives, in its element alone. Where a loss has a kink,
the derivative stated is a subgradient. Infinite predictions give the limit.

"At most a, b, c ULP" are the largest errors of value, d1 and d2 of an element, in units in the last place of the result
(where a sum of terms may cancel: of the terms), at the parameters that the tests go through. A loss of
r = pred - target is compared with the function of r as rounded, since that half ULP is the subtraction's.

Where PyTorch broadcasts pred against target, shapes must be equal here: (N,) against (N, 1) is an error, not a matrix.

Losses over classes have the class axis last: pred is (N, C), or (..., C), and a row's loss is one number, so that
"none" gives (N,), sample weights have shape (N,), and "mean" divides by N or the sum of the weights, times the class
weights of the labels where there are any. Labels are integers of any width, and of shape (N,); one that is out of range
is a ValueError that names its row, the label and C.

To add one: the class with its Spec here, the functor and its row in csrc/kernels/losses/losses, and the formulas in
reference.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuseprop import _core, _elsewhere, _registry
from fuseprop._checks import choice, class_weights, flag, float_array, integer, real, real_array
from fuseprop._formula import Formula
from fuseprop._listing import listing
from fuseprop._registry import Domain, LossSpec, register_loss
from fuseprop._typing import FloatArray

__all__ = [
    "AbsoluteError",
    "AbsolutePercentageError",
    "BinaryCrossEntropy",
    "BinaryCrossEntropyWithLogits",
    "CategoricalCrossEntropy",
    "Exponential",
    "FocalWithLogits",
    "Gamma",
    "HalfSquaredError",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LargeMarginSoftmax",
    "LinearCrossEntropy",
    "LogCosh",
    "Logistic",
    "Loss",
    "NegativeLogLikelihood",
    "Poisson",
    "PseudoHuber",
    "Quantile",
    "RootMeanSquaredError",
    "SoftmaxCrossEntropy",
    "SoftmaxFocal",
    "SquaredError",
    "SquaredHinge",
    "SymmetricAbsolutePercentageError",
    "Tweedie",
    "ZeroOne",
    "get",
    "names",
]

__dir__ = listing(__all__)

if not TYPE_CHECKING:  # for which any name would be one of the module's

    def __getattr__(name: str) -> Any:
        raise _elsewhere.attribute_error(__name__, name)


Reduction = Literal["mean", "sum", "none"]


class Loss(Formula, _core.Loss):
    """What all losses share; see the module's description."""

    __slots__ = ("_parameters",)

    if TYPE_CHECKING:
        spec: ClassVar[LossSpec]

    def __call__(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        reduction: Reduction = "mean",
    ) -> float | FloatArray:
        """Return the value: a float, or an array with reduction "none".

        Parameters
        ----------
        pred, target
            Predictions and targets, of one shape; over classes (N, C) and labels (N,) or what the loss takes.
        sample_weight
            Weights of pred's shape or (N,), or None.
        reduction : {"mean", "sum", "none"}
            What is made of the values of the elements, or rows: their weighted mean, their sum, or nothing.
        """
        return self._value(pred, target, sample_weight, reduction)

    def gradient(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        reduction: Reduction = "mean",
        out: FloatArray | None = None,
    ) -> FloatArray:
        """Return the derivative of the value by pred, of pred's shape (of the sum of the values for "none").

        Parameters
        ----------
        pred, target
            Predictions and targets, of one shape; over classes (N, C) and labels (N,) or what the loss takes.
        sample_weight
            Weights of pred's shape or (N,), or None.
        reduction : {"mean", "sum", "none"}
            What is made of the values of the elements, or rows: their weighted mean, their sum, or nothing.
        out
            Receives the gradient, of pred's shape and dtype; it may be pred or target itself.
        """
        return self._gradient(pred, target, sample_weight, reduction, out)

    def value_and_grad(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        reduction: Reduction = "mean",
        out: FloatArray | None = None,
    ) -> tuple[float | FloatArray, FloatArray]:
        """Return (value, gradient), from one pass over the data.

        Parameters
        ----------
        pred, target
            Predictions and targets, of one shape; over classes (N, C) and labels (N,) or what the loss takes.
        sample_weight
            Weights of pred's shape or (N,), or None.
        reduction : {"mean", "sum", "none"}
            What is made of the values of the elements, or rows: their weighted mean, their sum, or nothing.
        out
            Receives the gradient, of pred's shape and dtype; it may be pred or target itself.
        """
        return self._value_and_grad(pred, target, sample_weight, reduction, out)

    def grad_and_hess(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        hess_floor: float | None = None,
        *,
        out: tuple[FloatArray | None, FloatArray | None] | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return (first, second derivative by pred), per sample and weighted.

        Parameters
        ----------
        pred, target
            Predictions and targets, of one shape; over classes (N, C) and labels (N,) or what the loss takes.
        sample_weight
            Weights of pred's shape or (N,), or None.
        hess_floor : float or None
            Takes the place of smaller second derivatives, before the weights.
        out
            A pair of arrays that receive the derivatives, apart from each other; None in it: a new one.
        """
        return self._grad_and_hess(pred, target, sample_weight, hess_floor, out)


@register_loss(
    "zero_one",
    best="majority",
    prediction="margin",
    link=None,
    target_domain="sign",
    kind_of_value="metric",
    aliases=("zero_one_loss",),
)
class ZeroOne(Loss):
    """1 if y p <= 0, else 0, for the score p = pred and y = target of -1 or 1: the share of wrong signs under "mean".

    A score of 0 counts as wrong. A metric: `gradient`, `value_and_grad` and `grad_and_hess` raise a TypeError. Equal to
    scikit-learn's zero_one_loss of the predicted signs. A target other than -1 and 1 is a ValueError.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_loss(
    "hinge",
    best="majority",
    curvature="none",
    prediction="margin",
    link=None,
    ulp=(0.5, 0.0, 0.0),
    target_domain="sign",
    aliases=("hinge_loss",),
)
class Hinge(Loss):
    """max(0, 1 - y p), for the score p = pred and y = target of -1 or 1.

    d1 = -y where y p < 1, else 0 (at y p = 1 too); d2 = 0. Equal to scikit-learn's hinge_loss. Not PyTorch's
    HingeEmbeddingLoss, which is about distances. A target other than -1 and 1 is a ValueError. At most 0.5, 0, 0 ULP.

    Notes
    -----
    Source: Cortes and Vapnik (1995), *Support-Vector Networks*.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_loss(
    "squared_hinge",
    best="mean",
    prediction="margin",
    link=None,
    ulp=(2.0, 0.5, 0.0),
    target_domain="sign",
    aliases=("l2_hinge",),
)
class SquaredHinge(Loss):
    """max(0, 1 - y p)^2, for the score p = pred and y = target of -1 or 1.

    d1 = -2 y max(0, 1 - y p); d2 = 2 where y p < 1, else 0. The loss of scikit-learn's LinearSVC; PyTorch has none of
    this form. A target other than -1 and 1 is a ValueError. At most 2, 0.5, 0 ULP.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_loss(
    "exponential",
    best="half_log_odds_of_signs",
    prediction="margin",
    link="half_logit",
    ulp=(1.0, 1.0, 1.0),
    target_domain="sign",
    aliases=("exp", "adaboost"),
)
class Exponential(Loss):
    """e^(-y p), for the score p = pred and y = target of -1 or 1; d1 = -y L, d2 = L.

    What AdaBoost minimises. scikit-learn's ExponentialLoss takes targets 0 and 1: y e^-p + (1 - y) e^p. PyTorch has
    none. A target other than -1 and 1 is a ValueError. At most 1, 1, 1 ULP.

    Notes
    -----
    Source: Friedman, Hastie and Tibshirani (2000), *Additive Logistic Regression*.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_loss(
    "logistic",
    best="log_odds_of_signs",
    prediction="logit",
    link="logit",
    ulp=(2.0, 3.0, 5.0),
    target_domain="sign",
    aliases=("soft_margin", "soft_margin_loss"),
)
class Logistic(Loss):
    """log(1 + e^(-y p)), for the logit p = pred and y = target of -1 or 1.

    d1 = -y s(-y p) and d2 = s(p) s(-p) with s(x) = 1 / (1 + e^-x), with full relative accuracy in both tails. It is
    BinaryCrossEntropyWithLogits of the target (y + 1) / 2, and PyTorch's SoftMarginLoss, which overflows. A target
    other than -1 and 1 is a ValueError. At most 2, 3, 5 ULP.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_loss("half_squared_error", best="mean", curvature="constant", ulp=(0.5, 0.0, 0.0), aliases=("half_mse",))
class HalfSquaredError(Loss):
    """r^2 / 2 with r = pred - target; d1 = r, d2 = 1.

    Half of PyTorch's MSELoss; scikit-learn's HalfSquaredError. Any real target. At most 0.5, 0, 0 ULP.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_loss(
    "squared_error",
    best="mean",
    curvature="constant",
    ulp=(0.5, 0.0, 0.0),
    aliases=("mse", "l2", "mean_squared_error", "mse_loss"),
)
class SquaredError(Loss):
    """r^2 with r = pred - target; d1 = 2 r, d2 = 2. The mean squared error under "mean".

    Equal to PyTorch's MSELoss. Any real target. At most 0.5, 0, 0 ULP.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_loss("root_mean_squared_error", best="mean", kind_of_value="root", aliases=("rmse",))
class RootMeanSquaredError(Loss, _core.RootMeanSquaredError):
    """sqrt(sum(w r^2) / sum(w)) with r = pred - target and weights w of 1 if none are given.

    d1 = w r / (L sum(w)), and 0 where L = 0, where the root of PyTorch's MSELoss gives NaN. Squares are formed in
    float64 and scaled, so that neither overflows nor vanishes where L does not. Infinite residuals share the gradient,
    w sign(r) / sqrt(sum(w) sum of their w), and the others have none. Any real target.

    It is no sum over samples: a reduction other than "mean" is a ValueError, and `grad_and_hess` a TypeError
    (SquaredError has the same minimum).
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_loss(
    "absolute_error",
    best="median",
    curvature="none",
    ulp=(0.0, 0.0, 0.0),
    aliases=("mae", "l1", "mean_absolute_error", "l1_loss"),
)
class AbsoluteError(Loss):
    """abs(r) with r = pred - target; d1 = sign(r), 0 at r = 0; d2 = 0. The mean absolute error under "mean".

    Equal to PyTorch's L1Loss. scikit-learn's AbsoluteError has d1 = -1 at r = 0 and d2 = 1 everywhere. Any real target.
    At most 0, 0, 0 ULP.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


_ON_ZERO = ("raise", "inf", "skip")


def _percentage_targets(parameters: Mapping[str, Any]) -> Domain:
    return "nonzero" if parameters["on_zero"] == "raise" else "real"


@register_loss(
    "absolute_percentage_error",
    best="relative_median",
    curvature="none",
    ulp=(2.5, 0.5, 0.0),
    parameters={"on_zero": "raise"},
    choices={"on_zero": _ON_ZERO},
    examples=({"on_zero": "inf"}, {"on_zero": "skip"}),
    target_domain="nonzero",
    targets_of=_percentage_targets,
    aliases=("mape", "mean_absolute_percentage_error"),
)
class AbsolutePercentageError(Loss):
    """100 abs(r / y) with r = pred - target and y = target: the mean absolute percentage error under "mean".

    d1 = 100 sign(r) / abs(y), 0 at r = 0; d2 = 0. Any real target but 0, unless on_zero says otherwise; a NaN target
    gives NaN. PyTorch has none; scikit-learn's mean_absolute_percentage_error is without the factor 100, and divides by
    max(abs(y), 2.2e-16). An infinite target gives the limit, 100. At most 2.5, 0.5, 0 ULP.

    Parameters
    ----------
    on_zero
        What a target of 0 does: "raise", a ValueError that names the first one; "inf", an infinite value and gradient
        (0 where the prediction is 0 too); "skip", the element counts as 0, its gradient is 0, and "mean" does not
        divide by its weight, as for an ignored label (a NaN prediction still gives NaN).
    """

    __slots__ = ()

    def __init__(self, on_zero: Literal["raise", "inf", "skip"] = "raise") -> None:
        super().__init__(on_zero=choice(on_zero, "on_zero", _ON_ZERO))


@register_loss("symmetric_absolute_percentage_error", curvature="none", ulp=(3.0, 4.0, 6.0), aliases=("smape",))
class SymmetricAbsolutePercentageError(Loss):
    """200 abs(r) / S with r = pred - target and S = abs(pred) + abs(target): SMAPE, from 0 to 200.

    d1 = 200 (sign(r) S - abs(r) sign(pred)) / S^2, which is 0 where the signs of pred and target differ; d2 is its
    derivative, -2 sign(pred) d1 / S, which can be negative (`hess_floor`). 0 / 0 counts as 0, with gradient 0. Any real
    target. Neither PyTorch nor scikit-learn has it. At most 3, 4, 6 ULP.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_loss(
    "huber",
    ulp=(1.5, 0.0, 0.0),
    parameters={"delta": 1.0},
    examples=({"delta": 0.25}, {"delta": 1.35}),
    aliases=("huber_loss", "smooth_l1", "smooth_l1_loss"),
)
class Huber(Loss):
    """r^2 / 2 if abs(r) <= delta, else delta (abs(r) - delta / 2), with r = pred - target.

    d1 = clip(r, -delta, delta); d2 = 1 where abs(r) <= delta, else 0. Equal to PyTorch's HuberLoss, and to delta times
    its SmoothL1Loss with beta = delta. Any real target. At most 1.5, 0, 0 ULP.

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


@register_loss(
    "pseudo_huber", ulp=(3.0, 2.0, 8.0), parameters={"delta": 1.0}, examples=({"delta": 0.25}, {"delta": 3.0})
)
class PseudoHuber(Loss):
    """delta^2 (sqrt(1 + (r / delta)^2) - 1) with r = pred - target: a smooth Huber.

    d1 = r / sqrt(1 + (r / delta)^2); d2 = (1 + (r / delta)^2)^-1.5. Nothing but r overflows where the result does not.
    Any real target. PyTorch has none; scipy.special.pseudo_huber is the value. At most 3, 2, 8 ULP.

    Parameters
    ----------
    delta
        Where the linear part begins, > 0.

    Notes
    -----
    Source: Charbonnier et al. (1997), *Deterministic Edge-Preserving Regularization in Computed Imaging*.
    """

    __slots__ = ()

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__(delta=real(delta, "delta", above=0.0))


@register_loss("log_cosh", ulp=(5.5, 1.5, 2.5), aliases=("logcosh",))
class LogCosh(Loss):
    """log(cosh(r)) with r = pred - target; d1 = tanh(r), d2 = 1 / cosh^2(r).

    Like r^2 / 2 near 0, where it keeps its relative accuracy, and abs(r) - log 2 far from it, where it does not
    overflow. Any real target. PyTorch has none. At most 5.5, 1.5, 2.5 ULP.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_loss(
    "quantile",
    best="quantile",
    curvature="none",
    ulp=(1.0, 0.5, 0.0),
    parameters={"q": 0.5},
    examples=({"q": 0.1}, {"q": 0.9}),
    aliases=("pinball", "quantile_loss"),
)
class Quantile(Loss):
    """q (y - p) if y >= p, else (1 - q) (p - y), for p = pred and y = target: the pinball loss.

    d1 = -q where p < y, 1 - q where p > y, 0 at p = y; d2 = 0. Its minimum over p is the q-quantile of y. With q = 0.5
    it is half of AbsoluteError. scikit-learn's PinballLoss has d1 = -q at p = y, and d2 = 1 everywhere. Any real
    target. PyTorch has none. 1 - q is formed before it is rounded to pred's dtype. At most 1, 0.5, 0 ULP.

    Parameters
    ----------
    q
        The quantile, 0 < q < 1. Or a sequence of them, one for each column of pred (its last axis): intervals. Then the
        target has pred's shape, or that without the last axis, and serves every column.

    Notes
    -----
    Source: Koenker and Bassett (1978), *Regression Quantiles*.
    """

    __slots__ = ()

    def __init__(self, q: float | Sequence[float] = 0.5) -> None:
        super().__init__(q=_quantiles(q))


def _quantiles(q: float | Sequence[float]) -> float | tuple[float, ...]:
    """Return a number, or a tuple of the numbers of a sequence or one-dimensional array, within (0, 1)."""
    ndim = getattr(q, "ndim", 1 if isinstance(q, (list, tuple)) else 0)
    if ndim == 0:
        return real(cast(float, q), "q", above=0.0, below=1.0)
    if ndim != 1:
        raise ValueError(f"q has {ndim} dimensions; expected a number or a sequence of numbers")
    values = tuple(real(value, f"q[{i}]", above=0.0, below=1.0) for i, value in enumerate(cast(Sequence[float], q)))
    if not values:
        raise ValueError("q is empty; expected a number or a sequence of numbers")
    return values


@register_loss(
    "binary_cross_entropy",
    best="mean",
    prediction="probability",
    ulp=(2.5, 4.0, 4.0),
    cancels=("d1",),
    parameters={"eps": None},
    examples=({"eps": 1e-6}, {"eps": 0.05}),
    target_domain="unit",
    pred_domain="unit",
    aliases=("bce", "bce_loss", "binary_crossentropy"),
)
class BinaryCrossEntropy(Loss):
    """-(y log p + (1 - y) log(1 - p)), for the probability p = pred and y = target, both in [0, 1].

    d1 = (1 - y) / (1 - p) - y / p and d2 = y / p^2 + (1 - y) / (1 - p)^2, where 0 log 0 = 0 and 0 / 0 = 0. A certain
    and wrong prediction has an infinite value and gradient: nothing is clamped silently, while PyTorch's BCELoss holds
    log p above -100. From logits, BinaryCrossEntropyWithLogits is faster and keeps all digits. A prediction or target
    outside of [0, 1] is a ValueError. At most 2.5, 4, 4 ULP, of the terms where d1 cancels.

    Parameters
    ----------
    eps
        None, or a number in (0, 0.5): p is replaced by the nearest number of [eps, 1 - eps] throughout, in the
        derivatives too, so that a clipped prediction keeps a gradient that leads back.
    """

    __slots__ = ()

    def __init__(self, eps: float | None = None) -> None:
        super().__init__(eps=None if eps is None else real(eps, "eps", above=0.0, below=0.5))

    def _core_parameters(self) -> tuple[Any, ...]:
        return (self._parameters["eps"] or 0.0,)


@register_loss(
    "binary_cross_entropy_with_logits",
    best="log_odds",
    prediction="logit",
    link="logit",
    ulp=(4.0, 4.0, 6.5),
    cancels=("d1",),
    parameters={"pos_weight": 1.0},
    examples=({"pos_weight": 3.0}, {"pos_weight": 0.2}),
    target_domain="unit",
    aliases=("bce_with_logits",),
)
class BinaryCrossEntropyWithLogits(Loss):
    """w y softplus(-z) + (1 - y) softplus(z), for the logit z = pred and y = target in [0, 1].

    d1 = (1 - y) s(z) - w y s(-z) and d2 = (1 - y + w y) s(z) s(-z), with full relative accuracy in both tails. Soft
    targets are allowed; a target outside of [0, 1] is a ValueError (PyTorch computes with it). At most 4, 4,
    6.5 ULP, of the terms where d1 cancels.

    Parameters
    ----------
    pos_weight
        The weight w of the positive class, >= 0. Above 2e10 (float32), the tail ends at z = 128 (float64: 770).
    """

    __slots__ = ()

    def __init__(self, pos_weight: float = 1.0) -> None:
        super().__init__(pos_weight=real(pos_weight, "pos_weight", least=0.0))


@register_loss(
    "focal_with_logits",
    prediction="logit",
    link="logit",
    ulp=(10.0, 10.0, 12.0),
    cancels=("d1", "d2"),
    parameters={"gamma": 2.0, "alpha": 0.25},
    examples=({"gamma": 0.5, "alpha": 0.5}, {"gamma": 0.0, "alpha": 0.75}, {"gamma": 3.5, "alpha": 0.25}),
    target_domain="unit",
    aliases=("focal", "sigmoid_focal", "binary_focal_with_logits"),
)
class FocalWithLogits(Loss):
    """-A b^gamma log(a), for the logit z = pred, where a = s(u) is the probability of the true class and b = s(-u).

    For y = target = 1, u = z and A = alpha; for y = 0, u = -z and A = 1 - alpha. Soft targets in [0, 1] weigh the two:
    y L1 + (1 - y) L0. d1 = A b^gamma (gamma a log(a) - b) by u, and d2 = A b^gamma (a b (1 + 2 gamma) + gamma a log(a)
    (b - gamma a)), which can be negative (`hess_floor`). No NaN for any gamma and any logit. torchvision's
    sigmoid_focal_loss, but for soft targets, which it puts into b. A target outside of [0, 1] is a ValueError. At most
    10, 10, 12 ULP, of the terms where d1 and d2 cancel.

    Parameters
    ----------
    gamma
        How much the easy examples count less, >= 0; 0 is a weighted BinaryCrossEntropyWithLogits.
    alpha
        The weight of class 1, in [0, 1]; class 0 has 1 - alpha.

    Notes
    -----
    Source: Lin et al. (2017), *Focal Loss for Dense Object Detection*.
    """

    __slots__ = ()

    def __init__(self, gamma: float = 2.0, alpha: float = 0.25) -> None:
        super().__init__(gamma=real(gamma, "gamma", least=0.0), alpha=real(alpha, "alpha", least=0.0, most=1.0))


@register_loss(
    "poisson",
    best="log_mean",
    dropped="poisson_constant",
    link="log",
    ulp=(2.0, 2.0, 1.0),
    cancels=("value", "d1"),
    target_domain="nonnegative",
    aliases=("poisson_nll", "half_poisson", "poisson_nll_loss"),
)
class Poisson(Loss):
    """e^z - y z, for the logarithm z = pred of the mean and a count y = target >= 0; d1 = e^z - y, d2 = e^z.

    The negative log-likelihood but for log(y!), which does not depend on z: PyTorch's PoissonNLLLoss, and
    scikit-learn's HalfPoissonLoss, which is half the deviance but for its constants. A target that is negative or not
    finite is a ValueError. At most 2, 2, 1 ULP, of the terms where value and d1 cancel.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_loss(
    "gamma",
    best="log_mean",
    dropped="gamma_constant",
    link="log",
    ulp=(4.0, 4.0, 4.0),
    cancels=("value", "d1"),
    target_domain="positive",
    aliases=("gamma_nll", "half_gamma"),
)
class Gamma(Loss):
    """z + y e^-z, for the logarithm z = pred of the mean and an amount y = target > 0; d1 = 1 - y e^-z, d2 = y e^-z.

    The negative log-likelihood of a gamma distribution of fixed shape, but for what does not depend on z;
    scikit-learn's HalfGammaLoss, half the deviance but for its constants. PyTorch has none. A target that is not
    positive and finite is a ValueError. At most 4, 4, 4 ULP, of the terms where value and d1 cancel.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


def _tweedie_targets(parameters: Mapping[str, Any]) -> Domain:
    power = parameters["power"]
    return "real" if power <= 0 else "nonnegative" if power < 2 else "positive"


@register_loss(
    "tweedie",
    best="log_mean",
    dropped="tweedie_constant",
    link="log",
    ulp=(7.0, 7.0, 8.0),
    cancels=("value", "d1", "d2"),
    parameters={"power": 1.5},
    examples=({"power": 0.0}, {"power": 1.0}, {"power": 1.1}, {"power": 2.0}, {"power": 3.0}, {"power": -0.5}),
    target_domain="nonnegative",
    targets_of=_tweedie_targets,
    aliases=("tweedie_deviance", "half_tweedie"),
)
class Tweedie(Loss):
    """e^((2-P) z) / (2-P) - y e^((1-P) z) / (1-P), for the logarithm z = pred of the mean, y = target and P = power.

    d1 = e^((2-P) z) - y e^((1-P) z); d2 = (2-P) e^((2-P) z) - (1-P) y e^((1-P) z), which can be negative. Half the
    deviance but for terms that do not depend on z, as scikit-learn's HalfTweedieLoss: P = 1 is Poisson, P = 2 is Gamma,
    and P = 0 is (e^z - y)^2 / 2. Targets: any real number for P <= 0, finite and >= 0 for 1 <= P < 2, finite and > 0
    for P >= 2; others are a ValueError. PyTorch has none. At most 7, 7, 8 ULP, of the terms where value, d1
    and d2 cancel.

    Parameters
    ----------
    power
        The variance is proportional to mean^power; there is no such distribution for 0 < power < 1.
    """

    __slots__ = ()

    def __init__(self, power: float = 1.5) -> None:
        number = real(power, "power")
        if 0.0 < number < 1.0:
            raise ValueError(f"power is {number!r}; expected a number <= 0 or >= 1")
        super().__init__(power=number)


#: Options of the losses of logits, and examples of them for the tests.
_OPTIONS: dict[str, Any] = {
    "label_smoothing": 0.0,
    "class_weight": None,
    "ignore_index": None,
    "temperature": 1.0,
    "scale_by_temperature": False,
    "z_loss": 0.0,
}
_OPTION_EXAMPLES: tuple[dict[str, Any], ...] = (
    {"label_smoothing": 0.1},
    {"ignore_index": 1},
    {"temperature": 2.5, "scale_by_temperature": True},
    {"label_smoothing": 0.25, "temperature": 0.5, "z_loss": 0.125},
)


class _LogitsLoss(Loss):
    """The constructor of losses of logits with `_OPTIONS`."""

    __slots__ = ()

    def __init__(  # noqa: PLR0917  # the options, in the order of the formula
        self,
        label_smoothing: float = 0.0,
        class_weight: ArrayLike | None = None,
        ignore_index: int | None = None,
        temperature: float = 1.0,
        scale_by_temperature: bool = False,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__(
            label_smoothing=real(label_smoothing, "label_smoothing", least=0.0, most=1.0),
            class_weight=None if class_weight is None else class_weights(class_weight, "class_weight"),
            ignore_index=(
                None if ignore_index is None else integer(ignore_index, "ignore_index", least=-(2**63), most=2**63 - 1)
            ),
            temperature=real(temperature, "temperature", above=0.0),
            scale_by_temperature=flag(scale_by_temperature, "scale_by_temperature"),
            z_loss=real(z_loss, "z_loss", least=0.0),
        )

    def _core_parameters(self) -> tuple[Any, ...]:
        values = tuple(self._parameters.values())
        # () for the loss without options, which has code of its own.
        return () if self._values() == tuple(self.spec.parameters.values()) else values


@register_loss(
    "softmax_cross_entropy",
    best="class_logits",
    prediction="logit",
    link="multinomial_logit",
    parameters=_OPTIONS,
    examples=_OPTION_EXAMPLES,
    target_domain="classes",
)
class SoftmaxCrossEntropy(_LogitsLoss, _core.SoftmaxCrossEntropy):
    """-sum_j q_j log softmax(z)_j for logits z = pred of shape (N, C).

    target is labels, integers of any width and shape (N,), or distributions q of shape (N, C) with entries in [0, 1].
    In full, with Y the one-hot label or the distribution, e = label_smoothing, T = temperature, k = z_loss,
    a = class_weight ((1 - e) Y + e / C), A = sum_j a_j, l = logsumexp(z / T) and p = softmax(z / T), a row has

    - the value c (A l - sum_j a_j z_j / T) + k l^2, with c = T^2 under scale_by_temperature, else 1,
    - the gradient (c (A p - a) + 2 k l p) / T,
    - the Hessian's diagonal (c A p (1 - p) + 2 k (p^2 + l p (1 - p))) / T^2.

    A p - a at the label is formed from the sum of the other classes, so nothing cancels where p is nearly 1. The
    softmax, the loss and the gradient are fused: one read of the logits, one write of the gradient.

    sample_weight has shape (N,); "none" gives (N,); "mean" divides by the sum over the rows that are not ignored of
    sample_weight class_weight[label] (of sample_weight for distributions): PyTorch's rule. A row with a NaN, a +inf, or
    nothing but -inf is NaN throughout.

    Equal to PyTorch's CrossEntropyLoss, which has no sample weights, temperature or z-loss, except that a batch with
    nothing in it, or nothing left, gives 0 rather than NaN, that no label is ignored unless ignore_index says so
    (PyTorch's default is -100), and that another label outside of [0, C) is a ValueError, which names its row.

    Parameters
    ----------
    label_smoothing
        The share e of the target that is spread evenly over all classes, in [0, 1].
    class_weight
        C finite numbers >= 0, not all of them 0; None for ones. Kept as a read-only copy, in float64. Another number of
        classes in pred is a ValueError at the call.
    ignore_index
        Rows with this label, which need not lie in [0, C), have value, gradient and Hessian 0 whatever their logits
        are, and do not count in "mean". None for no such label. Of no effect on distributions.
    temperature
        What the logits are divided by, > 0.
    scale_by_temperature
        Multiplies the cross-entropy, not the z-loss, by temperature^2, so that its gradients keep their size:
        distillation.
    z_loss
        The factor of logsumexp(z / T)^2, >= 0, which keeps the logits from drifting.

    Notes
    -----
    Sources: Szegedy et al. (2016), *Rethinking the Inception Architecture for Computer Vision* (label smoothing);
    Hinton, Vinyals and Dean (2015), *Distilling the Knowledge in a Neural Network* (temperature); Chowdhery et al.
    (2022), *PaLM* (z-loss).
    """

    __slots__ = ()

    def grad_and_hess(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        hess_floor: float | None = None,
        hessian: Literal["diagonal", "upper"] = "diagonal",
        *,
        out: tuple[FloatArray | None, FloatArray | None] | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return (gradient, Hessian), both (N, C), per sample and weighted.

        Parameters
        ----------
        pred, target
            Logits (N, C), and labels (N,) or distributions (N, C).
        sample_weight
            (N,), or None.
        hess_floor : float or None
            Takes the place of smaller second derivatives, before the weights.
        hessian : {"diagonal", "upper"}
            The diagonal, without options A p (1 - p), or twice that: what XGBoost uses, an upper bound of the full
            matrix (with z_loss, it need not be one).
        out
            A pair of arrays that receive the derivatives, apart from each other; None in it: a new one.
        """
        return self._grad_and_hess(pred, target, sample_weight, hess_floor, out, hessian)


@register_loss(
    "linear_cross_entropy",
    prediction="logit",
    link="multinomial_logit",
    parameters=_OPTIONS,
    examples=_OPTION_EXAMPLES,
    target_domain="classes",
    inputs=("x", "weight", "labels"),
)
class LinearCrossEntropy(_LogitsLoss, _core.LinearCrossEntropy):
    """SoftmaxCrossEntropy of the logits z = x @ weight + bias of a dense layer, which are never there as a whole.

    x is (N, D), weight (D, C), bias (C,) or None: the last layer of a language model or of any classifier of many
    classes. labels are integers of any width and shape (N,), or distributions of shape (N, C). The value of a row, the
    options and "mean" are those of SoftmaxCrossEntropy, and with g = dL/dz its gradient, the gradients are

    - by x: g @ weight.T, of shape (N, D),
    - by weight: x.T @ g, of shape (D, C),
    - by bias: the sum of g's rows, of shape (C,); None without a bias.

    The verbs are ``loss(x, weight, labels, *, bias=None, sample_weight=None, reduction="mean")``, `gradient` and
    `value_and_grad`, for which the gradient is the triple (dx, dweight, dbias). There is no `out`, and `grad_and_hess`
    is a TypeError: the loss is not one of a prediction per sample.

    The logits are computed, and turned into g, a block of rows at a time: at most 40 MiB of them (or one row, if that
    is larger), where N C numbers and as many for g would be needed; each thread of a product has some 3 MiB more.
    The block depends on the dtype, N, D and C alone, and the bits of the results neither on the threads nor, among
    targets with fused multiply-add, on the target. The error of dx is that of its matrix product; so is that of
    dweight, a sum over blocks of products over rows.

    x rules the dtype, float32 or float64 (integers become float64); weight and bias must have the same. Any strides:
    C- and F-contiguous matrices, such as the transpose of PyTorch's Linear.weight, are used without a copy. A label out
    of range is a ValueError that names its row, the label and C; shapes that do not fit are one that names both.

    Equal to PyTorch's linear and cross_entropy on z, but for what SoftmaxCrossEntropy says of it.

    Parameters
    ----------
    label_smoothing
        The share e of the target that is spread evenly over all classes, in [0, 1].
    class_weight
        C finite numbers >= 0, not all of them 0; None for ones. Kept as a read-only copy, in float64. Another number of
        classes in weight is a ValueError at the call.
    ignore_index
        Rows with this label, which need not lie in [0, C), have value and gradient 0 whatever x is there, do not count
        in "mean", and take no time. None for no such label. Of no effect on distributions.
    temperature
        What the logits are divided by, > 0.
    scale_by_temperature
        Multiplies the cross-entropy, not the z-loss, by temperature^2.
    z_loss
        The factor of logsumexp(z / T)^2, >= 0.

    Notes
    -----
    Sources: those of SoftmaxCrossEntropy. That the logits need not be stored: Wijmans et al. (2025), *Cut Your Losses
    in Large-Vocabulary Language Models*.
    """

    __slots__ = ()

    def __call__(  # type: ignore[override]  # takes a layer's weight too
        self,
        x: ArrayLike,
        weight: ArrayLike,
        labels: ArrayLike,
        *,
        bias: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        reduction: Reduction = "mean",
    ) -> float | FloatArray:
        """Return the value: a float, or an array with reduction "none".

        Parameters
        ----------
        x, weight, bias
            A dense layer: its input (N, in), weight (in, C) and bias (C,) or None.
        labels
            (N,), integers.
        sample_weight
            (N,), or None.
        reduction : {"mean", "sum", "none"}
            What is made of the values of the elements, or rows: their weighted mean, their sum, or nothing.
        """
        return self._value(x, weight, labels, bias, sample_weight, reduction)

    def gradient(  # type: ignore[override]  # as __call__
        self,
        x: ArrayLike,
        weight: ArrayLike,
        labels: ArrayLike,
        *,
        bias: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        reduction: Reduction = "mean",
    ) -> tuple[FloatArray, FloatArray, FloatArray | None]:
        """Return (dx, dweight, dbias), of the value (of the sum of the values for "none"); dbias None without bias.

        Parameters
        ----------
        x, weight, bias
            A dense layer: its input (N, in), weight (in, C) and bias (C,) or None.
        labels
            (N,), integers.
        sample_weight
            (N,), or None.
        reduction : {"mean", "sum", "none"}
            What is made of the values of the elements, or rows: their weighted mean, their sum, or nothing.
        """
        return self._gradient(x, weight, labels, bias, sample_weight, reduction)

    def value_and_grad(  # type: ignore[override]  # as __call__
        self,
        x: ArrayLike,
        weight: ArrayLike,
        labels: ArrayLike,
        *,
        bias: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        reduction: Reduction = "mean",
    ) -> tuple[float | FloatArray, tuple[FloatArray, FloatArray, FloatArray | None]]:
        """Return (value, (dx, dweight, dbias)).

        Parameters
        ----------
        x, weight, bias
            A dense layer: its input (N, in), weight (in, C) and bias (C,) or None.
        labels
            (N,), integers.
        sample_weight
            (N,), or None.
        reduction : {"mean", "sum", "none"}
            What is made of the values of the elements, or rows: their weighted mean, their sum, or nothing.
        """
        return self._value_and_grad(x, weight, labels, bias, sample_weight, reduction)

    def grad_and_hess(self, *arguments: object, **options: object) -> NoReturn:
        """Raise a TypeError, whatever the arguments and options: there are no derivatives per sample."""
        raise TypeError(
            "linear_cross_entropy has no derivatives per sample: its gradients are by x, weight and bias; "
            "softmax_cross_entropy has those by logits"
        )


@register_loss(
    "categorical_cross_entropy",
    best="distribution",
    prediction="probability",
    target_domain="distribution",
    pred_domain="unit",
    aliases=("cce", "categorical_crossentropy"),
)
class CategoricalCrossEntropy(Loss):
    """-sum_j y_j log p_j, for probabilities p = pred and distributions y = target, both (N, C) and in [0, 1].

    d1 = -y / p and d2 = y / p^2, where 0 log 0 = 0 and 0 / 0 = 0. What is certain and did not happen has an infinite
    value and gradient: nothing is clamped, and nothing normalised, neither p nor y. BinaryCrossEntropy is its case of
    two classes. From logits, SoftmaxCrossEntropy is faster and keeps all digits. A prediction or target outside of
    [0, 1] is a ValueError that names the first one. PyTorch has none; Keras' CategoricalCrossentropy divides p by its
    sum and clips it.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_loss(
    "negative_log_likelihood",
    best="log_distribution",
    curvature="none",
    prediction="log_probability",
    link="log",
    target_domain="labels",
    aliases=("nll", "nll_loss"),
)
class NegativeLogLikelihood(Loss, _core.NegativeLogLikelihood):
    """-l[label], for log-probabilities l = pred of shape (N, C) and labels = target, integers of any width, (N,).

    d1 = -1 at the label, 0 elsewhere; d2 = 0. Only the labels' elements of pred are looked at: probabilities in place
    of their logarithms are not noticed. With LogSoftmax before it, SoftmaxCrossEntropy is the same in one pass.
    PyTorch's NLLLoss, which also has class weights and an ignored label, and gives NaN for an empty batch, where this
    gives 0. A label outside of 0 to C - 1 is a ValueError that names its row, the label and C.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


def _kl_targets(parameters: Mapping[str, Any]) -> Domain:
    return "log_distribution" if parameters["log_target"] else "distribution"


@register_loss(
    "kl_divergence",
    best="distribution",
    prediction="probability",
    parameters={"log_target": False},
    examples=({"log_target": True},),
    target_domain="distribution",
    targets_of=_kl_targets,
    pred_domain="unit",
    aliases=("kl", "kullback_leibler"),
)
class KLDivergence(Loss):
    """sum_j y_j log(y_j / p_j), for probabilities p = pred and distributions y = target, both (N, C) and in [0, 1].

    d1 = -y / p and d2 = y / p^2, where 0 log 0 = 0 and 0 / 0 = 0: those of CategoricalCrossEntropy, from which it
    differs by the entropy of y. Each term keeps its relative accuracy where y is near p. A prediction or target outside
    of [0, 1] is a ValueError that names the first one.

    PyTorch's KLDivLoss takes log p, and its "mean" divides by all N C elements; this one divides by N, as PyTorch's
    "batchmean".

    Parameters
    ----------
    log_target
        Whether target is log y: numbers <= 0, -inf for a probability of 0; others are a ValueError.

    Notes
    -----
    Source: Kullback and Leibler (1951), *On Information and Sufficiency*.
    """

    __slots__ = ()

    def __init__(self, log_target: bool = False) -> None:
        super().__init__(log_target=flag(log_target, "log_target"))


@register_loss(
    "softmax_focal",
    prediction="logit",
    link="multinomial_logit",
    parameters={"gamma": 2.0, "class_weight": None},
    examples=(
        {"gamma": 0.0, "class_weight": None},
        {"gamma": 0.5, "class_weight": None},
        {"gamma": 1.0, "class_weight": None},
        {"gamma": 3.5, "class_weight": (0.5, 2.0, 1.25, 0.0, 3.0)},
    ),
    target_domain="labels",
    aliases=("categorical_focal",),
)
class SoftmaxFocal(Loss, _core.SoftmaxFocal):
    """-c (1 - p_t)^gamma log p_t for p = softmax(z), logits z = pred of shape (N, C), and labels t = target, (N,).

    With q = 1 - p_t, u = -log p_t and K = 1 + gamma p_t u / q, the gradient is c q^gamma K (p_j - [j = t]). The
    Hessian's diagonal is c q^gamma p_j (K (1 - p_j) + gamma B p_j / q) for j != t and c q^(gamma + 1) (p_t K + gamma B)
    for t, where B = p_t (2 - u + (gamma - 1) p_t u / q); it can be negative (`hess_floor`). q and 1 - p_j are formed as
    sums of the other classes, so that a confident row keeps its digits; no gamma gives NaN. gamma = 0 is
    SoftmaxCrossEntropy with class weights. A row with a NaN, a +inf, or nothing but -inf is NaN throughout. A label
    outside of 0 to C - 1 is a ValueError that names its row, the label and C. PyTorch has none.

    Parameters
    ----------
    gamma
        How much the easy examples count less, >= 0.
    class_weight
        None, or the factors c of the classes' losses, C numbers >= 0, not all of them 0. "mean" divides by the sum of
        the weights of the labels, as PyTorch does for CrossEntropyLoss.

    Notes
    -----
    Source: Lin et al. (2017), *Focal Loss for Dense Object Detection*.
    """

    __slots__ = ()

    def __init__(self, gamma: float = 2.0, class_weight: ArrayLike | None = None) -> None:
        super().__init__(
            gamma=real(gamma, "gamma", least=0.0),
            class_weight=None if class_weight is None else tuple(class_weights(class_weight, "class_weight").tolist()),
        )


@register_loss(
    "large_margin_softmax",
    prediction="logit",
    link="multinomial_logit",
    parameters={"margin": 2},
    examples=({"margin": 1}, {"margin": 3}, {"margin": 4}),
    target_domain="labels",
    inputs=("features", "weight", "target"),
    aliases=("l_softmax",),
)
class LargeMarginSoftmax(Loss):
    """Softmax cross-entropy of features @ weight in which the label's score is abs(w) abs(x) psi(theta).

    features x is (N, F), weight (F, C) with the classes' vectors w as columns (the transpose of PyTorch's Linear), and
    target labels, integers of any width, (N,). theta is the angle between x and the label's w, and
    psi(theta) = (-1)^k cos(m theta) - 2 k for theta in [k pi / m, (k + 1) pi / m], which is at most cos(theta): the
    label wins only by a margin in angle.

    Its verbs have these three arguments, then sample_weight of shape (N,) and reduction; the gradient is the pair of
    those by features and by weight. There is no `out`, and `grad_and_hess` is a TypeError: the loss is not one of a
    prediction per sample. Where x or w is 0 there is no angle: that score is 0, and adds nothing to the gradient.
    margin 1 is SoftmaxCrossEntropy of features @ weight, there too. PyTorch has none.

    It costs what a dense layer and its backward pass cost, three matrix products, and SoftmaxCrossEntropy; the margin
    itself is O(N F + F C) in NumPy.

    Parameters
    ----------
    margin
        m, an integer >= 1.

    Notes
    -----
    Source: Liu et al. (2016), *Large-Margin Softmax Loss for Convolutional Neural Networks*, without the annealing of
    its section 4.3.
    """

    __slots__ = ()

    def __init__(self, margin: int = 2) -> None:
        super().__init__(margin=integer(margin, "margin", least=1))

    def _bind_core(self) -> None:
        """Nothing of it is in the core."""

    def __call__(  # type: ignore[override]  # takes class weights too
        self,
        features: ArrayLike,
        weight: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        reduction: Reduction = "mean",
    ) -> float | FloatArray:
        """Return the value: a float, or an array with reduction "none".

        Parameters
        ----------
        features, weight
            (N, features) and the class weights (features, C), of one dtype.
        target
            Labels (N,), integers.
        sample_weight
            (N,), or None.
        reduction : {"mean", "sum", "none"}
            What is made of the values of the elements, or rows: their weighted mean, their sum, or nothing.
        """
        scores = _MarginScores(features, weight, target, sample_weight, self._parameters["margin"])
        return _softmax_cross_entropy(scores.scores, scores.labels, scores.sample_weight, reduction)

    def gradient(  # type: ignore[override]  # as __call__
        self,
        features: ArrayLike,
        weight: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        reduction: Reduction = "mean",
    ) -> tuple[FloatArray, FloatArray]:
        """Return the derivatives of the value by features and by weight (of the sum of the values for "none").

        Parameters
        ----------
        features, weight
            (N, features) and the class weights (features, C), of one dtype.
        target
            Labels (N,), integers.
        sample_weight
            (N,), or None.
        reduction : {"mean", "sum", "none"}
            What is made of the values of the elements, or rows: their weighted mean, their sum, or nothing.
        """
        return self.value_and_grad(features, weight, target, sample_weight, reduction)[1]

    def value_and_grad(  # type: ignore[override]  # as __call__
        self,
        features: ArrayLike,
        weight: ArrayLike,
        target: ArrayLike,
        sample_weight: ArrayLike | None = None,
        reduction: Reduction = "mean",
    ) -> tuple[float | FloatArray, tuple[FloatArray, FloatArray]]:
        """Return (value, (dfeatures, dweight)).

        Parameters
        ----------
        features, weight
            (N, features) and the class weights (features, C), of one dtype.
        target
            Labels (N,), integers.
        sample_weight
            (N,), or None.
        reduction : {"mean", "sum", "none"}
            What is made of the values of the elements, or rows: their weighted mean, their sum, or nothing.
        """
        scores = _MarginScores(features, weight, target, sample_weight, self._parameters["margin"])
        value, d_scores = _softmax_cross_entropy.value_and_grad(
            scores.scores, scores.labels, scores.sample_weight, reduction, out=scores.scores
        )
        return value, scores.backward(d_scores)

    def grad_and_hess(self, *arguments: object, **options: object) -> NoReturn:
        """Raise a TypeError, whatever the arguments and options: there are no derivatives per sample."""
        raise TypeError(
            "large_margin_softmax has no derivatives per sample: its gradients are by features and weight; "
            "softmax_cross_entropy has those by scores"
        )


class _MarginScores:
    """The scores of LargeMarginSoftmax, and the way back from their gradient.

    The label's score is f = abs(w) abs(x) psi(c), c being the cosine. With psi' its derivative by c,
    df/dx = psi' w + (psi - c psi') abs(w) x / abs(x), and the same with x and w exchanged: the first term is what a
    plain score has, times psi'.
    """

    def __init__(
        self, features: ArrayLike, weight: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None, margin: int
    ) -> None:
        # All are made arrays before any is looked at: that may run code which changes the others.
        features, weight, target = (
            real_array(features, "features"),
            real_array(weight, "weight"),
            real_array(target, "target"),
        )
        self.sample_weight = None if sample_weight is None else real_array(sample_weight, "sample_weight")
        self.features = _matrix(features, "features")
        self.weight = _matrix(weight, "weight")
        if self.features.dtype != self.weight.dtype:
            raise TypeError(
                f"weight has dtype {self.weight.dtype} but features has dtype {self.features.dtype}; they must be "
                "equal: cast one with .astype"
            )
        if self.features.shape[1] != self.weight.shape[0]:
            raise ValueError(
                f"weight has shape {self.weight.shape}; expected {self.features.shape[1]} rows, as features has shape "
                f"{self.features.shape}"
            )
        self.labels = _label_array(target, len(self.features), self.weight.shape[1])
        self.margin = margin
        self.scores = _core.matmul(self.features, self.weight, False, False, None)
        if margin > 1:
            self._set_margin()

    def _set_margin(self) -> None:
        m = self.margin
        rows = np.arange(len(self.labels))
        own = self.scores[rows, self.labels].astype(np.float64)
        size_x, size_w = _norms(self.features, 1), _norms(self.weight, 0)
        size = size_x * size_w[self.labels]
        flat = size == 0
        cosine = np.clip(own / np.where(flat, 1.0, size), -1.0, 1.0)
        # cos(m theta) and sin(m theta) / sin(theta) are polynomials in the cosine, of Chebyshev's two kinds.
        before, first = np.ones_like(cosine), cosine
        second_before, second = np.zeros_like(cosine), np.ones_like(cosine)
        for _ in range(m - 1):
            before, first = first, 2.0 * cosine * first - before
            second_before, second = second, 2.0 * cosine * second - second_before
        k = np.minimum(np.floor(m * np.arccos(cosine) / np.pi), m - 1)
        sign = np.where(k % 2 == 0, 1.0, -1.0)
        psi = sign * first - 2.0 * k
        slope = np.where(flat, 0.0, m * sign * second)
        turn = np.where(flat, 0.0, psi - cosine * slope)
        self.scores[rows, self.labels] = size * psi
        self._slope = slope
        self._by_features = turn * size_w[self.labels] / np.where(flat, 1.0, size_x)
        self._by_weight = turn * size_x
        self._size_w = np.where(size_w == 0, 1.0, size_w)

    @np.errstate(over="ignore", invalid="ignore")  # to infinity without a word, as in the core
    def backward(self, d_scores: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the gradients by features and weight; overwrites d_scores."""
        if self.margin == 1:
            return self._products(d_scores)
        rows = np.arange(len(self.labels))
        own = d_scores[rows, self.labels].astype(np.float64)
        d_scores[rows, self.labels] = own * self._slope
        d_features, d_weight = self._products(d_scores)
        by_features: Any = (own * self._by_features).astype(d_scores.dtype)
        d_features += by_features[:, np.newaxis] * self.features
        own_by_weight = np.bincount(self.labels, weights=own * self._by_weight, minlength=len(self._size_w))
        by_weight: Any = (own_by_weight / self._size_w).astype(d_scores.dtype)
        d_weight += by_weight * self.weight
        return d_features, d_weight

    def _products(self, d_scores: FloatArray) -> tuple[FloatArray, FloatArray]:
        return (
            _core.matmul(d_scores, self.weight, False, True, None),
            _core.matmul(self.features, d_scores, True, False, None),
        )


_softmax_cross_entropy = SoftmaxCrossEntropy()


def _norms(matrix: FloatArray, axis: int) -> NDArray[np.float64]:
    """Return the Euclidean norms along an axis, in float64."""
    norms: NDArray[np.float64] = np.sqrt(np.square(matrix, dtype=np.float64).sum(axis=axis))
    return norms


def _matrix(array: NDArray[Any], name: str) -> FloatArray:
    """Return a two-dimensional array of float32 or float64; integers and booleans become float64."""
    found = float_array(array, name)
    if found.ndim != 2:
        raise ValueError(f"{name} has shape {found.shape}; expected two dimensions")
    return found


def _label_array(found: NDArray[Any], rows: int, classes: int) -> NDArray[np.int64]:
    """Return labels of shape (rows,) in [0, classes)."""
    if found.shape != (rows,):
        raise ValueError(f"target has shape {found.shape}; expected ({rows},), one label per row of features")
    if found.dtype.kind not in "iub" and rows:
        whole = found.dtype.kind == "f" and np.all(np.isfinite(found) & (found == np.trunc(found)))
        advice = " (all are whole numbers: give target.astype(int))" if whole else ""
        raise TypeError(f"target has dtype {found.dtype}; expected integer labels{advice}")
    # What is checked is what is used; a label that does not fit becomes negative.
    labels = found.astype(np.int64)
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(
            f"target[{row}] is label {found[row]}; expected 0 to {classes - 1} (weight has C = {classes} classes)"
        )
    return labels


def names() -> list[str]:
    """Return the names of all losses, for `get`."""
    return list(_registry.losses())


def get(name: str, **parameters: Any) -> Loss:
    """Return the loss called `name`, or of this alias, with these `parameters`: ``get("huber", delta=2.0)``.

    Raises
    ------
    ValueError
        If there is none of this name; the message says which ones are near.
    TypeError
        If the loss does not take a parameter that is given.
    """
    loss: Loss = _registry.find("loss", name).cls(**parameters)
    return loss
