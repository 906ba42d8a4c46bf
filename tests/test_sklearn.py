"""The scikit-learn estimators: scikit-learn's own checks, and its own networks, number by number."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

import fuseprop as fp

pytest.importorskip("sklearn", "1.6")
from scipy import sparse
from sklearn import datasets, neural_network
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import KFold, cross_val_predict, train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks

from fuseprop.sklearn import MLPClassifier, MLPRegressor
from fuseprop.sklearn._parameters import OPTIONS

PAIRS = {
    "classifier": (MLPClassifier, neural_network.MLPClassifier),
    "regressor": (MLPRegressor, neural_network.MLPRegressor),
}
unfinished = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([MLPClassifier(max_iter=100), MLPRegressor(max_iter=100)])
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def sample(kind: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 5))
    score = x @ rng.standard_normal((5, 3)) + 0.3 * rng.standard_normal((90, 3))
    return x, {
        "binary": (score[:, 0] > 0).astype(int),
        "multiclass": np.array(["a", "b", "c"])[score.argmax(axis=1)],
        "multilabel": (score > 0).astype(int),
        "regression": score[:, 0],
        "outputs": score,
        "counts": rng.poisson(np.exp(0.5 * score[:, 0])).astype(float),
    }[kind]


KINDS = ["binary", "multiclass", "multilabel", "regression", "outputs", "counts"]


def pair(kind: str, **options: Any) -> tuple[Any, Any]:
    """Ours and theirs, with the same parameters."""
    if kind == "counts":
        options["loss"] = "poisson"
    ours, theirs = PAIRS["classifier" if kind in ("binary", "multiclass", "multilabel") else "regressor"]
    options = {"random_state": 3, "hidden_layer_sizes": (8, 6), "max_iter": 12, **options}
    return ours(**options), theirs(**options)


class Consistent(neural_network.MLPRegressor):  # type: ignore[misc]  # scikit-learn is not typed
    """Theirs, with the gradient of the value that it gives to L-BFGS: a mean over the outputs, too."""

    def _loss_grad_lbfgs(self, packed: Any, X: Any, y: Any, *more: Any) -> tuple[float, Any]:
        value, gradient = super()._loss_grad_lbfgs(packed, X, y, *more)
        weights = np.concatenate([np.ravel(coef) for coef in self.coefs_])
        penalty = np.pad(self.alpha / len(X) * weights, (0, len(packed) - len(weights)))
        return value, (gradient - penalty) / y.shape[1] + penalty


def assert_same_network(ours: Any, theirs: Any, rtol: float = 1e-7) -> None:
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    for name in ("n_iter_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_", "t_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=rtol)
    for name, factor in (("best_loss_", 1), ("best_validation_score_", 100)):
        a, b = getattr(ours, name, None), getattr(theirs, name, None)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=factor * rtol)


# Adam's epsilon stands elsewhere: a relative difference of 1e-8 over the gradient's size, magnified by the training.
@unfinished
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "rtol"),
    [
        ({"solver": "sgd", "learning_rate_init": 0.01}, 1e-9),
        ({"solver": "sgd", "nesterovs_momentum": False, "batch_size": 25, "alpha": 0.3}, 1e-9),
        ({"solver": "sgd", "momentum": 0.0, "shuffle": False, "activation": "tanh"}, 1e-9),
        ({"solver": "adam", "activation": "logistic", "batch_size": 20}, 1e-4),
        ({"solver": "adam", "early_stopping": True, "validation_fraction": 0.2, "activation": "identity"}, 1e-4),
        ({"solver": "lbfgs", "alpha": 0.1, "activation": "tanh"}, 1e-5),
    ],
    ids=["nesterov", "momentum", "plain", "adam", "early-stopping", "lbfgs"],
)
def test_the_same_network(kind: str, options: Any, rtol: float) -> None:
    x, y = sample(kind)
    ours, theirs = pair(kind, **options)
    if kind == "outputs" and options["solver"] == "lbfgs":
        theirs = Consistent(**theirs.get_params())
    ours.fit(x, y)
    theirs.fit(x, y)
    assert_same_network(ours, theirs, rtol)
    np.testing.assert_array_equal(
        ours.predict(x) if kind in KINDS[:3] else 0, theirs.predict(x) if kind in KINDS[:3] else 0
    )
    if kind in KINDS[:3]:
        np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), rtol=100 * rtol, atol=rtol)
        np.testing.assert_allclose(ours.predict_log_proba(x), np.log(ours.predict_proba(x)), rtol=1e-9, atol=1e-12)
    else:
        np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=100 * rtol, atol=100 * rtol)
    if options["solver"] != "lbfgs":
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=rtol)
    if options.get("early_stopping"):
        np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=100 * rtol)


@unfinished
@pytest.mark.parametrize("kind", KINDS)
def test_weights_sparse_float32_and_partial_fit(kind: str) -> None:
    x, y = sample(kind)
    weight = np.random.default_rng(1).uniform(0.2, 2, len(x))
    options: Any = {"solver": "sgd", "batch_size": 30, "learning_rate_init": 0.01}
    ours, theirs = pair(kind, **options)
    assert_same_network(ours.fit(x, y, weight), theirs.fit(x, y, weight), 1e-9)
    assert_same_network(ours.fit(sparse.csr_matrix(x), y), theirs.fit(x, y), 1e-9)
    np.testing.assert_array_equal(ours.predict(sparse.csc_matrix(x)), ours.predict(x))
    ours.fit(x.astype(np.float32), y)
    assert {array.dtype for array in ours.coefs_} == {np.dtype(np.float32)}
    ours, theirs = pair(kind, **options)
    classes = (np.unique(y),) if kind in ("binary", "multiclass") else (np.arange(3),) if kind == "multilabel" else ()
    for step in range(4):
        ours.partial_fit(x, y, None, *classes)
        theirs.partial_fit(x, y, None, *classes)
        if step == 1:
            ours = pickle.loads(pickle.dumps(ours))  # with the optimizer's state
        if step == 2:
            ours = copy.deepcopy(ours)
    assert_same_network(ours, theirs, 1e-9)


@unfinished
def test_warm_start_goes_on() -> None:
    x, y = sample("multiclass")
    ours, theirs = pair("multiclass", solver="sgd", warm_start=True)
    for _ in range(2):
        ours.fit(x, y)
        theirs.fit(x, y)
    assert_same_network(ours, theirs, 1e-9)
    assert len(ours.loss_curve_) == len(theirs.loss_curve_) == 24


def test_it_stops_when_theirs_does() -> None:
    x, y = sample("binary")
    for options in (
        {"tol": 1e-2},
        {"tol": 1e-2, "learning_rate": "adaptive", "solver": "sgd", "learning_rate_init": 0.1},
    ):
        ours, theirs = pair("binary", **{"solver": "sgd", "max_iter": 2000, "momentum": 0.0, **options})
        assert_same_network(ours.fit(x, y), theirs.fit(x, y), 1e-7)
        assert ours.n_iter_ < 2000


def test_warnings() -> None:
    x, y = sample("binary")
    for solver in ("adam", "lbfgs"):
        with pytest.warns(ConvergenceWarning, match="max_iter"):
            MLPClassifier(solver=solver, max_iter=2, random_state=0).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with pytest.warns(UserWarning, match="batch_size is 1000, more than the 90 samples"):
            MLPClassifier(batch_size=1000, max_iter=2).fit(x, y)


def test_an_interrupted_training_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sample("binary")
    steps = 0
    train_step = fp.nn.Sequential.train_step

    def interrupted(self: Any, *arguments: Any) -> float:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return train_step(self, *arguments)

    monkeypatch.setattr(fp.nn.Sequential, "train_step", interrupted)
    with pytest.warns(UserWarning, match="training was interrupted"):
        model = MLPClassifier(batch_size=30, random_state=0).fit(x, y)
    assert steps == 4
    assert model.n_iter_ == 1
    assert model.predict(x).shape == (90,)


@pytest.mark.parametrize(("at", "which"), [(2, "last step"), (30, "best validation score")])
def test_an_interrupt_says_which_network_is_left(monkeypatch: pytest.MonkeyPatch, at: int, which: str) -> None:
    """With early stopping: the best epoch's, or, before one has been scored, what the steps have made."""
    x, y = sample("regression")
    seen: list[Any] = []
    train_step = fp.nn.Sequential.train_step

    def interrupted(self: Any, *arguments: Any) -> float:
        if len(seen) == at:
            raise KeyboardInterrupt
        value = train_step(self, *arguments)
        seen.append(self.flat_parameters.copy())
        return value

    monkeypatch.setattr(fp.nn.Sequential, "train_step", interrupted)
    model = MLPRegressor(batch_size=20, early_stopping=True, random_state=0, learning_rate_init=0.01)
    with pytest.warns(UserWarning, match=f"^training was interrupted; the network is that of the {which}$"):
        model.fit(x, y)
    left = seen[-1]
    if model.validation_scores_:
        steps = 5  # 81 samples in batches of 20
        left = seen[steps * (int(np.argmax(model.validation_scores_)) + 1) - 1]
        assert np.isfinite(model.validation_scores_).all()
    np.testing.assert_array_equal(model.model_.flat_parameters, left)


