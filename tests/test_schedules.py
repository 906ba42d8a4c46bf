"""Learning-rate schedules: formulas, PyTorch's and scikit-learn's rates, what is refused."""

from __future__ import annotations

import copy
import math
import pickle
import re
from typing import Any

import numpy as np
import pytest

import fuseprop as fp
from fuseprop.optim import schedules

ALL: list[Any] = [
    schedules.Constant(0.3),
    schedules.Step(0.3, 4, 0.5),
    schedules.Exponential(0.3, 0.9),
    schedules.InverseScaling(0.3),
    schedules.Cosine(0.3, 10, 0.01),
    schedules.Warmup(schedules.Cosine(0.3, 10), 5, 0.02),
    schedules.OneCycle(0.3, 20),
    schedules.ReduceOnPlateau(0.3),
]
each_schedule = pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: type(schedule).__name__)


def rates(schedule: Any, steps: int) -> list[float]:
    return [schedule(step) for step in range(steps)]


def test_formulas() -> None:
    assert rates(schedules.Constant(0.3), 3) == [0.3, 0.3, 0.3]
    np.testing.assert_allclose(rates(schedules.Step(1.0, 2, 0.5), 6), [1, 1, 0.5, 0.5, 0.25, 0.25])
    np.testing.assert_allclose(rates(schedules.Exponential(2.0, 0.5), 4), [2, 1, 0.5, 0.25])
    np.testing.assert_allclose(rates(schedules.InverseScaling(1.0, 0.5), 4), [1, 2**-0.5, 3**-0.5, 0.5])
    np.testing.assert_allclose(
        rates(schedules.Cosine(1.0, 4, 0.5), 6),
        [1, 0.75 + 0.125 * 2**1.5 / 2, 0.75, 0.75 - 0.125 * 2**1.5 / 2, 0.5, 0.5],
    )
    np.testing.assert_allclose(
        rates(schedules.Warmup(schedules.Exponential(1.0, 0.5), 4, 0.2), 7), [0.2, 0.4, 0.6, 0.8, 1, 0.5, 0.25]
    )
    assert schedules.Warmup(math.sqrt, 0)(9) == 3.0


def torch_rates(make: Any, steps: int, lr: float) -> list[float]:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, found = make(torch.optim.lr_scheduler, optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (schedules.Step(0.3, 4, 0.5), lambda m, o: m.StepLR(o, 4, 0.5)),
        (schedules.Exponential(0.3, 0.9), lambda m, o: m.ExponentialLR(o, 0.9)),
        (schedules.Cosine(0.3, 19, 0.01), lambda m, o: m.CosineAnnealingLR(o, 19, 0.01)),
        (schedules.OneCycle(0.3, 20), lambda m, o: m.OneCycleLR(o, 0.3, 20)),
        (
            schedules.OneCycle(0.3, 20, rise=0.5, div=5, final_div=10),
            lambda m, o: m.OneCycleLR(o, 0.3, 20, pct_start=0.5, div_factor=5, final_div_factor=10),
        ),
        (schedules.OneCycle(0.3, 25, rise=0.33), lambda m, o: m.OneCycleLR(o, 0.3, 25, pct_start=0.33)),
    ],
)
def test_torch(ours: Any, theirs: Any) -> None:
    steps = 20
    # PyTorch multiplies its last rate by a factor, step by step.
    np.testing.assert_allclose(rates(ours, steps), torch_rates(theirs, steps, 0.3), rtol=1e-12)


def test_one_cycle_ends() -> None:
    schedule = schedules.OneCycle(1.0, 10, div=4, final_div=8)
    assert schedule(0) == pytest.approx(0.25)
    assert max(rates(schedule, 10)) == pytest.approx(1.0)
    assert schedule(9) == schedule(1000) == pytest.approx(1 / 32)
    for total, rise in ((1, 0.3), (2, 0.0), (2, 1.0), (3, 0.3)):
        found = rates(schedules.OneCycle(1.0, total, rise=rise), total + 2)
        assert all(0 < rate <= 1 for rate in found)


def test_powers_beyond_the_range_of_floats() -> None:
    assert schedules.Step(1e-3, 1, 2.0)(2000) == math.inf
    assert schedules.Step(0.0, 1, 2.0)(2000) == 0.0
    assert schedules.InverseScaling(1.0, 200.0)(100) == 0.0


def test_inverse_scaling_is_that_of_scikit_learn() -> None:
    network = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    theirs = network.SGDOptimizer([np.zeros(1)], learning_rate_init=0.3, lr_schedule="invscaling", power_t=0.4)
    ours = schedules.InverseScaling(0.3, 0.4)
    for seen in (10, 20, 30):
        theirs.iteration_ends(seen)
        assert ours(seen) == pytest.approx(theirs.learning_rate, rel=1e-14)


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"patience": 1, "factor": 0.5, "cooldown": 2, "least": 0.02},
        {"patience": 0, "mode": "max", "threshold": 0.1},
    ],
)
def test_plateau_is_that_of_torch(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    ours = schedules.ReduceOnPlateau(0.3, **options)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    given = {**options, "min_lr": options.get("least", 0.0)}
    given.pop("least", None)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, eps=0, **given)
    rng = np.random.default_rng(0)
    for metric in (1 + rng.random(60)).round(1):
        theirs.step(metric)
        assert ours.update(metric) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-14)
    assert ours.lr < 0.3


