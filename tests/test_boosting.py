"""Objectives of the boosting libraries: both ways of being called; and, beside a library that is there, its own."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest
from helpers import LOSSES, MARGIN_LOSSES, METRICS, ROOTS, assert_same_bits

import fuseprop as fp

boosting = fp.boosting
CALLABLE = [boosting.xgboost_objective, boosting.lightgbm_objective]
each_callable = pytest.mark.parametrize("make", CALLABLE)


class Dataset:
    """A DMatrix, or LightGBM's Dataset, as an objective sees it."""

    def __init__(self, label: Any, weight: Any = None) -> None:
        self.label, self.weight = label, weight

    def get_label(self) -> Any:
        return self.label

    def get_weight(self) -> Any:
        return self.weight


def data(n: int = 9) -> tuple[Any, Any, Any]:
    """Predictions, targets within (0, 1), and weights."""
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal(n).astype(np.float32),
        rng.uniform(0.1, 0.9, n).astype(np.float32),
        rng.uniform(0.5, 2, n).astype(np.float32),
    )


# --- the protocol -------------------------------------------------------------------------------------------


@each_callable
@pytest.mark.parametrize("spec", LOSSES, ids=lambda spec: spec.name)
def test_every_loss_both_ways(make: Any, spec: Any) -> None:
    pred, target, weight = data()
    if spec.pred_domain == "unit":
        pred = target[::-1].copy()
    if spec.target_domain == "sign":
        target = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1], np.float32)  # as a classifier encodes it
    objective = make(spec.name, hess_floor=0.25)
    signs = np.where(target == 0, -1, target) if spec.target_domain == "sign" else target
    expected = fp.losses.get(spec.name).grad_and_hess(pred, signs, weight, 0.25)
    assert_same_bits(objective(pred, Dataset(target, weight)), expected)
    assert_same_bits(objective(target, pred, weight), expected)
    assert_same_bits(objective(target, pred, sample_weight=weight), expected)
    plain = fp.losses.get(spec.name).grad_and_hess(pred, signs, None, 0.25)
    for none in (None, np.empty(0, np.float32)):
        assert_same_bits(objective(pred, Dataset(target, none)), plain)
    assert_same_bits(objective(target, pred), plain)


@each_callable
@pytest.mark.parametrize("hessian", ["diagonal", "upper"])
def test_classes(make: Any, hessian: Any) -> None:
    rng = np.random.default_rng(1)
    pred = rng.standard_normal((6, 3)).astype(np.float32)
    labels, weight = np.array([0, 2, 1, 1, 0, 2]), rng.uniform(0.5, 2, 6).astype(np.float32)
    loss = fp.losses.SoftmaxCrossEntropy(label_smoothing=0.1)
    expected = loss.grad_and_hess(pred, labels, weight, hessian=hessian)
    objective = make(loss, hessian)
    as_floats = labels.astype(np.float32)  # all that a DMatrix holds
    assert_same_bits(objective(pred, Dataset(as_floats, weight)), expected)
    assert_same_bits(objective(as_floats, pred, weight), expected)
    assert_same_bits(objective(labels, np.asfortranarray(pred), weight), expected)


def test_several_outputs() -> None:
    rng = np.random.default_rng(1)
    pred, target = rng.standard_normal((5, 3)), rng.standard_normal((5, 3))
    expected = fp.losses.HalfSquaredError().grad_and_hess(pred, target)
    assert_same_bits(boosting.xgboost_objective("half_squared_error")(target.ravel(), pred), expected)
    loss = fp.losses.Quantile(q=[0.1, 0.5, 0.9])
    expected = loss.grad_and_hess(pred, target[:, 0], None, 1.0)
    assert_same_bits(boosting.xgboost_objective(loss, hess_floor=1.0)(target[:, 0], pred), expected)


