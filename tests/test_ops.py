"""Matrix products, the dense layer, and the softmax family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import (
    ACTIVATIONS,
    FMA_TARGETS,
    LAYOUTS,
    Array,
    Out,
    assert_same_bits,
    assert_within,
    each_dtype,
    laid_out,
    seeded,
    widened,
)
from hypothesis import given
from hypothesis import strategies as st

import fuseprop as fp
from fuseprop import _core
from fuseprop.ops import linear, linear_backward, log_softmax, logsumexp, matmul, softmax

#: (m, k, n) around the sizes of vectors, tiles and blocks; empty, thin, and large enough for several threads.
SHAPES = [
    *((m, k, n) for m in (1, 2, 7, 14) for k in (1, 3, 64) for n in (1, 5, 16, 33)),
    *[(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (6, 17, 31), (13, 65, 129), (15, 300, 1), (1, 300, 50)],
    *[(129, 257, 65), (300, 40, 200), (64, 64, 64), (200, 1100, 70), (37, 600, 1100)],
    # Few columns or rows; large enough to be copied and fetched ahead.
    *[(33, 128, 10), (70, 90, 4), (50, 64, 13), (100, 5, 9), (12, 65, 300), (64, 10, 128)],
    *[(70, 1100, 300), (700, 700, 1), (515, 19, 1), (37, 4100, 1)],
    *[(1, 700, 1100), (6, 520, 1030), (70, 1024, 1), (9, 1024, 40)],
    # Few rows and a transposed B: factors packed or not, in blocks of k.
    *[(12, 784, 10), (3, 130, 70), (2, 4100, 40), (12, 6000, 65), (12, 6000, 130), (5, 513, 64)],
]


def matrices(m: int, k: int, n: int, dtype: Any) -> tuple[Array, Array]:
    rng = seeded(m, k, n)
    return rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)


def exact_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a b in higher precision, and the bound k * eps * sum(abs a * abs b), eps half a unit (docs/mathematics.md 6)."""
    k = a.shape[1]
    unit = float(np.finfo(a.dtype).eps) / 2
    if a.dtype == np.float32:
        product = a.astype(np.float64) @ b.astype(np.float64)
    else:
        product = np.einsum("ik,kj->ij", a.astype(np.longdouble), b.astype(np.longdouble))
    # NumPy's own error in float64 where there is nothing wider.
    slack = 2.0 if product.dtype == a.dtype or np.finfo(product.dtype).eps == np.finfo(a.dtype).eps else 1.01
    return product, slack * k * unit * (np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64))


def fused_multiply_add(a: Array, b: Array, c: Array) -> Array:
    """a b + c with one rounding to float32: the sum is rounded to odd in float64, then to float32."""
    product = a.astype(np.float64) * b.astype(np.float64)  # exact
    c = c.astype(np.float64)
    s = product + c
    rest = s - product
    error = (product - (s - rest)) + (c - rest)
    even = (s.view(np.int64) & 1) == 0
    odd = np.where((error != 0) & even, np.nextafter(s, np.where(error > 0, np.inf, -np.inf)), s)
    return odd.astype(np.float32)


def chain(a: Array, b: Array) -> Array:
    """The product as one chain of fused multiply-adds per element."""
    c = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k in range(a.shape[1]):
        c = fused_multiply_add(a[:, k : k + 1], b[k : k + 1], c)
    return c


def virtual_lanes(a: Array, b: Array) -> Array:
    """The product with a column, in virtual lanes of a chain each, which are added in a tree."""
    lanes = 64 // a.itemsize
    sums = [chain(a[:, i::lanes], b[i::lanes]) for i in range(lanes)]
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [low + high for low, high in zip(sums[:half], sums[half:], strict=True)]
    return sums[0]


# --- matmul -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@each_dtype
def test_matmul(dtype: Any, shape: tuple[int, int, int], target: str) -> None:
    a, b = matrices(*shape, dtype)
    expected, bound = exact_product(a, b)
    c = matmul(a, b)
    assert c.dtype == dtype
    assert_within(c, expected, bound)
    # Transposed operands are other strides of the same numbers.
    ta, tb = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    assert_same_bits(matmul(ta, b, transpose_a=True), c)
    if shape[0] == 1:  # of rows of b's transpose, a matrix with a vector
        c = matmul(tb, a.T).T
        assert_within(c, expected, bound)
    assert_same_bits(matmul(a, tb, transpose_b=True), c)
    assert_same_bits(matmul(ta, tb, transpose_a=True, transpose_b=True), c)
    assert_same_bits(matmul(ta.T, tb.T), c)


