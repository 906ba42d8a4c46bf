"""Activations that are not elementwise functions of one array: slopes as data, softmax, gated, channels.

Everything up to "particular ones" follows the registry: values and vector-Jacobian products against the references,
against finite differences, in any layout, in place, on any target and number of threads.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from helpers import (
    FMA_TARGETS,
    LARGE,
    LAYOUTS,
    STRUCTURED,
    TWO_VECTORS,
    Array,
    Out,
    Parameters,
    assert_same_bits,
    assert_ulp,
    assert_within,
    each_dtype,
    each_structured,
    laid_out,
    rounded,
    seeded,
    unit,
    widened,
)
from numpy.typing import NDArray

import fuseprop as fp
from fuseprop import reference
from fuseprop._registry import ActivationSpec

each_spec = pytest.mark.parametrize("spec", STRUCTURED, ids=lambda spec: spec.name)

#: Every axis is even, a multiple of all pieces, or empty. Lines are short, long, or longer than a block.
SHAPES = [(12,), (8232,), (12, 12), (36, 24), (24, 1032), (12, 24, 60), (12, 12, 2, 36), (12, 36, 132)]
EMPTY = [(0,), (0, 12), (12, 0), (12, 0, 12), (0, 12, 2, 12)]


def shapes_for(parameters: Parameters, shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The shapes that the activation takes."""
    axis, channels = int(parameters.get("axis", -1)), int(parameters.get("num_parameters", 1))
    fitting = [shape for shape in shapes if -len(shape) <= axis < len(shape)]
    return fitting if channels == 1 else [(*shape[:-1], channels) for shape in fitting]


def complete(spec: ActivationSpec, parameters: Parameters) -> dict[str, Any]:
    return {**spec.parameters, **parameters}


def sample(shape: tuple[int, ...], dtype: Any, *key: object, scale: float = 4.0) -> Array:
    return (scale * seeded("structured", shape, *key).standard_normal(shape)).astype(dtype)


