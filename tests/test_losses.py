"""Losses of one prediction per target: values, gradients, Hessians, weights and reductions, for every entry."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from helpers import (
    COMPLEMENTS,
    FLOATS,
    LARGE,
    LAYOUTS,
    LOSSES,
    TWO_VECTORS,
    Array,
    Out,
    Parameters,
    assert_same_bits,
    assert_within,
    each_dtype,
    each_loss,
    exact_truth,
    extremes,
    laid_out,
    numbers,
    predictions_for,
    rounded,
    seeded,
    targets_for,
    truth,
    unit,
    widened,
)
from hypothesis import given
from hypothesis import strategies as st

import fuseprop as fp
from fuseprop._registry import LossSpec

SHAPE = (7, 19)
REDUCTIONS = ("mean", "sum", "none")
each_spec = pytest.mark.parametrize("spec", LOSSES, ids=lambda spec: spec.name)


def unreduced(loss: Any, pred: Array, target: Array) -> tuple[Array, Array, Array]:
    """(value, d1, d2) per element."""
    return (loss(pred, target, None, "none"), *loss.grad_and_hess(pred, target))


# --- accuracy -----------------------------------------------------------------------------------------------


def allowed(spec: LossSpec, parameters: Parameters, pred: Array, target: Array) -> list[Array]:
    """How far value, d1 and d2 may be from the truth: the Spec's ULPs, of the result or, where that is a sum which may
    change its sign, of its terms.

    A loss of the residual alone is a function of the residual rounded: what that half ULP makes comes on top.
    """
    dtype = pred.dtype
    p, t = pred.astype(np.longdouble), target.astype(np.longdouble)
    results = truth(spec, parameters, p, t, dtype=dtype)
    shifts = residual_shifts(spec, parameters, p, t, dtype)
    sizes = [np.abs(f) + terms for f, terms in zip(results, term_sizes(spec, parameters, p, t, dtype), strict=True)]
    return [ulp * unit(size, dtype) + shift for ulp, size, shift in zip(spec.ulp or (), sizes, shifts, strict=True)]


def residual_shifts(spec: LossSpec, parameters: Parameters, p: Array, t: Array, dtype: Any) -> list[Array]:
    """What half an ULP of pred - target changes, of a loss that depends on nothing else; of others, zeros."""
    results = truth(spec, parameters, p, t, dtype=dtype)
    r, zero = (p - t).astype(np.longdouble), np.zeros(p.shape, np.longdouble)
    of_residual = truth(spec, parameters, r, zero, dtype=dtype)
    if not all(
        np.allclose(a, b, rtol=1e-12, atol=0, equal_nan=True) for a, b in zip(results, of_residual, strict=True)
    ):
        return [zero, zero, zero]
    half = np.finfo(dtype).eps / 2
    moved = [truth(spec, parameters, r * (1 + sign * half), zero, dtype=dtype) for sign in (-1, 1)]
    with np.errstate(invalid="ignore"):
        return [
            np.nan_to_num(np.maximum(abs(a - f), abs(b - f)), posinf=0)
            for a, b, f in zip(*moved, of_residual, strict=True)
        ]


def term_sizes(spec: LossSpec, parameters: Parameters, p: Array, t: Array, dtype: Any) -> list[Array]:
    """The sizes of what may cancel in value, d1 and d2, as the Spec says: the target's share, t df/dt."""
    sizes = [np.zeros(p.shape, np.longdouble) for _ in range(3)]
    step = np.longdouble(2.0**-20)  # downwards: stays in every domain
    here = truth(spec, parameters, p, t, dtype=dtype)
    there = truth(spec, parameters, p, t * (1 - step), dtype=dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for i, name in enumerate(("value", "d1", "d2")):
            if name in spec.cancels:
                sizes[i] = np.nan_to_num(np.abs(there[i] - here[i]) / step, posinf=0)
    if spec.name == "focal_with_logits":  # d2 of one class changes its sign, too
        sizes[2] = np.maximum(sizes[2], focal_terms(p, t, **parameters))
    return sizes


def focal_terms(p: Array, t: Array, gamma: float, alpha: float) -> Array:
    """The sizes of what is added up to the focal loss's second derivative."""
    total = np.zeros_like(p)
    for u, share in ((p, alpha * t), (-p, (1 - alpha) * (1 - t))):
        a, b = np.exp(-np.logaddexp(0, -u)), np.exp(-np.logaddexp(0, u))
        total += share * b**gamma * a * (b * (1 + 2 * gamma) + gamma * np.logaddexp(0, -u) * (b + gamma * a))
    return total


def sample(spec: LossSpec, dtype: Any, n: int) -> tuple[Array, Array]:
    """Predictions of everyday size, large ones, and ones of any size; residuals that are small or 0 among them."""
    rng = seeded(spec.name, n)
    pred = (3 * rng.standard_normal(n)).astype(dtype)
    pred[::3] *= dtype(8)
    pred[::5] = rng.uniform(-150, 150, pred[::5].size).astype(dtype)
    pred[::11] = np.exp2(rng.uniform(-90, 90, pred[::11].size)).astype(dtype)
    pred = predictions_for(spec, pred)
    target = targets_for(spec, (n,), dtype, rng)
    if spec.target_domain == "real":
        pred[1::7] = target[1::7]
        near = pred[2::7] * (1 + 10 ** rng.uniform(-6, 0, pred[2::7].size))
        target[2::7] = near.astype(dtype)
    return pred, target


@each_dtype
@each_loss
def test_accuracy(spec: LossSpec, parameters: Parameters, dtype: Any, target: str) -> None:
    loss = spec.cls(**parameters)
    p, t = sample(spec, dtype, LARGE)
    expected = truth(spec, parameters, widened(p), widened(t), dtype=dtype)
    bounds = allowed(spec, parameters, p, t)
    actual = unreduced(loss, p, t)
    for a, e, bound, what in zip(actual, expected, bounds, ("value", "d1", "d2"), strict=True):
        assert a.dtype == dtype
        assert_within(a, e, bound, p, t, what=what)


@each_loss
def test_float64_against_many_digits(spec: LossSpec, parameters: Parameters, target: str) -> None:
    p, t = sample(spec, np.float64, 300)
    t = np.concatenate([t, t[: 2 * 101]])
    p = np.concatenate([p, predictions_for(spec, np.linspace(-40, 40, 202))])
    expected = exact_truth(spec, parameters, p, t)
    bounds = allowed(spec, parameters, p, t)
    for a, e, bound, what in zip(unreduced(spec.cls(**parameters), p, t), expected, bounds, "fgh", strict=True):
        largest = float(np.finfo(np.float64).max)
        error = np.array(
            [
                float(abs(x - y)) if abs(y) <= largest else float(not abs(x) >= largest)
                for x, y in zip(a.tolist(), e, strict=True)
            ]
        )
        worst = np.argmax(error - bound)
        assert np.all(error <= bound), (what, p[worst], t[worst], a[worst], e[worst], bound[worst])


@each_dtype
@each_loss
def test_derivatives_are_those_of_the_value(spec: LossSpec, parameters: Parameters, dtype: Any) -> None:
    """Fourth-order central differences in float64: d1 of the value, d2 of d1.

    Where the differences at h and 2 h differ, at a joint, none is compared with.
    """
    loss = spec.cls(**parameters)
    rng = seeded(spec.name, "differences")
    h = 1e-3
    low, high = (0.1, 0.9) if spec.pred_domain == "unit" else (-5, 5)
    p = rng.uniform(low, high, 600).astype(dtype).astype(np.float64)
    t = targets_for(spec, (600,), dtype, rng).astype(np.float64)
    # The kernel's parameters: what is differenced in float64 must not have others.
    same = loss if spec.name in COMPLEMENTS else spec.cls(**rounded(parameters, dtype))
    steps = {k: unreduced(same, p + k * h, t) for k in (-4, -2, -1, 0, 1, 2, 4)}
    grad, hess = loss.grad_and_hess(p.astype(dtype), t.astype(dtype))
    for order, actual in ((0, grad), (1, hess)):
        f = {k: step[order] for k, step in steps.items()}
        difference = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
        wider = (8 * (f[2] - f[-2]) - (f[4] - f[-4])) / (24 * h)
        spread = np.abs(wider - difference)
        smooth = spread < 1e-6 * (1 + np.abs(difference))
        assert smooth.mean() > 0.8
        bound = spread + 4 * np.finfo(np.float64).eps * np.abs(f[0]) / h + 2e-12
        bound = bound + allowed(spec, parameters, p.astype(dtype), t.astype(dtype))[order + 1].astype(np.float64)
        assert_within(actual.astype(np.float64)[smooth], difference[smooth], bound[smooth], p[smooth], t[smooth])


# --- special values -----------------------------------------------------------------------------------------


@each_dtype
@each_loss
def test_special_predictions(spec: LossSpec, parameters: Parameters, dtype: Any, target: str) -> None:
    """NaN gives NaN; nothing else does, nothing overflows or vanishes where the truth does not."""
    loss = spec.cls(**parameters)
    edges = predictions_for(spec, extremes(dtype))
    goals = {
        "real": [0.0, -0.0, 3.0, -2.5],
        "unit": [0.0, 1.0, 0.5],
        "sign": [-1.0, 1.0],
        "nonnegative": [0.0, 2.5],
        "positive": [0.3, 2.5],
        "nonzero": [1.0, -2.5],
    }[spec.target_domain if spec.targets_of is None else spec.targets_of(parameters)]
    p, t = (a.ravel() for a in np.meshgrid(edges, np.array(goals, dtype)))
    expected = truth(spec, parameters, p.astype(np.longdouble), t.astype(np.longdouble), dtype=dtype)
    info = np.finfo(dtype)
    for actual, true, what in zip(unreduced(loss, p, t), expected, ("value", "d1", "d2"), strict=True):
        assert np.all(np.isnan(actual[np.isnan(p)])), what
        assert not np.any(np.isnan(actual) & ~np.isnan(true)), what
        overflow = np.isinf(actual) & (np.abs(true) < 0.9999 * float(info.max))
        assert not overflow.any(), f"{what} overflows at {p[overflow]}, {t[overflow]}"
        # Inside of a domain a derivative changes its sign, and has an absolute error there.
        lost = (actual == 0) & (np.abs(true) > 4 * float(info.smallest_subnormal)) & (t != 0.5)
        assert not lost.any(), f"{what} is zero at {p[lost]}, {t[lost]}"
        infinite = np.isinf(p) & ~np.isnan(true)
        assert np.array_equal(actual[infinite], true[infinite].astype(dtype)), what


@each_dtype
@each_spec
def test_a_nan_stays_in_its_element(spec: LossSpec, dtype: Any, target: str) -> None:
    loss = spec.cls()
    rng = seeded("nan")
    p = predictions_for(spec, rng.standard_normal(TWO_VECTORS).astype(dtype))
    t = targets_for(spec, p.shape, dtype, rng)
    without = unreduced(loss, p, t)
    for i in range(TWO_VECTORS):
        q = p.copy()
        q[i] = np.nan
        for actual, clean in zip(unreduced(loss, q, t), without, strict=True):
            assert np.isnan(actual[i])
            assert_same_bits(np.delete(actual, i), np.delete(clean, i))
        assert math.isnan(loss(q, t))


# --- reductions and weights ---------------------------------------------------------------------------------


def sum_bound(values: Array) -> float:
    """Rounding of a sum in float64 of n numbers: n 2^-53 sum|v|, whatever the order."""
    return float(values.size * 2.0**-53 * np.abs(values.astype(np.float64)).sum())


def exact_sum(values: Array) -> float:
    return math.fsum(values.ravel().tolist())


def assert_sum(total: Any, values: Array) -> None:
    """A float that is the sum of the values, formed in float64."""
    assert type(total) is float
    expected = exact_sum(values)
    assert total == expected or abs(total - expected) <= sum_bound(values)


def weights_of(kind: str, shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> Array | None:
    sizes = {"none": None, "per sample": shape[:1], "per element": shape}[kind]
    if sizes is None:
        return None
    weights = (rng.random(sizes) * rng.choice([0.0, 1.0, 2.0], sizes)).astype(dtype)
    weights[0] = 0.75  # not all are 0
    return weights


@pytest.mark.parametrize("weighted", ["none", "per sample", "per element"])
@pytest.mark.parametrize("shape", [(1,), (5,), (33, 3), (3, 4, 5), (50_001, 2), (2, 50_001), (LARGE,)], ids=str)
@each_dtype
@each_spec
def test_reductions(spec: LossSpec, dtype: Any, shape: tuple[int, ...], weighted: str, target: str) -> None:
    loss = spec.cls(**(spec.examples[-1] if spec.examples else {}))
    rng = seeded(spec.name, shape, weighted)
    p = predictions_for(spec, (3 * rng.standard_normal(shape)).astype(dtype))
    t = targets_for(spec, shape, dtype, rng)
    w = weights_of(weighted, shape, dtype, rng)
    value, d1, d2 = unreduced(loss, p, t)
    full = np.ones(shape, dtype)
    if w is not None:
        full *= w.reshape(w.shape + (1,) * (p.ndim - w.ndim))
    eps = float(np.finfo(dtype).eps)

    none = loss(p, t, w, "none")
    assert isinstance(none, np.ndarray)
    assert_same_bits(none, value * full)  # one rounding in dtype
    total = loss(p, t, w, "sum")
    assert_sum(total, none)  # values are rounded to dtype once, weighted, and summed in float64
    denominator = exact_sum(full)
    mean = loss(p, t, w, "mean")
    assert type(mean) is float
    assert abs(mean - exact_sum(none) / denominator) <= (sum_bound(none) + 4 * 2.0**-53 * abs(total)) / denominator + (
        abs(mean) * sum_bound(full) / denominator
    )
    assert loss(p, t, w) == mean

    # The gradient: of the sum, and divided as the value is; roundings of the factor, of its product with w and of that
    # with d1, in dtype, and those of the sum that it divides by.
    assert_same_bits(loss.gradient(p, t, w, "sum"), d1 * full)
    assert_same_bits(loss.gradient(p, t, w, "none"), d1 * full)
    expected = d1.astype(np.float64) * full.astype(np.float64) / denominator
    tiny = float(np.finfo(dtype).smallest_subnormal)
    bound = (3 * eps + sum_bound(full) / denominator) * np.abs(expected) + tiny
    assert_within(loss.gradient(p, t, w, "mean"), expected, bound)
    assert_same_bits(loss.gradient(p, t, w), loss.gradient(p, t, w, "mean"))
    for reduction in REDUCTIONS:
        both = loss.value_and_grad(p, t, w, reduction)
        assert_same_bits(both, (loss(p, t, w, reduction), loss.gradient(p, t, w, reduction)), reduction)
    assert_same_bits(loss.value_and_grad(p, t, w), loss.value_and_grad(p, t, w, "mean"))
    assert_same_bits(loss.grad_and_hess(p, t, w), (d1 * full, d2 * full))


@each_dtype
@each_spec
def test_broadcast_weights_are_weights_per_element(spec: LossSpec, dtype: Any) -> None:
    loss = spec.cls()
    rng = seeded("broadcast")
    p = predictions_for(spec, rng.standard_normal((6, 4)).astype(dtype))
    t = targets_for(spec, p.shape, dtype, rng)
    w = rng.random(6).astype(dtype)
    wide = np.repeat(w[:, None], 4, axis=1)
    for reduction in ("sum", "none"):
        assert_same_bits(loss.value_and_grad(p, t, w, reduction), loss.value_and_grad(p, t, wide, reduction))
    assert_same_bits(loss.grad_and_hess(p, t, w), loss.grad_and_hess(p, t, wide))
    # Stride 0 is a layout like any other.
    assert_same_bits(loss.value_and_grad(p, t, np.broadcast_to(w[:, None], (6, 4))), loss.value_and_grad(p, t, wide))


@each_dtype
@each_spec
def test_weights_of_sum_zero(spec: LossSpec, dtype: Any) -> None:
    """A batch in which nothing counts has value 0 and gradient 0, not NaN."""
    loss = spec.cls()
    p = predictions_for(spec, np.array([2.0, -1.0, 0.5], dtype))
    t = targets_for(spec, p.shape, dtype, seeded(0))
    value, gradient = loss.value_and_grad(p, t, np.zeros(3, dtype))
    assert value == 0.0
    assert_same_bits(np.abs(gradient), np.zeros(3, dtype))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)], ids=str)
