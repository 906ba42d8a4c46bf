"""What accompanies a training run: callbacks, early stopping, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike, fsdecode
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from fuseprop._checks import choice, complete, flag, integer, real
from fuseprop._memory import Changes, set_attributes
from fuseprop.nn.io import check_writable, require_safetensors, save_checkpoint
from fuseprop.nn.metrics import direction, monitored

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray
    from fuseprop.nn.model import Model
    from fuseprop.optim import Optimizer

#: Called after each epoch with (epoch, the epoch's values, model); training stops if it returns True.
EpochFunction: TypeAlias = "Callable[[int, Mapping[str, float], Any], bool | None]"


class PlateauSchedule(Protocol):
    """A schedule that follows a metric.

    It may have `monitor`, the metric's name (None: the validation loss, or else the loss), and `mode`, "min" or "max".
    """

    def update(self, metric: float, /) -> float | None:
        """Take the metric of an epoch; return the learning rate, or None if it has been set or stays."""


#: The learning rate as a function of the steps taken so far, or one that follows the loss.
Schedule: TypeAlias = "Callable[[int], float] | PlateauSchedule"


@dataclass
class Run:
    """A training run, as callbacks see it.

    Epochs are counted from 0, as the entries of the history: `epoch` is the one that runs, in `after_epoch` the one
    that has just ended, whose values are `history[name][epoch]`.
    """

    #: The `Sequential` that is trained, whose verbs are above this module.
    model: Any
    optimizer: Optimizer
    #: Passes over the data in all, the one that runs, and how many are complete.
    epochs: int
    epoch: int = 0
    completed: int = 0
    #: Steps taken in this call of fit.
    step: int = 0
    #: The batch of the step: x, target, weights or None. Buffers that the next batch overwrites.
    batch: tuple[Any, Any, Any] = (None, None, None)
    #: The values of the last complete epoch, and of all.
    logs: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    #: What each epoch reports.
    names: tuple[str, ...] = ()
    #: Whether a callback has stopped the run.
    stopped: bool = False
    #: What a checkpoint keeps of the run.
    state: Callable[[], dict[str, Any]] = dict


class Callback:
    """Base of objects that accompany a run; each method does nothing by default.

    One with a `state_dict` other than {} is part of checkpoints, and goes on where it stood.
    """

    def begin(self, run: Run) -> None:
        """Do something before the first step of the run, and before the state of a checkpoint is loaded."""

    def before_step(self, run: Run) -> None:
        """Do something before each step, whose batch is in `run.batch`."""

    def after_step(self, run: Run) -> None:
        """Do something after each step of the run; the model's gradients are still those of the step."""

    def after_epoch(self, run: Run) -> bool | None:
        """Do something after each epoch of the run; training stops if one returns True."""
        return None

    def end(self, run: Run) -> None:
        """Do something at the end, but not if the run ended by an exception."""

    def why_stopped(self) -> str | None:
        """Say why a run that is resumed with this state must not go on; None if it may, also if it was stopped."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return arrays, numbers and strings from which `load_state_dict` brings it here again."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned."""

    def _check_state(self, state: Mapping[str, Any], model: Model) -> None:
        """Refuse a state that is one of another model."""


class EpochCallback(Callback):
    """A function of (epoch, logs, model) as a callback."""

    def __init__(self, function: EpochFunction) -> None:
        self.function = function

    def after_epoch(self, run: Run) -> bool | None:
        """Call the function."""
        return self.function(run.epoch, run.logs, run.model)