@unfinished
def test_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = sample("binary")
    model = MLPClassifier(max_iter=2, verbose=True, early_stopping=True, random_state=0).fit(x, y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Iteration 1, loss = {model.loss_curve_[0]:.8f}"
    assert lines[3] == f"Validation score: {model.validation_scores_[1]:.6f}"


def test_logarithms_of_small_probabilities_are_finite() -> None:
    x, y = sample("multiclass")
    model = MLPClassifier(max_iter=500, random_state=0, learning_rate_init=0.01, alpha=0.0, tol=1e-3).fit(x, y)
    far = 1e4 * x
    assert (model.predict_proba(far) == 0).any()
    assert np.isfinite(model.predict_log_proba(far)).all()


def test_without_scikit_learn() -> None:
    code = """
import sys
sys.modules["sklearn"] = None
import fuseprop as fp
try:
    fp.sklearn
except ImportError as error:
    assert 'pip install "fuseprop[sklearn]"' in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@unfinished
def test_more_than_scikit_learn_has() -> None:
    x, y = sample("regression")
    for loss in ("huber", fp.losses.Quantile(q=0.9), "log_cosh", "absolute_error"):
        model = MLPRegressor(loss, activation="gelu", max_iter=300, learning_rate_init=0.01, random_state=0).fit(x, y)
        below = np.mean(y <= model.predict(x))
        assert (below > 0.7) == isinstance(loss, fp.losses.Quantile)
    x, y = sample("binary")
    rare = (y == 1) & (np.arange(len(y)) % 6 > 0)
    x, y = x[~rare], y[~rare]
    shares = []
    for class_weight in (None, "balanced", {0: 1.0, 1: 50.0}):
        model = MLPClassifier(max_iter=30, class_weight=class_weight, random_state=0).fit(x, y)
        shares.append(model.predict(x).mean())
    assert shares[0] < shares[1] < shares[2]


# --- the function that is minimized -------------------------------------------------------------------------


class CapturedError(Exception):
    """Ends a fit once its function is known."""


def minimized(model: Any, x: Any, y: Any, weight: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Return the function that a fit with "lbfgs" gives to SciPy, and the point at which it begins."""
    found: list[Any] = []

    def capture(function: Any, start: Any, *, args: Any = (), **options: Any) -> None:
        found.extend([lambda at: function(at.copy(), *args), start.copy()])
        raise CapturedError

    with monkeypatch.context() as patch:
        patch.setattr("scipy.optimize.minimize", capture)
        with pytest.raises(CapturedError):
            model.fit(x, y, weight)
    return found[0], found[1]


def usable(name: str) -> bool:
    try:
        MLPRegressor(fp.losses.get(name))._loss()
    except ValueError:
        return False
    return True


REGRESSIONS = [name for name in fp.losses.names() if usable(name)]
TARGETS = [("regressor", name, outputs) for name in REGRESSIONS for outputs in (1, 3)] + [
    ("classifier", name, 1) for name in KINDS[:3]
]


def data_for(kind: str, name: str, outputs: int) -> tuple[Any, Any, dict[str, Any]]:
    """Samples, targets that every loss takes, and the option that chooses the loss."""
    if kind == "classifier":
        return *sample(name), {}
    x, _ = sample("regression")
    y = np.random.default_rng(1).gamma(2.0, size=(len(x), outputs)) + 0.05
    return x, y[:, 0] if outputs == 1 else y, {"loss": name}


def test_regressions() -> None:
    assert {"huber", "quantile", "poisson", "tweedie", "symmetric_absolute_percentage_error"} <= set(REGRESSIONS)
    assert not {"hinge", "binary_cross_entropy", "root_mean_squared_error", "zero_one"} & set(REGRESSIONS)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "name", "outputs"), TARGETS)