@pytest.mark.parametrize("shape", [(5, 7, 9), (1, 300, 50), (31, 1030, 37), (3, 2500, 3)], ids=str)
@pytest.mark.parametrize("name", FMA_TARGETS)
def test_matmul_is_one_chain_of_fused_multiply_adds(name: str, shape: tuple[int, int, int]) -> None:
    a, b = matrices(*shape, np.float32)
    with fp.simd_target(name):
        assert_same_bits(matmul(a, b), chain(a, b))


@pytest.mark.parametrize(
    "shape", [(1, 5), (1, 40), (3, 7), (9, 16), (70, 301), (130, 24), (512, 70), (600, 1030)], ids=str
)
@pytest.mark.parametrize("name", FMA_TARGETS)
def test_matmul_with_a_vector_sums_in_virtual_lanes(name: str, shape: tuple[int, int]) -> None:
    a, x = matrices(*shape, 1, np.float32)
    a[-1], x[-1] = -1e-30, 1e-30  # a sum that rounds to -0 in its lane
    expected = virtual_lanes(a, x)
    by_columns = np.asfortranarray(a)
    with fp.simd_target(name):
        for matrix in (a, by_columns):
            assert_same_bits(matmul(matrix, x), expected)
            assert_same_bits(matmul(matrix, np.repeat(x, 3, axis=1)[:, 1:2]), expected)
        assert_same_bits(matmul(x.T, a, transpose_b=True), expected.T)
        assert_same_bits(matmul(x.T, a.T), expected.T)
    with fp.num_threads(1):
        assert_same_bits(matmul(a, x), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
def test_matmul_layouts(dtype: Any, layout: str) -> None:
    a, b = matrices(9, 21, 18, dtype)
    expected = matmul(a, b)
    for other in LAYOUTS:
        assert_same_bits(matmul(laid_out(a, layout), laid_out(b, other)), expected, other)
    out = Out(layout, (9, 18), dtype)
    out.assert_received(matmul(a, b, out=out.array), expected)
    row = np.broadcast_to(a[0], a.shape)  # stride 0
    assert_same_bits(matmul(row, b), matmul(row.copy(), b))
    assert_same_bits(matmul(a[:, ::2], b[::2]), matmul(a[:, ::2].copy(), b[::2].copy()))


@each_dtype
def test_matmul_of_few_columns_of_a_larger_matrix(dtype: Any, target: str) -> None:
    # Rows 4 KiB apart share a set of the first cache and are read in another order.
    rng = seeded(3)
    rows = np.ascontiguousarray(rng.standard_normal((53, 4096 // np.dtype(dtype).itemsize)).astype(dtype))
    factors = rng.standard_normal((rows.shape[1], 5)).astype(dtype)
    for k in (1, 15, 16, 100, 201):
        for first in (0, 1, 4, 13, 16):
            part = rows[:, first : first + k]
            for columns in (1, 2, 3, 5):
                b = factors[:k, :columns]  # with and without a gap between its rows
                expected = matmul(part.copy(), b.copy())
                assert_within(expected, *exact_product(part, b))
                assert_same_bits(matmul(part, b), expected)
                assert_same_bits(matmul(b, part, transpose_a=True, transpose_b=True), expected.T)


def test_matmul_of_integers_and_lists() -> None:
    product = matmul([[1, 2], [3, 4]], np.array([[True], [False]]))
    assert_same_bits(product, np.array([[1.0], [3.0]]))


@each_dtype
def test_matmul_special_values(dtype: Any, target: str) -> None:
    a, b = matrices(8, 40, 35, dtype)
    clean = matmul(a, b)
    a[3, 11] = np.nan
    b[5, 30] = np.inf
    with np.errstate(invalid="ignore"):
        c = matmul(a, b)
    assert np.isnan(c[3]).all()
    rows = np.delete(np.arange(8), 3)
    assert np.array_equal(np.isinf(c[rows]), np.broadcast_to(np.arange(35) == 30, (7, 35)))
    columns = np.delete(np.arange(35), 30)
    assert_same_bits(c[np.ix_(rows, columns)], clean[np.ix_(rows, columns)])


@given(m=st.integers(0, 40), k=st.integers(0, 90), n=st.integers(0, 70), data=st.data())
def test_matmul_of_parts_is_part_of_matmul(m: int, k: int, n: int, data: st.DataObject) -> None:
    """An element does not depend on the rest of the matrix; only one column is summed in another order."""
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    a, b = matrices(m, k, n, dtype)
    i, j = sorted(data.draw(st.tuples(st.integers(0, m), st.integers(0, m))))
    p, q = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    c = matmul(a, b)
    assert_within(c, *exact_product(a, b))
    if (n == 1) == (q - p == 1):
        assert_same_bits(matmul(a[i:j], b[:, p:q]), c[i:j, p:q].copy())


# --- linear -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 9), (64, 64, 128), (33, 300, 257), (0, 3, 4), (3, 0, 4)], ids=str)
@each_dtype
def test_linear(dtype: Any, shape: tuple[int, int, int], target: str) -> None:
    x, weight = matrices(*shape, dtype)
    bias = seeded("bias").standard_normal(shape[2]).astype(dtype)
    product = matmul(x, weight)
    assert_same_bits(linear(x, weight), product)
    u = linear(x, weight, bias)
    assert_same_bits(u, product + bias)  # one rounding more
    for spec in ACTIVATIONS:
        act = spec.cls()
        y = act(u)
        assert_same_bits(linear(x, weight, bias, activation=act), y, spec.name)
        assert_same_bits(linear(x, weight, bias, activation=spec.name, return_preactivation=True), (y, u), spec.name)
    assert_same_bits(linear(x, weight, bias, return_preactivation=True), (u, u))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", [None, "tanh"])
@each_dtype
def test_linear_layouts(dtype: Any, activation: str | None, layout: str) -> None:
    x, weight = matrices(9, 21, 18, dtype)
    bias = seeded("bias").standard_normal((18, 2)).astype(dtype)[:, 0]
    y, u = linear(x, weight, bias, activation=activation, return_preactivation=True)
    assert_same_bits(linear(laid_out(x, layout), laid_out(weight, layout), bias, activation=activation), y)
    out = Out(layout, y.shape, dtype)
    out.assert_received(linear(x, weight, bias, activation=activation, out=out.array), y)
    out = Out(layout, y.shape, dtype)
    returned, again = linear(x, weight, bias, activation=activation, return_preactivation=True, out=out.array)
    assert_same_bits(np.ascontiguousarray(again), u)
    out.assert_received(returned, y)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 9), (64, 64, 128), (257, 30, 33), (0, 3, 4), (3, 0, 4)], ids=str)
@each_dtype
def test_linear_backward(dtype: Any, shape: tuple[int, int, int], target: str) -> None:
    x, weight = matrices(*shape, dtype)
    du = seeded("du").standard_normal((shape[0], shape[2])).astype(dtype)
    dx, dweight, dbias = linear_backward(x, weight, du)
    assert dx.dtype == dweight.dtype == dbias.dtype == dtype
    assert_within(dx, *exact_product(du, np.ascontiguousarray(weight.T)), what="dx")
    assert_within(dweight, *exact_product(np.ascontiguousarray(x.T), du), what="dweight")
    # Summed in float64: one rounding to dtype.
    sums, sizes = (np.sum(v.astype(np.float64), axis=0) for v in (du, np.abs(du)))
    unit = float(np.finfo(dtype).eps) / 2
    assert_within(dbias, sums, unit * np.abs(sums) + (shape[0] + 1) * 2.0**-52 * sizes, what="dbias")
    # The forms that a network uses: into arrays, added to what they hold, or left out.
    into = [np.full_like(g, 2.0) for g in (dx, dweight, dbias)]
    assert all(a is b for a, b in zip(_core.linear_backward(x, weight, du, *into, False), into, strict=True))
    assert_same_bits(tuple(into), (dx, dweight, dbias))
    into = [np.full_like(g, 2.0) for g in (dweight, dbias)]
    first, *_ = _core.linear_backward(x, weight, du, False, *into, True)
    assert first is None
    assert_same_bits(into[0], dweight + dtype(2))
    # dbias is added before it is rounded to dtype, or after.
    assert_within(into[1], sums + 2, unit * (2 * np.abs(sums) + 4) + (shape[0] + 1) * 2.0**-52 * sizes)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (5, 7, 9), (64, 64, 128), (100, 30, 33), (70, 3, 1100), (0, 3, 4), (3, 0, 4)], ids=str
)
@each_dtype
def test_linear_backward_with_activation(dtype: Any, shape: tuple[int, int, int], target: str) -> None:
    """The same bits as the backward passes one after the other, and dy is left as it is."""
    x, weight = matrices(*shape, dtype)
    u, dy = (3 * seeded(name).standard_normal((shape[0], shape[2])).astype(dtype) for name in ("u", "dy"))
    for spec in ACTIVATIONS:
        act = spec.cls()
        du = act.backward(u, dy)
        expected = linear_backward(x, weight, du)
        given = dy.copy()
        assert_same_bits(linear_backward(x, weight, given, activation=act, preactivation=u), expected, spec.name)
        assert_same_bits(given, dy)
        # Into arrays, without dx, without dbias, added to what is there.
        into = [np.full_like(g, 2.0) for g in expected[1:]]
        first, *_ = _core.linear_backward(x, weight, given, False, *into, False, act, u)
        assert first is None
        assert_same_bits(tuple(into), expected[1:], spec.name)
        dx, _, dbias = _core.linear_backward(x, weight, dy, None, into[0], False, True, act, u)
        assert dx is not None
        assert dbias is None
        assert_same_bits((dx, into[0]), (expected[0], expected[1] + expected[1]), spec.name)


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
def test_linear_backward_with_activation_layouts(dtype: Any, layout: str) -> None:
    x, weight = matrices(9, 21, 18, dtype)
    u, dy = (seeded(name).standard_normal((9, 18)).astype(dtype) for name in ("u", "dy"))
    expected = linear_backward(x, weight, dy, activation="tanh", preactivation=u)
    for left, right in ((layout, "c"), ("c", layout), (layout, layout)):
        found = linear_backward(x, weight, laid_out(dy, left), activation="tanh", preactivation=laid_out(u, right))
        assert_same_bits(found, expected)


