"""Classic learning rules: the change of the weights that one sample, or the sum over a batch, calls for.

The input x is one sample (F,) or a batch (N, F). What a rule compares or multiplies it with is, for one unit, a number
or (N,), and for U units (U,) or (N, U). The change is (F,) for one unit and (F, U) for several, to be added to the
weights: `w += rules.delta(x, w @ x, target)`. A batch gives the sum over its samples.

A threshold is a weight like the others, on an input that is always -1: `with_threshold(x)` appends it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuseprop._checks import float_array, real
from fuseprop._listing import listing

__all__ = ["delta", "hebb", "neuron", "perceptron", "with_threshold"]

__dir__ = listing(__all__)


def _inputs(x: ArrayLike, name: str) -> NDArray[Any]:
    array = float_array(x, name)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} has shape {array.shape}; expected (F,) for a sample or (N, F) for a batch")
    return array


def _outputs(value: ArrayLike, name: str, x: NDArray[Any], x_name: str) -> NDArray[Any]:
    array = float_array(value, name)
    batch = x.shape[:-1]
    if array.ndim not in (len(batch), len(batch) + 1) or array.shape[: len(batch)] != batch:
        expected = "a number or (U,)" if not batch else f"({batch[0]},) or ({batch[0]}, U)"
        raise ValueError(f"{name} has shape {array.shape}; expected {expected} for {x_name} of shape {x.shape}")
    return array


def _pair(a: ArrayLike, a_name: str, b: ArrayLike, b_name: str, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    first, second = _outputs(a, a_name, x, "x"), _outputs(b, b_name, x, "x")
    if first.shape != second.shape:
        raise ValueError(f"{a_name} has shape {first.shape} and {b_name} has shape {second.shape}; expected the same")
    return first, second


def _change(rate: float, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """Multiply inputs and y, and sum over the batch."""
    rate = real(rate, "rate", least=0.0)
    product: NDArray[Any] = x.T @ y if x.ndim == 2 else np.multiply.outer(x, y)
    return rate * product


def hebb(pre: ArrayLike, post: ArrayLike, rate: float = 1.0) -> NDArray[Any]:
    """Hebb's rule: dw = rate pre post. What fires together wires together.

    Parameters
    ----------
    pre, post
        Activities before and behind the weights: (F,) or (N, F); a number, (N,), (U,) or (N, U).
    rate : float
        >= 0.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, a dtype is not of real numbers, or the rate is out of its range.

    Notes
    -----
    Source: Hebb 1949. Nothing bounds the weights.
    """
    x = _inputs(pre, "pre")
    return _change(rate, x, _outputs(post, "post", x, "pre"))


def delta(x: ArrayLike, output: ArrayLike, target: ArrayLike, rate: float = 1.0) -> NDArray[Any]:
    """Delta rule: dw = -rate (output - target) x, a step down the squared error of a linear unit.

    Parameters
    ----------
    x
        Inputs (F,) or (N, F).
    output, target
        What the unit gave and what it should give: a number, (N,), (U,) or (N, U).
    rate : float
        >= 0.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, a dtype is not of real numbers, or the rate is out of its range.

    Notes
    -----
    Also Widrow-Hoff or least mean squares. Source: Widrow and Hoff 1960.
    """
    x = _inputs(x, "x")
    found, wanted = _pair(output, "output", target, "target", x)
    return _change(rate, x, wanted - found)


def perceptron(x: ArrayLike, predicted: ArrayLike, target: ArrayLike, rate: float = 1.0) -> NDArray[Any]:
    """Perceptron rule: dw = rate (target - predicted) x, nothing where the class is right.

    Parameters
    ----------
    x
        Inputs (F,) or (N, F).
    predicted, target
        Classes that were predicted (see `neuron`) and are right: a number, (N,), (U,) or (N, U).
    rate : float
        >= 0.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, a dtype is not of real numbers, or the rate is out of its range.

    Notes
    -----
    It converges if a hyperplane separates the classes, and never ends otherwise. Source: Rosenblatt 1958.
    """
    x = _inputs(x, "x")
    found, wanted = _pair(predicted, "predicted", target, "target", x)
    return _change(rate, x, wanted - found)


def neuron(x: ArrayLike, weight: ArrayLike, threshold: ArrayLike = 0.0, *, at_zero: float = 1.0) -> NDArray[Any]:
    """McCulloch and Pitts' neuron: Step(w x - threshold), 1 where the weighted inputs reach the threshold, else 0.

    Parameters
    ----------
    x
        Inputs (F,) or (N, F).
    weight
        (F,), or (F, U) for several neurons.
    threshold
        A number, or (U,).
    at_zero : float
        What exactly the threshold gives, in [0, 1]: 1, or 0 as the perceptron has it.

    Returns
    -------
    array
        (), (N,), (U,) or (N, U); NaN stays NaN.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, a dtype is not of real numbers, or `at_zero` is out of its range.

    Notes
    -----
    Source: McCulloch and Pitts 1943.
    """
    x, w, limit = _inputs(x, "x"), float_array(weight, "weight"), float_array(threshold, "threshold")
    at_zero = real(at_zero, "at_zero", least=0.0, most=1.0)
    if w.ndim not in (1, 2) or w.shape[0] != x.shape[-1]:
        raise ValueError(f"weight has shape {w.shape}; expected ({x.shape[-1]},) or ({x.shape[-1]}, U)")
    if limit.shape not in ((), w.shape[1:]):
        raise ValueError(f"threshold has shape {limit.shape}; expected a number or {w.shape[1:]}")
    fires: NDArray[Any] = np.heaviside(x @ w - limit, at_zero)
    return fires


def with_threshold(x: ArrayLike) -> NDArray[Any]:
    """Append an input that is always -1, whose weight is the threshold.

    Parameters
    ----------
    x
        Inputs (F,) or (N, F).

    Returns
    -------
    array
        (F + 1,) or (N, F + 1).

    Raises
    ------
    TypeError, ValueError
        If the shape is another one or the dtype is not of real numbers.
    """
    x = _inputs(x, "x")
    return np.concatenate([x, np.full((*x.shape[:-1], 1), -1.0, x.dtype)], axis=-1)