def test_value_and_gradient_agree(
    kind: str, name: str, outputs: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By central differences; with the L2 penalty, which counts as much beside several outputs."""
    x, y, options = data_for(kind, name, outputs)
    weight = np.random.default_rng(2).uniform(0.2, 3, len(x)) if weighted else None
    model = PAIRS[kind][0](hidden_layer_sizes=(4,), activation="tanh", alpha=3.0, random_state=0, **options)
    model.set_params(solver="lbfgs")
    function, start = minimized(model, x, y, weight, monkeypatch)
    _, gradient = function(start)
    gradient, h = gradient.copy(), 1e-6
    for i in range(len(start)):
        step = np.zeros_like(start)
        step[i] = h
        slope = (function(start + step)[0] - function(start - step)[0]) / (2 * h)
        # h^2 times the third derivative, and the value's rounding over h; a kink that is stepped over is 1 / N of it.
        assert slope == pytest.approx(gradient[i], rel=1e-5, abs=1e-7 * max(1, np.abs(gradient).max()))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_value_is_scikit_learns(kind: str, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sample(kind)
    weight = np.random.default_rng(2).uniform(0.2, 3, len(x)) if weighted else None
    for target in (y, np.stack([y, 2 * y, y + 1], axis=1) if kind == "counts" else y):
        ours, theirs = (
            minimized(model, x, target, weight, monkeypatch)
            for model in pair(kind, solver="lbfgs", alpha=0.7, activation="tanh")
        )
        np.testing.assert_array_equal(np.sort(ours[1]), np.sort(theirs[1]))  # weights and biases in another order
        assert ours[0](ours[1])[0] == pytest.approx(theirs[0](theirs[1])[0], rel=1e-12)
        for solver in ("sgd", "adam"):
            models = [m.set_params(batch_size=len(x)) for m in pair(kind, solver=solver, max_iter=1, alpha=0.7)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                values = [model.fit(x, target, weight).loss_ for model in models]
            assert values[0] == pytest.approx(values[1], rel=1e-12)


# --- what is no progress, and one class ---------------------------------------------------------------------


@unfinished
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_score_that_is_no_number_is_no_progress(kind: str, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best epoch is kept, and training stops after the passes that it was given to become better."""
    x, y = sample("binary")
    for scores in ([0.25, 0.5, *[bad] * 98], [bad] * 100, [bad, bad, 0.5, 0.75, *[bad] * 96]):
        model = PAIRS[kind][0](early_stopping=True, n_iter_no_change=4, max_iter=100, random_state=0)
        waiting, seen = iter(scores), []

        def quality(*arguments: Any, waiting: Any = waiting, seen: Any = seen, model: Any = model) -> float:
            seen.append(model.model_.flat_parameters.copy())
            return float(next(waiting))

        monkeypatch.setattr(model, "_quality", quality)
        model.fit(x, y)
        finite = np.flatnonzero(np.isfinite(scores))
        last = finite[-1] if finite.size else -1
        assert model.n_iter_ == last + 1 + 5
        assert model.best_validation_score_ == (scores[last] if finite.size else -np.inf)
        np.testing.assert_array_equal(model.model_.flat_parameters, seen[last])


@unfinished
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_loss_that_is_no_number_is_no_progress(kind: str, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sample("binary")
    for values in ([2.0, 1.0, *[bad] * 98], [bad] * 100):
        waiting = iter(values)
        model = PAIRS[kind][0](n_iter_no_change=4, max_iter=100, random_state=0)
        monkeypatch.setattr(model, "_pass", lambda *a, waiting=waiting, **k: next(waiting))
        model.fit(x, y)
        assert model.n_iter_ == (2 if values[0] == 2 else 0) + 5
        assert model.best_loss_ == (1 if values[0] == 2 else np.inf)


def test_a_network_that_diverges_stops() -> None:
    x, y = datasets.load_diabetes(return_X_y=True)
    model = MLPRegressor(solver="sgd", learning_rate_init=10.0, early_stopping=True, random_state=0, n_iter_no_change=5)
    model.fit(1e3 * x, 1e3 * y)
    assert model.n_iter_ <= 7
    assert np.isfinite(model.predict(x)).all()


@unfinished
@pytest.mark.parametrize("y", [np.ones(30), np.zeros(30, int), np.full(30, "a")])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_one_class(y: Any, solver: str) -> None:
    x = np.random.default_rng(0).random((30, 3)).astype(np.float32)
    model = MLPClassifier(max_iter=5, random_state=0, solver=solver)
    trained = [model.fit(x, y)]
    if solver == "adam":
        trained.append(MLPClassifier(random_state=0).partial_fit(x, y, classes=y[:1]))
        trained.append(MLPClassifier(random_state=0, early_stopping=True, max_iter=5).fit(x, y))
        assert set(trained[-1].validation_scores_) == {1.0}
    for fitted in trained:
        assert fitted.classes_.tolist() == [y[0]]
        np.testing.assert_array_equal(fitted.predict_proba(x), np.ones((30, 1), np.float32))
        np.testing.assert_array_equal(fitted.predict_log_proba(x), np.zeros((30, 1), np.float32))
        assert fitted.predict_proba(x).dtype == fitted.predict_log_proba(x).dtype == np.float32
        np.testing.assert_array_equal(fitted.predict(x), y)
        assert fitted.score(x, y) == 1


@unfinished
def test_folds_of_one_class() -> None:
    x, y = np.random.default_rng(0).random((30, 3)), np.repeat([0, 1], 15)
    options: Any = {"cv": KFold(2), "method": "predict_proba"}
    with pytest.warns(RuntimeWarning, match="Number of classes in training fold"):
        found = cross_val_predict(MLPClassifier(max_iter=5, random_state=0), x, y, **options)
    np.testing.assert_array_equal(found, np.repeat([[0.0, 1.0], [1.0, 0.0]], 15, axis=0))  # the other fold's class


@unfinished
def test_a_constant_label_has_its_column() -> None:
    x, y = sample("multilabel")
    y[:, 1] = 0
    model = MLPClassifier(max_iter=5, random_state=0).fit(x, y)
    assert model.predict_proba(x).shape == model.predict_log_proba(x).shape == model.predict(x).shape == (90, 3)


# --- masks and weights --------------------------------------------------------------------------------------


@unfinished
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_masked_arrays_are_refused_by_name(kind: str) -> None:
    x, y = sample("binary")
    weight = np.ones(90)
    hide = np.ma.masked_equal
    estimator = PAIRS[kind][0]
    first: Any = {"classes": [0, 1]} if kind == "classifier" else {}
    model = estimator(max_iter=2).fit(x, y)
    for name, call in {
        "X": lambda: model.fit(hide(x, x[3, 2]), y),
        "y": lambda: model.fit(x, hide(y, 1)),
        "sample_weight": lambda: model.fit(x, y, hide(weight, 2)),
        "X ": lambda: estimator().partial_fit(hide(x, 0), y, **first),
        "y ": lambda: estimator().partial_fit(x, hide(y, 1), **first),
        "X  ": lambda: model.predict(hide(x, 0)),
        "X holds": lambda: model.predict([hide(row, 0) for row in x]),
        "y  ": lambda: model.score(x, hide(y, 1)),
        "sample_weight ": lambda: model.score(x, y, hide(weight, 2)),
    }.items():
        with pytest.raises(TypeError, match=f"^{name.rstrip()} .*masked array"):
            call()
    if kind == "classifier":
        with pytest.raises(TypeError, match=r"^classes is a masked array"):
            estimator().partial_fit(x, y, classes=hide(np.arange(2), 3))
        for method in (model.predict_proba, model.predict_log_proba):
            with pytest.raises(TypeError, match=r"^X is a masked array"):
                method(hide(x, 0))


@unfinished
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_weights_with_which_nothing_is_trained(kind: str, solver: str) -> None:
    x, y = sample("binary")
    model = PAIRS[kind][0](solver=solver)
    methods = [model.fit]
    if solver == "adam":
        methods.append(lambda x, y, w: model.partial_fit(x, y, w, *([[0, 1]] if kind == "classifier" else [])))
    message = "Negative values in data passed to `sample_weight`: sample_weight[7] is -1; expected finite numbers >= 0"
    for fit in methods:
        with pytest.raises(ValueError, match=re.escape(message)):
            fit(x, y, np.ones(90) - 2 * (ROWS == 7))
        with pytest.raises(ValueError, match=r"[wW]eight.* (only zeros|at least one non-zero)"):
            fit(x, y, np.zeros(90))
    if kind == "classifier":
        with pytest.raises(ValueError, match=r"class_weight is \{0: 0, 1: 0\}, with which all samples weigh 0"):
            MLPClassifier(solver=solver, class_weight={0: 0, 1: 0}).fit(x, y)


def test_digits() -> None:
    x, y = datasets.load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    model = MLPClassifier(max_iter=60, batch_size=32, tol=0.0, random_state=0, n_iter_no_change=100)
    with pytest.warns(ConvergenceWarning):
        model.fit(x[::2], y[::2])
    assert model.score(x[1::2], y[1::2]) >= 0.96


# --- a call that is refused, or goes on with something else -------------------------------------------------


def state(model: Any) -> dict[str, Any]:
    """Everything an estimator has, the network's numbers copied."""
    found = dict(model.__dict__)
    if "model_" in found:
        found["parameters"] = model.model_.flat_parameters.copy()
    return found


def assert_same_state(found: dict[str, Any], before: dict[str, Any]) -> None:
    assert found.keys() == before.keys()
    for name, value in before.items():
        if name == "parameters":
            np.testing.assert_array_equal(found[name], value)
        else:
            assert found[name] is value, name


ROWS = np.arange(90)


@unfinished
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    ("kind", "options", "change", "message"),
    [
        ("multiclass", {}, lambda x, y, w: (x[:, :3], (y == "a") + 10, w * np.nan), "Input sample_weight contains NaN"),
        ("multiclass", {}, lambda x, y, w: (x, (y == "a") + 10, w - 2 * (ROWS == 7)), "sample_weight[7] is -1; expec"),
        ("multiclass", {"activation": "relo"}, lambda x, y, w: (x, y, w), "unknown activation 'relo'"),
        ("multiclass", {"class_weight": {"a": -1}}, lambda x, y, w: (x, y, w), "class_weight['a'] is -1.0; expected a"),
        ("regression", {"loss": "hinge"}, lambda x, y, w: (x[:, :3], y, w), "loss is Hinge(), which is not of a regr"),
        (
            "counts",
            {"loss": "poisson", "early_stopping": True},
            lambda x, y, w: (x[:, :3], y - 100 * (ROWS == 5), w),
            "y does not fit the loss: target[5] is ",
        ),
        (
            "outputs",
            {"loss": "poisson", "solver": "lbfgs"},
            lambda x, y, w: (x, np.where(y == y[4, 1], -9, np.abs(y)), w),
            "y does not fit the loss: target[4, 1] is -9",
        ),
        ("multilabel", {}, lambda x, y, w: (x, y + 1, w), "y does not fit the loss: target[0"),
        (
            "regression",
            {"early_stopping": True, "validation_fraction": 0.01},
            lambda x, y, w: (x[:, :3], y, w),
            "validation_fraction is 0.01",
        ),
    ],
)
def test_a_refused_fit_leaves_the_estimator_as_it_was(
    kind: str, options: Any, change: Any, message: str, fitted: bool
) -> None:
    x, y = sample(kind)
    model = (MLPRegressor if kind in ("regression", "counts", "outputs") else MLPClassifier)(max_iter=2, random_state=0)
    if fitted:
        model.fit(x, y)
    model.set_params(**options)
    before = state(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(*change(x, y, np.ones(90)))
    assert_same_state(state(model), before)
    if fitted:
        model.predict(x)
    else:
        with pytest.raises(NotFittedError):
            model.predict(x)


@unfinished
def test_a_refused_partial_fit_leaves_the_estimator_as_it_was() -> None:
    x, y = sample("binary")
    model = MLPClassifier(random_state=0)
    before = state(model)
    with pytest.raises(ValueError, match=re.escape("y has the classes [5, 6]; expected those of before, [0, 1]")):
        model.partial_fit(x, y + 5, classes=[0, 1])
    assert_same_state(state(model), before)
    assert model.partial_fit(x, y, classes=[0, 1, 2]).classes_.tolist() == [0, 1, 2]


@unfinished
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("multiclass", "multilabel", "3 outputs and out_activation_ 'logistic'; expected what the fitted one has, 3 a"),
        ("multilabel", "multiclass", "3 outputs and out_activation_ 'softmax'; expected what the fitted one has, 3 an"),
        (
            "binary",
            "multilabel",
            "3 outputs and out_activation_ 'logistic'; expected what the fitted one has, 1 and 'l",
        ),
        (
            "regression",
            "outputs",
            "3 outputs and out_activation_ 'identity'; expected what the fitted one has, 1 and '",
        ),
        ("regression", "counts", "1 outputs and out_activation_ 'exp'; expected what the fitted one has, 1 and 'ident"),
    ],
)
def test_going_on_with_targets_of_another_kind(first: str, second: str, message: str) -> None:
    x, y = sample(first)
    _, other = sample(second)
    if first == "multilabel":
        _, other = np.unique(other, return_inverse=True)  # the same classes, 0, 1 and 2
    for method in ("fit", "partial_fit"):
        model, _ = pair(first, warm_start=True)
        model.fit(x, y)
        if second == "counts":
            model.set_params(loss="poisson")
        before = state(model)
        with pytest.raises(ValueError, match=re.escape(message)):
            getattr(model, method)(x, other)
        assert_same_state(state(model), before)


