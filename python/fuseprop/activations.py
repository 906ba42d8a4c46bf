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
from fuseprop._checks import choice, real
from fuseprop._formula import Formula
from fuseprop._registry import Parameter, register
from fuseprop._typing import FloatArray

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "SELU",
    "Activation",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "LeakyReLU",
    "LogSigmoid",
    "Mish",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Step",
    "Swish",
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
    "step",
    parameters={"at_zero": 1.0},
    examples=({"at_zero": 0.0}, {"at_zero": 0.5}),
    aliases=("heaviside", "binary_step"),
    properties={
        "range": (0.0, 1.0),
        "monotone": True,
        "saturating": True,
        "zero_centred": False,
        "near_identity": False,
    },
)
class Step(Activation):
    """Heaviside's step: f(x) = 0 if x < 0, at_zero if x = 0, 1 if x > 0; f'(x) = 0. Exact.

    Parameters
    ----------
    at_zero
        f(0), any finite number: 1 by default, 0 in the perceptron, 1/2 for the average of the limits.

    Notes
    -----
    The derivative is 0 everywhere, 0 included: nothing is learned through it by gradients.
    Source: McCulloch & Pitts (1943). As numpy.heaviside; PyTorch has it as torch.heaviside alone.
    """

    __slots__ = ()

    def __init__(self, at_zero: float = 1.0) -> None:
        super().__init__(at_zero=real(at_zero, "at_zero"))


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


@register(
    "activation",
    "elu",
    parameters={"alpha": 1.0},
    examples=({"alpha": 0.3}, {"alpha": 2.5}, {"alpha": -0.5}),
    ulp=(1.0, 1.0, 2.0, 2.0),
    properties={
        "range": (-1.0, float("inf")),
        "monotone": True,
        "saturating": False,
        "zero_centred": False,
        "near_identity": True,
    },
)
class ELU(Activation):
    """Exponential linear unit: f(x) = x if x > 0 else alpha (e^x - 1); f'(x) = 1 if x > 0 else alpha e^x.

    At most 1 ULP at alpha = 1, the derivative too (float64: 2). f'(0) is alpha.

    Parameters
    ----------
    alpha
        The limit at -inf is -alpha; any finite number. 1, as in PyTorch.

    Notes
    -----
    Source: Clevert, Unterthiner & Hochreiter (2016).
    """

    __slots__ = ()

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha=real(alpha, "alpha"))


@register(
    "activation",
    "selu",
    ulp=(2.0, 2.0, 3.0, 3.0),
    properties={
        "range": (-1.7580993408473766, float("inf")),
        "monotone": True,
        "saturating": False,
        "zero_centred": False,
        "near_identity": False,
    },
)
class SELU(Activation):
    """Scaled ELU: f(x) = lambda x if x > 0 else lambda alpha (e^x - 1).

    lambda = 1.0507009873554805 and alpha = 1.6732632423543772: mean 0 and variance 1 are a fixed point of layers with
    LeCun-normal weights. At most 2 ULP, the derivative too (float64: 3). f'(0) is lambda alpha.

    Notes
    -----
    Source: Klambauer et al. (2017), "Self-normalizing neural networks".
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register(
    "activation",
    "celu",
    parameters={"alpha": 1.0},
    examples=({"alpha": 0.3}, {"alpha": 2.5}),
    ulp=(1.0, 1.0, 2.0, 2.0),
    properties={
        "range": (-1.0, float("inf")),
        "monotone": True,
        "saturating": False,
        "zero_centred": False,
        "near_identity": True,
    },
)
class CELU(Activation):
    """Continuously differentiable ELU: f(x) = max(0, x) + min(0, alpha (e^(x / alpha) - 1)).

    f'(x) = 1 if x > 0 else e^(x / alpha). At most 1 ULP at alpha = 1, the derivative too (float64: 2).

    Parameters
    ----------
    alpha
        The limit at -inf is -alpha; > 0. PyTorch takes a negative one too.

    Notes
    -----
    Source: Barron (2017).
    """

    __slots__ = ()

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha=real(alpha, "alpha", above=0.0))


@register(
    "activation",
    "swish",
    parameters={"beta": 1.0},
    examples=({"beta": 0.3}, {"beta": 3.7}, {"beta": -1.5}, {"beta": 0.0}),
    ulp=(3.0, 4.0, 4.0, 4.0),
    aliases=("silu",),
    properties={
        "range": (-0.27846454276107374, float("inf")),
        "monotone": False,
        "saturating": False,
        "zero_centred": False,
        "near_identity": False,
    },
)
class Swish(Activation):
    """Swish: f(x) = x s(beta x), f'(x) = s(beta x) (1 + beta x s(-beta x)), s the sigmoid. SiLU is Swish(1).

    At most 3 ULP (float64: 4) at beta = 1, the derivative at most 4 or, near its sign change at -1.28, 2^-23 of its
    terms; down to the smallest numbers in the left tail, where PyTorch and JAX lose all digits.

    Parameters
    ----------
    beta
        Sharpness; any finite number. 0 gives x / 2. For abs(beta) below 1e-7 results are 0 where beta x < -128
        (float64: -770).

    Notes
    -----
    Source: Ramachandran, Zoph & Le (2017); as SiLU, Hendrycks & Gimpel (2016).
    """

    __slots__ = ()

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__(beta=real(beta, "beta"))


def SiLU() -> Swish:  # noqa: N802  # the name in torch.nn
    """Sigmoid linear unit: Swish with beta = 1, under PyTorch's name."""
    return Swish()


_APPROXIMATE = ("none", "tanh")


