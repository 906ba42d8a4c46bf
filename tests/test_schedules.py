"""Learning-rate schedules: formulas, PyTorch's and scikit-learn's rates, what is refused."""

from __future__ import annotations

import copy
import math
import pickle
import re
from fractions import Fraction
from pathlib import Path
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
    with pytest.raises(ValueError, match=r"state does not fit: missing are \['lr', 'best', 'bad', 'cooling'\]"):
        again.load_state_dict({})
    assert again.state_dict() == before
    for wrong in ("low", None, [1.0]):
        with pytest.raises(TypeError, match="metric must be a number, found"):
            again.update(wrong)  # type: ignore[arg-type]  # refused


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("shift", [-7.0, -1.0, 0.0, 1.0, 7.0])
@pytest.mark.parametrize("threshold", [0.0, 1e-4, 0.2])
def test_plateau_knows_better_from_worse_at_any_sign(threshold: float, shift: float, mode: Any) -> None:
    """Reductions and best as by the definition, in exact numbers: better by more than threshold |best|."""
    direction = 1 if mode == "max" else -1
    rng = np.random.default_rng(3)
    metrics = (shift + np.round(rng.standard_normal(200), 2)).tolist()
    metrics += [direction * 0.003 * i for i in range(100)] + [-direction * 0.003 * i for i in range(100)] + [shift] * 9
    schedule = schedules.ReduceOnPlateau(1.0, 0.5, 2, threshold=threshold, mode=mode)
    best: Fraction | None = None
    lr, bad = 1.0, 0
    for metric in metrics:
        exact = Fraction(metric)
        gain = None if best is None else direction * (exact - best) - Fraction(threshold) * abs(best)
        if gain is not None and abs(gain) < 1e-12 and gain != 0:
            continue  # the limit is rounded
        if gain is None or gain > 0:
            best, bad = exact, 0
        else:
            bad += 1
        if bad > 2:
            lr, bad = lr / 2, 0
        assert schedule.update(metric) == lr
        assert schedule.best == float(best)
    assert lr < 1.0


@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_is_not_finite_is_no_improvement(mode: Any) -> None:
    schedule = schedules.ReduceOnPlateau(1.0, 0.5, patience=0, mode=mode)
    assert [schedule.update(m) for m in (math.nan, math.inf, -math.inf)] == [0.5, 0.25, 0.125]
    assert schedule.update(-3.0) == 0.125
    assert schedule.best == -3.0
    assert [schedule.update(m) for m in (math.inf, -math.inf, math.nan, -3.0)] == [2**-4, 2**-5, 2**-6, 2**-7]
    assert schedule.best == -3.0


def test_the_metric_that_a_plateau_follows() -> None:
    assert schedules.ReduceOnPlateau(1.0).monitor is None
    schedule = schedules.ReduceOnPlateau(1.0, mode="max", monitor="val_accuracy")
    assert (schedule.monitor, schedule.mode) == ("val_accuracy", "max")
    assert "mode='max', monitor='val_accuracy'" in repr(schedule)


def test_the_mode_of_a_plateau_by_itself() -> None:
    schedule = schedules.ReduceOnPlateau(1.0, 0.5, patience=0)
    assert schedule.mode is None
    assert [schedule.update(value) for value in (3.0, 2.0, 2.5)] == [1.0, 1.0, 0.5]


def test_warmup_before_a_plateau() -> None:
    plateau = schedules.ReduceOnPlateau(1.0, 0.5, patience=0, mode="max", monitor="val_accuracy")
    schedule = schedules.Warmup(schedules.Warmup(plateau, 2), 4)
    assert (schedule.monitor, schedule.mode) == ("val_accuracy", "max")
    assert schedule.update(3.0) is None
    assert (plateau.best, schedule(4 + 2), schedule(4 + 1)) == (3.0, 1.0, 0.5)
    assert schedule.update(2.0) is None
    assert (schedule(4 + 2), schedule(4 + 1)) == (0.5, 0.25)
    for again in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        again.update(1.0)
        assert (again(10**6), schedule(10**6)) == (0.25, 0.5)
    fresh = schedules.Warmup(schedules.ReduceOnPlateau(1.0, 0.5, patience=0, mode="max"), 4)
    fresh.load_state_dict(schedule.state_dict())
    assert fresh.state_dict() == plateau.state_dict()
    fresh.update(1.0)
    assert fresh(10**6) == 0.25


def test_warmup_before_a_function_of_the_step_follows_nothing() -> None:
    for schedule in (schedules.Warmup(schedules.Cosine(1.0, 5), 2), schedules.Warmup(math.sqrt, 2)):
        for name in ("update", "monitor", "mode", "state_dict", "load_state_dict"):
            assert not hasattr(schedule, name)
    with pytest.raises(AttributeError, match="Warmup has no attribute 'rise'"):
        _ = schedules.Warmup(schedules.Cosine(1.0, 5), 2).rise


def test_warmup_of_a_plateau_in_fit(tmp_path: Path) -> None:
    """It is told the metric, the rate behind an epoch is the warmup's, and a resumed run goes on from its state."""
    pytest.importorskip("safetensors")
    x, y = np.random.default_rng(0).standard_normal((2, 12, 1))

    def rates_of(epochs: int, **options: Any) -> list[float]:
        model = fp.nn.Sequential([fp.nn.Dense(1, 1)], rng=0, dtype=np.float64)
        plateau = schedules.ReduceOnPlateau(0.1, 0.5, patience=0, threshold=0.9)  # no epoch is so much better
        options |= {"schedule": schedules.Warmup(plateau, 4), "optimizer": fp.optim.SGD(model), "epochs": epochs}
        return model.fit(x, y, loss="mse", batch_size=12, progress=False, **options)["lr"]

    # Reduced behind each epoch but the first; the rise ends at step 4.
    expected = [0.1 * 0.5 ** max(0, epoch - 1) * min(epoch / 4, 1.0) for epoch in range(8)]
    assert rates_of(8) == pytest.approx(expected)
    path = tmp_path / "checkpoint"
    rates_of(5, callbacks=[fp.nn.Checkpoint(path)])
    assert rates_of(8, callbacks=[fp.nn.Checkpoint(path)], resume=path) == pytest.approx(expected)


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
    for best, error in ((math.nan, ValueError), (-math.inf, ValueError), ("3", TypeError)):
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
        (lambda: schedules.ReduceOnPlateau(1, monitor=3), TypeError, "monitor must be the name of a metric, or None"),
    ],
)
def test_errors(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()