@each_dtype
@each_spec
def test_empty(spec: LossSpec, dtype: Any, shape: tuple[int, ...]) -> None:
    loss = spec.cls()
    p = np.empty(shape, dtype)
    for weight in (None, np.ones(shape[0]), np.ones(shape)):
        for reduction in ("mean", "sum"):
            value, gradient = loss.value_and_grad(p, p, weight, reduction)
            assert value == 0.0
            assert type(value) is float
            assert_same_bits(gradient, p)
        assert_same_bits(loss(p, p, weight, "none"), p)
        assert_same_bits(loss.grad_and_hess(p, p, weight), (p, p))


@each_dtype
@each_spec
def test_zero_dimensions(spec: LossSpec, dtype: Any) -> None:
    loss = spec.cls()
    p, t = np.array(0.7, dtype), np.array(1.0, dtype)
    value, gradient = loss.value_and_grad(p, t)
    assert type(value) is float
    assert np.shape(gradient) == ()
    flat_value, flat_gradient = loss.value_and_grad(p[None], t[None])
    assert (value, gradient) == (flat_value, flat_gradient[0])
    assert loss(p, t, None, "none") == loss(p[None], t[None], None, "none")[0]


@each_dtype
@each_spec
def test_hess_floor(spec: LossSpec, dtype: Any) -> None:
    """max(d2, floor), then the weight; a NaN stays NaN."""
    loss = spec.cls()
    rng = seeded("floor")
    p = predictions_for(spec, (4 * rng.standard_normal(200)).astype(dtype))
    t = targets_for(spec, p.shape, dtype, rng)
    p[7] = np.nan
    w = rng.random(200).astype(dtype)
    grad, hess = loss.grad_and_hess(p, t)
    for floor in (0.0, 0.125, 2.0, -1.0, 1):
        raised = np.where(hess < dtype(floor), dtype(floor), hess)
        assert_same_bits(loss.grad_and_hess(p, t, None, floor), (grad, raised))
        assert_same_bits(loss.grad_and_hess(p, t, sample_weight=w, hess_floor=floor), (grad * w, raised * w))


