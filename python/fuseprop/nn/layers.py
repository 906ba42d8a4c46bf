"""Layers: one forward and one backward pass each, on parameters that the model lays out.

A layer of one's own, in plain NumPy, subclasses `Layer` and says four things::

    class Scale(fp.nn.Layer):
        def output_shape(self, input_shape):        # of one sample
            return input_shape

        def initialize(self, input_shape, rng, dtype):
            return {"factor": np.ones(input_shape, dtype)}

        def forward(self, x, training):
            if training:
                self.x = x
            return x * self.parameters["factor"]

        def backward(self, dy, accumulate=False, need_dx=True):
            dfactor = (dy * self.x).sum(axis=0)
            if accumulate:
                self.gradients["factor"] += dfactor
            else:
                self.gradients["factor"][...] = dfactor
            return dy * self.parameters["factor"]

`initialize` may also set `self.buffers`, a dict of arrays that belong to the model's state and are no parameters, and
keep the generator that it is given, which is the whole model's, for draws in training. Buffers that follow the training
are changed in `commit`, which is called when a step is complete.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from fuseprop import _core, activations
from fuseprop import init as initializers
from fuseprop._checks import flag, integer
from fuseprop._elsewhere import check_constructor
from fuseprop._memory import BatchBuffer, RowBuffer

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray
    from fuseprop.init import Initializer

#: The shape of one sample; None: not known.
Shape: TypeAlias = "tuple[int, ...] | None"

#: Called with a layer's path ("2", "3.block.0"), the layer and its output.
Visitor: TypeAlias = "Callable[[str, Layer, FloatArray], None]"

_linear = _core.linear


class Layer:
    """The protocol of a layer, and what all layers share.

    A model calls `output_shape` and `initialize` once, then `bind` with the places of the parameters in its
    flat array and of their gradients in another. From then on the parameters are read from
    `self.parameters` and the gradients written to `self.gradients`, both dicts from the names that
    `initialize` gave to arrays.
    """

    parameters: Mapping[str, FloatArray]
    gradients: Mapping[str, FloatArray]
    #: State besides the parameters, such as running statistics: arrays that stay the same, changed in place.
    buffers: Mapping[str, FloatArray] = MappingProxyType({})
    #: Whether a container has it, in which case no other one may.
    _taken = False

    def __init_subclass__(cls) -> None:
        """Let the constructor say of an option that there is not which name it may have here."""
        super().__init_subclass__()
        check_constructor(cls)

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of one sample of the output for one of `input_shape`; ValueError if the layer does not take such."""
        raise NotImplementedError

    def initialize(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, FloatArray]:
        """Return the parameters' initial values by name; by default there are none.

        Parameters
        ----------
        input_shape : tuple of int
            Of one sample.
        rng : Generator
            What random values are drawn from.
        dtype
            The model's.
        """
        del input_shape, rng, dtype
        return {}

    def bind(self, parameters: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray]) -> None:
        """Take the places of the parameters, which hold the initial values, and of their gradients."""
        # The layers of a nested model are bound twice: as its own, and as those of its root.
        if "_own_names" not in self.__dict__:
            self._own_names = frozenset(self.__dict__) - {"buffers", "_taken"}
        self.parameters = parameters
        self.gradients = gradients

    def forward(self, x: FloatArray, training: bool) -> FloatArray:
        """Return the output for the batch x, of the model's dtype, shape (N, ...).

        With `training` the layer keeps what `backward` needs (x itself, too) and may return an array of its
        own that the next call overwrites. Without, it keeps nothing, and several threads may call it at
        once.
        """
        raise NotImplementedError

    def backward(self, dy: FloatArray, accumulate: bool = False, need_dx: bool = True) -> FloatArray | None:
        """Return dL/dx for the last forward pass in training and write, or add, the parameters' gradients.

        Parameters
        ----------
        dy
            dL/dy; may be overwritten.
        accumulate : bool
            Whether the gradients are added to what is there.
        need_dx : bool
            Whether the result is used.
        """
        raise NotImplementedError

    def commit(self) -> None:
        """Bring the buffers up to date with the last forward pass in training, whose step is complete."""

    def _shapes(self) -> Mapping[str, tuple[int, ...]] | None:
        """Return the shapes of what `initialize` makes, parameters and buffers; None: not known before."""
        return None

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON can hold them, for `save`."""
        raise NotImplementedError(f"{type(self).__name__} has no config, which saving needs")

    def trace(self, x: FloatArray, training: bool, path: str, visit: Visitor) -> FloatArray:
        """`forward` that shows the output of each layer, inner ones first.

        Parameters
        ----------
        x, training
            As in `forward`.
        path : str
            Where the layer is in its model: "2.block.1".
        visit
            Called with the path, the layer and its output.
        """
        y = self.forward(x, training)
        visit(path, self, y)
        return y

    def __getstate__(self) -> dict[str, Any]:
        # What being in a model added (views, buffers, the mark) stays there.
        own = self.__dict__.get("_own_names", self.__dict__.keys() - {"_taken"})
        return {name: value for name, value in self.__dict__.items() if name in own}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class LayerSpec:
    """What the library knows of one of its classes of layers.

    `samples` makes layers for samples of `input_shape`: what the tests do with each layer, they do with these.
    """

    def __init__(self, cls: type[Layer], samples: Callable[[], Sequence[Layer]], input_shape: tuple[int, ...]) -> None:
        self.cls, self.samples, self.input_shape = cls, samples, input_shape


#: The library's classes of layers by their names, by which files name them.
LAYERS: dict[str, LayerSpec] = {}

_Class = TypeVar("_Class", bound=type[Layer])


def register(samples: Callable[[], Sequence[Layer]], input_shape: tuple[int, ...] = (6,)) -> Callable[[_Class], _Class]:
    """Class decorator: makes a class one of `LAYERS`, so that `load` takes what `save` wrote of it."""

    def add(cls: _Class) -> _Class:
        LAYERS[cls.__name__] = LayerSpec(cls, samples, input_shape)
        return cls

    return add


def no_forward(layer: object) -> RuntimeError:
    """Return what a backward pass raises that has no forward pass before it."""
    return RuntimeError(f"backward of {layer!r} needs a forward pass in training before it")


def _as_activation(
    activation: str | activations.Activation | type[activations.Activation] | dict[str, Any],
) -> activations.Activation:
    if isinstance(activation, type) and issubclass(activation, activations.Activation):
        return activation()
    if isinstance(activation, str):
        return activations.get(activation)
    if isinstance(activation, dict):  # from _activation_config
        return activations.get(**activation)
    if not isinstance(activation, activations.Activation):
        raise TypeError(f"activation must be an Activation or a name, found {type(activation).__name__}")
    return activation


def _as_elementwise(
    activation: str | activations.Activation | type[activations.Activation] | dict[str, Any],
) -> activations.Activation:
    found = _as_activation(activation)
    if found.spec.structure != "elementwise" or found.init_params():
        raise TypeError(
            f"activation is {found!r}, which is not a plain elementwise one and cannot be fused with the product; "
            "put an Activation layer behind this one"
        )
    base: Any = activations.Activation
    for verb in ("__call__", "backward"):
        if getattr(type(found), verb) is not getattr(base, verb):
            raise TypeError(
                f"activation of type {type(found).__name__} overrides {verb}, which a layer that computes it together "
                "with the product would not see; put an Activation layer behind this one"
            )
    return found


def _activation_config(activation: activations.Activation | None) -> dict[str, Any] | None:
    if activation is None:
        return None
    if type(activation) is not activation.spec.cls:
        raise NotImplementedError(
            f"the activation {activation!r} is of a class of its own, which a file cannot name; "
            "save the parameters alone, model.state_dict()"
        )
    names = (*activation.spec.parameters, *activation.spec.switches)
    return {"name": activation.spec.name, **{name: getattr(activation, name) for name in names}}


def _has_sign_of_input(activation: activations.Activation) -> bool:
    """Whether f' depends on the sign of x alone and f(x) > 0 exactly where x > 0: then f'(f(x)) = f'(x)."""
    if isinstance(activation, activations.LeakyReLU):
        return bool(activation.negative_slope >= 0)
    return isinstance(activation, activations.ReLU)


