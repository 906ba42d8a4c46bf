"""What an optimizer updates: a model, an array, a list or a dict of arrays, and gradients in the same arrangement."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from fuseprop._checks import refuse_masked
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


def describe(value: object) -> str:
    """Return what `value` is, for messages."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {list(value)}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an object of type {type(value).__name__}"


class Structure:
    """How the arrays of `params` are arranged; finds the gradients in an equal arrangement."""

    __slots__ = ("_model", "arrays", "keys", "names", "places")

    def __init__(self, params: Arrays, name: str) -> None:
        self._model: Model | None = None
        self.keys: list[str] | int | None = None
        if isinstance(params, np.ndarray):
            self.arrays, self.places = [params], [""]
        elif isinstance(params, Mapping):
            self.keys = list(params)
            self.arrays, self.places = list(params.values()), [f"[{key!r}]" for key in self.keys]
        elif isinstance(params, list | tuple):
            self.keys = len(params)
            self.arrays, self.places = list(params), [f"[{i}]" for i in range(len(params))]
        elif isinstance(params, Model):
            self._model = params
            self.arrays, self.places = [params.flat_parameters], [""]
        else:
            raise TypeError(
                f"{name} must be a model, an array, a list or a dict of arrays, or a list of groups, "
                f"found {describe(params)}"
            )
        self.names = [name + place for place in self.places]
        for array, array_name in zip(self.arrays, self.names, strict=True):
            _check_parameter(array, array_name)

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

    def check(self, grads: Sequence[FloatArray], name: str) -> None:
        """Check each gradient against its parameter, as the core does it at a step."""
        for parameter, place, grad in zip(self.arrays, self.places, grads, strict=True):
            grad_name = name + place
            if not isinstance(grad, np.ndarray):
                raise TypeError(f"{grad_name} must be a NumPy array, found {describe(grad)}")
            refuse_masked(grad, grad_name)
            if grad.dtype != parameter.dtype:
                raise TypeError(
                    f"{grad_name} has dtype {grad.dtype}; expected its parameter's, {parameter.dtype}: "
                    f"cast it with .astype(np.{parameter.dtype})"
                )
            if grad.shape != parameter.shape:
                raise ValueError(f"{grad_name} has shape {grad.shape}; expected its parameter's, {parameter.shape}")


def _check_parameter(array: object, name: str) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, found {describe(array)}")
    refuse_masked(array, name)
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