def input_and_gradient(act: Any, shape: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
    x = sample(shape, dtype, "x")
    x[np.abs(x) < 1e-3] = 0  # joints, and ties
    np.clip(x, -12, 12, out=x)  # where GELU is a normal number: a factor magnifies the error of a subnormal one
    return x, sample(act.output_shape(shape), dtype, "dy", scale=1.0)


def expected(spec: ActivationSpec, parameters: Parameters, x: Array, dy: Array) -> tuple[Array, Array]:
    """The reference's value and vector-Jacobian product, wider than x."""
    wide, wide_dy = (widened(a) if a.dtype == np.float64 else a.astype(np.float64) for a in (x, dy))
    with np.errstate(all="ignore"):
        value, vjp = spec.reference(wide, **rounded(complete(spec, parameters), x.dtype))
        dx = vjp(wide_dy)
    return value, dx[0] if spec.learned else dx


def softmax_bounds(parameters: Parameters, x: Array, dy: Array) -> tuple[Array, Array, Array]:
    """Allowed errors, in units of u = eps / 2, of softmax's value, of its dx, and of log-softmax's dx.

    An exponential has a relative error of 6 u (1 + gap), or 8 u without fused multiply-add; a sum that of its terms but
    the largest, which is exact; and there are a few roundings. Where a probability is above 1/2, dy counts relative to
    its element there.
    """
    axis = int(parameters.get("axis", -1))
    x, dy = np.moveaxis(x.astype(np.longdouble), axis, -1), np.moveaxis(dy.astype(np.longdouble), axis, -1)
    top = x.argmax(axis=-1)[..., np.newaxis]

    def all_but_top(values: Array) -> Array:
        values = values.copy()
        np.put_along_axis(values, top, 0, -1)
        return values.sum(-1, keepdims=True)

    gap = np.take_along_axis(x, top, -1) - x
    e = np.exp(-gap)
    whole = e.sum(-1, keepdims=True)
    p = e / whole
    fma = fp.build_info()["active_target"] in FMA_TARGETS
    error = (6 if fma else 8) * (1 + gap)
    error = error + all_but_top(e * error) / whole
    dy_top = np.take_along_axis(dy, top, -1)
    v = dy - np.where(p.max(-1, keepdims=True) > 0.5, dy_top, 0)
    mean_error = (p * np.abs(v) * (error + 4)).sum(-1, keepdims=True)
    softmax = p * (np.abs(v - (p * v).sum(-1, keepdims=True)) * (error + 4) + np.abs(v) + mean_error)
    # Short lines are summed in the array's own dtype.
    sum_error = (5 if x.shape[-1] <= 16 else 2) * np.abs(dy).sum(-1, keepdims=True)
    log_softmax = np.abs(dy) + p * (np.abs(dy.sum(-1, keepdims=True)) * (error + 4) + sum_error)
    at_top = (np.abs(dy_top) * all_but_top(e * (error + 6)) + 8 * all_but_top(np.abs(dy))) / whole
    np.put_along_axis(log_softmax, top, at_top, -1)
    error = p * (error + 2)
    return np.moveaxis(error, -1, axis), np.moveaxis(softmax, -1, axis), np.moveaxis(log_softmax, -1, axis)


#: Gates whose derivative changes its sign.
GATES = {"swiglu": (reference.swish, 1.0), "geglu": (reference.gelu, "none")}


def gate_error_allowed(spec: ActivationSpec, x: Array, dy: Array, dx: Array, ulp: float) -> Array | float:
    """Allowed error of a gradient in ULP of it: 2^-23 of the terms' sizes near a sign change (docs/mathematics.md 6).

    The terms of the derivative of b h(b) are h and b h'.
    """
    if spec.name not in GATES:
        return ulp
    function, parameter = GATES[spec.name]
    a, b = np.split(x.astype(dx.dtype), 2, axis=-1)
    g, d1 = function(b, parameter)
    h = np.where(b == 0, d1, g / np.where(b == 0, 1, b))
    terms = np.abs(dy * a) * (np.abs(h) + np.abs(d1 - h))
    ulps = 2 * np.finfo(x.dtype).eps * terms / unit(np.abs(dy * a * d1), x.dtype)
    near = np.abs(d1) < (np.abs(h) + np.abs(d1 - h)) / 8
    return np.concatenate([np.full(b.shape, ulp), np.where(near, np.maximum(ulp, ulps), ulp)], axis=-1)


# --- values and gradients -----------------------------------------------------------------------------------


@each_dtype
@each_structured
def test_against_the_reference(spec: ActivationSpec, parameters: Parameters, dtype: Any, target: str) -> None:
    act = spec.cls(**parameters)
    u = np.finfo(dtype).eps / 2
    tiny = 4 * np.finfo(dtype).smallest_subnormal
    for shape in shapes_for(parameters, SHAPES):
        x, dy = input_and_gradient(act, shape, dtype)
        value, dx = expected(spec, parameters, x, dy)
        y, found = act(x), act.backward(x, dy)
        assert (y.dtype, found.dtype) == (dtype, dtype)
        assert y.shape == value.shape == act.output_shape(shape)
        if spec.name in ("softmax", "log_softmax"):
            p, softmax, log_softmax = softmax_bounds(parameters, x, dy)
            if spec.name == "softmax":
                assert_within(y, value, u * p + tiny, x, what=f"value {shape} ")
            else:  # the sum's error counts by its logarithm's derivative; the largest element's is relative to itself
                assert_within(y, value, 8 * u * (1 + np.abs(value)) + tiny, x, what=f"value {shape} ")
            allowed = u * (softmax if spec.name == "softmax" else log_softmax)
            assert_within(found, dx, allowed + tiny, x, dy, what=f"dx {shape} ")
        else:
            ulp = spec.ulp[2 * (dtype == np.float64) :]
            assert_ulp(y, value, ulp[0] + 0.05 * (dtype == np.float64) * (ulp[0] > 0), what=f"value {shape} ")
            allowed = gate_error_allowed(spec, x, dy, dx, ulp[1] + 0.05 * (dtype == np.float64) * (ulp[1] > 0))
            assert_ulp(found, dx, allowed, x, what=f"dx {shape} ")
        assert_same_bits(act.derivative(x), act.backward(x, np.ones_like(y)))


def differences(function: Any, x: Array, dy: Array, h: float) -> Array:
    """Fourth-order central differences of sum(dy * function(x)) by every element of x."""
    result = np.empty_like(x)
    for at in np.ndindex(x.shape):
        values = []
        for step in (-2, -1, 1, 2):
            moved = x.copy()
            moved[at] += step * h
            values.append(float(np.sum(dy * function(moved))))
        result[at] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return result


@each_structured
def test_against_finite_differences(spec: ActivationSpec, parameters: Parameters) -> None:
    act = spec.cls(**parameters)
    h = 1e-3
    for shape in shapes_for(parameters, [(12,), (12, 12), (12, 12, 4)]):
        # Apart from each other and from 0, so that nothing crosses a joint.
        n = int(np.prod(shape))
        x = seeded("order", shape).permutation(np.linspace(-3, 3, n + n % 2)[:n]).reshape(shape)
        dy = sample(act.output_shape(shape), np.float64, "dy", scale=1.0)
        # Truncation h^4 max|f'''''| / 30 with room for 1e3; rounding of sums of n numbers of size 10.
        bound = 3e-11 + n * 10 * np.finfo(float).eps / h
        assert_within(act.backward(x, dy), differences(act, x, dy, h), bound, x)


@each_dtype
@pytest.mark.parametrize("spec", [s for s in STRUCTURED if s.learned], ids=lambda spec: spec.name)
def test_backward_params(spec: ActivationSpec, dtype: Any, target: str, threads: int) -> None:
    for parameters in (spec.parameters, *spec.examples):
        act = spec.cls(**parameters)
        (name,) = spec.learned
        for shape in shapes_for(parameters, [*SHAPES, (LARGE, 1), *EMPTY]):
            x, dy = input_and_gradient(act, shape, dtype)
            params = act.init_params(dtype)
            params[name] += seeded("params").standard_normal(params[name].shape).astype(dtype)
            wide = [a.astype(np.float64) for a in (x, dy, params[name])]
            more = complete(spec, parameters)
            value, vjp = spec.reference(wide[0], **rounded(more, dtype), **{name: wide[2]})
            dx, dparam = vjp(wide[1])
            assert_ulp(act(x, params=params), value, 2)
            found, gradients = act.backward_params(x, dy, params=params)
            assert_same_bits(found, act.backward(x, dy, params=params))
            assert_ulp(found, dx, 1.5)
            assert gradients.keys() == {name}
            assert (gradients[name].shape, gradients[name].dtype) == (params[name].shape, dtype)
            # A rounding of each term, one of the sum.
            _, vjp = spec.reference(-np.abs(wide[0]), **rounded(more, dtype), **{name: wide[2]})
            _, size = vjp(np.abs(wide[1]))
            assert_within(gradients[name], dparam, 2 * np.finfo(dtype).eps * np.abs(size))


@pytest.mark.parametrize("spec", [s for s in STRUCTURED if s.learned], ids=lambda spec: spec.name)
def test_backward_params_against_finite_differences(spec: ActivationSpec) -> None:
    for parameters in (spec.parameters, *spec.examples):
        act = spec.cls(**parameters)
        for shape in shapes_for(parameters, [(12,), (24, 12)]):
            x, dy = input_and_gradient(act, shape, np.float64)
            params = act.init_params(np.float64)
            for name, value in params.items():
                found = act.backward_params(x, dy, params=params)[1][name]

                def of_parameter(v: Array, act: Any = act, x: Array = x, more: Any = params, name: str = name) -> Array:
                    return act(x, params={**more, name: v})  # type: ignore[no-any-return]  # Any from the class of a Spec

                by_name = differences(of_parameter, value, dy, 1e-3)
                assert_within(found, by_name, 1e-9 * x.size)


# --- the same whatever the layout ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
@each_structured
def test_layouts(spec: ActivationSpec, parameters: Parameters, dtype: Any, layout: str) -> None:
    """Inputs and outputs of any strides; inputs are read-only; nothing beside the output is written."""
    act = spec.cls(**parameters)
    for shape in shapes_for(parameters, [(12, 36)]):
        x, dy = input_and_gradient(act, shape, dtype)
        value, backward = act(x), act.backward(x, dy)
        assert_same_bits(np.ascontiguousarray(act(laid_out(x, layout))), value)
        assert_same_bits(np.ascontiguousarray(act.backward(laid_out(x, layout), laid_out(dy, layout))), backward)
        for other in ("c", "f", "offset1", "unaligned", "padded", "reversed"):
            out = Out(other, value.shape, dtype)  # type: ignore[arg-type]  # any number of dimensions
            out.assert_received(act(laid_out(x, layout), out=out.array), value, other)
            out = Out(other, shape, dtype)  # type: ignore[arg-type]  # any number of dimensions
            result = act.backward(laid_out(x, layout), laid_out(dy, layout), out=out.array)
            out.assert_received(result, backward, other)


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
@each_structured
def test_in_place(spec: ActivationSpec, parameters: Parameters, dtype: Any, layout: str) -> None:
    act = spec.cls(**parameters)
    for shape in shapes_for(parameters, [(12, 36)]):
        x, dy = input_and_gradient(act, shape, dtype)
        value, backward = act(x), act.backward(x, dy)

        def fresh(content: Array) -> Out:
            out = Out(layout, content.shape, dtype)  # type: ignore[arg-type]  # any number of dimensions
            out.array[...] = content
            return out

        out = fresh(x)
        out.assert_received(act.backward(out.array, dy, out=out.array), backward, "backward, out is x")
        if value.shape == shape:
            out = fresh(x)
            out.assert_received(act(out.array, out=out.array), value, "out is x")
            out = fresh(dy)
            out.assert_received(act.backward(x, out.array, out=out.array), backward, "backward, out is dy")


@each_dtype
@each_structured
def test_dimensions_and_orders(spec: ActivationSpec, parameters: Parameters, dtype: Any, target: str) -> None:
    """Fortran order, transposed views and broadcast inputs give the same bits; empty arrays work."""
    act = spec.cls(**parameters)
    for shape in shapes_for(parameters, [(12, 24, 36), (12, 24, 2, 36)]):
        x, dy = input_and_gradient(act, shape, dtype)
        value, backward = act(x), act.backward(x, dy)
        for axes in itertools.islice(itertools.permutations(range(len(shape))), 24):
            back = np.argsort(axes)
            moved = np.ascontiguousarray(x.transpose(axes)).transpose(back)
            moved_dy = np.ascontiguousarray(dy.transpose(axes)).transpose(back)
            assert_same_bits(np.ascontiguousarray(act(moved)), value, str(axes))
            assert_same_bits(np.ascontiguousarray(act.backward(moved, moved_dy)), backward, str(axes))
    for shape in shapes_for(parameters, EMPTY):
        x = np.empty(shape, dtype)
        y = act(x)
        assert (y.shape, y.dtype) == (act.output_shape(shape), dtype)
        assert act.backward(x, y).shape == shape


@each_dtype
@pytest.mark.parametrize("spec", [s for s in STRUCTURED if s.structure == "axis"], ids=lambda spec: spec.name)
def test_lines_do_not_depend_on_each_other(spec: ActivationSpec, dtype: Any, target: str) -> None:
    """A line's bits are the same alone and among others, and along any axis."""
    act = spec.cls()
    for length in (2, 4, 10, 16, 18, 130, 1032):
        x, dy = input_and_gradient(act, (71, length), dtype)
        value, backward = act(x), act.backward(x, dy)
        for part in (slice(0, 1), slice(3, 20), slice(5, 71), slice(70, 71)):
            assert_same_bits(act(x[part]), value[part], f"{length} {part}")
            assert_same_bits(act.backward(x[part], dy[part]), backward[part], f"{length} {part}")
        if "axis" in spec.parameters:
            other = spec.cls(axis=0)
            assert_same_bits(np.ascontiguousarray(other(np.ascontiguousarray(x.T)).T), value, str(length))
            found = other.backward(np.ascontiguousarray(x.T), np.ascontiguousarray(dy.T))
            assert_same_bits(np.ascontiguousarray(found.T), backward, str(length))


@each_dtype
@each_spec
def test_out_beyond_the_caches(spec: ActivationSpec, dtype: Any, threads: int) -> None:
    """Outputs of 8 MiB and more are written around the caches; the start is not aligned."""
    act = spec.cls()
    rows = (18 << 20) // (252 * np.dtype(dtype).itemsize)
    few, few_dy = input_and_gradient(act, (100, 252), dtype)
    x, dy = np.resize(few, (rows, 252)), np.resize(few_dy, (rows, few_dy.shape[1]))
    for name, verb, small in (
        ("value", lambda out: act(x, out=out), act(few)),
        ("backward", lambda out: act.backward(x, dy, out=out), act.backward(few, few_dy)),
    ):
        memory = np.full(rows * small.shape[1] + 2, 7.0, dtype)
        out = memory[1:-1].reshape(rows, small.shape[1])
        assert verb(out) is out
        assert_same_bits(out, np.resize(small, out.shape), name)
        assert memory[0] == memory[-1] == 7.0


@each_spec
def test_other_inputs(spec: ActivationSpec) -> None:
    """Lists, integers and booleans become float64; foreign byte orders are taken."""
    act = spec.cls()
    x = np.array([[-3.0, 0.0, 2.0, 1.0], [1.0, -1.0, 5.0, 7.0]])
    value = act(x)
    assert_same_bits(act(x.tolist()), value)
    assert_same_bits(act(x.astype(np.int16)), value)
    assert_same_bits(act(x.astype(">f8")), value)
    assert_same_bits(act(x > 0), act((x > 0).astype(float)))
    assert_same_bits(act.backward(x.tolist(), np.ones(value.shape, int)), act.derivative(x))
    assert act(x.astype(np.float32)).dtype == np.float32
    if spec.structure == "slopes":
        assert act(-2.0) == act(np.array([-2.0]))[0]
        assert act.backward(-2.0, 3.0) == act.backward(np.array([-2.0]), np.array([3.0]))[0]


# --- special values -----------------------------------------------------------------------------------------


@each_dtype
@each_spec
def test_special_values(spec: ActivationSpec, dtype: Any, target: str) -> None:
    """What a NaN or an infinity does to its line is what the reference says, and nothing happens to the others."""
    act = spec.cls()
    for length in (2, 12, 40, 1032):
        clean, dy = input_and_gradient(act, (5, length), dtype)
        value, backward = act(clean), act.backward(clean, dy)
        for row, column, special in itertools.product((0, 2), (0, 1, length - 1), (np.nan, np.inf, -np.inf)):
            x = clean.copy()
            x[row, column] = special
            y, dx = act(x), act.backward(x, dy)
            expected_value, expected_dx = expected(spec, {}, x, dy)
            for found, true, before in ((y, expected_value, value), (dx, expected_dx, backward)):
                assert_same_bits(np.delete(found, row, 0), np.delete(before, row, 0))
                assert np.array_equal(np.isnan(found), np.isnan(true)), (special, row, column)
                assert_same_bits(found[np.isinf(true)], true[np.isinf(true)].astype(dtype))
                assert np.array_equal(np.isinf(found), np.isinf(true))


@each_dtype
@pytest.mark.parametrize("spec", [s for s in STRUCTURED if "softmax" in s.name], ids=lambda spec: spec.name)
def test_lines_of_softmax_that_are_nan(spec: ActivationSpec, dtype: Any, target: str) -> None:
    for axis, length in itertools.product((0, 1), (1, 3, 16, 17, 300)):
        act = spec.cls(axis=axis)
        bad = [np.full(length, -np.inf), np.zeros(length), np.zeros(length), np.zeros(length)]
        bad[1][-1], bad[2][0], bad[3][length // 2] = np.nan, np.inf, np.nan
        good = np.linspace(-1, 1, length)
        x = np.array([good, *bad, good], dtype)
        x = x.T.copy() if axis == 0 else x
        dy = np.ones_like(x)
        for result in (act(x), act.backward(x, dy)):
            lines = result.T if axis == 0 else result
            assert np.isnan(lines[1:5]).all()
            assert np.isfinite(lines[[0, 5]]).all()
        if length > 1:
            some = np.array([[-np.inf] * (length - 1) + [1.0]], dtype)  # one that is certain
            some = some.T.copy() if axis == 0 else some
            certain = act(some).ravel()
            assert certain[-1] == (1 if spec.name == "softmax" else 0)
            assert (certain[:-1] == (0 if spec.name == "softmax" else -np.inf)).all()
            assert np.isfinite(act.backward(some, np.ones_like(some))).all()


@each_dtype
@pytest.mark.parametrize("spec", [s for s in STRUCTURED if "softmax" in s.name], ids=lambda spec: spec.name)
def test_lines_of_nans_touch_nothing_else(spec: ActivationSpec, dtype: Any, target: str) -> None:
    """Rows of nothing but NaNs: neither the rows between them nor the memory around the result is written."""
    act = spec.cls()
    for length, rows in itertools.product(range(1, TWO_VECTORS + 1), (1, 5, 18)):
        x = np.full((rows, length), np.nan, dtype)
        x[1::2] = 0
        dy = np.ones_like(x)
        for backward in (False, True):
            memory = np.full(rows * length + 128, 7, dtype)
            out = memory[64:-64].reshape(rows, length)
            zeros, ones = np.zeros((rows // 2, length), dtype), np.ones((rows // 2, length), dtype)
            if backward:
                act.backward(x, dy, out=out)
                clean = act.backward(zeros, ones)
            else:
                act(x, out=out)
                clean = act(zeros)
            assert np.isnan(out[::2]).all()
            assert_same_bits(out[1::2], clean)
            assert (memory[:64] == 7).all()
            assert (memory[-64:] == 7).all()


@each_dtype
@pytest.mark.parametrize("spec", [s for s in STRUCTURED if "softmax" in s.name], ids=lambda spec: spec.name)
def test_softmax_over_few_columns(spec: ActivationSpec, dtype: Any) -> None:
    """Long columns side by side, fewer than the strip of columns that is copied at a time, or a few more."""
    rows, columns = spec.cls(), spec.cls(axis=0)
    for width in (2, 3, 15, 17, 33):
        x, dy = sample((width, 700), dtype, "x"), sample((width, 700), dtype, "dy")
        assert_same_bits(columns(x.T.copy()).T, rows(x))
        assert_same_bits(columns.backward(x.T.copy(), dy.T.copy()).T, rows.backward(x, dy))


# --- overflow and underflow on the way to a result ------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("name", ["glu", "swiglu", "geglu"])
def test_gradients_of_gates_do_not_overflow_on_the_way(name: str, dtype: Any, target: str) -> None:
    act = fp.activations.get(name)
    largest, tiny = float(np.finfo(dtype).max), float(np.finfo(dtype).tiny)
    for a, dy in ((0.94 * largest, 1e-5), (1e-5, 0.94 * largest), (largest, tiny), (tiny, largest), (1e10, tiny)):
        x, dy_array = np.array([a, 2.0], dtype), np.array([dy], dtype)
        slope = float(act.backward(np.array([1.0, 2.0], dtype), np.ones(1, dtype))[1])
        found = float(act.backward(x, dy_array)[1])
        expected_db = slope * (float(x[0]) * float(dy_array[0]))
        assert abs(found / expected_db - 1) < 8 * np.finfo(dtype).eps, (a, dy)


def test_crelu_takes_no_gradient_from_the_other_half(target: str) -> None:
    for bad in (np.inf, -np.inf, np.nan):
        x = np.array([2.0, -3.0, 0.0, np.nan], np.float32)
        dy = np.array([5, bad, bad, 1, bad, 7, bad, 1], np.float32)
        assert_same_bits(fp.activations.CReLU().backward(x, dy), np.array([5, -7, 0, np.nan], np.float32))


def test_prelu_sums_in_float64(target: str) -> None:
    act, alpha = fp.activations.PReLU(), {"alpha": np.array([0.25])}

    def gradient(x: list[float], dy: list[float]) -> float:
        arrays = np.array(x, np.float32), np.array(dy, np.float32)
        return float(act.backward_params(*arrays, params=alpha)[1]["alpha"][0])

    assert gradient([-1e20, -1e20], [1e20, -1e20]) == 0
    assert abs(gradient([-1e-30], [1e-30]) / -1e-60 - 1) < 1e-6
    for n in (1, 7, 16, 40):  # what stands at positive elements does not count
        assert gradient([np.inf, -1.0] * n, [np.inf, 2.0] * n) == -2 * n


@each_dtype
def test_beta_of_large_inputs(dtype: Any, target: str) -> None:
    act = fp.activations.Swish(learn_beta=True)

    def gradient(x: float, dy: float, beta: float) -> float:
        arrays = np.array([x], dtype), np.array([dy], dtype)
        return float(act.backward_params(*arrays, params={"beta": np.array([beta])})[1]["beta"][0])

    assert abs(gradient(1e20, 1e-10, 0.0) / 2.5e29 - 1) < 1e-6
    if dtype == np.float64:
        assert abs(gradient(1e200, 1e-100, 0.0) / 2.5e299 - 1) < 1e-14
    assert gradient(np.inf, 1.0, 0.0) == gradient(-np.inf, 1.0, 0.0) == np.inf
    assert gradient(np.inf, -1.0, 0.0) == -np.inf
    assert np.isnan(gradient(np.nan, 1.0, 0.0))
    assert gradient(np.inf, 1.0, 1.0) == 0


# --- bad input ----------------------------------------------------------------------------------------------


@each_structured
def test_out_and_dy_are_checked(spec: ActivationSpec, parameters: Parameters) -> None:
    act = spec.cls(**parameters)
    for shape in shapes_for(parameters, [(12, 12)]):
        x, dy = input_and_gradient(act, shape, np.float64)
        result = act.output_shape(shape)
        for wrong in ((12,), (*result, 1), (result[0] + 1, result[1]), result[:1], ()):
            with pytest.raises(ValueError, match=r"dy has shape .* x has shape .*"):
                act.backward(x, np.ones(wrong))
            out = np.full(wrong, 7.0)
            with pytest.raises(ValueError, match=r"out has shape .*expected \(\d+, \d+\)"):
                act(x, out=out)
            assert (out == 7.0).all()
        with pytest.raises(TypeError, match=r"dy.*float32.*x.*float64"):
            act.backward(x, dy.astype(np.float32))
        with pytest.raises(ValueError, match="out has dtype float32; expected float64"):
            act(x, out=np.empty(result, np.float32))
        out = np.full(result, 7.0)
        out.flags.writeable = False
        with pytest.raises(ValueError, match="out is read-only"):
            act(x, out=out)
        with pytest.raises(TypeError, match="dy is None"):
            act.backward(x, None)
        with pytest.raises(TypeError, match="dy is None"):
            act.backward_params(x, None)
        memory = np.full(2000, 0.25)
        base = memory[400 : 400 + x.size].reshape(shape)
        n = int(np.prod(result))
        for start in (399, 401, 400 + x.size - 1, 400 - n + 1):
            with pytest.raises(ValueError, match="out overlaps x"):
                act(base, out=memory[start : start + n].reshape(result))
        for start in (399, 401):
            with pytest.raises(ValueError, match="out overlaps x"):
                act.backward(base, dy, out=memory[start : start + x.size].reshape(shape))
        with pytest.raises(ValueError, match="out overlaps dy"):
            act.backward(x, memory[400 : 400 + n].reshape(result), out=memory[401 : 401 + x.size].reshape(shape))
        if result != shape:
            first = memory[400 : 400 + n].reshape(result)
            with pytest.raises(ValueError, match="out overlaps dy"):
                act.backward(x, first, out=memory[400 : 400 + x.size].reshape(shape))
            if n <= x.size:
                with pytest.raises(ValueError, match="out overlaps x"):
                    act(base, out=memory[400 : 400 + n].reshape(result))
        assert (memory == 0.25).all()


@pytest.mark.parametrize("spec", [s for s in STRUCTURED if s.structure == "axis"], ids=lambda spec: spec.name)
def test_axes(spec: ActivationSpec) -> None:
    act = spec.cls()
    for call in (act, act.derivative):
        with pytest.raises(ValueError, match=r"x has shape \(\); expected at least one dimension"):
            call(1.0)
    if "axis" not in spec.parameters:
        return
    for axis in (2, -3, 10**12):
        act = spec.cls(axis=axis)
        for call in (act, act.derivative, lambda x, a=act: a.output_shape(x.shape)):
            with pytest.raises(ValueError, match=rf"axis is {axis}; expected -2 to 1, as x has shape \(2, 4\)"):
                call(np.ones((2, 4)))


def test_lengths_that_do_not_divide() -> None:
    gated = [spec.cls() for spec in STRUCTURED if spec.name.endswith("glu")]
    for act, axis, factor in [*((g, 1, 2) for g in gated), (fp.activations.Maxout(4, axis=0), 0, 4)]:
        x = np.ones((6, 5))
        out = np.full((6, 2), 7.0)
        message = rf"x has shape \(6, 5\), length {x.shape[axis]} along axis {axis}; .* expects a multiple of {factor}"
        for call in (
            lambda a=act, x=x, out=out: a(x, out=out),
            lambda a=act, x=x: a.derivative(x),
            lambda a=act, x=x: a.backward(x, x),
            lambda a=act: a.output_shape((6, 5)),
        ):
            with pytest.raises(ValueError, match=message):
                call()
        assert (out == 7.0).all()


LEARNING = [*(s.cls() for s in STRUCTURED if s.learned), fp.activations.Swish(learn_beta=True)]


@pytest.mark.parametrize("act", LEARNING, ids=repr)
def test_params_are_checked(act: Any) -> None:
    x = np.ones((3, 4), np.float32)
    (name,) = params = act.init_params()
    good = params[name]
    out = np.full(x.shape, 7.0, np.float32)
    cases: list[tuple[Any, type[Exception], str]] = [
        ({}, ValueError, rf"params has the keys \[\]; expected \['{name}'\]"),
        ({"gamma": good}, ValueError, rf"params has the keys \['gamma'\]; expected \['{name}'\]"),
        ({name: good, "gamma": good}, ValueError, r"params has the keys"),
        (good, TypeError, "params must be a dict of arrays.*found numpy.ndarray"),
        ([good], TypeError, "params must be a dict.*found list"),
        (3.0, TypeError, "params must be a dict.*found float"),
        ({name: 0.25}, TypeError, rf"params\['{name}'\] must be a NumPy array, found float"),
        ({name: good.astype(np.float16)}, TypeError, rf"params\['{name}'\] has dtype float16; expected float32 or"),
        ({name: good.astype(int)}, TypeError, rf"params\['{name}'\] has dtype int64"),
        ({name: np.ones(5, np.float32)}, ValueError, rf"params\['{name}'\] has shape \(5,\); expected \(1,\)"),
        ({name: good[0]}, TypeError, "NumPy array, found numpy.float32"),
        ({name: good.reshape(1, 1)}, ValueError, r"has shape \(1, 1\); expected \(1,\)"),
    ]
    for bad, error, message in cases:
        for call in (
            lambda b=bad: act(x, out=out, params=b),
            lambda b=bad: act.backward(x, x, params=b, out=out),
            lambda b=bad: act.derivative(x, params=b, out=out),
            lambda b=bad: act.backward_params(x, x, params=b, out=out),
        ):
            with pytest.raises(error, match=message):
                call()
    with pytest.raises(TypeError, match=rf"params is None; expected a dict with the key '{name}'"):
        act.backward_params(x, x, out=out)
    with pytest.raises(TypeError, match="slopes"):
        act.backward(x, x, slopes=x, out=out)
    assert (out == 7.0).all()
    with pytest.raises(TypeError, match="dtype is float16"):
        act.init_params(np.float16)


def test_params_in_memory_that_kernels_cannot_read() -> None:
    act, x = fp.activations.PReLU(), np.ones(3)
    with pytest.raises(ValueError, match=r"dtype >f4; expected the machine's byte order: .*astype\(np.float32\)"):
        act(x, params={"alpha": np.array([0.25], ">f4")})
    with pytest.raises(ValueError, match=r"'alpha'\] is not aligned in memory: copy it with .copy\(\)"):
        act(x, params={"alpha": np.zeros(9, np.uint8)[1:].view(np.float64)})
    read_only = np.array([0.25])
    read_only.flags.writeable = False
    assert_same_bits(act(-x, params={"alpha": read_only}), np.full(3, -0.25))


def test_params_of_many_channels_are_checked() -> None:
    act = fp.activations.PReLU(num_parameters=4)
    x = np.ones((3, 4))
    alpha = np.ones(8)[::2]
    with pytest.raises(ValueError, match=r"params\['alpha'\] is not C-contiguous"):
        act(x, params={"alpha": alpha})
    for shape in ((4, 3), (3,), ()):
        for call in (act, act.derivative, lambda v: act.output_shape(np.shape(v))):
            with pytest.raises(ValueError, match=re.escape(f"x has shape {shape}; expected a last axis of num_par")):
                call(np.ones(shape))
    with pytest.raises(ValueError, match="out overlaps params"):
        act(x[:1], params={"alpha": (shared := np.ones(5))[:4]}, out=shared[1:].reshape(1, 4))
    with pytest.raises(ValueError, match="num_parameters is 0"):
        fp.activations.PReLU(num_parameters=0)
    with pytest.raises(ValueError, match="pieces is 0"):
        fp.activations.Maxout(0)


@pytest.mark.parametrize("act", [fp.activations.ReLU(), *(s.cls() for s in STRUCTURED if not s.learned)], ids=repr)
def test_activations_that_learn_nothing(act: Any) -> None:
    x = np.linspace(-2, 2, 8).reshape(2, 4)
    dy = np.ones(act.output_shape(x.shape))
    assert act.init_params() == {}
    assert_same_bits(act(x, params={}), act(x))
    dx, gradients = act.backward_params(x, dy, params={})
    assert gradients == {}
    assert_same_bits(dx, act.backward(x, dy))
    for call in (lambda p: act(x, params=p), lambda p: act.backward_params(x, dy, params=p)):
        with pytest.raises(ValueError, match=r"params has the keys \['alpha'\]; expected none"):
            call({"alpha": x})


@pytest.mark.parametrize(
    "activation", [*(a for s in STRUCTURED for a in (s.cls(), s.name)), fp.activations.Swish(learn_beta=True)], ids=str
)
def test_they_are_not_fused(activation: Any) -> None:
    """A dense layer and `linear` take plain elementwise activations alone."""
    x = np.ones((2, 2))
    with pytest.raises(TypeError, match=r"activation.*not a plain elementwise"):
        fp.ops.linear(x, x, activation=activation)
    with pytest.raises(TypeError, match=r"activation.*not a plain elementwise"):
        fp.nn.Dense(2, 2, activation=activation)


# --- particular ones ----------------------------------------------------------------------------------------


@each_dtype
def test_prelu_is_leaky_relu(dtype: Any, target: str) -> None:
    x = np.concatenate([sample((LARGE,), dtype), np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)])
    dy = sample(x.shape, dtype, "dy")
    for slope in (0.25, 0.0, -2.0):
        leaky = fp.activations.LeakyReLU(slope)
        for act, params in (
            (fp.activations.PReLU(slope), None),
            (fp.activations.PReLU(), {"alpha": np.array([slope], dtype)}),
        ):
            assert_same_bits(act(x, params=params), leaky(x))
            assert_same_bits(act.backward(x, dy, params=params), leaky.backward(x, dy))
            assert_same_bits(act.derivative(x, params=params), leaky.derivative(x))


def test_params_of_another_dtype_are_cast() -> None:
    act = fp.activations.PReLU(num_parameters=4)
    x, dy = sample((10, 4), np.float32), sample((10, 4), np.float32, "dy")
    alpha = np.array([0.1, 0.2, 0.3, 0.4])
    double, single = {"alpha": alpha}, {"alpha": alpha.astype(np.float32)}
    assert_same_bits(act(x, params=double), act(x, params=single))
    dx, gradients = act.backward_params(x, dy, params=double)
    other, same = act.backward_params(x, dy, params=single)
    assert_same_bits(dx, other)
    assert gradients["alpha"].dtype == np.float64
    assert_same_bits(gradients["alpha"].astype(np.float32), same["alpha"])


@each_dtype
def test_swish_learns_beta(dtype: Any, target: str, threads: int) -> None:
    act = fp.activations.Swish(1.5, learn_beta=True)
    assert_same_bits(act.init_params(dtype), {"beta": np.array([1.5], dtype)})
    for n in (0, 1, 33, 8192, LARGE):
        x = sample((n,), dtype, "x", scale=6.0)
        dy = sample((n,), dtype, "dy")
        for beta in (0.0, 0.7, -2.0):
            params = {"beta": np.array([beta], dtype)}
            plain = fp.activations.Swish(float(dtype(beta)))
            assert_same_bits(act(x, params=params), plain(x))
            assert_same_bits(act.backward(x, dy, params=params), plain.backward(x, dy))
            dx, gradients = act.backward_params(x, dy, params=params)
            assert_same_bits(dx, plain.backward(x, dy))
            wide, z = x.astype(np.longdouble), dtype(beta) * x.astype(np.longdouble)
            terms = dy * wide**2 * np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))) ** 2
            # The product beta x is rounded once, and the exponential magnifies that by abs z.
            bound = np.finfo(dtype).eps * (np.abs(terms) * (4 + np.abs(z))).sum()
            assert_within(gradients["beta"], terms.sum().reshape(1), bound)
    assert_same_bits(act(x), fp.activations.Swish(1.5)(x))
    assert fp.activations.Swish(1.5).init_params() == {}


