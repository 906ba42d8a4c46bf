"""Activation functions, forward and backward.

An activation is a small immutable object: its constructor takes the parameters, and

- ``act(x, out=None)`` is f(x),
- ``act.backward(x, dy, out=None)`` is dL/dx from dy = dL/dy, from the input x, not the output,
- ``act.derivative(x, out=None)`` is backward with ones for dy: f'(x), where f is elementwise.

Most are elementwise: dL/dx = dy * f'(x). `PReLU`, and `Swish` with ``learn_beta``, learn parameters, which are
arguments and not state: ``act.init_params()`` makes them, ``act(x, params=p)`` uses them and
``act.backward_params(x, dy, params=p)`` gives their gradients too. `RReLU` draws its slopes: ``act.sample(x, rng)``.
Softmax, LogSoftmax, CReLU, Maxout and the gated units work along an axis; ``act.output_shape(x.shape)`` is the shape of
their result.

All take arrays of any shape and strides. float32 stays float32 and float64 stays float64; integers and booleans become
float64; any other dtype is a TypeError. ``out`` must have the result's shape and dtype; it may be the input itself (or
``dy``) if that has this shape, any other overlap is a ValueError. A NaN gives NaN, in the derivative too; an infinity
gives the mathematical limit; subnormal numbers are not flushed. At the joint of a piecewise function the derivative is
the left one. Unlike PyTorch there is no graph: the caller keeps x.

To add an elementwise one: the class with its Spec here, the functor and its row in
csrc/kernels/activations/activations, and the formula in reference.py. One along an axis likewise, with its row in
softmax, gated or channels beside it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fuseprop import _checks, _core, _elsewhere, _registry
from fuseprop._checks import choice, flag, integer, real
from fuseprop._formula import Formula
from fuseprop._listing import listing
from fuseprop._registry import ActivationSpec, properties, register_activation
from fuseprop._typing import FloatArray

__all__ = [
    "CELU",
    "ELU",
    "GEGLU",
    "GELU",
    "GLU",
    "SELU",
    "Activation",
    "CReLU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Maxout",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Step",
    "SwiGLU",
    "Swish",
    "Tanh",
    "get",
    "names",
]

__dir__ = listing(__all__)

if not TYPE_CHECKING:  # for which any name would be one of the module's

    def __getattr__(name: str) -> Any:
        raise _elsewhere.attribute_error(__name__, name)


class _SignatureOfCall:
    """`inspect.signature` of an object, which Python itself knows only where `__call__` is made in Python."""

    def __get__(self, act: Any, owner: type[Any]) -> Any:
        if act is None:  # the class has the signature of its constructor
            raise AttributeError(f"type object {owner.__name__!r} has no attribute '__signature__'")
        return inspect.signature(act.__call__)


class Activation(Formula, _core.Activation):
    """What all activations share; see the module's description.

    A call, ``act(x, out=None, *, params=None)``, goes to the core directly: it costs no Python frame.
    """

    __slots__ = ("_parameters",)

    if TYPE_CHECKING:
        spec: ClassVar[ActivationSpec]

    __signature__ = _SignatureOfCall()

    def backward(
        self,
        x: ArrayLike,
        dy: ArrayLike,
        *,
        params: Mapping[str, FloatArray] | None = None,
        slopes: ArrayLike | None = None,
        out: FloatArray | None = None,
    ) -> FloatArray:
        """dL/dx for the input x and the gradient dy = dL/dy, which has the result's shape and x's dtype.

        Parameters
        ----------
        x, dy
            The input, and the gradient by the result.
        params
            The learned parameters, as in the call; None: their initial values.
        slopes
            What `RReLU.sample` returned; other activations take none.
        out
            Receives dL/dx; it may be x, or dy if that has x's shape.
        """
        if dy is None:
            raise TypeError("dy is None; expected an array (for f'(x) alone there is derivative)")
        return self._backward(x, dy, out, params, slopes)

    def backward_params(
        self,
        x: ArrayLike,
        dy: ArrayLike,
        *,
        params: Mapping[str, FloatArray] | None = None,
        out: FloatArray | None = None,
    ) -> tuple[FloatArray, dict[str, FloatArray]]:
        """(dL/dx, the gradients of `params`), from one pass; the gradients have the parameters' shapes and dtypes.

        They are summed in float64, in an order that depends on x's shape alone. An activation that learns nothing
        gives (dL/dx, {}).

        Parameters
        ----------
        x, dy
            The input, and the gradient by the result.
        params
            The learned parameters, as in the call.
        out
            Receives dL/dx; it may be x, or dy if that has x's shape.
        """
        if dy is None:
            raise TypeError("dy is None; expected an array")
        return self._backward_params(x, dy, params, out)

    def derivative(
        self, x: ArrayLike, *, params: Mapping[str, FloatArray] | None = None, out: FloatArray | None = None
    ) -> FloatArray:
        """`backward` with ones for dy: f'(x), elementwise.

        Parameters
        ----------
        x
            The input.
        params
            The learned parameters, as in the call; None: their initial values.
        out
            Receives f'(x); it may be x.
        """
        return self._backward(x, None, out, params)

    def init_params(self, dtype: DTypeLike = np.float32) -> dict[str, FloatArray]:
        """Return the learned parameters' initial values, one-dimensional arrays of this dtype; {} if there are none."""
        del dtype
        return {}

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result for an input of this shape; ValueError if it does not take such an input."""
        return self._output_shape(tuple(shape))


@register_activation(
    "identity",
    aliases=("linear",),
    properties=properties(-inf, inf, "monotone", "zero_centred", "near_identity"),
)
class Identity(Activation):
    """f(x) = x, f'(x) = 1: the output layer of a regression. Exact."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_activation(
    "step",
    parameters={"at_zero": 1.0},
    examples=({"at_zero": 0.0}, {"at_zero": 0.5}),
    aliases=("heaviside", "binary_step"),
    properties=properties(0.0, 1.0, "monotone", "saturating"),
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


