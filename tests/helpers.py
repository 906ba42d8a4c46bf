"""What the tests share: cases from the registry, sample data, memory layouts, and measures of error.

Everything here follows the registry: a formula that is added to it is tested without a change to the tests.
"""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

import fuseprop as fp
from fuseprop import _registry
from fuseprop._registry import LossSpec, Spec

Array = NDArray[Any]
Parameters = Mapping[str, Any]

FLOATS = (np.float32, np.float64)
TARGETS: list[str] = fp.build_info()["supported_targets"]
#: The targets whose results must be the same bits.
FMA_TARGETS = [target for target in TARGETS if target in ("AVX2", "AVX3", "NEON")]
#: "" in a normal build. Under a sanitizer the heavy sweeps take fewer points; nothing is left out.
SANITIZER: str = fp.build_info()["sanitizer"]

#: The elementwise activations, and those of another structure.
ACTIVATIONS = [spec for spec in _registry.activations().values() if spec.structure == "elementwise"]
STRUCTURED = [spec for spec in _registry.activations().values() if spec.structure != "elementwise"]
_OF_PRED = [spec for spec in _registry.losses().values() if spec.inputs == ("pred", "target")]
#: Sums over elements, with two derivatives; and what is no such sum, or has no derivatives.
LOSSES = [spec for spec in _OF_PRED if spec.per_sample and not spec.over_classes]
METRICS = [spec for spec in _OF_PRED if spec.kind_of_value == "metric"]
ROOTS = [spec for spec in _OF_PRED if spec.kind_of_value == "root"]
#: Losses over classes: of labels or distributions; of one of these only; and of a dense layer's input and weight.
OVER_PRED = [spec for spec in _OF_PRED if spec.over_classes]
CLASS_LOSSES = [spec for spec in OVER_PRED if spec.target_domain == "classes"]
ROW_LOSSES = [spec for spec in OVER_PRED if spec.target_domain != "classes"]
LAYER_LOSSES = [spec for spec in _registry.losses().values() if spec not in _OF_PRED]
MARGIN_LOSSES = [spec for spec in LAYER_LOSSES if spec.target_domain == "labels"]
LINEAR_LOSSES = [spec for spec in LAYER_LOSSES if spec.target_domain == "classes"]
OPTIMIZERS = list(_registry.optimizers().values())

#: More elements than a second thread is worth (49152), not a multiple of anything.
LARGE = 100_003
#: Two of the widest vectors and one element, for every dtype: 2 * 64 / 4 + 1.
TWO_VECTORS = 33


def cases(specs: Iterable[Spec]) -> list[Any]:
    """pytest parameters (spec, parameters): each formula with its defaults and each of its examples."""
    return [
        pytest.param(spec, parameters, id="-".join([spec.name, *(f"{k}={v}" for k, v in parameters.items())]))
        for spec in specs
        for parameters in (spec.parameters, *spec.examples)
    ]


each_activation = pytest.mark.parametrize(("spec", "parameters"), cases(ACTIVATIONS))
each_structured = pytest.mark.parametrize(("spec", "parameters"), cases(STRUCTURED))
each_loss = pytest.mark.parametrize(("spec", "parameters"), cases(LOSSES))
each_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=["float32", "float64"])


def seeded(*key: object) -> np.random.Generator:
    """A generator that depends on the test's case alone."""
    return np.random.default_rng(list(repr(key).encode()))


# --- truth --------------------------------------------------------------------------------------------------


def rounded(parameters: Parameters, dtype: DTypeLike) -> dict[str, Any]:
    """The parameters that a kernel of this dtype computes with; options are as they were."""
    to = np.dtype(dtype).type
    return {name: float(to(value)) if isinstance(value, float) else value for name, value in parameters.items()}


def widened(x: Array) -> Array:
    """float64 in extended precision, where the machine has it, so that a reference is exact to dtype; or x."""
    return x.astype(np.longdouble) if x.dtype == np.float64 else x


#: Losses with a complement of a parameter, such as 1 - q, which is formed before anything is rounded.
COMPLEMENTS = ("quantile", "focal_with_logits", "tweedie")