# --- layouts, outputs, dtypes -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
@each_spec
def test_layouts(spec: LossSpec, dtype: Any, layout: str) -> None:
    loss = spec.cls()
    rng = seeded(spec.name, "layouts")
    p = predictions_for(spec, (3 * rng.standard_normal(SHAPE)).astype(dtype))
    t = targets_for(spec, SHAPE, dtype, rng)
    w = rng.random(SHAPE).astype(dtype)
    expected = unreduced(loss, p, t)
    assert_same_bits(unreduced(loss, laid_out(p, layout), laid_out(t, layout)), expected)
    for weight in (None, w, w[:, 0].copy()):
        value, gradient = loss.value_and_grad(p, t, weight)
        for other in LAYOUTS:
            arguments = laid_out(p, layout), laid_out(t, other), weight
            if weight is w:
                arguments = laid_out(p, layout), t, laid_out(w, other)
            same_order = layout == other and layout.startswith("f")  # the sum takes another order then
            found = loss.gradient(*arguments, "sum")
            assert_same_bits(np.ascontiguousarray(found), loss.gradient(p, t, weight, "sum"))
            out = Out(other, SHAPE, dtype)
            again, returned = loss.value_and_grad(*arguments, out=out.array)
            if same_order:
                assert math.isclose(again, value, rel_tol=1e-14)
            elif not layout.startswith("f"):
                assert again == value
            if weight is None:  # else the sum of the weights may be taken in another order
                out.assert_received(returned, gradient, other)
            out = Out(other, SHAPE, dtype)
            out.assert_received(
                loss.gradient(*arguments, "sum", out=out.array), loss.gradient(p, t, weight, "sum"), other
            )


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
@each_spec
def test_in_place(spec: LossSpec, dtype: Any, layout: str) -> None:
    """out may be pred, target, or weights of pred's shape."""
    loss = spec.cls()
    rng = seeded(spec.name, "in place")
    p = predictions_for(spec, (3 * rng.standard_normal(SHAPE)).astype(dtype))
    inputs = [p, targets_for(spec, SHAPE, dtype, rng), rng.random(SHAPE).astype(dtype)]
    value, gradient = loss.value_and_grad(*inputs, "none")
    for i in range(3):
        out = Out(layout, SHAPE, dtype)
        out.array[...] = inputs[i]
        arguments = [out.array if j == i else x for j, x in enumerate(inputs)]
        found, returned = loss.value_and_grad(*arguments, "none", out=out.array)
        assert_same_bits(np.ascontiguousarray(found), value)
        out.assert_received(returned, gradient, f"argument {i}")


class Subclass(np.ndarray):
    """An array of a user's own kind."""


@each_spec
def test_pred_rules_the_dtype(spec: LossSpec) -> None:
    """target and weights are cast to pred's dtype; lists, integers and booleans are float64."""
    loss = spec.cls()
    p = predictions_for(spec, np.array([[0.5, -1.25, 2.0], [3.0, 0.0, -0.75]]))
    t = (
        np.array([[1, 0, 1], [0, 0, 1]])
        if spec.target_domain in ("real", "unit", "nonnegative")
        else np.ones((2, 3), int)
    )
    w = np.array([1.0, 2.5])
    expected = loss.value_and_grad(p, t.astype(np.float64), w)
    for target in (t, t.astype(bool), t.astype(np.uint8), t.astype(np.float32), t.tolist(), t.astype(">i2")):
        for weight in (w, w.astype(np.float32), w.tolist(), w.astype(">f8")):
            assert_same_bits(loss.value_and_grad(p, target, weight), expected)
    assert_same_bits(loss.value_and_grad(p.tolist(), t.tolist(), w.tolist()), expected)
    single = p.astype(np.float32)
    expected = loss.value_and_grad(single, t.astype(np.float32), w.astype(np.float32))
    assert expected[1].dtype == np.float32
    assert_same_bits(loss.value_and_grad(single, t, w), expected)
    whole = np.array([1, 0, 1]) if spec.pred_domain == "unit" else np.array([1, -2, 3])
    assert_same_bits(loss.grad_and_hess(whole, [1, 1, 1]), loss.grad_and_hess(whole.astype(float), [1.0, 1.0, 1.0]))
    assert_same_bits(loss(p.view(Subclass), t, None, "none"), loss(p, t, None, "none"))
    assert loss(pred=p, target=t, sample_weight=w, reduction="sum") == loss(p, t, w, "sum")


