"""Checks of hyper-parameters; each error names the argument, what was found and what was expected."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, SupportsFloat, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The core holds parameters as float64, which are exact up to here.
_EXACT = 2**53


def real(
    value: SupportsFloat | SupportsIndex,
    name: str,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """`value` as a finite float with above < value < below and least <= value <= most."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a number, found {type(value).__name__}")
    try:
        number = float(value)
    except TypeError:
        raise TypeError(f"{name} must be a number, found {type(value).__name__}") from None
    except OverflowError:  # an integer beyond the largest float
        number = math.inf if cast(Any, value) > 0 else -math.inf
    if not (math.isfinite(number) and above < number < below and least <= number <= most):
        limits = [
            f"{sign} {limit:g}"
            for sign, limit in ((">", above), (">=", least), ("<=", most), ("<", below))
            if math.isfinite(limit)
        ]
        expected = " ".join(["a finite number", " and ".join(limits)]).strip()
        raise ValueError(f"{name} is {number!r}; expected {expected}")
    return number


def integer(value: SupportsIndex, name: str, *, least: int | None = None, most: int | None = None) -> int:
    """`value` as an int with least <= value <= most."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, found {type(value).__name__}") from None
    if (least is not None and number < least) or (most is not None and number > most):
        limits = " and ".join(f"{sign} {limit}" for sign, limit in ((">=", least), ("<=", most)) if limit is not None)
        found = str(number) if number.bit_length() < 128 else f"an integer of {number.bit_length()} bits"
        raise ValueError(f"{name} is {found}; expected an integer {limits}")
    return number


def flag(value: bool, name: str) -> bool:
    """`value`, which must be True or False, Python's or NumPy's."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a bool, True or False, found {type(value).__name__}")
    return bool(value)


def axis(value: SupportsIndex) -> int:
    """`value` as an int that the core can hold; whether an array has this axis is seen when there is one."""
    return integer(value, "axis", least=-_EXACT, most=_EXACT)


def class_weights(value: ArrayLike, name: str) -> NDArray[np.float64]:
    """`value` as a read-only copy: one finite number >= 0 for each class, not all of them 0."""
    array = np.asarray(value)
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be an array of numbers, found {type(value).__name__} of dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; expected (C,), one number for each class")
    weights = array.astype(np.float64)
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(f"{name}[{first}] is {float(weights[first])!r}; expected a finite number >= 0")
    if not weights.any():
        found = "has only zeros" if weights.size else "is empty"
        raise ValueError(f"{name} {found}; expected at least one number > 0")
    weights.flags.writeable = False
    return weights


def choice(value: str, name: str, choices: Sequence[str]) -> str:
    """`value`, which must be one of the choices."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, found {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected {' or '.join(map(repr, choices))}")
    return value
