"""Initial values of parameters, drawn by NumPy Generators.

A weight has shape `(fan_in, fan_out)`. Each initialiser keeps the variance of what flows through a layer:

=================  =============================================  ==========================================
name               distribution                                   keeps
=================  =============================================  ==========================================
``he_normal``      N(0, 2 / fan_in)                               activations, behind ReLU-like functions
``he_uniform``     U(-a, a), a = sqrt(6 / fan_in)                 the same
``glorot_normal``  N(0, 2 / (fan_in + fan_out))                   activations and gradients, linear or tanh
``glorot_uniform`` U(-a, a), a = sqrt(6 / (fan_in + fan_out))     the same
``lecun_normal``   N(0, 1 / fan_in)                               activations, linear or SELU
``zeros``          0                                              for biases
=================  =============================================  ==========================================

Sources: He et al. 2015 (arXiv:1502.01852); Glorot and Bengio 2010; LeCun et al. 1998. As in PyTorch the
normal distributions are not truncated (Keras truncates them at two standard deviations); unlike PyTorch,
where a weight is `(out, in)`, fan_in is the first axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray

    Rng: TypeAlias = np.random.Generator | np.random.SeedSequence | int | None

__all__ = [
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "names",
    "zeros",
]

Initializer: TypeAlias = "Callable[..., FloatArray]"


def _float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    found = np.dtype(dtype)
    if found not in (np.float32, np.float64):
        raise TypeError(f"dtype is {found}; expected float32 or float64")
    return found


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    if not isinstance(shape, tuple | list):
        raise TypeError(f"shape must be a pair of integers, found {type(shape).__name__}")
    if len(shape) != 2 or not all(isinstance(n, int | np.integer) for n in shape) or min(shape) < 1:
        raise ValueError(f"shape is {tuple(shape)}; expected (fan_in, fan_out), both >= 1")
    return shape[0], shape[1]


def _normal(shape: Sequence[int], std: float, rng: Rng, dtype: DTypeLike) -> FloatArray:
    values: FloatArray = np.random.default_rng(rng).standard_normal(tuple(shape), dtype=_float_dtype(dtype).type)
    values *= std
    return values


def _uniform(shape: Sequence[int], bound: float, rng: Rng, dtype: DTypeLike) -> FloatArray:
    values: FloatArray = np.random.default_rng(rng).random(tuple(shape), dtype=_float_dtype(dtype).type)
    values -= 0.5
    values *= 2 * bound
    return values


def he_normal(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> FloatArray:
    """Draw from N(0, 2 / fan_in).

    Parameters
    ----------
    shape : (int, int)
        (fan_in, fan_out).
    rng : numpy.random.Generator, SeedSequence, int or None
        Where the numbers come from: a generator is advanced, anything else seeds a new one.
    dtype : float32 or float64
        Of the array returned.

    Raises
    ------
    ValueError
        If `shape` is not a pair of positive integers.
    TypeError
        If `dtype` is neither float32 nor float64.
    """
    return _normal(shape, math.sqrt(2 / _fans(shape)[0]), rng, dtype)


def he_uniform(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> FloatArray:
    """Draw from U(-a, a), a = sqrt(6 / fan_in). Arguments and errors as for `he_normal`."""
    return _uniform(shape, math.sqrt(6 / _fans(shape)[0]), rng, dtype)


def glorot_normal(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> FloatArray:
    """Draw from N(0, 2 / (fan_in + fan_out)). Arguments and errors as for `he_normal`."""
    return _normal(shape, math.sqrt(2 / sum(_fans(shape))), rng, dtype)


def glorot_uniform(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> FloatArray:
    """Draw from U(-a, a), a = sqrt(6 / (fan_in + fan_out)). Arguments and errors as for `he_normal`."""
    return _uniform(shape, math.sqrt(6 / sum(_fans(shape))), rng, dtype)


def lecun_normal(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> FloatArray:
    """Draw from N(0, 1 / fan_in). Arguments and errors as for `he_normal`."""
    return _normal(shape, math.sqrt(1 / _fans(shape)[0]), rng, dtype)


def zeros(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> FloatArray:
    """Zeros of any shape; `rng` is accepted and not used, so that all initialisers are called alike."""
    del rng
    values: FloatArray = np.zeros(tuple(shape), _float_dtype(dtype))
    return values


_BY_NAME: dict[str, Any] = {
    function.__name__: function
    for function in (he_normal, he_uniform, glorot_normal, glorot_uniform, lecun_normal, zeros)
}


def names() -> list[str]:
    """Return the names that `get` knows."""
    return list(_BY_NAME)


def get(name: str) -> Initializer:
    """Return the initialiser called `name`.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in _BY_NAME:
        raise ValueError(f"unknown initialiser {name!r}; known: {', '.join(_BY_NAME)}")
    function: Initializer = _BY_NAME[name]
    return function
