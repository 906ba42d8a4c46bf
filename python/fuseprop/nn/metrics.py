"""Metrics of a run: their names, whether less of them is better, and which classes a loss's predictions are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuseprop import _registry, losses
from fuseprop._checks import unmasked

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray

#: A function of (pred, target) that returns a number to be reported.
Metric: TypeAlias = "Callable[[FloatArray, NDArray[Any]], float]"


def accuracy(pred: ArrayLike, target: ArrayLike, loss: losses.Loss | str | None = None) -> float:
    """Share of predictions whose class is right.

    Parameters
    ----------
    pred, target
        What the loss takes.
    loss : Loss, str or None
        What says which class a prediction is. Over classes: the largest along the last axis; target is labels, or
        distributions, whose largest is meant; rows of the loss's `ignore_index` do not count. Over two classes: a
        margin's sign (0 is wrong, as for ZeroOne), a logit above 0, a probability above 1/2, each element by itself;
        target is -1 or 1, or a number of [0, 1], of which those above 1/2 are class 1.

        None: it goes by the shapes. For (N, C): the largest score's class against labels, (N,) or (N, 1), or
        distributions (N, C). For (N, 1): pred > 0, as for a logit or a margin, against target > 1/2, which serves
        targets in {0, 1} and {-1, 1}.

    Raises
    ------
    ValueError, TypeError
        If the shapes do not fit, an array is masked, or the loss's predictions are of no class, as those of
        a regression.

    Notes
    -----
    A NaN is of no class, and never right. The accuracy of nothing is 0.
    """
    unmasked(pred, "pred")
    unmasked(target, "target")
    pred, target = np.asarray(pred), np.asarray(target)
    if loss is None:
        right = _right_by_shapes(pred, target)
    else:
        found = losses.get(loss) if isinstance(loss, str) else loss
        _check_has_classes(found)
        right = (
            _right_of_classes(pred, target, found) if found.spec.over_classes else _right_of_two(pred, target, found)
        )
    return float(right.mean()) if right.size else 0.0


def _check_has_classes(loss: losses.Loss) -> None:
    if not loss.spec.over_classes and loss.spec.prediction == "value":
        raise ValueError(
            f"accuracy is not defined for {loss.spec.name}, whose predictions are numbers and no classes; give another "
            "metric, a function of (pred, target), such as fuseprop.losses.AbsoluteError()"
        )


def _right_by_shapes(pred: NDArray[Any], target: NDArray[Any]) -> NDArray[np.bool_]:
    if pred.ndim != 2 or target.shape not in (pred.shape, (len(pred),), (len(pred), 1)):
        raise ValueError(
            "accuracy needs pred (N, C) and labels (N,) or (N, 1), or distributions (N, C); "
            f"found {pred.shape} and {target.shape}"
        )
    if target.shape[1:] == (1,):
        target = target[:, 0]
    if pred.shape[1] == 1:
        return _are_numbers(pred[:, 0]) & np.equal(pred[:, 0] > 0, target > 0.5)
    return _largest_is(pred, target)


def _right_of_classes(pred: NDArray[Any], target: NDArray[Any], loss: losses.Loss) -> NDArray[np.bool_]:
    rows = pred.shape[:-1]
    if pred.ndim == 0 or target.shape not in (pred.shape, rows, (*rows, 1)):
        raise ValueError(
            f"accuracy needs pred (..., C) and labels (...) or distributions (..., C) for {loss.spec.name}; "
            f"found {pred.shape} and {target.shape}"
        )
    if target.shape != pred.shape:
        target = target.reshape(rows)
        ignored = loss._parameters.get("ignore_index")
        if ignored is not None:
            pred, target = pred[target != ignored], target[target != ignored]
    return _largest_is(pred, target)


def _largest_is(pred: NDArray[Any], target: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the largest of each row is that of the label, or of the distribution."""
    labels = target.argmax(axis=-1) if target.ndim == pred.ndim else target
    right: NDArray[np.bool_] = _are_numbers(pred).all(axis=-1) & (pred.argmax(axis=-1) == labels)
    return right


def _right_of_two(pred: NDArray[Any], target: NDArray[Any], loss: losses.Loss) -> NDArray[np.bool_]:
    if pred.shape not in (target.shape, (*target.shape, 1)):
        raise ValueError(
            f"accuracy needs pred and target of one shape for {loss.spec.name}; found {pred.shape} and {target.shape}"
        )
    spec, target = loss.spec, target.reshape(pred.shape)
    of_target = target > (0.0 if spec.target_domain == "sign" else 0.5)
    right: NDArray[np.bool_] = (pred > (0.5 if spec.prediction == "probability" else 0.0)) == of_target
    return right & _are_numbers(pred) & (pred != 0 if spec.prediction == "margin" else True)


