"""The formulas in plain float64 NumPy: what the tests and the benchmarks compare with.

One function for each formula, named as in the registry. An elementwise activation gives (f(x), f'(x)); any other one
gives f(x) and its vector-Jacobian product, a function from dL/dy to dL/dx. A loss of one prediction per target gives
(value, first derivative, second derivative by the prediction), elementwise; a loss over classes gives (value per row,
gradient, diagonal of the Hessian). An optimizer gives the parameter after a step from (p, g, state, t): the state, a
dict of arrays under the names of its `state_dict`, empty before the first step, is brought up to date, and t counts the
steps from 1. Written for exactness and to be read, not for speed: where the textbook form cancels
or overflows, an equal form that does not stands here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuseprop._listing import listing

__all__ = [
    "absolute_error",
    "absolute_percentage_error",
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "categorical_cross_entropy",
    "celu",
    "crelu",
    "elu",
    "exponential",
    "focal_with_logits",
    "gamma",
    "geglu",
    "gelu",
    "glu",
    "half_squared_error",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hinge",
    "huber",
    "identity",
    "kl_divergence",
    "large_margin_softmax",
    "layer_norm",
    "leaky_relu",
    "linear_cross_entropy",
    "lion",
    "log_cosh",
    "log_sigmoid",
    "log_softmax",
    "logistic",
    "maxout",
    "mish",
    "nadam",
    "negative_log_likelihood",
    "poisson",
    "prelu",
    "pseudo_huber",
    "quantile",
    "relu",
    "rmsprop",
    "root_mean_squared_error",
    "rrelu",
    "selu",
    "sgd",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "softmax_focal",
    "softplus",
    "softsign",
    "squared_error",
    "squared_hinge",
    "step",
    "swiglu",
    "swish",
    "symmetric_absolute_percentage_error",
    "tanh",
    "tweedie",
    "zero_one",
]

__dir__ = listing(__all__)

F64 = NDArray[np.float64]
VJP = Callable[[F64], F64]


def _or_nan(value: F64 | float, x: F64) -> F64:
    """`value`, but NaN where x is NaN."""
    return np.where(np.isnan(x), x, value)


def _sigmoid(x: F64) -> F64:
    """1 / (1 + e^-x), as e^x / (1 + e^x) on the left: nothing overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def _softplus(x: F64) -> F64:
    """log(1 + e^x)."""
    return np.where(x > 0, x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _one(x: F64) -> F64:
    """1 in x's precision: constants are formed from it, so that nothing here limits that precision."""
    one: F64 = np.where(np.isfinite(x), x, 0.0) * 0.0 + 1.0
    return one


def _held(x: F64, limit: float) -> F64:
    """X within [-limit, limit]; NaN stays."""
    return np.where(x < -limit, -limit, np.where(x > limit, limit, x))


def _negative(x: F64) -> F64:
    """X where it is negative, else 0: where an exponential is not to overflow."""
    return np.where(x > 0, 0.0, x)


def _gated(x: F64, z: F64, slope: F64) -> tuple[F64, F64]:
    """X s(z) and its derivative s(z) (1 + v s(-z)), v = x dz/dx given as `slope`, held to where they are finite."""
    t = np.exp(-np.abs(z))
    f = np.where(np.isinf(x) & (z < 0), 0.0 * np.sign(x), x * _sigmoid(z))
    return f, np.where(z < 0, t * (1.0 + t + slope), 1.0 + t * (1.0 + slope)) / (1.0 + t) ** 2


@functools.cache
def _gauss_weights() -> list[tuple[float, float]]:
    """Return e^(-t^2/2) for t = 1/4, 3/4, 5/4 ... 47/4, each as a sum of two floats."""
    from decimal import Decimal, localcontext  # noqa: PLC0415  # not needed to import the package

    with localcontext() as context:
        context.prec = 50
        exact = [(-Decimal((2 * n + 1) ** 2) / 32).exp() for n in range(24)]
        return [(float(w), float(w - Decimal(float(w)))) for w in exact]


def _normal_tail(a: F64) -> tuple[F64, F64]:
    """Return e and r with 1 - Phi(a) = e r and e = e^(-a^2/2), a >= 0, Phi the normal distribution function.

    r = a h / pi sum_t e^(-t^2/2) / (t^2 + a^2) + e^(a^2/2) / (1 + e^(2 pi a / h)), t = h/2, 3h/2, 5h/2 ...: the
    trapezoidal rule for an integral of the error function, and the residue of the pole that it passes by (Chiarella &
    Reichel 1968). With h = 1/2 its own relative error is below 1e-33; no term is negative.
    """
    one = _one(a)
    total = 0.0 * one
    for n, (high, low) in enumerate(_gauss_weights()):
        total = total + (high * one + low * one) / ((0.5 * n + 0.25) ** 2 + a * a)
    inverse_2pi = 0.15915494309189535 * one - 9.839338337591243e-18 * one  # h / pi
    near = np.where(a < 12.5, a, 0.0)
    residue = np.exp(0.5 * near * near) / (1.0 + np.exp(4.0 * np.pi * near))
    return np.exp(-0.5 * a * a), inverse_2pi * a * total + np.where(a < 12.5, residue, 0.0)


def _log_softmax(x: F64, axis: int) -> F64:
    """Return x - logsumexp, along an axis; the largest term stands outside of the sum, for accuracy."""
    if x.shape[axis] == 0:
        return x
    top = np.expand_dims(np.argmax(x, axis=axis), axis)
    shifted = x - np.take_along_axis(x, top, axis=axis)
    e = np.exp(shifted)
    bad = np.isnan(np.take_along_axis(e, top, axis=axis))
    np.put_along_axis(e, top, 0.0, axis=axis)
    result: F64 = np.where(bad, np.nan, shifted - np.log1p(e.sum(axis=axis, keepdims=True)))
    return result


# --- activations --------------------------------------------------------------------------------------------


def identity(x: F64) -> tuple[F64, F64]:
    """f = x."""
    return x, _or_nan(1.0, x)


def step(x: F64, at_zero: float) -> tuple[F64, F64]:
    """f = 0 if x < 0, at_zero if x = 0, 1 if x > 0; f' = 0."""
    return _or_nan(np.where(x > 0, 1.0, np.where(x < 0, 0.0, at_zero)), x), _or_nan(0.0, x)


def relu(x: F64) -> tuple[F64, F64]:
    """f = max(0, x); f'(0) = 0."""
    return _or_nan(np.where(x > 0, x, 0.0), x), _or_nan(np.where(x > 0, 1.0, 0.0), x)


def leaky_relu(x: F64, negative_slope: float) -> tuple[F64, F64]:
    """f = x if x > 0 else a x; f'(0) = a."""
    return np.where(x > 0, x, negative_slope * x), _or_nan(np.where(x > 0, 1.0, negative_slope), x)


def sigmoid(x: F64) -> tuple[F64, F64]:
    """f = s(x); f' = s(x) s(-x)."""
    return _sigmoid(x), _sigmoid(x) * _sigmoid(-x)


def tanh(x: F64) -> tuple[F64, F64]:
    """f = tanh x; f' = 1 / cosh^2 x, as 4 e / (1 + e)^2 with e = e^(-2 abs x)."""
    e = np.exp(-2.0 * np.abs(x))
    return np.tanh(x), 4.0 * e / (1.0 + e) ** 2


def softplus(x: F64, beta: float) -> tuple[F64, F64]:
    """f = log(1 + e^(beta x)) / beta; f' = s(beta x)."""
    return _softplus(beta * x) / beta, _sigmoid(beta * x)


def elu(x: F64, alpha: float) -> tuple[F64, F64]:
    """f = x if x > 0 else alpha (e^x - 1); f'(0) = alpha."""
    left = _negative(x)
    return np.where(x > 0, x, alpha * np.expm1(left)), np.where(x > 0, 1.0, alpha * np.exp(left))


def selu(x: F64) -> tuple[F64, F64]:
    """f = lambda elu(x, alpha)."""
    scale = 1.0507009873554805 * _one(x)
    f, d1 = elu(x, 1.6732632423543772)
    return scale * f, scale * d1


def celu(x: F64, alpha: float) -> tuple[F64, F64]:
    """f = max(0, x) + min(0, alpha (e^(x / alpha) - 1)); f'(0) = 1."""
    left = _negative(x) / alpha
    return np.where(x > 0, x, alpha * np.expm1(left)), np.where(x > 0, 1.0, np.exp(left))


def swish(x: F64, beta: float) -> tuple[F64, F64]:
    """f = x s(beta x); f' = s(beta x) (1 + beta x s(-beta x))."""
    z = beta * x if beta != 0 else _or_nan(0.0, x)
    return _gated(x, z, _held(z, 2e4))


def gelu(x: F64, approximate: str) -> tuple[F64, F64]:
    """f = x Phi(x), f' = Phi(x) + x phi(x); or f = x s(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    if approximate == "tanh":
        near = _held(x, 1e4)
        factor = 1.5957691216057308 * _one(x) - 9.96930881091092e-17 * _one(x)  # 2 sqrt(2 / pi)
        cubic = 44715 * near**3 / 1000000
        return _gated(x, factor * (near + cubic), factor * (near + 3.0 * cubic))
    near = _held(x, 1e3)
    a = np.abs(near)
    e, r = _normal_tail(a)
    slope = 0.3989422804014327 * a - 2.49232720227773e-17 * a  # phi(x) = e / sqrt(2 pi)
    tail, d_tail = near * e * r, e * (r - slope)
    return np.where(x > 0, x - tail, tail), np.where(x < 0, d_tail, 1.0 - d_tail)


def log_sigmoid(x: F64) -> tuple[F64, F64]:
    """f = -log(1 + e^-x); f' = s(-x)."""
    return -_softplus(-x), _sigmoid(-x)


def mish(x: F64) -> tuple[F64, F64]:
    """f = x tanh(log(1 + e^x)), as a quotient of polynomials in t = e^(-abs x)."""
    near = _held(x, 2e4)
    t = np.exp(-np.abs(x))
    left, right = 2.0 + t * (2.0 + t), 1.0 + t * (2.0 + 2.0 * t)
    f = np.where(x < 0, near * t * (2.0 + t) / left, x * ((1.0 + 2.0 * t) / right))
    d_left = t * ((2.0 + t) * left + 4.0 * near * (1.0 + t)) / left**2
    d_right = ((1.0 + 2.0 * t) * right + 4.0 * near * t * t * (1.0 + t)) / right**2
    return f, np.where(x < 0, d_left, d_right)


def softsign(x: F64) -> tuple[F64, F64]:
    """f = x / (1 + abs x); f' = 1 / (1 + abs x)^2."""
    size = 1.0 + np.abs(x)
    return np.where(np.isinf(x), np.sign(x), x / size), (1.0 / size) / size


def hardtanh(x: F64, min_val: float, max_val: float) -> tuple[F64, F64]:
    """f = x held within [min_val, max_val]; f' = 1 if min_val < x <= max_val else 0."""
    inside = (x > min_val) & (x <= max_val)
    return np.where(x < min_val, min_val, np.where(x > max_val, max_val, x)), _or_nan(np.where(inside, 1.0, 0.0), x)


def hardsigmoid(x: F64) -> tuple[F64, F64]:
    """f = (x + 3) / 6 held within [0, 1]; f' = 1/6 if -3 < x <= 3 else 0."""
    f = np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, (x + 3.0) / 6.0))
    return f, _or_nan(np.where((x > -3) & (x <= 3), _one(x) / 6.0, 0.0), x)