@register_activation(
    "relu",
    properties=properties(0.0, inf, "monotone"),
)
class ReLU(Activation):
    """Rectified linear unit: f(x) = max(0, x), f'(x) = 1 if x > 0 else 0. Exact.

    f(-0) is 0 and f'(0) is 0, as in PyTorch. Source: Nair & Hinton (2010).
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_activation(
    "leaky_relu",
    parameters={"negative_slope": 0.01},
    examples=({"negative_slope": 0.3}, {"negative_slope": 2.5}, {"negative_slope": -0.5}),
    ulp=(1.0, 0.5, 1.0, 0.5),
    properties=properties(-inf, inf, "monotone"),
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


@register_activation(
    "sigmoid",
    ulp=(2.0, 4.0, 4.0, 4.0),
    aliases=("logistic",),
    properties=properties(0.0, 1.0, "monotone", "saturating"),
)
class Sigmoid(Activation):
    """Logistic sigmoid: f(x) = s(x) = 1 / (1 + e^-x), f'(x) = s(x) s(-x).

    At most 2 ULP (float64: 4), the derivative at most 4: no cancellation in either tail.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_activation(
    "tanh",
    ulp=(1.5, 4.0, 4.0, 4.0),
    properties=properties(-1.0, 1.0, "monotone", "saturating", "zero_centred", "near_identity"),
)
class Tanh(Activation):
    """Hyperbolic tangent: f(x) = tanh x = 2 s(2x) - 1, f'(x) = 1 / cosh^2 x.

    At most 1.5 ULP (float64: 4), the derivative at most 4; PyTorch's 1 - tanh^2 loses all digits in the tails.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_activation(
    "softplus",
    parameters={"beta": 1.0},
    examples=({"beta": 0.3}, {"beta": 3.7}),
    ulp=(2.0, 4.0, 4.0, 4.0),
    properties=properties(0.0, inf, "monotone"),
)
class Softplus(Activation):
    """Smooth ReLU: f(x) = log(1 + e^(beta x)) / beta, f'(x) = s(beta x).

    At most 2 ULP (float64: 4) at beta = 1, the derivative at most 4, down to the smallest numbers in the left tail.
    With beta < 1, f loses digits where beta f(x) is a subnormal number, and is 0 where that rounds to 0.
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


