"""Activations: accuracy, derivatives, special values, layouts and properties, for every entry of the registry."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import mpmath
import numpy as np
import pytest
from helpers import (
    ACTIVATIONS,
    FLOATS,
    LARGE,
    LAYOUTS,
    SANITIZER,
    TWO_VECTORS,
    Array,
    Out,
    Parameters,
    assert_same_bits,
    assert_ulp,
    bit_patterns,
    each_activation,
    each_dtype,
    exact_truth,
    extremes,
    laid_out,
    numbers,
    seeded,
    truth,
    ulp_error_exact,
    widened,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fuseprop as fp
from fuseprop import _core
from fuseprop._registry import ActivationSpec

SHAPE = (7, 19)


def budget(spec: ActivationSpec, parameters: Parameters, dtype: Any, derivative: bool) -> float:
    """Allowed error in ULP. Each parameter that is not at its default may bring two roundings of its own."""
    own = spec.ulp[(2 if dtype == np.float64 else 0) + derivative]
    if dtype == np.float64:
        own += 0.05  # of the reference where it is evaluated in higher precision than float64, but not much higher
    changed = sum(value != spec.parameters[name] for name, value in parameters.items())
    return own + (1.0 * changed if own else 0.0)


def derivative_error_allowed(spec: ActivationSpec, x: Array, f: Array, d1: Array, ulp: float) -> Array | float:
    """Allowed error of a derivative in ULP of it: 2^-23 of the terms' sizes near a sign change (docs/mathematics.md 6).

    Only a function that is not monotone has one; those are x g(x), with the terms g = f / x and x g' = f' - f / x.
    """
    if spec.properties["monotone"]:
        return ulp
    with np.errstate(all="ignore"):
        g = np.where(x == 0, d1, f / x)
        terms = np.abs(g) + np.abs(d1 - g)
        from_terms = np.nan_to_num(2.0**-23 * terms / np.spacing(np.abs(d1).astype(np.float32)), nan=0.0, posinf=0.0)
    return np.where(np.abs(d1) < terms / 8, np.maximum(ulp, from_terms), ulp)


def sample(dtype: Any, n: int) -> Array:
    """Deterministic inputs of all sizes, the extremes among them."""
    special = extremes(dtype)
    return np.concatenate([numbers(n - special.size, dtype, seeded("activation", n)), special])


# --- accuracy -----------------------------------------------------------------------------------------------


@functools.cache
def large_sample(name: str, parameters: tuple[tuple[str, float], ...], dtype: Any) -> tuple[Array, Array, Array]:
    """(x, f(x), f'(x)); in float64 the truth comes from extended precision where the machine has it."""
    spec = next(spec for spec in ACTIVATIONS if spec.name == name)
    x = sample(dtype, LARGE)
    wide = x.astype(np.longdouble) if dtype == np.float64 else x
    return (x, *truth(spec, dict(parameters), wide, dtype=dtype))


@each_dtype
@each_activation
def test_accuracy(spec: ActivationSpec, parameters: Parameters, dtype: Any, target: str) -> None:
    act = spec.cls(**parameters)
    x, f, d1 = large_sample(spec.name, tuple(parameters.items()), dtype)
    slack = 0.0 if np.finfo(np.longdouble).nmant > 60 or dtype == np.float32 else 2.0  # of a float64 reference
    value = act(x)
    derivative = act.derivative(x)
    assert value.dtype == derivative.dtype == dtype
    assert_ulp(value, f, budget(spec, parameters, dtype, False) + slack, x)
    allowed = budget(spec, parameters, dtype, True) + slack
    assert_ulp(derivative, d1, derivative_error_allowed(spec, x, f, d1, allowed), x)


@pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
def test_float32_sweep(spec: ActivationSpec, target: str) -> None:
    """Every 4099th of all float32 numbers, at the default parameters: the exhaustive check, thinned."""
    act = spec.cls()
    x, f, d1 = sweep(spec.name)
    assert_ulp(act(x), f, spec.ulp[0], x)
    assert_ulp(act.derivative(x), d1, derivative_error_allowed(spec, x, f, d1, spec.ulp[1]), x)


@functools.cache
def sweep(name: str) -> tuple[Array, Array, Array]:
    spec = next(spec for spec in ACTIVATIONS if spec.name == name)
    x = bit_patterns(1, 4099 if SANITIZER == "" else 65537)
    return (x, *truth(spec, spec.parameters, x))


@each_activation
def test_float64_against_many_digits(spec: ActivationSpec, parameters: Parameters, target: str) -> None:
    x, f, d1 = many_digits(spec.name, tuple(parameters.items()))
    act = spec.cls(**parameters)
    for actual, expected, derivative in ((act(x), f, False), (act.derivative(x), d1, True)):
        error = ulp_error_exact(actual, expected)
        worst = np.argmax(error)
        allowed = budget(spec, parameters, np.float64, derivative)
        if derivative and not spec.properties["monotone"]:
            plain = [np.array([float(v) for v in values]) for values in (f, d1)]
            allowed = derivative_error_allowed(spec, x, *plain, allowed)
        assert (error <= allowed).all(), (error[worst], x[worst], actual[worst], expected[worst])


@functools.cache
def many_digits(name: str, parameters: tuple[tuple[str, float], ...]) -> tuple[Array, list[Any], list[Any]]:
    spec = next(spec for spec in ACTIVATIONS if spec.name == name)
    x = np.concatenate([extremes(np.float64), numbers(150, np.float64, seeded("exact")), np.linspace(-40, 40, 101)])
    f, d1 = exact_truth(spec, dict(parameters), x)
    return x, f, d1


@each_dtype
@each_activation
def test_derivative_is_that_of_the_value(spec: ActivationSpec, parameters: Parameters, dtype: Any) -> None:
    """Fourth-order central differences of the float64 value, away from joints."""
    act = spec.cls(**parameters)
    h = 1e-3
    x = seeded("differences").uniform(-6, 6, 500)
    jump = np.abs(act.derivative(x + 2 * h) - act.derivative(x - 2 * h))
    x = x[jump < 20 * h]  # abs f'' < 5 where f' is smooth
    assert x.size > 400
    difference = (8 * (act(x + h) - act(x - h)) - (act(x + 2 * h) - act(x - 2 * h))) / (12 * h)
    # Truncation h^4 max|f'''''| / 30, with room for |f'''''| up to 1e3; rounding 1.5 eps |f| / h.
    bound = h**4 * 1e3 / 30 + 1.5 * np.finfo(np.float64).eps * np.abs(act(x)) / h
    rounding = 8 * np.finfo(dtype).eps * (1 + np.abs(x))  # x is rounded to dtype: |f''| |x| eps
    actual = act.derivative(x.astype(dtype))
    assert np.all(np.abs(actual - difference) <= bound + rounding)


@each_dtype
@each_activation
def test_backward_is_dy_times_derivative(spec: ActivationSpec, parameters: Parameters, dtype: Any, target: str) -> None:
    act = spec.cls(**parameters)
    x = numbers(1000, dtype, seeded("backward"))
    dy = numbers(1000, dtype, seeded("dy"))
    with np.errstate(all="ignore"):
        expected = dy * act.derivative(x)
    assert_same_bits(act.backward(x, dy), expected)
    assert_same_bits(act.backward(x, np.ones_like(x)), act.derivative(x))


# --- special values -----------------------------------------------------------------------------------------


@each_dtype
@each_activation
def test_special_values(spec: ActivationSpec, parameters: Parameters, dtype: Any, target: str) -> None:
    """NaN, infinities, signed zeros, subnormals, the largest numbers."""
    act = spec.cls(**parameters)
    x = extremes(dtype)
    expected = truth(spec, parameters, x.astype(np.longdouble), dtype=dtype)
    tiny, largest = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    for actual, true, what in zip((act(x), act.derivative(x)), expected, ("value", "derivative"), strict=True):
        assert np.array_equal(np.isnan(actual), np.isnan(x)), f"{what}: NaN for NaN alone"
        overflow = np.isinf(actual) & (np.abs(true) < largest)
        assert not overflow.any(), f"{what} overflows at {x[overflow]}"
        lost = (actual == 0) & (np.abs(true) > tiny)
        assert not lost.any(), f"{what} is zero at {x[lost]}"
        exact = np.isinf(x) | (x == 0) & (true == 0)  # limits
        assert_same_bits(actual[exact], true[exact].astype(dtype), what)  # the sign of zero too
        zero = actual == 0
        assert np.array_equal(np.signbit(actual[zero]), np.signbit(true[zero])), what


@each_dtype
@each_activation
def test_a_nan_stays_in_its_element(spec: ActivationSpec, parameters: Parameters, dtype: Any, target: str) -> None:
    act = spec.cls(**parameters)
    clean = numbers(TWO_VECTORS, dtype, seeded("nan"))
    dy = np.ones_like(clean)
    expected = act(clean), act.backward(clean, dy)
    for i in range(TWO_VECTORS):
        x = clean.copy()
        x[i] = np.nan
        for actual, without in zip((act(x), act.backward(x, dy)), expected, strict=True):
            assert np.isnan(actual[i])
            assert_same_bits(np.delete(actual, i), np.delete(without, i))


# --- shapes, layouts, dtypes --------------------------------------------------------------------------------


def verbs(act: Any) -> dict[str, Callable[..., Any]]:
    """Each verb as a function of x alone."""
    return {
        "value": act,
        "derivative": act.derivative,
        "backward": lambda x, out=None: act.backward(x, x, out=out),
    }


@each_dtype
@each_activation
def test_every_size(spec: ActivationSpec, parameters: Parameters, dtype: Any, target: str) -> None:
    act = spec.cls(**parameters)
    x = sample(dtype, 4 * TWO_VECTORS)[::-1].copy()  # the extremes first
    for name, verb in verbs(act).items():
        whole = verb(x)
        for n in range(TWO_VECTORS + 1):
            assert_same_bits(verb(x[:n]), whole[:n], f"{name} of {n}")


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
@pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
def test_layouts(spec: ActivationSpec, dtype: Any, layout: str) -> None:
    """Inputs and outputs of any strides; inputs are read-only; nothing beside the output is written."""
    act = spec.cls()
    x = numbers(np.prod(SHAPE), dtype, seeded("layouts")).reshape(SHAPE)
    dy = numbers(x.size, dtype, seeded("layouts", "dy")).reshape(SHAPE)
    with np.errstate(all="ignore"):
        value, backward = act(x), act.backward(x, dy)
    assert_same_bits(act(laid_out(x, layout)), value)
    assert_same_bits(act.backward(laid_out(x, layout), dy), backward)
    assert_same_bits(act.backward(x, laid_out(dy, layout)), backward)
    for other in LAYOUTS:
        out = Out(other, SHAPE, dtype)
        out.assert_received(act(laid_out(x, layout), out=out.array), value, other)
        out = Out(other, SHAPE, dtype)
        result = act.backward(laid_out(x, layout), laid_out(dy, layout), out=out.array)
        out.assert_received(result, backward, other)


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
@pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
def test_in_place(spec: ActivationSpec, dtype: Any, layout: str) -> None:
    act = spec.cls()
    x = numbers(np.prod(SHAPE), dtype, seeded("in place")).reshape(SHAPE)
    dy = numbers(x.size, dtype, seeded("in place", "dy")).reshape(SHAPE)
    value, derivative, backward = act(x), act.derivative(x), act.backward(x, dy)

    def fresh(content: Array) -> Out:
        out = Out(layout, SHAPE, dtype)
        out.array[...] = content
        return out

    out = fresh(x)
    out.assert_received(act(out.array, out=out.array), value, "out is x")
    out = fresh(x)
    out.assert_received(act.derivative(out.array, out=out.array), derivative, "derivative, out is x")
    out = fresh(x)
    out.assert_received(act.backward(out.array, dy, out=out.array), backward, "backward, out is x")
    out = fresh(dy)
    out.assert_received(act.backward(x, out.array, out=out.array), backward, "backward, out is dy")


@each_dtype
@pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
def test_other_dimensions(spec: ActivationSpec, dtype: Any) -> None:
    act = spec.cls()
    x = numbers(3 * 5 * 8, dtype, seeded("dimensions")).reshape(3, 5, 8)
    for name, verb in verbs(act).items():
        flat = verb(x.ravel())
        assert_same_bits(verb(x), flat.reshape(x.shape), name)
        for axes in ((0, 2, 1), (2, 1, 0), (1, 0, 2)):
            assert_same_bits(verb(x.transpose(axes)), flat.reshape(x.shape).transpose(axes), f"{name} {axes}")
        scalar = np.asarray(x[1, 2, 3])
        result = verb(scalar)
        assert np.shape(result) == ()
        assert result.dtype == dtype
        assert result == flat[1 * 40 + 2 * 8 + 3]
        into = np.empty((), dtype)
        assert verb(scalar, out=into) is into
        assert into[()] == result
        row = x[0, 0]
        assert_same_bits(verb(np.broadcast_to(row, (4, 8))), np.tile(flat[:8], (4, 1)), name)
        for shape in ((0,), (3, 0), (0, 5, 2)):
            empty = verb(np.empty(shape, dtype))
            assert empty.shape == shape
            assert empty.dtype == dtype
        assert act.output_shape(x.shape) == verb(x).shape


@pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
def test_other_inputs(spec: ActivationSpec) -> None:
    """Lists, numbers, integers and booleans become float64; subclasses and foreign byte orders are taken."""
    act = spec.cls()
    x = np.array([[-3.0, 0.0, 2.0], [1.0, -1.0, 5.0]])
    for name, verb in verbs(act).items():
        expected = verb(x)
        assert_same_bits(verb(x.tolist()), expected, name)
        assert_same_bits(verb(tuple(map(tuple, x.tolist()))), expected, name)
        for dtype in (np.int8, np.int16, np.int32, np.int64):
            assert_same_bits(verb(x.astype(dtype)), expected, f"{name} {dtype}")
        for dtype in (np.bool_, np.uint8, np.uint16, np.uint32, np.uint64):
            cast = (x > 0).astype(dtype)
            assert_same_bits(verb(cast), verb(cast.astype(np.float64)), f"{name} {dtype}")
        assert verb(-3.0) == expected[0, 0]
        assert isinstance(verb(-3.0), np.float64)
        assert_same_bits(verb(x.astype(">f8")), expected, name)
        single = verb(x.astype(np.float32))
        assert_same_bits(verb(x.astype(">f4")), single, name)
        result = verb(x.view(Subclass))
        assert type(result) is np.ndarray
        assert_same_bits(result, expected, name)
    assert_same_bits(act.backward(x, np.ones((2, 3), int)), act.derivative(x))


class Subclass(np.ndarray):
    """An array of a user's own kind."""


def test_inputs_that_speak_array() -> None:
    class Speaks:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            return np.array([1.5, -2.0], np.float32)

    act = fp.activations.Tanh()
    assert_same_bits(act(Speaks()), act(np.array([1.5, -2.0], np.float32)))


@each_dtype
@pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
def test_out_beyond_the_caches(spec: ActivationSpec, dtype: Any, threads: int) -> None:
    """Outputs of 8 MiB and more are written around the caches; the start is not aligned."""
    act = spec.cls()
    n = (9 << 20) // np.dtype(dtype).itemsize
    small = numbers(5003, dtype, seeded("stream"))
    x = np.resize(small, n)
    memory = np.full(n + 2, 7.0, dtype)
    for name, verb in verbs(act).items():
        out = memory[1:-1]
        assert verb(x, out=out) is out
        assert_same_bits(out, np.resize(verb(small), n), name)
        assert memory[0] == memory[-1] == 7.0


@given(data=st.data())
def test_any_shape_and_strides(data: st.DataObject) -> None:
    spec = data.draw(st.sampled_from(ACTIVATIONS))
    dtype = data.draw(st.sampled_from(FLOATS))
    act = spec.cls()
    base = data.draw(
        hnp.arrays(
            dtype, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9), elements=st.floats(width=32)
        )
    )
    index = tuple(
        slice(data.draw(st.integers(0, 2)), None, data.draw(st.sampled_from([1, 2, 3]))) for _ in range(base.ndim)
    )
    x = np.flip(base[index], data.draw(st.sampled_from([(), (0,), (-1,)])))
    x = x.transpose(data.draw(st.permutations(range(x.ndim))))
    contiguous = np.ascontiguousarray(x)
    dy = contiguous[::-1]
    with np.errstate(all="ignore"):
        assert_same_bits(act(x), act(contiguous))
        assert_same_bits(act.backward(x, dy), act.backward(contiguous, dy.copy()))


