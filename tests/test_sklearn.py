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
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from fuseprop.sklearn import MLPClassifier, MLPRegressor

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


def test_digits() -> None:
    x, y = datasets.load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    model = MLPClassifier(max_iter=60, batch_size=32, tol=0.0, random_state=0, n_iter_no_change=100)
    with pytest.warns(ConvergenceWarning):
        model.fit(x[::2], y[::2])
    assert model.score(x[1::2], y[1::2]) >= 0.96


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