@register_activation(
    "elu",
    parameters={"alpha": 1.0},
    examples=({"alpha": 0.3}, {"alpha": 2.5}, {"alpha": -0.5}),
    ulp=(1.0, 1.0, 2.0, 2.0),
    properties=properties(-1.0, inf, "monotone", "near_identity"),
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


@register_activation(
    "selu",
    ulp=(2.0, 2.0, 3.0, 3.0),
    properties=properties(-1.7580993408473766, inf, "monotone"),
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


@register_activation(
    "celu",
    parameters={"alpha": 1.0},
    examples=({"alpha": 0.3}, {"alpha": 2.5}),
    ulp=(1.0, 1.0, 2.0, 2.0),
    properties=properties(-1.0, inf, "monotone", "near_identity"),
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


@register_activation(
    "swish",
    learned=("beta",),
    parameters={"beta": 1.0},
    switches={"learn_beta": False},
    examples=({"beta": 0.3}, {"beta": 3.7}, {"beta": -1.5}, {"beta": 0.0}),
    ulp=(3.0, 4.0, 4.0, 4.0),
    aliases=("silu",),
    properties=properties(-0.27846454276107374, inf),
)
class Swish(Activation):
    """Swish: f(x) = x s(beta x), f'(x) = s(beta x) (1 + beta x s(-beta x)), s the sigmoid. SiLU is Swish(1).

    At most 3 ULP (float64: 4) at beta = 1, the derivative at most 4 or, near its sign change at -1.28, 2^-23 of its
    terms; down to the smallest numbers in the left tail, where PyTorch and JAX lose all digits.

    Parameters
    ----------
    beta
        Sharpness; any finite number, the initial one if it is learned. 0 gives x / 2. For abs(beta) below 1e-7 results
        are 0 where beta x < -128 (float64: -770).
    learn_beta
        Whether beta is learned: ``init_params()`` gives {"beta": array of shape (1,)}, and ``backward_params`` its
        gradient, the sum of dy x^2 s(beta x) s(-beta x), in float64. A call without `params` uses the initial value.

    Notes
    -----
    Source: Ramachandran, Zoph & Le (2017); as SiLU, Hendrycks & Gimpel (2016).
    """

    __slots__ = ()

    def __init__(self, beta: float = 1.0, learn_beta: bool = False) -> None:
        super().__init__(beta=real(beta, "beta"), learn_beta=flag(learn_beta, "learn_beta"))

    def _bind_core(self) -> None:
        self._bind("swish", (self.beta,), self.learn_beta)

    def init_params(self, dtype: DTypeLike = np.float32) -> dict[str, FloatArray]:
        """Return {"beta": array of shape (1,)} if beta is learned, else {}."""
        return {"beta": _learned(self.beta, 1, dtype)} if self.learn_beta else {}


def SiLU() -> Swish:  # noqa: N802  # the name in torch.nn
    """Sigmoid linear unit: Swish with beta = 1, under PyTorch's name."""
    return Swish()


_APPROXIMATE = ("none", "tanh")


@register_activation(
    "gelu",
    parameters={"approximate": "none"},
    choices={"approximate": _APPROXIMATE},
    examples=({"approximate": "tanh"},),
    ulp=(3.0, 4.0, 4.0, 4.0),
    properties=properties(-0.16997120747990369, inf),
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


@register_activation(
    "log_sigmoid",
    ulp=(2.0, 4.0, 4.0, 4.0),
    aliases=("logsigmoid",),
    properties=properties(-inf, 0.0, "monotone"),
)
class LogSigmoid(Activation):
    """Logarithm of the sigmoid: f(x) = log s(x) = -log(1 + e^-x), f'(x) = s(-x).

    At most 2 ULP (float64: 4), the derivative at most 4, down to the smallest numbers in the right tail.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_activation(
    "mish",
    ulp=(3.0, 4.0, 4.0, 4.0),
    properties=properties(-0.30884341301725147, inf),
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


@register_activation(
    "softsign",
    ulp=(1.5, 4.0, 1.5, 4.0),
    aliases=("soft_sign",),
    properties=properties(-1.0, 1.0, "monotone", "saturating", "zero_centred", "near_identity"),
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


@register_activation(
    "hardtanh",
    parameters={"min_val": -1.0, "max_val": 1.0},
    examples=({"min_val": -0.3, "max_val": 2.7}, {"min_val": 0.0, "max_val": 6.0}),
    aliases=("hard_tanh",),
    properties=properties(-1.0, 1.0, "monotone", "saturating", "zero_centred", "near_identity"),
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


@register_activation(
    "hardsigmoid",
    ulp=(2.0, 0.5, 2.0, 0.5),
    aliases=("hard_sigmoid",),
    properties=properties(0.0, 1.0, "monotone", "saturating"),
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


@register_activation(
    "hardswish",
    ulp=(3.0, 2.0, 3.0, 2.0),
    aliases=("hard_swish", "hard_silu"),
    properties=properties(-0.375, inf),
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


def _learned(values: float, size: int, dtype: DTypeLike) -> FloatArray:
    """Return `size` equal values of a learned parameter."""
    found = np.dtype(dtype)
    if found not in (np.float32, np.float64):
        raise TypeError(f"dtype is {found}; expected float32 or float64")
    array: FloatArray = np.full(size, _nearest(values, found.type), found)
    return array


def _nearest(value: float, dtype: Any) -> Any:
    """`value` in a dtype as the core takes a parameter: within the finite range, and 0 only for 0."""
    info = np.finfo(dtype)
    largest, smallest = float(info.max), float(info.smallest_subnormal)
    if 0 < abs(value) < smallest:
        value = math.copysign(smallest, value)
    return dtype(min(max(value, -largest), largest))


@register_activation(
    "prelu",
    structure="slopes",
    learned=("alpha",),
    parameters={"init": 0.25, "num_parameters": 1},
    examples=({"init": -0.5}, {"init": 0.0, "num_parameters": 6}),
    ulp=(1.0, 1.0, 1.0, 1.0),
    properties=properties(-inf, inf, "monotone"),
)
class PReLU(Activation):
    """Rectifier with a learned slope: f(x) = x if x > 0 else a x; f'(x) = 1 if x > 0 else a.

    At most 1 ULP. dL/da is the sum of dy x over x <= 0 (per channel: over the elements of the channel), in float64.
    ``init_params()`` gives {"alpha": a}, of shape (num_parameters,); a call without `params` uses the initial value.

    Parameters
    ----------
    init
        The initial slope.
    num_parameters
        1: one slope for all; else one for each channel, which are the last axis of x.

    Raises
    ------
    ValueError
        If the last axis of x is not num_parameters long (unless that is 1), or alpha is not a C-contiguous array of
        shape (num_parameters,).
    TypeError
        If alpha is neither float32 nor float64. It is cast to x's dtype; its gradient has alpha's own.

    Notes
    -----
    Source: He et al. (2015). In PyTorch the channels are axis 1. Weight decay on alpha pulls it to plain ReLU.
    """

    __slots__ = ()

    def __init__(self, init: float = 0.25, num_parameters: int = 1) -> None:
        super().__init__(
            init=real(init, "init"), num_parameters=integer(num_parameters, "num_parameters", least=1, most=2**31)
        )

    def _bind_core(self) -> None:
        self._bind("prelu", (self.init, self.num_parameters), True)

    def init_params(self, dtype: DTypeLike = np.float32) -> dict[str, FloatArray]:
        """Return {"alpha": array of shape (num_parameters,)} with the initial slopes."""
        return {"alpha": _learned(self.init, self.num_parameters, dtype)}


@register_activation(
    "rrelu",
    structure="slopes",
    parameters={"lower": 1 / 8, "upper": 1 / 3},
    examples=({"lower": 0.2, "upper": 0.2}, {"lower": -0.5, "upper": 0.1}),
    ulp=(1.5, 1.0, 1.5, 1.0),
    properties=properties(-inf, inf, "monotone"),
)
class RReLU(Activation):
    """Rectifier with random slopes: f(x) = x if x > 0 else a x, a from U(lower, upper) for each element in training.

    At most 1.5 ULP. ``act(x)`` and ``act.backward(x, dy)`` are those of evaluation, with the mean slope
    (lower + upper) / 2. In training ``y, slopes = act.sample(x, rng)``, then ``act.backward(x, dy, slopes=slopes)``.

    Parameters
    ----------
    lower
        The least slope.
    upper
        The largest one, >= lower.

    Notes
    -----
    Source: Xu et al. (2015). A slope is drawn for positive elements too, so that the draws do not depend on x; PyTorch
    has 1 there.
    """

    __slots__ = ()

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3) -> None:
        lower, upper = real(lower, "lower"), real(upper, "upper")
        if lower > upper:
            raise ValueError(f"lower is {lower!r} and upper is {upper!r}; expected lower <= upper")
        super().__init__(lower=lower, upper=upper)

    def sample(
        self, x: ArrayLike, rng: np.random.Generator, *, out: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """(f(x), slopes) with a slope drawn for each element: the forward pass of training.

        The draws are rng's next uniform numbers of x's dtype, in C order, whatever the number of threads.

        Parameters
        ----------
        x
            The input.
        rng : numpy.random.Generator
            What the slopes are drawn from.
        out
            Receives f(x); it may be x.
        """
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng must be a numpy.random.Generator, found {type(rng).__name__}")
        x = self._checked(x, out)  # refuses, before anything is drawn
        slopes: Any = np.empty(x.shape, x.dtype)
        self._draw(rng, slopes)
        return self._forward(x, out, slopes), slopes

    def _draw(self, rng: np.random.Generator, slopes: Any) -> None:
        """Fill an array in C order with slopes."""
        dtype: Any = slopes.dtype.type
        lower, upper = _nearest(self.lower, dtype), _nearest(self.upper, dtype)
        rng.random(out=slopes, dtype=dtype)
        if upper / 2 - lower / 2 <= np.finfo(dtype).max / 2:
            np.multiply(slopes, upper - lower, out=slopes)
            np.add(slopes, lower, out=slopes)
        else:  # upper - lower overflows
            np.add(lower * (1 - slopes), upper * slopes, out=slopes)
        np.clip(slopes, lower, upper, out=slopes)


@register_activation(
    "softmax",
    structure="axis",
    parameters={"axis": -1},
    examples=({"axis": 0}, {"axis": 1}),
    properties=properties(0.0, 1.0),
)
class Softmax(Activation):
    """Softmax along an axis: f(x) = e^(x - m) / sum e^(x - m), m the largest; dL/dx = f (dy - sum dy f).

    Error, relative: at most 6 eps (1 + abs(x - m)), eps = 2^-24 (float64: 2^-53), which is not a fixed number of ULP. A
    line with a NaN, a +inf, or nothing but -inf is NaN throughout, as in PyTorch. With the cross-entropy to follow,
    `losses.SoftmaxCrossEntropy` from the logits is faster and more exact.

    Parameters
    ----------
    axis
        Along which the results sum to 1.

    Raises
    ------
    ValueError
        If x does not have this axis.
    """

    __slots__ = ()

    def __init__(self, axis: int = -1) -> None:
        super().__init__(axis=_checks.axis(axis))


@register_activation(
    "log_softmax",
    structure="axis",
    parameters={"axis": -1},
    examples=({"axis": 0}, {"axis": 1}),
    properties=properties(-inf, 0.0),
)
class LogSoftmax(Activation):
    """Logarithm of softmax along an axis: f(x) = x - log sum e^x; dL/dx = dy - softmax(x) sum dy.

    Error: as that of `Softmax`, not a fixed number of ULP; accurate where the probability is near 1. A line with a NaN,
    a +inf, or nothing but -inf is NaN throughout, as in PyTorch.

    Parameters
    ----------
    axis
        Along which the exponentials of the results sum to 1.

    Raises
    ------
    ValueError
        If x does not have this axis.
    """

    __slots__ = ()

    def __init__(self, axis: int = -1) -> None:
        super().__init__(axis=_checks.axis(axis))


@register_activation(
    "crelu",
    structure="axis",
    parameters={"axis": -1},
    examples=({"axis": 0}, {"axis": 1}),
    properties=properties(0.0, inf),
)
class CReLU(Activation):
    """Concatenated ReLU: f(x) = (max(0, x), max(0, -x)), one after the other along an axis, which it doubles. Exact.

    dL/dx = dy1 where x > 0, -dy2 where x < 0, 0 where x = 0, dy1 and dy2 being the halves of dy.

    Parameters
    ----------
    axis
        The axis that is doubled.

    Raises
    ------
    ValueError
        If x does not have this axis.

    Notes
    -----
    Source: Shang et al. (2016).
    """

    __slots__ = ()

    def __init__(self, axis: int = -1) -> None:
        super().__init__(axis=_checks.axis(axis))


@register_activation(
    "maxout",
    structure="axis",
    parameters={"pieces": 2, "axis": -1},
    examples=({"pieces": 3, "axis": 0}, {"pieces": 4}, {"pieces": 1}, {"pieces": 12, "axis": 1}),
    properties=properties(-inf, inf, "monotone", "zero_centred"),
)
class Maxout(Activation):
    """The largest of each group of `pieces` neighbours along an axis, which it divides by `pieces`. Exact.

    dL/dx = dy at the first element that holds the maximum, 0 at the others. A group with a NaN is NaN, in dL/dx
    throughout. After a layer with pieces * n outputs: max_j (w_j x + b_j) for n units.

    Parameters
    ----------
    pieces
        Elements of a group.
    axis
        The axis that is divided.

    Raises
    ------
    ValueError
        If x does not have this axis, or its length is not a multiple of `pieces`.

    Notes
    -----
    Source: Goodfellow et al. (2013).
    """

    __slots__ = ()

    def __init__(self, pieces: int = 2, axis: int = -1) -> None:
        super().__init__(pieces=integer(pieces, "pieces", least=1, most=2**31), axis=_checks.axis(axis))


@register_activation(
    "glu",
    structure="axis",
    ulp=(3.0, 4.0, 4.5, 4.5),
    properties=properties(-inf, inf, "zero_centred"),
)
class GLU(Activation):
    """Gated linear unit: f(x) = a s(b), a and b the halves of the last axis, s the logistic sigmoid.

    dL/da = dy s(b), dL/db = dy a s'(b), from one pass. At most 3 ULP (float64: 4.5), the derivatives at most 4 (4.5).
    A large a or dy magnifies the rounding of s(b) and s'(b) where these are subnormal numbers: for b < -87 (float64:
    -708), and s'(b) for b > 87 too.

    Raises
    ------
    ValueError
        If the last axis of x is odd.

    Notes
    -----
    Source: Dauphin et al. (2017).
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_activation(
    "swiglu",
    structure="axis",
    ulp=(4.0, 5.0, 5.0, 5.0),
    properties=properties(-inf, inf, "zero_centred"),
)
class SwiGLU(Activation):
    """Gated linear unit with SiLU for a gate: f(x) = a g(b), g(b) = b s(b), a and b the halves of the last axis.

    dL/da = dy g(b), dL/db = dy a g'(b), from one pass. At most 4 ULP (float64: 5), the derivatives at most 5, save near
    the zero of g', where the error is 2^-23 of the terms' sizes. A large a or dy magnifies the rounding of g(b) and
    g'(b) where these are subnormal numbers, for b < -91 (float64: -714).

    Raises
    ------
    ValueError
        If the last axis of x is odd.

    Notes
    -----
    Source: Shazeer (2020). Often written with the activation on the first half; here, as in GLU, it is on the second.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


@register_activation(
    "geglu",
    structure="axis",
    ulp=(4.0, 5.0, 5.0, 5.0),
    properties=properties(-inf, inf, "zero_centred"),
)
class GEGLU(Activation):
    """Gated linear unit with GELU for a gate: f(x) = a g(b), g(b) = b Phi(b), a and b the halves of the last axis.

    dL/da = dy g(b), dL/db = dy a g'(b), from one pass. At most 4 ULP (float64: 5), the derivatives at most 5, save near
    the zero of g', where the error is 2^-23 of the terms' sizes. A large a or dy magnifies the rounding of g(b) and
    g'(b) where these are subnormal numbers, for b < -13 (float64: -37).

    Raises
    ------
    ValueError
        If the last axis of x is odd.

    Notes
    -----
    Source: Shazeer (2020). Often written with the activation on the first half; here, as in GLU, it is on the second.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()


def names() -> list[str]:
    """Return the names of all activations, for `get`."""
    return list(_registry.activations())


def get(name: str, **parameters: Any) -> Activation:
    """Return the activation called `name`, or of this alias, with these `parameters`: ``get("swish", beta=2.0)``.

    Raises
    ------
    ValueError
        If there is none of this name; the message says which ones are near.
    TypeError
        If the activation does not take a parameter that is given.
    """
    activation: Activation = _registry.find("activation", name).cls(**parameters)
    return activation