def test_catboosts_protocol() -> None:
    pred, target, weight = (array.astype(np.float64) for array in data())
    loss = fp.losses.Huber(delta=0.5)
    gradient, hessian = loss.grad_and_hess(pred, target, weight, 0.1)
    found = boosting.catboost_objective(loss, hess_floor=0.1).calc_ders_range(list(pred), list(target), list(weight))
    assert found == list(zip((-gradient).tolist(), (-hessian).tolist(), strict=True))
    gradient, hessian = loss.grad_and_hess(pred, target, None)
    found = boosting.catboost_objective(loss).calc_ders_range(pred, target, None)
    assert found == list(zip((-gradient).tolist(), (-hessian).tolist(), strict=True))
    multi = boosting.catboost_objective("softmax_cross_entropy")
    first, second = multi.calc_ders_multi([0.5, -1.0, 2.0], 2.0, 3.0)
    gradient, hessian = fp.losses.SoftmaxCrossEntropy().grad_and_hess(
        [[0.5, -1.0, 2.0]], np.array([2]), np.array([3.0])
    )
    assert first == (-gradient[0]).tolist()
    assert second == np.diag(-hessian[0]).tolist()
    assert multi.calc_ders_multi([0.5, -1.0, 2.0], 2.0, None)[0] == pytest.approx([g / 3 for g in first])


@pytest.mark.parametrize("make", [*CALLABLE, boosting.catboost_objective])
def test_objectives_are_copied_and_pickled(make: Any) -> None:
    objective = make(fp.losses.Huber(delta=2.0), hess_floor=0.5)
    for twin in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert type(twin) is type(objective)
        assert (twin.loss, twin.hessian, twin.hess_floor) == (objective.loss, "diagonal", 0.5)
    assert repr(objective) == f"{type(objective).__name__}(Huber(delta=2.0), hess_floor=0.5)"
    assert repr(make("softmax_cross_entropy", "upper")).endswith("z_loss=0.0), hessian='upper')")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: boosting.xgboost_objective("hubert"), ValueError, "unknown loss 'hubert'; did you mean 'huber'"),
        (lambda: boosting.xgboost_objective(3), TypeError, "loss must be a Loss or its name, found int"),
        (
            lambda: boosting.xgboost_objective("huber", "upper"),
            ValueError,
            "hessian is 'upper', which is softmax_cross_entropy's; huber has 'diagonal' alone",
        ),
        (lambda: boosting.xgboost_objective("huber", "full"), ValueError, "hessian is 'full'; expected 'diagonal'"),
        (
            lambda: boosting.xgboost_objective("huber", hess_floor=np.inf),
            ValueError,
            "hess_floor is inf; expected a finite number",
        ),
        (
            lambda: boosting.xgboost_objective("softmax_cross_entropy")(np.array([0.5, 1]), np.zeros((2, 3))),
            ValueError,
            "label[0] is 0.5; softmax_cross_entropy expects whole numbers",
        ),
        (
            lambda: boosting.xgboost_objective("softmax_cross_entropy")(np.array([0.0, 3]), np.zeros((2, 3))),
            ValueError,
            "3",
        ),
        (
            lambda: boosting.xgboost_objective("softmax_cross_entropy")(np.array([0.0, np.nan]), np.zeros((2, 3))),
            ValueError,
            "label[1] is nan; softmax_cross_entropy expects whole numbers",
        ),
        (
            lambda: boosting.lightgbm_objective("huber")(Dataset([1.0]), np.ones(1)),
            TypeError,
            "the dataset comes second: expected (pred, dataset), or (y_true, y_pred, sample_weight)",
        ),
        (lambda: boosting.lightgbm_objective("huber")(np.ones(2), np.ones(3)), ValueError, "(2,)"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize("spec", [*METRICS, *ROOTS, *MARGIN_LOSSES], ids=lambda spec: spec.name)
def test_what_is_no_objective(spec: Any) -> None:
    with pytest.raises(ValueError, match="which has no gradient and Hessian per sample"):
        boosting.xgboost_objective(spec.name, hess_floor=1.0)


@pytest.mark.parametrize(
    "name", ["hinge", "absolute_error", "quantile", "absolute_percentage_error", "negative_log_likelihood"]
)
def test_no_curvature_needs_a_floor(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has the second derivative 0, .* give hess_floor"):
        boosting.lightgbm_objective(name)
    assert boosting.lightgbm_objective(name, hess_floor=1.0).hess_floor == 1
    with pytest.raises(ValueError, match="quantile has the second derivative 0"):
        boosting.lightgbm_objective(fp.losses.Quantile(q=[0.1, 0.9]))


@pytest.mark.parametrize("spec", LOSSES, ids=lambda spec: spec.name)
def test_a_floor_is_asked_for_by_those_without_curvature_alone(spec: Any) -> None:
    """Whatever the parameters: of Huber's parabola, however narrow, no sample need be near when training begins."""
    pred = np.linspace(0.02, 0.98, 97) if spec.pred_domain == "unit" else np.linspace(-3, 3, 121)
    for parameters in ({}, *spec.examples):
        loss = fp.losses.get(spec.name, **parameters)
        if np.ndim(getattr(loss, "q", 0.0)):
            continue
        curved = loss.grad_and_hess(pred, np.ones_like(pred))[1].any()
        if curved:
            assert boosting.xgboost_objective(loss).loss is loss
        elif not parameters:
            with pytest.raises(ValueError, match="has the second derivative 0"):
                boosting.xgboost_objective(loss)
    for narrow in (
        fp.losses.Huber(delta=1e-3),
        fp.losses.BinaryCrossEntropyWithLogits(pos_weight=0.0),
        fp.losses.FocalWithLogits(alpha=0.0),
    ):
        assert boosting.xgboost_objective(narrow).loss is narrow


# --- the libraries' own objectives --------------------------------------------------------------------------


def table() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 4))
    score = x[:, 0] - 2 * (x[:, 1] > 0.3) + 0.3 * rng.standard_normal(300)
    return x, score, rng.uniform(0.5, 2, 300)