def hardswish(x: F64) -> tuple[F64, F64]:
    """f = 0 if x <= -3, x (x + 3) / 6 between, x if x >= 3; f'(-3) = 0, f'(3) = 3/2."""
    f = np.where(x <= -3, -0.0, np.where(x >= 3, x, x * (x + 3.0) / 6.0))
    return f, np.where(x <= -3, 0.0, np.where(x > 3, 1.0, (2.0 * x + 3.0) / 6.0))


# --- activations of another structure -----------------------------------------------------------------------


def prelu(
    x: F64, init: float, num_parameters: int, alpha: F64 | None = None
) -> tuple[F64, Callable[[F64], tuple[F64, F64]]]:
    """f = x if x > 0 else a x, with a per channel; the product gives (dx, da), da = sum of dy x over x <= 0."""
    a = np.full(num_parameters, init) if alpha is None else alpha

    def vjp(dy: F64) -> tuple[F64, F64]:
        terms = np.where(x > 0, 0.0, dy * x)
        da = terms.sum().reshape(1) if num_parameters == 1 else terms.reshape(-1, num_parameters).sum(axis=0)
        return dy * _or_nan(np.where(x > 0, 1.0, a.reshape(()) if num_parameters == 1 else a), x), da

    return np.where(x > 0, x, (a.reshape(()) if num_parameters == 1 else a) * x), vjp