@unfinished
def test_parameters_change_between_warm_starts() -> None:
    x, y = sample("binary")
    model = MLPClassifier(solver="lbfgs", max_iter=3, warm_start=True, random_state=0).fit(x, y)
    start = model.model_
    assert not hasattr(model, "loss_curve_")
    model.set_params(solver="adam").fit(x, y)
    assert (len(model.loss_curve_), model.validation_scores_) == (3, None)
    assert model.best_loss_ == min(model.loss_curve_)
    model.set_params(early_stopping=True).fit(x, y)
    assert len(model.validation_scores_) == 3
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.best_loss_ is None
    model.set_params(early_stopping=False).fit(x, y)
    assert model.best_loss_ == min(model.loss_curve_[6:])
    assert model.validation_scores_ is None
    assert len(model.loss_curve_) == 9
    assert model.model_ is start
    # Without warm_start nothing of an earlier record stays.
    model.set_params(solver="lbfgs", warm_start=False).fit(x, y)
    assert not hasattr(model, "loss_curve_")


@unfinished
@pytest.mark.parametrize("through_a_file", [False, True])
@pytest.mark.parametrize("changed", [{"solver": "adam"}, {"momentum": 0.5}])
def test_another_optimizer_begins_anew(through_a_file: bool, changed: dict[str, Any]) -> None:
    x, y = sample("regression")
    model = MLPRegressor(solver="sgd", random_state=0, shuffle=False).partial_fit(x, y)
    start = model.model_.flat_parameters.copy()
    model.set_params(**changed)
    if through_a_file:
        model = pickle.loads(pickle.dumps(model))
    model.partial_fit(x, y)
    # The same step from the same parameters, by an optimizer that has seen nothing before.
    fresh = MLPRegressor(random_state=0, shuffle=False, **{"solver": "sgd", **changed}).partial_fit(x, y)
    fresh.model_.flat_parameters[...] = start
    del fresh._optimizer
    fresh.partial_fit(x, y)
    np.testing.assert_array_equal(model.model_.flat_parameters, fresh.model_.flat_parameters)


