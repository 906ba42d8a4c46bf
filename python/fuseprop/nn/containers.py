"""Layers made of layers: chains, and blocks with a connection around them."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from fuseprop import activations
from fuseprop._memory import BatchBuffer
from fuseprop.nn.layers import Activation, Dense, DenseRun, Layer, Shape, Visitor, in_runs, no_forward, register

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

    from fuseprop._typing import FloatArray


@runtime_checkable
class Nestable(Protocol):
    """A model that can be a layer of another one."""

    @property
    def _taken(self) -> bool:
        """Whether it is part of another one already."""

    def _nest(self, name: str) -> Chain:
        """Return the layers, for another model to lay out; `name` is for messages."""


#: What containers are made of: layers and models.
Part: TypeAlias = "Layer | Nestable"
#: What stands for a layer: an activation, or the class of one.
Formula: TypeAlias = "activations.Activation | type[activations.Activation]"


class MisfitError(ValueError):
    """A layer that does not take its input; knows the way to the layer, which grows on the way to the root."""

    def __init__(self, text: str, path: str, layer: Layer, at_input: bool) -> None:
        super().__init__(text)
        self.text, self.path, self.layer, self.at_input = text, path, layer, at_input

    def describe(self, name: str) -> str:
        """Return the message, where `name` is what the model is given."""
        return f"{name} has {self.text}" if self.at_input else f"{self.path}, {self.layer!r}, gets {self.text}"


def as_part(part: Part | Formula, name: str) -> Part:
    """Return a part of a model as it is, and an activation, or the class of one, as a layer."""
    if isinstance(part, activations.Activation):
        return Activation(part)
    if isinstance(part, type):
        if issubclass(part, activations.Activation):
            return Activation(part)
        raise TypeError(f"{name} is the class {part.__name__}; expected an object of it")
    if not isinstance(part, Layer | Nestable):
        raise TypeError(f"{name} must be a Layer, found {_found(part)}")
    return part


def _found(part: object) -> str:
    hint = f"; an activation of this name is Activation({part!r})" if isinstance(part, str) else ""
    return type(part).__name__ + hint


def as_layer(part: Part, name: str, others: Collection[int] = ()) -> Layer:
    """Return what is to become a part of a model as a layer; refuse it if it is part of a model already.

    `others` are the ids of what is in use besides.
    """
    # A layer that a layer of the user's own has bound is in use, too.
    if part._taken or "_own_names" in part.__dict__ or id(part) in others:
        raise ValueError(f"{name}, {part!r}, is part of a model already; make a new one")
    return part._nest(name) if isinstance(part, Nestable) else part


class Container(Layer):
    """A layer whose parameters and buffers are those of its children, named "child.name"."""

    children: dict[str, Layer]
    #: Those of the model that lays it out.
    dtype: np.dtype[Any]
    rng: np.random.Generator

    def take(self) -> None:
        """Mark all layers within as parts: what a constructor that users call does when nothing can fail any more."""
        for layer in self.tree()[1:]:
            layer._taken = True

    def initialize(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, FloatArray]:
        """Draw the children's parameters one after the other."""
        values: dict[str, FloatArray] = {}
        buffers: dict[str, FloatArray] = {}
        for child, layer in self.children.items():
            drawn = layer.initialize(input_shape, rng, dtype)
            values.update({f"{child}.{name}": array for name, array in drawn.items()})
            buffers.update({f"{child}.{name}": array for name, array in layer.buffers.items()})
            input_shape = layer.output_shape(input_shape)
        self.buffers, self.dtype, self.rng = buffers, dtype, rng
        return values

    def bind(self, parameters: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray]) -> None:
        """Hand the places on to the children."""
        super().bind(parameters, gradients)
        of_child, gradients_of_child = _by_child(parameters), _by_child(gradients)
        for child, layer in self.children.items():
            layer.bind(of_child.get(child, {}), gradients_of_child.get(child, {}))

    def __reduce__(self) -> tuple[Any, ...]:
        # The children belong to the parts, which may be models.
        return type(self), self._arguments()

    def __copy__(self) -> Self:
        # A layer is in one place only, so that two containers cannot share their children.
        return copy.deepcopy(self)

    def _arguments(self) -> tuple[Any, ...]:
        """Return what the constructor was given."""
        raise NotImplementedError

    def commit(self) -> None:
        """Commit all children."""
        for layer in self.children.values():
            layer.commit()

    def leaves(self, path: str = "") -> list[tuple[str, Layer]]:
        """Return the layers without children, each with its path, in the order of the forward pass."""
        found: list[tuple[str, Layer]] = []
        for child, layer in self.children.items():
            found += layer.leaves(f"{path}{child}.") if isinstance(layer, Container) else [(path + child, layer)]
        return found

    def tree(self) -> list[Layer]:
        """Return this layer and all within."""
        found: list[Layer] = [self]
        for layer in self.children.values():
            found += layer.tree() if isinstance(layer, Container) else [layer]
        return found


