"""Pictures: what the Axes hold, compared with the formulas; what is left alone; what is refused."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from helpers import ACTIVATIONS, CLASS_LOSSES, LOSSES, METRICS, STRUCTURED, assert_same_bits, assert_ulp, truth

import fuseprop as fp

matplotlib = pytest.importorskip("matplotlib")
plot = fp.plot


def curves(ax: Any) -> dict[str, tuple[Any, Any]]:
    """(x, y) of the lines of an Axes by their labels; those without a label by their number."""
    named = {}
    for i, line in enumerate(ax.lines):
        label = line.get_label()
        named[str(i) if label.startswith("_") else label] = (np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
    return named


def legend(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def saved(ax: Any) -> None:
    """Draw it whole, as a file would be: what matplotlib finds wrong is an error then."""
    file = BytesIO()
    ax.figure.savefig(file, dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")


# --- formulas -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
def test_activation_curves_are_the_formulas(spec: Any) -> None:
    ax = plot.activation_curves(spec.name, limits=(-3, 5), points=33)
    (x, f), (x_slope, slope) = curves(ax).values()
    np.testing.assert_array_equal(x, np.linspace(-3, 5, 33))
    np.testing.assert_array_equal(x_slope, x)
    expected, derivative = truth(spec, spec.parameters, x)
    # The budgets of the Spec; near a zero of the derivative they are of its terms, which are of the order of 1.
    assert_ulp(f, expected, max(spec.ulp[2], 0.5))
    assert np.all(np.abs(slope - derivative) <= max(spec.ulp[3], 1.0) * 2.0**-52 * np.maximum(np.abs(derivative), 1.0))
    assert legend(ax) == [spec.cls.__name__, "derivative"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "f(x), f'(x)")


def test_several_activations() -> None:
    ax = plot.activation_curves(["relu", fp.activations.ELU(alpha=0.5), "prelu", "rrelu"], points=11)
    assert legend(ax) == ["ReLU", "ELU(alpha=0.5)", "PReLU", "RReLU", "derivatives"]
    found = curves(ax)
    x = found["PReLU"][0]
    np.testing.assert_array_equal(found["PReLU"][1], np.where(x > 0, x, 0.25 * x))
    np.testing.assert_allclose(found["RReLU"][1], np.where(x > 0, x, (1 / 8 + 1 / 3) / 2 * x), rtol=1e-15)
    assert len({line.get_color() for line in ax.lines[::2]}) == 5
    assert [line.get_color() for line in ax.lines[0:8:2]] == [line.get_color() for line in ax.lines[1:8:2]]
    saved(ax)
    many = plot.activation_curves(fp.activations.names()[:10], derivative=False)  # more than there are colours
    assert len({(line.get_color(), line.get_linestyle()) for line in many.lines}) == 10
    alone = plot.activation_curves("relu", derivative=False)
    assert len(alone.lines) == 1
    assert alone.get_ylabel() == "f(x)"


@pytest.mark.parametrize("spec", [*LOSSES, *METRICS], ids=lambda spec: spec.name)
def test_loss_curves_are_the_formulas(spec: Any) -> None:
    ax = plot.loss_curves(spec.name, limits=(-2, 2), points=17, derivative=True)
    lines = curves(ax)
    x, value = lines[spec.cls.__name__]
    probability, residual = spec.pred_domain == "unit", "residual" in ax.get_xlabel()
    np.testing.assert_array_equal(x, np.linspace(0 if probability else -2, 1 if probability else 2, 17))
    one = np.ones(17)
    expected, slope, _ = truth(spec, spec.parameters, x + one if residual else x, one)
    np.testing.assert_allclose(value, expected, rtol=1e-14, atol=1e-15)
    if spec in METRICS:
        assert list(lines) == [spec.cls.__name__]
    else:
        np.testing.assert_allclose(lines["derivative"][1], slope, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["hinge", "logistic", "binary_cross_entropy_with_logits", "focal_with_logits"], "margin y p"),
        (["huber", "quantile", "absolute_percentage_error"], "residual p - y"),
        (["poisson", "gamma", fp.losses.Tweedie(power=1.5)], "prediction z, the logarithm of the mean"),
    ],
)
def test_losses_of_one_kind_share_a_picture(names: list[Any], label: str) -> None:
    ax = plot.loss_curves(names)
    assert ax.get_xlabel() == label
    assert len(legend(ax)) == len(names)
    assert len({str(line.get_linestyle()) for line in ax.lines}) == len(names)  # to be told apart without colour
    saved(ax)


# --- functions of parameters --------------------------------------------------------------------------------


def valley(x: float, y: float) -> float:
    return (1 - x) ** 2 + 5 * (y - x * x) ** 2


@pytest.mark.parametrize("log", [False, True])
def test_contours(log: bool) -> None:
    path = np.array([[-1.0, 1.5], [0.0, 0.5], [1.0, 1.0]])
    options: Any = {"xlim": (-2, 2), "ylim": (-1, 3), "path": path, "names": ("w", "b")}
    ax = plot.loss_contours(valley, log=log, points=9, levels=7, **options)
    (filled,) = (c for c in ax.collections if hasattr(c, "levels"))
    corner = valley(-2, -1)  # the highest on the grid
    assert filled.levels[0] <= 0.0 if not log else filled.levels[0] > 0
    assert filled.levels[-1] == pytest.approx(corner) if log else filled.levels[-1] >= corner
    x, y = curves(ax)["descent"]
    np.testing.assert_array_equal(np.stack([x, y], axis=1), path)
    assert curves(ax)["start"] == ([-1.0], [1.5])
    assert curves(ax)["end"] == ([1.0], [1.0])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("w", "b")
    assert (ax.get_xlim(), ax.get_ylim()) == ((-2, 2), (-1, 3))
    saved(ax)


def test_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    cls = importlib.import_module("mpl_toolkits.mplot3d").Axes3D
    plot_surface = cls.plot_surface

    def spy(self: Any, *arrays: Any, **options: Any) -> Any:
        drawn.extend(np.array(array) for array in arrays)
        return plot_surface(self, *arrays, **options)

    monkeypatch.setattr(cls, "plot_surface", spy)
    path = np.array([[-1.0, 1.5], [9.0, 0.5], [1.0, 1.0]])
    ax: Any = plot.loss_surface(valley, xlim=(-2, 2), ylim=(-1, 3), path=path, names=("w", "b"), points=5)
    x, y, z = (np.asarray(a) for a in ax.lines[0].get_data_3d())
    inside = [True, False, True]  # (9, 0.5) is outside of the limits
    np.testing.assert_array_equal(np.isnan(z), np.logical_not(inside))
    np.testing.assert_array_equal(np.stack([x, y], axis=1)[inside], path[inside])
    np.testing.assert_array_equal(z[inside], [valley(-1.0, 1.5), 0.0])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_zlabel()) == ("w", "b", "f(w, b)")
    columns, rows, heights = drawn
    assert heights.shape == (5, 5)
    np.testing.assert_array_equal(heights, (1 - columns) ** 2 + 5 * (rows - columns * columns) ** 2)
    assert (columns[0, -1], rows[-1, 0]) == (2, 3)
    saved(ax)


def test_slices_of_the_line() -> None:
    """Fitting y = 2x + 3: with w = 2 the loss over b is lowest at 3, and with b = 3 over w at 2."""
    x = np.linspace(-1, 1, 9)

    def loss(w: float, b: float) -> float:
        return float(fp.losses.SquaredError()(w * x + b, 2 * x + 3))

    ax = plot.loss_slices(loss, (2.0, 3.0), names=("w", "b"), points=21)
    found = curves(ax)
    assert legend(ax) == ["w", "b", "the point"]
    offsets, over_w = found["w"]
    np.testing.assert_array_equal(offsets, np.linspace(-1, 1, 21))
    assert offsets[np.argmin(over_w)] == 0
    assert offsets[np.argmin(found["b"][1])] == 0
    np.testing.assert_allclose(over_w, offsets**2 * np.mean(x**2), atol=1e-15)
    np.testing.assert_allclose(found["b"][1], offsets**2, atol=1e-15)
    assert list(found["the point"][1]) == [0.0]
    assert legend(plot.loss_slices(abs, [1.0]))[0] == "parameter 0"


def test_what_is_not_finite_is_left_out() -> None:
    def hole(x: float, y: float) -> float:
        return np.inf if x < 0 else float("nan") if y < 0 else 1 + x + y

    saved(plot.loss_contours(hole, xlim=(-1, 1), ylim=(-1, 1), points=11))
    saved(plot.loss_surface(hole, xlim=(-1, 1), ylim=(-1, 1), points=11))


# --- training -----------------------------------------------------------------------------------------------


def test_learning_rates() -> None:
    ax = plot.learning_rates({0.1: [1.0, 0.5, 0.25], 2: [1.0, 3.0, np.inf, np.nan], "schedule": [1.0, 0.01]})
    found = curves(ax)
    assert list(found) == ["lr = 0.1", "lr = 2 (not finite from step 2)", "schedule"]
    np.testing.assert_array_equal(found["lr = 0.1"], ([0, 1, 2], [1.0, 0.5, 0.25]))
    np.testing.assert_array_equal(found["lr = 2 (not finite from step 2)"], ([0, 1], [1.0, 3.0]))
    assert ax.get_yscale() == "log"  # from 0.01 to 3
    assert plot.learning_rates({0.1: [1.0, 0.5]}).get_yscale() == "linear"
    assert plot.learning_rates({0.1: [1.0, 0.0]}).get_yscale() == "linear"
    assert plot.learning_rates({0.1: [1.0, 0.5]}, log=True).get_yscale() == "log"
    saved(ax)


def test_history_of_a_training() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 3)), rng.integers(0, 2, 60)
    model = fp.nn.Sequential([fp.nn.Dense(3, 2)], rng=0)
    history = model.fit(
        x,
        y,
        loss="softmax_cross_entropy",
        epochs=4,
        validation_data=(x, y),
        metrics=["accuracy"],
        progress=False,
    )
    for metric, best in (("loss", np.argmin), ("accuracy", np.argmax)):
        ax = plot.training_history(history, metric=metric)
        found = curves(ax)
        np.testing.assert_array_equal(found["training"], ([0, 1, 2, 3], history[metric]))
        np.testing.assert_array_equal(found["validation"], ([0, 1, 2, 3], history[f"val_{metric}"]))
        epoch = int(best(history[f"val_{metric}"]))
        marked = [label for label in found if label.startswith(f"best, epoch {epoch}: ")]
        np.testing.assert_array_equal(found[marked[0]], ([epoch], [history[f"val_{metric}"][epoch]]))
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", metric)
        saved(ax)
    assert legend(plot.training_history({"loss": [2.0, 1.0]}, labels=("fit", "test"))) == ["fit"]


@pytest.mark.parametrize(
    ("metric", "mode", "values", "best"),
    [
        ("rmse", "min", [3.0, 2.0, 2.5], "best, epoch 1: 2"),
        ("rmse", "max", [3.0, 2.0, 2.5], "best, epoch 0: 3"),
        ("rmse", None, [3.0, 2.0, 2.5], None),  # nobody knows which way
        ("absolute_error", None, [3.0, 2.0, 2.5], "best, epoch 1: 2"),  # a metric of this library
        ("loss", None, [3.0, -np.inf, 2.5], "best, epoch 2: 2.5"),
        ("loss", None, [np.nan, 3.0, 2.5], "best, epoch 2: 2.5"),
        ("loss", "max", [3.0, np.inf, 2.5], "best, epoch 0: 3"),
        ("accuracy", None, [0.5, np.inf, 0.75], "best, epoch 2: 0.75"),
        ("accuracy", None, [np.nan, np.nan, np.nan], None),
    ],
)
def test_the_best_epoch(metric: str, mode: Any, values: list[float], best: str | None) -> None:
    ax = plot.training_history({metric: [3.0, 2.0, 1.0], f"val_{metric}": values}, metric=metric, mode=mode)
    assert legend(ax) == ["training", "validation", *([best] if best else [])]
    alone = plot.training_history({metric: [3.0, 2.0, 1.0], f"val_{metric}": values}, metric=f"val_{metric}", mode=mode)
    assert legend(alone) == ["validation", *([best] if best else [])]


def test_gradient_flow_of_a_model() -> None:
    model = fp.nn.Sequential([fp.nn.Dense(4, 5, "tanh"), fp.nn.Activation("relu"), fp.nn.Dense(5, 2)], rng=0)
    x = np.random.default_rng(0).standard_normal((8, 4), dtype=np.float32)
    model.train_step(x, np.zeros(8, np.int64), "softmax_cross_entropy", fp.optim.SGD(model, lr=0.1))
    ax = plot.gradient_flow(model)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "2"]
    expected = []
    for layer in "02":
        both = [model.gradients()[f"{layer}.{name}"].ravel().astype(np.float64) for name in ("weight", "bias")]
        expected.append(np.concatenate(both))
    line = ax.containers[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), [np.sqrt(np.mean(g**2)) for g in expected], rtol=1e-14)
    tops = [segment[1, 1] for segment in ax.containers[0].lines[2][0].get_segments()]
    np.testing.assert_allclose(tops, [np.abs(g).max() for g in expected], rtol=1e-14)
    assert ax.get_yscale() == "log"
    saved(ax)


def test_gradient_flow_names_what_has_no_size() -> None:
    flow = {"first": np.zeros(3), "second": [1e-300, 1e-300], "third": [np.nan, 1.0], "fourth": [np.inf, 1.0]}
    ax = plot.gradient_flow(flow, label="one")
    assert [text.get_text() for text in ax.texts] == ["0", "nan", "inf"]
    np.testing.assert_allclose(ax.containers[0].lines[0].get_ydata(), [np.nan, 1e-300, np.nan, np.nan], rtol=1e-14)
    plot.gradient_flow({"first": [1.0], "second": [1.0]}, label="two", ax=ax)
    assert legend(ax) == ["one", "two"]
    assert ax.containers[0].lines[0].get_color() != ax.containers[1].lines[0].get_color()


def test_quantile_bands() -> None:
    x = np.array([2.0, 0.0, 1.0])
    levels = [0.1, 0.5, 0.75, 0.9]
    pred = x[:, np.newaxis] + np.array([-1.0, 0.0, 0.5, 1.0])
    ax = plot.quantile_bands(x, pred, levels, y=[2.5, -3.0, 1.0])
    assert legend(ax) == ["data", "0.1 to 0.9: 66.7% of the data", "median", "quantile 0.75"]
    found = curves(ax)
    np.testing.assert_array_equal(found["median"], ([0, 1, 2], [0, 1, 2]))
    np.testing.assert_array_equal(found["quantile 0.75"], ([0, 1, 2], [0.5, 1.5, 2.5]))
    band = ax.collections[0].get_paths()[0].vertices
    for at in (0.0, 1.0, 2.0):
        assert {at - 1, at + 1} == set(band[band[:, 0] == at, 1])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
    saved(ax)


# --- what all pictures keep to ------------------------------------------------------------------------------

SIMPLE: dict[str, Any] = {
    "activation_curves": lambda **k: plot.activation_curves("relu", **k),
    "loss_curves": lambda **k: plot.loss_curves("huber", **k),
    "loss_contours": lambda **k: plot.loss_contours(valley, xlim=(0, 1), ylim=(0, 1), points=5, **k),
    "loss_surface": lambda **k: plot.loss_surface(valley, xlim=(0, 1), ylim=(0, 1), points=5, **k),
    "loss_slices": lambda **k: plot.loss_slices(valley, (0, 0), points=5, **k),
    "learning_rates": lambda **k: plot.learning_rates({0.1: [1.0]}, **k),
    "training_history": lambda **k: plot.training_history({"loss": [1.0]}, **k),
    "gradient_flow": lambda **k: plot.gradient_flow({"a": [1.0]}, **k),
    "quantile_bands": lambda **k: plot.quantile_bands([0.0], [[1.0]], [0.5], **k),
}


def test_every_picture_is_tested() -> None:
    assert sorted(SIMPLE) == sorted(plot.__all__)


@pytest.mark.parametrize("name", SIMPLE)
def test_ax(name: str) -> None:
    Figure = importlib.import_module("matplotlib.figure").Figure  # a class
    three_d = name == "loss_surface"
    flat, solid = Figure().add_subplot(), Figure().add_subplot(projection="3d")
    right, wrong = (solid, flat) if three_d else (flat, solid)
    assert SIMPLE[name](ax=right) is right
    with pytest.raises(ValueError, match=r"ax is Axes\w*; expected one " + ("made" if three_d else "of two")):
        SIMPLE[name](ax=wrong)
    with pytest.raises(TypeError, match="ax must be a matplotlib Axes or None, found Figure"):
        SIMPLE[name](ax=Figure())
    assert not wrong.lines


@pytest.mark.parametrize("name", SIMPLE)
def test_without_matplotlib(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=re.escape('fuseprop.plot needs matplotlib: pip install "fuseprop[plot]"')):
        SIMPLE[name]()


def test_nothing_global_is_touched() -> None:
    """Neither does the package import matplotlib, nor do the pictures import pyplot or change a setting."""
    code = """