def test_linear_backward_is_the_gradient() -> None:
    """Fourth-order central differences of sum(cos(x W + b)) in float64."""
    x, weight = matrices(4, 3, 5, np.float64)
    bias = seeded("bias").standard_normal(5)
    gradients = linear_backward(x, weight, -np.sin(linear(x, weight, bias)))
    arguments = [x, weight, bias]
    h = 1e-3
    for which, gradient in enumerate(gradients):
        assert gradient.shape == arguments[which].shape
        for at in np.ndindex(gradient.shape):
            f = {}
            for step in (-2, -1, 1, 2):
                moved = [a.copy() for a in arguments]
                moved[which][at] += step * h
                f[step] = float(np.cos(linear(*moved)).sum())
            difference = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
            # h^4 |f^(5)| / 30 with |f^(5)| < 1e3 here, and eps |f| / h.
            assert abs(gradient[at] - difference) < 1e-10


@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus"])
def test_linear_backward_with_activation_is_the_gradient(activation: str) -> None:
    """Fourth-order central differences of sum(cos(f(x W + b))) in float64."""
    x, weight = matrices(4, 3, 5, np.float64)
    bias = seeded("bias").standard_normal(5)
    y, u = linear(x, weight, bias, activation=activation, return_preactivation=True)
    gradients = linear_backward(x, weight, -np.sin(y), activation=activation, preactivation=u)
    arguments = [x, weight, bias]
    h = 1e-3
    for which, gradient in enumerate(gradients):
        for at in np.ndindex(gradient.shape):
            f = {}
            for step in (-2, -1, 1, 2):
                moved = [a.copy() for a in arguments]
                moved[which][at] += step * h
                f[step] = float(np.cos(linear(*moved, activation=activation)).sum())
            difference = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
            # h^4 |f^(5)| / 30 with |f^(5)| < 3e3 here, and eps |f| / h.
            assert abs(gradient[at] - difference) < 2e-10


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
def test_linear_backward_layouts(dtype: Any, layout: str) -> None:
    x, weight = matrices(9, 21, 18, dtype)
    du = seeded("du").standard_normal((9, 18)).astype(dtype)
    expected = linear_backward(x, weight, du)
    assert_same_bits(linear_backward(laid_out(x, layout), laid_out(weight, layout), laid_out(du, layout)), expected)
    assert_same_bits(linear_backward(x, weight, laid_out(du, layout)), expected)