# --- properties ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
@given(points=hnp.arrays(np.float32, 64, elements=st.floats(width=32, allow_nan=False)))
def test_properties(spec: ActivationSpec, points: Array) -> None:
    """The properties of the registry, which are those at default parameters."""
    act = spec.cls()
    low, high = spec.properties["range"]
    x = np.sort(np.concatenate([points, np.linspace(-20, 20, 64, dtype=np.float32)]))
    y = act(x).astype(np.float64)
    ulp = spec.ulp[0] * np.finfo(np.float32).eps
    room = ulp * np.array([abs(bound) if np.isfinite(bound) else 0.0 for bound in (low, high)])
    assert np.all((y >= low - room[0]) & (y <= high + room[1]))
    finite = np.isfinite(y)
    steps = np.diff(y[finite])
    falls = steps < -2 * ulp * np.abs(y[finite][1:]) - np.finfo(np.float32).smallest_subnormal * spec.ulp[0]
    assert spec.properties["monotone"] == (not falls.any())
    assert spec.properties["near_identity"] == bool(np.allclose(act([1e-4, -1e-4]), [1e-4, -1e-4], rtol=1e-3))
    flat = np.abs(act.derivative([-1e4, 1e4])) < 1e-6
    assert spec.properties["saturating"] == bool(flat.all())
    # Centred at zero: odd, so that inputs around zero give outputs around zero.
    assert spec.properties["zero_centred"] == np.array_equal(act(-x), -y.astype(np.float32))


@pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
def test_the_range_is_reached(spec: ActivationSpec) -> None:
    low, high = spec.properties["range"]
    y = spec.cls()([-1e300, -1e4, -100.0, -1.0, 0.0, 1.0, 100.0, 1e4, 1e300])
    assert y.min() <= low + 0.3 if np.isfinite(low) else y.min() <= -1
    assert y.max() >= high - 0.3 if np.isfinite(high) else y.max() >= 1e300


@each_dtype
@pytest.mark.parametrize(
    ("name", "at_minus_inf", "at_inf"),
    [
        ("step", 0.0, 1.0),
        ("relu", 0.0, np.inf),
        ("leaky_relu", -np.inf, np.inf),
        ("sigmoid", 0.0, 1.0),
        ("tanh", -1.0, 1.0),
        ("softplus", 0.0, np.inf),
        ("elu", -1.0, np.inf),
        ("selu", -1.0507009873554805 * 1.6732632423543772, np.inf),
        ("celu", -1.0, np.inf),
        ("swish", -0.0, np.inf),
        ("gelu", -0.0, np.inf),
        ("log_sigmoid", -np.inf, -0.0),
        ("mish", -0.0, np.inf),
        ("softsign", -1.0, 1.0),
        ("hardtanh", -1.0, 1.0),
        ("hardsigmoid", 0.0, 1.0),
        ("hardswish", -0.0, np.inf),
    ],
)
def test_limits(name: str, at_minus_inf: float, at_inf: float, dtype: Any, target: str) -> None:
    """At infinities, and where the function has reached them to the last digit, save for what grows."""
    act = fp.activations.get(name)
    assert_same_bits(act(np.array([-np.inf, np.inf], dtype)), np.array([at_minus_inf, at_inf], dtype))
    d1 = act.derivative(np.array([-np.inf, np.inf], dtype))
    assert np.all(np.isfinite(d1))
    for x, limit, slope in ((-1e4, at_minus_inf, d1[0]), (1e4, at_inf, d1[1])):
        if np.isfinite(limit) and name != "softsign":
            assert act(dtype(x)) == dtype(limit)
            assert slope == act.derivative(dtype(x)) == 0
        elif not np.isfinite(limit):
            assert slope == act.derivative(dtype(x)) == act(dtype(2 * x)) / dtype(2 * x)


