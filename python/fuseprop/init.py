"""Initial values of parameters, drawn by NumPy Generators.

A weight has shape `(fan_in, fan_out)`. The first seven keep the variance of what flows through a layer:

=================== ============================================== =======================================
name                distribution, at gain 1                        keeps
=================== ============================================== =======================================
``he_normal``       N(0, 2 / fan_in)                               activations, behind ReLU-like functions
``he_uniform``      U(-a, a), a = sqrt(6 / fan_in)                 the same
``glorot_normal``   N(0, 2 / (fan_in + fan_out))                   activations and gradients, linear or tanh
``glorot_uniform``  U(-a, a), a = sqrt(6 / (fan_in + fan_out))     the same
``lecun_normal``    N(0, 1 / fan_in)                               activations, linear or SELU
``lecun_uniform``   U(-a, a), a = sqrt(3 / fan_in)                 the same
``orthogonal``      rows or columns of a random orthogonal matrix  lengths, if fan_in = fan_out
``normal``          N(mean, std^2)
``uniform``         U(low, high)
``constant``        a number
``zeros``           0                                              for biases
=================== ============================================== =======================================

`xavier_normal`, `xavier_uniform`, `kaiming_normal` and `kaiming_uniform` are PyTorch's names of Glorot's and He's.
`gain` multiplies the standard deviation; `calculate_gain` says how much an activation needs. A layer takes an
initialiser with options so: ``Dense(64, 64, "tanh", init=fp.init.get("orthogonal", gain=1.6))``.

Sources: He et al. 2015 (arXiv:1502.01852); Glorot and Bengio 2010; LeCun et al. 1998; Saxe et al. 2014
(arXiv:1312.6120). As in PyTorch the normal distributions are not truncated (Keras truncates them at two standard
deviations); unlike PyTorch, where a weight is `(out, in)`, fan_in is the first axis.
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from fuseprop import activations
from fuseprop._checks import choice, integer, nearest, real
from fuseprop._listing import listing

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray

    Rng: TypeAlias = np.random.Generator | np.random.SeedSequence | int | None

__all__ = [
    "calculate_gain",
    "constant",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "names",
    "normal",
    "orthogonal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

__dir__ = listing(__all__)

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


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(shape, tuple | list):
        raise TypeError(f"shape must be a tuple of integers, found {type(shape).__name__}")
    return tuple(integer(n, f"shape[{i}]", least=0) for i, n in enumerate(shape))


def _largest(dtype: DTypeLike) -> float:
    """Return the largest number of the dtype."""
    return float(np.finfo(_float_dtype(dtype)).max)


def _scale(value: float, name: str, dtype: DTypeLike) -> float:
    """Check a gain or a standard deviation.

    No normal number that NumPy draws is beyond 14, and no gain is multiplied by more than sqrt(6): below 1 / 64 of the
    largest number the products stay below a half, which is left for the mean.
    """
    return real(value, name, least=0.0, most=_largest(dtype) / 64)


def _normal(shape: Sequence[int], std: float, rng: Rng, dtype: DTypeLike) -> FloatArray:
    values: FloatArray = np.random.default_rng(rng).standard_normal(_shape(shape), dtype=_float_dtype(dtype).type)
    values *= std
    return values


def _uniform(shape: Sequence[int], bound: float, rng: Rng, dtype: DTypeLike) -> FloatArray:
    values: FloatArray = np.random.default_rng(rng).random(_shape(shape), dtype=_float_dtype(dtype).type)
    values -= 0.5
    values *= 2 * bound
    return values


def _std(squared: float, fans: float, gain: float, dtype: DTypeLike) -> float:
    """Return the standard deviation gain * sqrt(squared / fans)."""
    return _scale(gain, "gain", dtype) * math.sqrt(squared / fans)


def _fan(shape: Sequence[int], mode: str) -> int:
    return _fans(shape)[("fan_in", "fan_out").index(choice(mode, "mode", ("fan_in", "fan_out")))]


Mode: TypeAlias = Literal["fan_in", "fan_out"]


def he_normal(
    shape: Sequence[int], *, gain: float = 1.0, mode: Mode = "fan_in", rng: Rng = None, dtype: DTypeLike = np.float32
) -> FloatArray:
    """Draw from N(0, gain^2 2 / fan).

    Parameters
    ----------
    shape : (int, int)
        (fan_in, fan_out).
    gain : float
        What the standard deviation is multiplied by, >= 0. For LeakyReLU with slope a: 1 / sqrt(1 + a^2). Unlike
        PyTorch's, the factor 2 for ReLU is not part of it.
    mode : "fan_in" or "fan_out"
        Which fan: the first keeps the activations' variance on the way forward, the second the gradients' on the way
        back.
    rng : numpy.random.Generator, SeedSequence, int or None
        Where the numbers come from: a generator is advanced, anything else seeds a new one.
    dtype : float32 or float64
        Of the array returned.

    Raises
    ------
    ValueError
        If `shape` is not a pair of positive integers, `gain` is negative or larger than 1 / 64 of the dtype's largest
        number, or `mode` is another one.
    TypeError
        If `dtype` is neither float32 nor float64.
    """
    return _normal(shape, _std(2, _fan(shape, mode), gain, dtype), rng, dtype)


def he_uniform(
    shape: Sequence[int], *, gain: float = 1.0, mode: Mode = "fan_in", rng: Rng = None, dtype: DTypeLike = np.float32
) -> FloatArray:
    """Draw from U(-a, a), a = gain sqrt(6 / fan). Arguments and errors as for `he_normal`."""
    return _uniform(shape, _std(6, _fan(shape, mode), gain, dtype), rng, dtype)


def glorot_normal(
    shape: Sequence[int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32
) -> FloatArray:
    """Draw from N(0, gain^2 2 / (fan_in + fan_out)). Arguments and errors as for `he_normal`."""
    return _normal(shape, _std(2, sum(_fans(shape)), gain, dtype), rng, dtype)


def glorot_uniform(
    shape: Sequence[int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32
) -> FloatArray:
    """Draw from U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)). Arguments and errors as for `he_normal`."""
    return _uniform(shape, _std(6, sum(_fans(shape)), gain, dtype), rng, dtype)


def lecun_normal(
    shape: Sequence[int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32
) -> FloatArray:
    """Draw from N(0, gain^2 / fan_in). Arguments and errors as for `he_normal`."""
    return _normal(shape, _std(1, _fans(shape)[0], gain, dtype), rng, dtype)


def lecun_uniform(
    shape: Sequence[int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32
) -> FloatArray:
    """Draw from U(-a, a), a = gain sqrt(3 / fan_in). Arguments and errors as for `he_normal`."""
    return _uniform(shape, _std(3, _fans(shape)[0], gain, dtype), rng, dtype)


def orthogonal(
    shape: Sequence[int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32
) -> FloatArray:
    """Draw `gain` times a matrix whose rows, or columns, whichever are fewer, are orthonormal: uniformly among these.

    The Q of the QR decomposition of normal numbers, with the signs that make R's diagonal positive; in float64, by
    NumPy's LAPACK, whose last bits may differ between machines. Arguments and errors as for `he_normal`.
    """
    fan_in, fan_out = _fans(shape)
    gain, found = _scale(gain, "gain", dtype), _float_dtype(dtype)
    numbers = np.random.default_rng(rng).standard_normal((max(fan_in, fan_out), min(fan_in, fan_out)))
    q, r = np.linalg.qr(numbers)
    q *= gain * np.where(np.diag(r) < 0, -1.0, 1.0)
    values: FloatArray = np.ascontiguousarray(q if fan_in >= fan_out else q.T, dtype=found)
    return values


def normal(
    shape: Sequence[int], *, mean: float = 0.0, std: float = 0.05, rng: Rng = None, dtype: DTypeLike = np.float32
) -> FloatArray:
    """Draw an array of any shape from N(mean, std^2).

    The defaults are Keras's (PyTorch's: mean 0, std 1): in a deep network the variance dies out or explodes with them.

    Parameters
    ----------
    shape : tuple of int
        Any.
    mean, std : float
        The mean, and the standard deviation, >= 0.
    rng, dtype
        As for `he_normal`.

    Raises
    ------
    ValueError
        If `std` is negative or larger than 1 / 64 of the dtype's largest number, the mean larger than 1 / 2 of it, or
        one of them NaN; or if a length is negative.
    TypeError
        If `shape` is not a tuple of integers, or `dtype` is neither float32 nor float64.
    """
    most = _largest(dtype) / 2
    std, mean = _scale(std, "std", dtype), real(mean, "mean", least=-most, most=most)
    values = _normal(shape, std, rng, dtype)
    values += mean
    return values


def uniform(
    shape: Sequence[int], *, low: float = -0.05, high: float = 0.05, rng: Rng = None, dtype: DTypeLike = np.float32
) -> FloatArray:
    """Draw an array of any shape from U(low, high).

    The defaults are Keras's (PyTorch's: 0 and 1): in a deep network the variance dies out or explodes with them.

    Parameters
    ----------
    shape : tuple of int
        Any.
    low, high : float
        The ends of the interval, low <= high.
    rng, dtype
        As for `he_normal`.

    Raises
    ------
    ValueError
        If `high` < `low`, an end is larger than 1 / 2 of the dtype's largest number, or NaN; or if a length is
        negative.
    TypeError
        If `shape` is not a tuple of integers, or `dtype` is neither float32 nor float64.
    """
    most = _largest(dtype) / 2  # so that high - low is finite
    low = real(low, "low", least=-most, most=most)
    high = real(high, "high", least=low, most=most)
    values = _uniform(shape, 0.5 * (high - low), rng, dtype)
    values += 0.5 * (low + high)
    return values


def constant(shape: Sequence[int], *, value: float = 0.0, rng: Rng = None, dtype: DTypeLike = np.float32) -> FloatArray:
    """Return an array of any shape, filled with `value`.

    A weight matrix is allowed, with a warning: all units of the layer compute the same and get the same gradients. In a
    hidden layer they stay equal, however long the training (symmetry). In an output layer it does no harm.

    Parameters
    ----------
    shape : tuple of int
        Any.
    value : float
        The number.
    rng
        Accepted and not used, so that all initialisers are called alike.
    dtype : float32 or float64
        Of the array returned.

    Raises
    ------
    ValueError
        If `value` is not finite in the dtype, or a length is negative.
    TypeError
        If `shape` is not a tuple of integers, or `dtype` is neither float32 nor float64.

    Warns
    -----
    UserWarning
        If the array is a matrix of more than one column.
    """
    del rng
    found, shape, largest = _float_dtype(dtype), _shape(shape), _largest(dtype)
    value = real(value, "value", least=-largest, most=largest)
    if len(shape) == 2 and shape[1] > 1:
        warnings.warn(
            f"weights of shape {shape} are all {value:g}: the units of a hidden layer then stay equal (symmetry); "
            "draw them at random",
            stacklevel=2,
        )
    values: FloatArray = np.full(shape, value, found)
    return values


def zeros(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> FloatArray:
    """Return zeros of any shape: `constant` with value 0, its warning for a matrix included; see `constant`."""
    return constant(shape, rng=rng, dtype=dtype)


xavier_normal, xavier_uniform = glorot_normal, glorot_uniform
kaiming_normal, kaiming_uniform = he_normal, he_uniform

_BY_NAME: dict[str, Any] = {
    function.__name__: function
    for function in (
        he_normal,
        he_uniform,
        glorot_normal,
        glorot_uniform,
        lecun_normal,
        lecun_uniform,
        orthogonal,
        normal,
        uniform,
        constant,
        zeros,
    )
}
_ALIASES: dict[str, Any] = {
    "kaiming_normal": he_normal,
    "kaiming_uniform": he_uniform,
    "xavier_normal": glorot_normal,
    "xavier_uniform": glorot_uniform,
}


def names() -> list[str]:
    """Return the names that `get` knows, without PyTorch's for the same."""
    return list(_BY_NAME)