@register(lambda: (Dense(6, 4), Dense(6, 6, "tanh"), Dense(6, 4, "sigmoid", use_bias=False)))
class Dense(Layer):
    """A fully connected layer: y = f(u), u = x W + b.

    With du = dy f'(u): dW = x^T du, db = sum of the rows of du, dx = du W^T.

    Parameters
    ----------
    in_features, out_features : int
        The input is (N, in_features), the output (N, out_features).
    activation : str, Activation, class of one or None
        f, elementwise and without learned parameters; None is the identity. It is computed together with the matrix
        product.
    use_bias : bool
        Whether there is a b.
    init : str, callable or None
        How W, of shape (in_features, out_features), is drawn: a name of `fuseprop.init` or a function
        called as those are. None: "he_normal" before ReLU and LeakyReLU, otherwise "glorot_uniform". The
        bias starts at 0.

    Raises
    ------
    ValueError, TypeError
        If a number of features is no integer >= 1, `use_bias` no bool, or an activation or an initialiser not known.

    Notes
    -----
    Unlike PyTorch's `Linear`, W is (in, out), and both W and b have the initial values named above.
    """

    #: None before the first forward pass in training. The class's, as what `__init__` sets goes along in copies.
    _run: DenseRun | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str | activations.Activation | type[activations.Activation] | None = None,
        *,
        use_bias: bool = True,
        init: str | Initializer | None = None,
    ) -> None:
        self.in_features = integer(in_features, "in_features", least=1)
        self.out_features = integer(out_features, "out_features", least=1)
        self.activation = None if activation is None else _as_elementwise(activation)
        self.use_bias = flag(use_bias, "use_bias")
        if init is None:
            rectified = isinstance(self.activation, activations.ReLU | activations.LeakyReLU)
            init = "he_normal" if rectified else "glorot_uniform"
        if not (isinstance(init, str) or callable(init)):
            raise TypeError(f"init must be a name, a function or None, found {type(init).__name__}")
        self.init: Initializer = initializers.get(init) if isinstance(init, str) else init

    def __repr__(self) -> str:
        options = f", activation={self.activation!r}" if self.activation is not None else ""
        options += "" if self.use_bias else ", use_bias=False"
        return f"Dense({self.in_features}, {self.out_features}{options})"

    def output_shape(self, input_shape: Shape) -> Shape:
        """(out_features,)."""
        if input_shape is not None and input_shape != (self.in_features,):
            raise ValueError(f"samples of shape {input_shape}; expected ({self.in_features},)")
        return (self.out_features,)

    def initialize(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, FloatArray]:
        """Draw "weight" (in, out); "bias" (out,) is 0."""
        shape = self._shapes()["weight"]
        weight = self.init(shape, rng=rng, dtype=dtype)
        if np.shape(weight) != shape:
            raise ValueError(f"init returned an array of shape {np.shape(weight)}; expected {shape}")
        if not self.use_bias:
            return {"weight": weight}
        return {"weight": weight, "bias": initializers.zeros((self.out_features,), dtype=dtype)}

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        weight = (self.in_features, self.out_features)
        return {"weight": weight, "bias": weight[1:]} if self.use_bias else {"weight": weight}

    def bind(self, parameters: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray]) -> None:
        """Take the places of the parameters and gradients."""
        super().bind(parameters, gradients)
        self.weight = parameters["weight"]
        self.bias = parameters.get("bias")
        # The identity needs no kernel.
        self._f = None if isinstance(self.activation, activations.Identity) else self.activation
        self._run = None

    def forward(self, x: FloatArray, training: bool) -> FloatArray:
        """Return f(x W + b)."""
        if not training:
            return _linear(x, self.weight, self.bias, self._f, None, None)
        if self._run is None:
            self._run = DenseRun((self,))
        return self._run.forward(x, True)

    def backward(self, dy: FloatArray, accumulate: bool = False, need_dx: bool = True) -> FloatArray | None:
        """Turn dy into du = dy f'(u), write dW = x^T du and db = sum of du's rows, return dx = du W^T."""
        if self._run is None:
            raise no_forward(self)
        return self._run.backward(dy, accumulate, need_dx)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, without the initialiser."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "activation": _activation_config(self.activation),
            "use_bias": self.use_bias,
        }


