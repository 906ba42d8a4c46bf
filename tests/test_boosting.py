"""Objectives of the boosting libraries: both ways of being called; and, beside a library that is there, its own."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from typing import Any

import numpy as np
import pytest
from helpers import LOSSES as ALL_LOSSES
from helpers import MARGIN_LOSSES, METRICS, ROOTS, assert_same_bits

import fuseprop as fp

boosting = fp.boosting
#: Of scores, as a booster's predictions are.
LOSSES = [spec for spec in ALL_LOSSES if spec.prediction != "probability"]
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
    gradient, hessian = loss.grad_and_hess(pred, target, None, 0.0)
    found = boosting.catboost_objective(loss, hess_floor=0.0).calc_ders_range(pred, target, None)
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
    ("name", "what", "instead"),
    [
        ("binary_cross_entropy", "probabilities", "binary_cross_entropy_with_logits"),
        ("categorical_cross_entropy", "probabilities", "softmax_cross_entropy"),
        ("kl_divergence", "probabilities", "softmax_cross_entropy"),
        ("negative_log_likelihood", "logarithms of probabilities", "softmax_cross_entropy"),
    ],
)
def test_scores_are_no_probabilities(name: str, what: str, instead: str) -> None:
    for floor in (None, 1.0):
        with pytest.raises(ValueError, match=f"{name} takes {what}, which a booster's scores are not; .* {instead}"):
            boosting.catboost_objective(name, hess_floor=floor)
    assert boosting.catboost_objective(instead).loss.spec.name == instead


@pytest.mark.parametrize("spec", LOSSES, ids=lambda spec: spec.name)
def test_a_kink_needs_a_floor(spec: Any) -> None:
    """Whatever the parameters; nothing else does."""
    for parameters in ({}, *spec.examples):
        loss = fp.losses.get(spec.name, **parameters)
        assert boosting.lightgbm_objective(loss, hess_floor=1.0).hess_floor == 1
        if spec.curvature == "none":
            with pytest.raises(ValueError, match=f"{spec.name} has no second derivative > 0 .* give hess_floor"):
                boosting.lightgbm_objective(loss)
        else:
            assert boosting.xgboost_objective(loss).loss is loss
    with pytest.raises(ValueError, match="quantile has no second derivative > 0"):
        boosting.lightgbm_objective(fp.losses.Quantile(q=[0.1, 0.9]))


# --- the Hessian --------------------------------------------------------------------------------------------

REGRESSIONS = [
    fp.losses.get(spec.name, **parameters)
    for spec in LOSSES
    if spec.prediction == "value" and spec.curvature == "varying"
    for parameters in ({}, *spec.examples)
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", REGRESSIONS, ids=repr)
def test_no_step_ends_behind_the_target(loss: Any, dtype: Any) -> None:
    """And each is the exact Newton step, or shorter; near the target it is Newton's."""
    y = np.repeat([1e-3, 0.4, 3.0, 250.0], 41).astype(dtype)
    optimum = np.log(y) if loss.spec.link == "log" else y
    pred = optimum + np.tile(np.linspace(-12, 12, 41), 4).astype(dtype)
    weight = np.linspace(0.25, 4, len(y)).astype(dtype)
    objective = boosting.xgboost_objective(loss)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gradient, hessian = objective(y, pred, weight)
    exact = loss.grad_and_hess(pred, y, weight)
    assert_same_bits(gradient, exact[0])
    assert gradient.dtype == hessian.dtype == dtype
    assert np.all(hessian >= exact[1])
    assert np.all(hessian > 0)
    there = -gradient.astype(np.float64) / hessian
    distance = optimum.astype(np.float64) - pred
    assert np.all(there * distance >= 0)
    assert np.all(np.abs(there) <= np.abs(distance) * (1 + 1e-5) + 1e-6)
    near = optimum + dtype(1e-3)
    exact = loss.grad_and_hess(near, y)
    np.testing.assert_allclose(objective(y, near)[1], exact[1], rtol=2e-3)
    # Nothing is rounded up to infinity where the score is all but there.
    for ulps in (0, 1, 3):
        close = optimum + ulps * np.spacing(optimum)
        np.testing.assert_allclose(objective(y, close)[1], loss.grad_and_hess(close, y)[1], rtol=1e-3)