@each_dtype
def test_left_tails(dtype: Any, target: str) -> None:
    """Relative accuracy down to the smallest normal number, against closed forms of the tails."""
    tiny = np.finfo(dtype).tiny
    end = 85.0 if dtype == np.float32 else 700.0
    x = -np.linspace(40.0, end, 500).astype(dtype)
    wide = x.astype(np.longdouble)
    for name in ("swish", "mish"):
        act = fp.activations.get(name)
        assert_ulp(act(x), wide * np.exp(wide), 4, x)  # 1 + e^x is 1 here
        assert_ulp(act.derivative(x), (1 + wide) * np.exp(wide), 5, x)
        assert np.all(np.abs(act(x)) >= tiny)
    for act in (fp.activations.Softplus(), lambda x: -fp.activations.LogSigmoid()(-x)):
        assert_ulp(act(x), np.exp(wide), 4, x)
    gelu = fp.activations.GELU()
    for z in (-5.0, -9.0, -13.0, *([-30.0, -37.5] if dtype == np.float64 else [])):
        with mpmath.workdps(30):
            phi = mpmath.npdf(z)
            value, slope = z * mpmath.ncdf(z), mpmath.ncdf(z) + z * phi
        assert ulp_error_exact(np.array([gelu(dtype(z))]), [value]) <= 4
        assert ulp_error_exact(np.array([gelu.derivative(dtype(z))]), [slope]) <= 4


