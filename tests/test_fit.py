"""What accompanies training: weights of classes, schedules, early stopping, checkpoints, gradient health."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers import (
    CLASS_LOSSES,
    LOSSES,
    MARGIN_LOSSES,
    ROOTS,
    ROW_LOSSES,
    SANITIZER,
    assert_same_bits,
    check_output,
    each_dtype,
    row_targets,
    seeded,
    targets_for,
)
from networks import everything, small

import fuseprop as fp
from fuseprop import nn

Array = Any

rng = np.random.default_rng(0)
X, LABELS = rng.standard_normal((40, 5)), rng.integers(0, 3, 40)
VALIDATION = rng.standard_normal((20, 5)), rng.integers(0, 3, 20)


def fitted(model: nn.Sequential, x: Any = X, y: Any = LABELS, **options: Any) -> dict[str, list[float]]:
    options = {"loss": "softmax_cross_entropy", "epochs": 3, "batch_size": 16, "progress": False} | options
    return model.fit(x, y, **options)


# --- batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 39, 40, 1000])
def test_batch_sizes(batch_size: int) -> None:
    model = small()
    optimizer = fp.optim.SGD(model, lr=0.01)
    fitted(model, batch_size=batch_size, optimizer=optimizer, epochs=2)
    assert optimizer.steps == 2 * math.ceil(40 / batch_size)


def test_a_last_batch_of_one_is_refused_beforehand() -> None:
    model = nn.Sequential([nn.Dense(5, 3), nn.BatchNorm(3)], rng=0)
    for batch_size, size in ((13, 40), (1, 40), (40, 1)):
        with pytest.raises(
            ValueError, match=f"batch_size is {batch_size}, which leaves a batch of 1 of {size} samples"
        ):
            fitted(model, X[:size], LABELS[:size], batch_size=batch_size)
    fitted(model, batch_size=19)
    # Each sample has several values of each feature.
    several = nn.Sequential([nn.LayerNorm((4, 5)), nn.BatchNorm(5), nn.Flatten(), nn.Dense(20, 3)], rng=0)
    fitted(several, np.zeros((3, 4, 5)), LABELS[:3], batch_size=1)


@pytest.mark.skipif(SANITIZER != "", reason="sanitizers need private memory of their own")
def test_memory_mapped_samples_of_more_than_the_memory(tmp_path: Path) -> None:
    """A file of 1 GiB with holes, of which batches are read by a process that may have 700 MiB."""
    script = f"""
import resource, numpy as np
from fuseprop import nn
x = np.lib.format.open_memmap({str(tmp_path / "x.npy")!r}, "w+", np.float32, (262144, 1024))
y = np.zeros(262144, int)
model = nn.Sequential([nn.Dense(1024, 2)], rng=0)
resource.setrlimit(resource.RLIMIT_DATA, (700 << 20, resource.getrlimit(resource.RLIMIT_DATA)[1]))

class Enough(nn.Callback):
    def after_step(self, run):
        if run.step == 20:
            raise KeyboardInterrupt

try:
    model.fit(x, y, loss="softmax_cross_entropy", batch_size=64, epochs=1, callbacks=[Enough()], progress=False)
except KeyboardInterrupt:
    print("enough")