def test_the_chords_slope() -> None:
    """Against formulas that share nothing with the code: Huber's weights, and the logarithmic mean."""
    r = np.array([-1500.0, -2.0, -0.5, 0.0, 0.5, 8.0])
    found = boosting.xgboost_objective(fp.losses.Huber(delta=2.0))(np.zeros(6), r)[1]
    np.testing.assert_allclose(found, [2 / 1500, 1, 1, 1, 1, 0.25], rtol=1e-15)
    found = boosting.xgboost_objective("log_cosh")(np.zeros(6), r)[1]
    np.testing.assert_allclose(
        found, [1 / 1500, np.tanh(2) / 2, np.tanh(0.5) / 0.5, 1, np.tanh(0.5) / 0.5, np.tanh(8) / 8]
    )
    z, y = np.array([0.0, 0.0, np.log(50.0), 1.0, 3.0]), np.array([200.0, 0.0, 2.0, np.e, 0.0])
    # e^z below the label: (y - e^z) / (log y - z). From e^z on it is that, which is larger.
    expected = [199 / np.log(200), 1, 50, np.e, np.exp(3)]
    np.testing.assert_allclose(boosting.lightgbm_objective("poisson")(y, z)[1], expected, rtol=1e-12)
    assert boosting.lightgbm_objective("poisson", hess_floor=0.0)(y, z)[1][0] == 1
    negative = fp.losses.Tweedie(power=0.0)  # its targets may be: then there is no minimum, and d2 stays
    np.testing.assert_allclose(boosting.xgboost_objective(negative)(np.array([-2.0]), np.zeros(1))[1], [4.0])


@pytest.mark.parametrize("loss", ["logistic", "binary_cross_entropy_with_logits", "focal_with_logits", "squared_error"])
def test_everything_else_has_its_exact_hessian(loss: str) -> None:
    pred = np.linspace(-4, 4, 50)
    target = np.where(np.arange(50) % 2, 1.0, -1.0 if loss == "logistic" else 0.0)
    objective = boosting.xgboost_objective(loss)
    assert_same_bits(objective(target, pred), fp.losses.get(loss).grad_and_hess(pred, target))


# --- what cannot work ---------------------------------------------------------------------------------------


@each_callable
def test_what_an_objective_refuses(make: Any) -> None:
    y, pred, weight = np.ones(3), np.zeros(3), np.ones(3)
    objective = make("half_squared_error")
    hidden = np.ma.masked_equal(np.arange(3.0), 1)
    for name, call in {
        "y_true is a masked array": lambda: objective(hidden, pred),
        "y_pred is a masked array": lambda: objective(y, hidden),
        "sample_weight is a masked array": lambda: objective(y, pred, hidden),
        "label is a masked array": lambda: objective(pred, Dataset(hidden)),
        "label is None": lambda: objective(pred, Dataset(None)),
    }.items():
        with pytest.raises(TypeError, match=name):
            call()
    weight[1] = -2
    words = re.escape(
        "Negative values in data passed to `sample_weight`: sample_weight[1] is -2; expected finite numbers >= 0"
    )
    for call in (lambda: objective(y, pred, weight), lambda: objective(pred, Dataset(y, weight))):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(ValueError, match=re.escape("sample_weight[1] is nan")):
        objective(y, pred, np.array([1, np.nan, 1]))
    with pytest.raises(ValueError, match=re.escape("label[2] is nan; expected finite numbers")):
        objective(np.array([0, 1, np.nan]), pred)
    with pytest.raises(
        ValueError, match=re.escape("pred[1] is 2000, at which poisson has the derivatives inf and inf")
    ):
        make("poisson")(y, np.array([0.0, 2000, 0]))
    with pytest.raises(ValueError, match=re.escape("pred[0] is nan, at which")):
        make("huber")(y, np.array([np.nan, 0, 0]))


def test_negative_weights_of_catboost() -> None:
    objective = boosting.catboost_objective("softmax_cross_entropy")
    for call in (
        lambda: objective.calc_ders_multi([0.0, 1.0], 1.0, -1.0),
        lambda: boosting.catboost_objective("huber").calc_ders_range([0.0], [1.0], [-1.0]),
    ):
        with pytest.raises(ValueError, match=r"Negative values in data passed to `sample_weight`"):
            call()
    assert objective.calc_ders_multi([0.0, 1.0], 1.0, 0.0)[0] == [0, 0]


def test_a_warning_where_no_tree_grows() -> None:
    y, pred = np.full(100, 1500.0), np.zeros(100)
    for make, least, option, start in (
        (boosting.xgboost_objective, "1", "min_child_weight", "base_score"),
        (boosting.lightgbm_objective, "0.001", "min_sum_hessian_in_leaf", "init_score"),
    ):
        flat = make(fp.losses.Huber(), hess_floor=1e-6)
        words = f"^huber: .* sum to less than {least}, .* {option} .* near the labels' median .{start}."
        with pytest.warns(UserWarning, match=words):
            flat(y, pred)
    with pytest.warns(UserWarning, match="gamma: .* near the logarithm of the labels' mean"):
        boosting.xgboost_objective("gamma", hess_floor=0.0)(np.full(100, 1e-6), pred)
    with pytest.warns(UserWarning, match="pseudo_huber: .* .base_score"):
        boosting.xgboost_objective("pseudo_huber")(y, pred)  # 100 / 1500
    # LightGBM and CatBoost can do with that; and at the end of a training both derivatives are small.
    boosting.lightgbm_objective("pseudo_huber")(y, pred)
    boosting.catboost_objective("huber", hess_floor=0.0).calc_ders_range(pred, y, None)
    for name in ("logistic", "focal_with_logits", "squared_hinge", "exponential"):
        boosting.xgboost_objective(name)(np.ones(100), np.full(100, 12.0))
    boosting.xgboost_objective("softmax_cross_entropy")(np.zeros(100), np.tile([12.0, 0, 0], (100, 1)))


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


