"""The networks that several test files train, a layer of one's own in them, and gradients to compare theirs with."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import Array

import fuseprop as fp
from fuseprop import nn
from fuseprop.nn.layers import Shape


class Scale(nn.Layer):
    """The example of fuseprop.nn.layers: a layer of one's own in plain NumPy."""

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def initialize(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Any]:
        assert input_shape is not None
        return {"factor": rng.uniform(0.5, 1.5, input_shape).astype(dtype)}

    def forward(self, x: Any, training: bool) -> Any:
        if training:
            self.x = x
        return x * self.parameters["factor"]

    def backward(self, dy: Any, accumulate: bool = False, need_dx: bool = True) -> Any:
        dfactor = (dy * self.x).sum(axis=0)
        if accumulate:
            self.gradients["factor"][...] += dfactor
        else:
            self.gradients["factor"][...] = dfactor
        return dy * self.parameters["factor"]

    def config(self) -> dict[str, Any]:
        return {}


def small(dtype: Any = np.float64, rng: Any = 0) -> nn.Sequential:
    """A network with a layer of each kind."""
    return nn.Sequential(
        [
            nn.Dense(5, 7, "tanh"),
            nn.Dense(7, 6, use_bias=False),
            nn.Activation("softplus"),
            nn.Dense(6, 6, fp.activations.LeakyReLU(0.2), init="glorot_normal"),
            nn.Dense(6, 4, "relu"),
            nn.Dense(4, 3, "identity"),
        ],
        rng=rng,
        dtype=dtype,
    )


def everything(dtype: Any = np.float64, rng: Any = 0, p: float = 0.0) -> nn.Sequential:
    """A network with each kind of layer, nested three deep."""
    return nn.Sequential(
        [
            nn.LayerNorm((2, 3)),
            nn.Flatten(),
            nn.Dense(6, 8, "tanh"),
            nn.BatchNorm(8),
            nn.Residual([nn.Dense(8, 8, "softplus"), nn.LayerNorm(8), nn.Residual(nn.Dense(8, 8, "sigmoid"))]),
            nn.Sequential(
                [
                    nn.Sequential([nn.Dropout(p), nn.Maxout(8, 6, pieces=3)]),
                    Scale(),
                    nn.Activation(fp.activations.PReLU(0.3)),
                    nn.BatchNorm(6, affine=False),
                ],
                rng=99,
            ),
            nn.Dense(6, 3),
        ],
        rng=rng,
        dtype=dtype,
    )


def numeric_gradient(function: Any, array: Array, h: float = 1e-3) -> Array:
    """Central differences of fourth order."""
    result = np.empty_like(array)
    for i in np.ndindex(array.shape):
        keep, values = array[i], []
        for step in (-2, -1, 1, 2):
            array[i] = keep + step * h
            values.append(function())
        array[i] = keep
        result[i] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return result
