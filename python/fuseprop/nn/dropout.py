"""Dropout: noise in training, nothing in evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fuseprop import _core
from fuseprop._checks import real
from fuseprop._memory import BatchBuffer
from fuseprop.nn.layers import Layer, Shape, no_forward, register

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray


@register(lambda: [Dropout(0.4)])
class Dropout(Layer):
    """Each element is 0 with probability p in training, and x / (1 - p) otherwise: y = x m, dx = dy m.

    In evaluation y = x. What is dropped is 0 whatever it was, infinite and NaN included.

    Parameters
    ----------
    p : float
        The probability, 0 <= p < 1.

    Raises
    ------
    ValueError, TypeError
        If p is not such a number.

    Notes
    -----
    Source: Srivastava et al. 2014, scaled in training as in PyTorch. Each forward pass draws one key from the model's
    generator; whether an element is 0 is a hash of the key and of its place in the batch. So the mask does not depend
    on the number of threads, and is computed again in the backward pass instead of being stored.
    """

    #: What the mask of the last forward pass in training is made of.
    _key: int | None = None

    def __init__(self, p: float = 0.5) -> None:
        self.p = real(p, "p", least=0.0, below=1.0)

    def __repr__(self) -> str:
        return f"Dropout({self.p:g})"

    def output_shape(self, input_shape: Shape) -> Shape:
        """As the input's."""
        return input_shape

    def initialize(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, FloatArray]:
        """Keep the generator; there are no parameters."""
        del input_shape, dtype
        self._rng = rng
        return {}

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    def bind(self, parameters: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray]) -> None:
        """Prepare the buffer of the output."""
        super().bind(parameters, gradients)
        self._y_buffer = BatchBuffer()

    def forward(self, x: FloatArray, training: bool) -> FloatArray:
        """Return x m in training, x otherwise."""
        if not training or self.p == 0.0:
            return x
        self._key = key = int(self._rng.integers(1 << 63))
        return _core.dropout(x, self.p, key, self._y_buffer.like(x))

    def backward(self, dy: FloatArray, accumulate: bool = False, need_dx: bool = True) -> FloatArray | None:
        """Multiply dy by m, in place."""
        del accumulate
        if not need_dx or self.p == 0.0:
            return dy
        if self._key is None:
            raise no_forward(self)
        return _core.dropout(dy, self.p, self._key, dy)

    def config(self) -> dict[str, Any]:
        """Return the constructor's argument."""
        return {"p": self.p}
