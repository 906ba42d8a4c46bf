"""Normalisation: over the batch, and over each sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fuseprop import _core
from fuseprop._checks import flag, integer, real
from fuseprop._memory import BatchBuffer, RowBuffer, aligned_zeros
from fuseprop.nn.layers import Layer, Shape, no_forward, register

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray

_batch_norm = _core.batch_norm
_batch_norm_backward = _core.batch_norm_backward
#: Moves running statistics towards those of a batch; C alone, so that no interrupt comes between mean and variance.
move_statistics = _core.batch_norm_update
_layer_norm = _core.layer_norm
_layer_norm_backward = _core.layer_norm_backward


@register(lambda: (BatchNorm(6), BatchNorm(6, affine=False, eps=0.1)))
class BatchNorm(Layer):
    """Normalisation of each feature over the batch: y = (x - mean) / sqrt(var + eps) * weight + bias.

    In training mean and (biased) var are those of the feature's values in the batch, and with
    xhat = (x - mean) / sqrt(var + eps), dx = weight / sqrt(var + eps) (dy - mean(dy) - xhat mean(dy xhat)). In
    evaluation they are running statistics: after each step running = (1 - momentum) running + momentum batch, with the
    unbiased variance of the batch.

    Parameters
    ----------
    num_features : int
        F; the input is (N, F) or (N, ..., F): the features are the last axis, all others are the batch.
    eps : float
        > 0.
    momentum : float
        The share of the last batch in the running statistics, in [0, 1].
    affine : bool
        Whether "weight" (at first 1) and "bias" (0), each (F,), are learned.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range; in training, if the batch has one value of each feature only, whose
        variance would be 0 and its gradient too.

    Notes
    -----
    Source: Ioffe and Szegedy 2015 (arXiv:1502.03167). As `torch.nn.BatchNorm1d`, but for the place of the features,
    which is axis 1 there; momentum=None, the plain average, is not offered. "running_mean" and "running_var" are in
    `state_dict`; they change when the step is complete, so that a failed one leaves them. They are float64 (not there):
    the variance of a float32 batch may be beyond float32, and would be infinite for good; what even float64 cannot hold
    is its largest number. Sums are formed in float64, and whatever is finite is right, up to the largest numbers.
    """

    #: The input of the last forward pass in training.
    _x: FloatArray | None = None

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        #: The arguments of `move_statistics` for the last forward pass in training.
        self._movement: tuple[Any, ...] | None = None
        self.num_features = integer(num_features, "num_features", least=1)
        self.eps = real(eps, "eps", above=0.0)
        self.momentum = real(momentum, "momentum", least=0.0, most=1.0)
        self.affine = flag(affine, "affine")

    def __repr__(self) -> str:
        options = "" if self.eps == 1e-5 else f", eps={self.eps:g}"
        options += "" if self.momentum == 0.1 else f", momentum={self.momentum:g}"
        return f"BatchNorm({self.num_features}{options}{'' if self.affine else ', affine=False'})"

    def output_shape(self, input_shape: Shape) -> Shape:
        """As the input's."""
        if input_shape is not None and input_shape[-1:] != (self.num_features,):
            raise ValueError(f"samples of shape {input_shape}; expected (..., {self.num_features})")
        return input_shape

    def initialize(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, FloatArray]:
        """Return weight 1 and bias 0; the running mean is 0, the running variance 1."""
        del input_shape, rng
        shape = (self.num_features,)
        float64 = np.dtype(np.float64)
        self.buffers = {"running_mean": aligned_zeros(shape, float64), "running_var": aligned_zeros(shape, float64)}
        self.buffers["running_var"].fill(1)
        return {"weight": np.ones(shape, dtype), "bias": np.zeros(shape, dtype)} if self.affine else {}

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        names = (*(("weight", "bias") if self.affine else ()), "running_mean", "running_var")
        return dict.fromkeys(names, (self.num_features,))

    def bind(self, parameters: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray]) -> None:
        """Take the places of the parameters and gradients."""
        super().bind(parameters, gradients)
        self._weight, self._bias = parameters.get("weight"), parameters.get("bias")
        self._dweight: FloatArray | bool = gradients.get("weight", False)
        self._dbias: FloatArray | bool = gradients.get("bias", False)
        self._running_mean, self._running_var = self.buffers["running_mean"], self.buffers["running_var"]
        self._mean, self._var = (aligned_zeros((self.num_features,), np.dtype(np.float64)) for _ in range(2))
        self._y_buffer = BatchBuffer()

    def _rows(self, x: FloatArray) -> FloatArray:
        return x if x.ndim == 2 else x.reshape(-1, self.num_features)

    def forward(self, x: FloatArray, training: bool) -> FloatArray:
        """Return x normalised."""
        rows = self._rows(x)
        if not training:
            mean, var = self._running_mean, self._running_var
            return _batch_norm(rows, self._weight, self._bias, self.eps, mean, var, False, None).reshape(x.shape)
        n = len(rows)
        if n < 2:
            raise ValueError(
                f"{self!r} gets a batch of {n} in training; expected 2 values of each feature or more, "
                "which have a variance"
            )
        y = self._y_buffer.like(x)
        _batch_norm(rows, self._weight, self._bias, self.eps, self._mean, self._var, True, self._rows(y))
        self._x = rows
        self._movement = self._mean, self._var, n, self.momentum, self._running_mean, self._running_var
        return y

    def backward(self, dy: FloatArray, accumulate: bool = False, need_dx: bool = True) -> FloatArray | None:
        """Turn dy into dx, in place; write the sums over the batch of dy xhat and of dy."""
        x = self._x
        if x is None:
            raise no_forward(self)
        rows = self._rows(dy)
        dx = rows if need_dx else False
        _batch_norm_backward(
            x, rows, self._weight, self.eps, self._mean, self._var, dx, self._dweight, self._dbias, accumulate
        )
        return rows.reshape(dy.shape)

    def commit(self) -> None:
        """Move the running statistics towards those of the batch."""
        if self._movement is not None:
            move_statistics(*self._movement)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in ("num_features", "eps", "momentum", "affine")}


