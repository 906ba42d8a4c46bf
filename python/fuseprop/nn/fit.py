"""The training loop: mini-batches, progress, validation, schedules, history."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fuseprop import losses, optim
from fuseprop._checks import integer, real_array, training_weights
from fuseprop._memory import Changes, at_once
from fuseprop.nn.callbacks import Callback, Checkpoint, EarlyStopping, EpochCallback, Run
from fuseprop.nn.data import Batch, Batches, check_samples, check_targets, predict, target_array
from fuseprop.nn.health import explain_loss
from fuseprop.nn.io import open_checkpoint, plan_generator, refusing, restore_checkpoint
from fuseprop.nn.metrics import Metric, direction, monitored, named_metrics, reported_number
from fuseprop.nn.model import LossLike, Model, NonFiniteLossError, as_column, as_loss, is_over_classes
from fuseprop.nn.norm import BatchNorm
from fuseprop.optim.arrays import describe

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray
    from fuseprop.init import Rng
    from fuseprop.nn.callbacks import EpochFunction, Schedule
    from fuseprop.nn.data import ValidationData
    from fuseprop.nn.layers import Layer


class Training:
    """A run of `Sequential.fit`, whose arguments come by subject: what to train, on what, and along with what."""

    def __init__(
        self,
        model: Model,
        loss: LossLike,
        optimizer: optim.Optimizer | type[optim.Optimizer] | str,
        metrics: Sequence[str | Metric | losses.Loss],
    ) -> None:
        if isinstance(optimizer, str):
            optimizer = optim.get(optimizer, model)
        elif isinstance(optimizer, type) and issubclass(optimizer, optim.Optimizer):
            optimizer = optimizer(model)  # type: ignore[call-arg]  # those that there are take what they update alone
        self.model, self.loss = model, as_loss(loss)
        model._bind_step(self.loss, optimizer)
        self.optimizer = optimizer
        self.metrics = named_metrics(metrics, self.loss)

    def take(
        self,
        x: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        class_weight: Mapping[Any, float] | ArrayLike | None,
        *,
        batch_size: int,
        shuffle: bool,
        rng: Rng,
    ) -> None:
        """Take what it trains on."""
        self.batch_size, self.shuffle = integer(batch_size, "batch_size", least=1), shuffle
        self.data = Batches(self.model, x, y, self.loss, sample_weight, class_weight=class_weight)
        _check_last_batch(self.model, self.data, self.batch_size)
        self.generator = self.model.rng if rng is None else np.random.default_rng(rng)

    def accompany(
        self,
        validation_data: ValidationData | None,
        early_stopping: EarlyStopping | int | None,
        schedule: Schedule | None,
        callbacks: Sequence[Callback | EpochFunction],
    ) -> None:
        """Take what follows the training."""
        self.validation: _Validation | None = None
        self.names = ["loss", *self.metrics]
        if validation_data is not None:
            self.validation = _Validation(self.model, validation_data, self.loss, self.metrics)
            self.names += [f"val_{name}" for name in self.names]
        self.callbacks = _as_callbacks(early_stopping, callbacks)
        self.schedule = schedule
        self.rate, self.plateau = _as_schedule(schedule, self.names)
        self.names += [] if schedule is None else ["lr"]

    def run(self, epochs: int, *, progress: bool, resume: str | PathLike[str] | None) -> dict[str, list[float]]:
        """Train; return the history."""
        run = Run(self.model, self.optimizer, integer(epochs, "epochs", least=1), names=tuple(self.names))
        state = _RunState(run, self.generator, self.callbacks, self.schedule)
        run.state = state.save
        for callback in self.callbacks:
            callback.begin(run)
        if resume is not None:
            state.load(resume)
        self.model.history = run.history
        steps = _Steps(run, self.loss, metrics=self.metrics, rate=self.rate, callbacks=self.callbacks)
        size = self.data.size
        num_batches = -(-size // self.batch_size)
        with _progress_bar(progress, epochs * num_batches, run.completed * num_batches) as bar:
            while run.completed < epochs and not run.stopped:
                run.epoch = run.completed
                order = self.generator.permutation(size) if self.shuffle else np.arange(size)
                logs = steps.through(self.data.through(order, self.batch_size), bar)
                self._follow(logs)
                if bar is not None:
                    bar.set_postfix({name: f"{value:.4g}" for name, value in logs.items()}, refresh=False)
                _end_epoch(run, logs, self.callbacks)
        for callback in self.callbacks:
            callback.end(run)
        return run.history

    def _follow(self, logs: dict[str, float]) -> None:
        """Add to an epoch's values those of validation, and set the next rate by them."""
        if self.validation is not None:
            logs.update(self.validation())
        if self.plateau is not None and (new_rate := self.plateau(logs)) is not None:
            self.optimizer.lr = new_rate
        if self.schedule is not None:
            logs["lr"] = self.optimizer.lr