def test_joints_have_the_left_derivative() -> None:
    for act, x, left in (
        (fp.activations.ELU(0.5), 0.0, 0.5),
        (fp.activations.SELU(), 0.0, 1.0507009873554805 * 1.6732632423543772),
        (fp.activations.Hardtanh(-2, 3), -2.0, 0.0),
        (fp.activations.Hardtanh(-2, 3), 3.0, 1.0),
        (fp.activations.Hardsigmoid(), -3.0, 0.0),
        (fp.activations.Hardsigmoid(), 3.0, 1 / 6),
        (fp.activations.Hardswish(), -3.0, 0.0),
        (fp.activations.Hardswish(), 3.0, 1.5),
    ):
        assert act.derivative(x) == pytest.approx(left, rel=4e-16, abs=0)


def test_step_at_zero() -> None:
    x = np.array([-1.0, -0.0, 0.0, 1e-300, np.nan])
    for at_zero in (0.0, 0.5, 1.0):
        np.testing.assert_array_equal(fp.activations.Step(at_zero)(x), np.append(np.heaviside(x[:4], at_zero), np.nan))


def test_silu_is_swish() -> None:
    assert fp.activations.SiLU() == fp.activations.Swish(1.0) == fp.activations.get("silu")


@each_dtype
@pytest.mark.parametrize("beta", [1e-3, 0.1, 17.0, 1e4])
def test_scaled_parameters(beta: float, dtype: Any, target: str) -> None:
    """Parameters far from their defaults: beta x is formed in two pieces, or its tail would lose digits."""
    x = (seeded("beta").uniform(-80, 20, 2000) / beta).astype(dtype)
    for name in ("swish", "softplus"):
        act = fp.activations.get(name, beta=beta)
        f, d1 = truth(act.spec, {"beta": beta}, widened(x), dtype=dtype)
        assert_ulp(act(x), f, 5, x)
        assert_ulp(act.derivative(x), d1, derivative_error_allowed(act.spec, x, f, d1, 5), x)
    celu = fp.activations.CELU(1 / beta)
    f, d1 = truth(celu.spec, {"alpha": 1 / beta}, widened(x), dtype=dtype)
    assert_ulp(celu(x), f, 3, x)
    assert_ulp(celu.derivative(x), d1, 3, x)


