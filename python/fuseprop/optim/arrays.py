"""What an optimizer updates: a model, an array, a list or a dict of arrays, and gradients in the same arrangement."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from fuseprop._checks import unmasked
from fuseprop._memory import gradient_of

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray


@runtime_checkable
class Model(Protocol):
    """What an optimizer needs of a model: all parameters in one array and their gradients in another."""

    @property
    def flat_parameters(self) -> FloatArray:
        """The parameters; one array for the model's whole life."""

    @property
    def flat_gradients(self) -> FloatArray:
        """The gradients, in the same order; one array for the model's whole life."""


Arrays: TypeAlias = "Model | FloatArray | Sequence[FloatArray] | Mapping[str, FloatArray]"
#: Arrays or groups of them; a list of both is refused. One Sequence, as type checkers cannot choose between two of them
#: for a list of dicts that is written out in the call.
Params: TypeAlias = "Model | FloatArray | Sequence[FloatArray | Mapping[str, Any]] | Mapping[str, FloatArray]"


def describe(value: object) -> str:
    """Return what `value` is, for messages."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {list(value)}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an object of type {type(value).__name__}"


def walk(given: Any, name: str, more: str = "") -> tuple[list[Any], list[str]]:
    """Return the arrays of a model, an array, a list or a dict of arrays, and the name of each for messages.

    A model counts as its gradients if it is given as "grads", else as its parameters. `more` is what is taken besides.
    """
    if isinstance(given, np.ndarray):
        return [given], [name]
    if isinstance(given, Mapping):
        return list(given.values()), [f"{name}[{key!r}]" for key in given]
    if isinstance(given, list | tuple):
        return list(given), [f"{name}[{i}]" for i in range(len(given))]
    if isinstance(given, Model):
        return [given.flat_gradients if name == "grads" else given.flat_parameters], [name]
    raise TypeError(f"{name} must be a model, an array, a list or a dict of arrays{more}, found {describe(given)}")


class Structure:
    """How the arrays of `params` are arranged; finds the gradients in an equal arrangement."""

    __slots__ = ("_model", "_shapes", "arrays", "keys", "names", "places")

    def __init__(self, params: Arrays, name: str) -> None:
        self.arrays: list[FloatArray]
        self.arrays, self.names = walk(params, name, ", or a list of groups")
        self.places = [place.removeprefix(name) for place in self.names]
        self.keys: list[str] | int | None = None
        self._model: Model | None = None
        if isinstance(params, Mapping):
            self.keys = list(params)
        elif isinstance(params, list | tuple):
            self.keys = len(params)
        elif not isinstance(params, np.ndarray):
            self._model = params  # type: ignore[assignment]  # what is left of those that `walk` takes
        for array, array_name in zip(self.arrays, self.names, strict=True):
            _check_parameter(array, array_name)
        self._shapes = [array.shape for array in self.arrays]

    def gradients(self) -> tuple[FloatArray, ...] | None:
        """Return the gradients that a model keeps for these parameters, or None if they are no model's."""
        if self._model is not None:
            return (self._model.flat_gradients,)
        found = [gradient_of(array) for array in self.arrays]
        known = tuple(gradient for gradient in found if gradient is not None)
        return known if len(known) == len(found) else None

    def match(self, grads: Any, name: str) -> Sequence[FloatArray]:
        """Return the arrays of `grads` in the order of the parameters; checks the arrangement alone."""
        keys = self.keys
        if keys is None:
            if isinstance(grads, np.ndarray):
                return (grads,)
            if isinstance(grads, Model):
                return (grads.flat_gradients,)
            expected = "one array, as params is"
        elif isinstance(keys, int):
            if isinstance(grads, list | tuple) and len(grads) == keys:
                return grads
            expected = f"a list of {keys} arrays, as params is"
        else:
            if isinstance(grads, Mapping) and grads.keys() == set(keys):
                return [grads[key] for key in keys]
            expected = f"a dict with the keys {keys}, as params is"
        raise ValueError(f"{name} is {describe(grads)}; expected {expected}")

    def check_bound(self) -> None:
        """Check that the parameters are what they were, as the core does it at a step."""
        for array, shape, name in zip(self.arrays, self._shapes, self.names, strict=True):
            if array.shape != shape:
                raise ValueError(f"{name} has got shape {array.shape}; expected {shape}, as it was bound")
            _check_parameter(array, name)

    def for_copy(self) -> Arrays:
        """Return what it was made of, if a copy of that is the same again: arrays of their own memory, or a model."""
        if self._model is not None:
            return self._model
        self.check_bound()
        for array, name in zip(self.arrays, self.names, strict=True):
            if gradient_of(array) is not None:
                raise TypeError(
                    f"{name} is a view of a model's parameters, which its copy would not be: make the optimizer for "
                    "the model itself, or keep its state_dict()"
                )
            if _is_part(array):
                raise TypeError(
                    f"{name} is a view of another array, which its copy would not be: make the optimizer for arrays of "
                    "their own memory (.copy()), or keep its state_dict()"
                )
        if self.keys is None:
            return self.arrays[0]
        return list(self.arrays) if isinstance(self.keys, int) else dict(zip(self.keys, self.arrays, strict=True))

    def check(self, grads: Sequence[FloatArray], name: str) -> None:
        """Check each gradient against its parameter, as the core does it at a step."""
        for parameter, place, grad in zip(self.arrays, self.places, grads, strict=True):
            grad_name = name + place
            if not isinstance(grad, np.ndarray):
                raise TypeError(f"{grad_name} must be a NumPy array, found {describe(grad)}")
            unmasked(grad, grad_name)
            if grad.dtype != parameter.dtype:
                raise TypeError(
                    f"{grad_name} has dtype {grad.dtype}; expected its parameter's, {parameter.dtype}: "
                    f"cast it with .astype(np.{parameter.dtype})"
                )
            if grad.shape != parameter.shape:
                raise ValueError(f"{grad_name} has shape {grad.shape}; expected its parameter's, {parameter.shape}")


def _is_part(array: FloatArray) -> bool:
    """Whether its memory is another array's; memory that is no array's, of bytes or a file, it may have for itself."""
    owner: Any = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner is not array and bool(owner.flags.owndata)


def _check_parameter(array: object, name: str) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, found {describe(array)}")
    unmasked(array, name)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} has dtype {array.dtype}; expected float32 or float64")
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned):
        raise ValueError(
            f"{name} has shape {array.shape} and strides {array.strides}; it is updated in place and must be "
            "C-contiguous and aligned"
        )
    if not flags.writeable:
        raise ValueError(f"{name} is read-only; it is updated in place")


def check_apart(arrays: Sequence[FloatArray], names: Sequence[str]) -> None:
    """Check that no two share memory: contiguous arrays do only if two neighbours do."""
    if not arrays:
        raise ValueError("params is empty; expected at least one array")
    begins = [array.ctypes.data for array in arrays]
    spans = sorted((at, at + a.nbytes, name) for at, a, name in zip(begins, arrays, names, strict=True) if a.nbytes)
    for (_, end, name), (start, stop, other) in itertools.pairwise(spans):
        if start < min(end, stop):
            raise ValueError(f"{name} and {other} share memory; each parameter must be its own")