"""
    assert check_output(script) == "enough"


# --- what is looked through beforehand ----------------------------------------------------------------------

SPOILED = [
    ("x", np.nan, (37, 2), "half_squared_error", "x[37, 2] is nan; expected finite numbers"),
    ("x", -np.inf, (0, 0), "half_squared_error", "x[0, 0] is -inf; expected finite numbers"),
    ("x", 1e300, (3, 4), "half_squared_error", "x[3, 4] is 1e+300, inf as float32; expected finite numbers"),
    ("y", np.nan, (39, 0), "half_squared_error", "y[39, 0] is nan; half_squared_error expects finite numbers"),
    ("y", 1.5, (20, 0), "binary_cross_entropy_with_logits", "y[20, 0] is 1.5; binary_cross_entropy_with_logits expe"),
    ("y", 0.5, (21, 0), "hinge", "y[21, 0] is 0.5; hinge expects -1 or 1"),
    ("y", -2.0, (22, 0), "poisson", "y[22, 0] is -2.0; poisson expects finite values >= 0"),
    ("y", 0.0, (23, 0), "gamma", "y[23, 0] is 0.0; gamma expects finite values > 0"),
    ("y", 1e-60, (23, 0), "gamma", "y[23, 0] is 1e-60, 0.0 as float32; gamma expects finite values > 0"),
    ("y", np.nan, (24, 0), "absolute_percentage_error", "y[24, 0] is nan; absolute_percentage_error expects finite v"),
    ("weight", -1.0, (38,), "half_squared_error", "sample_weight[38] is -1; expected finite numbers >= 0"),
    ("weight", np.nan, (38,), "half_squared_error", "sample_weight[38] is nan; expected finite numbers >= 0"),
    ("weight", np.inf, (38,), "half_squared_error", "sample_weight[38] is inf; expected finite numbers >= 0"),
    ("weight", 1e39, (38,), "half_squared_error", "sample_weight[38] is 1e+39, inf as float32; expected finite numb"),
    ("weight", 1e-50, (38,), "half_squared_error", "sample_weight[38] is 1e-50, 0 as float32; expected finite numb"),
    ("weight", 0.0, (slice(None),), "half_squared_error", "sample_weight has only zeros; expected at least one numb"),
]


@pytest.mark.parametrize(("which", "value", "place", "loss", "message"), SPOILED, ids=[case[-1] for case in SPOILED])
@pytest.mark.parametrize("validation", [False, True], ids=["", "validation_data"])
def test_the_place_in_the_callers_array(  # noqa: PLR0917  # the parameters of a case, and where it is put
    which: str, value: float, place: tuple[int, ...], loss: str, message: str, validation: bool
) -> None:
    """Whatever the order of the batches is, and before the first of them."""
    good = {"x": X.copy(), "y": np.ones((40, 1)), "weight": np.ones(40)}
    bad = {name: array.copy() for name, array in good.items()}
    bad[which][place] = value
    model = nn.Sequential([nn.Dense(5, 1)], rng=0)
    optimizer = fp.optim.SGD(model)
    options: dict[str, Any] = {"loss": loss, "optimizer": optimizer, "batch_size": 4}
    if validation:
        message = re.sub(r"(?<=\])|(?<=weight)(?= has)", " of validation_data", message, count=1)
        options |= {"validation_data": tuple(bad.values())}
    data = good if validation else bad
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted(model, data["x"], data["y"], sample_weight=data["weight"], **options)
    assert optimizer.steps == 0


@pytest.mark.parametrize("rows", [1, 1 << 15, 70_000])
def test_the_place_in_a_long_array(rows: int) -> None:
    """Of several blocks, in each of which the count begins anew."""
    x = np.zeros((70_001, 3), np.float32)
    x[rows, 1] = np.nan
    for layout in (x, np.asfortranarray(x), x[:, ::-1][:, ::-1]):
        with pytest.raises(ValueError, match=re.escape(f"x[{rows}, 1] is nan")):
            fitted(nn.Sequential([nn.Dense(3, 3)]), layout, np.zeros(70_001, int))


def test_labels_are_looked_through() -> None:
    def refused(y: Any, message: str, error: type[Exception] = ValueError, loss: Any = "softmax_cross_entropy") -> None:
        model = small()
        before = model.flat_parameters.copy()
        with pytest.raises(error, match=re.escape(message)):
            fitted(model, y=y, loss=loss)
        assert_same_bits(model.flat_parameters, before)

    y = LABELS.copy()
    y[33] = 3
    refused(y, "y[33] is label 3; expected 0 to 2 (the model's output has C = 3 classes)")
    ignores = fp.losses.SoftmaxCrossEntropy(ignore_index=-100)
    refused(y, "y[33] is label 3; expected 0 to 2 or ignore_index = -100 (", loss=ignores)
    y[33] = -100
    refused(y, "y[33] is label -100; expected 0 to 2")
    fitted(small(), y=y, loss=ignores)
    for loss in ("softmax_cross_entropy", "negative_log_likelihood"):
        floats = LABELS.astype(float)
        refused(floats, "expects integer labels: all of these are whole numbers, give y.astype(int)", TypeError, loss)
        floats[34] = 0.5
        refused(floats, f"y[34] is 0.5; {loss} expects integer labels", loss=loss)
        floats[34] = np.nan
        refused(floats, f"y[34] is nan; {loss} expects integer labels", loss=loss)
    distributions = np.eye(3)[LABELS]
    distributions[35, 2] = 1.25
    refused(distributions, "y[35, 2] is 1.25; softmax_cross_entropy expects values in [0, 1]")
    logs = np.log(np.full((40, 3), 1 / 3))
    logs[:, 0] = -np.inf  # a probability of 0 is allowed
    fitted(
        nn.Sequential([nn.Dense(5, 3), nn.Activation("softmax")]), y=logs, loss=fp.losses.KLDivergence(log_target=True)
    )


def test_what_a_loss_of_ones_own_takes_is_its_own_matter() -> None:
    y = X.sum(axis=1, keepdims=True)
    y[::3] = np.nan  # not known

    def known(pred: Array, target: Array) -> tuple[float, Array]:
        r = np.where(np.isnan(target), 0.0, pred - target)
        return float((r**2).mean()), 2 * r / r.size

    history = fitted(nn.Sequential([nn.Dense(5, 1)], rng=0), y=y, loss=known, validation_data=(X, y))
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("where", ["x", "y", "sample_weight"])
def test_masked_arrays_are_refused(where: str) -> None:
    def masked(array: Array) -> Array:
        return np.ma.masked_array(array, np.arange(array.size).reshape(array.shape) == 3)

    data = {"x": X, "y": LABELS, "sample_weight": np.ones(40)}
    bad = data | {where: masked(data[where])}
    model = small()
    optimizer = fp.optim.SGD(model)
    with pytest.raises(TypeError, match=f"^{where} is a masked array, whose mask would be lost"):
        fitted(model, **bad)
    with pytest.raises(TypeError, match=f"^{where} of validation_data is a masked array"):
        fitted(model, validation_data=tuple(bad.values()))
    with pytest.raises(TypeError, match=f"^{where} is a masked array"):
        fitted(model, **bad, loss=lambda pred, target, weight: (0.0, pred))
    if where == "x":
        for call in (model, model.predict):
            with pytest.raises(TypeError, match=r"^x is a masked array"):
                call(bad["x"])
    name = "target" if where == "y" else where
    column = nn.Sequential([nn.Dense(5, 1)], rng=0)
    with pytest.raises(TypeError, match=f"^{name} is a masked array"):
        column.train_step(bad["x"], bad["y"], "half_squared_error", fp.optim.SGD(column), bad["sample_weight"])
    assert optimizer.steps == 0


def test_masked_arrays_are_refused_where_others_are_taken_as_they_are() -> None:
    model = small()
    masked = np.ma.masked_array(np.ones((40, 3)), np.ones((40, 3)))
    before = model.flat_parameters.copy()
    state = {name: np.ma.masked_array(array, array > 0) for name, array in model.state_dict().items()}
    with pytest.raises(TypeError, match=r"^state\['0.weight'\] is a masked array"):
        model.load_state_dict(state)
    with pytest.raises(TypeError, match=r"^the gradient that loss returned is a masked array"):
        model.train_step(X, LABELS, lambda pred, y: (0.0, masked), fp.optim.SGD(model))
    assert_same_bits(model.flat_parameters, before)
    with pytest.raises(TypeError, match=r"^pred is a masked array"):
        nn.accuracy(masked, LABELS)
    with pytest.raises(TypeError, match=r"^target is a masked array"):
        nn.accuracy(np.ones((40, 3)), np.ma.masked_array(LABELS, LABELS > 0))
    objective = fp.boosting.catboost_objective("squared_error")
    good = [1.0, 2.0]
    hidden = np.ma.masked_array(good, [True, False])
    for arguments, name in (
        ((hidden, good, None), "approxes"),
        ((good, hidden, None), "targets"),
        ((good, good, hidden), "weights"),
    ):
        with pytest.raises(TypeError, match=f"^{name} is a masked array"):
            objective.calc_ders_range(*arguments)
    with pytest.raises(TypeError, match=r"^approxes is a masked array"):
        fp.boosting.catboost_objective("softmax_cross_entropy").calc_ders_multi(hidden, 1.0, None)


def test_weights_are_refused_in_a_step() -> None:
    model = small(np.float32)
    optimizer = fp.optim.SGD(model)
    before = model.flat_parameters.copy()
    for value, found in (
        (-0.5, "-0.5"),
        (np.nan, "nan"),
        (np.inf, "inf"),
        (1e39, "1e+39, inf as float32"),
        (1e-50, "1e-50, 0 as float32"),
    ):
        weight = np.ones(40)
        weight[7] = value
        with pytest.raises(ValueError, match=re.escape(f"sample_weight[7] is {found}; expected finite numbers >= 0")):
            model.train_step(X, LABELS, "softmax_cross_entropy", optimizer, weight)
    assert optimizer.steps == 0
    assert_same_bits(model.flat_parameters, before)
    wide = small(np.float64)
    assert np.isfinite(wide.train_step(X, LABELS, "softmax_cross_entropy", fp.optim.SGD(wide), np.full(40, 1e39)))


# --- weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "class_weight",
    [{0: 0.5, 1: 2.0, 2: 1.5, 7: 3.0}, np.array([0.5, 2.0, 1.5]), [0.5, 2.0, 1.5]],
    ids=["dict", "array", "list"],
)
def test_class_weight(class_weight: Any) -> None:
    expected = np.array([0.5, 2.0, 1.5])[LABELS]
    more = seeded("weights").random(40)
    for sample_weight in (None, more):
        a, b = small(), small()
        found = fitted(a, class_weight=class_weight, sample_weight=sample_weight)
        assert found == fitted(b, sample_weight=expected if sample_weight is None else expected * more)
        assert_same_bits(a.flat_parameters, b.flat_parameters)


@pytest.mark.parametrize(
    ("class_weight", "sample_weight", "message"),
    [
        ({0: 1e39, 1: 1, 2: 1}, None, "class_weight[0] is 1e+39, inf as float32; expected a finite number >= 0"),
        ([1.0, 1e-50, 1.0], None, "class_weight[1] is 1e-50, 0 as float32; expected a finite number >= 0"),
        ({0: 1e30, 1: 1, 2: 1}, 1e20, "(sample_weight * class_weight)[1] is 1e+50, inf as float32; expected finite"),
        ({0: 1e-30, 1: 1, 2: 1}, 1e-30, "(sample_weight * class_weight)[1] is 1e-60, 0 as float32; expected finite"),
        ([1.0, 0.0, 0.0], (LABELS > 0) * 1.0, "(sample_weight * class_weight) has only zeros; expected at least one"),
    ],
)
def test_weights_that_are_none_in_the_models_dtype(class_weight: Any, sample_weight: Any, message: str) -> None:
    """What the loss would overflow with, or learn nothing from; in float64 the numbers are what they are."""
    weight = None if sample_weight is None else np.broadcast_to(sample_weight, 40)
    model = small(np.float32)
    optimizer = fp.optim.SGD(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted(model, optimizer=optimizer, class_weight=class_weight, sample_weight=weight)
    assert optimizer.steps == 0
    if "as float32" in message:
        fitted(small(np.float64), optimizer="sgd", class_weight=class_weight, sample_weight=weight)


def test_balanced_class_weight() -> None:
    y = np.array([0] * 30 + [1] * 6 + [2] * 4)
    a, b = small(), small()
    weight = 40 / (3 * np.array([30, 6, 4]))
    assert fitted(a, y=y, class_weight="balanced") == fitted(b, y=y, sample_weight=weight[y])
    signs = np.where(LABELS > 0, 1.0, -1.0)
    models = [nn.Sequential([nn.Dense(5, 1)], rng=0) for _ in range(2)]
    histories = [
        fitted(models[0], y=signs, loss="hinge", class_weight={-1: 2.0, 1: 0.5}),
        fitted(models[1], y=signs, loss="hinge", sample_weight=np.where(signs > 0, 0.5, 2.0)),
    ]
    assert histories[0] == histories[1]


def test_weights_of_the_outputs_shape() -> None:
    """As the loss and train_step take them."""
    weight, y = seeded("columns").random((40, 1)), LABELS * 1.0
    column = [nn.Sequential([nn.Dense(5, 1)], rng=0) for _ in range(2)]
    options: dict[str, Any] = {"loss": "squared_error", "optimizer": "sgd", "y": y, "shuffle": False}
    options["validation_data"] = X, y, weight
    assert fitted(column[0], sample_weight=weight, **options) == fitted(
        column[1], sample_weight=weight[:, 0], **options
    )
    with pytest.raises(ValueError, match=r"sample_weight has shape \(40, 1\); expected \(40,\)"):
        fitted(small(), sample_weight=weight)


@pytest.mark.parametrize(
    ("value", "found"), [(np.ones(3), "an array of shape (3,)"), (None, "NoneType"), ("0.5", "str")], ids=str
)
def test_a_metric_that_is_no_number(value: Any, found: str) -> None:
    model = small()
    optimizer = fp.optim.SGD(model)
    message = re.escape(f"the metric 'metric_0' returned {found}; expected a number")
    with pytest.raises(TypeError, match=message):
        fitted(model, optimizer=optimizer, metrics=[lambda pred, target: value])
    assert optimizer.steps == 1
    history = fitted(small(), metrics=[lambda pred, target: np.array(0.5)], validation_data=VALIDATION)
    assert history["metric_0"] == history["val_metric_0"] == [0.5] * 3


def test_states_of_early_stopping_that_do_not_fit() -> None:
    stopping = nn.EarlyStopping()
    before = stopping.state_dict()
    with pytest.raises(ValueError, match=r"state\['best'\] is nan"):
        stopping.load_state_dict({**before, "best": math.nan})
    with pytest.raises(
        ValueError, match=r"state does not fit: missing are \['best', 'best_epoch', 'waited', 'state'\]"
    ):
        stopping.load_state_dict({})
    assert stopping.state_dict() == before


def test_a_loss_that_is_not_finite_goes_through_pickle() -> None:
    for error in (nn.NonFiniteLossError(math.inf), nn.NonFiniteLossError(math.inf, "the loss is inf at step 3")):
        again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
        assert (str(again), again.value) == (str(error), math.inf)


def test_ignored_labels_are_of_no_class() -> None:
    ignored = np.where(np.arange(40) % 3 == 0, -100, LABELS)
    loss = fp.losses.SoftmaxCrossEntropy(ignore_index=-100)
    counts = np.array([(ignored == label).sum() for label in range(3)])
    for class_weight, numbers in (
        ([0.5, 2.0, 1.5], np.array([0.5, 2.0, 1.5])),
        ({0: 0.5, 1: 2.0, 2: 1.5}, np.array([0.5, 2.0, 1.5])),
        ("balanced", counts.sum() / (3 * counts)),
    ):
        weight = np.where(ignored < 0, 1.0, numbers[np.maximum(ignored, 0)])
        a, b = small(), small()
        expected = fitted(b, y=ignored, loss=loss, sample_weight=weight)
        assert fitted(a, y=ignored, loss=loss, class_weight=class_weight) == expected
        assert_same_bits(a.flat_parameters, b.flat_parameters)
        nothing = fitted(small(), y=np.full(40, -100), loss=loss, class_weight=class_weight)
        assert nothing["loss"] == [0.0] * 3


# --- schedules ----------------------------------------------------------------------------------------------


def test_a_schedule_of_the_step() -> None:
    seen: list[int] = []

    def schedule(step: int) -> float:
        seen.append(step)
        return 0.1 / (1 + step)

    model, by_hand = small(), small()
    optimizer = fp.optim.SGD(model, lr=5.0)
    history = fitted(model, optimizer=optimizer, schedule=schedule, shuffle=False)
    assert seen == list(range(9))
    assert history["lr"] == [0.1 / 3, 0.1 / 6, 0.1 / 9]
    other = fp.optim.SGD(by_hand)
    for step in range(9):
        other.lr = 0.1 / (1 + step)
        rows = slice(16 * (step % 3), 16 * (step % 3) + 16)
        by_hand.train_step(X[rows], LABELS[rows], fp.losses.SoftmaxCrossEntropy(), other)
    assert_same_bits(model.flat_parameters, by_hand.flat_parameters)
    fitted(model, optimizer=optimizer, schedule=schedule, epochs=1)
    assert seen[9:] == [9, 10, 11]  # it goes on with the optimizer's steps


class HalvesOnPlateau:
    """The example of a schedule that follows a metric."""

    def __init__(self, lr: float) -> None:
        self.lr, self.best, self.metrics = lr, math.inf, 0

    def update(self, metric: float) -> float:
        self.metrics += 1
        if metric > self.best * 0.999:
            self.lr /= 2
        self.best = min(self.best, metric)
        return self.lr

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


@pytest.mark.parametrize("validation", [None, VALIDATION], ids=["loss", "val_loss"])
def test_a_schedule_that_follows_the_loss(validation: Any) -> None:
    model = small()
    schedule = HalvesOnPlateau(0.5)
    optimizer = fp.optim.SGD(model, lr=0.5)
    history = fitted(model, optimizer=optimizer, schedule=schedule, epochs=12, validation_data=validation)
    followed = history["loss" if validation is None else "val_loss"]
    again = HalvesOnPlateau(0.5)
    assert history["lr"] == [again.update(value) for value in followed]
    assert optimizer.lr == history["lr"][-1] < 0.5


def test_a_schedule_that_is_both() -> None:
    """As fuseprop.optim's for plateaus: its rate holds from the first step."""

    class Both(HalvesOnPlateau):
        def __call__(self, step: int) -> float:
            return self.lr

    a, b = small(), small()
    optimizer = fp.optim.SGD(a, lr=123.0)
    history = fitted(a, optimizer=optimizer, schedule=Both(0.5), epochs=12)
    other = fp.optim.SGD(b, lr=0.5)
    assert history == fitted(b, optimizer=other, schedule=HalvesOnPlateau(0.5), epochs=12)
    assert_same_bits(a.flat_parameters, b.flat_parameters)