def test_beta_against_finite_differences() -> None:
    act = fp.activations.Swish(learn_beta=True)
    x, dy = sample((40,), np.float64, "x"), sample((40,), np.float64, "dy")
    for beta in (-1.0, 0.0, 0.5, 2.0):
        value = np.array([beta])
        found = act.backward_params(x, dy, params={"beta": value})[1]["beta"]
        assert_within(found, differences(lambda b: act(x, params={"beta": b}), value, dy, 1e-3), 1e-6)


def test_beta_where_x_is_not_finite() -> None:
    """The bell is 0 far from 0, and so is the gradient at the infinities; a NaN makes it NaN."""
    act = fp.activations.Swish(learn_beta=True)
    params = act.init_params(np.float64)
    for x in ([np.inf, 1.0], [-np.inf, 1.0], [1e300, 1.0], [-1e300, 1.0]):
        found = act.backward_params(np.array(x), np.ones(2), params=params)[1]["beta"]
        assert_same_bits(found, act.backward_params([1.0], [1.0], params=params)[1]["beta"])
    assert np.isnan(act.backward_params([np.nan, 1.0], np.ones(2), params=params)[1]["beta"]).all()


@each_dtype
def test_rrelu_samples(dtype: Any, threads: int, target: str) -> None:
    act = fp.activations.RReLU()
    x = sample((LARGE,), dtype).reshape(-1, 1)
    y, slopes = act.sample(x, np.random.default_rng(3))
    assert slopes.shape == y.shape == x.shape
    assert slopes.dtype == y.dtype == dtype
    assert slopes.min() >= dtype(1 / 8)
    assert slopes.max() <= dtype(1 / 3)
    assert abs(slopes.mean(dtype=float) - 11 / 48) < 1e-3
    assert_same_bits(y, np.where(x > 0, x, slopes * x))
    with fp.num_threads(1):
        assert_same_bits(act.sample(x, np.random.default_rng(3)), (y, slopes))
    dy = sample(x.shape, dtype, "dy")
    assert_same_bits(act.backward(x, dy, slopes=slopes), dy * np.where(x > 0, dtype(1), slopes))
    # Evaluation: the mean slope.
    mean = fp.activations.LeakyReLU(11 / 48)
    assert_same_bits(act(x), mean(x))
    assert_same_bits(act.backward(x, dy), mean.backward(x, dy))
    out = np.empty_like(x)
    assert act.sample(x, np.random.default_rng(3), out=out)[0] is out
    assert_same_bits(out, y)
    assert_same_bits(act.sample(np.asfortranarray(x), np.random.default_rng(3)), (y, slopes))