@each_dtype
@each_spec
def test_every_size(spec: LossSpec, dtype: Any, target: str) -> None:
    loss = spec.cls()
    p, t = sample(spec, dtype, TWO_VECTORS)
    whole = unreduced(loss, p, t)
    for n in range(TWO_VECTORS + 1):
        assert_same_bits(unreduced(loss, p[:n], t[:n]), tuple(a[:n] for a in whole), str(n))
        assert_sum(loss(p[:n], t[:n], None, "sum"), whole[0][:n])


@each_dtype
@each_spec
def test_out_beyond_the_caches(spec: LossSpec, dtype: Any, threads: int) -> None:
    """Gradients of 8 MiB and more are written around the caches; the start is not aligned."""
    loss = spec.cls()
    n = (9 << 20) // np.dtype(dtype).itemsize
    small = sample(spec, dtype, 5003)
    p, t = (np.resize(a, n) for a in small)
    memory = np.full(n + 2, 7.0, dtype)
    out = memory[1:-1]
    grad, hess = loss.grad_and_hess(*small)
    assert loss.gradient(p, t, None, "sum", out=out) is out
    assert_same_bits(out, np.resize(grad, n))
    assert memory[0] == memory[-1] == 7.0
    assert_same_bits(loss.grad_and_hess(p, t), (np.resize(grad, n), np.resize(hess, n)))


@given(data=st.data())
def test_any_shape_and_strides(data: st.DataObject) -> None:
    spec = data.draw(st.sampled_from(LOSSES))
    dtype = data.draw(st.sampled_from(FLOATS))
    loss = spec.cls()
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    shape = tuple(data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=3)))

    def strided(x: Array) -> Array:
        order = data.draw(st.permutations(range(x.ndim)))
        back = np.argsort(order)
        step = data.draw(st.sampled_from([1, 2, -1]))
        memory = np.repeat(x.transpose(order), abs(step), axis=-1)
        return (memory[..., ::-1].copy()[..., ::-1] if step < 0 else memory[..., ::step]).transpose(back)

    p = predictions_for(spec, numbers(math.prod(shape), dtype, rng)).reshape(shape)
    t = targets_for(spec, shape, dtype, rng)
    w = rng.random(shape[:1] if data.draw(st.booleans()) else shape).astype(dtype)
    with np.errstate(all="ignore"):
        expected = loss.gradient(p, t, w, "sum"), *loss.grad_and_hess(p, t, w)
    weights = strided(w) if w.ndim > 1 else w
    found = loss.gradient(strided(p), strided(t), weights, "sum"), *loss.grad_and_hess(strided(p), strided(t), weights)
    assert_same_bits(tuple(map(np.ascontiguousarray, found)), tuple(map(np.ascontiguousarray, expected)))


# --- peers --------------------------------------------------------------------------------------------------

TORCH = {
    "squared_error": lambda f, p, t: f.mse_loss(p, t, reduction="none"),
    "absolute_error": lambda f, p, t: f.l1_loss(p, t, reduction="none"),
    "logistic": lambda f, p, t: f.softplus(-t * p),
    "binary_cross_entropy": lambda f, p, t: f.binary_cross_entropy(p, t, reduction="none"),
    "poisson": lambda f, p, t: f.poisson_nll_loss(p, t, reduction="none"),
    "half_squared_error": lambda f, p, t: 0.5 * f.mse_loss(p, t, reduction="none"),
    "huber": lambda f, p, t: f.huber_loss(p, t, reduction="none"),
    "binary_cross_entropy_with_logits": lambda f, p, t: f.binary_cross_entropy_with_logits(p, t, reduction="none"),
}


@pytest.mark.parametrize("spec", [s for s in LOSSES if s.name in TORCH], ids=lambda spec: spec.name)
def test_equal_to_torch(spec: LossSpec) -> None:
    torch = pytest.importorskip("torch")
    rng = seeded("torch")
    p = predictions_for(spec, 3 * rng.standard_normal((30, 4)))
    t = targets_for(spec, p.shape, np.float64, rng)
    p_torch = torch.tensor(p, requires_grad=True)
    peer = TORCH[spec.name](torch.nn.functional, p_torch, torch.tensor(t))
    loss = spec.cls()
    np.testing.assert_allclose(loss(p, t, None, "none"), peer.detach().numpy(), rtol=1e-13, atol=1e-15)
    peer.mean().backward()
    value, gradient = loss.value_and_grad(p, t)
    assert math.isclose(value, peer.mean().item(), rel_tol=1e-13)
    # torch's s(z) - y loses eps / p.size; the tolerance is that.
    np.testing.assert_allclose(gradient, p_torch.grad.numpy(), rtol=1e-13, atol=4e-16 / p.size * 4)
    assert loss(torch.tensor(p), torch.tensor(t)) == value


def test_huber_and_cross_entropy_equal_to_torch_with_parameters() -> None:
    torch = pytest.importorskip("torch")
    rng = seeded("torch")
    p, y = 3 * rng.standard_normal(200), rng.random(200)
    functional = torch.nn.functional
    peer = functional.huber_loss(torch.tensor(p), torch.tensor(y), delta=0.4)
    assert math.isclose(fp.losses.Huber(delta=0.4)(p, y), peer.item(), rel_tol=1e-13)
    peer = functional.binary_cross_entropy_with_logits(
        torch.tensor(p), torch.tensor(y), pos_weight=torch.tensor(3.0, dtype=torch.float64)
    )
    assert math.isclose(fp.losses.BinaryCrossEntropyWithLogits(pos_weight=3)(p, y), peer.item(), rel_tol=1e-13)


def test_equal_to_scipy_and_sklearn() -> None:
    special = pytest.importorskip("scipy.special")
    metrics = pytest.importorskip("sklearn.metrics")
    rng = seeded("sklearn")
    p, t = 3 * rng.standard_normal(500), rng.standard_normal(500)
    w = rng.random(500)
    huber = fp.losses.Huber(delta=1.35)
    np.testing.assert_allclose(huber(p, t, None, "none"), special.huber(1.35, p - t), rtol=1e-14)
    assert math.isclose(
        2 * fp.losses.HalfSquaredError()(p, t, w), metrics.mean_squared_error(t, p, sample_weight=w), rel_tol=1e-13
    )
    labels = t > 0
    bce = fp.losses.BinaryCrossEntropyWithLogits()
    expected = metrics.log_loss(labels, special.expit(p), sample_weight=w)
    assert math.isclose(bce(p, labels, w), expected, rel_tol=1e-10)  # log_loss goes through probabilities