def truth(spec: Spec, parameters: Parameters, *arrays: Array, dtype: DTypeLike | None = None) -> tuple[Array, ...]:
    """The reference in float64 (or wider, as the arrays are), for arrays and parameters of `dtype`."""
    dtype = arrays[0].dtype if dtype is None else dtype
    # Where 1 minus a parameter matters, it is that of the parameter as given.
    if spec.name not in COMPLEMENTS:
        parameters = rounded(parameters, dtype)
    with np.errstate(all="ignore"):
        wide = [array if array.dtype == np.longdouble else array.astype(np.float64) for array in arrays]
        results: tuple[Array, ...] = spec.reference(*wide, **parameters)
    return results


class Exact(np.ndarray[Any, Any]):
    """Arrays of mpmath numbers that the references can be evaluated on, with 50 digits."""

    FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
        np.exp: mpmath.exp,
        np.expm1: mpmath.expm1,
        np.log: mpmath.log,
        np.log1p: mpmath.log1p,
        np.sqrt: mpmath.sqrt,
        np.sinh: mpmath.sinh,
        np.cosh: mpmath.cosh,
        np.tanh: mpmath.tanh,
        np.isnan: mpmath.isnan,
        np.isinf: mpmath.isinf,
        np.isfinite: mpmath.isfinite,
        np.sign: mpmath.sign,
    }

    @staticmethod
    def of(values: Iterable[Any]) -> Exact:
        numbers = [mpmath.mpf(float(value)) for value in values]
        result = np.empty(len(numbers), object)
        result[:] = numbers
        return result.view(Exact)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = [np.asarray(x) for x in inputs]
        if ufunc in self.FUNCTIONS:
            function = np.frompyfunc(self.FUNCTIONS[ufunc], 1, 1)
            result = function(plain[0])
            return np.asarray(result, bool) if ufunc in (np.isnan, np.isinf, np.isfinite) else _exact(result)
        return _exact(getattr(ufunc, method)(*plain, **kwargs))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _exact(super().__array_function__(function, (np.ndarray,), args, kwargs))


def _exact(result: Any) -> Any:
    return result.view(Exact) if isinstance(result, np.ndarray) and result.dtype == object else result


def exact_truth(spec: Spec, parameters: Parameters, *arrays: Array) -> list[list[Any]]:
    """The reference, evaluated with 50 digits, as lists of mpmath numbers."""
    with mpmath.workdps(50), np.errstate(all="ignore"):
        results = spec.reference(*(Exact.of(array) for array in arrays), **parameters)
        return [[mpmath.mpf(value) for value in np.broadcast_to(result, arrays[0].shape)] for result in results]


# --- errors -------------------------------------------------------------------------------------------------


def unit(expected: Array, dtype: DTypeLike) -> Array:
    """The unit in the last place of `dtype` at these values, the smallest subnormal number at least."""
    info = np.finfo(dtype)
    _, exponent = np.frexp(np.where(np.isfinite(expected), expected, 1.0))
    exponent = np.clip(exponent - 1, info.minexp, info.maxexp - 1)
    return np.ldexp(np.ones(np.shape(expected), expected.dtype), exponent - info.nmant)


def ulp_error(actual: Array, expected: Array) -> Array:
    """Distance in units of the last place of actual's dtype. NaN and infinities are 0 if right and inf if wrong.

    `expected` is of higher precision; where it is beyond the largest number, only infinity is right, save in the
    half unit in which both round to each other.
    """
    actual = np.asarray(actual)
    dtype = actual.dtype
    largest = expected.dtype.type(np.finfo(dtype).max)
    with np.errstate(invalid="ignore", over="ignore"):
        wide = actual.astype(expected.dtype)
        too_large = np.abs(expected) > largest * (1 + np.finfo(dtype).eps / 4)
        beyond = np.where(too_large, np.sign(expected) * np.inf, expected)
        error = np.abs(wide - beyond) / unit(expected, dtype)
        same = (wide == beyond) | (np.isnan(wide) & np.isnan(expected))
    return np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf))