def _by_child(arrays: Mapping[str, FloatArray]) -> dict[str, dict[str, FloatArray]]:
    """Return the arrays of each child, by their names in it."""
    found: dict[str, dict[str, FloatArray]] = {}
    for path, array in arrays.items():
        child, _, name = path.partition(".")
        found.setdefault(child, {})[name] = array
    return found


class Chain(Container):
    """Layers in a row: what `Sequential` is as a layer of another model."""

    #: What training goes through, from `bind` on.
    runs: tuple[Layer | DenseRun, ...] = ()

    def __init__(self, parts: Iterable[Part | Formula]) -> None:
        self.parts = tuple(as_part(part, f"layers[{i}]") for i, part in enumerate(parts))
        if not self.parts:
            raise ValueError("layers is empty; expected at least one layer")
        before: set[int] = set()
        layers: list[Layer] = []
        for i, part in enumerate(self.parts):
            layers.append(as_layer(part, f"layers[{i}]", before))
            before.add(id(part))
        self.children = {str(i): layer for i, layer in enumerate(layers)}
        self._layers = tuple(layers)

    def __repr__(self) -> str:
        lines = "".join(textwrap.indent(f"{part!r},\n", "    ") for part in self.parts)
        return f"Sequential([\n{lines}])"

    def output_shape(self, input_shape: Shape) -> Shape:
        """Follow the shape of one sample through the layers."""
        shape = input_shape
        for i, layer in enumerate(self._layers):
            try:
                shape = layer.output_shape(shape)
            except MisfitError as error:
                error.path, error.at_input = f"layers[{i}].{error.path}", error.at_input and i == 0
                raise
            except ValueError as error:
                raise MisfitError(str(error), f"layers[{i}]", layer, i == 0) from None
        return shape

    def bind(self, parameters: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray]) -> None:
        """Hand the places on, and put together what training goes through."""
        super().bind(parameters, gradients)
        self.runs = in_runs(self._layers)

    def forward(self, x: FloatArray, training: bool) -> FloatArray:
        """Go through the layers."""
        for layer in self.runs if training else self._layers:
            x = layer.forward(x, training)
        return x

    def backward(self, dy: FloatArray, accumulate: bool = False, need_dx: bool = True) -> FloatArray | None:
        """Go back through the layers."""
        dx: Any = dy
        runs = self.runs
        if not runs:
            raise no_forward(self)
        for layer in runs[:0:-1]:
            dx = layer.backward(dx, accumulate, True)
        return runs[0].backward(dx, accumulate, need_dx)

    def trace(self, x: FloatArray, training: bool, path: str, visit: Visitor) -> FloatArray:
        """`forward` that shows the output of each layer."""
        prefix = path + "." if path else ""
        for child, layer in self.children.items():
            x = layer.trace(x, training, prefix + child, visit)
        return x

    def _arguments(self) -> tuple[Any, ...]:
        return (self.parts,)

    def config(self) -> dict[str, Any]:
        """Return the layers' descriptions."""
        return {"layers": [describe(part) for part in self.parts]}


