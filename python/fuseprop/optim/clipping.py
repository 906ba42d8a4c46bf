"""Clipping in place: gradients by their norm or entry by entry, and weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fuseprop import _core
from fuseprop._checks import real, unmasked
from fuseprop.optim.arrays import Arrays, Model, describe, walk
from fuseprop.optim.optimizer import clip_scale, exact_norm

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray


def _listed(given: Arrays | Iterable[FloatArray], name: str) -> list[FloatArray]:
    """Return the arrays, each of which can be clipped in place; a model counts as its `name`."""
    if isinstance(given, Iterable) and not isinstance(given, np.ndarray | Mapping | Model):
        given = list(given)
    arrays, names = walk(given, name)
    for array, place in zip(arrays, names, strict=True):
        if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
            raise TypeError(f"{place} is {describe(array)}; expected an array of float32 or float64")
        unmasked(array, place)
        if not array.flags.writeable:
            raise ValueError(f"{place} is read-only; it is clipped in place")
    return arrays


def _clip(arrays: list[FloatArray], value: float) -> None:
    for array in arrays:
        with np.errstate(over="ignore"):  # a value beyond float32 clips nothing
            np.clip(array, -value, value, out=array)


def clip_grad_norm(grads: Arrays | Iterable[FloatArray], max_norm: float) -> float:
    """Scale gradients in place so that their norm, taken over all of them together, is at most `max_norm`.

    Parameters
    ----------
    grads
        A model, an array, a list or a dict of arrays, of float32 or float64, of any strides.
    max_norm : float
        > 0; infinity to measure only, which changes nothing.

    Returns
    -------
    float
        The norm before, sqrt(sum g^2), summed in float64; the same bits on any number of threads. Infinite if it is
        beyond float64, though the gradients are finite and are clipped as they should be.

    Raises
    ------
    TypeError, ValueError
        If `max_norm` is not a positive number, an array cannot be clipped in place, or two share memory, whose entries
        would count twice and be scaled twice; nothing changes.

    Notes
    -----
    As `torch.nn.utils.clip_grad_norm_`, which divides by n + 1e-6 where this divides by n. A NaN makes all
    gradients NaN; an infinity makes its own entry NaN and the others 0. An optimizer with `max_norm` does
    the same without writing the gradients.
    """
    if not (isinstance(max_norm, float | np.floating) and max_norm == math.inf):
        max_norm = real(max_norm, "max_norm", above=0.0)
    arrays = _listed(grads, "grads")
    large, ratio = exact_norm(_core.global_norm(arrays), [arrays])
    if max_norm != math.inf:
        scale = clip_scale((large, ratio), max_norm)
        if scale != 1.0:
            for array in arrays:
                # What the array's dtype would round to a subnormal number or to 0 is multiplied in float64.
                wide = np.float64 if 0.0 < scale < np.finfo(array.dtype).tiny else array.dtype
                with np.errstate(invalid="ignore"):  # inf * 0, as documented
                    np.multiply(array, scale, out=array, dtype=wide, casting="same_kind")
    return large * ratio


def clip_grad_value(grads: Arrays | Iterable[FloatArray], value: float) -> None:
    """Clip each entry of `grads` to [-value, value], in place; NaN stays NaN.

    Raises
    ------
    TypeError, ValueError
        If `value` is not a positive number or an array cannot be clipped in place. Nothing has changed then.

    Notes
    -----
    As `torch.nn.utils.clip_grad_value_`.
    """
    value = real(value, "value", above=0.0)
    _clip(_listed(grads, "grads"), value)


def clip_weights(params: Arrays | Iterable[FloatArray], value: float) -> None:
    """Clip each parameter to [-value, value], in place; NaN stays NaN.

    What keeps the critic of a Wasserstein GAN Lipschitz: call it after each `step`.

    Parameters
    ----------
    params
        A model, an array, a list or a dict of arrays, of float32 or float64, of any strides.
    value : float
        > 0; the paper's choice is 0.01.

    Raises
    ------
    TypeError, ValueError
        If `value` is not a positive number or an array cannot be clipped in place. Nothing has changed then.

    Notes
    -----
    Source: Arjovsky et al. 2017 (arXiv:1701.07875), algorithm 1. PyTorch has no function for it.
    """
    value = real(value, "value", above=0.0)
    _clip(_listed(params, "params"), value)