def test_rrelu_refuses() -> None:
    act = fp.activations.RReLU()
    x = np.ones((3, 4))
    for rng in (None, 3, np.random.RandomState(0)):
        with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator, found"):
            act.sample(x, rng)  # type: ignore[arg-type]  # refused
    rng = np.random.default_rng(0)
    state = rng.bit_generator.state
    for bad in (np.ones((3, 4), np.float16), None, "x"):
        with pytest.raises(TypeError, match="x"):
            act.sample(bad, rng)  # type: ignore[arg-type]  # refused
    for out in (np.ones((4, 3)), np.ones((3, 4), np.float32)):
        with pytest.raises(ValueError, match="out has"):
            act.sample(x, rng, out=out)
        assert (out == 1).all()
    assert rng.bit_generator.state == state, "nothing is drawn when an argument is refused"
    with pytest.raises(ValueError, match=r"slopes has shape \(4, 3\) but x has shape \(3, 4\)"):
        act.backward(x, x, slopes=np.ones((4, 3)))
    with pytest.raises(TypeError, match="slopes has dtype float32 but x has dtype float64"):
        act.backward(x, x, slopes=x.astype(np.float32))
    with pytest.raises(ValueError, match="out overlaps slopes"):
        act.backward(x, x, slopes=(slopes := np.ones((3, 4))), out=slopes)
    with pytest.raises(ValueError, match=r"lower is 0.5 and upper is 0.25; expected lower <= upper"):
        fp.activations.RReLU(0.5, 0.25)
    state = rng.bit_generator.state
    memory = np.ones(24)
    x, read_only = memory[:12].reshape(3, 4), np.ones((3, 4))
    read_only.flags.writeable = False
    for out, message in ((memory[4:16].reshape(3, 4), "out overlaps x"), (read_only, "out is read-only")):
        with pytest.raises(ValueError, match=message):
            act.sample(x, rng, out=out)
    with pytest.raises(TypeError, match="out must be a NumPy array, found list"):
        act.sample(x, rng, out=x.tolist())
    assert rng.bit_generator.state == state
    empty, slopes = act.sample(np.empty((0, 3)), rng)
    assert empty.shape == slopes.shape == (0, 3)
    y, slope = act.sample(-1.0, rng)
    assert np.shape(y) == np.shape(slope) == ()
    assert y == -slope