def rrelu(x: F64, lower: float, upper: float, slopes: F64 | None = None) -> tuple[F64, VJP]:
    """f = x if x > 0 else a x, a being the slopes drawn, or their mean."""
    a = np.full(x.shape, (lower + upper) / 2) if slopes is None else slopes
    return np.where(x > 0, x, a * x), lambda dy: dy * _or_nan(np.where(x > 0, 1.0, a), x)


def softmax(x: F64, axis: int) -> tuple[F64, VJP]:
    """f = e^x / sum e^x; dx = f (dy - sum dy f), with dy relative to its element at the largest f."""
    f = np.exp(_log_softmax(x, axis))

    def vjp(dy: F64) -> F64:
        if x.shape[axis] == 0:
            return x
        top = np.expand_dims(np.argmax(x, axis=axis), axis)
        shifted = dy - np.take_along_axis(dy, top, axis=axis)
        result: F64 = f * (shifted - (shifted * f).sum(axis=axis, keepdims=True))
        return result

    return f, vjp


def log_softmax(x: F64, axis: int) -> tuple[F64, VJP]:
    """f = x - log sum e^x; dx = dy - e^f sum dy."""
    f = _log_softmax(x, axis)
    return f, lambda dy: dy - np.exp(f) * dy.sum(axis=axis, keepdims=True)


def crelu(x: F64, axis: int) -> tuple[F64, VJP]:
    """f = (max(0, x), max(0, -x)), one after the other along the axis."""
    d0, d1 = relu(x)[1], relu(-x)[1]

    def vjp(dy: F64) -> F64:
        first, second = np.split(dy, 2, axis=axis)
        return first * d0 - second * d1

    return np.concatenate([relu(x)[0], relu(-x)[0]], axis=axis), vjp