# --- softmax family -----------------------------------------------------------------------------------------

FAMILY = {"softmax": softmax, "log_softmax": log_softmax, "logsumexp": logsumexp}
each_of_family = pytest.mark.parametrize("function", FAMILY.values(), ids=FAMILY)


def family_truth(x: Array) -> dict[str, tuple[Array, Array]]:
    """Truth and bound over the last axis: a relative error of c 2^-24 (1 + abs(x - max)) of each e^(x - max)."""
    z = widened(x).astype(np.longdouble if x.dtype == np.float64 else np.float64)
    top = z.max(axis=-1, keepdims=True)
    first = np.arange(z.shape[-1]) == z.argmax(axis=-1)[..., None]
    gap = top - z
    e = np.exp(-gap)
    unit = 6 * float(np.finfo(x.dtype).eps) / 2
    relative = unit * (1 + np.minimum(gap, 750))
    others = np.where(first, 0, e).sum(axis=-1, keepdims=True)
    log_sum = np.log1p(others)
    others_error = np.where(first, 0, e * relative).sum(axis=-1, keepdims=True) / (1 + others) + unit * log_sum
    p = e / (1 + others)
    tiny = 2 * float(np.finfo(x.dtype).smallest_subnormal)
    lse = (top + log_sum)[..., 0]
    return {
        "softmax": (p, p * (relative + others_error) + tiny),
        "log_softmax": (-gap - log_sum, unit * gap + others_error + tiny),
        "logsumexp": (lse, (others_error + unit * np.abs(top + log_sum))[..., 0] + tiny),
    }


