"""The training loop: mini-batches, progress, validation, schedules, history."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuseprop import losses, optim
from fuseprop._checks import class_weights, flag, integer, real
from fuseprop._memory import Changes, RowBuffer, at_once
from fuseprop.nn.callbacks import Callback, Checkpoint, EarlyStopping, EpochCallback, Run, monitored
from fuseprop.nn.health import explain_loss
from fuseprop.nn.io import open_checkpoint, plan_generator, refusing, restore_checkpoint
from fuseprop.nn.norm import BatchNorm
from fuseprop.nn.sequential import LossLike, NonFiniteLossError, Sequential, as_column
from fuseprop.optim.arrays import describe

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray
    from fuseprop.init import Rng
    from fuseprop.nn.callbacks import EpochFunction, Schedule
    from fuseprop.nn.layers import Layer

#: A function of (pred, target) that returns a number to be reported.
Metric: TypeAlias = "Callable[[FloatArray, NDArray[Any]], float]"
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
    class_weight: Mapping[Any, float] | ArrayLike | None = None,
    validation_data: ValidationData | None = None,
    early_stopping: EarlyStopping | int | None = None,
    schedule: Schedule | None = None,
    metrics: Sequence[str | Metric] = (),
    callbacks: Sequence[Callback | EpochFunction] = (),
    shuffle: bool = True,
    progress: bool = True,
    rng: Rng = None,
    resume: str | PathLike[str] | None = None,
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
        One made for this model, or a name of `fuseprop.optim` for a new one with its defaults.
    epochs, batch_size : int
        Passes over the data, and samples per step. The last batch of an epoch is smaller if they do not
        divide.
    sample_weight
        (N,), or None. A batch's loss is its weighted mean.
    class_weight
        Multiplies the weights of the samples of each class: a dict from labels to numbers, which must have all labels
        of y; an array with one number for each of the classes 0, 1, ...; or "balanced", N / (classes * count).
    validation_data
        (x, y) or (x, y, sample_weight), evaluated after each epoch.
    early_stopping
        An `EarlyStopping`, or its patience in epochs: ends the run, and brings back the best parameters.
    schedule
        The learning rate: a function of the number of steps that the optimizer has taken, called before each step; or
        an object with a method update(metric), called after each epoch with the validation loss (without validation
        data the loss), which returns the new rate, or None; or both in one. See `fuseprop.optim`.
    metrics
        Names ("accuracy") or functions of (pred, target), which get what the loss gets: targets (N, 1) for an output of
        (N, 1). They are reported along with the loss by their names, which differ; a lambda, or what has no name, is
        "metric_" and its place, "metric_0".
    callbacks
        `Callback` objects, such as `Checkpoint` and `GradientHealth`, or functions called after each epoch with (epoch
        counted from 0, dict of the epoch's values, model); training stops behind the epoch in which one returns True.
    shuffle : bool
        Whether each epoch goes through the samples in an order of its own.
    progress : bool
        Whether to show a progress bar, if tqdm is installed.
    rng : Generator, SeedSequence, int or None
        Draws these orders. None: the model's own generator.
    resume
        A file that `Checkpoint` wrote in a run like this one: it goes on from there, until `epochs` in all. Model,
        optimizer, schedule, callbacks, metrics and rng are made as they were made for that run; one that does not fit
        is refused, and model and optimizer stay as they were.

    Returns
    -------
    dict
        Lists with one number per epoch: "loss" and each metric, while the parameters were moving: the mean over the
        batches, each weighted by its number of samples, or the sum of their weights, also where the loss divides by
        something else (ignore_index, weights of classes of its own, a root); with validation data "val_loss" and
        "val_" + metric, of the parameters at the end of the epoch; with a schedule "lr", the rate at the end of the
        epoch. It is `model.history`, too, which stays if the run ends by an exception.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit, or the checkpoint the run; refused by the first batch at the latest, before any
        parameter has changed, but for what only a later batch shows (a label out of range): then the steps before it
        stand.
    NonFiniteLossError
        A FloatingPointError: the loss of a batch is NaN or infinite. The message names the layer where that arose; the
        model and the optimizer are as they were before this step.
    KeyboardInterrupt
        On Ctrl-C. The model then has the parameters of the last complete step, and can be used or trained
        further; see the head of `fuseprop.nn`.

    Notes
    -----
    With one generator state, a run is the same to the bit, on any number of threads, and whether it was interrupted and
    resumed between two epochs or not.
    """
    if isinstance(optimizer, str):
        optimizer = optim.get(optimizer, model)
    epochs, batch_size = integer(epochs, "epochs", least=1), integer(batch_size, "batch_size", least=1)
    model._alone(lambda: model._set_loss(loss))
    model._alone(lambda: model._set_optimizer(optimizer))
    named_metrics = _named_metrics(metrics)
    data = _Batches(model, x, y, loss, sample_weight, class_weight=class_weight)
    _check_last_batch(model, data, batch_size)
    validation = None if validation_data is None else _Validation(model, validation_data, loss, named_metrics)
    rate, plateau = _as_schedule(schedule)
    companions = _as_callbacks(early_stopping, callbacks)
    generator = model.rng if rng is None else np.random.default_rng(rng)
    names = ["loss", *named_metrics]
    names += [] if validation is None else [f"val_{name}" for name in names]
    run = Run(model, optimizer, epochs, names=(*names, *(["lr"] if schedule is not None else [])))
    state = _RunState(run, generator, companions, schedule)
    run.state = state.save
    for companion in companions:
        companion.begin(run)
    if resume is not None:
        state.load(resume)
    model.history = run.history
    steps = _Steps(run, data, loss, metrics=named_metrics, rate=rate, callbacks=companions)
    num_batches = -(-data.size // batch_size)
    with _progress_bar(progress, epochs * num_batches, run.epoch * num_batches) as bar:
        while run.epoch < epochs and not run.stopped:
            order = generator.permutation(data.size) if shuffle else np.arange(data.size)
            logs = steps.through(order, batch_size, bar)
            if validation is not None:
                logs.update(validation())
            if plateau is not None and (new_rate := plateau.update(monitored(logs, None, "schedule"))) is not None:
                optimizer.lr = new_rate
            if schedule is not None:
                logs["lr"] = optimizer.lr
            if bar is not None:
                bar.set_postfix({name: f"{value:.4g}" for name, value in logs.items()}, refresh=False)
            _end_epoch(run, logs, companions)
    for companion in companions:
        companion.end(run)
    return run.history


class _Steps:
    """The steps of a run, epoch by epoch."""

    def __init__(
        self,
        run: Run,
        data: _Batches,
        loss: LossLike,
        *,
        metrics: Mapping[str, Metric],
        rate: Callable[[int], float] | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self.run, self.data, self.loss, self.metrics, self.rate = run, data, loss, metrics, rate
        # Whether the model draws in training, which its first step tells.
        self.draws = True
        # Most callbacks have nothing to do at a step.
        self.before = [c.before_step for c in callbacks if type(c).before_step is not Callback.before_step]
        self.after = [c.after_step for c in callbacks if type(c).after_step is not Callback.after_step]

    def through(self, order: NDArray[np.intp], batch_size: int, bar: Any) -> dict[str, float]:
        """Take the steps of one epoch; return the means of the loss and the metrics."""
        model = self.run.model
        sums = dict.fromkeys(("loss", *self.metrics), 0.0)
        total = 0.0
        for begin in range(0, len(order), batch_size):
            rows = order[begin : begin + batch_size]
            target, weight = self._step(rows, begin // batch_size)
            share = float(len(rows)) if weight is None else float(weight.sum(dtype=np.float64))
            sums["loss"] += share * self.value
            for name, metric in self.metrics.items():
                sums[name] += share * metric(model._output, as_column(target) if model._one_output else target)
            total += share
            if bar is not None:
                bar.update()
        return {name: value / total if total else 0.0 for name, value in sums.items()}

    def _step(self, rows: NDArray[np.intp], number: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Take a step with these samples, whose loss is then `value`; return targets and weights."""
        run, model = self.run, self.run.model
        run.batch = x, target, weight = self.data.gather(rows)
        if self.rate is not None:
            run.optimizer.lr = self.rate(run.optimizer.steps)
        for hook in self.before:
            hook(run)
        drawn_from = model.rng.bit_generator.state if self.draws else None
        try:
            self.value = model._step(x, target, self.loss, run.optimizer, weight, finite=True)
        except NonFiniteLossError as error:
            where = f"step {number} of epoch {run.epoch}"
            text = f"the loss is {error.value} at {where}: {explain_loss(run.model, x, drawn_from)}"
            raise NonFiniteLossError(error.value, text) from None
        if self.draws and run.step == 0:
            # Asking for the state takes as long as a small layer. It is a nest of numbers, and of arrays for some.
            self.draws = repr(model.rng.bit_generator.state) != repr(drawn_from)
        run.step += 1
        for hook in self.after:
            hook(run)
        return target, weight


def _end_epoch(run: Run, logs: dict[str, float], callbacks: Sequence[Callback]) -> None:
    lists = [run.history.setdefault(name, []) for name in logs]
    numbers = map(setattr, (run, run), ("epoch", "logs"), (run.epoch + 1, logs))
    at_once(chain(map(list.append, lists, logs.values()), numbers))  # all lists are equally long after an interrupt
    for callback in callbacks:
        answer = callback.after_epoch(run)
        run.stopped |= isinstance(answer, bool | np.bool_) and bool(answer)


def _as_callbacks(early_stopping: object, callbacks: Sequence[Callback | EpochFunction]) -> list[Callback]:
    """Return all as objects: early stopping first, checkpoints, which keep the others' states, last."""
    if isinstance(early_stopping, bool):
        raise TypeError("early_stopping must be an EarlyStopping, its patience, or None, found bool")
    if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
        early_stopping = EarlyStopping(integer(early_stopping, "early_stopping", least=1))  # type: ignore[arg-type]  # integer() checks it
    found: list[Callback] = [] if early_stopping is None else [early_stopping]
    for i, callback in enumerate(callbacks):
        if isinstance(callback, Callback):
            found.append(callback)
        elif callable(callback):
            found.append(EpochCallback(callback))
        else:
            raise TypeError(f"callbacks[{i}] must be a Callback or a function, found {type(callback).__name__}")
    return sorted(found, key=lambda callback: isinstance(callback, Checkpoint))


def _as_schedule(schedule: Any) -> tuple[Callable[[int], float] | None, Any]:
    """Return the function of the step, if it is one, and the object that follows a metric, if it does."""
    follows = hasattr(schedule, "update")
    if schedule is not None and not (follows or callable(schedule)):
        raise TypeError(
            "schedule must be a function of the step, or an object with a method update(metric), "
            f"found {type(schedule).__name__}"
        )
    return schedule if callable(schedule) else None, schedule if follows else None


def _check_last_batch(model: Sequential, data: _Batches, batch_size: int) -> None:
    """Refuse a batch of one sample beforehand, if a BatchNorm would find no variance in it."""
    if min(data.size % batch_size or batch_size, data.size) > 1:
        return

    def visit(path: str, layer: Layer, y: FloatArray) -> None:
        if isinstance(layer, BatchNorm) and y.size < 2 * layer.num_features:
            raise ValueError(
                f"batch_size is {batch_size}, which leaves a batch of 1 of {data.size} samples; expected one that "
                f"leaves 2 or more, which layer {path}, {layer!r}, needs"
            )

    model._chain.trace(data.gather(np.zeros(1, np.intp))[0], False, "", visit)


class _RunState:
    """What a checkpoint keeps of a run besides model and optimizer."""

    def __init__(self, run: Run, generator: np.random.Generator, callbacks: Sequence[Callback], schedule: Any) -> None:
        self.run, self.generator, self.schedule = run, generator, schedule
        self.loaded = False
        self.callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint | EpochCallback)]

    def save(self) -> dict[str, Any]:
        return {
            "epoch": self.run.epoch,
            "stopped": self.run.stopped,
            "history": self.run.history,
            "order_rng": self.generator.bit_generator.state,
            "callbacks": [[type(callback).__name__, callback.state_dict()] for callback in self.callbacks],
            "schedule": self.schedule.state_dict() if hasattr(self.schedule, "state_dict") else None,
        }

    def load(self, path: str | PathLike[str]) -> None:
        """Take over what `save` returned, along with model and optimizer; all or nothing."""
        parts = open_checkpoint(path)
        state = parts["state"]
        if "order_rng" not in state:
            raise ValueError(f"resume is {path!s}, a checkpoint of no run of fit; expected one that Checkpoint wrote")
        changes = Changes()
        with refusing(path, "does not fit"):
            self._check(state)
            plan_generator(state["order_rng"], self.generator, "rng", changes)
            changes.set(self, "loaded", True)
            changes.set(self.run, "epoch", integer(state["epoch"], "epoch", least=0))
            changes.set(self.run, "stopped", flag(state["stopped"], "stopped"))
            changes.set(self.run, "history", _as_history(state["history"], state["epoch"]))
        # What objects of the user's own take over cannot be planned; it is given back.
        objects = [*zip(self.callbacks, (saved for _, saved in state["callbacks"]), strict=True)]
        if state["schedule"] is not None:
            objects.append((self.schedule, state["schedule"]))
        before = [(owner, owner.state_dict()) for owner, _ in objects]
        try:
            with refusing(path, "does not fit"):
                for callback, (_, saved) in zip(self.callbacks, state["callbacks"], strict=True):
                    callback._check_state(saved, self.run.model)
                for owner, saved in objects:
                    owner.load_state_dict(saved)
            restore_checkpoint(path, parts, self.run.model, self.run.optimizer, changes)
        except BaseException:
            for owner, old in before if not self.loaded else ():
                with suppress(Exception):  # the one that has failed may fail again, and has said why
                    owner.load_state_dict(old)
            raise

    def _check(self, state: Mapping[str, Any]) -> None:
        """Refuse what another run has written."""
        names = [type(callback).__name__ for callback in self.callbacks]
        found = [name for name, _ in state["callbacks"]]
        if found != names:
            raise ValueError(f"it is a run with the callbacks {found}; expected those of this one, {names}")
        if state["history"].keys() != set(self.run.names):
            raise ValueError(
                f"it is a run that reports {list(state['history'])}; expected what this one reports, "
                f"{list(self.run.names)}"
            )
        if (state["schedule"] is not None) != hasattr(self.schedule, "state_dict"):
            has, wanted = ("without", "with") if state["schedule"] is None else ("with", "without")
            raise ValueError(f"it is a run {has} a schedule that has a state; expected one {wanted}, as this is")


def _as_history(value: Mapping[str, Any], epochs: int) -> dict[str, list[float]]:
    """Return a copy of a history of so many epochs."""
    for name, values in value.items():
        if not isinstance(values, list) or len(values) != epochs:
            raise ValueError(
                f"history[{name!r}] is {describe(values)}; expected a list of {epochs}, one for each epoch"
            )
    return {name: [float(number) for number in values] for name, values in value.items()}


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
        self,
        model: Sequential,
        x: ArrayLike,
        y: ArrayLike,
        loss: object,
        sample_weight: ArrayLike | None,
        *,
        class_weight: Mapping[Any, float] | ArrayLike | None,
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
        of_classes = None if class_weight is None else _weights_of_classes(class_weight, ys)
        if sample_weight is None and of_classes is not None:
            self.weight = _Source(of_classes.astype(model.dtype), model.dtype)
        if sample_weight is not None:
            weights = np.asarray(sample_weight)
            self._check_length("sample_weight", weights)
            if weights.ndim != 1 or not np.can_cast(weights.dtype, model.dtype, "same_kind"):
                raise ValueError(
                    f"sample_weight has shape {weights.shape} and dtype {weights.dtype}; expected numbers "
                    f"of shape ({self.size},)"
                )
            weights = weights if of_classes is None else weights * of_classes
            self.weight = _Source(weights, model.dtype)

    def _check_length(self, name: str, array: NDArray[Any]) -> None:
        if array.ndim == 0 or len(array) != self.size:
            raise ValueError(f"{name} has shape {array.shape}; expected {self.size} samples, as x has")

    def gather(self, rows: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        weight = None if self.weight is None else self.weight.gather(rows)
        return self.x.gather(rows), self.y.gather(rows), weight


def _weights_of_classes(class_weight: Any, y: NDArray[Any]) -> NDArray[np.float64]:
    """Return the weight of each sample's class."""
    if y.ndim != 1 and y.shape[1:] != (1,):
        raise ValueError(f"class_weight needs labels (N,); y has shape {y.shape}")
    labels, place, counts = np.unique(y.reshape(-1), return_inverse=True, return_counts=True)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"class_weight is {class_weight!r}; expected 'balanced', a dict or an array")
        weights = y.size / (len(labels) * counts.astype(np.float64))
        return np.asarray(weights[place])
    if not isinstance(class_weight, Mapping):
        numbers = class_weights(class_weight, "class_weight")
        if y.dtype.kind not in "biu" or labels[0] < 0 or labels[-1] >= len(numbers):
            raise ValueError(
                f"class_weight has {len(numbers)} numbers; expected one for each of the labels 0, 1, ... of y, which "
                f"are from {labels[0]} to {labels[-1]}"
            )
        class_weight = dict(enumerate(numbers.tolist()))
    missing = [label for label in labels.tolist() if label not in class_weight]
    if missing:
        raise ValueError(f"class_weight has no number for the label {missing[0]!r} of y")
    chosen = [real(class_weight[label], f"class_weight[{label!r}]", least=0.0) for label in labels.tolist()]
    return np.asarray(np.array(chosen, np.float64)[place])


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
        # Better an error now than behind the first epoch. The metrics may not be defined for one sample.
        self._evaluate(slice(1), {})

    def __call__(self) -> dict[str, float]:
        return self._evaluate(slice(None), self.metrics)

    def _evaluate(self, rows: slice, metrics: Mapping[str, Metric]) -> dict[str, float]:
        pred = self.model.predict(self.x[rows], _VALIDATION_ROWS)
        target = self.y[rows]
        if pred.shape[1:] == (1,):
            target = as_column(target)
        weights = () if self.weight is None else (self.weight[rows],)
        value = self.loss(pred, target, *weights)
        # A user's function returns the gradient as well.
        logs = {"val_loss": float(value[0] if isinstance(value, tuple) else value)}
        logs.update({f"val_{name}": float(metric(pred, target)) for name, metric in metrics.items()})
        return logs


_VALIDATION_ROWS = 4096  # at once: the activations of all would take memory without being faster


def accuracy(pred: FloatArray, target: NDArray[Any]) -> float:
    """Share of samples whose class is right.

    For (N, C): the largest score's class against labels, (N,) or (N, 1), or distributions (N, C). For (N, 1): pred > 0,
    as for a logit, against target > 0.5, which serves targets in {0, 1} and {-1, 1}.
    """
    if pred.ndim != 2 or target.shape not in (pred.shape, (len(pred),), (len(pred), 1)):
        raise ValueError(
            "accuracy needs pred (N, C) and labels (N,) or (N, 1), or distributions (N, C); "
            f"found {pred.shape} and {target.shape}"
        )
    if target.shape[1:] == (1,):
        target = target[:, 0]
    if pred.shape[1] == 1:
        return float(np.mean((pred[:, 0] > 0) == (target > 0.5)))
    labels = target if target.ndim == 1 else target.argmax(axis=1)
    return float(np.mean(pred.argmax(axis=1) == labels))


_METRICS: dict[str, Metric] = {"accuracy": accuracy}


def _named_metrics(metrics: Sequence[str | Metric]) -> dict[str, Metric]:
    named: dict[str, Metric] = {}
    for i, metric in enumerate([metrics] if isinstance(metrics, str) else metrics):
        if isinstance(metric, str):
            if metric not in _METRICS:
                raise ValueError(f"unknown metric {metric!r}; known: {', '.join(_METRICS)}")
            name, function = metric, _METRICS[metric]
        elif callable(metric):
            name, function = getattr(metric, "__name__", "<lambda>"), metric
            if name == "<lambda>":
                name = f"metric_{i}"
        else:
            raise TypeError(f"metrics[{i}] must be a name or a function, found {type(metric).__name__}")
        if name in named or name in ("loss", "lr") or name.startswith("val_"):
            reported = ", ".join(map(repr, ["loss", "lr", *named]))
            raise ValueError(
                f"metrics[{i}] has the name {name!r}; expected one that is not reported already ({reported}) and does "
                "not begin with 'val_'"
            )
        named[name] = function
    return named


@contextmanager
def _progress_bar(wanted: bool, total: int, done: int) -> Iterator[Any]:
    """Give a tqdm bar over all steps, or None."""
    tqdm: Any = None
    if wanted:
        with suppress(ImportError):
            tqdm = importlib.import_module("tqdm").tqdm
    if tqdm is None:
        yield None
        return
    with tqdm(total=total, initial=done, unit="step", dynamic_ncols=True) as bar:
        yield bar