@register(lambda: (Residual(Dense(6, 6, "tanh")), Residual([Dense(6, 9), Activation("tanh"), Dense(9, 6)])))
class Residual(Container):
    """A block with a connection around it: y = x + block(x), dx = dy + (the block's dx).

    Parameters
    ----------
    block
        A layer, a `Sequential`, or a list of layers in a row. What it gives has the shape of what it takes.

    Raises
    ------
    ValueError, TypeError
        If the block changes the shape, is no layer, or is part of a model or of another block already.

    Notes
    -----
    Source: He et al. 2016 (arXiv:1512.03385). Its parameters are named "block.0.weight" and so on.
    """

    def __init__(self, block: Part | Formula | Iterable[Part | Formula]) -> None:
        self.block: Part = Chain(block) if isinstance(block, list | tuple) else as_part(block, "block")  # type: ignore[arg-type]  # no other iterable is a part
        self._layer = as_layer(self.block, "block")
        self.children = {"block": self._layer}
        try:
            self.output_shape(self._layer.output_shape(None))
        except MisfitError as error:
            raise ValueError(error.describe("x")) from None
        self._y_buffer, self._dx_buffer = BatchBuffer(), BatchBuffer()
        self.take()

    def __repr__(self) -> str:
        return f"Residual({self.block!r})"

    def output_shape(self, input_shape: Shape) -> Shape:
        """As the input, and as what the block gives."""
        try:
            shape = self._layer.output_shape(input_shape)
        except MisfitError as error:
            error.path = f"block.{error.path}"
            raise
        if input_shape is not None and shape is not None and shape != input_shape:
            raise ValueError(f"samples of shape {input_shape}; expected {shape}, which the block gives")
        return shape if input_shape is None else input_shape

    def forward(self, x: FloatArray, training: bool) -> FloatArray:
        """Return x + block(x)."""
        y = self._layer.forward(x, training)
        self._check(x, y)
        return np.add(x, y, out=self._y_buffer.like(x)) if training else x + y

    def _check(self, x: FloatArray, y: FloatArray) -> None:
        # A layer of the user's own need not say its shape beforehand, and NumPy would broadcast (N, 1).
        if y.shape != x.shape:
            raise ValueError(f"{self!r} gets a batch of shape {x.shape}; expected {y.shape}, which the block gives")

    def backward(self, dy: FloatArray, accumulate: bool = False, need_dx: bool = True) -> FloatArray | None:
        """Return dy + (the block's dx)."""
        if not need_dx:
            return self._layer.backward(dy, accumulate, False)
        dx = self._dx_buffer.like(dy)
        np.copyto(dx, dy)  # the block may overwrite dy
        inner = self._layer.backward(dy, accumulate, True)
        assert inner is not None
        dx += inner
        return dx

    def trace(self, x: FloatArray, training: bool, path: str, visit: Visitor) -> FloatArray:
        """`forward` that shows the outputs of the block's layers, and the sum."""
        y = self._layer.trace(x, training, f"{path}.block", visit)
        self._check(x, y)
        y = x + y
        visit(path, self, y)
        return y

    def _arguments(self) -> tuple[Any, ...]:
        return (self.block,)

    def config(self) -> dict[str, Any]:
        """Return the block's description."""
        return {"block": describe(self.block)}


@register(lambda: [Flatten()], input_shape=(2, 3))
class Flatten(Layer):
    """Samples of any shape as vectors: (N, a, b, ...) becomes (N, a b ...), in C order."""

    #: That of the last input in training.
    _shape: tuple[int, ...] | None = None

    def output_shape(self, input_shape: Shape) -> Shape:
        """One axis of all elements."""
        return None if input_shape is None else (int(np.prod(input_shape, dtype=np.intp)),)

    def forward(self, x: FloatArray, training: bool) -> FloatArray:
        """Return x in its other shape, a view where the memory allows."""
        if training:
            self._shape = x.shape
        return x.reshape(len(x), self._features(x.shape[1:]))

    def backward(self, dy: FloatArray, accumulate: bool = False, need_dx: bool = True) -> FloatArray | None:
        """Return dy in the shape of x."""
        del accumulate, need_dx
        if self._shape is None:
            raise no_forward(self)
        return dy.reshape(self._shape)

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    @staticmethod
    def _features(shape: tuple[int, ...]) -> int:
        size = 1
        for length in shape:
            size *= length
        return size

    def config(self) -> dict[str, Any]:
        """There is nothing to configure."""
        return {}


def describe(part: object) -> dict[str, Any]:
    """Return a part as JSON can hold it: its class and its configuration."""
    name = "Sequential" if isinstance(part, Chain) else type(part).__name__
    config: dict[str, Any] = part.config()  # type: ignore[attr-defined]  # a part of the library has one
    return {"class": name, **config}