@pytest.mark.parametrize(
    "shape", [(1, 1), (64, 10), (5, 16), (7, 33), (3, 1000), (2, 9001), (9001, 7), (0, 3)], ids=str
)
@each_dtype
def test_softmax_family(dtype: Any, shape: tuple[int, int], target: str) -> None:
    for spread in (0.01, 3.0, 60.0):
        x = (spread * seeded(shape).standard_normal(shape)).astype(dtype)
        for name, (expected, bound) in family_truth(x).items():
            y = FAMILY[name](x)
            assert y.dtype == dtype
            assert_within(y, expected, bound, what=f"{name}, {spread}: ")


@each_dtype
def test_softmax_family_of_every_length(dtype: Any, target: str) -> None:
    for n in range(1, 70):
        x = (4 * seeded(n).standard_normal((5, n))).astype(dtype)
        for name, (expected, bound) in family_truth(x).items():
            assert_within(FAMILY[name](x), expected, bound, what=f"{name}, {n}: ")
            assert_same_bits(FAMILY[name](x)[1:2], FAMILY[name](x[1:2]), f"{name}, {n}")


@each_of_family
@each_dtype
def test_softmax_family_along_any_axis(dtype: Any, function: Any) -> None:
    x = seeded("axes").standard_normal((4, 5, 6, 3)).astype(dtype)
    for axis in range(-4, 4):
        last = function(np.ascontiguousarray(np.moveaxis(x, axis, -1)))
        expected = last if function is logsumexp else np.moveaxis(last, -1, axis)
        y = function(x, axis=axis)
        assert_same_bits(np.ascontiguousarray(y), np.ascontiguousarray(expected), str(axis))
        out = np.empty(y.shape, dtype)
        assert function(x, axis, out=out) is out
        assert_same_bits(out, np.ascontiguousarray(expected))
        if function is not logsumexp:
            inplace = x.copy()
            assert function(inplace, axis, out=inplace) is inplace
            assert_same_bits(inplace, np.ascontiguousarray(expected))
    line = x[0, 0, :, 0]
    alone = function(line)
    assert np.shape(alone) == (() if function is logsumexp else (6,))
    assert alone.dtype == dtype
    assert np.array_equal(alone, function(line[None])[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@each_of_family
@each_dtype
def test_softmax_family_layouts(dtype: Any, function: Any, layout: str) -> None:
    x = (3 * seeded("layouts").standard_normal((7, 19))).astype(dtype)
    for axis in (0, 1):
        expected = function(x, axis)
        assert_same_bits(np.ascontiguousarray(function(laid_out(x, layout), axis)), expected)
        if function is logsumexp:
            continue
        out = Out(layout, x.shape, dtype)
        out.assert_received(function(x, axis, out=out.array), expected)
        out = Out(layout, x.shape, dtype)
        out.array[...] = x
        out.assert_received(function(out.array, axis, out=out.array), expected, "in place")


@each_dtype
def test_softmax_family_special_lines(dtype: Any, target: str) -> None:
    """NaN, +inf, nothing but -inf: NaN throughout; logsumexp gives the limits. One class: p = 1."""
    inf = np.inf
    for n in (4, 40):
        x = np.zeros((6, n), dtype)
        x[0, 1] = np.nan
        x[1, 2] = inf
        x[2] = -inf
        x[3, 1:] = -inf
        x[4] = np.finfo(dtype).max
        x[5, 0] = 1e4
        p, log_p, lse = (f(x) for f in FAMILY.values())
        assert np.isnan(p[:3]).all()
        assert np.isnan(log_p[:3]).all()
        one = np.eye(1, n)[0]
        assert np.array_equal(p[3], one)
        assert np.array_equal(log_p[3], np.where(one == 1, 0.0, -inf))
        np.testing.assert_allclose(p[4], 1 / n, rtol=1e-6)
        assert np.array_equal(p[5], one)
        assert np.array_equal(log_p[5], np.where(one == 1, 0.0, -1e4))
        assert np.isnan(lse[0])
        assert lse[1] == inf
        assert lse[2] == -inf
        assert lse[3] == 0
        assert lse[4] == np.finfo(dtype).max
        assert lse[5] == 1e4


def test_softmax_family_of_other_inputs() -> None:
    expected = softmax(np.array([[1.0, 5.0, 3.0]]))
    assert_same_bits(softmax([[1, 5, 3]]), expected)
    assert_same_bits(softmax(np.array([[1, 5, 3]], np.int8)), expected)
    assert logsumexp(np.empty((0, 4))).shape == (0,)
    assert softmax(np.empty((3, 0))).shape == (3, 0)
    assert np.array_equal(logsumexp(np.empty((3, 0))), np.full(3, -np.inf))


@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), spread=st.floats(0.1, 200))
def test_softmax_is_a_distribution(seed: int, n: int, spread: float) -> None:
    x = np.random.default_rng(seed).standard_normal((3, n)) * spread
    p = softmax(x)
    assert np.all((p >= 0) & (p <= 1))
    assert np.max(np.abs(p.sum(axis=1) - 1)) <= n * 1e-15
    assert np.all(log_softmax(x) <= 0)
    order = np.argsort(x[0])
    assert np.all(np.diff(p[0][order]) >= 0)


