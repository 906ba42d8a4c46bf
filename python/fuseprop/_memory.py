"""Arrays that start on a cache line, parameters that know where their gradients are, changes that are made at once."""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat, starmap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray

_CACHE_LINE = 64

#: Goes through an iterator in one call of C. An interrupt, and a change of threads, come between two instructions of
#: Python: what the iterator does is done as a whole, or not at all, if it is made of C functions alone.
at_once: Callable[[Iterable[Any]], None] = deque(maxlen=0).extend


def set_attributes(owner: object, **values: object) -> None:
    """Set all of them at once."""
    at_once(map(setattr, repeat(owner), values.keys(), values.values()))


class Changes:
    """What is to change together: all of it, or, if something does not fit or an interrupt comes before, nothing.

    Who adds to it has checked that nothing can fail any more.
    """

    __slots__ = ("_arrays", "_attributes")

    def __init__(self) -> None:
        self._arrays: list[tuple[NDArray[Any], Any, NDArray[Any]]] = []
        self._attributes: list[tuple[object, str, Any]] = []

    def copy(self, target: NDArray[Any], source: NDArray[Any]) -> None:
        """Plan to write an array's values, as they are now, into one of the same shape."""
        # A copy, as it may be a view of a target; and plain arrays, as subclasses run Python code.
        self._arrays.append((np.asarray(target), ..., np.array(source, target.dtype)))

    def set(self, owner: object, name: str, value: object) -> None:
        """Plan to set an attribute."""
        self._attributes.append((owner, name, value))

    def make(self) -> None:
        """Change everything."""
        at_once(chain(starmap(operator.setitem, self._arrays), starmap(setattr, self._attributes)))


def aligned_zeros(shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros in C order that start on a cache line, so that full-width vector loads do not cross one."""
    raw = np.zeros(math.prod(shape) * dtype.itemsize + _CACHE_LINE, np.uint8)
    return _aligned_view(raw, shape, dtype)


def _aligned_view(raw: NDArray[np.uint8], shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.ndarray(tuple(shape), dtype, raw, -raw.ctypes.data % _CACHE_LINE)


class RowBuffer:
    """An array whose number of rows follows the batch; it keeps memory for the largest batch so far."""

    __slots__ = ("_current", "_memory")

    def __init__(self, sample_shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        self._memory = aligned_zeros((0, *sample_shape), dtype)
        self._current: NDArray[Any] = self._memory

    def holds(self, sample_shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
        """Whether it is one of such samples."""
        return self._memory.shape[1:] == sample_shape and self._memory.dtype == dtype

    def rows(self, n: int) -> NDArray[Any]:
        """Return the array with `n` rows; the same object again if `n` has not changed."""
        if len(self._current) != n:
            if len(self._memory) < n:
                self._memory = aligned_zeros((n, *self._memory.shape[1:]), self._memory.dtype)
            self._current = self._memory[:n]
        return self._current


class BatchBuffer:
    """An array that follows the shape of batches: `RowBuffer` for samples whose shape is seen when they come."""

    __slots__ = ("_current", "_rows")

    def __init__(self) -> None:
        self._current: NDArray[Any] = np.empty(0, np.uint8)
        self._rows: RowBuffer | None = None

    def like(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return the array with the batch's shape and dtype; the same object again if these have not changed."""
        return self.of(batch.shape, batch.dtype)

    def of(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the array with this shape and dtype."""
        current = self._current
        if current.shape == shape and current.dtype == dtype:
            return current
        # Not a look at `current`: an interrupt may have fallen between the two assignments.
        if self._rows is None or not self._rows.holds(shape[1:], dtype):
            self._rows = RowBuffer(shape[1:], dtype)
        self._current = self._rows.rows(shape[0])
        return self._current


class _LinkedMemory(np.ndarray[Any, np.dtype[Any]]):
    """The bytes that a network's parameters are views of.

    It owns them: NumPy sets the base of a view of a view to the owner, skipping what is between.
    """

    start: int  # address of the first parameter
    gradients: FloatArray


def linked_zeros(size: int, dtype: np.dtype[Any]) -> tuple[FloatArray, FloatArray]:
    """Flat parameters and gradients; `gradient_of` finds the second from any view of the first."""
    memory = _LinkedMemory((size * dtype.itemsize + _CACHE_LINE,), np.uint8)
    memory.fill(0)
    parameters: FloatArray = _aligned_view(memory, (size,), dtype)
    gradients: FloatArray = aligned_zeros((size,), dtype)
    memory.start, memory.gradients = parameters.ctypes.data, gradients
    return parameters, gradients


def gradient_of(parameter: FloatArray) -> FloatArray | None:
    """Return the gradients of a view of a network's parameters: the same view of its flat gradients."""
    owner = parameter.base
    while isinstance(owner, np.ndarray) and not isinstance(owner, _LinkedMemory):
        owner = owner.base
    if not isinstance(owner, _LinkedMemory) or owner.gradients.dtype != parameter.dtype:
        return None
    gradients, offset = owner.gradients, parameter.ctypes.data - owner.start
    if parameter.shape == gradients.shape and parameter.strides == gradients.strides and offset == 0:
        return gradients
    return np.ndarray(parameter.shape, parameter.dtype, gradients, offset, parameter.strides)