def ulp_error_exact(actual: Array, expected: list[Any]) -> Array:
    """Likewise, against mpmath numbers."""
    info = np.finfo(actual.dtype)
    errors = []
    with mpmath.workdps(50):
        for value, true in zip(actual.tolist(), expected, strict=True):
            if mpmath.isnan(true) or mpmath.isinf(true) or abs(true) > float(info.max) * (1 + info.eps / 4):
                limit = float("nan") if mpmath.isnan(true) else float("inf") * (1 if true > 0 else -1)
                right = value == limit or (math.isnan(value) and math.isnan(limit))
                errors.append(0.0 if right else float("inf"))
                continue
            exponent = mpmath.frexp(true)[1] - 1 if true else info.minexp
            ulp = mpmath.ldexp(1, max(exponent, int(info.minexp)) - int(info.nmant))
            errors.append(float(abs(mpmath.mpf(value) - true) / ulp) if np.isfinite(value) else float("inf"))
    return np.array(errors)


def assert_within(actual: Array, expected: Array, bound: Array | float, *inputs: Array, what: str = "") -> None:
    """abs(actual - expected) <= bound, with NaN and infinities where they are expected; names the worst element."""
    actual = np.asarray(actual)
    assert actual.shape == np.shape(expected), what
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(actual.astype(expected.dtype) - expected)
        same = (actual == expected.astype(actual.dtype)) | (np.isnan(actual) & np.isnan(expected))
        bad = ~same & ~(error <= bound)
        excess = np.where(bad, np.where(np.isnan(error), np.inf, error) / (bound + np.finfo(np.float64).tiny), 0.0)
    if np.any(bad):
        at = np.unravel_index(np.argmax(excess), actual.shape)
        where = [np.broadcast_to(x, actual.shape)[at] for x in inputs]
        raise AssertionError(
            f"{what}{list(map(int, at))}, {bad.sum()} of {bad.size} wrong: found {actual[at]!r}, expected "
            f"{expected[at]!r} +- {np.broadcast_to(bound, actual.shape)[at]:.3g}; inputs {where}"
        )


def assert_ulp(actual: Array, expected: Array, budget: float | Array, *inputs: Array, what: str = "") -> None:
    """ulp_error <= budget; names the worst element."""
    assert np.shape(actual) == np.shape(expected), what
    error = ulp_error(actual, expected)
    if np.any(error > budget):
        at = np.unravel_index(np.argmax(np.where(error > budget, error, 0.0)), np.shape(error))
        where = [x[at] for x in inputs]
        raise AssertionError(
            f"{what}{list(map(int, at))}: {error[at]:.3f} ULP, allowed are {np.broadcast_to(budget, error.shape)[at]}: "
            f"found {actual[at]!r}, expected {expected[at]!r}; inputs {where}"
        )


def assert_same_bits(actual: Any, expected: Any, what: str = "") -> None:
    """The same values to the bit, arrays or floats or tuples or dicts of them; NaNs compare as NaN."""
    if isinstance(expected, tuple):
        assert isinstance(actual, tuple), what
        assert len(actual) == len(expected), what
        for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
            assert_same_bits(a, e, f"{what}[{i}]")
        return
    assert type(actual) is type(expected), what
    if expected is None:
        return
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), what
        assert_same_bits(tuple(actual.values()), tuple(expected[name] for name in actual), what)
        return
    a, e = np.asarray(actual), np.asarray(expected)
    assert (a.dtype, a.shape) == (e.dtype, e.shape), what
    bits = f"u{a.itemsize}"
    differ = np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(e).view(bits)
    differ &= ~(np.isnan(a) & np.isnan(e)).reshape(differ.shape)
    if differ.any():
        at = np.argmax(differ)
        raise AssertionError(
            f"{what}: {differ.sum()} of {differ.size} differ, first at {at}: {a.ravel()[at]!r}, {e.ravel()[at]!r}"
        )


# --- data ---------------------------------------------------------------------------------------------------