class _Steps:
    """The steps of a run, epoch by epoch."""

    def __init__(
        self,
        run: Run,
        loss: LossLike,
        *,
        metrics: Mapping[str, Metric],
        rate: Callable[[int], float] | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self.run, self.loss, self.metrics, self.rate = run, loss, metrics, rate
        # Whether the model draws in training, which its first step tells.
        self.draws = True
        # Most callbacks have nothing to do at a step.
        self.before = [c.before_step for c in callbacks if type(c).before_step is not Callback.before_step]
        self.after = [c.after_step for c in callbacks if type(c).after_step is not Callback.after_step]

    def through(self, batches: Iterable[Batch], bar: Any) -> dict[str, float]:
        """Take the steps of one epoch; return the means of the loss and the metrics."""
        sums = dict.fromkeys(("loss", *self.metrics), 0.0)
        total = 0.0
        for number, batch in enumerate(batches):
            value = self._step(batch, number)
            share = _share(batch)
            sums["loss"] += share * value
            for name, metric in self.metrics.items():
                sums[name] += share * reported_number(metric(*self.run.model._seen(batch[1])), name)
            total += share
            if bar is not None:
                bar.update()
        return {name: value / total if total else 0.0 for name, value in sums.items()}

    def _step(self, batch: Batch, number: int) -> float:
        """Take a step; return the loss."""
        run, model = self.run, self.run.model
        run.batch = x, target, weight = batch
        if self.rate is not None:
            run.optimizer.lr = self.rate(run.optimizer.steps)
        for hook in self.before:
            hook(run)
        drawn_from = model.rng.bit_generator.state if self.draws else None
        try:
            value: float = model._step(x, target, self.loss, run.optimizer, weight, finite=True)
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
        return value


def _share(batch: Batch) -> float:
    """Return what a batch counts in the means of an epoch."""
    x, _, weight = batch
    return float(len(x)) if weight is None else float(weight.sum(dtype=np.float64))


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


def _check_last_batch(model: Model, data: Batches, batch_size: int) -> None:
    """Refuse a batch of one sample beforehand, if a BatchNorm would find no variance in it."""
    if min(data.size % batch_size or batch_size, data.size) > 1:
        return

    def visit(path: str, layer: Layer, y: FloatArray) -> None:
        if isinstance(layer, BatchNorm) and y.size < 2 * layer.num_features:
            raise ValueError(
                f"batch_size is {batch_size}, which leaves a batch of 1 of {data.size} samples; expected one that "
                f"leaves 2 or more, which layer {path}, {layer!r}, needs"
            )

    model._trace(data.gather(np.zeros(1, np.intp))[0], False, visit)


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


_OF_VALIDATION = " of validation_data"


class _Validation:
    """The loss and the metrics on validation data."""

    def __init__(self, model: Model, data: ValidationData, loss: LossLike, metrics: Mapping[str, Metric]) -> None:
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
        pred = predict(self.model, self.x[rows])
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
