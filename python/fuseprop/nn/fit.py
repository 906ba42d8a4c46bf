"""The training loop: mini-batches, progress, validation, schedules, history."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuseprop import losses, optim
from fuseprop._checks import class_weights, integer, real_array, training_weights, weight_of_class
from fuseprop._memory import Changes, RowBuffer, at_once
from fuseprop.nn.callbacks import Callback, Checkpoint, EarlyStopping, EpochCallback, Run
from fuseprop.nn.data import check_samples, check_targets, target_array
from fuseprop.nn.health import explain_loss
from fuseprop.nn.io import open_checkpoint, plan_generator, refusing, restore_checkpoint
from fuseprop.nn.metrics import Metric, direction, monitored, named_metrics, reported_number
from fuseprop.nn.norm import BatchNorm
from fuseprop.nn.sequential import LossLike, NonFiniteLossError, Sequential, as_column, as_loss, is_over_classes
from fuseprop.optim.arrays import describe

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray
    from fuseprop.init import Rng
    from fuseprop.nn.callbacks import EpochFunction, Schedule
    from fuseprop.nn.layers import Layer

#: (x, y) or (x, y, sample_weight).
ValidationData: TypeAlias = "tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]"


def fit(
    model: Sequential,
    x: ArrayLike,
    y: ArrayLike,
    *,
    loss: LossLike,
    optimizer: optim.Optimizer | type[optim.Optimizer] | str = "adam",
    epochs: int = 10,
    batch_size: int = 32,
    sample_weight: ArrayLike | None = None,
    class_weight: Mapping[Any, float] | ArrayLike | None = None,
    validation_data: ValidationData | None = None,
    early_stopping: EarlyStopping | int | None = None,
    schedule: Schedule | None = None,
    metrics: Sequence[str | Metric | losses.Loss] = (),
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
        (N, 1), but for a loss over classes. They are never copied as a whole: each batch is gathered into a buffer, and
        cast there. Memory-mapped arrays may be larger than the memory. Both are looked through once before the first
        step: x must be finite, and y what the loss is defined for (all of it, if the loss is a function).
    loss
        A loss, its class or its name, or a function of (pred, target) that returns (value, gradient).
    optimizer
        One made for this model, or a class or name of `fuseprop.optim` for a new one with its defaults.
    epochs, batch_size : int
        Passes over the data, and samples per step. The last batch of an epoch is smaller if they do not
        divide.
    sample_weight
        (N,), finite and >= 0, or None. A batch's loss is its weighted mean.
    class_weight
        Multiplies the weights of the samples of each class: a dict from labels to numbers, not all 0, which must have
        all labels of y; an array with one number for each of the classes 0, 1, ...; or "balanced",
        N / (classes * count). Samples that the loss ignores (`ignore_index`) are of no class, and do not count.
    validation_data
        (x, y) or (x, y, sample_weight), evaluated after each epoch.
    early_stopping
        An `EarlyStopping`, or its patience in epochs: ends the run, and brings back the best parameters.
    schedule
        The learning rate: a function of the number of steps that the optimizer has taken, called before each step; or
        an object with a method update(metric), called after each epoch, which returns the new rate, or None; or both in
        one. The metric is the one that its `monitor` names, or the validation loss (without validation data the loss);
        a `mode` of "min" where more is better, or the other way round, is refused, and `ReduceOnPlateau` needs one
        where that is not known. See `fuseprop.optim`.
    metrics
        Names ("accuracy", see `fuseprop.nn.accuracy`, by what the loss says of its predictions), losses, or functions
        of (pred, target), which get what the loss gets: targets (N, 1) for an output of (N, 1). They are reported along
        with the loss by their names, which differ; a lambda, or what has no name, is "metric_" and its place,
        "metric_0".
    callbacks
        `Callback` objects, such as `Checkpoint` and `GradientHealth`, or functions called after each epoch with (epoch,
        dict of the epoch's values, model); training stops behind the epoch in which one returns True. Epochs are
        counted from 0 everywhere, as the values in the history: in functions, in `Run.epoch`, in `best_epoch` and in
        messages.
    shuffle : bool
        Whether each epoch goes through the samples in an order of its own.
    progress : bool
        Whether to show a progress bar, if tqdm is installed.
    rng : Generator, SeedSequence, int or None
        Draws these orders. None: the model's own generator.
    resume
        A file that `Checkpoint` wrote in a run like this one: it goes on from there, until `epochs` in all, also if a
        function or a callback had stopped it; one that early stopping had stopped goes on with more patience, else a
        UserWarning says why it does not. Model, optimizer, schedule, callbacks, metrics and rng are made as they were
        made for that run; one that does not fit is refused, and model and optimizer stay as they were.

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
        parameter has changed. What is wrong in x, y or the weights is named by its place in the array given. A metric
        that returns no number is refused behind the first step.
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
    elif isinstance(optimizer, type) and issubclass(optimizer, optim.Optimizer):
        optimizer = optimizer(model)  # type: ignore[call-arg]  # those that there are take what they update alone
    loss = as_loss(loss)
    epochs, batch_size = integer(epochs, "epochs", least=1), integer(batch_size, "batch_size", least=1)
    model._alone(lambda: model._set_loss(loss))
    model._alone(lambda: model._set_optimizer(optimizer))
    by_name = named_metrics(metrics, loss)
    data = _Batches(model, x, y, loss, sample_weight, class_weight=class_weight)
    _check_last_batch(model, data, batch_size)
    validation = None if validation_data is None else _Validation(model, validation_data, loss, by_name)
    companions = _as_callbacks(early_stopping, callbacks)
    generator = model.rng if rng is None else np.random.default_rng(rng)
    names = ["loss", *by_name]
    names += [] if validation is None else [f"val_{name}" for name in names]
    rate, plateau = _as_schedule(schedule, names)
    run = Run(model, optimizer, epochs, names=(*names, *(["lr"] if schedule is not None else [])))
    state = _RunState(run, generator, companions, schedule)
    run.state = state.save
    for companion in companions:
        companion.begin(run)
    if resume is not None:
        state.load(resume)
    model.history = run.history
    steps = _Steps(run, data, loss, metrics=by_name, rate=rate, callbacks=companions)
    num_batches = -(-data.size // batch_size)
    with _progress_bar(progress, epochs * num_batches, run.completed * num_batches) as bar:
        while run.completed < epochs and not run.stopped:
            run.epoch = run.completed
            order = generator.permutation(data.size) if shuffle else np.arange(data.size)
            logs = steps.through(order, batch_size, bar)
            if validation is not None:
                logs.update(validation())
            if plateau is not None and (new_rate := plateau(logs)) is not None:
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
                found = metric(model._output, as_column(target) if model._flat_targets else target)
                sums[name] += share * reported_number(found, name)
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
    numbers = map(setattr, (run, run), ("completed", "logs"), (run.completed + 1, logs))
    at_once(chain(map(list.append, lists, logs.values()), numbers))  # all lists are equally long after an interrupt
    for callback in callbacks:
        answer = callback.after_epoch(run)
        run.stopped |= isinstance(answer, bool | np.bool_) and bool(answer)


def _as_callbacks(early_stopping: object, callbacks: Sequence[Callback | EpochFunction]) -> list[Callback]:
    """Return all as objects: early stopping first, checkpoints, which keep the others' states, last."""
    if isinstance(early_stopping, bool):
        raise TypeError("early_stopping must be an EarlyStopping, its patience, or None, found bool")
    if isinstance(early_stopping, type):
        raise TypeError(
            f"early_stopping is the class {early_stopping.__name__}; expected an object of it, or its patience"
        )
    if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
        early_stopping = EarlyStopping(integer(early_stopping, "early_stopping", least=1))  # type: ignore[arg-type]  # integer() checks it
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks must be a list of Callbacks and functions, found {type(callbacks).__name__}")
    found: list[Callback] = [] if early_stopping is None else [early_stopping]
    for i, callback in enumerate(callbacks):
        if isinstance(callback, type):
            raise TypeError(f"callbacks[{i}] is the class {callback.__name__}; expected an object of it, or a function")
        if not isinstance(callback, Callback) and not callable(callback):
            raise TypeError(f"callbacks[{i}] must be a Callback or a function, found {type(callback).__name__}")
        found.append(callback if isinstance(callback, Callback) else EpochCallback(callback))
    return sorted(found, key=lambda callback: isinstance(callback, Checkpoint))