def extremes(dtype: DTypeLike) -> Array:
    """Zeros, ones, subnormals, the smallest and largest numbers, infinities and NaN, of both signs."""
    info = np.finfo(dtype)
    sizes = [0.0, info.smallest_subnormal, 5 * info.smallest_subnormal, info.tiny, info.eps, 1e-30, 1e-5, 0.5, 1.0]
    sizes += [2.0, 10.0, 15.9, 20.0, 88.7, 88.8, 103.0, 110.0, 708.0, 745.0, 1e4, 1e30, 3e38, info.max, np.inf]
    with np.errstate(over="ignore"):
        x = np.array(sizes).astype(dtype)
    return np.concatenate([x, -x, np.array([np.nan], dtype)])


def numbers(n: int, dtype: DTypeLike, rng: np.random.Generator) -> Array:
    """Finite numbers: half of them of everyday size, half of any size from the smallest to the largest."""
    info = np.finfo(dtype)
    exponents = rng.uniform(info.minexp - info.nmant, info.maxexp - 0.01, n)
    sign = rng.choice([-1.0, 1.0], n)
    x = np.where(rng.random(n) < 0.5, 5.0 * rng.standard_normal(n), sign * np.exp2(exponents))
    return x.astype(dtype)


def targets_for(spec: LossSpec, shape: tuple[int, ...], dtype: DTypeLike, rng: np.random.Generator) -> Array:
    """Targets that the loss is defined for, whatever its parameters, with the edges of the domain among them."""
    domains = {spec.target_domain}
    if spec.targets_of is not None:
        domains |= {spec.targets_of(parameters) for parameters in spec.examples}
    domain = min(domains, key=["positive", "nonnegative", "nonzero", "unit", "sign", "real"].index)
    if domain == "unit":
        y = np.clip(rng.uniform(-0.3, 1.3, shape), 0.0, 1.0)
    elif domain == "sign":
        y = rng.choice([-1.0, 1.0], shape)
    else:
        y = rng.standard_normal(shape) * rng.choice([0.0, 1.0, 3.0], shape)
    if domain in ("nonnegative", "positive"):
        y = np.abs(y)
    if domain in ("nonzero", "positive"):
        y = np.where(y == 0, 0.25, y)
    return y.astype(dtype)


def number_of_classes(parameters: Parameters, default: int = 7) -> int:
    """How many classes pred must have with these parameters."""
    weights = parameters.get("class_weight")
    return default if weights is None else len(weights)


def row_targets(
    spec: LossSpec, parameters: Parameters, shape: tuple[int, ...], dtype: DTypeLike, rng: np.random.Generator
) -> Array:
    """Targets of a loss over classes: labels, or distributions with zeros in them."""
    if spec.target_domain == "labels":
        return np.asarray(rng.integers(0, shape[-1], shape[:-1]))
    y = rng.random(shape) * rng.choice([0.0, 1.0], shape)
    y[..., 0] += 0.1
    y /= y.sum(axis=-1, keepdims=True)
    domain = spec.target_domain if spec.targets_of is None else spec.targets_of({**spec.parameters, **parameters})
    with np.errstate(divide="ignore"):
        return (np.log(y) if domain == "log_distribution" else y).astype(dtype)


def row_predictions(spec: LossSpec, x: Array) -> Array:
    """x, or its softmax for a loss of probabilities."""
    if spec.pred_domain != "unit":
        return x
    e = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return np.asarray((e / e.sum(axis=-1, keepdims=True)).astype(x.dtype))


#: Targets that every loss of one prediction per target is defined for.
GOOD_TARGET = 1.0


def invalid_target(spec: LossSpec) -> list[float]:
    """Targets that the loss must refuse at its default parameters."""
    return spec.samples()[1]


def predictions_for(spec: LossSpec, x: Array) -> Array:
    """x where the loss takes any prediction; else folded into [0, 1], NaN apart."""
    if spec.pred_domain == "real":
        return x
    with np.errstate(divide="ignore", over="ignore"):
        size = np.abs(x)
        return np.where(size > 1, 1 / size, size).astype(x.dtype)


# --- memory layouts -----------------------------------------------------------------------------------------

_GUARD = 0x5A