def xgboost_params(**more: Any) -> dict[str, Any]:
    return {"max_depth": 3, "eta": 0.3, "tree_method": "exact", "nthread": 1, **more}


@pytest.mark.parametrize(
    ("loss", "own"),
    [("half_squared_error", "reg:squarederror"), ("binary_cross_entropy_with_logits", "binary:logistic")],
)
def test_xgboost_grows_its_own_trees(loss: str, own: str) -> None:
    """With our objective as with its own of the same formula, weights included, from the same first score 0."""
    xgboost = pytest.importorskip("xgboost")
    x, score, weight = table()
    y = score if own.startswith("reg") else (score > -1).astype(float)
    matrix = xgboost.DMatrix(x, y, weight=weight)
    first = 0.0 if own.startswith("reg") else 0.5  # a probability
    theirs = xgboost.train(xgboost_params(objective=own, base_score=first), matrix, 10)
    ours = xgboost.train(xgboost_params(base_score=0.0), matrix, 10, obj=boosting.xgboost_objective(loss))
    expected = theirs.predict(matrix, output_margin=True)
    # The gradients differ in the last place or two, float32; ten rounds of leaves, each a mean of them.
    np.testing.assert_allclose(ours.predict(matrix, output_margin=True), expected, rtol=0, atol=1e-4)
    model = xgboost.XGBRegressor(
        n_estimators=10, objective=boosting.xgboost_objective(loss), **xgboost_params(base_score=0)
    )
    model.fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(model.predict(x), ours.predict(matrix), rtol=0, atol=1e-6)


def test_xgboost_over_classes() -> None:
    xgboost = pytest.importorskip("xgboost")
    x, score, _ = table()
    y = np.digitize(score, (-2, 0))
    matrix = xgboost.DMatrix(x, y)
    params = xgboost_params(num_class=3, base_score=0.0)
    theirs = xgboost.train({**params, "objective": "multi:softprob"}, matrix, 10)
    ours = xgboost.train(params, matrix, 10, obj=boosting.xgboost_objective("softmax_cross_entropy", "upper"))
    expected = theirs.predict(matrix, output_margin=True)
    np.testing.assert_allclose(ours.predict(matrix, output_margin=True), expected, rtol=0, atol=1e-4)