class Records:
    """A schedule that follows a metric, with the two attributes that tell which."""

    def __init__(self, monitor: str | None = None, mode: str = "min") -> None:
        self.monitor, self.mode = monitor, mode
        self.found: list[float] = []

    def update(self, metric: float) -> None:
        self.found.append(metric)


def test_a_schedule_follows_the_metric_that_it_names() -> None:
    for monitor, mode, followed in (
        (None, "min", "val_loss"),
        ("loss", "min", "loss"),
        ("val_accuracy", "max", "val_accuracy"),
        ("accuracy", "max", "accuracy"),
        ("val_metric_1", "max", "val_metric_1"),
    ):
        schedule = Records(monitor, mode)
        metrics = ["accuracy", lambda pred, target: float(pred.sum())]
        history = fitted(small(), schedule=schedule, metrics=metrics, validation_data=VALIDATION)
        assert schedule.found == history[followed]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "max"}, "has mode='max' and monitors 'loss', which is better the lower; expected mode='min', or mon"),
        ({"monitor": "accuracy", "mode": "min"}, "has mode='min' and monitors 'accuracy', which is better the higher"),
        ({"monitor": "val_loss"}, "monitors 'val_loss'; reported are 'loss', 'accuracy'"),
    ],
)
def test_a_metric_is_not_followed_the_wrong_way(options: dict[str, Any], message: str) -> None:
    makes: list[tuple[str, Any]] = [
        ("schedule", Records(**options)),
        ("early_stopping", nn.EarlyStopping(**options)),
    ]
    for who, what in makes:
        with pytest.raises(ValueError, match=re.escape(f"{who} {message}")):
            fitted(small(), metrics=["accuracy"], **{who: what})