def _guarded(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An array whose every byte is the guard."""
    base = np.empty(shape, dtype)
    base.reshape(-1).view(np.uint8)[:] = _GUARD
    return base


def _offset(elements: int, rows: int, cols: int, dtype: DTypeLike) -> tuple[Array, Array]:
    base = _guarded((rows * cols + elements + 3,), dtype)
    return base, base[elements : elements + rows * cols].reshape(rows, cols)


def _unaligned(rows: int, cols: int, dtype: DTypeLike) -> tuple[Array, Array]:
    base = _guarded((rows * cols * np.dtype(dtype).itemsize + 8,), np.uint8)
    return base, np.ndarray((rows, cols), dtype, buffer=base, offset=1)


def _all_of(base: Array, *steps: slice, transpose: bool = False) -> tuple[Array, Array]:
    view = base[steps] if steps else base
    return base, view.T if transpose else view


_EVERY = slice(None)
_Make = Callable[[int, int, Any], tuple[Array, Array]]

#: name -> function of (rows, cols, dtype) that makes (memory, a view of it with this shape).
LAYOUTS: dict[str, _Make] = {
    "c": lambda r, c, t: _all_of(_guarded((r, c), t)),
    "f": lambda r, c, t: _all_of(_guarded((c, r), t), transpose=True),
    "offset1": lambda r, c, t: _offset(1, r, c, t),
    "offset2": lambda r, c, t: _offset(2, r, c, t),
    "offset3": lambda r, c, t: _offset(3, r, c, t),
    "unaligned": _unaligned,
    "padded": lambda r, c, t: _all_of(_guarded((r, c + 5), t), _EVERY, slice(2, 2 + c)),
    "f_padded": lambda r, c, t: _all_of(_guarded((c, r + 3), t), _EVERY, slice(1, 1 + r), transpose=True),
    "step2": lambda r, c, t: _all_of(_guarded((r, 2 * c), t), _EVERY, slice(None, None, 2)),
    "every_other_row": lambda r, c, t: _all_of(_guarded((2 * r, c), t), slice(None, None, 2)),
    "reversed": lambda r, c, t: _all_of(_guarded((r, c), t), _EVERY, slice(None, None, -1)),
    "rows_reversed": lambda r, c, t: _all_of(_guarded((r, c), t), slice(None, None, -1)),
    "f_reversed": lambda r, c, t: _all_of(_guarded((c, r), t), _EVERY, slice(None, None, -1), transpose=True),
}


def laid_out(x: Array, layout: str) -> Array:
    """A copy of the two-dimensional x in this layout, read-only: inputs are never written."""
    view = LAYOUTS[layout](*x.shape, x.dtype)[1]
    view[...] = x
    view.flags.writeable = False
    return view


class Out:
    """An `out` of a layout, which knows whether something beside it was written."""

    def __init__(self, layout: str, shape: tuple[int, int], dtype: DTypeLike) -> None:
        self.memory, self.array = LAYOUTS[layout](*shape, dtype)

    def assert_received(self, returned: Array, expected: Array, what: str = "") -> None:
        """The result is this array, it holds what is expected, and nothing around it was touched."""
        assert returned is self.array, what
        assert_same_bits(np.ascontiguousarray(self.array), expected, what)
        self.array[...] = _guarded((1, 1), self.array.dtype)[0, 0]
        self.assert_untouched(what)

    def assert_untouched(self, what: str = "") -> None:
        """Nothing was written."""
        assert (np.ascontiguousarray(self.memory).view(np.uint8) == _GUARD).all(), f"{what}: written"


# --- processes ----------------------------------------------------------------------------------------------


def run_python(
    script: str, timeout: float = 60.0 if SANITIZER == "" else 300.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter, without our environment variables except those given."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FUSEPROP_", "OMP_NUM"))}
    if SANITIZER == "thread":  # the child of a fork may start threads
        env["TSAN_OPTIONS"] = env.get("TSAN_OPTIONS", "") + " die_after_fork=0"
    command = [sys.executable, "-W", "error", "-c", script]
    return subprocess.run(command, env=env | environment, capture_output=True, text=True, timeout=timeout, check=False)


def check_output(script: str, **environment: str) -> str:
    """The standard output of a script that must succeed."""
    done = run_python(script, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@functools.cache
def bit_patterns(start: int, step: int) -> Array:
    """float32 numbers from every step-th of the 2^32 bit patterns."""
    return np.arange(start, 1 << 32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