@unfinished
def test_an_array_assigned_to_coefs_is_copied() -> None:
    x, y = sample("regression")
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2, random_state=0).fit(x, y)
    weight = np.arange(20.0).reshape(5, 4)
    model.coefs_[0] = weight
    model.intercepts_[-1] = [7.0]
    np.testing.assert_array_equal(model.coefs_[0], weight)
    hidden = np.maximum(x @ weight + model.intercepts_[0], 0)
    np.testing.assert_allclose(model.predict(x), (hidden @ model.coefs_[1])[:, 0] + 7, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=re.escape("the array for [0] has shape (4, 5); expected (5, 4)")):
        model.coefs_[0] = weight.T
    np.testing.assert_array_equal(model.coefs_[0], weight)


@unfinished
def test_sparse_labels_give_sparse_predictions() -> None:
    x, y = sample("multilabel")
    ours, theirs = pair("multilabel", solver="sgd")
    found, expected = (model.fit(x, sparse.csr_matrix(y)).predict(x) for model in (ours, theirs))
    assert sparse.issparse(found)
    assert found.format == expected.format
    np.testing.assert_array_equal(found.toarray(), expected.toarray())
    assert isinstance(ours.fit(x, y).predict(x), np.ndarray)


def test_early_stopping_by_the_loss() -> None:
    """By R^2 a network for an outer quantile would stop when it is near the mean, and cover half of the samples."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 3))
    y = x[:, 0] + 2 * rng.gumbel(size=2000)
    for q in (0.05, 0.95):
        loss = fp.losses.Quantile(q=q)
        model = MLPRegressor(loss, early_stopping=True, random_state=0, learning_rate_init=0.003).fit(x, y)
        assert abs(np.mean(y <= model.predict(x)) - q) < 0.03  # 0.005 is its standard deviation at the true quantile
        assert model.best_validation_score_ == max(model.validation_scores_)
        # 10 % of the samples, drawn as scikit-learn draws them: the score is minus the loss there.
        assert -1 < model.best_validation_score_ < 0


@pytest.mark.parametrize("name", ["huber", "log_cosh", "half_squared_error", "squared_error", "poisson"])
def test_the_validation_score(name: str) -> None:
    """Of the best epoch, on samples that are drawn as scikit-learn draws them: minus the loss, or R^2."""
    x, y = sample("counts")
    weight = np.random.default_rng(1).uniform(0.5, 2, len(x))
    model = MLPRegressor(name, hidden_layer_sizes=(), early_stopping=True, random_state=0, tol=0.1, max_iter=1000)
    model.fit(x, y, weight)
    draws = np.random.RandomState(0)
    draws.uniform(size=6)  # the initial values
    _, xv, _, yv, _, wv = train_test_split(x, y, weight, random_state=draws, test_size=0.1)
    loss = -fp.losses.get(name)(model.predict(xv), yv, wv)
    expected = loss if name in ("huber", "log_cosh") else model.score(xv, yv, wv)
    assert model.best_validation_score_ == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, y: MLPClassifier(solver="newton").fit(x, y), ValueError, "solver is 'newton'; expected 'lbfgs' or"),
        (lambda x, y: MLPClassifier(alpha=-1).fit(x, y), ValueError, "alpha is -1.0; expected a finite number >= 0"),
        (
            lambda x, y: MLPClassifier((5, 0)).fit(x, y),
            ValueError,
            "hidden_layer_sizes[1] is 0; expected an integer >= 1",
        ),
        (
            lambda x, y: MLPClassifier(activation="relo").fit(x, y),
            ValueError,
            "unknown activation 'relo'; did you mean",
        ),
        (lambda x, y: MLPRegressor("hinge").fit(x, y), ValueError, "loss is Hinge(), which is not of a regression"),
        (
            lambda x, y: MLPRegressor(fp.losses.Quantile(q=[0.1, 0.9])).fit(x, y),
            ValueError,
            "which has a quantile for each column; expected one",
        ),
        (
            lambda x, y: MLPRegressor("root_mean_squared_error").fit(x, y),
            ValueError,
            "loss is RootMeanSquaredError(), which is no sum over samples",
        ),
        (
            lambda x, y: MLPClassifier(class_weight="balanced").partial_fit(x, y, classes=[0, 1]),
            ValueError,
            "class_weight is 'balanced', which needs all samples at once",
        ),
        (lambda x, y: MLPRegressor(3).fit(x, y), TypeError, "loss must be a Loss or a name, found int"),
        (
            lambda x, y: MLPClassifier(early_stopping=True).partial_fit(x, y, classes=[0, 1]),
            ValueError,
            "partial_fit cannot stop early",
        ),
        (lambda x, y: MLPClassifier().partial_fit(x, y), ValueError, "classes is None; in the first call"),
        (lambda x, y: MLPClassifier(solver="lbfgs").partial_fit(x, y), AttributeError, "partial_fit"),
        (
            lambda x, y: MLPRegressor(early_stopping=True, validation_fraction=0.01).fit(x, y),
            ValueError,
            "validation_fraction is 0.01, which of 90 samples is less than 2",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call(*sample("binary"))


# --- the table of options, and pickles of before --------------------------------------------------------------

#: What is not allowed, for each option.
BAD = {
    "loss": ("hinge", "no_such", 1),
    "hidden_layer_sizes": (0, (3, -1), 2.5),
    "activation": ("no_such", "softmax", 1),
    "solver": ("newton", 1),
    "alpha": (-1, np.inf, "a"),
    "batch_size": (0, 2.5, "all"),
    "learning_rate": ("fast", 0.1),
    "learning_rate_init": (0, np.nan),
    "power_t": (-1,),
    "max_iter": (0, 1.5),
    "shuffle": (1, "yes"),
    "random_state": ("a", -1),
    "tol": (-1e-4,),
    "verbose": (-1, "yes"),
    "warm_start": (1,),
    "momentum": (-0.1, 1.1),
    "nesterovs_momentum": (None,),
    "early_stopping": (0,),
    "validation_fraction": (-0.1, 1.0),
    "beta_1": (-0.1, 1.0),
    "beta_2": (-0.1, 1.0),
    "epsilon": (0.0,),
    "n_iter_no_change": (0, 1.5),
    "max_fun": (0,),
    "class_weight": ({0: -1.0}, {0: np.nan}),
}


@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_every_option_has_a_row_that_checks_and_describes_it(estimator: Any) -> None:
    options = estimator().get_params()
    assert set(options) <= set(OPTIONS) == set(BAD)
    x, y = sample("binary")
    for name in options:
        row = OPTIONS[name]
        assert f"\n    {name} : {row.kind}\n        {row.text[:40]}" in estimator.__doc__
        row.check(options[name], name)
        for value in BAD[name]:
            model = estimator(**{name: value})
            before = state(model)
            said = "[Ss]eed" if name == "random_state" else name  # in scikit-learn's words
            with pytest.raises((ValueError, TypeError), match=said):
                model.fit(x, y)
            assert_same_state(state(model), before)


def test_only_the_regressors_loss_and_the_classifiers_weights_are_not_shared() -> None:
    assert set(MLPClassifier().get_params()) ^ set(MLPRegressor().get_params()) == {"loss", "class_weight"}


def test_pickles_name_the_public_module() -> None:
    for estimator in (MLPClassifier, MLPRegressor):
        assert estimator.__module__ == "fuseprop.sklearn"
        assert pickle.loads(f"cfuseprop.sklearn\n{estimator.__name__}\n.".encode()) is estimator
    # What `coefs_` are, as it was pickled when the module was one file.
    assert pickle.loads(b"cfuseprop.sklearn\n_Views\n)\x81.") == []