# --- losses -------------------------------------------------------------------------------------------------


def test_a_plateau_goes_the_way_of_its_metric() -> None:
    """By itself, before a warmup too, and behind a resumption; one whose way is not known must be told it."""
    plateau_of, warmup = fp.optim.schedules.ReduceOnPlateau, fp.optim.schedules.Warmup

    def r2(pred: Array, target: Array) -> float:
        return 0.0

    for wrapped in (lambda plateau: plateau, lambda plateau: warmup(warmup(plateau, 2), 3)):
        accuracies = plateau_of(0.01, 0.5, patience=0, monitor="accuracy")
        history = fitted(small(), metrics=["accuracy"], schedule=wrapped(accuracies), epochs=8)
        again = plateau_of(0.01, 0.5, patience=0, mode="max")
        assert accuracies.lr == [again.update(value) for value in history["accuracy"]][-1]
        assert accuracies.best == max(history["accuracy"])
        fresh = plateau_of(0.01, 0.5, patience=0, mode="max")
        fresh.load_state_dict(accuracies.state_dict())
        losses = plateau_of(0.01, 0.5)
        assert losses.best == np.inf
        assert losses.best == plateau_of(0.01).best
        history = fitted(small(), schedule=wrapped(losses))
        assert losses.best == min(history["loss"])
        with pytest.raises(
            ValueError, match=r"schedule monitors 'r2', of which less or more may be better: give mode="
        ):
            fitted(small(), metrics=[r2], schedule=wrapped(plateau_of(0.01, monitor="r2")))
        fitted(small(), metrics=[r2], schedule=wrapped(plateau_of(0.01, monitor="r2", mode="max")))


@pytest.mark.parametrize("spec", [*LOSSES, *ROOTS, *CLASS_LOSSES, *ROW_LOSSES], ids=lambda spec: spec.name)
def test_every_loss_trains(spec: Any) -> None:
    """Full batches, so that the loss falls whatever it is."""
    generator = seeded(spec.name, "trains")
    over_classes = spec in CLASS_LOSSES or spec in ROW_LOSSES
    layers: list[nn.Layer] = [nn.Dense(5, 16, "tanh"), nn.Dense(16, 3)]
    if over_classes:
        target = row_targets(spec, {}, (40, 3), np.float64, generator) if spec in ROW_LOSSES else LABELS
        if spec.pred_domain == "unit":
            layers.append(nn.Activation("softmax"))
        elif spec.name == "negative_log_likelihood":
            layers.append(nn.Activation("log_softmax"))
    else:
        target = targets_for(spec, (40, 3), np.float64, generator)
        if spec.pred_domain == "unit":
            layers.append(nn.Activation("sigmoid"))
    model = nn.Sequential(layers, rng=0, dtype=np.float64)
    weight = generator.uniform(0.5, 2, 40)
    history = fitted(model, y=target, loss=spec.name, sample_weight=weight, batch_size=40, epochs=25)
    assert np.isfinite(history["loss"]).all()
    assert min(history["loss"]) < history["loss"][0]


# --- early stopping -----------------------------------------------------------------------------------------


class Scripted:
    """A metric with a given course over the epochs of validation."""

    __name__ = "scripted"

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def __call__(self, pred: Array, target: Array) -> float:
        return next(self.values) if len(pred) != 16 and len(pred) != 8 else 0.0


@pytest.mark.parametrize(
    ("options", "values", "best", "epochs"),
    [
        ({}, [5, 4, 3, 3, 3.5, 1, 1], 2, 5),
        ({"patience": 3}, [5, 4, 3, 3, 3.5, 1, 2, 2, 2, 0], 5, 9),
        ({"mode": "max"}, [5, 4, 3, 6], 0, 3),
        ({"min_delta": 0.5}, [5, 4.6, 4.4, 4.3, 4.2, 1], 2, 5),
        ({}, [5, math.nan, math.nan, 1], 0, 3),
        ({"patience": 9}, [5, 4, 3, 4], 2, 4),
    ],
)
def test_early_stopping(options: dict[str, Any], values: list[float], best: int, epochs: int) -> None:
    model = everything(np.float64, p=0.2)
    states: list[dict[str, Array]] = []
    stopping = nn.EarlyStopping(**({"patience": 2, "monitor": "val_scripted", "mode": "min"} | options))
    x = seeded("early").standard_normal((40, 2, 3))
    history = fitted(
        model,
        x,
        epochs=len(values),
        early_stopping=stopping,
        metrics=[Scripted(values)],
        validation_data=(x[:20], LABELS[:20]),
        callbacks=[lambda epoch, logs, m: states.append(m.state_dict())],  # type: ignore[func-returns-value]  # append returns None
    )
    assert len(history["loss"]) == epochs
    assert (stopping.best_epoch, stopping.best) == (best, values[best])
    np.testing.assert_equal(model.state_dict(), states[best])


def test_early_stopping_knows_which_way_is_better() -> None:
    """The accuracy rises while the loss falls: less of it would stop at the first epochs, and bring those back."""
    generator = seeded("direction")
    x = generator.standard_normal((300, 5))
    y = (x[:, 0] > 0).astype(int)
    model = nn.Sequential([nn.Dense(5, 2)], rng=3)
    stopping = nn.EarlyStopping(3, monitor="val_accuracy")
    options: dict[str, Any] = {"metrics": ["accuracy"], "validation_data": (x, y), "epochs": 15}
    history = fitted(model, x, y, optimizer=fp.optim.SGD(model, lr=0.05), early_stopping=stopping, **options)
    assert history["val_accuracy"][0] < max(history["val_accuracy"])
    assert stopping.best_epoch == int(np.argmax(history["val_accuracy"]))
    assert nn.accuracy(model(x), y) == stopping.best == max(history["val_accuracy"])
    assert stopping.mode is None
    message = "early_stopping monitors 'metric_0', of which less or more may be better: give mode='min' or mode='max'"
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted(small(), early_stopping=nn.EarlyStopping(monitor="metric_0"), metrics=[lambda pred, target: 0.0])
    error = fp.losses.NegativeLogLikelihood()
    stopping = nn.EarlyStopping(monitor="val_negative_log_likelihood")
    fitted(small(), early_stopping=stopping, metrics=[error], validation_data=VALIDATION)
    assert stopping.best_epoch is not None


def test_early_stopping_by_its_patience() -> None:
    model = small()
    optimizer = fp.optim.SGD(model, lr=0.0)
    history = fitted(model, optimizer=optimizer, epochs=50, early_stopping=4, validation_data=VALIDATION)
    assert len(history["val_loss"]) == 5
    keeps = nn.EarlyStopping(2, monitor="metric_0", mode="max", restore_best=False)
    states: list[Array] = []
    fitted(
        model,
        epochs=50,
        early_stopping=keeps,
        metrics=[lambda pred, target: 1.0],
        callbacks=[lambda epoch, logs, m: states.append(m.flat_parameters.copy())],  # type: ignore[func-returns-value]  # append returns None
    )
    assert (keeps.best_epoch, len(states)) == (0, 3)
    assert_same_bits(model.flat_parameters, states[-1])
    keeps.restore(model)  # has kept nothing
    assert_same_bits(model.flat_parameters, states[-1])


