"""The kernels of batch and layer normalisation: accuracy, the same bits everywhere, memory, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from helpers import FMA_TARGETS, Array, Out, assert_same_bits, assert_within, each_dtype, laid_out, seeded, widened
from hypothesis import given
from hypothesis import strategies as st

import fuseprop as fp
from fuseprop import _core, reference

EPS = 1e-5
NORMS = ("batch", "layer")
each_norm = pytest.mark.parametrize("norm", NORMS)


class Problem:
    """Inputs of a norm, what the kernels give, and what is right within bounds."""

    def __init__(self, norm: str, x: Array, *, affine: bool = True) -> None:
        rng = seeded(norm, x.shape)
        self.norm, self.x, self.axis = norm, x, 0 if norm == "batch" else 1
        n = x.shape[1]
        self.weight = (1 + 0.3 * rng.standard_normal(n)).astype(x.dtype) if affine else None
        self.bias = rng.standard_normal(n).astype(x.dtype) if affine else None
        self.dy = rng.standard_normal(x.shape).astype(x.dtype)
        self.mean, self.var = (np.empty(x.shape[1 - self.axis]) for _ in range(2))

    def forward(self, out: Array | None = None) -> Array:
        before = self.x, self.weight, self.bias, EPS, self.mean, self.var
        if self.norm == "batch":
            return _core.batch_norm(*before, True, out)
        return _core.layer_norm(*before, out)

    def backward(self, dx: Any = None, dweight: Any = None, dbias: Any = None, accumulate: bool = False) -> Any:
        kernel = _core.batch_norm_backward if self.norm == "batch" else _core.layer_norm_backward
        before = self.x, self.dy, self.weight, EPS, self.mean, self.var
        return kernel(*before, dx, dweight, dbias, accumulate)

    def results(self) -> dict[str, Any]:
        y = self.forward()
        dx, dweight, dbias = self.backward()
        return {"y": y, "mean": self.mean, "var": self.var, "dx": dx, "dweight": dweight, "dbias": dbias}

    def check(self) -> None:
        """Compare all results with the reference; the bounds count roundings.

        u rounds what is computed in the dtype, u64 the sums: those of a column merge blocks of 8 rows in at most 32
        strips, those of a row have at most n terms.
        """
        x, dy = widened(self.x), widened(self.dy)
        wide = x.dtype if x.dtype == np.longdouble else np.float64
        x, dy = x.astype(wide), dy.astype(wide)
        n = x.shape[1]
        weight = np.ones(n, wide) if self.weight is None else self.weight.astype(wide)
        bias = np.zeros(n, wide) if self.bias is None else self.bias.astype(wide)
        found = self.results()
        formula = reference.batch_norm if self.norm == "batch" else reference.layer_norm
        y, vjp = formula(x, weight, bias, eps=EPS)
        dx, dweight, dbias = vjp(dy)
        u, u64 = float(np.finfo(self.x.dtype).eps) / 2, 2.0**-53

        def mean(v: Array) -> Array:
            return v.mean(axis=self.axis, keepdims=True)

        t = x - mean(x)
        rstd = 1 / np.sqrt(mean(t * t) + EPS)
        largest = np.abs(x).max(axis=self.axis, keepdims=True)
        sums = (16 + x.shape[self.axis] / 4 + 64) * u64
        mean_error = sums * largest + u * u * largest  # the mean in two parts, the second of them rounded
        xhat = np.abs(t) * rstd
        # The merged variance feels the means' roundings once for each deviation.
        xhat_error = (mean_error + sums * np.abs(t) + sums * largest * xhat) * rstd
        scaled = np.abs(xhat * weight)
        assert_within(found["y"], y, u * (4 * scaled + 2 * np.abs(y)) + np.abs(weight) * xhat_error, what="y")
        g = np.abs(dy * weight)
        mean_g, mean_gx = mean(g), mean(g * xhat)
        terms = g + mean_g + xhat * mean_gx
        inexact = sums * terms + xhat_error * mean_gx + xhat * mean(g * xhat_error)
        assert_within(found["dx"], dx, rstd * (8 * u * terms + inexact), what="dx")
        rows = sums if self.norm == "batch" else (80 + len(x) / 8) * u64
        size = (np.abs(dy) * xhat).sum(axis=0)
        bound = u * np.abs(dweight) + rows * size + (np.abs(dy) * xhat_error).sum(axis=0)
        assert_within(found["dweight"], dweight, bound, what="dweight")
        assert_within(found["dbias"], dbias, u * np.abs(dbias) + rows * np.abs(dy).sum(axis=0), what="dbias")
        flat = x.mean(axis=self.axis)
        assert_within(found["mean"], flat, (mean_error - u * u * largest).reshape(-1), what="mean")
        var = (t * t).mean(axis=self.axis)
        spread = (2 * sums * largest).reshape(-1)
        var_error = 2 * sums * var + spread * np.sqrt(var) + spread**2
        assert_within(found["var"], var, var_error, what="var")


SHAPES = [(2, 1), (2, 5), (7, 16), (8, 33), (9, 8), (17, 100), (300, 40), (1031, 7), (64, 1100), (1, 50)]


def normal(shape: tuple[int, int], dtype: Any, mean: float = 1.0) -> Array:
    return (mean + seeded("norm", shape).standard_normal(shape)).astype(dtype)


@each_norm
@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_accuracy(norm: str, shape: tuple[int, int], dtype: Any, target: str) -> None:
    Problem(norm, normal(shape, dtype)).check()
    Problem(norm, normal(shape, dtype), affine=False).check()


@each_norm
@each_dtype
@pytest.mark.parametrize("mean", [0.0, -1e3, 1e6])
def test_a_mean_far_from_zero(norm: str, mean: float, dtype: Any) -> None:
    Problem(norm, normal((400, 60), dtype, mean)).check()


@each_norm
@each_dtype
def test_constants(norm: str, dtype: Any) -> None:
    """The variance is 0, so y is the bias; a feature that differs in one sample is no difference of large sums."""
    x = np.full((50, 40), 3.1, dtype)
    problem = Problem(norm, x)
    y = problem.forward()
    assert_within(y, np.broadcast_to(problem.bias, y.shape).astype(np.float64), 1e3 * 2.0**-53 / np.sqrt(EPS))
    x[7, 3] = 3.2
    Problem(norm, x).check()


@each_norm
@each_dtype
def test_sizes_near_the_limits(norm: str, dtype: Any) -> None:
    info = np.finfo(dtype)
    for size in (float(info.max) ** 0.5 / 1e3, float(info.max) / 1e3 if dtype == np.float32 else 1e150):
        problem = Problem(norm, (seeded("size").standard_normal((30, 20)) * size).astype(dtype))
        y = problem.forward()
        assert np.isfinite(y).all()
        unit = (y - problem.bias) / problem.weight
        np.testing.assert_allclose(unit.std(axis=problem.axis), 1.0, rtol=1e-4)


@each_norm
@each_dtype
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_with_its_own(norm: str, dtype: Any, bad: float) -> None:
    clean, x = (Problem(norm, normal((40, 30), dtype)) for _ in range(2))
    x.x = x.x.copy()
    x.x[11, 5] = bad
    expected, found = clean.results(), x.results()
    own: Any = (slice(None), 5) if norm == "batch" else (11, slice(None))
    for name in ("y", "dx"):
        assert np.isnan(found[name][own]).all()
        others = found[name].copy()
        others[own] = expected[name][own]
        assert_same_bits(others, expected[name])


@each_norm
@each_dtype
@given(st.integers(1, 70), st.integers(1, 140), st.integers(0, 2**32 - 1))
def test_any_shape(norm: str, dtype: Any, rows: int, n: int, seed: int) -> None:
    Problem(norm, np.random.default_rng(seed).uniform(-2, 3, (rows, n)).astype(dtype)).check()


# --- the same bits ------------------------------------------------------------------------------------------

LARGE = ((1000, 67), (70, 1001), (5000, 9), (33, 2000))


@each_norm
@each_dtype
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_threads(norm: str, shape: tuple[int, int], dtype: Any, target: str) -> None:
    problem = Problem(norm, normal(shape, dtype))
    with fp.num_threads(1):
        expected = {name: value.copy() for name, value in problem.results().items()}
    for threads in (2, 3, 16):
        with fp.num_threads(threads):
            assert_same_bits(problem.results(), expected)


@pytest.mark.skipif(len(FMA_TARGETS) < 2, reason="this machine has one target with fused multiply-add at most")
@each_norm
@each_dtype
@pytest.mark.parametrize("shape", [*LARGE, (2, 3), (9, 17), (31, 63)], ids=str)
def test_targets(norm: str, shape: tuple[int, int], dtype: Any) -> None:
    problem = Problem(norm, normal(shape, dtype))
    with fp.simd_target(FMA_TARGETS[0]):
        expected = {name: value.copy() for name, value in problem.results().items()}
    for name in FMA_TARGETS[1:]:
        with fp.simd_target(name):
            assert_same_bits(problem.results(), expected, name)


@each_norm
@each_dtype
@pytest.mark.parametrize("layout", ["offset1", "offset3", "padded", "f", "reversed"])
def test_layouts(norm: str, layout: str, dtype: Any) -> None:
    problem = Problem(norm, normal((40, 35), dtype))
    expected = problem.results()
    dx = expected["dx"]
    y = expected["y"]
    other = Problem(norm, laid_out(problem.x, layout))
    other.dy = laid_out(problem.dy, layout)
    assert_same_bits(other.results(), expected)
    out = Out(layout, (40, 35), dtype)
    out.assert_received(other.forward(out.array), y)
    out = Out(layout, (40, 35), dtype)
    out.assert_received(other.backward(out.array)[0], dx)


# --- what is written ----------------------------------------------------------------------------------------


@each_norm
@each_dtype
def test_what_is_wanted(norm: str, dtype: Any) -> None:
    problem = Problem(norm, normal((20, 30), dtype))
    problem.forward()
    dx, dweight, dbias = problem.backward()
    assert problem.backward(False)[0] is None
    assert_same_bits(problem.backward(False)[1:], (dweight, dbias))
    assert problem.backward(None, False, False)[1:] == (None, None)
    assert_same_bits(problem.backward(None, False, False)[0], dx)
    into = dweight.copy(), dbias.copy()
    problem.backward(False, *into, True)
    for found, once in zip(into, (dweight, dbias), strict=True):
        assert_within(found, 2 * once.astype(np.float64), 4 * np.finfo(dtype).eps * np.abs(once))
    in_place = problem.dy = problem.dy.copy()
    assert problem.backward(in_place)[0] is in_place
    assert_same_bits(in_place, dx)
    y = problem.forward()
    x = problem.x = problem.x.copy()
    assert_same_bits(problem.forward(x), y)


@each_dtype
def test_evaluation_of_batch_norm(dtype: Any) -> None:
    problem = Problem("batch", normal((50, 20), dtype))
    y = problem.forward()
    given = problem.x, problem.weight, problem.bias, EPS, problem.mean, problem.var, False, None
    assert_same_bits(_core.batch_norm(*given), y)
    # Statistics of another dtype are taken, and each row stands alone.
    mean, var = problem.mean.astype(np.float32), problem.var.astype(np.float32)
    whole = _core.batch_norm(problem.x, None, None, EPS, mean, var, False, None)
    assert_same_bits(_core.batch_norm(problem.x[7:9], None, None, EPS, mean, var, False, None), whole[7:9])
    assert _core.batch_norm(problem.x[:0], None, None, EPS, mean, var, False, None).shape == (0, 20)


@each_dtype
def test_running_statistics(dtype: Any) -> None:
    running = np.array([1.0, -2.0, 3.0], dtype), np.array([0.5, 1.0, 2.0], dtype)
    mean, var = np.array([0.1, 0.2, 0.3]), np.array([1.0, 4.0, 9.0])
    expected = [0.75 * running[0] + 0.25 * mean, 0.75 * running[1] + 0.25 * var * 8 / 7]
    _core.batch_norm_update(mean, var, 8, 0.25, *running)
    for found, value in zip(running, expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=4 * np.finfo(dtype).eps)
    kept = running[1].copy()
    _core.batch_norm_update(mean, var, 1, 0.25, *running)
    assert_same_bits(running[1], kept)


X, VECTOR, WIDE = np.ones((4, 3)), np.ones(3), np.ones(4)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        ("batch_norm", (WIDE, None, None, EPS, VECTOR, VECTOR, True, None), ValueError, "x has shape (4,)"),
        (
            "batch_norm",
            (X, WIDE, None, EPS, VECTOR, VECTOR, True, None),
            ValueError,
            "weight has shape (4,); expected (3,)",
        ),
        ("batch_norm", (X, None, np.ones(3, np.float32), EPS, VECTOR, VECTOR, True, None), TypeError, "bias has dtype"),
        (
            "batch_norm",
            (X, None, None, EPS, WIDE, VECTOR, True, None),
            ValueError,
            "mean has shape (4,); expected (3,)",
        ),
        (
            "batch_norm",
            (X, None, None, EPS, VECTOR, WIDE, False, None),
            ValueError,
            "var has shape (4,); expected (3,)",
        ),
        ("batch_norm", (X, None, None, EPS, VECTOR, VECTOR, True, X.T), ValueError, "out has shape (3, 4)"),
        ("batch_norm", (X + 1j, None, None, EPS, VECTOR, VECTOR, True, None), TypeError, "x has dtype complex128"),
        ("layer_norm", (X, None, None, EPS, VECTOR, WIDE, None), ValueError, "mean has shape (3,); expected (4,)"),
        ("layer_norm", (X, None, None, EPS, np.ones(4, "f4"), WIDE, None), ValueError, "mean has dtype float32"),
        (
            "batch_norm_backward",
            (X, X[:3], None, EPS, VECTOR, VECTOR, None, None, None, False),
            ValueError,
            "dy has shape (3, 3) but x has shape (4, 3)",
        ),
        (
            "layer_norm_backward",
            (X, X, None, EPS, VECTOR, WIDE, None, None, None, False),
            ValueError,
            "mean has shape (3,); expected (4,)",
        ),
        (
            "layer_norm_backward",
            (X, X, None, EPS, WIDE, WIDE, None, None, None, True),
            ValueError,
            "accumulate needs an array to add to; dweight is None",
        ),
        (
            "batch_norm_backward",
            (X, X, VECTOR, EPS, VECTOR, VECTOR, None, VECTOR, None, False),
            ValueError,
            "dweight overlaps weight",
        ),
    ],
)
def test_errors(function: str, arguments: Any, error: type[Exception], message: str) -> None:
    call: Callable[..., Any] = getattr(_core, function)
    with pytest.raises(error, match=re.escape(message)):
        call(*arguments)


@each_norm
def test_as_pytorch(norm: str) -> None:
    torch = pytest.importorskip("torch")
    problem = Problem(norm, normal((60, 45), np.float64))
    found = problem.results()
    x, weight, bias = (torch.from_numpy(a.copy()).requires_grad_() for a in (problem.x, problem.weight, problem.bias))
    functional = torch.nn.functional
    y = (
        functional.batch_norm(x, None, None, weight, bias, training=True)
        if norm == "batch"
        else functional.layer_norm(x, x.shape[1:], weight, bias)
    )
    gradients = torch.autograd.grad(y, (x, weight, bias), torch.from_numpy(problem.dy))
    for name, theirs in zip(("y", "dx", "dweight", "dbias"), (y.detach(), *gradients), strict=True):
        np.testing.assert_allclose(found[name], theirs.numpy(), rtol=1e-11, atol=1e-12, err_msg=name)


# --- the ends of the range ----------------------------------------------------------------------------------


def exact_norm(x: Array, dy: Array, weight: float, bias: float, eps: float) -> dict[str, list[Any]]:
    """What is right of one column or row, in 1000 digits."""
    with mp.workdps(1000):
        wide = [mp.mpf(float(v)) for v in x]
        gradient = [mp.mpf(float(v)) for v in dy]
        n, factor = len(wide), mp.mpf(weight)
        mean = mp.fsum(wide) / n
        t = [v - mean for v in wide]
        rstd = 1 / mp.sqrt(mp.fsum(v * v for v in t) / n + mp.mpf(eps))
        xhat = [v * rstd for v in t]
        products = [a * b for a, b in zip(gradient, xhat, strict=True)]
        mean_dy, slope = mp.fsum(gradient) / n, mp.fsum(products) / n
        dx = [factor * rstd * (a - mean_dy - b * slope) for a, b in zip(gradient, xhat, strict=True)]
        return {"y": [v * factor + bias for v in xhat], "dx": dx, "products": products, "dy": gradient}


def assert_near(found: Array, exact: list[Any], what: str, terms: list[Any] | None = None) -> None:
    """Within 20 roundings of the largest one, or of a sum's terms, and a few subnormal numbers.

    Not looked at if that is out of range.
    """
    info = np.finfo(found.dtype)
    with mp.workdps(1000):
        largest = max(abs(v) for v in exact) if terms is None else mp.fsum(abs(v) for v in terms)
    if largest > float(info.max):
        return
    bound = largest * float(info.eps) * 20 + 2 * float(info.smallest_subnormal)
    for one, right in zip(found.reshape(-1), exact, strict=True):
        assert np.isfinite(one), what
        assert abs(mp.mpf(float(one)) - right) <= bound, f"{what}: {one!r}, exact {mp.nstr(right, 10)}"


ENDS = [1.0, 1e20, 1e30, 1e-20, 1e-35, 1e150, 1e200, 1e-200, "largest", "subnormal"]


@each_dtype
@pytest.mark.parametrize("dy_size", [1.0, 1e-20, "largest"])
@pytest.mark.parametrize("size", ENDS)
def test_ends_of_the_range(size: Any, dy_size: Any, dtype: Any, target: str) -> None:
    """Whatever is finite, of finite inputs, is right; a column beside it does not feel it."""
    info = np.finfo(dtype)
    named = {"largest": float(info.max) / 1.1, "subnormal": 3e3 * float(info.smallest_subnormal)}
    size, dy_size = named.get(size, size), named.get(dy_size, dy_size)
    if size > float(info.max) or size < float(info.smallest_subnormal):
        pytest.skip("beyond this dtype")
    rng = seeded("ends", size, dy_size)
    x, dy = (rng.uniform(-1, 1, 9) * size).astype(dtype), (rng.uniform(-1, 1, 9) * dy_size).astype(dtype)
    weight, bias = dtype(0.7), dtype(0.1)
    for eps in (1e-5, 1e-30):
        exact = exact_norm(x, dy, float(weight), float(bias), eps)
        mean, var = np.empty(1), np.empty(1)
        row = np.full(9, weight), np.full(9, bias)
        assert_near(_core.layer_norm(x[None], *row, eps, mean, var, None), exact["y"], "y of a row")
        found = _core.layer_norm_backward(x[None], dy[None].copy(), row[0], eps, mean, var, None, None, None, False)
        for name, array in zip(("dx", "products", "dy"), found, strict=True):
            assert_near(array, exact[name], f"{name} of a row")

        beside = np.arange(9, dtype=dtype)
        both, both_dy = np.stack([x, beside], axis=1), np.stack([dy, np.cos(beside)], axis=1)
        weights, biases = np.array([weight, 1], dtype), np.array([bias, 0], dtype)
        mean, var = np.empty(2), np.empty(2)
        y = _core.batch_norm(both, weights, biases, eps, mean, var, True, None)
        assert_near(y[:, 0], exact["y"], "y of a column")
        dx = both_dy.copy()
        dweight, dbias = np.ones(2, dtype), np.ones(2, dtype)
        _core.batch_norm_backward(both, dx, weights, eps, mean, var, dx, dweight, dbias, False)
        assert_near(dx[:, 0], exact["dx"], "dx of a column")
        with mp.workdps(1000):
            sums = {name: [mp.fsum(exact[name])] for name in ("products", "dy")}
        assert_near(dweight[:1], sums["products"], "dweight", exact["products"])
        assert_near(dbias[:1], sums["dy"], "dbias", exact["dy"])
        alone = _core.batch_norm(
            beside[:, None], weights[1:], biases[1:], eps, mean[1:].copy(), var[1:].copy(), True, None
        )
        assert_same_bits(y[:, 1:], alone)


@each_dtype
def test_running_statistics_stay_finite(dtype: Any) -> None:
    """An average that the dtype cannot hold is the nearest number; ends of both signs do not overflow between them."""
    largest = np.finfo(dtype).max
    running = np.array([largest, 0.0], dtype), np.array([1.0, 1.0], dtype)
    ends = np.array([-float(largest), 0.0])
    _core.batch_norm_update(ends, np.array([np.inf, 4.0]), 4, 0.5, *running)
    np.testing.assert_array_equal(running[0], [0.0, 0.0])
    np.testing.assert_allclose(running[1], [min(float(largest), np.finfo(np.float64).max / 2), 0.5 + 0.5 * 16 / 3])
    assert np.isfinite(running[1]).all()


@each_dtype
@pytest.mark.parametrize("layer", ["batch", "layer"])
def test_a_constant_far_from_zero(layer: str, dtype: Any, target: str) -> None:
    """Its deviations are 0 and only eps counts, however much larger the constant is: dx = (dy - mean) / sqrt(eps)."""
    dy = seeded("constant").standard_normal((6, 5)).astype(dtype)
    exact = dy.astype(np.longdouble)
    dx = (exact - exact.mean(axis=0 if layer == "batch" else 1, keepdims=True)) / np.sqrt(np.longdouble(1e-5))
    for constant in (3.0, 1e30) if dtype is np.float32 else (3.0, 1e150, 1e160, 1e200, 1e300):
        norm = fp.nn.BatchNorm(5) if layer == "batch" else fp.nn.LayerNorm(5)
        model = fp.nn.Sequential([norm], dtype=dtype)
        assert not model(np.full((6, 5), constant, dtype), training=True).any()
        np.testing.assert_allclose(model.backward(dy), dx.astype(np.float64), rtol=64 * np.finfo(dtype).eps)


@each_dtype
@pytest.mark.parametrize("layer", ["batch", "layer"])
@pytest.mark.parametrize("size", [1e-11, 1e-13, 1e-16, 1e-25])
def test_units_that_are_all_but_dead(size: float, layer: str, dtype: Any, target: str) -> None:
    """Where eps carries the variance, dx and the gradients of the parameters are those of the formula."""
    rng = seeded("dead")
    axis, n = (0, 7) if layer == "batch" else (1, 6)
    x, dy = (size * rng.standard_normal((7, 6))).astype(dtype), rng.standard_normal((7, 6)).astype(dtype)
    norm = fp.nn.BatchNorm(6) if layer == "batch" else fp.nn.LayerNorm(6)
    model = fp.nn.Sequential([norm], dtype=dtype)
    model(x, training=True)
    dx = model.backward(dy)
    wide, grad = x.astype(np.longdouble), dy.astype(np.longdouble)
    t = wide - wide.mean(axis=axis, keepdims=True)
    rstd = 1 / np.sqrt((t**2).sum(axis=axis, keepdims=True) / n + np.longdouble(1e-5))
    expected = rstd * (
        grad - grad.mean(axis=axis, keepdims=True) - t * rstd**2 * (grad * t).mean(axis=axis, keepdims=True)
    )
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(dx, expected.astype(np.float64), rtol=64 * eps, atol=64 * eps)
    dweight = (grad * t * rstd).sum(axis=0)
    terms = np.abs(grad * t * rstd).sum(axis=0)
    assert (np.abs(model.gradients()["0.weight"] - dweight) <= 16 * eps * terms).all()
