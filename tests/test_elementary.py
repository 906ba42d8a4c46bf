"""exp, expm1, log, log1p, erf: accuracy, special values, layouts, errors, the same bits everywhere."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from helpers import (
    FMA_TARGETS,
    LARGE,
    LAYOUTS,
    SANITIZER,
    TWO_VECTORS,
    Array,
    Out,
    assert_same_bits,
    assert_ulp,
    bit_patterns,
    each_dtype,
    extremes,
    laid_out,
    numbers,
    seeded,
    ulp_error_exact,
)

import fuseprop as fp

#: By name: the largest errors allowed, in float32 and float64.
BUDGETS = {"exp": (1.0, 2.0), "expm1": (1.0, 2.0), "log": (1.0, 2.0), "log1p": (1.0, 2.0), "erf": (1.5, 2.0)}
each_function = pytest.mark.parametrize("name", BUDGETS)


def exact(name: str, x: Array) -> Array:
    """The function in float64, for float32 numbers."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        result: Array = np.vectorize(math.erf)(wide) if name == "erf" else getattr(np, name)(wide)
    return result


@each_function
def test_float32_sweep(name: str, target: str) -> None:
    x = bit_patterns(3, 16411 if SANITIZER == "" else 262147)
    assert_ulp(getattr(fp.ops, name)(x), exact(name, x), BUDGETS[name][0], x)


@each_dtype
@each_function
def test_against_many_digits(name: str, dtype: Any, target: str) -> None:
    x = np.concatenate([numbers(700, dtype, seeded(name)), seeded(name, 1).uniform(-7, 7, 300).astype(dtype)])
    if name in ("log", "log1p"):
        x = np.abs(x)
    function = getattr(fp.ops, name)
    with mpmath.workdps(60):
        # An exponential of a huge number is not worth computing; infinity does for it.
        truth = [
            mpmath.inf if name in ("exp", "expm1") and v > 1e4 else getattr(mpmath, name)(mpmath.mpf(v))
            for v in np.maximum(x.astype(np.float64), -1e4).tolist()
        ]
    error = ulp_error_exact(function(x), truth)
    assert error.max() <= BUDGETS[name][dtype == np.float64], x[np.argmax(error)]


@each_dtype
def test_special_values(dtype: Any, target: str) -> None:
    inf, nan = np.inf, np.nan
    for name, pairs in {
        "exp": [(0, 1), (-0.0, 1), (inf, inf), (-inf, 0), (1e4, inf), (-1e4, 0)],
        "expm1": [(0, 0), (-0.0, -0.0), (inf, inf), (-inf, -1), (-1e4, -1)],
        "log": [(0, -inf), (-0.0, -inf), (1, 0), (inf, inf), (-1, nan), (-inf, nan)],
        "log1p": [(0, 0), (-0.0, -0.0), (-1, -inf), (-2, nan), (inf, inf), (-inf, nan)],
        "erf": [(0, 0), (-0.0, -0.0), (inf, 1), (-inf, -1), (30, 1)],
    }.items():
        x, y = np.array([*pairs, (nan, nan)], dtype).T.copy()
        assert_same_bits(getattr(fp.ops, name)(x), y, name)
        tiny = np.finfo(dtype).smallest_subnormal
        if name in ("expm1", "log1p"):
            assert_same_bits(getattr(fp.ops, name)(np.array([tiny, -tiny])), np.array([tiny, -tiny]), name)


@each_dtype
@each_function
def test_the_same_bits(name: str, dtype: Any) -> None:
    """On every target with fused multiply-add, on any number of threads, wherever an element stands."""
    x = np.concatenate([extremes(dtype), numbers(LARGE, dtype, seeded(name, "bits"))])
    function = getattr(fp.ops, name)
    expected = function(x)
    for target in FMA_TARGETS:
        with fp.simd_target(target):
            for threads in (1, 2, 16):
                with fp.num_threads(threads):
                    assert_same_bits(function(x), expected, f"{target}, {threads} threads")
            for n in range(TWO_VECTORS):
                assert_same_bits(function(x[5 : 5 + n]), expected[5 : 5 + n], target)


@each_dtype
@each_function
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(name: str, dtype: Any, layout: str) -> None:
    x = np.abs(numbers(35, dtype, seeded(name, "layouts"))).reshape(5, 7)
    function = getattr(fp.ops, name)
    expected = function(x)
    given = laid_out(x, layout)
    assert_same_bits(np.ascontiguousarray(function(given)), expected)
    for other in LAYOUTS:
        out = Out(other, x.shape, dtype)
        out.assert_received(function(given, out=out.array), expected, other)
    again = x.copy()
    assert function(again, out=again) is again
    assert_same_bits(again, expected)


@each_function
def test_other_inputs(name: str) -> None:
    function = getattr(fp.ops, name)
    assert isinstance(function(1), np.float64)
    assert_same_bits(function([1, 2]), function(np.array([1.0, 2.0])))
    assert function(np.zeros((0, 3), np.float32)).shape == (0, 3)
    for bad in (np.float16(1), 1j, "1", None, object()):
        with pytest.raises(TypeError, match="x"):
            function(bad)
    x = np.ones(8)
    frozen = np.ones(8)
    frozen.flags.writeable = False
    for out, message in (
        (np.ones(7), r"out.*\(7,\).*\(8,\)"),
        (np.ones(8, np.float32), "out.*float32.*float64"),
        (frozen, "out.*read-only|out.*writeable"),
    ):
        with pytest.raises(ValueError, match=message):
            function(x, out=out)
    buffer = np.ones(9)
    with pytest.raises(ValueError, match="overlap"):
        function(buffer[:8], out=buffer[1:])
