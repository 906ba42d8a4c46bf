"""The training loop: mini-batches, progress, validation, history."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuseprop import losses, optim
from fuseprop._checks import integer
from fuseprop._memory import RowBuffer
from fuseprop.nn.sequential import LossLike, Sequential

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray
    from fuseprop.init import Rng

#: A function of (pred, target) that returns a number to be reported.
Metric: TypeAlias = "Callable[[FloatArray, NDArray[Any]], float]"
#: Called after each epoch with (epoch, logs, model); training stops if it returns True.
Callback: TypeAlias = "Callable[[int, Mapping[str, float], Sequential], bool | None]"
#: (x, y) or (x, y, sample_weight).
ValidationData: TypeAlias = "tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]"


def fit(
    model: Sequential,
    x: ArrayLike,
    y: ArrayLike,
    *,
    loss: LossLike,
    optimizer: optim.Optimizer | str = "adam",
    epochs: int = 10,
    batch_size: int = 32,
    sample_weight: ArrayLike | None = None,
    validation_data: ValidationData | None = None,
    metrics: Sequence[str | Metric] = (),
    callbacks: Sequence[Callback] = (),
    shuffle: bool = True,
    progress: bool = True,
    rng: Rng = None,
) -> dict[str, list[float]]:
    """Train a model on mini-batches.

    Parameters
    ----------
    model
        What to train.
    x, y
        Samples along the first axis, and their targets: what the loss takes; (N,) will do for an output of
        (N, 1). They are never copied as a whole: each batch is gathered into a buffer, and cast there.
        Memory-mapped arrays may be larger than the memory.
    loss
        A loss or its name, or a function of (pred, target) that returns (value, gradient).
    optimizer
        One made for this model, or a name, "adam" or "sgd", for a new one with its defaults.
    epochs, batch_size : int
        Passes over the data, and samples per step. The last batch of an epoch is smaller if they do not
        divide.
    sample_weight
        (N,), or None. A batch's loss is its weighted mean.
    validation_data
        (x, y) or (x, y, sample_weight), evaluated after each epoch.
    metrics
        Names ("accuracy") or functions of (pred, target); reported along with the loss.
    callbacks
        Functions called after each epoch with (epoch counted from 0, dict of the epoch's values, model);
        training stops behind the epoch in which one returns True.
    shuffle : bool
        Whether each epoch goes through the samples in an order of its own.
    progress : bool
        Whether to show a progress bar, if tqdm is installed.
    rng : Generator, SeedSequence, int or None
        Draws these orders. None: the model's own generator.

    Returns
    -------
    dict
        Lists with one number per epoch: "loss" and each metric, the means over the epoch's samples while the
        parameters were moving; with validation data "val_loss" and "val_" + metric, of the parameters at
        the end of the epoch.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; refused by the first batch at the latest, before any parameter has
        changed, but for what only a later batch shows (a label out of range): then the steps before it
        stand.
    KeyboardInterrupt
        On Ctrl-C. The model then has the parameters of the last complete step, and can be used or trained
        further.

    Notes
    -----
    With one generator state, a run is the same to the bit, on any number of threads.
    """
    if isinstance(optimizer, str):
        optimizer = optim.get(optimizer, model)
    epochs, batch_size = integer(epochs, "epochs", least=1), integer(batch_size, "batch_size", least=1)
    model._set_loss(loss)
    model._set_optimizer(optimizer)
    named_metrics = _named_metrics(metrics)
    data = _Batches(model, x, y, sample_weight, loss)
    validation = None if validation_data is None else _Validation(model, validation_data, loss, named_metrics)
    generator = model.rng if rng is None else np.random.default_rng(rng)
    history: dict[str, list[float]] = {}
    num_batches = -(-data.size // batch_size)
    with _progress_bar(progress, epochs * num_batches) as bar:
        for epoch in range(epochs):
            order = generator.permutation(data.size) if shuffle else np.arange(data.size)
            sums = dict.fromkeys(("loss", *named_metrics), 0.0)
            total = 0.0
            for begin in range(0, data.size, batch_size):
                rows = order[begin : begin + batch_size]
                xb, yb, wb = data.gather(rows)
                share = float(len(rows)) if wb is None else float(wb.sum(dtype=np.float64))
                sums["loss"] += share * model.train_step(xb, yb, loss, optimizer, wb)
                for name, metric in named_metrics.items():
                    sums[name] += share * metric(model._output, yb)
                total += share
                if bar is not None:
                    bar.update()
            logs = {name: value / total if total else 0.0 for name, value in sums.items()}
            if validation is not None:
                logs.update(validation())
            for name, value in logs.items():
                history.setdefault(name, []).append(value)
            if bar is not None:
                bar.set_postfix({name: f"{value:.4g}" for name, value in logs.items()}, refresh=False)
            answers = [callback(epoch, logs, model) for callback in callbacks]
            if any(isinstance(answer, bool | np.bool_) and answer for answer in answers):
                break
    return history


def predict(model: Sequential, x: ArrayLike, batch_size: int | None = None) -> FloatArray:
    """Return the model's output for x in evaluation mode; see `Sequential.predict`."""
    x = np.asarray(x)
    if batch_size is None or x.ndim == 0 or len(x) <= integer(batch_size, "batch_size", least=1):
        return model(x)
    first = model(x[:batch_size])
    result: FloatArray = np.empty((len(x), *first.shape[1:]), first.dtype)
    result[:batch_size] = first
    for begin in range(batch_size, len(x), batch_size):
        result[begin : begin + batch_size] = model(x[begin : begin + batch_size])
    return result


class _Source:
    """An array whose rows are gathered into a buffer of a given dtype."""

    def __init__(self, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
        self.array = array
        self.buffer = RowBuffer(array.shape[1:], dtype)
        # np.take would copy a whole array that is not C-contiguous, and cannot cast.
        self.take = array.flags.c_contiguous and array.dtype == dtype

    def gather(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        batch = self.buffer.rows(len(rows))
        if self.take:
            # With the default mode, take would go through another buffer; the rows are in range.
            np.take(self.array, rows, axis=0, out=batch, mode="clip")
        else:
            batch[...] = self.array[rows]
        return batch


class _Batches:
    """Samples, targets and weights, gathered batch by batch."""

    def __init__(
        self, model: Sequential, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, loss: object
    ) -> None:
        xs = np.asarray(x)
        if not np.can_cast(xs.dtype, model.dtype, "same_kind"):
            raise TypeError(f"x has dtype {xs.dtype}; expected real numbers, best {model.dtype}")
        model._check_shape(xs.shape)
        self.size = len(xs)
        if self.size == 0:
            raise ValueError(f"x has shape {xs.shape}; expected at least one sample")
        ys = np.asarray(y)
        self._check_length("y", ys)
        self.x = _Source(xs, model.dtype)
        self.y = _Source(ys, _target_dtype(ys, model.dtype, loss))
        self.weight: _Source | None = None
        if sample_weight is not None:
            weights = np.asarray(sample_weight)
            self._check_length("sample_weight", weights)
            if weights.ndim != 1 or not np.can_cast(weights.dtype, model.dtype, "same_kind"):
                raise ValueError(
                    f"sample_weight has shape {weights.shape} and dtype {weights.dtype}; expected numbers "
                    f"of shape ({self.size},)"
                )
            self.weight = _Source(weights, model.dtype)

    def _check_length(self, name: str, array: NDArray[Any]) -> None:
        if array.ndim == 0 or len(array) != self.size:
            raise ValueError(f"{name} has shape {array.shape}; expected {self.size} samples, as x has")

    def gather(self, rows: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        weight = None if self.weight is None else self.weight.gather(rows)
        return self.x.gather(rows), self.y.gather(rows), weight


def _target_dtype(y: NDArray[Any], dtype: np.dtype[Any], loss: object) -> np.dtype[Any]:
    """Labels keep their dtype, and so does everything for a user's loss; other targets get the model's."""
    ours = isinstance(loss, losses.Loss | str)
    labels = y.ndim == 1 and y.dtype.kind in "biu"
    if not ours or labels or not np.can_cast(y.dtype, dtype, "same_kind"):
        return y.dtype
    return dtype


class _Validation:
    """The loss and the metrics on validation data."""

    def __init__(self, model: Sequential, data: ValidationData, loss: LossLike, metrics: Mapping[str, Metric]) -> None:
        if not isinstance(data, tuple | list) or len(data) not in (2, 3):
            raise TypeError(f"validation_data must be (x, y) or (x, y, sample_weight), found {type(data).__name__}")
        self.model, self.metrics = model, metrics
        self.x, self.y = np.asarray(data[0]), np.asarray(data[1])
        self.weight = np.asarray(data[2]) if len(data) == 3 else None
        for name, array in (("y", self.y), ("sample_weight", self.weight)):
            if array is not None and (array.ndim == 0 or len(array) != len(self.x)):
                raise ValueError(
                    f"{name} of validation_data has shape {array.shape}; expected {len(self.x)} samples, as x has"
                )
        model._check_shape(self.x.shape, "x of validation_data")
        if len(self.x) == 0:
            raise ValueError("validation_data is empty; expected at least one sample, or None")
        self.loss: Any = losses.get(loss) if isinstance(loss, str) else loss
        self(slice(1))  # better an error now than behind the first epoch

    def __call__(self, rows: slice = slice(None)) -> dict[str, float]:
        pred = self.model.predict(self.x[rows], _VALIDATION_ROWS)
        target = self.y[rows]
        if pred.shape[1:] == (1,) and target.ndim == 1:
            target = target[:, np.newaxis]
        weights = () if self.weight is None else (self.weight[rows],)
        value = self.loss(pred, target, *weights)
        # A user's function returns the gradient as well.
        logs = {"val_loss": float(value[0] if isinstance(value, tuple) else value)}
        logs.update({f"val_{name}": float(metric(pred, self.y[rows])) for name, metric in self.metrics.items()})
        return logs


_VALIDATION_ROWS = 4096  # at once: the activations of all would take memory without being faster


def accuracy(pred: FloatArray, target: NDArray[Any]) -> float:
    """Share of samples whose class is right.

    For (N, C): the largest score's class against labels (N,) or distributions (N, C). For (N, 1): pred > 0,
    as for a logit, against target > 0.5, which serves targets in {0, 1} and {-1, 1}.
    """
    if pred.ndim != 2 or len(pred) != len(target):
        raise ValueError(f"accuracy needs pred (N, C) and N targets, found {pred.shape} and {target.shape}")
    if pred.shape[1] == 1:
        return float(np.mean((pred[:, 0] > 0) == (target.reshape(len(target)) > 0.5)))
    labels = target if target.ndim == 1 else target.argmax(axis=1)
    return float(np.mean(pred.argmax(axis=1) == labels))


_METRICS: dict[str, Metric] = {"accuracy": accuracy}


def _named_metrics(metrics: Sequence[str | Metric]) -> dict[str, Metric]:
    named: dict[str, Metric] = {}
    for i, metric in enumerate([metrics] if isinstance(metrics, str) else metrics):
        if isinstance(metric, str):
            if metric not in _METRICS:
                raise ValueError(f"unknown metric {metric!r}; known: {', '.join(_METRICS)}")
            named[metric] = _METRICS[metric]
        elif callable(metric):
            named[getattr(metric, "__name__", f"metric_{i}")] = metric
        else:
            raise TypeError(f"metrics[{i}] must be a name or a function, found {type(metric).__name__}")
    return named


@contextmanager
def _progress_bar(wanted: bool, total: int) -> Iterator[Any]:
    """Give a tqdm bar over all steps, or None."""
    tqdm: Any = None
    if wanted:
        with suppress(ImportError):
            tqdm = importlib.import_module("tqdm").tqdm
    if tqdm is None:
        yield None
        return
    with tqdm(total=total, unit="step", dynamic_ncols=True) as bar:
        yield bar