def _as_schedule(
    schedule: Any, names: Sequence[str]
) -> tuple[Callable[[int], float] | None, Callable[[Mapping[str, float]], float | None] | None]:
    """Return the function of the step, if it is one, and what follows the values of an epoch, if it does."""
    if isinstance(schedule, type):
        raise TypeError(f"schedule is the class {schedule.__name__}; expected an object of it")
    follows = hasattr(schedule, "update")
    if schedule is not None and not (follows or callable(schedule)):
        raise TypeError(
            "schedule must be a function of the step, or an object with a method update(metric), "
            f"found {type(schedule).__name__}"
        )
    rate = schedule if callable(schedule) else None
    if not follows:
        return rate, None
    name = monitored(names, getattr(schedule, "monitor", None), "schedule")
    mode = getattr(schedule, "mode", None)  # an object of the user's own need not have one
    follow = getattr(schedule, "_follow", None)
    if mode is not None or follow is not None:
        mode = direction(name, mode, "schedule")
    if follow is not None:
        follow(mode)

    def plateau(logs: Mapping[str, float]) -> float | None:
        new_rate: float | None = schedule.update(logs[name])
        return new_rate

    return rate, plateau


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
            "epoch": self.run.completed,
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
            epoch = integer(state["epoch"], "epoch", least=0)
            # The last one that ran: it is what `end` finds if none is left to run.
            changes.set(self.run, "epoch", max(epoch - 1, 0))
            changes.set(self.run, "completed", epoch)
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
        self._stay_stopped(path)

    def _stay_stopped(self, path: str | PathLike[str]) -> None:
        """Do not go on where a callback says so, and say why."""
        reasons = [reason for callback in self.callbacks if (reason := callback.why_stopped()) is not None]
        if reasons and self.run.completed < self.run.epochs:
            self.run.stopped = True
            warnings.warn(
                f"resume is {path!s}, a run that has stopped behind {self.run.completed} epochs and does not go on to "
                f"{self.run.epochs}: {'; '.join(reasons)}",
                UserWarning,
                stacklevel=6,  # where the model's fit was called
            )

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
    x = real_array(x, "x")
    rows = _rows_at_once(model, x) if batch_size is None else integer(batch_size, "batch_size", least=1)
    if x.ndim == 0 or len(x) <= rows:
        return model(x)
    first = model(x[:rows])
    result: FloatArray = np.empty((len(x), *first.shape[1:]), first.dtype)
    result[:rows] = first
    for begin in range(rows, len(x), rows):
        result[begin : begin + rows] = model(x[begin : begin + rows])
    return result