def test_selu_normalises_itself() -> None:
    """Mean 0 and variance 1 stay through 50 layers of 256 units with LeCun-normal weights (docs/mathematics.md 1)."""
    rng = seeded("selu")
    h = rng.standard_normal((2000, 256))
    for _ in range(50):
        h = fp.activations.SELU()(h @ (rng.standard_normal((256, 256)) / 16))
        assert abs(h.mean()) < 0.1
        assert 0.8 < h.var() < 1.25


@each_dtype
def test_tanh_is_a_sigmoid(dtype: Any) -> None:
    """tanh x = 2 s(2x) - 1 (docs/mathematics.md 1)."""
    x = np.linspace(-8, 8, 999).astype(dtype)
    # Each side has an absolute error of a few eps of numbers below 2.
    difference = fp.activations.Tanh()(x) - (2 * fp.activations.Sigmoid()(2 * x) - 1)
    assert np.max(np.abs(difference)) <= 8 * np.finfo(dtype).eps


# --- peers --------------------------------------------------------------------------------------------------


def test_equal_to_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    x = numbers(2000, np.float64, seeded("scipy"))
    x = x[np.abs(x) < 700]
    assert_ulp(fp.activations.Sigmoid()(x), special.expit(x).astype(np.longdouble), 6, x)
    assert_ulp(-fp.activations.Softplus()(-x), special.log_expit(x).astype(np.longdouble), 6, x)


TORCH = {
    "identity": "Identity",
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "elu": "ELU",
    "selu": "SELU",
    "celu": "CELU",
    "swish": "SiLU",
    "log_sigmoid": "LogSigmoid",
    "gelu": "GELU",
    "mish": "Mish",
    "softsign": "Softsign",
    "hardtanh": "Hardtanh",
    "hardsigmoid": "Hardsigmoid",
    "hardswish": "Hardswish",
}