def test_worked_numbers() -> None:
    """docs/mathematics.md 7: binary cross-entropy of p = 0.6 and 0.7; absolute and squared sums of two predictions."""
    for p, digits in ((0.6, 0.51), (0.7, 0.36)):
        assert round(fp.losses.BinaryCrossEntropyWithLogits()([math.log(p / (1 - p))], [1.0]), 2) == digits
        assert round(fp.losses.BinaryCrossEntropy()([p], [1.0]), 2) == digits
    predictions, target = ([1.0, 2.0, 3.0], [1.0, 3.0, 3.0]), [1.0, 1.0, 1.0]
    for loss, factor, expected in (
        (fp.losses.AbsoluteError(), 1, [3.0, 4.0]),
        (fp.losses.Quantile(0.5), 2, [3.0, 4.0]),
        (fp.losses.SquaredError(), 1, [5.0, 8.0]),
        (fp.losses.HalfSquaredError(), 2, [5.0, 8.0]),
    ):
        assert [factor * loss(p, target, reduction="sum") for p in predictions] == expected
    assert [fp.losses.RootMeanSquaredError()(p, target) for p in predictions] == [math.sqrt(5 / 3), math.sqrt(8 / 3)]


# --- relations between losses -------------------------------------------------------------------------------


def assert_close(actual: tuple[Any, ...], expected: tuple[Any, ...], rtol: float = 4e-15) -> None:
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol / 10)


def test_logistic_is_binary_cross_entropy() -> None:
    """Forms for targets -1, 1 and 0, 1 agree; from probabilities too; focal with gamma 0 is a half of it."""
    rng = seeded("logistic")
    z, y = 10 * rng.standard_normal(1000), rng.choice([-1.0, 1.0], 1000)
    labels = (y + 1) / 2
    expected = unreduced(fp.losses.Logistic(), z, y)
    assert_close(unreduced(fp.losses.BinaryCrossEntropyWithLogits(), z, labels), expected)
    assert_close(unreduced(fp.losses.FocalWithLogits(gamma=0, alpha=0.5), z, labels), tuple(e / 2 for e in expected))
    p = rng.uniform(0.01, 0.99, 1000)
    value = fp.losses.BinaryCrossEntropy()(p, labels, None, "none")
    np.testing.assert_allclose(value, fp.losses.Logistic()(np.log(p / (1 - p)), y, None, "none"), rtol=1e-12)


def test_binary_cross_entropy_is_that_of_two_classes() -> None:
    rng = seeded("two classes")
    p, y = rng.uniform(0.01, 0.99, (2, 500))
    two = np.stack([np.log(1 - p), np.log(p)], axis=1)
    expected = fp.losses.SoftmaxCrossEntropy()(two, np.stack([1 - y, y], axis=1), None, "none")
    np.testing.assert_allclose(fp.losses.BinaryCrossEntropy()(p, y, None, "none"), expected, rtol=1e-12)


def test_special_cases_of_parameters() -> None:
    rng = seeded("special")
    p, t = 3 * rng.standard_normal((2, 1000))
    half = tuple(x / 2 for x in unreduced(fp.losses.AbsoluteError(), p, t))
    assert_same_bits(unreduced(fp.losses.Quantile(0.5), p, t), half)
    y = np.abs(t) + 0.1
    assert_close(unreduced(fp.losses.Tweedie(power=1), p, y), unreduced(fp.losses.Poisson(), p, y), 1e-13)
    assert_close(unreduced(fp.losses.Tweedie(power=2), p, y), unreduced(fp.losses.Gamma(), p, y), 1e-13)
    small = 1e-3 * p
    assert_close(
        unreduced(fp.losses.PseudoHuber(delta=1e8), small, 0 * p), unreduced(fp.losses.HalfSquaredError(), small, 0 * p)
    )


# --- single losses ------------------------------------------------------------------------------------------


@each_dtype
def test_subgradients_at_joints(dtype: Any) -> None:
    losses = fp.losses
    for loss, p, y, d1, d2 in (
        (losses.Hinge(), 1.0, 1.0, 0.0, 0.0),
        (losses.Hinge(), -1.0, -1.0, 0.0, 0.0),
        (losses.SquaredHinge(), 1.0, 1.0, 0.0, 0.0),
        (losses.AbsoluteError(), 2.0, 2.0, 0.0, 0.0),
        (losses.Quantile(0.3), 2.0, 2.0, 0.0, 0.0),
        (losses.AbsolutePercentageError(), 2.0, 2.0, 0.0, 0.0),
        (losses.SymmetricAbsolutePercentageError(), 2.0, 2.0, 0.0, 0.0),
        (losses.SymmetricAbsolutePercentageError(), 0.0, 0.0, 0.0, 0.0),
        (losses.SymmetricAbsolutePercentageError(), 0.0, 4.0, -50.0, 0.0),
        (losses.SymmetricAbsolutePercentageError(), -1.0, 4.0, 0.0, 0.0),
        (losses.Huber(2.0), 2.0, 0.0, 2.0, 1.0),
    ):
        found = loss.grad_and_hess(np.array([p], dtype), np.array([y], dtype))
        assert [float(a[0]) for a in found] == [d1, d2], loss


@each_dtype
def test_zero_one(dtype: Any, target: str) -> None:
    loss = fp.losses.ZeroOne()
    p = np.array([1.0, -1.0, 0.0, -0.0, np.inf, -np.inf, 1e-40, np.nan], dtype)
    for sign in (1.0, -1.0):
        y = np.full(p.shape, sign, dtype)
        expected = np.array([sign < 0, sign > 0, True, True, sign < 0, sign > 0, sign < 0, np.nan], dtype)
        assert_same_bits(loss(p, y, None, "none"), expected)
    w = np.array([3.0, 1.0], dtype)
    assert loss(p[:2], np.ones(2, dtype), w) == 0.25
    assert loss(p[:0], p[:0]) == 0.0
    rng = seeded("zero one")
    p = rng.standard_normal(LARGE).astype(dtype)
    y = rng.choice([-1.0, 1.0], LARGE).astype(dtype)
    assert loss(p, y) == np.mean(np.sign(p) != y)
    with pytest.raises(ValueError, match=r"target\[5\] is 0.0; zero_one expects -1 or 1"):
        loss(p, np.where(np.arange(LARGE) == 5, 0, y))


@each_dtype
def test_root_mean_squared_error(dtype: Any, target: str) -> None:
    loss = fp.losses.RootMeanSquaredError()
    rng = seeded("root")
    for n in (1, 7, 1025, LARGE):
        p, t = rng.standard_normal((2, n)).astype(dtype)
        for w in (None, rng.random(n).astype(dtype) + dtype(0.1)):
            value, gradient = loss.value_and_grad(p, t, w)
            r = p.astype(np.float64) - t.astype(np.float64)
            full = np.ones(n) if w is None else w.astype(np.float64)
            expected = math.sqrt(math.fsum(full * r * r) / math.fsum(full))
            assert math.isclose(value, expected, rel_tol=1e-13)
            np.testing.assert_allclose(gradient, full * r / (expected * math.fsum(full)), rtol=2 * np.finfo(dtype).eps)
            assert loss(p, t, w) == value
            assert_same_bits(loss.gradient(p, t, w), gradient)
            in_place = p.copy()
            assert loss.gradient(in_place, t, w, out=in_place) is in_place
            assert_same_bits(in_place, gradient)
            with fp.num_threads(1):
                assert_same_bits(loss.value_and_grad(p, t, w), (value, gradient))
    # Weights per sample; layouts.
    p, t, w = rng.standard_normal((40, 3)).astype(dtype), rng.standard_normal((40, 3)).astype(dtype), rng.random(40)
    wide = np.repeat(w[:, None], 3, axis=1)
    np.testing.assert_allclose(loss(p, t, w), loss(p, t, wide), rtol=1e-6)
    assert math.isclose(loss(p.T.copy().T, t), loss(p, t), rel_tol=1e-14)
    # Nothing overflows or vanishes where the value does not; a perfect prediction has gradient 0.
    info = np.finfo(dtype)
    for size in (float(info.max), 1e30, 1e-30, float(info.tiny), float(info.smallest_subnormal)):
        p, t = np.array([size, -size, 0.0, 1e3 * 0], dtype), np.zeros(4, dtype)
        value, gradient = loss.value_and_grad(p, t)
        exact = float(dtype(size))
        assert math.isclose(value, exact * math.sqrt(0.5), rel_tol=1e-12, abs_tol=5e-324)
        np.testing.assert_allclose(gradient, np.array([1, -1, 0, 0]) / (4 * math.sqrt(0.5)), rtol=1e-6)
    largest = np.array([info.max], dtype)
    assert math.isclose(loss(largest / 2, -largest / 2), float(info.max), rel_tol=1e-12)
    # Far from the others' size, a residual of 0 stays one.
    value, gradient = loss.value_and_grad(np.array([1e30, 1e-30], dtype), np.array([1e30, 0.0], dtype))
    assert value > 0
    assert gradient[0] == 0
    assert_same_bits(loss.value_and_grad(largest, largest), (0.0, np.zeros(1, dtype)))
    assert math.isnan(loss(np.array([np.nan], dtype), np.ones(1, dtype)))
    assert loss(np.array([np.inf], dtype), np.ones(1, dtype)) == math.inf
    assert_same_bits(loss.value_and_grad(p[:0], p[:0]), (0.0, p[:0]))
    assert_same_bits(loss.value_and_grad(p, p + 1, np.zeros(4, dtype)), (0.0, np.zeros(4, dtype)))


