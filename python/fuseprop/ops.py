"""Functions on arrays: matrix products with their backward pass, the softmax family, elementary functions, entropies.

float32 and float64; a mix of the two is a TypeError (no silent upcast), integers and booleans become float64. Results
are the same bits on any number of threads and on every SIMD target with fused multiply-add.
"""

from __future__ import annotations

from typing import Literal, overload

from numpy.typing import ArrayLike

from fuseprop import _core
from fuseprop._listing import listing
from fuseprop._typing import FloatArray
from fuseprop.activations import Activation, get

__all__ = [
    "cross_entropy",
    "entropy",
    "erf",
    "exp",
    "expm1",
    "kl_divergence",
    "linear",
    "linear_backward",
    "log",
    "log1p",
    "log_softmax",
    "logsumexp",
    "matmul",
    "self_information",
    "softmax",
]

__dir__ = listing(__all__)


def matmul(
    a: ArrayLike,
    b: ArrayLike,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out: FloatArray | None = None,
) -> FloatArray:
    """Matrix product op(a) op(b) of two-dimensional arrays, op(x) being x or its transpose.

    Each element is one chain of fused multiply-adds over k in increasing order, so that a part of a product is the
    product of the parts, bit for bit. One column (and one row, if b is given as its transpose) is the product of a
    matrix with a vector: there an element is the sum of 16 such chains in float32 or 8 in float64, each over every 16th
    or 8th k. So its rows are products of rows, but a column of a wider product differs in rounding. The error is at
    most k * eps * sum(abs(a) * abs(b)).

    Parameters
    ----------
    a, b
        (M, K) and (K, N), of one dtype.
    transpose_a, transpose_b : bool
        Whether a is (K, M), or b is (N, K).
    out
        (M, N), receives the product; apart from a and b in memory.

    Raises
    ------
    ValueError
        If an array is not two-dimensional, the inner dimensions differ, or `out` does not fit or overlaps.
    TypeError
        If the dtypes differ or are not supported.
    """
    return _core.matmul(a, b, transpose_a, transpose_b, out)


@overload
def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = ...,
    *,
    activation: str | Activation | None = ...,
    return_preactivation: Literal[False] = ...,
    out: FloatArray | None = ...,
) -> FloatArray: ...


@overload
def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = ...,
    *,
    activation: str | Activation | None = ...,
    return_preactivation: Literal[True],
    out: FloatArray | None = ...,
) -> tuple[FloatArray, FloatArray]: ...


def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: str | Activation | None = None,
    return_preactivation: bool = False,
    out: FloatArray | None = None,
) -> FloatArray | tuple[FloatArray, FloatArray]:
    """f(x @ weight + bias), the forward pass of a dense layer.

    Parameters
    ----------
    x
        (N, in).
    weight
        (in, out): the transpose of PyTorch's.
    bias
        (out,), or None.
    activation
        f: an activation, its name, or None for the identity.
    return_preactivation
        Return (y, u) with u = x @ weight + bias, which the activation's backward needs; without an activation
        u is y.
    out
        (N, out), receives y; apart from the inputs in memory.

    Raises
    ------
    ValueError
        If shapes do not fit; both are named.
    TypeError
        If the dtypes differ or are not supported.
    """
    f = get(activation) if isinstance(activation, str) else activation
    if not return_preactivation:
        return _core.linear(x, weight, bias, f, None, out)
    if f is None:
        y = _core.linear(x, weight, bias, None, None, out)
        return y, y
    return _core.linear(x, weight, bias, f, True, out)