# --- what goes wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda m, x: m.parameters()["3.block.0.bias"].__setitem__(1, np.inf),
            "parameter 'bias' has 1 of 4 elements that are not finite, in layer 3.block.0, Dense(4, 4)",
        ),
        (
            lambda m, x: m.parameters()["1.weight"].fill(1e200),
            "the output has 160 of 160 elements that are not finite, first behind layer 2, Activation(Own())",
        ),
    ],
    ids=["parameter", "layer"],
)
def test_a_loss_that_is_not_finite(spoil: Any, message: str) -> None:
    class Own(nn.Layer):
        """Overflows."""

        def output_shape(self, input_shape: Any) -> Any:
            return input_shape

        def forward(self, x: Array, training: bool) -> Array:
            with np.errstate(over="ignore"):
                return x * x

        def backward(self, dy: Array, accumulate: bool = False, need_dx: bool = True) -> Array:
            return dy

        def __repr__(self) -> str:
            return "Activation(Own())"

    layers = [nn.BatchNorm(5, affine=False), nn.Dense(5, 4), Own(), nn.Residual([nn.Dense(4, 4)]), nn.Dense(4, 3)]
    model = nn.Sequential(layers, rng=0, dtype=np.float64)
    optimizer = fp.optim.Adam(model)
    x = X.copy()
    fitted(model, x, optimizer=optimizer, batch_size=40)
    spoil(model, x)
    before, state = model.state_dict(), optimizer.state_dict()
    with pytest.raises(
        nn.NonFiniteLossError, match=r"the loss is (nan|inf) at step 0 of epoch 0: " + re.escape(message)
    ):
        fitted(model, x, optimizer=optimizer, batch_size=40, shuffle=False)
    np.testing.assert_equal(model.state_dict(), before)
    np.testing.assert_equal(optimizer.state_dict(), state)
    assert issubclass(nn.NonFiniteLossError, FloatingPointError)


@pytest.mark.parametrize("draws", [nn.Dropout(0.02), nn.Activation("rrelu")], ids=repr)
def test_the_cause_is_that_of_the_draws_of_the_step(draws: nn.Layer) -> None:
    """Found by a second pass, which draws the same."""

    class Rarely(nn.Layer):
        """Overflows where an element is dropped, or a slope is large."""

        outputs: ClassVar[list[Array]] = []

        def output_shape(self, input_shape: Any) -> Any:
            return input_shape

        def forward(self, x: Array, training: bool) -> Array:
            self.outputs.append(np.where((x == 0) | ((x > -1) & (x < -0.33)), np.inf, x))
            return self.outputs[-1]

        def backward(self, dy: Array, accumulate: bool = False, need_dx: bool = True) -> Array:
            return dy

        def __repr__(self) -> str:
            return "Rarely()"

    for seed in range(8):
        model = nn.Sequential([copy.copy(draws), Rarely(), nn.Dense(5, 3)], rng=seed, dtype=np.float64)
        Rarely.outputs.clear()
        with pytest.raises(nn.NonFiniteLossError) as caught, np.errstate(invalid="ignore"):
            fitted(model, -np.ones((40, 5)), epochs=100, batch_size=8, rng=0)
        step, repeated = Rarely.outputs[-2:]
        assert_same_bits(repeated, step)
        assert str(caught.value).endswith("elements that are not finite, first behind layer 1, Rarely()")


def test_a_loss_that_is_infinite_by_itself() -> None:
    model = nn.Sequential([nn.Dense(5, 1, "sigmoid")], rng=0)
    model.load_state_dict({"0.weight": np.zeros((5, 1), np.float32), "0.bias": np.full(1, -200, np.float32)})
    with pytest.raises(nn.NonFiniteLossError, match=r"the loss is inf at step 0 .*it arises in the loss itself"):
        fitted(model, y=np.ones(40), loss="binary_cross_entropy")


def test_history_stays() -> None:
    model = small()

    def interrupt(epoch: int, logs: Mapping[str, float], m: nn.Sequential) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(model, epochs=9, callbacks=[interrupt])
    assert len(model.history["loss"]) == 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"schedule": 0.1}, TypeError, "schedule must be a function of the step, or an object with a method update"),
        ({"early_stopping": 0}, ValueError, "early_stopping is 0"),
        (
            {"early_stopping": True},
            TypeError,
            "early_stopping must be an EarlyStopping, its patience, or None, found bo",
        ),
        ({"early_stopping": "soon"}, TypeError, "early_stopping must be an integer, found str"),
        ({"early_stopping": nn.EarlyStopping(monitor="val_loss")}, ValueError, "early_stopping monitors 'val_loss'; r"),
        ({"callbacks": nn.EarlyStopping()}, TypeError, "callbacks must be a list of Callbacks and functions, found Ea"),
        ({"metrics": nn.accuracy}, TypeError, "metrics must be a list of names and functions, found function"),
        ({"metrics": ["acc"]}, ValueError, "unknown metric 'acc'; known: accuracy"),
        (
            {"metrics": ["mae"]},
            ValueError,
            "known: accuracy; of a loss it is an object, fuseprop.losses.AbsoluteError()",
        ),
        ({"validation_data": (1.0, LABELS)}, ValueError, "x of validation_data has shape (); expected samples along"),
        ({"callbacks": [3]}, TypeError, "callbacks[0] must be a Callback or a function, found int"),
        ({"callbacks": [nn.GradientHealth]}, TypeError, "callbacks[0] is the class GradientHealth; expected an object"),
        ({"schedule": fp.optim.schedules.ReduceOnPlateau}, TypeError, "schedule is the class ReduceOnPlateau; expec"),
        ({"metrics": [fp.losses.Huber]}, TypeError, "metrics[0] must be a name or a function, found the class Huber"),
        ({"early_stopping": nn.EarlyStopping}, TypeError, "early_stopping is the class EarlyStopping; expected an ob"),
        ({"loss": fp.losses.Loss}, TypeError, "loss is the class Loss; expected a loss of fuseprop.losses"),
        ({"class_weight": {0: 1.0, 1: 1.0}}, ValueError, "class_weight has no number for the label 2 of y"),
        ({"class_weight": [1.0, 1.0]}, ValueError, "class_weight has 2 numbers; expected one for each of the labels"),
        ({"class_weight": "equal"}, ValueError, "class_weight is 'equal'"),
        ({"class_weight": {0: 0.0, 1: 0.0, 2: 0.0}}, ValueError, "class_weight has only zeros for the labels of y"),
        ({"class_weight": [0.0, 0.0, 0.0, 1.0]}, ValueError, "class_weight has only zeros for the labels of y"),
        ({"class_weight": {0: -1.0, 1: 1.0, 2: 1.0}}, ValueError, "class_weight[0] is -1.0"),
        ({"class_weight": [1.0] * 3, "y": np.eye(3)[LABELS]}, ValueError, "class_weight needs labels (N,)"),
        (
            {"class_weight": "balanced", "loss": lambda pred, y, w: (0.0, 0 * pred), "y": LABELS + 0.5},
            ValueError,
            "class_weight is 'balanced', which needs labels, whole numbers; y has 0.5",
        ),
        (
            {"y": LABELS[:, None]},
            ValueError,
            "y has shape (40, 1); softmax_cross_entropy expects (40,) for labels, or (40, 3) for distributions",
        ),
        (
            {"y": LABELS[:, None], "loss": "nll"},
            ValueError,
            "y has shape (40, 1); negative_log_likelihood expects (40,) for labels",
        ),
        (
            {"y": LABELS, "loss": "kl_divergence"},
            ValueError,
            "y has shape (40,); kl_divergence expects (40, 3) for distributions",
        ),
        (
            {"validation_data": (X, LABELS[:, None])},
            ValueError,
            "y of validation_data has shape (40, 1); softmax_cross_entropy expects (40,) for labels",
        ),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    model = small()
    before = model.flat_parameters.copy()
    with pytest.raises(error, match=re.escape(message)):
        fitted(model, **change)
    assert_same_bits(model.flat_parameters, before)