@register(
    "activation",
    "gelu",
    parameters={"approximate": "none"},
    choices={"approximate": _APPROXIMATE},
    examples=({"approximate": "tanh"},),
    ulp=(3.0, 4.0, 4.0, 4.0),
    properties={
        "range": (-0.16997120747990369, float("inf")),
        "monotone": False,
        "saturating": False,
        "zero_centred": False,
        "near_identity": False,
    },
)
class GELU(Activation):
    """Gaussian error linear unit: f(x) = x Phi(x), f'(x) = Phi(x) + x phi(x), Phi the normal distribution function.

    At most 3 ULP (float64: 4), the derivative at most 4 or, near its sign change at -0.75, 2^-23 of its terms; down to
    the smallest numbers in the left tail, where PyTorch and JAX lose all digits.

    Parameters
    ----------
    approximate
        "none", or "tanh" for f(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), which is no faster here; its left
        tail is another one. As in PyTorch.

    Notes
    -----
    Source: Hendrycks & Gimpel (2016).
    """

    __slots__ = ()

    def __init__(self, approximate: str = "none") -> None:
        super().__init__(approximate=choice(approximate, "approximate", _APPROXIMATE))


@register(
    "activation",
    "log_sigmoid",
    ulp=(2.0, 4.0, 4.0, 4.0),
    aliases=("logsigmoid",),
    properties={
        "range": (float("-inf"), 0.0),
        "monotone": True,
        "saturating": False,
        "zero_centred": False,
        "near_identity": False,
    },
)
class LogSigmoid(Activation):
    """Logarithm of the sigmoid: f(x) = log s(x) = -log(1 + e^-x), f'(x) = s(-x).

    At most 2 ULP (float64: 4), the derivative at most 4, down to the smallest numbers in the right tail.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register(
    "activation",
    "mish",
    ulp=(3.0, 4.0, 4.0, 4.0),
    properties={
        "range": (-0.30884341301725147, float("inf")),
        "monotone": False,
        "saturating": False,
        "zero_centred": False,
        "near_identity": False,
    },
)
class Mish(Activation):
    """Mish: f(x) = x tanh(log(1 + e^x)).

    At most 3 ULP (float64: 4), the derivative at most 4 or, near its sign change at -1.19, 2^-23 of its terms; down to
    the smallest numbers in the left tail, where PyTorch loses all digits.

    Notes
    -----
    Source: Misra (2019).
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register(
    "activation",
    "softsign",
    ulp=(1.5, 4.0, 1.5, 4.0),
    aliases=("soft_sign",),
    properties={
        "range": (-1.0, 1.0),
        "monotone": True,
        "saturating": True,
        "zero_centred": True,
        "near_identity": True,
    },
)
class Softsign(Activation):
    """Softsign: f(x) = x / (1 + abs x), f'(x) = 1 / (1 + abs x)^2.

    At most 1.5 ULP, the derivative at most 4. Unlike PyTorch's, f is 1 at inf and -1 at -inf, not NaN.

    Notes
    -----
    Source: Turian, Bergstra & Bengio (2009).
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register(
    "activation",
    "hardtanh",
    parameters={"min_val": -1.0, "max_val": 1.0},
    examples=({"min_val": -0.3, "max_val": 2.7}, {"min_val": 0.0, "max_val": 6.0}),
    aliases=("hard_tanh",),
    properties={
        "range": (-1.0, 1.0),
        "monotone": True,
        "saturating": True,
        "zero_centred": True,
        "near_identity": True,
    },
)
class Hardtanh(Activation):
    """Piecewise linear tanh: f(x) = x held within [min_val, max_val]; f'(x) = 1 if min_val < x <= max_val else 0.

    Exact at bounds that the dtype holds, else at most 1 ULP. At max_val the derivative is the left one, 1; PyTorch
    gives 0. Hardtanh(0, 6) is ReLU6.

    Parameters
    ----------
    min_val
        Lower bound.
    max_val
        Upper bound, > min_val.
    """

    __slots__ = ()

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        low = real(min_val, "min_val")
        super().__init__(min_val=low, max_val=real(max_val, "max_val", above=low))


@register(
    "activation",
    "hardsigmoid",
    ulp=(2.0, 0.5, 2.0, 0.5),
    aliases=("hard_sigmoid",),
    properties={
        "range": (0.0, 1.0),
        "monotone": True,
        "saturating": True,
        "zero_centred": False,
        "near_identity": False,
    },
)
class Hardsigmoid(Activation):
    """Piecewise linear sigmoid: f(x) = (x + 3) / 6 held within [0, 1]; f'(x) = 1/6 if -3 < x <= 3 else 0.

    At most 2 ULP. At 3 the derivative is the left one, 1/6; PyTorch gives 0.

    Notes
    -----
    Source: as in Howard et al. (2019), "Searching for MobileNetV3".
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register(
    "activation",
    "hardswish",
    ulp=(3.0, 2.0, 3.0, 2.0),
    aliases=("hard_swish", "hard_silu"),
    properties={
        "range": (-0.375, float("inf")),
        "monotone": False,
        "saturating": False,
        "zero_centred": False,
        "near_identity": False,
    },
)
class Hardswish(Activation):
    """Piecewise quadratic swish: f(x) = 0 if x <= -3, x (x + 3) / 6 between, x if x >= 3.

    f'(x) = 0, (2x + 3) / 6, 1; the left one at the joints: 0 at -3 and 3/2 at 3. At most 3 ULP, the derivative 2.
    Unlike PyTorch's, f is 0 at -inf, not NaN.

    Notes
    -----
    Source: Howard et al. (2019), "Searching for MobileNetV3".
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


def names() -> list[str]:
    """Return the names of all activations, for `get`."""
    return list(_registry.activations())


def get(name: str, **parameters: Parameter) -> Activation:
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