import sys
import fuseprop as fp
assert "plot" in dir(fp) and "fuseprop.plot" not in sys.modules
fp.plot
assert not any(name.split(".")[0] == "matplotlib" for name in sys.modules)
import matplotlib
# To look at the setting "backend" is to import pyplot.
settings = [name for name in matplotlib.rcParams if name != "backend"]
before = [matplotlib.rcParams[name] for name in settings]
fp.plot.activation_curves(["relu", "tanh"]).figure.canvas.draw()
fp.plot.loss_surface(lambda x, y: x * y, xlim=(0, 1), ylim=(0, 1), points=5).figure.canvas.draw()
fp.plot.loss_contours(lambda x, y: x * y, xlim=(0, 1), ylim=(0, 1), points=5, log=True).figure.canvas.draw()
fp.plot.gradient_flow({"a": [1.0]}).figure.canvas.draw()
assert [matplotlib.rcParams[name] for name in settings] == before
assert "matplotlib.pyplot" not in sys.modules
try:
    fp.plots
except AttributeError as error:
    assert str(error) == "module 'fuseprop' has no attribute 'plots'"
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_arrays_are_left_alone() -> None:
    path = np.array([[0.5, 0.5], [7.0, 7.0]])
    copy = path.copy()
    plot.loss_surface(valley, xlim=(0, 1), ylim=(0, 1), points=5, path=path)
    plot.loss_contours(valley, xlim=(0, 1), ylim=(0, 1), points=5, path=path)
    assert_same_bits(path, copy)