@pytest.mark.parametrize("spec", MARGIN_LOSSES, ids=lambda spec: spec.name)
def test_losses_with_weights_of_their_own_are_refused(spec: Any) -> None:
    with pytest.raises(TypeError, match=rf"loss is {spec.cls.__name__}\(.*; expected one of \(pred, target\)"):
        fitted(small(), loss=spec.name)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.EarlyStopping(0), ValueError, "patience is 0"),
        (lambda: nn.EarlyStopping(mode="least"), ValueError, "mode is 'least'"),
        (lambda: nn.EarlyStopping(monitor=3), TypeError, "monitor must be a name or None, found int"),
        (lambda: nn.EarlyStopping(min_delta=-1.0), ValueError, "min_delta is -1.0"),
        (lambda: nn.EarlyStopping(restore_best="yes"), TypeError, "restore_best must be a bool"),
        (lambda: nn.Checkpoint("x", every=0), ValueError, "every is 0"),
        (lambda: nn.GradientHealth(0), ValueError, "every is 0"),
        (lambda: nn.GradientHealth(limit=1.0), ValueError, "limit is 1.0"),
    ],
)
def test_construction_errors(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()


# --- checkpoints --------------------------------------------------------------------------------------------

RESUMED = """
import sys, numpy as np, fuseprop as fp
from fuseprop import nn
sys.path.insert(0, {tests!r})
from test_fit import a_run
model, history = a_run({path!r}, epochs=10, resume={resume!r}, dtype=np.{dtype}, orders={orders!r})
np.savez({out!r}, history=[*history.values()], **model.state_dict())
"""


def a_run(
    path: str | None, *, epochs: int, resume: str | None, dtype: Any, orders: int | None
) -> tuple[nn.Sequential, dict[str, list[float]]]:
    """Train a network that draws, with moments, a schedule and early stopping."""
    block = [nn.Dense(8, 8), nn.Activation("rrelu"), nn.Dropout(0.2)]
    layers = [nn.Dense(5, 8, "relu"), nn.BatchNorm(8), nn.Residual(block), nn.Dense(8, 3)]
    model = nn.Sequential(layers, rng=7, dtype=dtype)
    history = fitted(
        model,
        optimizer=fp.optim.Adam(model, lr=0.01, max_norm=1.0),
        schedule=HalvesOnPlateau(0.01),
        early_stopping=nn.EarlyStopping(8),
        validation_data=VALIDATION,
        epochs=epochs,
        callbacks=[] if path is None else [nn.Checkpoint(path)],
        resume=resume,
        rng=orders,
    )
    return model, history


@each_dtype
@pytest.mark.parametrize("orders", [None, 3])
def test_resuming_is_going_on_bit_for_bit(orders: int | None, dtype: Any, tmp_path: Path) -> None:
    """Ten epochs are five, and five more in a new process."""
    pytest.importorskip("safetensors")
    model, history = a_run(None, epochs=10, resume=None, dtype=dtype, orders=orders)
    path, out = str(tmp_path / "run"), str(tmp_path / "result.npz")
    a_run(path, epochs=5, resume=None, dtype=dtype, orders=orders)
    tests = str(Path(__file__).parent)
    check_output(
        RESUMED.format(tests=tests, path=path, resume=path, out=out, dtype=np.dtype(dtype).name, orders=orders)
    )
    with np.load(out) as result:
        assert_same_bits(result["history"], np.array([*history.values()]))
        for name, array in model.state_dict().items():
            assert_same_bits(result[name], array, name)
    # A finished run goes on with more epochs, or stays as it is.
    again, found = a_run(None, epochs=10, resume=path, dtype=dtype, orders=orders)
    assert found == history
    np.testing.assert_equal(again.state_dict(), model.state_dict())
    assert nn.load(path)(X).shape == (40, 3)


def test_a_run_that_early_stopping_ended_says_why_it_does_not_go_on(tmp_path: Path) -> None:
    def run(**options: Any) -> tuple[nn.Sequential, dict[str, list[float]]]:
        model = small()
        optimizer = fp.optim.SGD(model, lr=0.0)
        options = {"epochs": 50, "early_stopping": 2} | options
        return model, fitted(model, optimizer=optimizer, shuffle=False, **options)

    model, history = run(callbacks=[nn.Checkpoint(tmp_path / "run", every=7)])
    assert len(history["loss"]) == 3
    message = (
        f"resume is {tmp_path / 'run'}, a run that has stopped behind 3 epochs and does not go on to 50: EarlyStopping "
        "found no better 'loss' for 2 epochs, behind epoch 0; more patience than 2 lets it go on"
    )
    with pytest.warns(UserWarning, match=re.escape(message)) as caught:
        again, found = run(resume=tmp_path / "run")
    assert caught[0].filename == __file__
    assert found == history
    assert_same_bits(again.flat_parameters, model.flat_parameters)
    # A run of no more epochs is complete, and more patience is enough.
    assert run(resume=tmp_path / "run", epochs=3)[1] == history
    assert len(run(resume=tmp_path / "run", early_stopping=4)[1]["loss"]) == 5


class StopsBehind(nn.Callback):
    """As a limit of time does."""

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch

    def after_epoch(self, run: nn.Run) -> bool:
        return run.epoch == self.epoch


@pytest.mark.parametrize("stop", [StopsBehind, lambda epoch: lambda e, logs, m: e == epoch], ids=["object", "function"])
def test_a_run_that_ones_own_callback_stopped_goes_on(stop: Any, tmp_path: Path) -> None:
    whole, stopped, again = small(), small(), small()
    expected = fitted(whole, epochs=9, callbacks=[stop(None)])
    fitted(stopped, epochs=9, callbacks=[stop(4), nn.Checkpoint(tmp_path / "run", every=100)])
    assert fitted(again, epochs=9, callbacks=[stop(None)], resume=tmp_path / "run") == expected
    assert_same_bits(again.flat_parameters, whole.flat_parameters)


def test_checkpoints_by_hand(tmp_path: Path) -> None:
    """For a loop of one's own."""
    a, b = everything(p=0.2), everything(p=0.2, rng=5)
    optimizers = fp.optim.Adam(a, lr=0.01), fp.optim.Adam(b)
    x = seeded("hand").standard_normal((12, 2, 3))
    loss = fp.losses.SoftmaxCrossEntropy()
    for _ in range(3):
        a.train_step(x, LABELS[:12], loss, optimizers[0])
    state = {
        "epoch": 3,
        "note": "three",
        "nested": [1.5, {"seen": np.arange(4)}, None, True, math.inf],
        "n": np.int64(2),
        "a.b": np.arange(3.0),
        "a": {"b": np.arange(4.0), "scalar": np.array(2.5), "empty": np.zeros((2, 0))},
        "strided": np.arange(6, dtype=np.int16).reshape(2, 3).T,
        "swapped": np.array([1.0, 2.0]).astype(">f8"),
    }
    nn.save_checkpoint(tmp_path / "run", a, optimizers[0], state)
    found = nn.load_checkpoint(tmp_path / "run", b, optimizers[1])
    assert found["nested"][1]["seen"].tolist() == [0, 1, 2, 3]
    assert (found["epoch"], found["note"], found["nested"][0], found["nested"][2:], found["n"]) == (
        3, "three", 1.5, [None, True, math.inf], 2,
    )  # fmt: skip
    for expected, array in (
        (state["a.b"], found["a.b"]),
        (state["a"]["b"], found["a"]["b"]),  # type: ignore[index,call-overload]  # nested dicts of Any
        (np.array(2.5), found["a"]["scalar"]),
        (np.zeros((2, 0)), found["a"]["empty"]),
        (state["strided"], found["strided"]),
        (np.array([1.0, 2.0]), found["swapped"]),
    ):
        assert_same_bits(array, expected)
    assert optimizers[1].lr == 0.01
    for _ in range(3):
        assert a.train_step(x, LABELS[:12], loss, optimizers[0]) == b.train_step(x, LABELS[:12], loss, optimizers[1])
    np.testing.assert_equal(a.state_dict(), b.state_dict())
    assert not (tmp_path / "run.tmp").exists()
    whole = (tmp_path / "run").read_bytes()
    what: Any
    for what, message in (
        (object(), "checkpoint.state.what is of type object"),
        ({0: 1.5}, "checkpoint.state.what has the key 0; expected strings"),
        ([{"deep": {None: 1}}], "checkpoint.state.what.0.deep has the key None"),
        (np.array(["text"]), "checkpoint.state.what has dtype <U4"),
        (np.ones(2, np.complex64), "checkpoint.state.what has dtype complex64"),
        (np.longdouble(1), "checkpoint.state.what is of type longdouble"),
    ):
        with pytest.raises(TypeError, match=re.escape(message)):
            nn.save_checkpoint(tmp_path / "run", a, optimizers[0], {"what": what})
    assert (tmp_path / "run").read_bytes() == whole


@pytest.mark.parametrize("seed", [np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_checkpoints_of_other_generators(seed: Any, tmp_path: Path) -> None:
    models = [small(rng=np.random.Generator(seed(i))) for i in (1, 2)]
    optimizers = [fp.optim.SGD(model) for model in models]
    models[0].rng.random(5, np.float32)
    nn.save_checkpoint(tmp_path / "run", models[0], optimizers[0])
    nn.load_checkpoint(tmp_path / "run", models[1], optimizers[1])
    assert_same_bits(models[0].rng.random(9), models[1].rng.random(9))
    with pytest.raises(ValueError, match="has the state of a generator"):
        nn.load_checkpoint(tmp_path / "run", other := small(), fp.optim.SGD(other))


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    model = small()
    optimizer = fp.optim.Adam(model)
    path = tmp_path / "run"
    fitted(model, optimizer=optimizer, callbacks=[nn.Checkpoint(path)])
    other = small(rng=3)
    before = other.state_dict()
    cases: list[tuple[Any, str]] = [
        (
            lambda: fitted(other, optimizer=fp.optim.SGD(other), resume=path),
            "state is one of Adam; expected one of SGD",
        ),
        (lambda: fitted(other, resume=path, early_stopping=3), "expected those of this one, ['EarlyStopping']"),
        (lambda: fitted(other, resume=tmp_path / "model"), "is a model without a checkpoint"),
        (lambda: fitted(other, resume=tmp_path / "by hand"), "a checkpoint of no run of fit"),
    ]
    model.save(tmp_path / "model")
    nn.save_checkpoint(tmp_path / "by hand", model, optimizer)
    for call, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
        np.testing.assert_equal(other.state_dict(), before)
    with pytest.raises(FileNotFoundError):
        fitted(other, resume=tmp_path / "nothing")
    wrong = nn.Sequential([nn.Dense(5, 3)])
    with pytest.raises(ValueError, match="state does not fit"):
        fitted(wrong, resume=path)


class Counts(nn.Callback):
    """A callback with a state."""

    def __init__(self, fails: bool = False) -> None:
        self.epochs, self.fails = 0, fails

    def after_epoch(self, run: nn.Run) -> None:
        self.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.fails:
            raise RuntimeError("this callback has changed")
        self.epochs = state["epochs"]


def test_a_failed_resume_changes_nothing(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain", tmp_path / "run"
    model = small(rng=1)
    fitted(model, callbacks=[nn.Checkpoint(plain)])
    fitted(small(rng=1), epochs=4, schedule=HalvesOnPlateau(0.5), callbacks=[Counts(), nn.Checkpoint(path)], rng=3)
    good = {"schedule": HalvesOnPlateau(0.25), "callbacks": [Counts()], "resume": path, "rng": 3, "epochs": 5}

    class Fails(HalvesOnPlateau):
        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            raise RuntimeError("this schedule has changed")

    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"schedule": lambda step: 0.1}, ValueError, "a run with a schedule that has a state; expected one without"),
        ({"schedule": None}, ValueError, "a run that reports ['loss', 'lr']; expected what this one reports, ['loss']"),
        ({"metrics": ["accuracy"]}, ValueError, "expected what this one reports, ['loss', 'accuracy', 'lr']"),
        ({"validation_data": VALIDATION}, ValueError, "expected what this one reports, ['loss', 'val_loss', 'lr']"),
        ({"rng": np.random.Generator(np.random.MT19937(1))}, ValueError, "a generator PCG64; expected that of rng, MT"),
        ({"callbacks": [Counts(fails=True)]}, RuntimeError, "this callback has changed"),
        ({"schedule": Fails(0.25)}, RuntimeError, "this schedule has changed"),
        ({"callbacks": [], "resume": plain}, ValueError, "a run that reports ['loss']; expected what"),
    ]
    other = small(rng=2)
    optimizer = fp.optim.Adam(other)
    other.train_step(X, LABELS, fp.losses.SoftmaxCrossEntropy(), optimizer)
    before, state, drawn = other.state_dict(), optimizer.state_dict(), other.rng.bit_generator.state
    for change, error, message in cases:
        options: dict[str, Any] = good | change
        with pytest.raises(error, match=re.escape(message)):
            fitted(other, optimizer=optimizer, **options)
        np.testing.assert_equal(other.state_dict(), before)
        np.testing.assert_equal(optimizer.state_dict(), state)
        assert other.rng.bit_generator.state == drawn
    # A schedule with a state, where the run had one without.
    fitted(small(), schedule=lambda step: 0.1, callbacks=[nn.Checkpoint(plain)])
    with pytest.raises(ValueError, match="a run without a schedule that has a state; expected one with"):
        fitted(other, schedule=HalvesOnPlateau(0.5), resume=plain)
    np.testing.assert_equal(other.state_dict(), before)
    assert len(fitted(other, optimizer=optimizer, **good)["loss"]) == 5


def test_states_without_axes_are_resumed(tmp_path: Path) -> None:
    """Early stopping keeps the best parameters; one of them is a number."""

    class Factor(nn.Layer):
        def output_shape(self, input_shape: Any) -> Any:
            return input_shape

        def initialize(self, input_shape: Any, rng: Any, dtype: Any) -> dict[str, Array]:
            return {"factor": np.array(1.0, dtype)}

        def forward(self, x: Array, training: bool) -> Array:
            self.x = x
            return x * self.parameters["factor"]

        def backward(self, dy: Array, accumulate: bool = False, need_dx: bool = True) -> Array:
            self.gradients["factor"][...] = (dy * self.x).sum()
            return dy * self.parameters["factor"]

    def run(**options: Any) -> tuple[nn.Sequential, dict[str, list[float]]]:
        model = nn.Sequential([nn.Dense(5, 3), Factor()], rng=0)
        return model, fitted(model, early_stopping=3, epochs=6, **options)

    model, history = run(callbacks=[nn.Checkpoint(tmp_path / "run")])
    again, found = run(resume=tmp_path / "run")
    assert found == history
    np.testing.assert_equal(again.state_dict(), model.state_dict())


def test_ctrl_c_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """Interrupted in the sixth epoch, the run goes on from the fifth as if nothing had happened."""
    path = tmp_path / "run"
    whole = small()
    expected = fitted(whole, epochs=8)

    class Interrupts(nn.Callback):
        def before_step(self, run: nn.Run) -> None:
            if run.epoch == 5 and run.step == 16:
                raise KeyboardInterrupt

    model = small()
    with pytest.raises(KeyboardInterrupt):
        fitted(model, epochs=8, callbacks=[nn.Checkpoint(path), Interrupts()])
    again = small()
    names = [nn.Checkpoint(path), nn.Callback()]
    with pytest.raises(ValueError, match="expected those of this one, \\['Callback'\\]"):
        fitted(again, epochs=8, callbacks=names, resume=path)
    again = small()
    assert fitted(again, epochs=8, callbacks=[type("Interrupts", (nn.Callback,), {})()], resume=path) == expected
    assert_same_bits(again.flat_parameters, whole.flat_parameters)


def test_the_epoch_of_a_complete_run(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    ends: list[tuple[int, int]] = []

    class Notes(nn.Callback):
        def end(self, run: nn.Run) -> None:
            ends.append((run.epoch, run.completed))

    fitted(small(), callbacks=[Notes(), nn.Checkpoint(path)])
    fitted(small(), callbacks=[Notes(), nn.Checkpoint(path)], resume=path)
    assert ends == [(2, 3)] * 2


# --- callbacks ----------------------------------------------------------------------------------------------


def test_the_order_of_calls() -> None:
    calls: list[str] = []

    class Notes(nn.Callback):
        def begin(self, run: nn.Run) -> None:
            calls.append(f"begin {run.epoch}/{run.epochs}")

        def before_step(self, run: nn.Run) -> None:
            assert run.batch[0].shape[1:] == (5,)
            calls.append(f"before {run.step}")

        def after_step(self, run: nn.Run) -> None:
            assert run.model.flat_gradients.any()
            calls.append(f"after {run.step} {run.optimizer.steps}")

        def after_epoch(self, run: nn.Run) -> bool:
            assert run.history["loss"][-1] == run.logs["loss"]
            calls.append(f"epoch {run.epoch}")
            return run.epoch == 1

        def end(self, run: nn.Run) -> None:
            calls.append(f"end {run.stopped}")

    fitted(small(), batch_size=40, epochs=5, callbacks=[Notes()])
    steps = ["before 0", "after 1 1", "epoch 0", "before 1", "after 2 2", "epoch 1"]
    assert calls == ["begin 0/5", *steps, "end True"]


def test_epochs_are_counted_from_0_everywhere(tmp_path: Path) -> None:
    seen: list[tuple[str, int, float]] = []

    class Sees(nn.Callback):
        def before_step(self, run: nn.Run) -> None:
            assert run.epoch == run.completed == len(run.history.get("loss", []))

        after_step = before_step

        def after_epoch(self, run: nn.Run) -> None:
            assert run.completed == run.epoch + 1
            seen.append(("object", run.epoch, run.history["loss"][run.epoch]))

    def function(epoch: int, logs: Mapping[str, float], model: nn.Sequential) -> None:
        seen.append(("function", epoch, logs["loss"]))

    stopping = nn.EarlyStopping(3)
    options: dict[str, Any] = {"callbacks": [Sees(), function], "early_stopping": stopping}
    model = small()
    fitted(model, **options | {"callbacks": [*options["callbacks"], nn.Checkpoint(tmp_path / "run", every=2)]})
    history = fitted(small(), epochs=5, resume=tmp_path / "run", **options)
    expected = [(who, epoch, history["loss"][epoch]) for epoch in range(5) for who in ("object", "function")]
    assert seen == expected
    assert stopping.best_epoch == int(np.argmin(history["loss"]))


# --- gradient health ----------------------------------------------------------------------------------------


def deep(activation: str, init: str, depth: int = 12, scale: float = 1.0) -> nn.Sequential:
    def drawn(shape: tuple[int, int], *, rng: Any, dtype: Any) -> Array:
        return fp.init.get(init)(shape, rng=rng, dtype=dtype) * dtype.type(scale)

    hidden = [nn.Dense(20, 20, activation, init=drawn) for _ in range(depth)]
    return nn.Sequential([nn.Dense(5, 20), *hidden, nn.Dense(20, 3)], rng=0, dtype=np.float64)


def test_health_of_a_good_network() -> None:
    health = nn.GradientHealth(every=2)
    model = deep("tanh", "glorot_normal", depth=4)
    before = deep("tanh", "glorot_normal", depth=4)
    optimizer = fp.optim.SGD(model, lr=0.1)
    fitted(model, optimizer=optimizer, callbacks=[health], epochs=2)
    other = fp.optim.SGD(before, lr=0.1)
    fitted(before, optimizer=other, epochs=2)
    assert_same_bits(model.flat_parameters, before.flat_parameters)  # looking changes nothing
    assert health.verdicts() == []
    assert health.steps == [0, 2, 4]
    assert list(health.gradient_norms) == ["0", "1", "2", "3", "4", "5"]
    assert list(health.dead_units) == ["1", "2", "3", "4"]
    assert len(str(health).splitlines()) == 7


def test_health_measures() -> None:
    model = small()
    health = nn.GradientHealth(every=1)
    steps: list[tuple[Array, Array, Array]] = []

    class Copies(nn.Callback):
        def before_step(self, run: nn.Run) -> None:
            self.before = model.flat_parameters.copy()

        def after_step(self, run: nn.Run) -> None:
            steps.append((self.before, model.flat_gradients.copy(), model.flat_parameters.copy()))

    fitted(model, callbacks=[health, Copies()], epochs=1)
    begin = 0
    for path in health.gradient_norms:
        size = sum(a.size for name, a in model.parameters().items() if name.startswith(f"{path}."))
        part = slice(begin, begin + size)
        begin += size
        for i, (before, gradient, after) in enumerate(steps):
            assert health.gradient_norms[path][i] == pytest.approx(np.linalg.norm(gradient[part]), rel=1e-12)
            ratio = np.linalg.norm((after - before)[part]) / np.linalg.norm(before[part])
            assert health.update_ratios[path][i] == pytest.approx(ratio, rel=1e-12)


def test_vanishing_gradients() -> None:
    health = nn.GradientHealth()
    fitted(deep("sigmoid", "glorot_normal"), callbacks=[health])
    verdicts = health.verdicts()
    assert verdicts[0] == "vanishing: layer 0, Dense(5, 20)"
    assert not any("exploding" in verdict for verdict in verdicts)
    assert health.report()[-1].verdict == ""
    assert "vanishing" in str(health)


def test_exploding_gradients() -> None:
    health = nn.GradientHealth()
    model = deep("identity", "glorot_normal", scale=4.0)
    fitted(model, callbacks=[health], optimizer=fp.optim.SGD(model, lr=0.0), epochs=1)
    assert health.verdicts()[0] == "exploding: layer 0, Dense(5, 20)"
    assert not any("vanishing" in verdict for verdict in health.verdicts())


def test_gradients_that_grow() -> None:
    health = nn.GradientHealth(every=1)
    model = nn.Sequential([nn.Dense(5, 1)], rng=0, dtype=np.float64)
    y = X.sum(axis=1)
    fitted(model, y=y, loss="squared_error", callbacks=[health], optimizer=fp.optim.SGD(model, lr=20.0), epochs=2)
    assert health.verdicts() == ["exploding: layer 0, Dense(5, 1)"]


def test_dead_units() -> None:
    health = nn.GradientHealth(every=1)
    model = nn.Sequential(
        [nn.Dense(5, 8, "relu"), nn.Residual([nn.Dense(8, 4, "relu"), nn.Dense(4, 8)]), nn.Dense(8, 3)]
    )
    model.parameters()["0.bias"][:2] = -1e6
    model.parameters()["1.block.0.bias"][:] = -1e6
    before = model.state_dict()
    fitted(model, callbacks=[health], epochs=1, batch_size=40)
    alive = (X @ before["0.weight"] + before["0.bias"] > 0).any(axis=0)
    assert health.dead_units["0"] == [np.mean(~alive)]
    assert np.mean(~alive) >= 0.25
    assert health.dead_units["1.block.0"] == [1.0]
    assert "dead: layer 1.block.0, Dense(8, 4, activation=ReLU())" in health.verdicts()


def test_the_first_gradient_that_is_not_finite() -> None:
    class Breaks(nn.Layer):
        steps = 0

        def output_shape(self, input_shape: Any) -> Any:
            return input_shape

        def forward(self, x: Array, training: bool) -> Array:
            return x

        def backward(self, dy: Array, accumulate: bool = False, need_dx: bool = True) -> Array:
            self.steps += 1
            return dy if self.steps < 3 else dy * np.nan

    layers = [nn.Dense(5, 4), nn.Dense(4, 4, "tanh"), nn.Dropout(), nn.Dense(4, 2), Breaks(), nn.Dense(2, 3)]
    model = nn.Sequential(layers, rng=0)
    health = nn.GradientHealth(every=1)
    with pytest.raises(nn.NonFiniteLossError, match=re.escape("parameter 'weight' has 20 of 20 elements")):
        fitted(model, callbacks=[health])
    # Gradients come from the output: this layer is the first that got it.
    assert health.first_nonfinite == "step 2: the gradient of layer 3, Dense(4, 2)"
    assert "exploding: layer 0, Dense(5, 4)" in health.verdicts()


# --- real data ----------------------------------------------------------------------------------------------


def test_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    x, y = (data.data / 16).astype(np.float32), data.target
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1347], order[1347:]
    layers = [nn.Dense(64, 128), nn.BatchNorm(128), nn.Activation("relu"), nn.Dropout(0.2), nn.Dense(128, 10)]
    model = nn.Sequential(layers, rng=0)
    history = model.fit(
        x[train], y[train], loss="softmax_cross_entropy", epochs=20, batch_size=64, metrics=["accuracy"], progress=False
    )
    assert history["accuracy"][-1] > 0.97
    assert nn.accuracy(model.predict(x[test]), y[test]) >= 0.97