def _are_numbers(pred: NDArray[Any]) -> NDArray[np.bool_]:
    numbers: NDArray[np.bool_] = pred == pred  # noqa: PLR0124  # a NaN is not itself; isnan takes no integers of all widths
    return numbers


_NAMES = ("accuracy",)


def named_metrics(metrics: Sequence[str | Metric | losses.Loss], loss: object) -> dict[str, Metric]:
    """Return the metrics of a run by the names that they are reported with; `loss` is that of the run."""
    if not isinstance(metrics, Iterable):
        raise TypeError(f"metrics must be a list of names and functions, found {type(metrics).__name__}")
    named: dict[str, Metric] = {}
    for i, metric in enumerate([metrics] if isinstance(metrics, str) else metrics):
        name, function = _named(metric, i, loss)
        if name in named or name in ("loss", "lr") or name.startswith("val_"):
            reported = ", ".join(map(repr, ["loss", "lr", *named]))
            raise ValueError(
                f"metrics[{i}] has the name {name!r}; expected one that is not reported already ({reported}) and does "
                "not begin with 'val_'"
            )
        named[name] = function
    return named


def _named(metric: str | Metric | losses.Loss, place: int, loss: object) -> tuple[str, Metric]:
    if isinstance(metric, str):
        if metric not in _NAMES:
            spec = _registry.spelled("loss", metric)
            hint = f"; of a loss it is an object, fuseprop.losses.{spec.cls.__name__}()" if spec is not None else ""
            raise ValueError(f"unknown metric {metric!r}; known: {', '.join(_NAMES)}{hint}")
        if not isinstance(loss, losses.Loss):
            raise ValueError(
                "the metric 'accuracy' follows what the loss says of its predictions, and a function of your own says "
                "nothing; give a function of (pred, target), such as fuseprop.nn.accuracy, which goes by the shapes"
            )
        _check_has_classes(loss)
        return metric, partial(accuracy, loss=loss)
    if isinstance(metric, type) or not callable(metric):
        found = f"the class {metric.__name__}" if isinstance(metric, type) else type(metric).__name__
        raise TypeError(f"metrics[{place}] must be a name or a function, found {found}")
    is_ours = metric is accuracy
    if is_ours and isinstance(loss, losses.Loss) and (loss.spec.over_classes or loss.spec.prediction != "value"):
        return "accuracy", partial(accuracy, loss=loss)
    if isinstance(metric, losses.Loss):
        return metric.spec.name, metric  # type: ignore[return-value]  # a float, without a reduction
    name = getattr(metric, "__name__", "<lambda>")
    return f"metric_{place}" if name == "<lambda>" else name, metric


def reported_number(value: Any, name: str) -> float:
    """Return what a metric has returned as a float."""
    if isinstance(value, float):
        return value
    if np.ndim(value) == 0 and not isinstance(value, str | bytes):
        with suppress(TypeError, ValueError):
            return float(value)
    found = f"an array of shape {np.shape(value)}" if np.ndim(value) else type(value).__name__
    raise TypeError(f"the metric {name!r} returned {found}; expected a number")


def monitored(names: Iterable[str], monitor: str | None, who: str) -> str:
    """Return which of the reported names is monitored; None: the validation loss, or else the loss."""
    names = tuple(names)
    if monitor is None:
        return "val_loss" if "val_loss" in names else "loss"
    if monitor not in names:
        raise ValueError(f"{who} monitors {monitor!r}; reported are {', '.join(map(repr, names))}")
    return monitor


def direction(name: str, mode: str | None, who: str) -> str:
    """Return "min" or "max": whether less or more of what is reported with this name is better.

    A loss is better the lower, an accuracy the higher; a mode that says otherwise is refused. Of any other name the
    mode must tell.
    """
    metric = name.removeprefix("val_")
    known = "max" if metric == "accuracy" else "min" if metric == "loss" or metric in _registry.losses() else None
    if mode is None and known is None:
        raise ValueError(f"{who} monitors {name!r}, of which less or more may be better: give mode='min' or mode='max'")
    if known is not None and mode not in (None, known):
        better = "lower" if known == "min" else "higher"
        raise ValueError(
            f"{who} has mode={mode!r} and monitors {name!r}, which is better the {better}; expected mode={known!r}, or "
            "monitor= another name"
        )
    return mode or known or ""