LIMITS: dict[str, Any] = {"xlim": (0, 1), "ylim": (0, 1)}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot.activation_curves("relo"), ValueError, "unknown activation 'relo'; did you mean"),
        (lambda: plot.activation_curves([]), TypeError, "activations must be a name, an object, or a sequence"),
        (lambda: plot.activation_curves(3), TypeError, "activations must be a name, an object, or a sequence"),
        (lambda: plot.activation_curves([fp.losses.Huber()]), TypeError, "must be names or Activations, found Huber"),
        (lambda: plot.activation_curves("relu", limits=(1, 1)), ValueError, "limits is (1, 1); expected low < high"),
        (lambda: plot.activation_curves("relu", limits=3), TypeError, "limits must be a pair (low, high), found 3"),
        (lambda: plot.activation_curves("relu", limits=(0, np.inf)), ValueError, "limits[1] is inf; expected a finite"),
        (lambda: plot.activation_curves("relu", points=1), ValueError, "points is 1; expected an integer >= 2"),
        (lambda: plot.loss_curves([fp.activations.ReLU()]), TypeError, "losses must be names or Losses, found ReLU"),
        (
            lambda: plot.loss_curves(["hinge", "huber"]),
            ValueError,
            "hinge is drawn against the margin and huber against the residual",
        ),
        (
            lambda: plot.loss_curves("root_mean_squared_error"),
            ValueError,
            "root_mean_squared_error is no sum over samples",
        ),
        (lambda: plot.loss_curves(fp.losses.Quantile(q=[0.1, 0.9])), ValueError, "expected one q"),
        (
            lambda: plot.loss_curves("binary_cross_entropy", limits=(2, 3)),
            ValueError,
            "limits is (2, 3); expected part of [0, 1]",
        ),
        (
            lambda: plot.loss_contours(lambda x, y: [x, y], **LIMITS),
            ValueError,
            "function(0, 0) returned list of shape (2,); expected one number",
        ),
        (lambda: plot.loss_contours(lambda x, y: "a", **LIMITS), ValueError, "function(0, 0) returned str"),
        (lambda: plot.loss_contours(lambda x, y: 1.0, **LIMITS), ValueError, "function is 1 throughout xlim and ylim"),
        (lambda: plot.loss_contours(lambda x, y: np.nan, **LIMITS), ValueError, "function has no finite value"),
        (lambda: plot.loss_surface(lambda x, y: np.nan, **LIMITS), ValueError, "function has no finite value"),
        (lambda: plot.loss_contours(lambda x, y: -1.0, log=True, **LIMITS), ValueError, "function has no positive"),
        (lambda: plot.loss_contours(valley, xlim=(1, 0), ylim=(0, 1)), ValueError, "xlim is (1, 0); expected low"),
        (lambda: plot.loss_contours(valley, path=[[1, 2, 3]], **LIMITS), ValueError, "path has shape (1, 3); expected"),
        (lambda: plot.loss_contours(valley, path=[1, 2], **LIMITS), ValueError, "path has shape (2,); expected 2 dim"),
        (lambda: plot.loss_contours(valley, path=[[1, 2], [3]], **LIMITS), TypeError, "path must be an array of num"),
        (lambda: plot.loss_surface(valley, names="xy", **LIMITS), ValueError, "names is 'xy'; expected 2 strings"),
        (lambda: plot.loss_slices(valley, (0, np.nan)), ValueError, "point is [0.0, nan]; expected finite numbers"),
        (lambda: plot.loss_slices(valley, (0, 0), radius=0), ValueError, "radius is 0.0; expected a finite number > 0"),
        (lambda: plot.loss_slices(valley, (0, 0), names=["x"]), ValueError, "names is ['x']; expected 2 strings"),
        (lambda: plot.learning_rates([1, 2]), TypeError, "curves must be a mapping from learning rates to losses"),
        (lambda: plot.learning_rates({}), ValueError, "curves is empty; expected at least one learning rate"),
        (lambda: plot.learning_rates({0.1: []}), ValueError, "curves[0.1] has shape (0,); expected one dimension and"),
        (lambda: plot.learning_rates({0.1: ["a"]}), TypeError, "curves[0.1] must be an array of numbers, found list"),
        (lambda: plot.training_history([1.0]), TypeError, "history must be what fit returns, a dict of lists"),
        (lambda: plot.training_history({"loss": [1.0]}, metric="mse"), ValueError, "metric is 'mse'; expected one of"),
        (
            lambda: plot.training_history({"loss": [1.0]}, mode="least"),
            ValueError,
            "mode is 'least'; expected 'min' or",
        ),
        (lambda: plot.training_history({}), ValueError, "metric is 'loss'; history is empty"),
        (lambda: plot.gradient_flow([1.0]), TypeError, "gradients must be a model or a dict of arrays, found list"),
        (lambda: plot.gradient_flow({}), ValueError, "gradients is empty; expected at least one array"),
        (lambda: plot.gradient_flow({"a": []}), ValueError, "gradients['a'] has shape (0,); expected"),
        (lambda: plot.quantile_bands([0], [[1]], [0.0]), ValueError, "quantiles is [0.0]; expected increasing numbers"),
        (lambda: plot.quantile_bands([0], [[1, 2]], [0.5, 0.1]), ValueError, "quantiles is [0.5, 0.1]; expected"),
        (
            lambda: plot.quantile_bands([0, 1], [[1]], [0.5]),
            ValueError,
            "predictions has shape (1, 1); expected (2, 1)",
        ),
        (lambda: plot.quantile_bands([0], [[1]], [0.5], y=[1, 2]), ValueError, "y has shape (2,); expected (1,), as x"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize("spec", [s for s in STRUCTURED if s.structure == "axis"], ids=lambda spec: spec.name)
def test_activations_along_an_axis_have_no_curve(spec: Any) -> None:
    with pytest.raises(ValueError, match=f"{spec.name} works along an axis"):
        plot.activation_curves(spec.name)


@pytest.mark.parametrize("spec", CLASS_LOSSES, ids=lambda spec: spec.name)
def test_losses_over_classes_have_no_curve(spec: Any) -> None:
    with pytest.raises(ValueError, match=f"{spec.name} is a loss over classes"):
        plot.loss_curves(spec.name)