def test_equal_to_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    x = 5 * seeded("scipy").standard_normal((20, 9))
    for name, function in FAMILY.items():
        for axis in (0, 1):
            np.testing.assert_allclose(function(x, axis), getattr(special, name)(x, axis=axis), rtol=1e-13, atol=1e-14)


def test_equal_to_torch() -> None:
    torch = pytest.importorskip("torch")
    x, weight = matrices(6, 5, 4, np.float64)
    bias = seeded("bias").standard_normal(4)
    tensors = [torch.tensor(v, requires_grad=True) for v in (x, weight.T, bias)]
    y = torch.nn.functional.linear(*tensors)
    du = seeded("du").standard_normal((6, 4))
    y.backward(torch.tensor(du))
    np.testing.assert_allclose(linear(x, weight, bias), y.detach().numpy(), rtol=1e-13, atol=1e-14)
    dx, dweight, dbias = linear_backward(x, weight, du)
    for ours, theirs in zip((dx, dweight.T, dbias), tensors, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-13, atol=1e-14)


def test_worked_numbers() -> None:
    """docs/mathematics.md 7."""
    assert np.round(softmax([3.0, 1.0, -3.0]), 2).tolist() == [0.88, 0.12, 0.0]
    assert np.round(softmax([1.0, 5.0, 3.0]), 4).tolist() == [0.0159, 0.8668, 0.1173]