LIGHT: dict[str, Any] = {
    "num_leaves": 7,
    "learning_rate": 0.3,
    "verbosity": -1,
    "num_threads": 1,
    "deterministic": True,
}


@pytest.mark.parametrize(
    ("loss", "own"), [("half_squared_error", "regression"), ("binary_cross_entropy_with_logits", "binary")]
)
def test_lightgbm_grows_its_own_trees(loss: str, own: str) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    x, score, weight = table()
    y = score if own == "regression" else (score > -1).astype(float)
    objective = boosting.lightgbm_objective(loss)
    params = {**LIGHT, "boost_from_average": False}
    theirs = lightgbm.train({**params, "objective": own}, lightgbm.Dataset(x, y, weight=weight), 10)
    ours = lightgbm.train({**params, "objective": objective}, lightgbm.Dataset(x, y, weight=weight), 10)
    expected = theirs.predict(x, raw_score=True)
    np.testing.assert_allclose(ours.predict(x, raw_score=True), expected, rtol=0, atol=1e-4)
    model = lightgbm.LGBMRegressor(n_estimators=10, objective=objective, **LIGHT).fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(model.predict(x), ours.predict(x, raw_score=True), rtol=0, atol=1e-6)


def test_lightgbms_classifier() -> None:
    """Its objective for classes has C / (C - 1) p (1 - p): for two of them "upper"."""
    lightgbm = pytest.importorskip("lightgbm")
    x, score, _ = table()
    y = (score > -1).astype(int)
    params = {**LIGHT, "num_class": 2, "boost_from_average": False}
    theirs = lightgbm.train({**params, "objective": "multiclass"}, lightgbm.Dataset(x, y), 10)
    objective = boosting.lightgbm_objective("softmax_cross_entropy", "upper")
    ours = lightgbm.train({**params, "objective": objective}, lightgbm.Dataset(x, y), 10)
    margin = [np.diff(booster.predict(x, raw_score=True)) for booster in (ours, theirs)]
    np.testing.assert_allclose(*margin, rtol=0, atol=1e-4)
    signs = lightgbm.LGBMClassifier(n_estimators=10, objective=boosting.lightgbm_objective("logistic"), **LIGHT)
    assert np.mean((signs.fit(x, y).predict(x, raw_score=True) > 0) == y) > 0.9


# It tries to compile an objective with numba, and says so when it cannot.
@pytest.mark.filterwarnings("ignore:(Failed to import numba|Can't optimi[sz]e)")
@pytest.mark.parametrize(("loss", "own"), [("half_squared_error", "RMSE"), ("softmax_cross_entropy", "MultiClass")])
def test_catboost_grows_its_own_trees(loss: str, own: str) -> None:
    catboost = pytest.importorskip("catboost")
    x, score, weight = table()
    options: dict[str, Any] = {
        "iterations": 10,
        "depth": 3,
        "learning_rate": 0.3,
        "verbose": False,
        "allow_writing_files": False,
        "boost_from_average": False,
        "leaf_estimation_method": "Gradient",
        "leaf_estimation_iterations": 1,
        "bootstrap_type": "No",
        "random_strength": 0,
        "thread_count": 1,
        "eval_metric": own,
    }
    y = score if own == "RMSE" else np.digitize(score, (-2, 0))
    kind = catboost.CatBoostRegressor if own == "RMSE" else catboost.CatBoostClassifier
    if own == "MultiClass":
        del options["boost_from_average"]
    theirs = kind(loss_function=own, **options).fit(x, y, sample_weight=weight)
    ours = kind(loss_function=boosting.catboost_objective(loss), **options).fit(x, y, sample_weight=weight)
    raw = {"prediction_type": "RawFormulaVal"}
    np.testing.assert_allclose(ours.predict(x, **raw), theirs.predict(x, **raw), rtol=0, atol=1e-6)