@pytest.mark.parametrize("spec", [s for s in ACTIVATIONS if s.name in TORCH], ids=lambda spec: spec.name)
def test_equal_to_torch(spec: ActivationSpec) -> None:
    torch = pytest.importorskip("torch")
    peer = getattr(torch.nn, TORCH[spec.name])()
    act = spec.cls()
    # Below 20, where torch's Softplus starts to ignore the exponential; above -5, where torch loses digits.
    x = np.linspace(-5, 15, 401)
    # At a joint torch takes 0 or a mean; ours is the left derivative.
    x = x[np.abs(act.derivative(x - 1e-9) - act.derivative(x + 1e-9)) < 1e-3]
    x_torch = torch.tensor(x, requires_grad=True)
    y = peer(x_torch)
    y.backward(torch.tensor(np.cos(x)))
    # torch's own rounding errors are a few eps of numbers of the size of x.
    tolerance = 1e-13 * (1 + np.abs(x))
    if spec.name == "hardsigmoid":  # torch's 1/6 is a float32 in float64 gradients too
        tolerance += 1e-8
    assert np.all(np.abs(act(x) - y.detach().numpy()) <= tolerance)
    assert np.all(np.abs(act.backward(x, np.cos(x)) - x_torch.grad.numpy()) <= tolerance)
    # A tensor is taken as it is.
    assert_same_bits(act(x_torch.detach()), act(x))


def test_parameters_beyond_float32_act_as_the_nearest() -> None:
    zero = np.zeros(3, np.float32)
    np.testing.assert_array_equal(fp.activations.LeakyReLU(1e39)(zero), 0)
    assert np.all(fp.activations.Softplus(1e39)(zero) < 1e-38)
    assert fp.activations.LeakyReLU(1e-60)(np.float32(-np.inf)) == -np.inf
    assert fp.activations.LeakyReLU(0.0)(np.float32(-np.inf)) == 0.0


def test_keyword_x_and_dlpack() -> None:
    class Dlpack:
        def __init__(self, array: np.ndarray) -> None:
            self.__dlpack__ = array.__dlpack__
            self.__dlpack_device__ = array.__dlpack_device__

    x = np.array([-1.0, 2.0])
    relu = fp.activations.ReLU()
    np.testing.assert_array_equal(relu(x=x), [0, 2])
    np.testing.assert_array_equal(relu(Dlpack(x)), [0, 2])


def test_subclass_that_overrides_the_call_is_not_fused() -> None:
    class Twice(fp.activations.Sigmoid):
        def __call__(self, x: Any, out: Any = None) -> Any:
            return 2 * super().__call__(x, out)

    assert Twice()(0.0) == 1.0
    with pytest.raises(TypeError, match="overrides __call__"):
        fp.ops.linear([[0.0]], [[0.0]], activation=Twice())
    with pytest.raises(TypeError, match="Twice overrides __call__"):
        fp.nn.Dense(1, 1, activation=Twice())


def test_subclass_that_overrides_backward_is_not_fused() -> None:
    class Through(fp.activations.Identity):
        def backward(self, x: Any, dy: Any, **options: Any) -> Any:
            return dy

    with pytest.raises(TypeError, match="Through overrides backward"):
        fp.nn.Dense(1, 1, activation=Through())


def test_a_call_that_is_replaced() -> None:
    """A class whose __call__ is replaced has that one, for objects made before and after, and then its own again."""
    relu = fp.activations.ReLU()
    for owner in (fp.activations.ReLU, fp.activations.Activation):
        with mock.patch.object(owner, "__call__", return_value="replaced") as call:
            assert relu(-1.0) == fp.activations.ReLU()(-1.0) == "replaced"
            assert relu([1.0], out=None, params={}) == "replaced"
            call.assert_called_with([1.0], out=None, params={})
            if owner is fp.activations.ReLU:
                assert fp.activations.Tanh()(0.0) == 0.0
            with pytest.raises(TypeError, match="overrides __call__"):
                fp.ops.linear([[0.0]], [[0.0]], activation=relu)
        assert relu(-1.0) == fp.activations.ReLU()(-1.0, out=None) == 0.0
        assert relu.__call__(np.array([-1.0, 2.0]), params={}).tolist() == [0.0, 2.0]
        with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
            relu.__call__(1.0, nonsense=2)