@each_dtype
def test_targets_of_zero(dtype: Any, target: str) -> None:
    """on_zero: "raise", "inf", "skip"; a skipped element does not count in a mean."""
    p = np.array([2.0, 3.0, 0.0, 5.0], dtype)
    t = np.array([1.0, 0.0, 0.0, 4.0], dtype)
    with pytest.raises(ValueError, match=r"target\[1\] is 0.0; absolute_percentage_error expects .*on_zero"):
        fp.losses.AbsolutePercentageError()(p, t)
    infinite = fp.losses.AbsolutePercentageError(on_zero="inf")
    assert_same_bits(infinite(p, t, None, "none"), np.array([100, np.inf, 0, 25], dtype))
    assert_same_bits(infinite.gradient(p, t, None, "sum"), np.array([100, np.inf, 0, 25], dtype))
    assert_same_bits(infinite.gradient(-p, t, None, "sum"), np.array([-100, -np.inf, 0, -25], dtype))
    skipping = fp.losses.AbsolutePercentageError(on_zero="skip")
    assert_same_bits(skipping(p, t, None, "none"), np.array([100, 0, 0, 25], dtype))
    value, gradient = skipping.value_and_grad(p, t)
    assert value == skipping(p, t) == 62.5
    assert_same_bits(gradient, np.array([50, 0, 0, 12.5], dtype))
    assert_same_bits(skipping.gradient(p, t), gradient)
    assert skipping(p, t, np.array([1, 7, 7, 3], dtype)) == 43.75
    assert skipping(p.reshape(2, 2), t.reshape(2, 2), np.array([1, 3], dtype)) == 43.75
    assert_same_bits(skipping.value_and_grad(p, 0 * t), (0.0, np.zeros(4, dtype)))
    assert skipping(p, t, None, "sum") == 125.0


@each_dtype
def test_quantile_per_column(dtype: Any, target: str) -> None:
    """Each column is the loss with its own q; a target without the axis serves all columns."""
    rng = seeded("columns")
    for q in ((0.1, 0.5, 0.9), (0.3,), tuple(np.linspace(0.05, 0.95, 37))):
        loss = fp.losses.Quantile(q=list(q))
        assert loss.q == q
        assert loss == fp.losses.get("pinball", q=np.array(q))
        assert eval(repr(loss), {"Quantile": fp.losses.Quantile, "np": np}) == loss
        for n in (1, 5, 1000, 2503):
            p = rng.standard_normal((n, len(q))).astype(dtype)
            t = rng.standard_normal(n).astype(dtype)
            wide = np.repeat(t[:, None], len(q), axis=1)
            w = rng.random(n).astype(dtype)
            parts = [fp.losses.Quantile(q=float(x)) for x in q]
            columns = [unreduced(part, p[:, i].copy(), t) for i, part in enumerate(parts)]
            expected = tuple(np.stack([c[k] for c in columns], axis=1) for k in range(3))
            for goal in (t, wide, t.tolist(), np.asfortranarray(wide)):
                for pred in (p, np.asfortranarray(p), np.repeat(p, 2, axis=1)[:, ::2]):
                    assert_same_bits(unreduced(loss, pred, goal), expected)
            value, gradient = loss.value_and_grad(p, t, w)
            assert_sum(loss(p, t, None, "sum"), expected[0])
            assert_same_bits(loss.value_and_grad(p, wide, w), (value, gradient))
            out = np.empty_like(p)
            assert loss.gradient(p, t, None, "sum", out=out) is out
            assert_same_bits(out, expected[1])
            with pytest.raises(ValueError, match="out overlaps target"):
                loss.gradient(p, p[:, 0], out=p)


def test_focal_at_the_ends() -> None:
    """No NaN and no overflow, for gamma below 1 and logits of any size; soft targets mix the two classes."""
    z = np.array([0.0, 1.0, 50.0, 88.0, 104.0, 1e4, 1e30, np.inf])
    z = np.concatenate([z, -z])
    for dtype in FLOATS:
        for gamma in (0.0, 0.3, 0.999, 1.0, 2.0, 5.0, 1e6, 1e300):
            for alpha in (0.0, 0.25, 1.0):
                loss = fp.losses.FocalWithLogits(gamma=gamma, alpha=alpha)
                parts = {}
                for y in (0.0, 1.0, 0.25):
                    found = unreduced(loss, z.astype(dtype), np.full(z.shape, y, dtype))
                    assert not any(np.isnan(a).any() for a in found), (gamma, y)
                    assert np.isfinite(found[0][np.isfinite(z)]).all()
                    assert np.isfinite(found[1]).all()
                    parts[y] = found[0].astype(np.float64)
                finite = np.isfinite(z)
                mixed = 0.75 * parts[0.0][finite] + 0.25 * parts[1.0][finite]
                np.testing.assert_allclose(parts[0.25][finite], mixed, rtol=1e-5, atol=1e-40)


def test_binary_cross_entropy_at_the_ends() -> None:
    """Nothing is clamped silently; eps holds p in [eps, 1 - eps]."""
    p, y = np.array([0.0, 0.0, 1.0, 1.0, -0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.5, 0.5])
    inf = np.inf
    for dtype in FLOATS:
        value, d1, d2 = unreduced(fp.losses.BinaryCrossEntropy(), p.astype(dtype), y.astype(dtype))
        assert value.tolist() == [0, inf, inf, 0, inf, inf, inf]
        assert d1.tolist() == [1, -inf, inf, -1, -inf, -inf, inf]
        assert d2.tolist() == [1, inf, inf, 1, inf, inf, inf]
        for eps in (1e-9, 1e-7, 0.1):
            value, d1, d2 = unreduced(fp.losses.BinaryCrossEntropy(eps=eps), p.astype(dtype), y.astype(dtype))
            near, far = -np.log1p(-eps), -np.log(eps)
            rtol = 4 * np.finfo(dtype).eps
            mixed = 0.5 * (near + far)
            np.testing.assert_allclose(value, [near, far, far, near, far, mixed, mixed], rtol=rtol)
            near, far = 1 / (1 - eps), 1 / eps
            np.testing.assert_allclose(d1[:5], [near, -far, far, -near, -far], rtol=rtol)
            np.testing.assert_allclose(d2[:5], [near**2, far**2, far**2, near**2, far**2], rtol=rtol)