def test_rrelu_samples_what_it_is_called_with() -> None:
    class Exporting:  # DLPack alone
        def __init__(self, array: Array) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    act = fp.activations.RReLU()
    for dtype in (np.float32, np.float64):
        x = np.array([-1.0, 2.0, -3.0], dtype)
        expected = act.sample(x, np.random.default_rng(0))
        others: list[Any] = [x.astype(x.dtype.newbyteorder()), Exporting(x)]
        for other in others:
            assert_same_bits(act.sample(other, np.random.default_rng(0)), expected)
            assert_same_bits(act(other), act(x))


def test_slopes_beyond_the_dtype() -> None:
    """They act as the nearest number that the dtype holds, and the mean of two does not overflow."""
    largest, smallest = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)
    act = fp.activations
    for slope, held in ((1e39, largest), (-1e39, -largest), (1e-60, smallest)):
        assert act.PReLU(slope)(np.float32([-1])) == -held
        assert act.PReLU(slope).init_params()["alpha"] == held
        assert act.RReLU(slope, slope)(np.float32([-1])) == -held
        assert act.RReLU(slope, slope).sample(np.float32([-1]), np.random.default_rng(0))[1] == held
    assert act.RReLU(-1e39, 1e39)(np.float32([-1])) == 0
    assert act.RReLU(-1.7e308, 1.7e308)(np.array([-1.0])) == 0
    assert act.RReLU(1.6e308, 1.6e308)(np.array([-1.0])) == -1.6e308
    for dtype, most in ((np.float32, largest), (np.float64, 1.7e308)):
        _, slopes = act.RReLU(-most, most).sample(np.zeros(1000, dtype), np.random.default_rng(0))
        assert np.isfinite(slopes).all()
        assert np.ptp(slopes / dtype(2)) > 0.98 * most