#: Of the largest activation that `predict` has by itself: more would take memory without being faster.
_ACTIVATION_BYTES = 4 << 20
_FEW_ROWS = 256


def _rows_at_once(model: Sequential, x: NDArray[Any]) -> int:
    """Return how many samples may go through the layers at once; few always may."""
    if x.ndim == 0 or len(x) <= _FEW_ROWS:
        return _FEW_ROWS
    sizes = [x[0].size]
    model._check_shape(x.shape)
    model._chain.trace(model._as_input(x[:1]), False, "", lambda path, layer, y: sizes.append(y.size))
    return max(_FEW_ROWS, int(_ACTIVATION_BYTES // (model.dtype.itemsize * max(*sizes, 1))))


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
        xs = real_array(x, "x")
        output_shape = model._sample_output(xs.shape)
        self.size = len(xs)
        if self.size == 0:
            raise ValueError(f"x has shape {xs.shape}; expected at least one sample")
        ys = target_array(y, "y", loss)
        self._check_length("y", ys)
        check_samples(xs, model.dtype)
        check_targets(ys, model.dtype, loss, output_shape)
        self.x = _Source(xs, model.dtype)
        self.y = _Source(ys, _target_dtype(ys, model.dtype, loss))
        self.weight: _Source | None = None
        of_classes = None if class_weight is None else _weights_of_classes(class_weight, ys, loss, model.dtype)
        if sample_weight is None and of_classes is not None:
            self.weight = _Source(of_classes.astype(model.dtype), model.dtype)
        if sample_weight is not None:
            weights = real_array(sample_weight, "sample_weight")
            self._check_length("sample_weight", weights)
            if weights.shape == (self.size, *output_shape) == (self.size, 1) and not is_over_classes(loss):
                weights = weights[:, 0]  # as the loss takes them
            if weights.ndim != 1:
                raise ValueError(f"sample_weight has shape {weights.shape}; expected ({self.size},)")
            training_weights(weights, "sample_weight", model.dtype, some=True)
            if of_classes is not None:
                weights = np.multiply(weights, of_classes, dtype=np.float64)
                training_weights(weights, "(sample_weight * class_weight)", model.dtype, some=True)
            self.weight = _Source(weights, model.dtype)

    def _check_length(self, name: str, array: NDArray[Any]) -> None:
        if array.ndim == 0 or len(array) != self.size:
            raise ValueError(f"{name} has shape {array.shape}; expected {self.size} samples, as x has")

    def gather(self, rows: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        weight = None if self.weight is None else self.weight.gather(rows)
        return self.x.gather(rows), self.y.gather(rows), weight


def _weights_of_classes(class_weight: Any, y: NDArray[Any], loss: object, dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Return the weight of each sample's class; 1 for those that the loss ignores."""
    if y.ndim != 1 and y.shape[1:] != (1,):
        raise ValueError(f"class_weight needs labels (N,); y has shape {y.shape}")
    labels_of = y.reshape(-1)
    ignored = loss._parameters.get("ignore_index") if isinstance(loss, losses.Loss) else None
    counts = np.ones(y.size, np.bool_) if ignored is None else labels_of != ignored
    weights = np.ones(y.size)
    weights[counts] = _weights_of_labels(class_weight, labels_of[counts], dtype)
    return weights


def _weights_of_labels(class_weight: Any, y: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    labels, place, counts = np.unique(y, return_inverse=True, return_counts=True)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"class_weight is {class_weight!r}; expected 'balanced', a dict or an array")
        if y.dtype.kind == "f" and (labels != np.trunc(labels)).any():
            found = labels[labels != np.trunc(labels)][0].item()
            raise ValueError(f"class_weight is 'balanced', which needs labels, whole numbers; y has {found:g}")
        weights = y.size / (len(labels) * counts.astype(np.float64))
        return np.asarray(weights[place])
    if not isinstance(class_weight, Mapping):
        numbers = class_weights(class_weight, "class_weight")
        if y.dtype.kind not in "biu" or (labels.size and (labels[0] < 0 or labels[-1] >= len(numbers))):
            found = f", which are from {labels[0]} to {labels[-1]}" if labels.size else ""
            raise ValueError(
                f"class_weight has {len(numbers)} numbers; expected one for each of the labels 0, 1, ... of y{found}"
            )
        class_weight = dict(enumerate(numbers.tolist()))
    missing = [label for label in labels.tolist() if label not in class_weight]
    if missing:
        raise ValueError(f"class_weight has no number for the label {missing[0]!r} of y")
    chosen = [weight_of_class(class_weight[label], f"class_weight[{label!r}]", dtype) for label in labels.tolist()]
    if labels.size and not any(chosen):
        raise ValueError("class_weight has only zeros for the labels of y; expected at least one number > 0")
    return np.asarray(np.array(chosen, np.float64)[place])


def _target_dtype(y: NDArray[Any], dtype: np.dtype[Any], loss: object) -> np.dtype[Any]:
    """Labels keep their dtype, and so does everything for a user's loss; other targets get the model's."""
    ours = isinstance(loss, losses.Loss)
    labels = y.ndim == 1 and y.dtype.kind in "biu"
    if not ours or labels or not np.can_cast(y.dtype, dtype, "same_kind"):
        return y.dtype
    return dtype


_OF_VALIDATION = " of validation_data"


class _Validation:
    """The loss and the metrics on validation data."""

    def __init__(self, model: Sequential, data: ValidationData, loss: LossLike, metrics: Mapping[str, Metric]) -> None:
        if not isinstance(data, tuple | list) or len(data) not in (2, 3):
            raise TypeError(f"validation_data must be (x, y) or (x, y, sample_weight), found {type(data).__name__}")
        self.model, self.metrics = model, metrics
        self.x = real_array(data[0], "x of validation_data")
        self.y = target_array(data[1], "y of validation_data", loss)
        self.weight = real_array(data[2], "sample_weight of validation_data") if len(data) == 3 else None
        output_shape = model._sample_output(self.x.shape, "x of validation_data")
        for name, array in (("y", self.y), ("sample_weight", self.weight)):
            if array is not None and (array.ndim == 0 or len(array) != len(self.x)):
                raise ValueError(
                    f"{name} of validation_data has shape {array.shape}; expected {len(self.x)} samples, as x has"
                )
        if len(self.x) == 0:
            raise ValueError("validation_data is empty; expected at least one sample, or None")
        check_samples(self.x, model.dtype, _OF_VALIDATION)
        check_targets(self.y, model.dtype, loss, output_shape, _OF_VALIDATION)
        if self.weight is not None:
            training_weights(self.weight, "sample_weight", model.dtype, owner=_OF_VALIDATION, some=True)
        self.loss: Any = loss
        # Better an error now than behind the first epoch. The metrics may not be defined for one sample.
        self._evaluate(slice(1), {})

    def __call__(self) -> dict[str, float]:
        return self._evaluate(slice(None), self.metrics)

    def _evaluate(self, rows: slice, metrics: Mapping[str, Metric]) -> dict[str, float]:
        pred = self.model.predict(self.x[rows])
        target = self.y[rows]
        if pred.shape[1:] == (1,) and not is_over_classes(self.loss):
            target = as_column(target)
        weights = () if self.weight is None else (self.weight[rows],)
        value = self.loss(pred, target, *weights)
        # A user's function returns the gradient as well.
        logs = {"val_loss": float(value[0] if isinstance(value, tuple) else value)}
        logs.update({f"val_{name}": reported_number(metric(pred, target), name) for name, metric in metrics.items()})
        return logs


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