def test_equal_to_sklearn_losses() -> None:
    """The private losses of its boosting and linear models: constants dropped alike."""
    peers = pytest.importorskip("sklearn._loss")
    rng = seeded("sklearn losses")
    z, y = rng.standard_normal(400), rng.gamma(1.0, 2.0, 400) + 0.01
    labels = rng.choice([0.0, 1.0], 400)
    absolute, pinball = peers.AbsoluteError(), peers.PinballLoss(quantile=0.3)
    cases = [
        (fp.losses.Poisson(), peers.HalfPoissonLoss(), y, y),
        (fp.losses.Gamma(), peers.HalfGammaLoss(), y, y),
        (fp.losses.HalfSquaredError(), peers.HalfSquaredError(), y, y),
        (fp.losses.Huber(0.7), peers.HuberLoss(delta=0.7), y, y),
        (fp.losses.AbsoluteError(), absolute, y, y),
        (fp.losses.Quantile(0.3), pinball, y, y),
        (fp.losses.BinaryCrossEntropyWithLogits(), peers.HalfBinomialLoss(), labels, labels),
        (fp.losses.Logistic(), peers.HalfBinomialLoss(), 2 * labels - 1, labels),
    ]
    powers = (-0.5, 0.0, 1.0, 1.5, 1.9, 2.0, 3.0)
    cases += [(fp.losses.Tweedie(power), peers.HalfTweedieLoss(power=power), y, y) for power in powers]
    for loss, peer, ours, theirs in cases:
        value, grad, hess = unreduced(loss, z, ours)
        np.testing.assert_allclose(value, peer.loss(theirs, z), rtol=1e-11, err_msg=repr(loss))
        expected = peer.gradient_hessian(theirs, z)
        np.testing.assert_allclose(grad, expected[0], rtol=1e-11, atol=1e-14, err_msg=repr(loss))
        if peer not in (absolute, pinball) and not isinstance(loss, fp.losses.Huber):  # which give ones
            np.testing.assert_allclose(hess, expected[1], rtol=1e-11, err_msg=repr(loss))


@each_loss
def test_weights_that_sum_to_zero_give_zero(spec: LossSpec, parameters: Parameters) -> None:
    """Whatever the predictions are: value and gradient of a batch with no weight are 0."""
    loss = spec.cls(**parameters)
    pred = predictions_for(spec, np.array([[np.nan, 1.0], [np.inf, -2.0]], np.float32))
    value, gradient = loss.value_and_grad(pred, np.ones_like(pred), np.zeros(2))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0)
    np.testing.assert_array_equal(loss.gradient(pred, np.ones_like(pred), np.zeros(2)), 0)


# --- ends of the range --------------------------------------------------------------------------------------


@each_dtype
def test_complements_of_parameters(dtype: Any, target: str) -> None:
    """1 - q, 1 - alpha, 1 - P and 2 - P are those of the parameter given, not of the one that dtype can hold."""
    one, zero = np.ones(1, dtype), np.zeros(1, dtype)
    rtol = 4 * float(np.finfo(dtype).eps)
    for q in (0.9999, 0.99999999):
        assert math.isclose(fp.losses.Quantile(q).gradient(one, zero)[0], 1 - q, rel_tol=rtol)
        columns = fp.losses.Quantile([q, 1e-50]).gradient(np.ones((1, 2), dtype), zero, None, "sum")
        assert math.isclose(columns[0, 0], 1 - q, rel_tol=rtol)
        below = fp.losses.Quantile([q, 1e-50]).gradient(-np.ones((1, 2), dtype), zero, None, "sum")
        assert below[0, 1] < 0
        focal = fp.losses.FocalWithLogits(gamma=0, alpha=q)
        assert math.isclose(focal(zero, zero), (1 - q) * math.log(2), rel_tol=rtol)
    for power in (1.0001, 1.9999, 2.0001):
        loss = fp.losses.Tweedie(power)
        assert math.isclose(loss(zero, one), 1 / (2 - power) - 1 / (1 - power), rel_tol=rtol)
        # An exponent's rounding would be magnified.
        z = np.array([40 / (2 - power)], dtype)
        if power < 1.5:
            expected = math.exp((2 - power) * float(z[0])) - 0.0
            assert math.isclose(loss.gradient(z, zero)[0], expected, rel_tol=4 * rtol)


@each_dtype
def test_hess_floor_is_never_zero(dtype: Any) -> None:
    one = np.ones(1, dtype)
    for floor in (1e-50, 5e-324):
        assert fp.losses.Hinge().grad_and_hess(one, one, None, floor)[1][0] > 0


def test_limits_of_overflowing_terms(target: str) -> None:
    """Where both terms overflow, the larger one has the sign; what is finite stays finite."""
    inf = math.inf
    for dtype, z, y in ((np.float32, 89.0, 3e38), (np.float64, 710.0, 1.7e308)):
        p, t = np.array([z, 2 * z, z, inf], dtype), np.array([y, y, 0, y], dtype)
        value, d1, d2 = unreduced(fp.losses.Poisson(), p, t)
        assert value.tolist() == [-inf, inf, inf, inf]
        wide = np.longdouble
        np.testing.assert_allclose(float(d1[0]), float(np.exp(wide(z)) - wide(t[0])), rtol=1e-5)
        assert d1[1:].tolist() == d2[1:].tolist() == [inf, inf, inf]
    for power in (-3.0, -0.5, 0.0, 1.0, 1.5, 1.9, 2.0, 2.5, 3.0, 5.0):
        loss = fp.losses.Tweedie(power)
        sizes = np.array([1e-37, 1.0, 1e30, 3e38])
        z = np.linspace(-300, 300, 601)
        p, t = (a.ravel().astype(np.float32) for a in np.meshgrid(z, sizes))
        expected = truth(loss.spec, {"power": power}, p, t)  # in float64
        largest = float(np.finfo(np.float32).max)
        for i, (found, true) in enumerate(zip(unreduced(loss, p, t), expected, strict=True)):
            assert not np.isnan(found).any()
            beyond = np.abs(true) > 1.001 * largest
            assert np.array_equal(found[beyond], np.sign(true[beyond]) * inf), (power, i)
            assert np.isfinite(found[np.abs(true) < 0.999 * largest]).all(), (power, i)
    found = unreduced(fp.losses.Tweedie(1.5), np.array([-1], np.float32), np.array([3e38], np.float32))
    np.testing.assert_allclose(found[2], 3e38 * math.exp(0.5) / 2, rtol=1e-6)
    for power in (-1.0, 3.0):  # in float64, against logarithms
        sign = fp.losses.Tweedie(power)(
            np.array([800.0, 500.0, -800.0]), np.array([1e300, 1e300, 1e-300]), None, "none"
        )
        assert np.array_equal(sign, [inf, -inf, 0.0] if power < 0 else [0.0, 0.0, inf]) or power > 0
        assert not np.isnan(sign).any()


