"""What a run is given: samples, targets and weights, looked through once before the first step.

A batch's error would name a row of the shuffled batch, when parameters have moved already; these name the row of the
caller's array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuseprop import losses
from fuseprop._checks import real_array, unmasked
from fuseprop._registry import Domain, LossSpec

#: Elements that are looked at at once: what is computed of them stays in the cache.
_BLOCK = 1 << 16

#: Which finite numbers a domain has, and the words for it.
_DOMAINS: dict[Domain, tuple[Callable[[NDArray[Any]], NDArray[np.bool_]], str]] = {
    "real": (np.isfinite, "finite numbers"),
    "unit": (lambda y: (y >= 0) & (y <= 1), "values in [0, 1]"),
    "sign": (lambda y: np.abs(y) == 1, "-1 or 1"),
    "nonnegative": (lambda y: (y >= 0) & np.isfinite(y), "finite values >= 0"),
    "positive": (lambda y: (y > 0) & np.isfinite(y), "finite values > 0"),
    "nonzero": (lambda y: (y != 0) & np.isfinite(y), 'finite values other than 0, unless on_zero is "inf" or "skip"'),
    "distribution": (lambda y: (y >= 0) & (y <= 1), "values in [0, 1]"),
    "classes": (lambda y: (y >= 0) & (y <= 1), "values in [0, 1]"),
    "log_distribution": (lambda y: y <= 0, "logarithms of probabilities, <= 0"),
}


def target_array(y: ArrayLike, name: str, loss: object) -> NDArray[Any]:
    """Return targets as an array: of numbers, for a loss of the library."""
    if isinstance(loss, losses.Loss):
        return real_array(y, name)
    unmasked(y, name)
    return np.asarray(y)


def check_samples(x: NDArray[Any], dtype: np.dtype[Any], owner: str = "") -> None:
    """Refuse samples that are not finite in the model's dtype; `owner` says whose they are, " of validation_data"."""
    _check_values(x, dtype, np.isfinite, "x", owner, "expected finite numbers")


def check_targets(
    y: NDArray[Any], dtype: np.dtype[Any], loss: object, output_shape: tuple[int, ...], owner: str = ""
) -> None:
    """Refuse targets outside of what a loss of the library is defined for.

    What a loss of the user's own takes is not known.
    """
    if not isinstance(loss, losses.Loss):
        return
    spec = loss.spec
    if spec.over_classes:
        is_labels = _check_shape(y, spec, output_shape, owner)
        if is_labels:
            _check_labels(y, loss, output_shape[-1], owner)
            return
    domain = spec.domain_of_targets(loss._parameters)
    if domain in _DOMAINS:
        is_inside, words = _DOMAINS[domain]
        _check_values(y, dtype, is_inside, "y", owner, f"{spec.name} expects {words}")
    if spec.over_classes and domain != "log_distribution" and y.dtype.kind in "biu":
        _check_rows(y, loss, owner)


def _check_shape(y: NDArray[Any], spec: LossSpec, output_shape: tuple[int, ...], owner: str) -> bool:
    """Whether targets over classes are labels; other shapes than those of labels and distributions are refused."""
    shapes = {"labels": (len(y), *output_shape[:-1]), "distributions": (len(y), *output_shape)}
    if spec.target_domain != "classes":
        del shapes["distributions" if spec.target_domain == "labels" else "labels"]
    for kind, shape in shapes.items():
        if y.shape == shape:
            return kind == "labels"
    expected = ", or ".join(f"{shape} for {kind}" for kind, shape in shapes.items())
    raise ValueError(f"y{owner} has shape {y.shape}; {spec.name} expects {expected}")


def _check_labels(y: NDArray[Any], loss: losses.Loss, classes: int, owner: str) -> None:
    if y.dtype.kind not in "biu":
        for begin, block in _blocks(y):
            wrong = (block != np.trunc(block)) | np.isinf(block)  # a NaN is unequal, too
            if wrong.any():
                place, found = _place("y", begin, wrong, owner), _first(block, wrong)
                raise ValueError(f"{place} is {found}; {loss.spec.name} expects integer labels")
        raise TypeError(
            f"y{owner} has dtype {y.dtype}; {loss.spec.name} expects integer labels: all of these are whole numbers, "
            "give y.astype(int)"
        )
    ignored = loss._parameters.get("ignore_index")
    for begin, block in _blocks(y):
        inside = (block >= 0) & (block < classes)
        if ignored is not None:
            inside |= block == ignored
        if not inside.all():
            other = "" if ignored is None else f" or ignore_index = {ignored}"
            raise ValueError(
                f"{_place('y', begin, ~inside, owner)} is label {_first(block, ~inside)}; expected 0 to "
                f"{classes - 1}{other} (the model's output has C = {classes} classes)"
            )


def _check_rows(y: NDArray[Any], loss: losses.Loss, owner: str) -> None:
    """Refuse integers that are no distributions, as the loss does: labels may have such a shape."""
    for begin, block in _blocks(y):
        sums = block.sum(axis=-1, dtype=np.int64)
        if (sums != 1).any():
            place, found = _place("y", begin, sums != 1, owner), _first(sums, sums != 1)
            raise ValueError(f"{place} sums to {found}; {loss.spec.name} expects distributions, which sum to 1")


def _check_values(  # noqa: PLR0917  # what, how, and four words for the message
    array: NDArray[Any],
    dtype: np.dtype[Any],
    is_inside: Callable[[NDArray[Any]], NDArray[np.bool_]],
    name: str,
    owner: str,
    wanted: str,
) -> None:
    if array.dtype.kind in "biu" and is_inside is np.isfinite:
        return
    with np.errstate(over="ignore"):  # that is what is looked for
        for begin, block in _blocks(array):
            inside = is_inside(block.astype(dtype, copy=False))
            if not inside.all():
                value = _first(block, ~inside)
                cast = dtype.type(value)
                is_another = np.isinf(cast) != np.isinf(value) or (cast == 0) != (value == 0)
                note = f", {cast} as {dtype}" if is_another else ""
                raise ValueError(f"{_place(name, begin, ~inside, owner)} is {value}{note}; {wanted}")


def _blocks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Give the array in rows that are together of about `_BLOCK` elements, each with its first row's number."""
    rows = max(1, _BLOCK * len(array) // max(array.size, 1))
    for begin in range(0, len(array), rows):
        yield begin, array[begin : begin + rows]


def _place(name: str, begin: int, wrong: NDArray[np.bool_], owner: str) -> str:
    row, *rest = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
    return f"{name}[{', '.join(map(str, (begin + row, *rest)))}]{owner}"


def _first(block: NDArray[Any], wrong: NDArray[np.bool_]) -> Any:
    return block[np.unravel_index(int(wrong.argmax()), wrong.shape)].item()
