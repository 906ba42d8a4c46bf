"""Activation functions, forward and backward, elementwise.

An activation is a small immutable object: its constructor takes the parameters, and

- ``act(x, out=None)`` is f(x),
- ``act.backward(x, dy, out=None)`` is dL/dx = dL/dy * f'(x), from the input x, not the output,
- ``act.derivative(x, out=None)`` is f'(x).

All take arrays of any shape and strides. float32 stays float32 and float64 stays float64; integers and booleans become
float64; any other dtype is a TypeError. ``out`` must have the input's shape and the result's dtype; it may be the input
itself (or ``dy``), any other overlap is a ValueError. A NaN gives NaN, in the derivative too; an infinity gives the
mathematical limit; subnormal numbers are not flushed. At the joint of a piecewise function the derivative is the left
one. Unlike PyTorch there is no graph: the caller keeps x.

To add one: the class with its Spec here, the functor and its row in csrc/kernels/activations, and the formula in
reference.py.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from fuseprop import _core, _registry
from fuseprop._checks import real
from fuseprop._formula import Formula
from fuseprop._registry import register
from fuseprop._typing import FloatArray

__all__ = [
    "Activation",
    "Identity",
    "LeakyReLU",
    "ReLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "get",
    "names",
]


class Activation(Formula, _core.Activation):
    """What all activations share; see the module's description.

    A call, ``act(x, out=None)``, goes to the core directly: it costs no Python frame.
    """

    __slots__ = ("_parameters",)

    def backward(self, x: ArrayLike, dy: ArrayLike, *, out: FloatArray | None = None) -> FloatArray:
        """dL/dx = dy * f'(x), for the input x and the gradient dy = dL/dy of the same shape and dtype."""
        if dy is None:
            raise TypeError("dy is None; expected an array (for f'(x) alone there is derivative)")
        return self._backward(x, dy, out)

    def derivative(self, x: ArrayLike, *, out: FloatArray | None = None) -> FloatArray:
        """f'(x), elementwise."""
        return self._backward(x, None, out)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result for an input of this shape."""
        return tuple(shape)


@register(
    "activation",
    "identity",
    aliases=("linear",),
    properties={
        "range": (float("-inf"), float("inf")),
        "monotone": True,
        "saturating": False,
        "zero_centred": True,
        "near_identity": True,
    },
)
class Identity(Activation):
    """f(x) = x, f'(x) = 1: the output layer of a regression. Exact."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register(
    "activation",
    "relu",
    properties={
        "range": (0.0, float("inf")),
        "monotone": True,
        "saturating": False,
        "zero_centred": False,
        "near_identity": False,
    },
)
class ReLU(Activation):
    """Rectified linear unit: f(x) = max(0, x), f'(x) = 1 if x > 0 else 0. Exact.

    f(-0) is 0 and f'(0) is 0, as in PyTorch. Source: Nair & Hinton (2010).
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register(
    "activation",
    "leaky_relu",
    parameters={"negative_slope": 0.01},
    examples=({"negative_slope": 0.3}, {"negative_slope": 2.5}, {"negative_slope": -0.5}),
    ulp=(1.0, 0.5, 1.0, 0.5),
    properties={
        "range": (float("-inf"), float("inf")),
        "monotone": True,
        "saturating": False,
        "zero_centred": False,
        "near_identity": False,
    },
)
class LeakyReLU(Activation):
    """Leaky ReLU: f(x) = x if x > 0 else a x; f'(x) = 1 if x > 0 else a.

    At most 1 ULP (a is rounded to the dtype). Piecewise for any slope a: with a > 1 it is not the maximum of x and a x.

    Parameters
    ----------
    negative_slope
        The slope a; any finite number. 0.01, as in PyTorch.

    Notes
    -----
    Source: Maas, Hannun & Ng (2013).
    """

    __slots__ = ()

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__(negative_slope=real(negative_slope, "negative_slope"))


@register(
    "activation",
    "sigmoid",
    ulp=(2.0, 4.0, 4.0, 4.0),
    aliases=("logistic",),
    properties={
        "range": (0.0, 1.0),
        "monotone": True,
        "saturating": True,
        "zero_centred": False,
        "near_identity": False,
    },
)
class Sigmoid(Activation):
    """Logistic sigmoid: f(x) = s(x) = 1 / (1 + e^-x), f'(x) = s(x) s(-x).

    At most 2 ULP (float64: 4), the derivative at most 4: no cancellation in either tail.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register(
    "activation",
    "tanh",
    ulp=(1.5, 4.0, 4.0, 4.0),
    properties={
        "range": (-1.0, 1.0),
        "monotone": True,
        "saturating": True,
        "zero_centred": True,
        "near_identity": True,
    },
)
class Tanh(Activation):
    """Hyperbolic tangent: f(x) = tanh x = 2 s(2x) - 1, f'(x) = 1 / cosh^2 x.

    At most 1.5 ULP (float64: 4), the derivative at most 4; PyTorch's 1 - tanh^2 loses all digits in the tails.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register(
    "activation",
    "softplus",
    parameters={"beta": 1.0},
    examples=({"beta": 0.3}, {"beta": 3.7}),
    ulp=(2.0, 4.0, 4.0, 4.0),
    properties={
        "range": (0.0, float("inf")),
        "monotone": True,
        "saturating": False,
        "zero_centred": False,
        "near_identity": False,
    },
)
class Softplus(Activation):
    """Smooth ReLU: f(x) = log(1 + e^(beta x)) / beta, f'(x) = s(beta x).

    At most 2 ULP (float64: 4) at beta = 1, the derivative at most 4, down to the smallest numbers in the left tail.
    Unlike PyTorch there is no threshold beyond which f(x) = x.

    Parameters
    ----------
    beta
        Sharpness, > 0.

    Notes
    -----
    Source: Dugas et al. (2001).
    """

    __slots__ = ()

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__(beta=real(beta, "beta", above=0.0))


def names() -> list[str]:
    """Return the names of all activations, for `get`."""
    return list(_registry.activations())


def get(name: str, **parameters: float) -> Activation:
    """Return the activation of this name, or alias, with these parameters.

    Raises
    ------
    ValueError
        If there is none of this name; the message says which ones are near.
    TypeError
        If the activation does not take a parameter that is given.
    """
    activation: Activation = _registry.find("activation", name).cls(**parameters)
    return activation