# --- training, from the first score that the library has -----------------------------------------------------


def diabetes() -> tuple[Any, Any]:
    data = pytest.importorskip("sklearn.datasets")
    x, y = data.load_diabetes(return_X_y=True)
    return x, y


def of_the_constant(prediction: Any, y: Any) -> float:
    """Mean absolute error, as a share of that of the best constant."""
    return float(np.abs(prediction - y).mean() / np.abs(np.median(y) - y).mean())


def test_the_modules_example_of_xgboost() -> None:
    xgb = pytest.importorskip("xgboost")
    x, y = diabetes()
    w = np.ones_like(y)
    objective = boosting.xgboost_objective(fp.losses.Huber(delta=20.0))
    booster = xgb.train({"max_depth": 4, "nthread": 1}, xgb.DMatrix(x, y, weight=w), 100, obj=objective)
    assert of_the_constant(booster.predict(xgb.DMatrix(x)), y) < 0.25
    model = xgb.XGBRegressor(objective=objective, n_jobs=1).fit(x, y, sample_weight=w)
    assert of_the_constant(model.predict(x), y) < 0.25


def test_the_modules_example_of_lightgbm() -> None:
    lgb = pytest.importorskip("lightgbm")
    data = pytest.importorskip("sklearn.datasets")
    x, y = data.load_breast_cancer(return_X_y=True)
    objective = boosting.lightgbm_objective("focal_with_logits")
    booster = lgb.train({"objective": objective, **LIGHT}, lgb.Dataset(x[::2], y[::2]))
    assert np.mean((booster.predict(x[1::2]) > 0) == y[1::2]) > 0.93
    model = lgb.LGBMClassifier(objective=objective, **LIGHT).fit(x[::2], y[::2])
    assert np.mean((model.predict(x[1::2], raw_score=True) > 0) == y[1::2]) > 0.93


@pytest.mark.filterwarnings("ignore:(Failed to import numba|Can't optimi[sz]e)")
def test_the_modules_example_of_catboost() -> None:
    cb = pytest.importorskip("catboost")
    x, y = diabetes()
    objective = boosting.catboost_objective(fp.losses.PseudoHuber(delta=20.0))
    options: Any = {"iterations": 200, "learning_rate": 0.1, "thread_count": 1}
    model = cb.CatBoostRegressor(
        loss_function=objective, eval_metric="MAE", verbose=False, allow_writing_files=False, **options
    ).fit(x, y)
    assert of_the_constant(model.predict(x), y) < 0.5


FAR = [fp.losses.Huber(), fp.losses.PseudoHuber(), fp.losses.LogCosh()]


@pytest.mark.parametrize("loss", FAR, ids=repr)
@pytest.mark.parametrize("shift", [10, 1000])
def test_labels_far_from_the_first_score(loss: Any, shift: float) -> None:
    xgb, lgb = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    rng = np.random.default_rng(0)
    x = rng.random((2000, 3))
    y = shift * (1 + x[:, 0] + rng.normal(0, 0.02, 2000))
    booster = xgb.train({"nthread": 1}, xgb.DMatrix(x, y), 100, obj=boosting.xgboost_objective(loss))
    assert of_the_constant(booster.predict(xgb.DMatrix(x)), y) < 0.1
    booster = lgb.train({**LIGHT, "objective": boosting.lightgbm_objective(loss)}, lgb.Dataset(x, y), 100)
    assert of_the_constant(booster.predict(x), y) < 0.1


@pytest.mark.parametrize("name", ["poisson", "tweedie", "gamma"])
@pytest.mark.parametrize("scale", [1e-3, 2.0, 2000.0])
def test_amounts_of_any_size(name: str, scale: float) -> None:
    """From the first score to the scale of the labels, down or up, and then on to what depends on x."""
    xgb, lgb = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    rng = np.random.default_rng(0)
    x = rng.random((2000, 3))
    y = scale * np.exp(2 * x[:, 0]) * rng.gamma(50, 1 / 50, 2000)
    loss = fp.losses.Tweedie(power=1.0) if name == "tweedie" else fp.losses.get(name)
    # Small means have small Hessians, in XGBoost's eyes.
    options = {"nthread": 1, "min_child_weight": 0.0, "lambda": 0.0}
    booster = xgb.train(options, xgb.DMatrix(x, y), 150, obj=boosting.xgboost_objective(loss))
    scores = booster.predict(xgb.DMatrix(x), output_margin=True)
    assert of_the_constant(np.exp(scores), y) < 0.3
    options = {**LIGHT, "min_sum_hessian_in_leaf": 0.0, "objective": boosting.lightgbm_objective(loss)}
    booster = lgb.train(options, lgb.Dataset(x, y), 150)
    assert of_the_constant(np.exp(booster.predict(x)), y) < 0.3