def test_plateau() -> None:
    schedule = schedules.ReduceOnPlateau(1.0, 0.5, patience=1)
    assert schedule(0) == 1.0
    assert [schedule.update(m) for m in (3.0, 2.0, math.nan, 2.0, 2.0, 2.0, 1.0)] == [1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert schedule(10**6) == schedule.lr == 0.25
    assert schedule.best == 1.0
    again = schedules.ReduceOnPlateau(1.0, 0.5, patience=1)
    again.load_state_dict(schedule.state_dict())
    assert [again.update(2.0) for _ in range(4)] == [schedule.update(2.0) for _ in range(4)]
    before = again.state_dict()
    with pytest.raises(ValueError, match=r"state\['bad'\] is -1"):
        again.load_state_dict({**before, "lr": 7.0, "bad": -1})
    with pytest.raises(KeyError):
        again.load_state_dict({})
    assert again.state_dict() == before
    for wrong in ("low", None, [1.0]):
        with pytest.raises(TypeError, match="metric must be a number, found"):
            again.update(wrong)  # type: ignore[arg-type]  # refused


def test_plateau_never_raises_the_rate() -> None:
    schedule = schedules.ReduceOnPlateau(1.0, 0.5, patience=0, least=0.1)
    schedule.load_state_dict({**schedule.state_dict(), "lr": 0.01, "best": 1.0})
    assert schedule.update(2.0) == 0.01


def test_the_first_metric_is_an_improvement() -> None:
    for mode, threshold in (("min", 1.0), ("min", 2.0), ("max", 1.0)):
        schedule = schedules.ReduceOnPlateau(1.0, 0.5, patience=0, mode=mode, threshold=threshold)  # type: ignore[arg-type]  # parametrized strings
        assert schedule.update(5.0) == 1.0
        assert schedule.best == 5.0


def test_plateau_refuses_a_best_that_nothing_improves() -> None:
    schedule = schedules.ReduceOnPlateau(1.0)
    for best, error in ((math.nan, ValueError), ("3", TypeError)):
        with pytest.raises(error, match=r"state\['best'\]"):
            schedule.load_state_dict({**schedule.state_dict(), "best": best})
    assert schedule.best == math.inf


@each_schedule
def test_drives_an_optimizer(schedule: Any) -> None:
    x = np.zeros(1)
    optimizer = fp.optim.SGD(x, lr=1.0)
    for step in range(6):
        optimizer.lr = schedule(step)
        optimizer.step(np.ones(1))
    assert x[0] == pytest.approx(-sum(rates(schedule, 6)))


@each_schedule
def test_drives_fit(schedule: Any) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 12, 1))
    model = fp.nn.Sequential([fp.nn.Dense(1, 1)], rng=0, dtype=np.float64)
    schedule = copy.deepcopy(schedule)
    optimizer = fp.optim.SGD(model, lr=9.0)
    history = model.fit(
        x, y, loss="half_squared_error", optimizer=optimizer, schedule=schedule, epochs=3, batch_size=4, progress=False
    )
    assert history["lr"] == [schedule(step) for step in (2, 5, 8)]


@each_schedule
def test_schedules_are_values(schedule: Any) -> None:
    assert all(isinstance(rate, float) and rate >= 0 for rate in rates(schedule, 50))
    for other in (copy.copy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert rates(other, 30) == rates(schedule, 30)
    assert type(schedule).__name__ in repr(schedule)
    if not isinstance(schedule, schedules.ReduceOnPlateau):
        assert pickle.loads(pickle.dumps(schedule)) == schedule
        with pytest.raises(AttributeError):
            schedule.lr = 1.0
    for wrong, error in ((-1, ValueError), (1.5, TypeError), ("a", TypeError)):
        with pytest.raises(error, match="step"):
            schedule(wrong)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.Constant(-1), ValueError, "lr is -1.0; expected a finite number >= 0"),
        (lambda: schedules.Constant("a"), TypeError, "lr must be a number, found str"),
        (lambda: schedules.Step(1, 0), ValueError, "step_size is 0; expected an integer >= 1"),
        (lambda: schedules.Step(1, 2, 0), ValueError, "gamma is 0.0"),
        (lambda: schedules.Exponential(1, 1.5), ValueError, "gamma is 1.5"),
        (lambda: schedules.InverseScaling(1, -1), ValueError, "power is -1.0"),
        (lambda: schedules.Cosine(1, 2.5), TypeError, "steps must be an integer"),
        (lambda: schedules.Cosine(1, 5, 2), ValueError, "least is 2.0; expected a finite number >= 0 and <= 1"),
        (lambda: schedules.Warmup(0.1, 5), TypeError, "schedule must be a function of the step, found float"),
        (lambda: schedules.Warmup(schedules.Constant(1), -5), ValueError, "steps is -5"),
        (lambda: schedules.OneCycle(1, 10, rise=2), ValueError, "rise is 2.0"),
        (lambda: schedules.OneCycle(1, 10, div=0.5), ValueError, "div is 0.5"),
        (lambda: schedules.ReduceOnPlateau(1, 1.0), ValueError, "factor is 1.0"),
        (lambda: schedules.ReduceOnPlateau(1, patience=-1), ValueError, "patience is -1"),
        (lambda: schedules.ReduceOnPlateau(1, mode="up"), ValueError, "mode is 'up'; expected 'min' or 'max'"),
        (lambda: schedules.ReduceOnPlateau(1, least=2), ValueError, "least is 2.0"),
    ],
)
def test_errors(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()
