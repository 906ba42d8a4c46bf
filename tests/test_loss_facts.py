"""What a loss says of itself holds: its best constant prediction, and the terms that it leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import LAYER_LOSSES, LOSSES, METRICS, OVER_PRED, ROOTS, Array, cases, seeded, targets_for

import fuseprop as fp
from fuseprop._registry import LossSpec

ONE_PREDICTION = [*LOSSES, *METRICS, *ROOTS]
#: Without a closed form: the best is found by iterations, or is not one of a prediction per sample.
NO_CLOSED_FORM = {
    "symmetric_absolute_percentage_error",
    "huber",
    "pseudo_huber",
    "log_cosh",
    "focal_with_logits",
    "softmax_focal",
}

# --- the domain of targets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "parameters"), cases(ONE_PREDICTION))
def test_samples_of_the_domain(spec: LossSpec, parameters: dict[str, Any]) -> None:
    """Whatever the parameters, what is said to be inside is taken, and what is not is refused."""
    loss = spec.cls(**parameters)
    inside, outside = spec.samples(parameters)
    assert np.isfinite(loss(np.full(len(inside), 0.5), inside)) or parameters.get("on_zero") == "inf"
    for value in outside:
        with pytest.raises(ValueError, match=r"target\[1\] is .*; \w+ expects "):
            loss(np.full(2, 0.5), [inside[-1], value])


@pytest.mark.parametrize(("spec", "parameters"), cases(s for s in OVER_PRED if s.domain_of_targets({}) != "labels"))
def test_samples_of_distributions(spec: LossSpec, parameters: dict[str, Any]) -> None:
    loss = spec.cls(**parameters)
    inside, outside = spec.samples(parameters)
    loss(np.full((1, len(inside)), 0.5), [inside])
    for value in outside:
        with pytest.raises(ValueError, match=r"target\[0, 1\] is .*; "):
            loss(np.full((1, 2), 0.5), [[inside[-1], value]])


# --- values by hand -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "target", "weight", "expected"),
    [
        ("squared_error", {}, [1, 2, 6], None, 3.0),
        ("squared_error", {}, [1, 2, 6], [3, 0, 1], 2.25),
        ("root_mean_squared_error", {}, [[1, 0], [3, 4]], [1, 3], [2.5, 3.0]),
        ("absolute_error", {}, [5, 1, 3], None, 3.0),
        ("absolute_error", {}, [5, 1, 3, 2], None, 2.5),
        ("absolute_error", {}, [5, 1, 3, 2], [9, 1, 1, 0], 5.0),
        ("quantile", {"q": 0.75}, [4, 3, 2, 1], None, 3.5),
        ("quantile", {"q": 0.9}, [4, 3, 2, 1], None, 4.0),
        ("quantile", {"q": (0.1, 0.9)}, [4, 3, 2, 1], None, [1.0, 4.0]),
        ("absolute_percentage_error", {}, [1, 10, 10, 10], None, 1.0),
        ("absolute_percentage_error", {"on_zero": "skip"}, [0, 0, 0, 7], None, 7.0),
        ("absolute_percentage_error", {"on_zero": "inf"}, [0, 7, 7, 7], None, 0.0),
        ("hinge", {}, [1, -1, -1], None, -1.0),
        ("hinge", {}, [1, -1, -1], [4, 1, 1], 1.0),
        ("squared_hinge", {}, [1, -1, 1, 1], None, 0.5),
        ("logistic", {}, [1, -1, 1, 1], None, np.log(3)),
        ("exponential", {}, [1, -1, 1, 1], None, np.log(3) / 2),
        ("binary_cross_entropy", {}, [1, 0, 0.5, 0.5], None, 0.5),
        ("binary_cross_entropy_with_logits", {"pos_weight": 5.0}, [1, 0, 0, 0], None, np.log(5 / 3)),
        ("binary_cross_entropy_with_logits", {}, [1, 1], None, np.inf),
        ("poisson", {}, [0, 1, 5], None, np.log(2)),
        ("gamma", {}, [1, 1, 7], [1, 1, 2], np.log(4)),
        ("tweedie", {"power": 0.0}, [-1, -2], None, -np.inf),
        ("softmax_cross_entropy", {}, np.eye(3)[[0, 1, 1, 2]], None, np.log([0.25, 0.5, 0.25])),
        ("softmax_cross_entropy", {"ignore_index": 1}, np.eye(2)[[0, 1, 1]], None, [0.0, -np.inf]),
        ("negative_log_likelihood", {}, np.eye(2)[[0, 1]], [1, 3], np.log([0.25, 0.75])),
        ("kl_divergence", {"log_target": True}, np.log([[0.5, 0.5], [1.0, 1e-300]]), None, [0.75, 0.25]),
    ],
)
def test_best_constant_by_hand(
    name: str, parameters: dict[str, Any], target: Any, weight: list[float] | None, expected: Any
) -> None:
    found = fp.losses.get(name, **parameters).spec.best_constant(target, weight, parameters)
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=1e-15)
    assert np.shape(found) == np.shape(expected)


# --- it is the best -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("spec", "parameters"), cases(s for s in ONE_PREDICTION if s.best is not None))
def test_best_constant_has_the_smallest_mean(spec: LossSpec, parameters: dict[str, Any], weighted: bool) -> None:
    rng = seeded("best", spec.name, weighted)
    target = targets_for(spec, (31,), np.float64, rng)
    weight = rng.random(31) * rng.choice([0.0, 1.0, 5.0], 31) if weighted else None
    best = spec.best_constant(target, weight, parameters)
    loss = spec.cls(**parameters)

    def mean(prediction: float) -> float:
        return float(loss(np.full(31, prediction), target, weight))

    least = mean(best)
    assert np.isfinite(least)
    others = best + np.concatenate([[s * 10.0**e for s in (-1, 1) for e in range(-6, 1)], np.linspace(-9, 9, 181)])
    if spec.pred_domain == "unit":
        others = np.clip(others, 0.0, 1.0)
    # A NaN, of an infinite loss with a weight of 0, is not less.
    assert not any(mean(other) < least - 1e-14 * (1 + abs(least)) for other in others)
    assert any(mean(other) > least for other in others)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("spec", "parameters"), cases(s for s in OVER_PRED if s.best is not None))
def test_best_constant_over_classes(spec: LossSpec, parameters: dict[str, Any], weighted: bool) -> None:
    rng = seeded("best", spec.name, weighted)
    weight = rng.random(40) if weighted else None
    labels = np.concatenate([np.arange(4), rng.integers(0, 4, 36)])
    wide = rng.dirichlet(np.ones(4), 40) if "distribution" in spec.target_domain else np.eye(4)[labels]
    target = np.log(wide) if spec.domain_of_targets(parameters) == "log_distribution" else wide
    best = spec.best_constant(target, weight, parameters)
    loss = spec.cls(**parameters)
    given = labels if spec.target_domain in ("labels", "classes") else target

    def mean(prediction: Array) -> float:
        return float(loss(np.tile(prediction, (40, 1)), given, weight))

    least, kept = mean(best), np.isfinite(best)  # an ignored class has a logit of -inf
    assert np.isfinite(least)
    for size in (1e-3, 0.1, 0.9):
        for _ in range(20):
            if spec.prediction == "logit":
                other = np.where(kept, best + size * rng.standard_normal(4), best)
            else:  # of the probabilities that sum to 1
                p = best if spec.prediction == "probability" else np.exp(best)
                other = (1 - size) * p + size * rng.dirichlet(np.ones(4))
                other = other if spec.prediction == "probability" else np.log(other)
            assert mean(other) > least


def test_which_losses_have_no_best_constant() -> None:
    """A new loss has one, or is put on the list with a reason."""
    without = {spec.name for spec in [*ONE_PREDICTION, *OVER_PRED] if spec.best is None}
    assert without == NO_CLOSED_FORM
    for spec in [*ONE_PREDICTION, *OVER_PRED, *LAYER_LOSSES]:
        if spec.best is None:
            assert spec.best_constant(np.ones(3)) is None


# --- what is left out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "parameters"), cases(s for s in ONE_PREDICTION if s.prediction == "value"))
def test_with_its_constant_a_loss_is_least_at_0(spec: LossSpec, parameters: dict[str, Any]) -> None:
    """The loss of a right prediction: 0 with what it leaves out, as the deviance's."""
    target = np.abs(targets_for(spec, (31,), np.float64, seeded("dropped", spec.name))) + 0.125
    pred = np.log(target) if spec.link == "log" else target
    value = spec.cls(**parameters)(pred, target, reduction="mean" if spec in ROOTS else "none")
    np.testing.assert_allclose(value + spec.dropped_constant(target, parameters), 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "parameters", "power"),
    [("poisson", {}, 1.0), ("gamma", {}, 2.0), *(("tweedie", {"power": p}, p) for p in (-0.5, 0, 1, 1.5, 2, 3))],
)
def test_half_the_deviance(name: str, parameters: dict[str, Any], power: float) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = seeded("deviance", name, power)
    mu, target = rng.uniform(0.5, 4, 30), rng.uniform(0.5, 4, 30)
    target[:3] = 0.0 if 1 <= power < 2 else -1.0 if power <= 0 else 1.0
    loss = fp.losses.get(name, **parameters)
    constant = loss.spec.dropped_constant(target, parameters)
    found = loss(np.log(mu), target) + np.mean(constant)
    np.testing.assert_allclose(found, metrics.mean_tweedie_deviance(target, mu, power=power) / 2, rtol=1e-13)