@register(lambda: (LayerNorm(6), LayerNorm(6, affine=False)))
class LayerNorm(Layer):
    """Normalisation of each sample: y = (x - mean) / sqrt(var + eps) * weight + bias.

    mean and (biased) var are those of the last axes of x, in training and evaluation alike. With g = dy weight and
    xhat = (x - mean) / sqrt(var + eps): dx = (g - mean(g) - xhat mean(g xhat)) / sqrt(var + eps).

    Parameters
    ----------
    normalized_shape : int or tuple of int
        The lengths of the last axes of x, over which the means are taken.
    eps : float
        > 0.
    affine : bool
        Whether "weight" (at first 1) and "bias" (0), each of the normalised shape, are learned.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range.

    Notes
    -----
    Source: Ba, Kiros and Hinton 2016 (arXiv:1607.06450). As `torch.nn.LayerNorm`, where affine is called
    elementwise_affine. Sums are formed in float64, and whatever is finite is right, up to the largest numbers.
    """

    #: The input of the last forward pass in training.
    _x: FloatArray | None = None

    def __init__(self, normalized_shape: int | Sequence[int], *, eps: float = 1e-5, affine: bool = True) -> None:
        lengths = normalized_shape if isinstance(normalized_shape, tuple | list) else (normalized_shape,)
        if not lengths:
            raise ValueError("normalized_shape is empty; expected at least one length")
        self.normalized_shape = tuple(integer(length, "normalized_shape", least=1) for length in lengths)
        self.eps = real(eps, "eps", above=0.0)
        self.affine = flag(affine, "affine")
        self._size = math.prod(self.normalized_shape)

    def __repr__(self) -> str:
        shape = self.normalized_shape[0] if len(self.normalized_shape) == 1 else self.normalized_shape
        options = "" if self.eps == 1e-5 else f", eps={self.eps:g}"
        return f"LayerNorm({shape}{options}{'' if self.affine else ', affine=False'})"

    def output_shape(self, input_shape: Shape) -> Shape:
        """As the input's."""
        last = self.normalized_shape
        if input_shape is not None and input_shape[-len(last) :] != last:
            expected = f"({', '.join(['...', *map(str, last)])})" if len(input_shape) > len(last) else str(last)
            raise ValueError(f"samples of shape {input_shape}; expected {expected}")
        return input_shape

    def initialize(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, FloatArray]:
        """Return weight 1 and bias 0."""
        del input_shape, rng
        shape = self.normalized_shape
        return {"weight": np.ones(shape, dtype), "bias": np.zeros(shape, dtype)} if self.affine else {}

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return dict.fromkeys(("weight", "bias"), self.normalized_shape) if self.affine else {}

    def bind(self, parameters: Mapping[str, FloatArray], gradients: Mapping[str, FloatArray]) -> None:
        """Take the places of the parameters and gradients."""
        super().bind(parameters, gradients)
        self._weight = parameters["weight"].reshape(-1) if self.affine else None
        self._bias = parameters["bias"].reshape(-1) if self.affine else None
        self._dweight: FloatArray | bool = gradients["weight"].reshape(-1) if self.affine else False
        self._dbias: FloatArray | bool = gradients["bias"].reshape(-1) if self.affine else False
        float64 = np.dtype(np.float64)
        self._mean_buffer, self._var_buffer = RowBuffer((), float64), RowBuffer((), float64)
        self._y_buffer = BatchBuffer()

    def _rows(self, x: FloatArray) -> FloatArray:
        return x if x.ndim == 2 and x.shape[1] == self._size else x.reshape(-1, self._size)

    def forward(self, x: FloatArray, training: bool) -> FloatArray:
        """Return x normalised."""
        rows = self._rows(x)
        if not training:
            return _layer_norm(rows, self._weight, self._bias, self.eps, None, None, None).reshape(x.shape)
        y = self._y_buffer.like(x)
        self._x, self._mean, self._var = rows, self._mean_buffer.rows(len(rows)), self._var_buffer.rows(len(rows))
        _layer_norm(rows, self._weight, self._bias, self.eps, self._mean, self._var, self._rows(y))
        return y

    def backward(self, dy: FloatArray, accumulate: bool = False, need_dx: bool = True) -> FloatArray | None:
        """Turn dy into dx, in place; write the sums over the batch of dy xhat and of dy."""
        x = self._x
        if x is None:
            raise no_forward(self)
        rows = self._rows(dy)
        dx = rows if need_dx else False
        _layer_norm_backward(
            x, rows, self._weight, self.eps, self._mean, self._var, dx, self._dweight, self._dbias, accumulate
        )
        return rows.reshape(dy.shape)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in ("normalized_shape", "eps", "affine")}