@each_dtype
def test_softmax_is_that_of_ops(dtype: Any) -> None:
    x = sample((12, 5, 130), dtype)
    for axis in (0, 1, 2, -1):
        assert_same_bits(fp.activations.Softmax(axis)(x), fp.ops.softmax(x, axis))
        assert_same_bits(fp.activations.LogSoftmax(axis)(x), fp.ops.log_softmax(x, axis))


@each_dtype
def test_gradient_of_a_certain_class(dtype: Any, target: str) -> None:
    """Where one probability is near 1, the gradient keeps its relative accuracy."""
    for length in (4, 100):
        x = np.full((1, length), -30.0, dtype)
        x[0, 1] = 0
        dy = np.zeros_like(x)
        dy[0, 1] = 1
        rest = (length - 1) * np.exp(-30.0)
        found = fp.activations.LogSoftmax().backward(x, dy)
        assert found[0, 1] == pytest.approx(rest / (1 + rest), rel=1e-5)
        found = fp.activations.Softmax().backward(x, dy)
        assert found[0, 1] == pytest.approx(rest / (1 + rest) ** 2, rel=1e-5)


def test_maxout_of_two_is_relu_against_zero() -> None:
    x = sample((50, 1), np.float64)
    pairs = np.concatenate([np.zeros_like(x), x], axis=1)
    assert_same_bits(fp.activations.Maxout(2)(pairs), fp.activations.ReLU()(x))


