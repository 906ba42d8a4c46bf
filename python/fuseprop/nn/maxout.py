"""Maxout: a dense layer whose units learn their activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fuseprop import activations
from fuseprop._checks import integer
from fuseprop.nn.layers import Activation, Dense, Layer, Shape, no_forward, register

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray
    from fuseprop.init import Initializer


@register(lambda: (Maxout(6, 4), Maxout(6, 2, pieces=5, use_bias=False)))
class Maxout(Layer):
    """A fully connected layer of maxima: y_k = max_j (x w_kj + b_kj), j < pieces.

    Parameters
    ----------
    in_features, out_features : int
        The input is (N, in_features), the output (N, out_features).
    pieces : int
        How many linear functions a unit is the maximum of.
    use_bias : bool
        Whether there is a b.
    init : str, callable or None
        As of `Dense`. None: "lecun_normal", with which two pieces keep the mean square of what flows through.

    Raises
    ------
    ValueError, TypeError
        If a number is no integer >= 1, or the initialiser is not known.

    Notes
    -----
    Source: Goodfellow et al. 2013 (arXiv:1302.4389). "weight" is (in_features, out_features * pieces), the pieces of a
    unit side by side; the gradient goes to the first of equal ones. `activations.Maxout` is the maximum alone.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        pieces: int = 2,
        *,
        use_bias: bool = True,
        init: str | Initializer | None = None,
    ) -> None:
        self.out_features = integer(out_features, "out_features", least=1)
        self.pieces = integer(pieces, "pieces", least=1)
        init = "lecun_normal" if init is None else init
        self._linear = Dense(in_features, self.out_features * self.pieces, use_bias=use_bias, init=init)
        self._maximum = Activation(activations.Maxout(self.pieces))
        self.in_features, self.use_bias = self._linear.in_features, self._linear.use_bias

    @property
    def init(self) -> Initializer:
        """How W is drawn."""
        return self._linear.init

    @init.setter
    def init(self, init: Initializer) -> None:
        self._linear.init = init

    def __repr__(self) -> str:
        options = "" if self.use_bias else ", use_bias=False"
        return f"Maxout({self.in_features}, {self.out_features}, pieces={self.pieces}{options})"

    def output_shape(self, input_shape: Shape) -> Shape:
        """(out_features,)."""
        self._linear.output_shape(input_shape)
        return (self.out_features,)

    def initialize(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, FloatArray]:
        """Draw "weight" (in, out * pieces); "bias" (out * pieces,) is 0."""
        return self._linear.initialize(input_shape, rng, dtype)

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._linear._shapes()

    def bind(self, parameters: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray]) -> None:
        """Take the places of the parameters and gradients."""
        super().bind(parameters, gradients)
        self._linear.bind(parameters, gradients)
        self._maximum.bind({}, {})

    def forward(self, x: FloatArray, training: bool) -> FloatArray:
        """Return the maxima of x W + b."""
        return self._maximum.forward(self._linear.forward(x, training), training)

    def backward(self, dy: FloatArray, accumulate: bool = False, need_dx: bool = True) -> FloatArray | None:
        """Hand dy to the pieces that were the maxima, then as a dense layer."""
        if self._maximum._x is None:
            raise no_forward(self)
        du = self._maximum.backward(dy)
        assert du is not None
        return self._linear.backward(du, accumulate, need_dx)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, without the initialiser."""
        names = ("in_features", "out_features", "pieces", "use_bias")
        return {name: getattr(self, name) for name in names}
