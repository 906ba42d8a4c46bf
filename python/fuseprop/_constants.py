"""What of a loss depends on the targets alone: samples of them, its best constant prediction, what it leaves out.

Each function is named by a `LossSpec`, as `best` or as `dropped`. The former take targets with the samples first,
their weights or None, and the loss's parameters; the latter targets and parameters. All compute in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]
Parameters = Mapping[str, Any]

_SHARES = ([0.0, 0.25, 1.0], [-0.01, 1.01, np.nan, np.inf])

#: Of each domain, numbers that are inside, its edges among them, and numbers that are not.
SAMPLES: dict[str, tuple[list[float], list[float]]] = {
    "real": ([-3.5, 0.0, 2.0], []),
    "unit": _SHARES,
    "sign": ([-1.0, 1.0], [0.0, 0.5, -1.001, np.nan, -np.inf]),
    "nonnegative": ([0.0, 0.25, 7.0], [-0.01, np.nan, np.inf, -np.inf]),
    "positive": ([0.25, 7.0], [0.0, -0.0, -3.0, np.nan, np.inf]),
    "nonzero": ([-3.5, 0.25, 7.0], [0.0, -0.0]),
    "labels": ([0.0, 1.0], [-1.0]),
    "distribution": _SHARES,
    "log_distribution": ([-np.inf, -0.5, 0.0], [0.01, np.nan, np.inf]),
    "classes": _SHARES,
}


def _columns(target: ArrayLike, sample_weight: ArrayLike | None) -> tuple[F64, F64]:
    """Return targets and weights of one shape."""
    y = np.asarray(target, np.float64)
    w = np.ones(1) if sample_weight is None else np.asarray(sample_weight, np.float64)
    return y, np.broadcast_to(w.reshape(w.shape + (1,) * (y.ndim - w.ndim)), y.shape)


# --- the best constant prediction ---------------------------------------------------------------------------


def mean(target: ArrayLike, sample_weight: ArrayLike | None, parameters: Parameters) -> Any:
    """Return the mean: where d1 is the residual, of a squared error, and of -1 and 1 with a squared margin."""
    del parameters
    y, w = _columns(target, sample_weight)
    return (w * y).sum(axis=0) / w.sum(axis=0)


def log_mean(target: ArrayLike, sample_weight: ArrayLike | None, parameters: Parameters) -> Any:
    """Return the logarithm of the mean; of a mean below 0 (Tweedie, power <= 0), which no prediction reaches, -inf."""
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(mean(target, sample_weight, parameters), 0.0))


def quantile(target: ArrayLike, sample_weight: ArrayLike | None, parameters: Parameters) -> Any:
    """Return the quantile q, or for each column its own; in the middle, where all between two targets are as good."""
    y, w = _columns(target, sample_weight)
    q = np.asarray(parameters["q"])
    if q.ndim and y.ndim == 1:  # one target serves all columns
        y, w = (np.repeat(a[:, np.newaxis], len(q), axis=1) for a in (y, w))
    return _quantile(y, w, q)


def median(target: ArrayLike, sample_weight: ArrayLike | None, parameters: Parameters) -> Any:
    """Return the median."""
    del parameters
    return _quantile(*_columns(target, sample_weight), np.asarray(0.5))


def relative_median(target: ArrayLike, sample_weight: ArrayLike | None, parameters: Parameters) -> Any:
    """Return the median where a target y counts 1 / abs(y), of an error in parts of the target.

    A target of 0 counts nothing, or more than all others if the error is infinite there.
    """
    y, w = _columns(target, sample_weight)
    w = np.divide(w, np.abs(y), out=np.zeros_like(y), where=y != 0)
    if parameters["on_zero"] == "inf":
        w = np.where(y == 0, 1.0 + 2.0 * w.sum(axis=0), w)
    return _quantile(y, w, np.asarray(0.5))


def _quantile(y: F64, w: F64, q: F64) -> Any:
    order = np.argsort(y, axis=0)
    y, below = np.take_along_axis(y, order, axis=0), np.cumsum(np.take_along_axis(w, order, axis=0), axis=0)
    wanted = q * below[-1]
    first, after = (below < wanted).sum(axis=0), (below <= wanted).sum(axis=0)
    ends = [np.take_along_axis(y, np.minimum(i, len(y) - 1)[np.newaxis], axis=0)[0] for i in (first, after)]
    return 0.5 * (ends[0] + ends[1])


def majority(target: ArrayLike, sample_weight: ArrayLike | None, parameters: Parameters) -> Any:
    """Return the sign, -1 or 1, that more of the targets have: up to a margin of 1 a hinge is straight."""
    return np.where(mean(target, sample_weight, parameters) < 0, -1.0, 1.0)[()]


def log_odds(target: ArrayLike, sample_weight: ArrayLike | None, parameters: Parameters) -> Any:
    """Return the log-odds of targets in [0, 1], of which 1 counts `pos_weight` times."""
    share = mean(target, sample_weight, parameters)
    with np.errstate(divide="ignore"):
        return np.log(parameters.get("pos_weight", 1.0) * share) - np.log(1.0 - share)


def log_odds_of_signs(target: ArrayLike, sample_weight: ArrayLike | None, parameters: Parameters) -> Any:
    """Return the log-odds of 1 among targets of -1 and 1."""
    return log_odds((np.asarray(target, np.float64) + 1.0) / 2.0, sample_weight, parameters)


def half_log_odds_of_signs(target: ArrayLike, sample_weight: ArrayLike | None, parameters: Parameters) -> Any:
    """Return half of the log-odds, at which e^-p of the ones and e^p of the others are in balance."""
    return 0.5 * log_odds_of_signs(target, sample_weight, parameters)


def distribution(target: ArrayLike, sample_weight: ArrayLike | None, parameters: Parameters) -> Any:
    """Return the mean distribution, the best of all distributions; targets may be logarithms (`log_target`)."""
    y = np.exp(np.asarray(target, np.float64)) if parameters.get("log_target") else target
    return mean(y, sample_weight, parameters)


def log_distribution(target: ArrayLike, sample_weight: ArrayLike | None, parameters: Parameters) -> Any:
    """Return the logarithms of the mean distribution."""
    with np.errstate(divide="ignore"):
        return np.log(distribution(target, sample_weight, parameters))


def class_logits(target: ArrayLike, sample_weight: ArrayLike | None, parameters: Parameters) -> Any:
    """Return the logits of the softmax cross-entropy.

    Its gradient is A p - a, A = sum_j a_j: the best p is the mean of a, scaled to a sum of 1. T log p has this softmax,
    and a logsumexp of 0, at which `z_loss` is least too.
    """
    y, w = _columns(target, sample_weight)
    if parameters["ignore_index"] is not None:
        w = w * (y[:, [parameters["ignore_index"]]] != 1.0)
    smoothing, of_classes = parameters["label_smoothing"], parameters["class_weight"]
    a = (1.0 - smoothing) * y + smoothing / y.shape[1]
    total = (w * a * (1.0 if of_classes is None else np.asarray(of_classes))).sum(axis=0)
    with np.errstate(divide="ignore"):
        return parameters["temperature"] * np.log(total / total.sum())


# --- what a loss leaves out ---------------------------------------------------------------------------------


def poisson_constant(target: ArrayLike, parameters: Parameters) -> Any:
    """Return y log y - y: with it e^z - y z is half the deviance, 0 where e^z is y."""
    del parameters
    y = np.asarray(target, np.float64)
    return y * np.log(np.where(y > 0, y, 1.0)) - y


def gamma_constant(target: ArrayLike, parameters: Parameters) -> Any:
    """Return -log y - 1."""
    del parameters
    return -np.log(np.asarray(target, np.float64)) - 1.0


def tweedie_constant(target: ArrayLike, parameters: Parameters) -> Any:
    """Return y^(2-P) / ((1-P) (2-P)), of negative y 0; P = 1 and 2 are Poisson and Gamma, P = 0 leaves nothing out."""
    power = parameters["power"]
    if power in (1.0, 2.0):
        return (poisson_constant if power == 1.0 else gamma_constant)(target, parameters)
    y = np.asarray(target, np.float64)
    return 0.0 * y if power == 0 else np.maximum(y, 0.0) ** (2.0 - power) / ((1.0 - power) * (2.0 - power))