def linear_backward(
    x: ArrayLike,
    weight: ArrayLike,
    du: ArrayLike,
    *,
    activation: str | Activation | None = None,
    preactivation: ArrayLike | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Gradients (dx, dweight, dbias) of a dense layer y = f(u), u = x @ weight + bias, from du = dL/du.

    dx = du @ weight^T, dweight = x^T @ du, dbias = sum over the rows of du. With an activation f, the third argument is
    dL/dy instead, and du = dL/dy * f'(u) is formed on the way, in the pass that sums its rows.

    Parameters
    ----------
    x
        (N, in).
    weight
        (in, out): the transpose of PyTorch's.
    du
        (N, out): the gradient at the pre-activation u; with an activation, the one at its output y. Left as it is.
    activation
        f: an elementwise activation, its name, or None for the identity.
    preactivation
        (N, out): u, which `linear` returns with ``return_preactivation=True``. Given exactly if an activation is.

    Raises
    ------
    ValueError
        If shapes do not fit (both are named), or of activation and preactivation one is given alone.
    TypeError
        If the dtypes differ or are not supported, or the activation is not elementwise.

    Notes
    -----
    The same bits as ``linear_backward(x, weight, activation.backward(preactivation, dy))``.
    """
    f = get(activation) if isinstance(activation, str) else activation
    dx, dweight, dbias = _core.linear_backward(x, weight, du, None, None, None, False, f, preactivation)
    assert dx is not None
    assert dweight is not None
    assert dbias is not None
    return dx, dweight, dbias


def softmax(x: ArrayLike, axis: int = -1, *, out: FloatArray | None = None) -> FloatArray:
    """e^(x - m) / sum(e^(x - m)) along an axis, m the largest element.

    A line with a NaN, a +inf, or nothing but -inf is NaN throughout, as in PyTorch.

    Parameters
    ----------
    x
        Any shape and strides.
    axis : int
        Along which the elements of a line lie.
    out
        Receives the result; it may be x itself.
    """
    return _core.softmax(x, axis, out)


def log_softmax(x: ArrayLike, axis: int = -1, *, out: FloatArray | None = None) -> FloatArray:
    """X - logsumexp(x) along an axis, accurate where the probability is near 1.

    Parameters
    ----------
    x
        Any shape and strides.
    axis : int
        Along which the elements of a line lie.
    out
        Receives the result; it may be x itself.
    """
    return _core.log_softmax(x, axis, out)


def logsumexp(x: ArrayLike, axis: int = -1, *, out: FloatArray | None = None) -> FloatArray:
    """log(sum(e^x)) along an axis, which is removed; as scipy.special.logsumexp, without overflow.

    Parameters
    ----------
    x
        Any shape and strides.
    axis : int
        Along which the elements of a line lie.
    out
        Receives the result.
    """
    return _core.logsumexp(x, axis, out)


def exp(x: ArrayLike, *, out: FloatArray | None = None) -> FloatArray:
    """e^x. At most 1 ULP (float64: 2). 0 at -inf, inf at inf. `out` may be x itself."""
    return _core.exp(x, out)


def expm1(x: ArrayLike, *, out: FloatArray | None = None) -> FloatArray:
    """e^x - 1, accurate near 0. At most 1 ULP (float64: 2). -1 at -inf, inf at inf. `out` may be x itself."""
    return _core.expm1(x, out)


def log(x: ArrayLike, *, out: FloatArray | None = None) -> FloatArray:
    """Natural logarithm of x. At most 1 ULP (float64: 2).

    -inf at 0, NaN below; unlike NumPy, without a warning. `out` may be x itself.
    """
    return _core.log(x, out)


def log1p(x: ArrayLike, *, out: FloatArray | None = None) -> FloatArray:
    """log(1 + x), accurate near 0. At most 1 ULP (float64: 2).

    -inf at -1, NaN below, without a warning. `out` may be x itself.
    """
    return _core.log1p(x, out)


def erf(x: ArrayLike, *, out: FloatArray | None = None) -> FloatArray:
    """2/sqrt(pi) times the integral of e^(-t^2) from 0 to x. At most 1.5 ULP (float64: 2).

    -1 at -inf, 1 at inf. `out` may be x itself.
    """
    return _core.erf(x, out)


def self_information(p: ArrayLike, *, out: FloatArray | None = None) -> FloatArray:
    """-log p, the information in nats of an event of probability p; inf for p = 0.

    At most 1 ULP (float64: 2). `out` may be p itself. A p outside of [0, 1] is a ValueError that names the first one;
    NaN gives NaN.
    """
    return _core.self_information(p, out)


def entropy(p: ArrayLike, axis: int = -1, *, out: FloatArray | None = None) -> FloatArray:
    """-sum p log p along an axis, which is removed: the entropy in nats of a distribution, with 0 log 0 = 0.

    Nothing is normalised (scipy.stats.entropy does): the sum of p is taken as it is. A p outside of [0, 1], or NaN, is
    a ValueError that names the first one.

    Parameters
    ----------
    p
        Probabilities.
    axis : int
        Along which the classes lie.
    out
        Receives the result.
    """
    return _core.sum_over_axis("categorical_cross_entropy", p, p, axis, out, "entropy", "p", "p")


def cross_entropy(p: ArrayLike, q: ArrayLike, axis: int = -1, *, out: FloatArray | None = None) -> FloatArray:
    """-sum p log q along an axis, which is removed: the mean information, in nats, of q's code for events drawn from p.

    0 log 0 = 0; inf where q is 0 and p is not. p and q have one shape and dtype, with values in [0, 1], else a
    ValueError names the first one (a NaN in q gives NaN). Of predictions q and targets p it is
    `losses.CategoricalCrossEntropy`, which has the gradient. PyTorch's function of this name takes logits:
    `losses.SoftmaxCrossEntropy`.

    Parameters
    ----------
    p, q
        Probabilities, of one shape and dtype.
    axis : int
        Along which the classes lie.
    out
        Receives the result.
    """
    return _core.sum_over_axis("categorical_cross_entropy", p, q, axis, out, "cross_entropy", "p", "q")


def kl_divergence(p: ArrayLike, q: ArrayLike, axis: int = -1, *, out: FloatArray | None = None) -> FloatArray:
    """Sum p log(p / q) along an axis, which is removed: the Kullback-Leibler divergence of p from q, in nats.

    It is cross_entropy(p, q) - entropy(p), without that difference's loss of digits where p is near q. 0 log 0 = 0; inf
    where q is 0 and p is not. p and q have one shape and dtype, with values in [0, 1], else a ValueError names the
    first one (a NaN in q gives NaN). `losses.KLDivergence` has the gradient; its prediction is q.

    Parameters
    ----------
    p, q
        Probabilities, of one shape and dtype.
    axis : int
        Along which the classes lie.
    out
        Receives the result.
    """
    return _core.sum_over_axis("kl_divergence", p, q, axis, out, "kl_divergence", "p", "q")
