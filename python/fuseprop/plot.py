"""Pictures of formulas and of training, for matplotlib (optional: ``pip install "fuseprop[plot]"``).

Each function draws one picture into an Axes and returns it:

- `activation_curves`: activations and their derivatives,
- `loss_curves`: losses of one prediction per target, against the margin, the residual, or the prediction,
- `loss_contours`, `loss_surface`: a function of two parameters, flat and in 3-D, with the path of a descent,
- `loss_slices`: a function of several parameters, along one of them at a time,
- `learning_rates`: the loss at several step sizes,
- `training_history`: what `fit` returned,
- `gradient_flow`: the size of the gradients, layer by layer,
- `quantile_bands`: predicted quantiles around the data.

Without `ax` the picture has a Figure of its own, ``ax.figure``, which pyplot does not know: nothing global is changed,
no window opens and nothing is left to be closed. For a window, or for several pictures in one figure, give the Axes::

    ax = fp.plot.training_history(history)
    ax.figure.savefig("history.png")

    figure, (left, right) = plt.subplots(1, 2)
    fp.plot.activation_curves(["relu", "gelu"], ax=left)
    fp.plot.loss_curves(["hinge", "logistic"], ax=right)
    plt.show()

The curves are what the library computes, in float64. Colours are those of Okabe and Ito (2008), which colour-blind
readers can tell apart; where one Axes holds several curves, lines or markers differ too, for print without colour.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuseprop import activations as _activations
from fuseprop import losses as _losses
from fuseprop._checks import choice, integer, real
from fuseprop._listing import listing
from fuseprop._registry import LossSpec
from fuseprop.activations import Activation
from fuseprop.losses import Loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "activation_curves",
    "gradient_flow",
    "learning_rates",
    "loss_contours",
    "loss_curves",
    "loss_slices",
    "loss_surface",
    "quantile_bands",
    "training_history",
]

__dir__ = listing(__all__)

F64: TypeAlias = NDArray[np.float64]
#: (low, high)
Limits: TypeAlias = tuple[float, float]

# Okabe and Ito's palette without its yellow, which is faint on paper.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Not as many as there are colours: with both, the first 42 curves differ.
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (7, 2, 1, 2, 1, 2)), (0, (2, 2)))


# --- Axes ---------------------------------------------------------------------------------------------------


def _axes(ax: Axes | None, *, three_d: bool = False, size: Limits = (6.0, 4.0)) -> Axes:
    """Return `ax`, checked, or the Axes of a new Figure."""
    try:
        from matplotlib import axes, figure  # noqa: PLC0415  # optional
    except ImportError as error:
        raise ImportError('fuseprop.plot needs matplotlib: pip install "fuseprop[plot]"') from error
    if ax is None:
        options = {"projection": "3d", "computed_zorder": False} if three_d else {}
        return figure.Figure(figsize=size, layout="constrained").add_subplot(**options)
    if not isinstance(ax, axes.Axes):
        raise TypeError(f"ax must be a matplotlib Axes or None, found {type(ax).__name__}")
    if (ax.name == "3d") != three_d:
        expected = 'made with projection="3d"' if three_d else "of two dimensions"
        raise ValueError(f"ax is {type(ax).__name__}; expected one {expected}")
    return ax


def _finish(ax: Axes, *, title: str | None = None, legend: bool = True, **labels: str) -> Axes:
    """Set labels and title, and draw what all pictures have."""
    ax.set(**labels)
    if title is not None:
        ax.set_title(title)
    ax.grid(visible=True, alpha=0.3, linewidth=0.6)
    if legend:
        ax.legend(frameon=True, framealpha=0.9)
    return ax


def _style(i: int) -> dict[str, Any]:
    """Return colour and line of the i-th curve."""
    return {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _LINES[i % len(_LINES)]}


def _log_scale(ax: Axes, values: Iterable[ArrayLike], log: bool | None) -> None:
    """Make the scale of y logarithmic if that is wanted; None: if all values are positive and span a factor of 20."""
    if log is None:
        numbers = np.concatenate([np.ravel(v) for v in values])
        numbers = numbers[np.isfinite(numbers)]
        log = bool(numbers.size and numbers.min() > 0 and numbers.max() > 20 * numbers.min())
    if log:
        ax.set_yscale("log")


# --- arguments ----------------------------------------------------------------------------------------------


def _limits(value: Limits, name: str) -> Limits:
    try:
        low, high = value
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair (low, high), found {value!r}") from None
    low, high = real(low, f"{name}[0]"), real(high, f"{name}[1]")
    if not low < high:
        raise ValueError(f"{name} is ({low:g}, {high:g}); expected low < high")
    return low, high


def _numbers(value: ArrayLike, name: str, *, ndim: int = 1) -> F64:
    """`value` as a float64 array that is not empty; NaN and infinities may be in it."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be an array of numbers, found {type(value).__name__} of dtype {array.dtype}")
    if array.ndim != ndim or array.size == 0:
        expected = "one dimension" if ndim == 1 else f"{ndim} dimensions"
        raise ValueError(f"{name} has shape {array.shape}; expected {expected} and at least one number")
    return array.astype(np.float64)