def test_crelu_is_two_relus() -> None:
    x = sample((50, 7), np.float64)
    relu = fp.activations.ReLU()
    assert_same_bits(fp.activations.CReLU()(x), np.concatenate([relu(x), relu(-x)], axis=1))


TORCH: dict[str, Any] = {
    "prelu": lambda f, x, p: f.prelu(x, x.new_full((1,), p["init"])),
    "softmax": lambda f, x, p: f.softmax(x, p["axis"]),
    "log_softmax": lambda f, x, p: f.log_softmax(x, p["axis"]),
    "crelu": lambda f, x, p: __import__("torch").cat([f.relu(x), f.relu(-x)], p["axis"]),
    "glu": lambda f, x, p: f.glu(x, -1),
    "swiglu": lambda f, x, p: x.chunk(2, -1)[0] * f.silu(x.chunk(2, -1)[1]),
    "geglu": lambda f, x, p: x.chunk(2, -1)[0] * f.gelu(x.chunk(2, -1)[1]),
}


@pytest.mark.parametrize("spec", [s for s in STRUCTURED if s.name in TORCH], ids=lambda spec: spec.name)
def test_equal_to_torch(spec: ActivationSpec) -> None:
    torch = pytest.importorskip("torch")
    act = spec.cls()
    x, dy = input_and_gradient(act, (24, 36), np.float64)
    given = torch.tensor(x, requires_grad=True)
    y = TORCH[spec.name](torch.nn.functional, given, spec.parameters)
    y.backward(torch.tensor(dy))
    np.testing.assert_allclose(act(x), y.detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(act.backward(x, dy), given.grad.numpy(), rtol=1e-11, atol=1e-13)


def test_ties_of_maxout_go_to_the_first() -> None:
    x = np.array([[1.0, 1.0, 0.0, -0.0, np.inf, np.inf, -np.inf, -np.inf]])
    dy = np.array([[1.0, 2.0, 3.0, 4.0]])
    expected_dx: NDArray[Any] = np.array([[1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0]])
    for repeat in (1, 9):
        found = fp.activations.Maxout(2).backward(np.tile(x, repeat), np.tile(dy, repeat))
        assert_same_bits(found, np.tile(expected_dx, repeat))


@each_dtype
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("length", [2, 10, 16, 17, 1000])
@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
def test_softmax_of_gradients_near_the_largest_number(
    name: str, length: int, axis: int, dtype: Any, target: str
) -> None:
    """Finite wherever the exact result is, and its neighbours do not feel it."""
    act = getattr(fp.activations, name)(axis=axis)
    info = np.finfo(dtype)
    rng = seeded(name, length, axis)
    x = rng.standard_normal((5, length)).astype(dtype)
    dy = rng.uniform(-0.4, 0.4, (5, length))
    dy[0, :2] = 1.0, -1.0
    dy[1] = 1.0 if name == "Softmax" else rng.choice([-0.5, 0.5], length)
    dy[3] = 1e-30
    dy = (dy * np.where(np.arange(5) == 3, 1.0, float(info.max))[:, None]).astype(dtype)
    wide = np.float64 if dtype == np.float32 else np.longdouble
    e = np.exp(x.astype(wide) - x.max(axis=1, keepdims=True))
    p, g = e / e.sum(axis=1, keepdims=True), dy.astype(wide)
    of_softmax, of_log = p * (g - (p * g).sum(axis=1, keepdims=True)), g - p * g.sum(axis=1, keepdims=True)
    exact = of_softmax if name == "Softmax" else of_log
    found = act.backward(x, dy) if axis == 1 else act.backward(np.asfortranarray(x).T, np.asfortranarray(dy).T).T
    scale = np.abs(g).max(axis=1, keepdims=True) + p * np.abs(g).sum(axis=1, keepdims=True)
    fits = np.abs(exact) < 0.999 * float(info.max)
    assert np.isfinite(found[fits]).all()
    assert (np.abs(found.astype(wide) - exact) <= 40 * float(info.eps) * scale)[fits].all()
    alone = act.backward(x[3:4], dy[3:4]) if axis == 1 else act.backward(x[3:4].T, dy[3:4].T).T
    assert_same_bits(found[3:4], alone)


def test_beta_of_gradients_near_the_largest_number(target: str) -> None:
    """dy x^2 s(x) s(-x) is finite although dy x is not."""
    act = fp.activations.Swish(learn_beta=True)
    x, dy = np.array([3.0, 300.0]), np.array([1.6e308, 1.6e308])
    _, gradients = act.backward_params(x, dy, params={"beta": np.array([1.0])})
    bell = x**2 / (1 + np.exp(x)) / (1 + np.exp(-x))
    np.testing.assert_allclose(gradients["beta"], [np.sum(bell * dy)], rtol=1e-12)
