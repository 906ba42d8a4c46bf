"""Checks of hyper-parameters; each error names the argument, what was found and what was expected."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The core holds parameters as float64, which are exact up to here.
_EXACT = 2**53
# NumPy's arrays have no more.
_MOST_AXES = 64
# Rows that are looked at at once.
_BLOCK = 1 << 16


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


def real_array(value: ArrayLike, name: str) -> NDArray[Any]:
    """`value` as an array of any real dtype (floats, integers, booleans); nothing is cast, an array is not copied.

    Anything else is a TypeError that says what to do: a masked array too, as its mask would be lost.
    """
    if _is_masked(value):
        raise refusal(value, name)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise refusal(value, name, error) from error
    if array.dtype.kind not in "buif":
        raise refusal(value, name, array)
    return array


def float_array(value: ArrayLike, name: str) -> NDArray[Any]:
    """`value` as an array of float32 or float64; integers and booleans become float64, other dtypes are a TypeError."""
    array = real_array(value, name)
    if array.dtype.kind != "f":
        return array.astype(np.float64)
    if array.dtype not in (np.float32, np.float64):
        raise refusal(value, name, array)
    return array


def refusal(value: Any, name: str, found: NDArray[Any] | Exception | None = None) -> TypeError:
    """Return the error for an argument that cannot be taken as an array of numbers, with what to do about it.

    Parameters
    ----------
    value
        What was given.
    name
        What messages call it.
    found
        The array of another dtype that it makes, or what went wrong in making one.
    """
    if value is None:
        return TypeError(f"{name} is None; expected an array")
    if isinstance(value, np.ndarray) and _is_masked(value):
        return TypeError(
            f"{name} is a masked array, whose mask would be lost: give {name}.filled(value), or leave masked rows out"
        )
    if _is_masked(value):
        return TypeError(f"{name} holds masked arrays, whose masks would be lost: fill them, or leave masked rows out")
    kind = type(value).__name__
    if isinstance(value, (str, bytes)):
        return TypeError(f"{name} is a {kind}; expected an array of numbers")
    if type(value).__module__.partition(".")[0] == "torch" and (ways := _ways_to_numpy(value)):
        return TypeError(
            f"{name} is a tensor that NumPy cannot take ({', '.join(ways)}): give {name}{''.join(ways.values())}"
        )
    if hasattr(value, "toarray"):
        return TypeError(f"{name} is sparse ({kind}); expected a dense array: give {name}.toarray()")
    if isinstance(found, Exception):
        if "inhomogeneous" in str(found):
            return TypeError(f"{name} is a ragged {kind}: its items differ in length{_lengths(value)}")
        return TypeError(f"{name} of type {kind} cannot be made an array of numbers: {found}")
    if found is None or (found.ndim == 0 and found.dtype == object and not isinstance(value, np.ndarray)):
        return TypeError(f"{name} of type {kind} cannot be made an array of numbers")
    array = name if hasattr(value, "astype") else f"np.asarray({name})"
    return TypeError(
        f"{name} has dtype {found.dtype}; expected float32 or float64 (integers and booleans are converted): "
        f"{_advice(found, array)}"
    )


def _is_masked(value: Any, depth: int = 0) -> bool:
    """Whether it is a masked array, or a list with one somewhere."""
    if isinstance(value, (list, tuple)) and depth < _MOST_AXES:
        return any(_is_masked(item, depth + 1) for item in value)
    return isinstance(value, np.ndarray) and type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray)


def _ways_to_numpy(tensor: Any) -> dict[str, str]:
    """Return what keeps PyTorch's tensor from being an array, and the method that ends it."""
    ways = {
        "it requires grad": (tensor.requires_grad, ".detach()"),
        f"on the device {tensor.device}": (tensor.device.type != "cpu", ".cpu()"),
        f"of layout {tensor.layout}": (str(tensor.layout) != "torch.strided", ".to_dense()"),
        "a lazy conjugate": (tensor.is_conj(), ".resolve_conj()"),
        "a lazy negative": (tensor.is_neg(), ".resolve_neg()"),
        f"of dtype {tensor.dtype}": (tensor.is_floating_point() and tensor.dtype.itemsize < 4, ".float()"),
    }
    return {what: method for what, (is_so, method) in ways.items() if is_so}


def _lengths(value: Any) -> str:
    """Return where the items of a ragged list first differ, if it is on the first level."""
    if not isinstance(value, (list, tuple)):
        return ""
    sizes = [len(item) if isinstance(item, (list, tuple, np.ndarray)) else None for item in value]
    for i, size in enumerate(sizes):
        if size != sizes[0] and size is not None and sizes[0] is not None:
            return f", {sizes[0]} in [0] and {size} in [{i}]"
    return ""