def _grid(limits: Limits, points: int, name: str) -> F64:
    """Evenly spaced points from low to high."""
    return np.linspace(*_limits(limits, name), points)


def _many(value: Any, name: str) -> list[Any]:
    """Return one formula, or several, as a list."""
    many = [value] if isinstance(value, str | Activation | Loss) else value
    if not isinstance(many, Iterable) or not (many := list(many)):
        raise TypeError(f"{name} must be a name, an object, or a sequence of them, found {value!r}")
    return many


def _names(value: Sequence[str], count: int, name: str) -> list[str]:
    if isinstance(value, str) or len(found := list(value)) != count or not all(isinstance(n, str) for n in found):
        raise ValueError(f"{name} is {value!r}; expected {count} strings")
    return found


def _label(formula: Activation | Loss) -> str:
    """Return the class's name, with the parameters that are not the defaults."""
    defaults = formula.spec.parameters
    given = {k: getattr(formula, k) for k, v in defaults.items() if getattr(formula, k) != v}
    inside = ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v!r}" for k, v in given.items())
    return type(formula).__name__ + (f"({inside})" if inside else "")


# --- formulas -----------------------------------------------------------------------------------------------


def _plot_curves(ax: Axes, x: F64, curves: Sequence[tuple[str, Any, Any]]) -> bool:
    """Draw (label, values, derivative or None) each in its colour; return whether there are derivatives."""
    slopes = sum(slope is not None for _, _, slope in curves)
    for i, (label, values, slope) in enumerate(curves):
        colour = _COLOURS[i % len(_COLOURS)]
        # Dashes are the derivatives', if there are any.
        line = ("-", "-.", ":")[i // len(_COLOURS) % 3] if slopes else _LINES[i % len(_LINES)]
        ax.plot(x, values, color=colour, linestyle=line, label=label)
        if slope is not None:
            ax.plot(x, slope, color=colour, linestyle="--", linewidth=1.1, label="derivative" if slopes == 1 else None)
    if slopes > 1:
        ax.plot([], [], color="0.4", linestyle="--", linewidth=1.1, label="derivatives")
    return slopes > 0


def activation_curves(
    activations: str | Activation | Sequence[str | Activation],
    *,
    limits: Limits = (-5.0, 5.0),
    derivative: bool = True,
    points: int = 1001,
    ax: Axes | None = None,
) -> Axes:
    """Draw y = f(x) as a solid line, and y = f'(x) as a dashed one of the same colour.

    Parameters
    ----------
    activations
        One or several, by name or as objects. PReLU has its initial slope, RReLU the mean one.
    limits : (float, float)
        The smallest and the largest x.
    derivative : bool
        Whether to draw f' too.
    points : int
        How many x there are.
    ax : Axes or None
        Where to draw; None: in a new Figure.

    Raises
    ------
    ValueError
        If a name is not known, an activation works along an axis (Softmax, GLU ...) and has no curve, or
        `limits` is no interval.
    """
    points = integer(points, "points", least=2)
    x = _grid(limits, points, "limits")
    curves = []
    for given in _many(activations, "activations"):
        act = _activations.get(given) if isinstance(given, str) else given
        if not isinstance(act, Activation):
            raise TypeError(f"activations must be names or Activations, found {type(act).__name__}")
        if act.spec.structure == "axis":
            raise ValueError(f"{act.spec.name} works along an axis: it has no curve f(x) of one number x")
        params = act.init_params(np.float64) or None
        slope = act.derivative(x, params=params) if derivative else None
        curves.append((_label(act), act(x, params=params), slope))
    ax = _axes(ax)
    _plot_curves(ax, x, curves)
    return _finish(ax, xlabel="x", ylabel="f(x), f'(x)" if derivative else "f(x)")


#: What a loss is drawn against, by `_against`.
_ABSCISSAE = {
    "margin": "margin y p",
    "residual": "residual p - y",
    "probability": "predicted probability p of the class y = 1",
    "logarithm": "prediction z, the logarithm of the mean",
}


def _against(spec: LossSpec) -> str:
    """Return what the curve of a loss is drawn against; ValueError if it has no curve."""
    if spec.over_classes:
        raise ValueError(f"{spec.name} is a loss over classes: it has no curve of one number")
    if spec.kind_of_value == "root":
        raise ValueError(f"{spec.name} is no sum over samples: it has no curve of one number")
    if spec.prediction == "value":
        return "residual" if spec.link == "identity" else "logarithm"
    return "probability" if spec.prediction == "probability" else "margin"


def loss_curves(
    losses: str | Loss | Sequence[str | Loss],
    *,
    limits: Limits = (-3.0, 3.0),
    derivative: bool = False,
    points: int = 1001,
    ax: Axes | None = None,
) -> Axes:
    """Draw the loss of one sample with target y = 1.

    The abscissa is the margin y p for losses of a score (hinge, logistic, binary cross-entropy with logits ...), the
    residual p - y for regression, the predicted probability for BinaryCrossEntropy, and the prediction itself, the
    logarithm of the mean, for Poisson, Gamma and Tweedie.

    Parameters
    ----------
    losses
        One or several, by name or as objects, of one kind of abscissa.
    limits : (float, float)
        The smallest and the largest abscissa; for probabilities what of it is within [0, 1].
    derivative : bool
        Whether to draw the derivative by the prediction too, dashed. A metric has none.
    points : int
        How many abscissae there are.
    ax : Axes or None
        Where to draw; None: in a new Figure.

    Raises
    ------
    ValueError
        If a name is not known, a loss is one over classes or of all samples together (root_mean_squared_error) and
        has no curve, the losses have different abscissae, or `limits` is no interval.
    """
    points = integer(points, "points", least=2)
    found: list[Loss] = []
    for given in _many(losses, "losses"):
        loss = _losses.get(given) if isinstance(given, str) else given
        if not isinstance(loss, Loss):
            raise TypeError(f"losses must be names or Losses, found {type(loss).__name__}")
        if np.ndim(getattr(loss, "q", 0.0)):
            raise ValueError(f"{loss!r} has a quantile for each column; expected one q: draw several losses")
        found.append(loss)
    against = [_against(loss.spec) for loss in found]
    for loss, other in zip(found, against, strict=True):
        if other != against[0]:
            raise ValueError(
                f"{found[0].spec.name} is drawn against the {against[0]} and {loss.spec.name} against the {other}; "
                "expected losses of one abscissa: draw them apart"
            )
    low, high = _limits(limits, "limits")
    if against[0] == "probability":
        low, high = max(low, 0.0), min(high, 1.0)
        if not low < high:
            raise ValueError(
                f"limits is {tuple(limits)}; expected part of [0, 1], where {found[0].spec.name} is defined"
            )
    x = np.linspace(low, high, points)
    target = np.ones(points)
    pred = x + target if against[0] == "residual" else x
    curves = []
    for loss in found:
        with_slope = derivative and loss.spec.kind_of_value != "metric"
        slope = loss.gradient(pred, target, reduction="sum") if with_slope else None
        curves.append((_label(loss), loss(pred, target, reduction="none"), slope))
    ax = _axes(ax)
    with_slopes = _plot_curves(ax, x, curves)
    return _finish(ax, xlabel=_ABSCISSAE[against[0]], ylabel="loss, derivative" if with_slopes else "loss")


# --- functions of parameters --------------------------------------------------------------------------------


def _value(function: Callable[..., Any], *point: float) -> float:
    """Call a user's function of some numbers; what it returns must be one number."""
    returned = function(*point)
    value = np.asarray(returned)
    if value.dtype.kind not in "buif" or value.size != 1:
        where = ", ".join(f"{p:g}" for p in point)
        raise ValueError(
            f"function({where}) returned {type(returned).__name__} of shape {value.shape}; expected one number"
        )
    return float(value.reshape(()))


def _surface(function: Callable[[float, float], float], x: F64, y: F64) -> F64:
    """function(x[j], y[i]) as an array [i, j]."""
    return np.array([[_value(function, float(a), float(b)) for a in x] for b in y])


def _path(path: ArrayLike | None) -> F64 | None:
    if path is None:
        return None
    found = _numbers(path, "path", ndim=2)
    if found.shape[1] != 2:
        raise ValueError(f"path has shape {found.shape}; expected (steps, 2), the points of a descent")
    return found


def _dot_size(path: F64) -> float:
    """Points of a long path would run together."""
    return 3.5 if len(path) <= 50 else 1.5


def loss_contours(
    function: Callable[[float, float], float],
    *,
    xlim: Limits,
    ylim: Limits,
    path: ArrayLike | None = None,
    names: tuple[str, str] = ("x", "y"),
    log: bool = False,
    points: int = 81,
    levels: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Draw a function of two parameters as contours, dark where it is low, and the path of a descent on it.

    Parameters
    ----------
    function
        f(x, y) of two floats; a number. It is called points * points times.
    xlim, ylim : (float, float)
        The parameters' smallest and largest values.
    path : array or None
        (T, 2): the points that a descent went through, its start first.
    names : (str, str)
        The parameters' names, for the axes' labels.
    log : bool
        Whether the contours have equal ratios instead of equal distances: to see into narrow valleys. The function
        must be positive then, but for a few points where it is 0.
    points : int
        Per axis.
    levels : int
        How many contours there are.
    ax : Axes or None
        Where to draw; None: in a new Figure.

    Raises
    ------
    ValueError
        If an interval is none, the path is not (T, 2), `function` returns anything but one number, nothing finite,
        or with `log` nothing positive.
    """
    points, levels = integer(points, "points", least=2), integer(levels, "levels", least=2)
    x, y = _grid(xlim, points, "xlim"), _grid(ylim, points, "ylim")
    first, second = _names(names, 2, "names")
    way = _path(path)
    z = _surface(function, x, y)
    shown = np.isfinite(z) & ((z > 0) | (not log))
    if not shown.any():
        raise ValueError(f"function has no {'positive' if log else 'finite'} value in xlim and ylim")
    low, high = float(z[shown].min()), float(z[shown].max())
    if high <= low:
        raise ValueError(f"function is {low:g} throughout xlim and ylim: it has no contours")
    ax = _axes(ax)
    from matplotlib import colors, ticker  # noqa: PLC0415  # optional

    norm = colors.LogNorm(low, high) if log else colors.Normalize(low, high)
    at = np.geomspace(low, high, levels) if log else ticker.MaxNLocator(levels).tick_values(low, high)
    filled = ax.contourf(x, y, np.where(np.isfinite(z), np.clip(z, low, high), np.nan), at, norm=norm, cmap="viridis")
    locator = ticker.LogLocator() if log else ticker.MaxNLocator(8)
    ax.figure.colorbar(filled, ax=ax, label=f"f({first}, {second})", ticks=locator)
    if way is not None:
        dots = _dot_size(way)
        ax.plot(*way.T, color="white", linewidth=2.6)
        ax.plot(*way.T, color="black", marker="o", markersize=dots, linewidth=1.0, label="descent")
        ax.plot(*way[0], color="white", markeredgecolor="black", marker="s", markersize=7, linestyle="", label="start")
        ax.plot(
            *way[-1], color=_COLOURS[1], markeredgecolor="black", marker="*", markersize=12, linestyle="", label="end"
        )
        # Above the picture: it would hide contours.
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False)
    ax.set(xlabel=first, ylabel=second, xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    return ax


def loss_surface(
    function: Callable[[float, float], float],
    *,
    xlim: Limits,
    ylim: Limits,
    path: ArrayLike | None = None,
    names: tuple[str, str] = ("x", "y"),
    points: int = 61,
    ax: Axes | None = None,
) -> Axes:
    """Draw a function of two parameters as a surface in 3-D, and the path of a descent on it.

    Parameters
    ----------
    function
        f(x, y) of two floats; a number. It is called points * points times, and once for each point of the path.
    xlim, ylim : (float, float)
        The parameters' smallest and largest values.
    path : array or None
        (T, 2): the points that a descent went through, its start first. Those outside of the limits are not drawn.
    names : (str, str)
        The parameters' names, for the axes' labels.
    points : int
        Per axis.
    ax : Axes or None
        Where to draw, made with ``projection="3d"``; None: in a new Figure. (With ``computed_zorder=False`` the surface
        never hides the path, as it is here.)

    Raises
    ------
    ValueError
        If an interval is none, the path is not (T, 2), `function` returns anything but one number, or nothing
        finite, or `ax` is not one of three dimensions.
    """
    points = integer(points, "points", least=2)
    x, y = _grid(xlim, points, "xlim"), _grid(ylim, points, "ylim")
    first, second = _names(names, 2, "names")
    way = _path(path)
    z = _surface(function, x, y)
    if not np.isfinite(z).any():
        raise ValueError("function has no finite value in xlim and ylim")
    if way is not None:
        inside = (way >= (x[0], y[0])) & (way <= (x[-1], y[-1]))
        way = np.where(inside.all(axis=1, keepdims=True), way, np.nan)
        height = np.array([_value(function, *map(float, p)) if np.isfinite(p).all() else np.nan for p in way])
    solid: Any = _axes(ax, three_d=True, size=(6.4, 5.0))
    columns, rows = np.meshgrid(x, y)
    z = np.where(np.isfinite(z), z, np.nan)
    solid.plot_surface(columns, rows, z, cmap="viridis", alpha=0.85, rcount=points, ccount=points, linewidth=0)
    if way is not None:
        dots = _dot_size(way)
        solid.plot(
            *way.T, height, color="black", marker="o", markersize=dots, linewidth=1.4, label="descent", zorder=10
        )
        solid.legend()
    solid.set(xlabel=first, ylabel=second, zlabel=f"f({first}, {second})")
    return cast("Axes", solid)


def loss_slices(
    function: Callable[..., float],
    point: ArrayLike,
    *,
    radius: float = 1.0,
    names: Sequence[str] | None = None,
    points: int = 201,
    ax: Axes | None = None,
) -> Axes:
    """Draw a function along each of its parameters, the others staying where they are.

    Parameters
    ----------
    function
        f of as many floats as `point` has; a number.
    point : array
        The parameters where the slices meet, for instance those that a training has found.
    radius : float
        How far the slices go to either side.
    names : sequence of str, or None
        The parameters' names; None: "parameter 0" and so on.
    points : int
        Of each slice; with an odd number, `point` itself is among them.
    ax : Axes or None
        Where to draw; None: in a new Figure.

    Raises
    ------
    ValueError
        If `point` is no sequence of finite numbers, `radius` is not positive, the names are not as many, or `function`
        returns anything but one number.
    """
    points, radius = integer(points, "points", least=2), real(radius, "radius", above=0.0)
    centre = _numbers(point, "point")
    if not np.isfinite(centre).all():
        raise ValueError(f"point is {centre.tolist()}; expected finite numbers")
    given = [f"parameter {i}" for i in range(len(centre))] if names is None else names
    labels = _names(given, len(centre), "names")
    offsets = np.linspace(-radius, radius, points)
    curves = []
    for i in range(len(centre)):
        moved = np.repeat(centre[np.newaxis], points, axis=0)
        moved[:, i] += offsets
        curves.append([_value(function, *map(float, at)) for at in moved])
    at_centre = _value(function, *map(float, centre))
    ax = _axes(ax)
    for i, (label, values) in enumerate(zip(labels, curves, strict=True)):
        ax.plot(offsets, values, **_style(i), label=label)
    ax.plot([0.0], [at_centre], color="black", marker="o", markersize=5, linestyle="", zorder=3, label="the point")
    return _finish(ax, xlabel="distance from the point, along one parameter", ylabel="f")


# --- training -----------------------------------------------------------------------------------------------


def learning_rates(
    curves: Mapping[Any, ArrayLike], *, log: bool | None = None, ylabel: str = "loss", ax: Axes | None = None
) -> Axes:
    """Draw how the loss went at several step sizes; a curve ends where it is no longer finite, and says so.

    Parameters
    ----------
    curves
        The losses, in the order of the steps or epochs, by learning rate: a number, or a text that is shown as it is.
    log : bool or None
        Whether the scale of the loss is logarithmic; None: where the losses are positive and span more than a
        factor of 20.
    ylabel : str
        What the numbers are.
    ax : Axes or None
        Where to draw; None: in a new Figure.

    Raises
    ------
    ValueError, TypeError
        If `curves` is no mapping, is empty, or one of them holds no numbers.
    """
    if not isinstance(curves, Mapping):
        raise TypeError(f"curves must be a mapping from learning rates to losses, found {type(curves).__name__}")
    if not curves:
        raise ValueError("curves is empty; expected at least one learning rate")
    values = {rate: _numbers(losses, f"curves[{rate!r}]") for rate, losses in curves.items()}
    ax = _axes(ax)
    for i, (rate, losses) in enumerate(values.items()):
        label = rate if isinstance(rate, str) else f"lr = {rate:g}"
        bad = ~np.isfinite(losses)
        end = int(np.argmax(bad)) if bad.any() else len(losses)
        label += f" (not finite from step {end})" if bad.any() else ""
        every = max(1, len(losses) // 12)
        ax.plot(
            np.arange(end),
            losses[:end],
            **_style(i),
            label=label,
            marker=_MARKERS[i % len(_MARKERS)],
            markevery=every,
            markersize=4.5,
        )
    _log_scale(ax, values.values(), log)
    _whole_numbers(ax)
    return _finish(ax, xlabel="step", ylabel=ylabel)


def _whole_numbers(ax: Axes) -> None:
    """Ticks of x at whole numbers alone: there is no half an epoch."""
    from matplotlib import ticker  # noqa: PLC0415  # optional

    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _better(metric: str) -> Literal["min", "max"] | None:
    """Return whether less or more of a metric is better, as far as its name says so."""
    if metric == "accuracy":
        return "max"
    return "min" if metric == "loss" or metric in _losses.names() else None


def training_history(
    history: Mapping[str, ArrayLike],
    *,
    metric: str = "loss",
    mode: Literal["min", "max"] | None = None,
    labels: tuple[str, str] = ("training", "validation"),
    log: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one number of each epoch, in training and in validation.

    Parameters
    ----------
    history
        What `fit` returned: lists with one number per epoch, which are counted from 0, as everywhere.
    metric : str
        Which of them; "val_" + metric is drawn too if it is there, with its best epoch marked. One that begins with
        "val_" itself is drawn alone, as validation.
    mode : "min", "max" or None
        Whether the best epoch is the lowest or the highest; None: the lowest of "loss" and of what is called as one of
        `fuseprop.losses`, the highest of "accuracy", and no mark for another metric.
    labels : (str, str)
        What the two curves are called.
    log : bool or None
        Whether the scale of the metric is logarithmic; None: where the numbers are positive and span more than a
        factor of 20.
    ax : Axes or None
        Where to draw; None: in a new Figure.

    Raises
    ------
    ValueError, TypeError
        If `history` is no mapping, does not have the metric, or this is no list of numbers; if `mode` is another one.
    """
    if not isinstance(history, Mapping):
        raise TypeError(f"history must be what fit returns, a dict of lists, found {type(history).__name__}")
    if mode is not None:
        choice(mode, "mode", ("min", "max"))
    if metric not in history:
        known = f"expected one of {', '.join(map(repr, history))}" if history else "history is empty"
        raise ValueError(f"metric is {metric!r}; {known}")
    base = metric.removeprefix("val_")
    called = dict(zip((base, f"val_{base}"), _names(labels, 2, "labels"), strict=True))
    if metric != base:
        del called[base]  # the validation alone
    values = {name: _numbers(history[name], f"history[{name!r}]") for name in called if name in history}
    ax = _axes(ax)
    for i, name in enumerate((base, f"val_{base}")):
        if (numbers := values.get(name)) is None:
            continue
        ax.plot(np.arange(len(numbers)), numbers, color=_COLOURS[i], linestyle=_LINES[i], label=called[name])
    checked = values.get(f"val_{base}")
    mode = mode or _better(base)
    if mode is not None and checked is not None and np.isfinite(checked).any():
        sign = 1.0 if mode == "min" else -1.0
        best = int(np.argmin(np.where(np.isfinite(checked), sign * checked, np.inf)))
        label = f"best, epoch {best}: {checked[best]:.4g}"
        ax.plot([best], [checked[best]], color="black", marker="o", markersize=5, linestyle="", label=label)
    _log_scale(ax, values.values(), log)
    _whole_numbers(ax)
    return _finish(ax, xlabel="epoch", ylabel=metric)


@runtime_checkable
class _HasGradients(Protocol):
    def gradients(self) -> Mapping[str, NDArray[Any]]: ...


def gradient_flow(
    gradients: _HasGradients | Mapping[str, ArrayLike], *, label: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the size of the gradients, layer by layer: the root of the mean square, and up to the largest.

    A gradient that shrinks from the last layer to the first is vanishing, one that grows is exploding. A layer
    whose gradient is 0 throughout, or not finite, has no point on the logarithmic scale: it is named above the picture.

    Parameters
    ----------
    gradients
        A model behind a backward pass or a `train_step`, or the arrays by name, in the order of the layers:
        what ``model.gradients()`` returns. "0.weight" and "0.bias" are one layer, "0".
    label : str or None
        For the legend, where several networks are drawn into one Axes.
    ax : Axes or None
        Where to draw; None: in a new Figure.

    Raises
    ------
    ValueError, TypeError
        If there are no gradients, or they are no arrays of numbers.
    """
    by_name = gradients.gradients() if isinstance(gradients, _HasGradients) else gradients
    if not isinstance(by_name, Mapping):
        raise TypeError(f"gradients must be a model or a dict of arrays, found {type(gradients).__name__}")
    if not by_name:
        raise ValueError("gradients is empty; expected at least one array")
    layers: dict[str, list[F64]] = {}
    for name, gradient in by_name.items():
        array = _numbers(np.ravel(gradient), f"gradients[{name!r}]")
        layers.setdefault(str(name).rpartition(".")[0] or str(name), []).append(np.abs(array))
    sizes = [np.concatenate(arrays) for arrays in layers.values()]
    largest = np.array([size.max() for size in sizes])
    # Scaled, so that no square underflows or overflows.
    scale = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
    rms = np.array([s * np.sqrt(np.mean((size / s) ** 2)) for s, size in zip(scale, sizes, strict=True)])
    shown = np.isfinite(largest) & (largest > 0)
    x = np.arange(len(layers))
    ax = _axes(ax)
    i = len(ax.containers)  # one for each network that is here already
    colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
    middle = np.where(shown, rms, np.nan)
    upward = np.where(shown, largest, 0.0) - np.where(shown, rms, 0.0)
    name = "root mean square, up to the largest" if label is None else label
    ax.errorbar(
        x, middle, yerr=(np.zeros_like(x), upward), color=colour, marker=marker, markersize=5, capsize=3, linewidth=1.4,
        elinewidth=0.9, label=name,
    )  # fmt: skip
    if shown.any():
        ax.set_yscale("log")
    for at in np.flatnonzero(~shown):
        text = "0" if largest[at] == 0 else str(largest[at])
        ax.annotate(text, (at, 1.01 + 0.05 * i), xycoords=("data", "axes fraction"), color=colour, ha="center")
    ax.set_xticks(x, list(layers))
    return _finish(ax, xlabel="layer, from input to output", ylabel="size of the gradient")


def quantile_bands(
    x: ArrayLike,
    predictions: ArrayLike,
    quantiles: Sequence[float],
    *,
    y: ArrayLike | None = None,
    xlabel: str = "x",
    ylabel: str = "y",
    ax: Axes | None = None,
) -> Axes:
    """Draw predicted quantiles as bands, each from q to 1 - q where both are there, and the data.

    Parameters
    ----------
    x : array
        (N,), in any order.
    predictions : array
        (N, Q): what a model trained with ``Quantile(q=quantiles)`` predicts for x.
    quantiles : sequence of float
        The Q quantiles, each within (0, 1) and larger than the one before. Two that add up to 1 are the borders of a
        band; one without a partner, such as the median, is a line.
    y : array or None
        (N,), the data: drawn as points, and the share of them inside of each band is told in the legend.
    xlabel, ylabel : str
        What x and y are.
    ax : Axes or None
        Where to draw; None: in a new Figure.

    Raises
    ------
    ValueError, TypeError
        If the shapes do not fit, or `quantiles` are not increasing within (0, 1).
    """
    xs, levels = _numbers(x, "x"), _numbers(quantiles, "quantiles")
    if not (np.all(levels > 0) and np.all(levels < 1) and np.all(np.diff(levels) > 0)):
        raise ValueError(f"quantiles is {levels.tolist()}; expected increasing numbers within (0, 1)")
    pred = _numbers(predictions, "predictions", ndim=2)
    if pred.shape != (len(xs), len(levels)):
        raise ValueError(f"predictions has shape {pred.shape}; expected ({len(xs)}, {len(levels)})")
    data = None if y is None else _numbers(y, "y")
    if data is not None and len(data) != len(xs):
        raise ValueError(f"y has shape {data.shape}; expected ({len(xs)},), as x has")
    partners = {i: j for i, j in itertools.combinations(range(len(levels)), 2) if np.isclose(levels[i] + levels[j], 1)}
    alone = [i for i in range(len(levels)) if i not in partners and i not in partners.values()]
    order = np.argsort(xs, kind="stable")
    ax = _axes(ax)
    if data is not None:
        ax.plot(xs, data, color="0.35", marker=".", markersize=3, linestyle="", zorder=1, label="data")
    for n, (i, j) in enumerate(partners.items()):
        label = f"{levels[i]:g} to {levels[j]:g}"
        if data is not None:
            label += f": {np.mean((data >= pred[:, i]) & (data <= pred[:, j])):.1%} of the data"
        band = (pred[order, i], pred[order, j])
        ax.fill_between(
            xs[order], *band, color=_COLOURS[0], alpha=0.18 + 0.22 * n / len(partners), linewidth=0, label=label
        )
        for edge in band:
            ax.plot(xs[order], edge, color=_COLOURS[0], linewidth=0.7)
    for n, i in enumerate(alone):
        label = "median" if levels[i] == 0.5 else f"quantile {levels[i]:g}"
        ax.plot(xs[order], pred[order, i], color=_COLOURS[1], linestyle=_LINES[n % len(_LINES)], label=label)
    return _finish(ax, xlabel=xlabel, ylabel=ylabel)
