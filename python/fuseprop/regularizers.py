"""Regularisers: functions of the weights that are added to a loss, and objectives made with them.

A regulariser is a small immutable object. With `params` an array, a list or a dict of arrays, or a model,

- ``regularizer(params)`` is its value, a float, summed in float64 over all arrays,
- ``regularizer.gradient(params)`` is the gradient, arranged as `params` is, new arrays of the same dtypes,
- ``regularizer.value_and_grad(params)`` is both,
- ``regularizer.penalties`` is what an optimizer takes instead: ``Adam(params, **L2(1e-4).penalties)`` adds the same
  gradient in its own pass over memory.

`objective` and `mix` join a loss and a regulariser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fuseprop._checks import real, unmasked
from fuseprop._listing import listing
from fuseprop._value import Value
from fuseprop.optim.arrays import Arrays, Model, describe, walk

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray

__all__ = ["L1", "L2", "ElasticNet", "Regularizer", "mix", "objective"]

__dir__ = listing(__all__)


def _checked(array: Any, name: str) -> FloatArray:
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} is {describe(array)}; expected an array of float32 or float64")
    unmasked(array, name)
    return array


def _arrays(params: Arrays) -> list[FloatArray]:
    return [_checked(array, name) for array, name in zip(*walk(params, "params"), strict=True)]


def _arranged(arrays: Sequence[FloatArray], params: Arrays) -> Any:
    """Return the arrays in the arrangement of `params`."""
    if isinstance(params, Mapping):
        return dict(zip(params, arrays, strict=True))
    return list(arrays) if isinstance(params, list | tuple) else arrays[0]


def _combined(params: Arrays, grads: Any, combine: Callable[[FloatArray, FloatArray], FloatArray]) -> Any:
    """Return combine(g, w) for each parameter w with its gradient g, arranged as `params` is."""
    weights = _arrays(params)
    if isinstance(params, Mapping):
        if not isinstance(grads, Mapping) or grads.keys() != params.keys():
            raise ValueError(f"grads is {describe(grads)}; expected a dict with the keys {list(params)}, as params is")
        given = [(grads[key], f"grads[{key!r}]") for key in params]
    elif isinstance(params, list | tuple):
        if not isinstance(grads, list | tuple) or len(grads) != len(params):
            raise ValueError(f"grads is {describe(grads)}; expected a list of {len(params)} arrays, as params is")
        given = [(g, f"grads[{i}]") for i, g in enumerate(grads)]
    else:
        given = [(grads.flat_gradients if isinstance(grads, Model) else grads, "grads")]
    results = []
    for (grad, name), weight in zip(given, weights, strict=True):
        if _checked(grad, name).shape != weight.shape:
            raise ValueError(f"{name} has shape {grad.shape}; expected its parameter's, {weight.shape}")
        if grad.dtype != weight.dtype:
            raise TypeError(
                f"{name} has dtype {grad.dtype}; expected its parameter's, {weight.dtype}: "
                f"cast it with .astype(np.{weight.dtype})"
            )
        combined: Any = combine(grad, weight)
        results.append(np.asarray(combined))  # of arrays without dimensions NumPy makes scalars
    return _arranged(results, params)


def _sum_of_squares(params: Arrays) -> float:
    return sum(float(np.square(w, dtype=np.float64).sum()) for w in _arrays(params))


class Regularizer(Value):
    """What all regularisers share: l1 sum |w| + l2 / 2 sum w^2, with the gradient l1 sign(w) + l2 w, sign(0) = 0."""

    __slots__ = ()

    @property
    def penalties(self) -> dict[str, float]:
        """The keyword arguments `l1` and `weight_decay` that make an optimizer add the same gradient."""
        raise NotImplementedError

    def __call__(self, params: Arrays) -> float:
        """Return the value for `params`: a model, an array, a list or a dict of arrays."""
        l1, l2 = self.penalties["l1"], self.penalties["weight_decay"]
        value = l2 / 2.0 * _sum_of_squares(params) if l2 else 0.0
        if l1:
            value += l1 * sum(float(np.abs(w).sum(dtype=np.float64)) for w in _arrays(params))
        return value

    def gradient(self, params: Arrays) -> Any:
        """Return the gradient, arranged as `params` is."""
        l1, l2 = self.penalties["l1"], self.penalties["weight_decay"]
        return _arranged([self._gradient(w, l1, l2) for w in _arrays(params)], params)

    def value_and_grad(self, params: Arrays) -> tuple[float, Any]:
        """Return the value and the gradient, arranged as `params` is."""
        return self(params), self.gradient(params)

    @staticmethod
    def _gradient(w: FloatArray, l1: float, l2: float) -> FloatArray:
        # A factor of 0 is left out: an infinite weight would make NaN of it.
        gradient = l2 * w if l2 else np.zeros_like(w)
        result: FloatArray = np.asarray(gradient + l1 * np.sign(w) if l1 else gradient)  # which may be a scalar
        return result


class L1(Regularizer):
    """Lasso: factor sum |w|.

    Parameters
    ----------
    factor : float
        lambda, >= 0.

    Notes
    -----
    The gradient is a subgradient at 0, where it is 0: descent along it makes weights small, not exactly 0.
    """

    __slots__ = ()

    def __init__(self, factor: float) -> None:
        super().__init__(factor=real(factor, "factor", least=0.0))

    @property
    def penalties(self) -> dict[str, float]:
        """The keyword arguments `l1` and `weight_decay` that make an optimizer add the same gradient."""
        return {"l1": self.factor, "weight_decay": 0.0}


class L2(Regularizer):
    """Ridge: factor / 2 sum w^2, whose gradient is factor w.

    Parameters
    ----------
    factor : float
        lambda, >= 0.

    Notes
    -----
    PyTorch's `weight_decay`. Keras' `L2` is without the half.
    """

    __slots__ = ()

    def __init__(self, factor: float) -> None:
        super().__init__(factor=real(factor, "factor", least=0.0))

    @property
    def penalties(self) -> dict[str, float]:
        """The keyword arguments `l1` and `weight_decay` that make an optimizer add the same gradient."""
        return {"l1": 0.0, "weight_decay": self.factor}


class ElasticNet(Regularizer):
    """Both: factor (l1_ratio sum |w| + (1 - l1_ratio) / 2 sum w^2).

    Parameters
    ----------
    factor : float
        lambda, >= 0; scikit-learn's alpha.
    l1_ratio : float
        In [0, 1].

    Notes
    -----
    The penalty of `sklearn.linear_model.ElasticNet`. Source: Zou and Hastie 2005.
    """

    __slots__ = ()

    def __init__(self, factor: float, l1_ratio: float = 0.5) -> None:
        super().__init__(
            factor=real(factor, "factor", least=0.0), l1_ratio=real(l1_ratio, "l1_ratio", least=0.0, most=1.0)
        )

    @property
    def penalties(self) -> dict[str, float]:
        """The keyword arguments `l1` and `weight_decay` that make an optimizer add the same gradient."""
        return {"l1": self.factor * self.l1_ratio, "weight_decay": self.factor * (1.0 - self.l1_ratio)}


def objective(value: float, grads: Any, params: Arrays, regularizer: Regularizer) -> tuple[float, Any]:
    """Structural risk: mean(L) + Omega(params), and its gradient.

    Parameters
    ----------
    value, grads
        The mean of a loss, and its gradients, arranged as `params` is; for a model, the model itself.
    params
        A model, an array, a list or a dict of arrays.
    regularizer
        Omega, with its lambda.

    Returns
    -------
    (float, gradients)
        New arrays, arranged as `params` is.

    Raises
    ------
    TypeError, ValueError
        If `regularizer` is none, an array is neither float32 nor float64, or the gradients do not fit the parameters in
        arrangement, shape and dtype.
    """
    if not isinstance(regularizer, Regularizer):
        raise TypeError(f"regularizer must be a Regularizer, found {describe(regularizer)}")
    l1, l2 = regularizer.penalties["l1"], regularizer.penalties["weight_decay"]
    total = _combined(params, grads, lambda g, w: g + regularizer._gradient(w, l1, l2))
    return value + regularizer(params), total


def mix(value: float, grads: Any, params: Arrays, share: float) -> tuple[float, Any]:
    """Return share E + (1 - share) sum w^2 and its gradient: the error E weighed against the complexity of the weights.

    Parameters
    ----------
    value, grads
        E and its gradients, arranged as `params` is; for a model, the model itself.
    params
        A model, an array, a list or a dict of arrays.
    share : float
        lambda, in [0, 1].

    Returns
    -------
    (float, gradients)
        New arrays, arranged as `params` is.

    Raises
    ------
    TypeError, ValueError
        If `share` is out of its range, an array is neither float32 nor float64, or the gradients do not fit in
        arrangement, shape and dtype.
    """
    share = real(share, "share", least=0.0, most=1.0)
    total = _combined(params, grads, lambda g, w: share * g + 2.0 * (1.0 - share) * w)
    return share * value + (1.0 - share) * _sum_of_squares(params), total