def get(name: str, **options: Any) -> Initializer:
    """Return the initialiser called `name`, with these `options` bound to it: ``get("normal", std=0.1)``.

    Raises
    ------
    ValueError
        If there is none of that name.
    TypeError
        If it does not take an option; its values are checked when it is called.
    """
    known = _BY_NAME | _ALIASES
    if name not in known:
        near = nearest(str(name), known)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(_BY_NAME)}"
        raise ValueError(f"unknown initialiser {name!r}; {hint}")
    function: Initializer = known[name]
    takes = [option for option in inspect.signature(function).parameters if option not in ("shape", "rng", "dtype")]
    for option in options:
        if option not in takes:
            raise TypeError(f"{name} has no option {option!r}; expected {' or '.join(map(repr, takes)) or 'none'}")
    return functools.partial(function, **options) if options else function


def calculate_gain(activation: str | activations.Activation) -> float:
    """Return the gain with which `lecun_normal` keeps the mean square of what flows through layers of an activation.

    1 / sqrt(E f(z)^2) for z of the distribution N(0, 1): 1 for Identity, sqrt(2) for ReLU, sqrt(2 / (1 + a^2)) for
    LeakyReLU with the slope a, 1.5925 for Tanh, 1 for SELU. PyTorch has another one for tanh, 5/3, and for SELU, 3/4.
    (`he_normal` has ReLU's in it: its gain is this one divided by sqrt(2).)

    The integral is taken piece by piece between joints at 0, 1, 3, 6 and 12 and their negatives: for activations with
    a joint elsewhere (Hardtanh with other limits, say) the gain is off by about 1e-4 of it.

    Parameters
    ----------
    activation : str or Activation
        One of numbers, not along an axis. PReLU has its initial slope, RReLU the mean one.

    Raises
    ------
    ValueError
        If the name is not known, the activation works along an axis, or it is 0 throughout.
    """
    act = activations.get(activation) if isinstance(activation, str) else activation
    if not isinstance(act, activations.Activation):
        raise TypeError(f"activation must be an Activation or a name, found {type(activation).__name__}")
    if act.spec.structure == "axis":
        raise ValueError(f"activation is {act!r}, which works along an axis; expected one of numbers")
    # Gauss-Legendre quadrature.
    nodes, weights = np.polynomial.legendre.leggauss(64)
    joints = np.array([-12.0, -6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0, 12.0])
    half, middle = np.diff(joints)[:, np.newaxis] / 2, (joints[1:] + joints[:-1])[:, np.newaxis] / 2
    z = middle + half * nodes
    f = act(z, params=act.init_params(np.float64) or None)
    mean_square = float(np.sum(half * weights * f * f * np.exp(-0.5 * z * z))) / math.sqrt(2 * math.pi)
    if not mean_square > 0:
        raise ValueError(f"activation is {act!r}, which is 0 throughout: no gain helps")
    return 1 / math.sqrt(mean_square)