@each_dtype
def test_infinite_residuals_of_the_root(dtype: Any) -> None:
    """The limit: infinite residuals share the gradient."""
    loss = fp.losses.RootMeanSquaredError()
    inf, half = math.inf, math.sqrt(0.5)
    for p, t, w, expected in (
        ([inf], [0.0], None, [1.0]),
        ([inf, 1.0], [0.0, 0.0], None, [half, 0.0]),
        ([3.0, 1.0], [inf, 0.0], [2.0, 2.0], [-half, 0.0]),
        ([-inf, inf], [0.0, 0.0], [1.0, 3.0], [-0.25, 0.75]),
    ):
        weight = None if w is None else np.array(w, dtype)
        value, gradient = loss.value_and_grad(np.array(p, dtype), np.array(t, dtype), weight)
        assert value == inf
        np.testing.assert_allclose(gradient, expected, rtol=1e-6)
        assert_same_bits(loss.gradient(np.array(p, dtype), np.array(t, dtype), weight), gradient)
    assert np.isnan(loss.gradient(np.array([inf, np.nan], dtype), np.zeros(2, dtype))).all()


@each_dtype
def test_percentage_of_an_infinite_target(dtype: Any, target: str) -> None:
    p = np.array([3, 0, np.nan, np.inf], dtype)
    value, d1, d2 = unreduced(
        fp.losses.AbsolutePercentageError(), p, np.array([np.inf, -np.inf, np.inf, np.inf], dtype)
    )
    assert_same_bits(value, np.array([100, 100, np.nan, np.nan], dtype))
    assert np.all(d1[:2] == 0)
    assert np.all(d2[:2] == 0)


def test_tail_under_a_large_weight(target: str) -> None:
    """The weight of the positive class brings back what e^-z alone would lose."""
    z = np.array([80.0, 100.0, 105.0, 110.0, 125.0, 127.0, 200.0, 1e4, np.inf], np.float32)
    for weight in (1e3, 1e10):
        found = unreduced(fp.losses.BinaryCrossEntropyWithLogits(weight), z, np.ones_like(z))
        expected = weight * np.exp(-z.astype(np.float64))
        tiny = 2e-45
        for a, e in zip(found, (expected, -expected, expected), strict=True):
            np.testing.assert_allclose(a, e, rtol=4e-7, atol=tiny)


@each_dtype
@each_spec
def test_weights_of_any_size(spec: LossSpec, dtype: Any) -> None:
    """A weighted mean does not change if all weights are multiplied by a power of two."""
    loss = spec.cls()
    rng = seeded("size", spec.name)
    p = predictions_for(spec, rng.standard_normal((50, 3)).astype(dtype))
    t = targets_for(spec, p.shape, dtype, rng)
    info = np.finfo(dtype)
    for w in (rng.integers(1, 9, 50).astype(dtype), rng.integers(1, 9, (50, 3)).astype(dtype)):
        expected = loss.value_and_grad(p, t, w)
        for exponent in (info.minexp - info.nmant, -40, -3, 3, 40, info.maxexp - 13):
            scaled = np.ldexp(w, exponent)
            assert_same_bits(loss.value_and_grad(p, t, scaled), expected, str(exponent))
            assert loss(p, t, scaled) == expected[0]
            assert_same_bits(loss.gradient(p, t, scaled), expected[1])


@each_dtype
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("place", ["pred", "target", "sample_weight"])
def test_weighted_values_in_place(place: str, reduction: str, dtype: Any) -> None:
    """A weight must not take a loss beyond the dtype, even where its value cannot be looked for afterwards."""
    size = 1e18 if dtype == np.float32 else 1e153
    for weight in (1e3, 1e-30, 1e10, 0.0):
        given = {
            "pred": np.full(4, size, dtype),
            "target": np.zeros(4, dtype),
            "sample_weight": np.full(4, weight, dtype),
        }
        apart = fp.losses.SquaredError().value_and_grad(**given, reduction=reduction)
        expected = float(given["sample_weight"].sum(dtype=np.float64)) * float(given["pred"][0]) ** 2
        if reduction == "mean":
            expected = 0.0 if weight == 0 else float(given["pred"][0]) ** 2
        found = fp.losses.SquaredError().value_and_grad(**given, reduction=reduction, out=given[place])
        np.testing.assert_allclose([found[0], apart[0]], expected, rtol=1e-6)
        assert_same_bits(found[1], apart[1])


@each_dtype
def test_weights_of_targets_that_are_left_out(dtype: Any) -> None:
    """What they are has no influence, however far it is from the others."""
    loss = fp.losses.AbsolutePercentageError(on_zero="skip")
    p, t = np.array([[1, 3], [5, 4]], dtype), np.array([[0, 2], [0, 2]], dtype)
    small = 1e-40 if dtype == np.float32 else 1e-310
    for size in (small, float(np.finfo(dtype).max)):
        for weight in ([[1, size], [7, size]], [[0, size], [-1, size]]):
            w = np.array(weight, dtype)
            value, gradient = loss.value_and_grad(p, t, w)
            np.testing.assert_array_equal(gradient, np.array([[0, 25], [0, 25]], dtype))
            assert math.isclose(value, 75.0, rel_tol=4 * float(np.finfo(dtype).eps))
            assert value == loss(p, t, w)
            np.testing.assert_array_equal(loss.gradient(p, t, w, out=w), gradient)
    rows = np.array([1, small], dtype)
    value, gradient = loss.value_and_grad(p[[0, 1]], np.array([[0, 0], [0, 2]], dtype), rows)
    assert value == 100.0
    np.testing.assert_array_equal(gradient, np.array([[0, 0], [0, 50]], dtype))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_weights_that_float32_cannot_hold(reduction: str) -> None:
    single = np.float32
    p, t, labels = np.ones((2, 3), single), np.zeros((2, 3), single), [0, 1]
    matrix = np.eye(3, dtype=single)
    mean_only = (fp.losses.RootMeanSquaredError(), (p, t))
    losses: list[tuple[Any, tuple[Any, ...]]] = [
        (fp.losses.SquaredError(), (p, t)),
        (fp.losses.CategoricalCrossEntropy(), (p / 3, t)),
        (fp.losses.SoftmaxCrossEntropy(), (p, labels)),
        (fp.losses.SoftmaxFocal(), (p, labels)),
        (fp.losses.LinearCrossEntropy(), (p, matrix, labels)),
        (fp.losses.LargeMarginSoftmax(), (p, matrix, labels)),
        *([mean_only] if reduction == "mean" else []),
    ]
    for loss, arguments in losses:
        for size in (1e-60, 1e-40, 1e60, -1e60):
            held = re.escape(f"{abs(size):g}")
            message = rf"sample_weight has a largest size of {held}; float32, the dtype of the predictions, cannot"
            for verb in (loss, loss.gradient, loss.value_and_grad):
                with pytest.raises(ValueError, match=message):
                    verb(*arguments, sample_weight=[size, 0.0], reduction=reduction)
        # Beside 1 it is nothing, as it is beside 1 in float32.
        found = loss(*arguments, sample_weight=[1.0, 1e-60], reduction=reduction)
        np.testing.assert_array_equal(found, loss(*arguments, sample_weight=[1.0, 0.0], reduction=reduction))
    assert fp.losses.SquaredError()(p.astype(float), t, sample_weight=[1e-60, 1e-60]) == 1.0


def test_means_with_extreme_weights() -> None:
    single = np.float32
    p, t = np.array([1, 0], single), np.zeros(2, single)
    value, gradient = fp.losses.AbsoluteError().value_and_grad(p, t, np.full(2, 1e-39, single))
    assert value == 0.5
    assert_same_bits(gradient, np.array([0.5, 0], single))
    found = fp.losses.SquaredError().gradient(np.array([1e10], single), t[:1], np.array([1e30], single))
    assert_same_bits(found, np.array([2e10], single))
