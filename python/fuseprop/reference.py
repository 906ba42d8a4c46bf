"""The formulas in plain float64 NumPy: what the tests and the benchmarks compare with.

One function for each formula, named as in the registry. An activation gives (f(x), f'(x)); a loss of one prediction
per target gives (value, first derivative, second derivative by the prediction), elementwise; a loss over classes
gives (value per row, gradient, diagonal of the Hessian). Written for exactness and to be read, not for speed: where
the textbook form cancels or overflows, an equal form that does not stands here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


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


# --- activations --------------------------------------------------------------------------------------------


def identity(x: F64) -> tuple[F64, F64]:
    """f = x."""
    return x, _or_nan(1.0, x)


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


def log_softmax(x: F64) -> F64:
    """Return x - logsumexp, over the last axis; the largest term stands outside of the sum, for accuracy."""
    top = np.argmax(x, axis=-1, keepdims=True)
    shifted = x - np.take_along_axis(x, top, axis=-1)
    e = np.exp(shifted)
    np.put_along_axis(e, top, 0.0, axis=-1)
    result: F64 = shifted - np.log1p(e.sum(axis=-1, keepdims=True))
    return result


def softmax_cross_entropy(pred: F64, target: F64) -> tuple[F64, F64, F64]:
    """-sum_j q_j log softmax(z)_j for a distribution q (one-hot for labels); gradient A p - q with A = sum q."""
    log_p = log_softmax(pred)
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