class DenseRun:
    """Dense layers in a row, in training: one call of the core for all of them.

    A call for each would check its arguments again; for small networks that takes longer than the arithmetic.
    """

    def __init__(self, layers: Sequence[Dense]) -> None:
        dtype = layers[0].weight.dtype
        bound = [(x.weight, x.bias, x.gradients["weight"], x.gradients.get("bias"), x._f) for x in layers]
        self._stack = _core.DenseStack(bound)
        # The output of each layer; u, unless the output tells f'(u) as well; and the gradient of the input.
        self._buffers = [
            (
                RowBuffer((layer.out_features,), dtype),
                None if layer._f is None or _has_sign_of_input(layer._f) else RowBuffer((layer.out_features,), dtype),
                RowBuffer((layer.in_features,), dtype),
            )
            for layer in layers
        ]
        self._rows = -1
        self._has_dx = False

    def _bind(self, rows: int, has_dx: bool) -> None:
        arrays = [
            (y.rows(rows), None if u is None else u.rows(rows), dx.rows(rows) if i or has_dx else None)
            for i, (y, u, dx) in enumerate(self._buffers)
        ]
        self._stack.bind(rows, arrays)
        self._rows, self._has_dx = rows, has_dx

    def forward(self, x: FloatArray, training: bool) -> FloatArray:
        """Return the last layer's output, an array that the next call overwrites."""
        del training
        if len(x) != self._rows:
            self._rows = -1  # an interrupt may fall between the two bindings, the stack's and this one's
            self._bind(len(x), self._has_dx)
        return self._stack.forward(x)

    def backward(self, dy: FloatArray, accumulate: bool = False, need_dx: bool = True) -> FloatArray | None:
        """Write the gradients of all layers, and return the first one's dL/dx."""
        if self._rows < 0:
            raise no_forward(self)
        if need_dx and not self._has_dx:
            self._bind(self._rows, True)
        return self._stack.backward(dy, accumulate, need_dx)