def test_a_call_that_is_replaced_after_a_layer_was_bound() -> None:
    """What was fused with the product would pass it by: refused."""
    w, b = np.ones((2, 3), np.float32), np.zeros(3, np.float32)
    stack = _core.DenseStack([(w, b, w.copy(), b.copy(), fp.activations.ReLU())])
    stack.bind(1, [(np.zeros((1, 3), np.float32), None, None)])
    x = np.ones((1, 2), np.float32)
    with (
        mock.patch.object(fp.activations.ReLU, "__call__", lambda self, x: x),
        pytest.raises(TypeError, match=r"layers\[0\].activation of type ReLU overrides __call__"),
    ):
        stack.forward(x)
    assert stack.forward(x).tolist() == [[2.0, 2.0, 2.0]]


@each_dtype
@pytest.mark.parametrize("sign", [1, -1])
def test_elu_of_a_large_alpha(sign: int, dtype: Any, target: str) -> None:
    """e^x counts where it is far below the smallest number; the derivative still has the limit 0."""
    alpha = sign * (1e30 if dtype == np.float32 else 1e300)
    act = fp.activations.ELU(alpha)
    assert_same_bits(act.derivative(np.array([-np.inf, -1e4], dtype)), np.copysign(dtype(0), dtype(sign)).repeat(2))
    low = -150.0 if dtype == np.float32 else -1380.0
    x = np.linspace(low, -1, 1000).astype(dtype)
    exact = [float(mpmath.mpf(float(dtype(alpha))) * mpmath.exp(float(v))) for v in x]
    np.testing.assert_allclose(act.derivative(x), np.array(exact), rtol=4 * np.finfo(dtype).eps)
    assert np.isnan(act.derivative(np.array([np.nan], dtype))).all()


def test_arguments_given_twice() -> None:
    act, x = fp.activations.ReLU(), np.ones(3)
    with pytest.raises(TypeError, match="ReLU got out twice"):
        act(x, x, out=x)
    with pytest.raises(TypeError, match="ReLU got x twice"):
        act(x, x=x)


def test_parameters_that_do_not_fit() -> None:
    act = fp.activations
    for value in ("no", 1, None):
        with pytest.raises(TypeError, match="learn_beta must be a bool, True or False, found"):
            act.Swish(learn_beta=value)  # type: ignore[arg-type]  # what is refused
    assert act.Swish(learn_beta=np.True_).init_params()  # type: ignore[arg-type]  # NumPy's
    for number in (2**63, 10**400, 10**6000):
        with pytest.raises(ValueError, match=r"num_parameters is .*; expected an integer >= 1"):
            act.PReLU(num_parameters=number)
        for cls in (act.Softmax, act.LogSoftmax, act.CReLU, act.Maxout):
            for axis in (number, -number):
                with pytest.raises(ValueError, match=r"axis is .*; expected an integer"):
                    cls(axis=axis)


def test_shapes_that_no_array_has() -> None:
    act = fp.activations
    for cls in (act.ReLU, act.PReLU, act.Softmax, act.CReLU, act.Maxout, act.GLU):
        for shape in ((2, -4), (-2, 4), (2**40, 2**40), (2**62,), (2**63, 2), (10**30,)):
            with pytest.raises(ValueError, match=r"shape|dimension"):
                cls().output_shape(shape)
    with pytest.raises(ValueError, match="the result's shape"):
        act.CReLU().output_shape((2**59,))
    assert act.CReLU().output_shape((0, 6)) == (0, 12)


@each_dtype
def test_selu_overflows_where_its_value_does(dtype: Any, target: str) -> None:
    """The rounding of lambda does not decide: where lambda x rounds to the largest number, so does the value."""
    last = dtype(float.fromhex("0x1.e74b3p+127" if dtype == np.float32 else "0x1.e74b31afded6dp+1023"))
    largest = np.finfo(dtype).max
    with mpmath.workprec(200):
        exact = mpmath.mpf("1.0507009873554804934193349852946") * mpmath.mpf(float(last))
        beyond = mpmath.mpf(float(largest)) - mpmath.mpf(float(np.nextafter(largest, dtype(0))))
        assert abs(exact - mpmath.mpf(float(largest))) < beyond / 2
    x = np.full(40, last)
    assert_same_bits(fp.activations.SELU()(x), np.full(40, largest))
    assert np.isinf(fp.activations.SELU()(np.nextafter(x, dtype(np.inf)))).all()