class EarlyStopping(Callback):
    """Ends a run when a value has not become better for some epochs, and brings back the best parameters.

    Parameters
    ----------
    patience : int
        Epochs without a better value after which the run ends.
    monitor : str or None
        The value: a name in the history. None: "val_loss" with validation data, "loss" without.
    mode : {"min", "max"} or None
        Whether less is better, or more. None: less of a loss, more of "accuracy"; of another value it must be given. A
        mode that is wrong for a loss or an accuracy is refused.
    min_delta : float
        What a value must be better by to count, >= 0.
    restore_best : bool
        Whether the model has the parameters and buffers of the best epoch at the end of the run, also if all epochs
        were run. After an exception or Ctrl-C it has the last ones; `restore` brings back the best.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range; in `fit`, if there is no such value, or the mode does not fit it.

    Notes
    -----
    `best` and `best_epoch` say when that was (epochs are counted from 0). NaN is never better. Each call of `fit`
    starts anew, but for one that resumes from a checkpoint.
    """

    def __init__(
        self,
        patience: int = 10,
        *,
        monitor: str | None = None,
        mode: str | None = None,
        min_delta: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        self.patience = integer(patience, "patience", least=1)
        if monitor is not None and not isinstance(monitor, str):
            raise TypeError(f"monitor must be a name or None, found {type(monitor).__name__}")
        self.monitor = monitor
        self.mode = None if mode is None else choice(mode, "mode", ("min", "max"))
        self.min_delta = real(min_delta, "min_delta", least=0.0)
        self.restore_best = flag(restore_best, "restore_best")
        self._forget(self.monitor or "loss", self.mode)

    def _forget(self, name: str, mode: str | None) -> None:
        self._name, self._mode = name, mode
        self.best = -math.inf if mode == "max" else math.inf
        self.best_epoch: int | None = None
        self._waited = 0
        self._best_state: dict[str, FloatArray] = {}

    def begin(self, run: Run) -> None:
        """Start anew; refuse what is not reported."""
        name = monitored(run.names, self.monitor, "early_stopping")
        self._forget(name, direction(name, self.mode, "early_stopping"))

    def after_epoch(self, run: Run) -> bool | None:
        """Compare the epoch's value with the best one."""
        value = run.logs[self._name]
        better = self.best - value if self._mode == "min" else value - self.best
        if better > self.min_delta:
            state = run.model.state_dict() if self.restore_best else {}
            set_attributes(self, best=value, best_epoch=run.epoch, _waited=0, _best_state=state)
            return False
        self._waited += 1
        return self._waited >= self.patience

    def end(self, run: Run) -> None:
        """Bring back the best parameters, if wanted."""
        if self.restore_best:
            self.restore(run.model)

    def restore(self, model: Model) -> None:
        """Give the model the best parameters and buffers so far."""
        if self._best_state:
            model.load_state_dict(self._best_state)

    def why_stopped(self) -> str | None:
        """Say so if the patience is at its end."""
        if self._waited < self.patience:
            return None
        return (
            f"EarlyStopping found no better {self._name!r} for {self._waited} epochs, behind epoch {self.best_epoch}; "
            f"more patience than {self.patience} lets it go on"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, when it was, the epochs since, and the best parameters."""
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self._waited, "state": self._best_state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned."""
        complete(state, "state", ("best", "best_epoch", "waited", "state"))
        if math.isnan(state["best"]):
            raise ValueError("state['best'] is nan, which no value is better than; expected a number")
        best, waited = float(state["best"]), integer(state["waited"], "state['waited']", least=0)
        best_epoch = state["best_epoch"]
        if best_epoch is not None:
            best_epoch = integer(best_epoch, "state['best_epoch']", least=0)
        set_attributes(self, best=best, best_epoch=best_epoch, _waited=waited, _best_state=dict(state["state"]))

    def _check_state(self, state: Mapping[str, Any], model: Model) -> None:
        if state["state"]:
            model._plan(state["state"], Changes())


class Checkpoint(Callback):
    """Writes a checkpoint after each epoch, from which `fit(..., resume=path)` goes on bit for bit.

    Parameters
    ----------
    path
        The file; each checkpoint replaces the one before as a whole.
    every : int
        After how many epochs. The last epoch's is always written.

    Raises
    ------
    ValueError, TypeError
        If `every` is no integer >= 1.
    ImportError
        If safetensors is not installed, before the first step.
    OSError
        If no file can be written there (no such folder, a path that is a folder itself ...), before the first step.

    Notes
    -----
    A checkpoint holds the parameters and buffers, the optimizer's state, those of the generators, of the other
    callbacks and of the schedule, if it has a `state_dict`, the number of epochs and the history. `fuseprop.nn.load`
    takes it as a model.
    """

    def __init__(self, path: str | PathLike[str], *, every: int = 1) -> None:
        self.path = fsdecode(path)
        self.every = integer(every, "every", least=1)

    def begin(self, run: Run) -> None:
        """Check that checkpoints can be written."""
        require_safetensors()
        check_writable(self.path)

    def after_epoch(self, run: Run) -> bool | None:
        """Write the checkpoint."""
        if run.completed % self.every == 0 or run.completed == run.epochs or run.stopped:
            save_checkpoint(self.path, run.model, run.optimizer, run.state())
        return None
