"""The formulas in plain float64 NumPy: what the tests and the benchmarks compare with.

One function for each formula, named as in the registry. An elementwise activation gives (f(x), f'(x)); any other one
gives f(x) and its vector-Jacobian product, a function from dL/dy to dL/dx. A loss of one prediction per target gives
(value, first derivative, second derivative by the prediction), elementwise; a loss over classes gives (value per row,
gradient, diagonal of the Hessian). Written for exactness and to be read, not for speed: where the textbook form cancels
or overflows, an equal form that does not stands here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

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


def half_squared_error(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """r^2 / 2."""
    r = pred - target
    return 0.5 * r * r, r, _or_nan(1.0, r)


def huber(pred: F64, target: F64, delta: float) -> tuple[F64, F64, F64]:
    """r^2 / 2 if abs r <= delta else delta abs r - delta^2 / 2."""
    r = pred - target
    size = np.abs(r)
    value = np.where(size > delta, delta * (size - 0.5 * delta), 0.5 * r * r)
    return value, np.clip(r, -delta, delta), _or_nan(np.where(size > delta, 0.0, 1.0), r)


def log_cosh(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """log cosh r; log1p(2 sinh^2(r/2)) near 0, where log cosh itself would lose all digits."""
    r = pred - target
    size = np.abs(r)
    near = np.log1p(2.0 * np.sinh(0.5 * np.minimum(size, 1.0)) ** 2)
    value = np.where(size < 1.0, near, size - np.log(2.0) + np.log1p(np.exp(-2.0 * size)))
    return value, np.tanh(r), tanh(r)[1]


def binary_cross_entropy_with_logits(pred: F64, target: F64, pos_weight: float) -> tuple[F64, F64, F64]:
    """w y softplus(-z) + (1 - y) softplus(z)."""
    positive, negative = pos_weight * target, 1.0 - target
    with np.errstate(invalid="ignore"):  # 0 * inf, which stands for 0
        value = np.where(positive == 0, 0.0, positive * _softplus(-pred))
        value = value + np.where(negative == 0, 0.0, negative * _softplus(pred))
    s, s_minus = _sigmoid(pred), _sigmoid(-pred)
    return _or_nan(value, pred), negative * s - positive * s_minus, (positive + negative) * s * s_minus


# --- losses over classes ------------------------------------------------------------------------------------


def softmax_cross_entropy(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """-sum_j q_j log softmax(z)_j for a distribution q (one-hot for labels); gradient A p - q with A = sum q."""
    log_p = _log_softmax(pred, -1)
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):  # 0 * -inf, which stands for 0
        value = -np.where(target == 0, 0.0, target * log_p).sum(axis=-1)
    total = target.sum(axis=-1, keepdims=True)
    # 1 - p, as the sum of the others where p may be near 1.
    top = np.argmax(pred, axis=-1, keepdims=True)
    others = p.copy()
    np.put_along_axis(others, top, 0.0, axis=-1)
    rest = 1.0 - p
    np.put_along_axis(rest, top, others.sum(axis=-1, keepdims=True), axis=-1)
    one_hot = (target == total) & (target > 0)
    gradient = np.where(one_hot, -total * rest, total * p - target)
    return value, gradient, total * p * rest