def maxout(x: F64, pieces: int, axis: int) -> tuple[F64, VJP]:
    """f = the largest of each group of neighbours; its gradient goes to the first that holds it."""
    moved = np.moveaxis(x, axis, -1)
    groups = moved.reshape(*moved.shape[:-1], moved.shape[-1] // pieces, pieces)
    first = np.arange(pieces) == groups.argmax(axis=-1)[..., np.newaxis]
    value = groups.max(axis=-1)

    def vjp(dy: F64) -> F64:
        to_first = np.where(first, np.moveaxis(dy, axis, -1)[..., np.newaxis], 0.0)
        return np.moveaxis(_or_nan(to_first, value[..., np.newaxis]).reshape(moved.shape), -1, axis)

    return np.moveaxis(value, -1, axis), vjp


def _gated_unit(x: F64, g: Callable[[F64], tuple[F64, F64]]) -> tuple[F64, VJP]:
    a, b = np.split(x, 2, axis=-1)
    value, derivative = g(b)
    return a * value, lambda dy: np.concatenate([dy * value, dy * (a * derivative)], axis=-1)


def glu(x: F64) -> tuple[F64, VJP]:
    """f = a s(b), a and b being the halves of the last axis."""
    return _gated_unit(x, sigmoid)


def swiglu(x: F64) -> tuple[F64, VJP]:
    """f = a b s(b), a and b being the halves of the last axis."""
    return _gated_unit(x, lambda b: swish(b, 1.0))


def geglu(x: F64) -> tuple[F64, VJP]:
    """f = a b Phi(b), a and b being the halves of the last axis."""
    return _gated_unit(x, lambda b: gelu(b, "none"))


# --- losses of one prediction per target --------------------------------------------------------------------


def zero_one(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """1 if y p <= 0 else 0; NaN in place of the derivatives, which a metric does not have."""
    nan = pred * np.nan
    return _or_nan(np.where(target * pred <= 0, 1.0, 0.0), pred), nan, nan


def hinge(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """max(0, 1 - y p)."""
    slack = 1.0 - target * pred
    inside = slack > 0
    return (
        _or_nan(np.where(inside, slack, 0.0), pred),
        _or_nan(np.where(inside, -target, 0.0), pred),
        _or_nan(0.0, pred),
    )


def squared_hinge(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """max(0, 1 - y p)^2."""
    slack, slope, _ = hinge(pred, target)
    return slack * slack, 2.0 * slope * slack, _or_nan(np.where(slack > 0, 2.0, 0.0), pred)


def exponential(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """e^(-y p)."""
    value = np.exp(-target * pred)
    return value, -target * value, value


def logistic(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """log(1 + e^(-y p))."""
    return _softplus(-target * pred), -target * _sigmoid(-target * pred), _sigmoid(pred) * _sigmoid(-pred)


def half_squared_error(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """r^2 / 2."""
    r = pred - target
    return 0.5 * r * r, r, _or_nan(1.0, r)


def squared_error(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """r^2."""
    r = pred - target
    return r * r, 2.0 * r, _or_nan(2.0, r)


def root_mean_squared_error(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """sqrt(mean r^2), a scalar; NaN in place of the second derivatives, which are no numbers per sample."""
    r = pred - target
    largest = np.max(np.abs(r), initial=0.0)
    scale = largest if 0 < largest < np.inf else 1.0
    root = np.sqrt(np.mean((r / scale) ** 2))
    gradient = r / scale / np.where(root == 0, 1.0, root) / max(1, np.size(r))
    infinite = np.isinf(r)
    if infinite.any() and not np.isnan(r).any():  # they share the gradient
        gradient = np.where(infinite, np.sign(r), 0.0) / np.sqrt(np.size(r) * np.sum(infinite))
    return root * scale, gradient, r * np.nan


def absolute_error(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """abs r; its slope at 0 is 0."""
    r = pred - target
    return np.abs(r), np.sign(r), _or_nan(0.0, r)


def absolute_percentage_error(pred: F64, target: F64, on_zero: str) -> tuple[F64, F64, F64]:
    """100 abs(r / y); at y = 0 infinite, but 0 for p = 0 or if on_zero is "skip"."""
    r = pred - target
    dropped = (target == 0) & ((pred == 0) | (~np.isnan(pred) & (on_zero == "skip")))
    divisor = np.where(dropped, 1.0, np.abs(target))
    with np.errstate(divide="ignore", invalid="ignore"):
        value, slope = 100.0 * np.abs(r / divisor), 100.0 * np.sign(r) / divisor
    value = np.where(np.isinf(target) & np.isfinite(pred), 100.0, value)  # the limit
    return np.where(dropped, 0.0, value), np.where(dropped, 0.0, slope), np.where(dropped, 0.0, _or_nan(0.0, r))


def symmetric_absolute_percentage_error(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """200 abs(r) / S with S = abs p + abs y; 0 / 0 is 0, and an infinity on one side gives the limit.

    The first derivative 200 (sign(r) S - abs(r) sign(p)) / S^2 cancels. For p and y of one sign it is
    400 sign(r) abs(y) / S^2, for different signs 0, at p = 0 half of the former.
    """
    r, total = pred - target, np.abs(pred) + np.abs(target)
    far = np.isinf(pred) & np.isfinite(target) | np.isinf(target) & np.isfinite(pred)
    flat = (total == 0) | far
    divisor = np.where(flat, 1.0, total)
    with np.errstate(invalid="ignore"):
        value = 200.0 * np.abs(r) / divisor
        factor = 200.0 * (1.0 + np.sign(pred) * np.sign(target))
        slope = np.sign(r) * factor * (np.abs(target) / divisor) / divisor
        bend = -2.0 * np.sign(pred) * slope / divisor
    return np.where(flat, np.where(far, 200.0, 0.0), value), np.where(flat, 0.0, slope), np.where(flat, 0.0, bend)


def huber(pred: F64, target: F64, delta: float) -> tuple[F64, F64, F64]:
    """r^2 / 2 if abs r <= delta else delta abs r - delta^2 / 2."""
    r = pred - target
    size = np.abs(r)
    value = np.where(size > delta, delta * (size - 0.5 * delta), 0.5 * r * r)
    return value, np.clip(r, -delta, delta), _or_nan(np.where(size > delta, 0.0, 1.0), r)


def pseudo_huber(pred: F64, target: F64, delta: float) -> tuple[F64, F64, F64]:
    """delta^2 (root - 1) with root = sqrt(1 + (r / delta)^2), as r^2 / (1 + root)."""
    r = pred - target
    size = np.abs(r)
    ratio = size / delta
    far = ratio > 1
    # root = scale * steep with scale = max(1, abs(r) / delta), so that no square overflows.
    inner = np.where(far, 1.0 / np.where(far, ratio, 1.0), ratio)
    steep = np.sqrt(1.0 + inner * inner)
    value = size * np.where(far, delta / (inner + steep), size / (1.0 + steep))
    slope = np.where(far, np.sign(r) * delta, r) / steep
    cosine = np.where(far, inner, 1.0) / steep
    return _or_nan(value, r), _or_nan(slope, r), _or_nan(cosine**3, r)


def log_cosh(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """log cosh r; log1p(2 sinh^2(r/2)) near 0, where log cosh itself would lose all digits."""
    r = pred - target
    size = np.abs(r)
    near = np.log1p(2.0 * np.sinh(0.5 * np.minimum(size, 1.0)) ** 2)
    value = np.where(size < 1.0, near, size - np.log(2.0) + np.log1p(np.exp(-2.0 * size)))
    return value, np.tanh(r), tanh(r)[1]


def quantile(pred: F64, target: F64, q: float) -> tuple[F64, F64, F64]:
    """q (y - p) if y >= p, else (1 - q) (p - y)."""
    r = pred - target
    slope = np.where(r > 0, 1.0 - q, -q)
    return slope * r, _or_nan(np.where(r == 0, 0.0, slope), r), _or_nan(0.0, r)


def binary_cross_entropy(pred: F64, target: F64, eps: float | None) -> tuple[F64, F64, F64]:
    """-(y log p + (1 - y) log1p(-p)), with p in [eps, 1 - eps]; 0 log 0 = 0 and 0 / 0 = 0."""
    low = 0.0 if eps is None else eps
    p = np.where(pred < low, low, np.where(1.0 - pred < low, 1.0 - low, np.abs(pred)))
    q = np.where(pred < low, 1.0 - low, np.where(1.0 - pred < low, low, 1.0 - pred))
    negative = 1.0 - target
    has_positive, has_negative = target != 0, negative != 0
    # Where a factor is 0 its term is left out.
    p_safe, q_safe = np.where(has_positive, p, 1.0), np.where(has_negative, q, 1.0)
    with np.errstate(divide="ignore"):
        log_p = np.where(p < 0.5, np.log(p_safe), np.log1p(-np.where(has_positive, q, 0.0)))
        log_q = np.where(p < 0.5, np.log1p(-np.where(has_negative, p, 0.0)), np.log(q_safe))
        value = -(target * log_p + negative * log_q)
        both = p * q
        numerator = np.where(p < 0.5, p - target, negative - q)
        slope = np.where(both == 0, negative / q_safe - target / p_safe, numerator / np.where(both == 0, 1.0, both))
        bend = target / p_safe / p_safe + negative / q_safe / q_safe
    return _or_nan(value, pred), _or_nan(slope, pred), _or_nan(bend, pred)


def binary_cross_entropy_with_logits(pred: F64, target: F64, pos_weight: float) -> tuple[F64, F64, F64]:
    """w y softplus(-z) + (1 - y) softplus(z)."""
    positive, negative = pos_weight * target, 1.0 - target
    with np.errstate(invalid="ignore"):  # 0 * inf, which stands for 0
        value = np.where(positive == 0, 0.0, positive * _softplus(-pred))
        value = value + np.where(negative == 0, 0.0, negative * _softplus(pred))
    s, s_minus = _sigmoid(pred), _sigmoid(-pred)
    return _or_nan(value, pred), negative * s - positive * s_minus, (positive + negative) * s * s_minus


def focal_with_logits(pred: F64, target: F64, gamma: float, alpha: float) -> tuple[F64, F64, F64]:
    """y L1 + (1 - y) L0, where L = -A b^g log a with a = s(u), b = s(-u), and u = z for class 1, -z for class 0."""
    value, d1, d2 = 0.0 * target, 0.0 * target, 0.0 * target
    for sign, share in ((1.0, alpha * target), (-1.0, (1.0 - alpha) * (1.0 - target))):
        u = sign * pred
        a, b, minus_log_a = _sigmoid(u), _sigmoid(-u), _softplus(-u)
        # Beyond 1e4 the power is 0, or multiplied by zeros.
        weight = share * np.exp(-gamma * _softplus(np.where(u > 1e4, 1e4, u)))
        with np.errstate(invalid="ignore"):  # 0 * inf, which stands for 0
            a_log = np.where(a == 0, 0.0, a * minus_log_a)
            value = value + np.where(share == 0, 0.0, weight * minus_log_a)
        d1 = d1 - sign * weight * (gamma * a_log + b)
        d2 = d2 + weight * (a * b * (1.0 + 2.0 * gamma) - gamma * a_log * (b - gamma * a))
    return _or_nan(value, pred), _or_nan(d1, pred), _or_nan(d2, pred)


def poisson(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """e^z - y z."""
    e = np.exp(pred)
    product = target * np.where((target == 0) | np.isinf(e), 0.0, pred)
    # Where e^z is infinite, the larger term has the sign.
    log_y = np.log(np.where(target > 0, target, 1.0))
    log_z = np.log(np.where(np.isinf(e), pred, 1.0))
    behind, below = (np.isinf(e) & (target > 0) & (pred < gap + log_y) for gap in (log_z, 0.0))
    return np.where(behind, -np.inf, e - product), np.where(below, -np.inf, e - target), e


def gamma(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """z + y e^-z."""
    e = target * np.exp(-0.5 * pred) * np.exp(-0.5 * pred)
    return np.where(np.isinf(e), e, pred + e), 1.0 - e, e


def tweedie(pred: F64, target: F64, power: float) -> tuple[F64, F64, F64]:
    """e^((2-P) z) / (2-P) - y e^((1-P) z) / (1-P); a quotient by 0 stands for z or y z; P = 0 adds y^2 / 2."""
    if power == 1:
        return poisson(pred, target)
    if power == 2:
        return gamma(pred, target)
    first, second = 2.0 - power, 1.0 - power
    root_a, root_b = np.exp(0.5 * first * pred), np.exp(0.5 * second * pred)
    root_b = np.where(target == 0, 0.0, root_b)
    a, b = root_a * root_a, target * root_b * root_b
    with np.errstate(divide="ignore"):
        lead = pred - np.log(np.abs(target))  # log(A / abs(B))

    def difference(c_a: float, c_b: float) -> F64:
        """c_a A - c_b B; where a term is infinite, the one with the larger logarithm has the sign."""
        with np.errstate(invalid="ignore"):
            plain = c_a * a - c_b * b
            limit = np.where(
                lead + math.log(abs(c_a / c_b)) > 0,
                math.copysign(math.inf, c_a),
                np.where((target > 0) == (c_b > 0), -math.inf, math.inf),
            )
        return np.where(np.isfinite(plain) | np.isnan(pred), plain, limit)

    value = 0.5 * (np.exp(pred) - target) ** 2 if power == 0 else difference(1.0 / first, 1.0 / second)
    return value, difference(1.0, 1.0), difference(first, second)


# --- losses over classes ------------------------------------------------------------------------------------


def softmax_cross_entropy(  # noqa: PLR0917  # the loss's options
    pred: F64,
    target: NDArray[Any],
    label_smoothing: float = 0.0,
    class_weight: NDArray[Any] | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    scale_by_temperature: bool = False,
    z_loss: float = 0.0,
) -> tuple[F64, F64, F64]:
    """Return c (A l - sum_j a_j t_j) + k l^2, t = z / T, l = logsumexp(t), c = T^2 or 1, a = w ((1 - e) Y + e / C).

    Y is a distribution, or one-hot for integer labels of one dimension less; A = sum_j a_j. The gradient is
    (c (A p - a) + 2 k l p) / T with p = softmax(t).
    """
    counts: Any = True
    if target.ndim < pred.ndim:
        counts = (target != ignore_index)[..., None]
        target = np.where(counts, target[..., None] == np.arange(pred.shape[-1]), 0.0)
    logits = pred / temperature
    log_p = _log_softmax(logits, -1)
    p = np.exp(log_p)
    kept, weights = 1.0 - label_smoothing, 1.0 if class_weight is None else class_weight
    a = weights * (target * kept + label_smoothing / pred.shape[-1]) if label_smoothing else weights * target
    with np.errstate(invalid="ignore"):  # 0 * -inf, which stands for 0
        value = -np.where(a == 0, 0.0, a * log_p).sum(axis=-1)
    total = a.sum(axis=-1, keepdims=True)
    # 1 - p, as the sum of the others where p may be near 1.
    top = np.argmax(pred, axis=-1, keepdims=True)
    others = p.copy()
    np.put_along_axis(others, top, 0.0, axis=-1)
    rest = 1.0 - p
    np.put_along_axis(rest, top, others.sum(axis=-1, keepdims=True), axis=-1)
    one_hot = (a == total) & (a > 0)
    gradient = np.where(one_hot, -total * rest, total * p - a)
    hessian = total * p * rest
    if scale_by_temperature:
        value, gradient, hessian = (temperature**2 * x for x in (value, gradient, hessian))
    if z_loss:
        largest = np.take_along_axis(logits, top, axis=-1)
        lse = largest - np.take_along_axis(log_p, top, axis=-1)
        value = value + z_loss * lse[..., 0] ** 2
        gradient = gradient + 2.0 * z_loss * lse * p
        hessian = hessian + 2.0 * z_loss * (p * p + lse * p * rest)
    gradient, hessian = gradient / temperature, hessian / temperature**2
    if counts is not True:
        value = np.where(counts[..., 0], value, 0.0)
        gradient, hessian = np.where(counts, gradient, 0.0), np.where(counts, hessian, 0.0)
    return value, gradient, hessian


def linear_cross_entropy(  # noqa: PLR0917  # the loss's options
    x: F64,
    weight: F64,
    labels: NDArray[Any],
    label_smoothing: float = 0.0,
    class_weight: NDArray[Any] | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    scale_by_temperature: bool = False,
    z_loss: float = 0.0,
) -> tuple[F64, F64, F64]:
    """Return softmax_cross_entropy of x @ weight, and the gradients of the rows' sum by x and weight.

    A bias is a row of weight, with a column of ones in x.
    """
    options = (label_smoothing, class_weight, ignore_index, temperature, scale_by_temperature, z_loss)
    value, gradient, _ = softmax_cross_entropy(x @ weight, labels, *options)
    return value, gradient @ weight.T, x.T @ gradient


def categorical_cross_entropy(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """-sum_j y_j log p_j; 0 log 0 = 0 and 0 / 0 = 0."""
    absent = target == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(absent, 0.0, -target * np.log(np.abs(pred)))
        slope = np.where(absent, 0.0, target / np.abs(pred))
        bend = np.where(absent, 0.0, slope / np.abs(pred))
    return _or_nan(terms, pred).sum(axis=-1), _or_nan(-slope, pred), _or_nan(bend, pred)


def kl_divergence(pred: F64, target: F64, log_target: bool) -> tuple[F64, F64, F64]:
    """sum_j y_j log(y_j / p_j); 0 log 0 = 0 and 0 / 0 = 0. With log_target, target is log y."""
    absent = target == (-np.inf if log_target else 0)
    p = np.abs(pred)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        y = np.exp(target) if log_target else target
        log_y = target if log_target else np.log(target)
        # Near y = p, as the logarithm of 1 and the exact difference.
        near = (2 * y > p) & (y < 2 * p) & (not log_target)
        log_ratio = np.where(near, np.log1p(np.where(near, y - p, 0.0) / np.where(near, p, 1.0)), log_y - np.log(p))
        terms = np.where(absent, 0.0, np.where(p == 0, np.inf, y * log_ratio))
        slope = np.where(absent, 0.0, np.where(p == 0, np.inf, y / p))
        bend = np.where(absent, 0.0, slope / p)
    return _or_nan(terms, pred).sum(axis=-1), _or_nan(-slope, pred), _or_nan(bend, pred)


def negative_log_likelihood(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """-l[label] for log-probabilities l and one-hot rows; the derivatives are NaN where l[label] is."""
    at_label = target == 1
    used = np.where(at_label, pred, 0.0)
    return (0.0 - used).sum(axis=-1), _or_nan(-target, used), _or_nan(0.0, used)


def softmax_focal(pred: F64, target: F64, gamma: float, class_weight: tuple[float, ...] | None) -> tuple[F64, F64, F64]:
    """-c (1 - p)^gamma log p of the label's p = softmax(z), for one-hot rows; with its class weight c."""
    weight = 1.0 if class_weight is None else (target * np.array(class_weight)).sum(axis=-1, keepdims=True)
    at_label = target == 1
    log_p = _log_softmax(pred, -1)
    p = np.exp(log_p)
    # 1 - p, as the sum of the others where p may be near 1.
    top = np.argmax(pred, axis=-1, keepdims=True)
    others = p.copy()
    np.put_along_axis(others, top, 0.0, axis=-1)
    rest = 1.0 - p
    np.put_along_axis(rest, top, others.sum(axis=-1, keepdims=True), axis=-1)
    p_t, q, u = (np.where(at_label, x, 0.0).sum(axis=-1, keepdims=True) for x in (p, rest, -log_p))
    safe = np.where(q == 0, 1.0, q)
    p_u = np.where(p_t == 0, 0.0, p_t * np.where(p_t == 0, 0.0, u))
    p_u_q = np.where(q == 0, p_t, p_u / safe)
    factor = weight * q**gamma
    k = 1.0 + gamma * p_u_q
    g_b = gamma * (2.0 * p_t - p_u + (gamma - 1.0) * p_t * p_u_q)
    gradient = factor * k * np.where(at_label, -q, p)
    share = np.where(q == 0, 0.0, p / safe)
    hessian = factor * np.where(at_label, q * (p_t * k + g_b), p * (k * rest + g_b * share))
    with np.errstate(invalid="ignore"):  # 0 * inf, which stands for 0
        value = np.where(weight * np.ones_like(u) == 0, 0.0, factor * u)
    return value[..., 0], gradient, hessian


def large_margin_softmax(features: F64, weight: F64, target: F64, margin: int) -> tuple[F64, F64, F64]:
    """Softmax cross-entropy of features @ weight with the label's score abs(w) abs(x) psi(theta), for one-hot rows.

    psi = (-1)^k cos(m theta) - 2 k for theta in [k pi / m, (k + 1) pi / m]. Returns the values of the rows, and the
    gradients of their sum by features and weight.
    """
    scores = features @ weight
    at_label = target == 1
    size_x = np.sqrt((features * features).sum(axis=1))
    size_w = np.sqrt((weight * weight).sum(axis=0))[target.argmax(axis=1)]
    own = np.where(at_label, scores, 0.0).sum(axis=1)
    product = size_x * size_w
    none = product == 0
    cosine = np.clip(own / np.where(none, 1.0, product), -1.0, 1.0)
    theta = np.arccos(cosine)
    k = np.minimum(np.floor(margin * theta / np.pi), margin - 1)
    sign = np.where(k % 2 == 0, 1.0, -1.0)
    psi = sign * np.cos(margin * theta) - 2.0 * k
    sine = np.sin(theta)
    edge = np.where(cosine > 0, 1.0, (-1.0) ** (margin - 1)) * margin
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = sign * np.where(sine < 1e-6, edge, margin * np.sin(margin * theta) / sine)  # of psi by cosine
    # By the label's score: slope w + (psi - slope cosine) abs(w) x / abs(x) for x, and the like for w.
    turn = psi - slope * cosine
    if margin > 1:
        scores = np.where(at_label, (product * psi)[:, np.newaxis], scores)
        slope = np.where(none, 0.0, slope)
    log_p = _log_softmax(scores, -1)
    value = -np.where(at_label, log_p, 0.0).sum(axis=1)
    d_scores = np.exp(log_p) - target
    d_own = np.where(at_label, d_scores, 0.0).sum(axis=1)
    d_linear = np.where(at_label, (d_own * slope)[:, np.newaxis], d_scores)
    by_x = np.where(none, 0.0, d_own * turn * size_w / np.where(none, 1.0, size_x))
    by_w = np.where(none, 0.0, d_own * turn * size_x / np.where(none, 1.0, size_w))
    d_features = d_linear @ weight.T + by_x[:, np.newaxis] * features
    d_weight = features.T @ d_linear + weight * (target * by_w[:, np.newaxis]).sum(axis=0)
    return value, d_features, d_weight


# --- normalisation: (y, vjp), where vjp(dy) gives (dx, dweight, dbias) ---------------------------------------


def batch_norm(
    x: F64, weight: F64, bias: F64, *, eps: float = 1e-5
) -> tuple[F64, Callable[[F64], tuple[F64, F64, F64]]]:
    """(x - mean) / sqrt(var + eps) weight + bias, mean and variance of each column."""
    mean = x.mean(axis=0)
    return _normalised(x - mean, (x - mean) ** 2, weight, bias, eps=eps, axis=0)


def layer_norm(
    x: F64, weight: F64, bias: F64, *, eps: float = 1e-5
) -> tuple[F64, Callable[[F64], tuple[F64, F64, F64]]]:
    """(x - mean) / sqrt(var + eps) weight + bias, mean and variance of each row."""
    mean = x.mean(axis=1, keepdims=True)
    return _normalised(x - mean, (x - mean) ** 2, weight, bias, eps=eps, axis=1)


def _normalised(
    t: F64, squares: F64, weight: F64, bias: F64, *, eps: float, axis: int
) -> tuple[F64, Callable[[F64], tuple[F64, F64, F64]]]:
    """Normalise the deviations from the mean along an axis."""
    rstd = 1 / np.sqrt(squares.mean(axis=axis, keepdims=True) + eps)
    xhat = t * rstd

    def vjp(dy: F64) -> tuple[F64, F64, F64]:
        g = dy * weight
        mean_g, mean_gx = (v.mean(axis=axis, keepdims=True) for v in (g, g * xhat))
        return rstd * (g - mean_g - xhat * mean_gx), (dy * xhat).sum(axis=0), dy.sum(axis=0)

    return xhat * weight + bias, vjp


# --- optimizers ---------------------------------------------------------------------------------------------

_State = dict[str, F64]


def _mean(state: _State, name: str, x: F64, decay: float) -> F64:
    """Bring the running mean `name`, which starts at 0, up to date with x."""
    state[name] = decay * state.get(name, np.zeros_like(x)) + (1 - decay) * x
    return state[name]


def sgd(
    p: F64,
    g: F64,
    state: _State,
    t: int,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
) -> F64:
    """p - lr u, u = g at first, then momentum u + (1 - dampening) g; nesterov: p - lr (g + momentum u)."""
    g = g + weight_decay * p
    if momentum == 0:
        return p - lr * g
    u = state["velocity"] = g if t == 1 else momentum * state["velocity"] + (1 - dampening) * g
    return p - lr * (g + momentum * u if nesterov else u)


def adagrad(
    p: F64,
    g: F64,
    state: _State,
    t: int,
    *,
    lr: float,
    eps: float,
    eps_root: float,
    initial_accumulator_value: float,
    weight_decay: float,
) -> F64:
    """p - lr g / (sqrt(v + eps_root) + eps), v the sum of g^2."""
    g = g + weight_decay * p
    v = state["sum_of_squares"] = state.get("sum_of_squares", np.full_like(p, initial_accumulator_value)) + g**2
    return p - lr * g / (np.sqrt(v + eps_root) + eps)


def rmsprop(
    p: F64,
    g: F64,
    state: _State,
    t: int,
    *,
    lr: float,
    alpha: float,
    eps: float,
    eps_root: float,
    momentum: float,
    centered: bool,
    weight_decay: float,
) -> F64:
    """p - lr u, u = g / (sqrt(c + eps_root) + eps), c the mean of g^2, less the square of the mean if centered."""
    g = g + weight_decay * p
    c = _mean(state, "mean_square", g**2, alpha)
    if centered:
        c = np.maximum(c - _mean(state, "mean", g, alpha) ** 2, 0)
    u = g / (np.sqrt(c + eps_root) + eps)
    if momentum:
        u = state["buffer"] = momentum * state.get("buffer", np.zeros_like(p)) + u
    return p - lr * u


def adam(
    p: F64,
    g: F64,
    state: _State,
    t: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    eps_root: float,
    amsgrad: bool,
    weight_decay: float,
) -> F64:
    """p - lr m_hat / (sqrt(v_hat + eps_root) + eps), the means of g and g^2 divided by 1 - beta^t."""
    g = g + weight_decay * p
    m, v = _mean(state, "first_moment", g, betas[0]), _mean(state, "second_moment", g**2, betas[1])
    if amsgrad:
        v = state["largest_second_moment"] = np.maximum(state.get("largest_second_moment", np.zeros_like(v)), v)
    m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    return p - lr * m_hat / (np.sqrt(v_hat + eps_root) + eps)


def adamw(
    p: F64,
    g: F64,
    state: _State,
    t: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    eps_root: float,
    amsgrad: bool,
    weight_decay: float,
) -> F64:
    """adam's step, whose gradient has no weight decay, from p - lr weight_decay p."""
    decayed = p - lr * weight_decay * p
    return adam(decayed, g, state, t, lr=lr, betas=betas, eps=eps, eps_root=eps_root, amsgrad=amsgrad, weight_decay=0.0)


def nadam(
    p: F64,
    g: F64,
    state: _State,
    t: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    eps_root: float,
    momentum_decay: float,
    decoupled_weight_decay: bool,
    weight_decay: float,
) -> F64:
    """p - lr ((1 - mu_t) g / (1 - M_t) + mu_t+1 m / (1 - M_t+1)) / den, M the product of the mu so far."""
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    m, v = _mean(state, "first_moment", g, betas[0]), _mean(state, "second_moment", g**2, betas[1])
    mu = [betas[0] * (1 - 0.96 ** (s * momentum_decay) / 2) for s in range(1, t + 2)]
    look_ahead: F64 = (1 - mu[t - 1]) * g / (1 - math.prod(mu[:t])) + mu[t] * m / (1 - math.prod(mu))
    return p - lr * look_ahead / (np.sqrt(v / (1 - betas[1] ** t) + eps_root) + eps)


def adadelta(
    p: F64,
    g: F64,
    state: _State,
    t: int,
    *,
    lr: float,
    rho: float,
    eps: float,
    weight_decay: float,
) -> F64:
    """p - lr u, u = sqrt(w + eps) / sqrt(v + eps) g, v the mean of g^2 and w that of the u^2 before."""
    g = g + weight_decay * p
    v = _mean(state, "mean_square", g**2, rho)
    u = np.sqrt(state.get("mean_square_step", np.zeros_like(p)) + eps) / np.sqrt(v + eps) * g
    _mean(state, "mean_square_step", u**2, rho)
    return p - lr * u


def lion(
    p: F64,
    g: F64,
    state: _State,
    t: int,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> F64:
    """p - lr weight_decay p - lr sign(beta1 m + (1 - beta1) g), m the mean of g before."""
    direction = np.sign(betas[0] * state.get("momentum", np.zeros_like(p)) + (1 - betas[0]) * g)
    _mean(state, "momentum", g, betas[1])
    return p - lr * weight_decay * p - lr * direction