def _advice(array: NDArray[Any], name: str) -> str:
    """Return what makes an array of another dtype one of real numbers."""
    dtype = array.dtype
    if dtype.names:
        return f"take its fields one by one, {name}[{dtype.names[0]!r}]"
    if dtype.kind == "c":
        return f"take {name}.real, or np.abs({name})"
    if dtype.kind == "M":
        return f"count from a date, ({name} - {name}.min()) / np.timedelta64(1, 'D')"
    if dtype.kind == "m":
        return f"divide it by a unit, {name} / np.timedelta64(1, 's')"
    if dtype.kind in "UST":
        return f"read numbers with {name}.astype(float), count classes with np.unique({name}, return_inverse=True)[1]"
    if dtype.kind == "O":
        for at, item in zip(np.ndindex(array.shape), array.flat, strict=True):
            if not isinstance(item, (numbers.Real, np.number)):
                return f"its element {list(at)} is of type {type(item).__name__}"
        return f"its elements are numbers, so cast it with {name}.astype(float)"
    if dtype.type is np.void:
        return "these are bytes without a meaning as numbers"
    return f"cast it with {name}.astype(np.float32)"


def class_weights(value: ArrayLike, name: str) -> NDArray[np.float64]:
    """`value` as a read-only copy: one finite number >= 0 for each class, not all of them 0."""
    array = real_array(value, name)
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


def unmasked(value: Any, name: str) -> None:
    """Raise a TypeError for a masked array, or a list of some, where others are taken as they are."""
    if _is_masked(value):
        raise refusal(value, name)


def training_weights(
    weights: NDArray[Any], name: str, dtype: np.dtype[Any] | None = None, *, owner: str = "", some: bool = False
) -> None:
    """Refuse weights of samples that are negative or not finite, in scikit-learn's words, and say which one it is.

    Losses take negative weights, for what they mean mathematically; a model that is trained with them runs away from
    these samples without bound.

    Parameters
    ----------
    weights
        The weights, in the dtype in which they came.
    name
        What messages call them.
    dtype
        The one in which they are used: there they must be finite, too, and those > 0 must stay so. None: their own.
    owner
        Whose they are, " of validation_data".
    some
        Whether weights that are all 0 are refused, with which there is nothing to learn.
    """
    dtype = weights.dtype if dtype is None else dtype
    is_some = False
    with np.errstate(over="ignore", under="ignore"):  # that is what is looked for
        # Weights may be memory-mapped.
        for begin in range(0, len(weights) if weights.ndim else 0, _BLOCK):
            block = weights[begin : begin + _BLOCK]
            cast = block.astype(dtype, copy=False)
            if cast.size == 0 or (cast.min() > 0 and cast.max() < np.inf):
                is_some |= cast.size > 0
                continue
            wrong = ~(np.isfinite(cast) & (block >= 0) & ((cast > 0) == (block > 0)))
            if wrong.any():
                place = tuple(map(int, np.argwhere(wrong)[0]))
                found, used = block[place].item(), cast[place].item()
                words = f"Negative values in data passed to `{name}`: " if found < 0 else ""
                words += f"{name}{[begin + place[0], *place[1:]]}{owner} is {found:g}{_as_another(found, used, dtype)}"
                raise ValueError(f"{words}; expected finite numbers >= 0")
            is_some |= bool(cast.any())
    if some and not is_some:
        raise ValueError(f"{name}{owner} has only zeros; expected at least one number > 0")


def _as_another(found: float, used: float, dtype: np.dtype[Any]) -> str:
    """Say what a number is in the dtype in which it is used, if it is infinite or 0 in that one alone."""
    return f", {used:g} as {dtype}" if math.isinf(used) != math.isinf(found) or (used == 0) != (found == 0) else ""


def weight_of_class(value: Any, name: str, dtype: np.dtype[Any]) -> float:
    """`value` as a finite float >= 0 that is so in this dtype, too, and not 0 there alone."""
    number = real(value, name, least=0.0)
    with np.errstate(over="ignore", under="ignore"):
        note = _as_another(number, float(dtype.type(number)), dtype)
    if note:
        raise ValueError(f"{name} is {number:g}{note}; expected a finite number >= 0")
    return number


def complete(state: Mapping[str, Any], name: str, needed: Iterable[str]) -> None:
    """Refuse a dict in which an entry is missing."""
    missing = [entry for entry in needed if entry not in state]
    if missing:
        raise ValueError(f"{name} does not fit: missing are {missing}")


def choice(value: str, name: str, choices: Sequence[str]) -> str:
    """`value`, which must be one of the choices."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, found {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected {' or '.join(map(repr, choices))}")
    return value


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the known names that `name` may be meant to be, the nearest first."""
    import difflib  # noqa: PLC0415  # for errors alone

    return difflib.get_close_matches(name, known)
