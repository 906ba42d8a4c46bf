"""Learning rates that change: a schedule is called with the number of steps taken, from 0, and returns the rate.

::

    schedule = fp.optim.schedules.Warmup(fp.optim.schedules.Cosine(3e-4, steps=10_000), steps=500)
    for step in range(10_500):
        optimizer.lr = schedule(step)
        optimizer.step(grads)

Any function of the step will do. These are small immutable objects that forget nothing and keep nothing: the same step
gives the same rate, so that training goes on from a saved step count. `ReduceOnPlateau` alone, and a `Warmup` before
one, have a state: they are told a metric. Whether a "step" is one of the optimizer or an epoch is up to who calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, SupportsFloat, TypeAlias

from fuseprop._checks import choice, complete, integer, real
from fuseprop._listing import listing
from fuseprop._memory import set_attributes
from fuseprop._value import Value

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseScaling",
    "OneCycle",
    "ReduceOnPlateau",
    "Schedule",
    "Step",
    "Warmup",
]

__dir__ = listing(__all__)

#: What a schedule is: the rate for a step.
Schedule: TypeAlias = Callable[[int], float]


#: What a schedule that follows a metric has besides `update`; one of the user's own need not have them.
_OF_FOLLOWERS = ("monitor", "mode", "state_dict", "load_state_dict", "_follow")


def _step(step: int) -> int:
    return integer(step, "step", least=0)


class Constant(Value):
    """The same rate at every step: lr.

    Parameters
    ----------
    lr : float
        >= 0.
    """

    __slots__ = ()

    def __init__(self, lr: float) -> None:
        super().__init__(lr=real(lr, "lr", least=0.0))

    def __call__(self, step: int) -> float:
        """Return the rate of this step."""
        _step(step)
        return float(self.lr)


class Step(Value):
    """Down by a factor every so many steps: lr gamma^floor(step / step_size).

    Parameters
    ----------
    lr : float
        Rate of the first step, >= 0.
    step_size : int
        How many steps have the same rate, > 0.
    gamma : float
        > 0. Above 1 the rate rises, in the end to infinity, which an optimizer refuses.

    Notes
    -----
    `torch.optim.lr_scheduler.StepLR`.
    """

    __slots__ = ()

    def __init__(self, lr: float, step_size: int, gamma: float = 0.1) -> None:
        super().__init__(
            lr=real(lr, "lr", least=0.0),
            step_size=integer(step_size, "step_size", least=1),
            gamma=real(gamma, "gamma", above=0.0),
        )

    def __call__(self, step: int) -> float:
        """Return the rate of this step."""
        reductions = _step(step) // self.step_size
        try:
            return float(self.lr * self.gamma**reductions)
        except OverflowError:  # of a gamma > 1
            return math.inf if self.lr else 0.0


class Exponential(Value):
    """Down by a factor at every step: lr gamma^step.

    Parameters
    ----------
    lr : float
        Rate of the first step, >= 0.
    gamma : float
        In (0, 1].

    Notes
    -----
    `torch.optim.lr_scheduler.ExponentialLR`.
    """

    __slots__ = ()

    def __init__(self, lr: float, gamma: float) -> None:
        super().__init__(lr=real(lr, "lr", least=0.0), gamma=real(gamma, "gamma", above=0.0, most=1.0))

    def __call__(self, step: int) -> float:
        """Return the rate of this step."""
        return float(self.lr * self.gamma ** _step(step))


class InverseScaling(Value):
    """Down by a power of the step: lr / (1 + step)^power.

    Parameters
    ----------
    lr : float
        Rate of the first step, >= 0.
    power : float
        >= 0.

    Notes
    -----
    "invscaling" of scikit-learn's MLPClassifier, whose step is the number of samples seen after an epoch.
    """

    __slots__ = ()

    def __init__(self, lr: float, power: float = 0.5) -> None:
        super().__init__(lr=real(lr, "lr", least=0.0), power=real(power, "power", least=0.0))

    def __call__(self, step: int) -> float:
        """Return the rate of this step."""
        try:
            return float(self.lr / (1 + _step(step)) ** self.power)
        except OverflowError:  # the power, beyond the largest float
            return 0.0


class Cosine(Value):
    """Down half a cosine: least + (lr - least) (1 + cos(pi step / steps)) / 2, and `least` from `steps` on.

    Parameters
    ----------
    lr : float
        Rate of the first step, >= 0.
    steps : int
        When the lowest rate is reached, > 0.
    least : float
        The lowest rate, in [0, lr].

    Notes
    -----
    `torch.optim.lr_scheduler.CosineAnnealingLR` up to `steps`; behind it PyTorch's goes up again. Source: Loshchilov
    and Hutter 2017 (arXiv:1608.03983).
    """

    __slots__ = ()

    def __init__(self, lr: float, steps: int, least: float = 0.0) -> None:
        lr = real(lr, "lr", least=0.0)
        super().__init__(lr=lr, steps=integer(steps, "steps", least=1), least=real(least, "least", least=0.0, most=lr))

    def __call__(self, step: int) -> float:
        """Return the rate of this step."""
        return _cosine(self.lr, self.least, min(_step(step) / self.steps, 1.0))


class Warmup(Value):
    """Up in a line before another schedule: start + (schedule(0) - start) step / steps, then schedule(step - steps).

    Parameters
    ----------
    schedule
        What follows.
    steps : int
        Length of the rise, >= 0.
    start : float
        Rate of the first step, >= 0.

    Notes
    -----
    Before a schedule that follows a metric it is one, too: it has `update`, which tells that schedule the metric, from
    the beginning of the rise on, and returns None (the rate depends on the step); and that schedule's `monitor`,
    `mode`, `state_dict` and `load_state_dict`.

    With `Cosine` it is `optax.warmup_cosine_decay_schedule`, whose `decay_steps` counts the rise, too.
    """

    __slots__ = ()

    def __init__(self, schedule: Schedule, steps: int, start: float = 0.0) -> None:
        if not callable(schedule):
            raise TypeError(f"schedule must be a function of the step, found {type(schedule).__name__}")
        super().__init__(
            schedule=schedule, steps=integer(steps, "steps", least=0), start=real(start, "start", least=0.0)
        )

    def __getattr__(self, name: str) -> Any:
        if name == "update":
            update = self.schedule.update

            def forward(metric: SupportsFloat) -> None:
                update(metric)

            return forward
        return getattr(self.schedule, name) if name in _OF_FOLLOWERS else super().__getattr__(name)

    def __call__(self, step: int) -> float:
        """Return the rate of this step."""
        if _step(step) >= self.steps:
            return float(self.schedule(step - self.steps))
        return float(self.start + (self.schedule(0) - self.start) * (step / self.steps))


class OneCycle(Value):
    """Up to the highest rate and down again, in half cosines: from lr / div to lr to lr / div / final_div.

    The rise ends at step rise * total_steps - 1, the descent at step total_steps - 1; the rate stays there.

    Parameters
    ----------
    lr : float
        The highest rate, >= 0.
    total_steps : int
        Length of rise and descent together, > 0.
    rise : float
        The share of the steps that go up, in [0, 1].
    div : float
        By what the first rate is below the highest, >= 1.
    final_div : float
        By what the last rate is below the first, >= 1.

    Notes
    -----
    `torch.optim.lr_scheduler.OneCycleLR` with max_lr, pct_start, div_factor and final_div_factor; it changes the
    momentum, too. With rise * total_steps <= 1 there is no rise: this begins at the highest rate, PyTorch's somewhere
    below, and it cannot do exactly 1. Source: Smith and Topin 2018 (arXiv:1708.07120).
    """

    __slots__ = ()

    def __init__(
        self, lr: float, total_steps: int, rise: float = 0.3, div: float = 25.0, final_div: float = 1e4
    ) -> None:
        super().__init__(
            lr=real(lr, "lr", least=0.0),
            total_steps=integer(total_steps, "total_steps", least=1),
            rise=real(rise, "rise", least=0.0, most=1.0),
            div=real(div, "div", least=1.0),
            final_div=real(final_div, "final_div", least=1.0),
        )

    def __call__(self, step: int) -> float:
        """Return the rate of this step."""
        first = self.lr / self.div
        top, end = self.rise * self.total_steps - 1, self.total_steps - 1
        step = min(_step(step), end)
        if step <= top:
            return _cosine(first, self.lr, step / top if top > 0 else 1.0)
        down = max(top, 0.0)
        return _cosine(self.lr, first / self.final_div, (step - down) / (end - down) if end > down else 1.0)


def _cosine(start: float, end: float, share: float) -> float:
    """From start at share 0 to end at share 1, in half a cosine."""
    return end + (start - end) * (1.0 + math.cos(math.pi * share)) / 2.0


def _number(value: SupportsFloat, name: str) -> float:
    """`value` as a float, which may be infinite or NaN."""
    try:
        if not isinstance(value, str | bytes):  # which float() would read
            return float(value)
    except TypeError:
        pass
    raise TypeError(f"{name} must be a number, found {type(value).__name__}")


class ReduceOnPlateau:
    """Down by a factor when a metric has not improved for a while.

    Call it for the rate, whatever the step; tell it the metric with `update`, once per epoch.

    Parameters
    ----------
    lr : float
        Rate at the beginning, >= 0.
    factor : float
        What the rate is multiplied by, in (0, 1).
    patience : int
        How many updates in a row may pass without improvement before the rate goes down, >= 0.
    threshold : float
        An improvement is to below best - threshold |best|; with mode "max", to above best + threshold |best|. >= 0
    mode : "min", "max" or None
        Whether the metric is to fall or to rise. None: in `fit`, what is better for the metric, the lower loss or the
        higher accuracy, and of another metric it must be given; by itself "min", as in PyTorch.
    cooldown : int
        How many updates behind a reduction do not count, >= 0.
    least : float
        The lowest rate, in [0, lr].
    monitor : str or None
        The name of the metric that `fit` tells it, such as "val_accuracy"; None for the validation loss, or without
        validation data the loss.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    `torch.optim.lr_scheduler.ReduceLROnPlateau` with threshold_mode="rel" and eps=0, where the best metric is positive.
    PyTorch compares with best (1 - threshold) and best (1 + threshold) whatever the sign: where the metric is negative
    it takes the same value again, and a slightly worse one, for an improvement. A metric that is NaN or infinite is
    none here; PyTorch takes an infinity of the right sign for the best there can be.
    """

    __slots__ = (
        "_bad",
        "_best",
        "_cooling",
        "_lr",
        "_mode",
        "cooldown",
        "factor",
        "least",
        "mode",
        "monitor",
        "patience",
        "threshold",
    )

    def __init__(
        self,
        lr: float,
        factor: float = 0.1,
        patience: int = 10,
        *,
        threshold: float = 1e-4,
        mode: Literal["min", "max"] | None = None,
        cooldown: int = 0,
        least: float = 0.0,
        monitor: str | None = None,
    ) -> None:
        self._lr = real(lr, "lr", least=0.0)
        self.factor = real(factor, "factor", above=0.0, below=1.0)
        self.patience = integer(patience, "patience", least=0)
        self.threshold = real(threshold, "threshold", least=0.0)
        self.mode = None if mode is None else choice(mode, "mode", ("min", "max"))
        self._mode = self.mode or "min"
        self.cooldown = integer(cooldown, "cooldown", least=0)
        self.least = real(least, "least", least=0.0, most=self._lr)
        if monitor is not None and not isinstance(monitor, str):
            raise TypeError(f"monitor must be the name of a metric, or None, found {type(monitor).__name__}")
        self.monitor = monitor
        self._best = self._none_yet
        self._bad = self._cooling = 0

    def __repr__(self) -> str:
        monitor = "" if self.monitor is None else f", monitor={self.monitor!r}"
        return (
            f"ReduceOnPlateau(lr={self._lr:g}, factor={self.factor:g}, patience={self.patience}, "
            f"mode={self.mode!r}{monitor})"
        )

    def __call__(self, step: int) -> float:
        """Return the rate, which does not depend on the step."""
        _step(step)
        return self._lr

    @property
    def lr(self) -> float:
        """The rate now."""
        return self._lr

    def _follow(self, mode: str) -> None:
        """Take the direction of the metric that `fit` has found."""
        is_new = self._best == self._none_yet
        self._mode = mode
        if is_new:
            self._best = self._none_yet

    @property
    def _none_yet(self) -> float:
        """What `best` is before the first metric."""
        return math.inf if self._mode == "min" else -math.inf

    def _improves(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        best, sign = self._best, 1.0 if self._mode == "min" else -1.0
        # The best one moved by its share, in the one direction or the other; none yet stays infinite.
        share = self.threshold if math.isfinite(best) else 0.0
        limit = best * (1.0 - math.copysign(share, best) * sign)
        return value < limit if self._mode == "min" else value > limit

    @property
    def best(self) -> float:
        """The best metric so far; infinite before the first."""
        return self._best

    def update(self, metric: SupportsFloat) -> float:
        """Take note of a metric, and return the rate from now on.

        Raises
        ------
        TypeError
            If the metric is no number.
        """
        value = _number(metric, "metric")
        if self._improves(value):
            self._best, self._bad = value, 0
        else:
            self._bad += 1
        if self._cooling > 0:
            self._cooling -= 1
            self._bad = 0
        if self._bad > self.patience:
            # A rate below the lowest, from a loaded state, does not go up.
            self._lr = min(self._lr, max(self._lr * self.factor, self.least))
            self._cooling, self._bad = self.cooldown, 0
        return self._lr

    def state_dict(self) -> dict[str, float]:
        """Return what `load_state_dict` needs to go on from here."""
        return {"lr": self._lr, "best": self._best, "bad": self._bad, "cooling": self._cooling}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned.

        Raises
        ------
        TypeError, ValueError
            If an entry is missing or out of its range. Nothing has changed then.
        """
        complete(state, "state", ("lr", "best", "bad", "cooling"))
        lr, best = real(state["lr"], "state['lr']", least=0.0), _number(state["best"], "state['best']")
        if not math.isfinite(best) and best != self._none_yet:
            raise ValueError(f"state['best'] is {best}; expected a finite number, or {self._none_yet} before the first")
        bad, cooling = (integer(state[name], f"state['{name}']", least=0) for name in ("bad", "cooling"))
        set_attributes(self, _lr=lr, _best=best, _bad=bad, _cooling=cooling)