def in_runs(layers: Sequence[Layer]) -> tuple[Layer | DenseRun, ...]:
    """Return the layers as training goes through them: dense ones that follow each other as one."""
    found: list[Layer | DenseRun] = []
    for dense, group in itertools.groupby(layers, lambda layer: type(layer) is Dense):
        members = list(group)
        found += [DenseRun(members)] if dense else members  # type: ignore[arg-type]  # Dense, all of them
    return tuple(found)


@register(lambda: [Activation(name) for name in ("tanh", "prelu", "rrelu", "softmax")])
class Activation(Layer):
    """An activation as a layer of its own: y = f(x), dx = dy f'(x).

    Those that change the shape, learn parameters (which become the layer's) or draw their slopes are taken too. RReLU
    draws in training, from the model's generator.

    Parameters
    ----------
    activation : str, Activation or class of one
        f. Its axis, if it has one, counts the axis of the samples, 0, which it must not be.

    Raises
    ------
    ValueError
        If the axis is that of the samples.
    """

    #: The input of the last forward pass in training.
    _x: FloatArray | None = None

    def __init__(self, activation: str | activations.Activation | type[activations.Activation]) -> None:
        self.activation = _as_activation(activation)
        if "axis" in self.activation.spec.parameters and self.activation.axis == 0:
            raise ValueError(f"activation is {self.activation!r}, along axis 0, which is that of the samples")

    def __repr__(self) -> str:
        return f"Activation({self.activation!r})"

    def output_shape(self, input_shape: Shape) -> Shape:
        """As the activation says."""
        if input_shape is None:
            return None
        if "axis" in self.activation.spec.parameters and self.activation.axis == -len(input_shape) - 1:
            raise ValueError(f"samples of shape {input_shape}, of which axis {self.activation.axis} is not one")
        return self.activation.output_shape((1, *input_shape))[1:]

    def initialize(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, FloatArray]:
        """Return the activation's initial parameters."""
        del input_shape
        self._rng = rng
        return self.activation.init_params(dtype)

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        spec, activation = self.activation.spec, self.activation
        if not all(getattr(activation, name) for name in spec.switches):
            return {}  # they are learned if the switch is set
        return dict.fromkeys(spec.learned, (getattr(activation, "num_parameters", 1),))

    def bind(self, parameters: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray]) -> None:
        """Take the places of the parameters, and prepare the buffer of the output."""
        super().bind(parameters, gradients)
        self._params = dict(parameters) or None
        self._y_buffer, self._dx_buffer, self._slopes_buffer = BatchBuffer(), BatchBuffer(), BatchBuffer()
        self._slopes: FloatArray | None = None

    def forward(self, x: FloatArray, training: bool) -> FloatArray:
        """Return f(x)."""
        if not training:
            return self.activation(x, params=self._params)
        self._x = x
        out = self._y_buffer.of(self.activation.output_shape(x.shape), x.dtype)
        if isinstance(self.activation, activations.RReLU):
            self._slopes = self._slopes_buffer.like(x)
            self.activation._draw(self._rng, self._slopes)
            return self.activation._forward(x, out, self._slopes)
        return self.activation(x, out=out, params=self._params)

    def backward(self, dy: FloatArray, accumulate: bool = False, need_dx: bool = True) -> FloatArray | None:
        """Multiply dy by f'(x), in place where the shapes are the same."""
        x = self._x
        if x is None:
            raise no_forward(self)
        out = dy if dy.shape == x.shape else self._dx_buffer.like(x)
        if self._params is None:
            return self.activation.backward(x, dy, slopes=self._slopes, out=out) if need_dx else None
        dx, gradients = self.activation.backward_params(x, dy, params=self._params, out=out)
        for name, gradient in gradients.items():
            into = self.gradients[name]
            np.add(into, gradient, out=into) if accumulate else np.copyto(into, gradient)
        return dx

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"activation": _activation_config(self.activation)}
