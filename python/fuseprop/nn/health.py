"""How the gradients are: their sizes through the layers, units that have died, and where a NaN arose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fuseprop._checks import integer, real
from fuseprop.nn.callbacks import Callback, Run

if TYPE_CHECKING:
    from fuseprop._typing import FloatArray
    from fuseprop.nn.layers import Layer
    from fuseprop.nn.model import Model


@dataclass(frozen=True)
class LayerHealth:
    """What `GradientHealth` found of one layer; each number is the median over the steps that were looked at."""

    #: Where the layer is: "0", "2.block.1"; and what it is.
    path: str
    layer: str
    #: The norm of the gradient of all its parameters; nan without parameters.
    gradient_norm: float
    #: The norm of a step's change over that of the parameters; nan without parameters.
    update_ratio: float
    #: The share of its units that were 0 for the whole batch; nan if it has no activation.
    dead: float
    #: "vanishing", "exploding" or "".
    verdict: str


class GradientHealth(Callback):
    """Watches the gradients of a run, layer by layer.

    At each step that is looked at: the norm of each layer's gradient, the norm of the update over that of the
    parameters, the share of dead units (those with an activation whose output is 0 for all samples of the batch, in
    evaluation mode), and the first NaN or infinity.

    Parameters
    ----------
    every : int
        Each how many steps to look. It costs a forward pass and some reads of the parameters.
    limit : float
        > 1. With r the root mean square of a layer's gradient and r_out that of the last layer with parameters, whose
        gradient has not gone through other layers: "vanishing" is r < r_out / limit; "exploding" is r > limit r_out, or
        a gradient whose norm is more than `limit` times that of the layer's parameters, has grown by more than that
        since the first step, or is not finite.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range.

    Notes
    -----
    `steps` are those that were looked at; `gradient_norms`, `update_ratios` and `dead_units` are dicts from paths ("0",
    "2.block.1") to one number for each of them; `first_nonfinite` says where the first NaN or infinity was, or is None:
    gradients go from the output to the input, so it is the layer nearest to the output that has one.
    """

    def __init__(self, every: int = 10, *, limit: float = 1e3) -> None:
        self.every = integer(every, "every", least=1)
        self.limit = real(limit, "limit", above=1.0)
        self._forget()

    def _forget(self) -> None:
        self.steps: list[int] = []
        self.gradient_norms: dict[str, list[float]] = {}
        self.update_ratios: dict[str, list[float]] = {}
        self.dead_units: dict[str, list[float]] = {}
        self.first_nonfinite: str | None = None
        self._parameter_norms: dict[str, list[float]] = {}
        self._sizes: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._looks = False

    def begin(self, run: Run) -> None:
        """Start anew, with the layers of the run's model."""
        self._forget()
        self._layers = run.model._leaves()
        for path, layer in self._layers:
            self._names[path] = repr(layer)
            size = sum(array.size for array in layer.parameters.values())
            if size:
                self._sizes[path] = size
                self.gradient_norms[path], self.update_ratios[path], self._parameter_norms[path] = [], [], []

    def before_step(self, run: Run) -> None:
        """Keep the parameters, and look at the units."""
        self._looks = run.step % self.every == 0
        if not self._looks:
            return
        self._before = run.model.state_dict()

        def visit(path: str, layer: Layer, y: FloatArray) -> None:
            if getattr(layer, "activation", None) is not None:
                dead = np.all(y.reshape(len(y), -1) == 0, axis=0)
                self.dead_units.setdefault(path, []).append(float(np.mean(dead)))

        run.model._trace(run.batch[0], False, visit)

    def after_step(self, run: Run) -> None:
        """Look at the gradients and at what the step has changed."""
        if not self._looks:
            return
        self.steps.append(run.step - 1)
        last_broken: str | None = None
        for path, layer in self._layers:
            if path not in self._sizes:
                continue
            gradient = _norm(layer.gradients.values())
            changes = [array - self._before[f"{path}.{name}"] for name, array in layer.parameters.items()]
            size = _norm(self._before[f"{path}.{name}"] for name in layer.parameters)
            change = _norm(changes)
            self.gradient_norms[path].append(gradient)
            self._parameter_norms[path].append(size)
            self.update_ratios[path].append(change / size if size else math.inf if change else 0.0)
            if not math.isfinite(gradient):
                last_broken = path
        if self.first_nonfinite is None and last_broken is not None:
            name = self._names[last_broken]
            self.first_nonfinite = f"step {run.step - 1}: the gradient of layer {last_broken}, {name}"

    def report(self) -> list[LayerHealth]:
        """Return what was found of each layer, in the order of the forward pass."""
        if not self.steps:
            return []
        rms = {path: _median(norms) / math.sqrt(self._sizes[path]) for path, norms in self.gradient_norms.items()}
        at_output = list(rms.values())[-1] if rms else math.nan
        found = []
        for path, name in self._names.items():
            if path not in rms and path not in self.dead_units:
                continue
            norms = self.gradient_norms.get(path, [])
            verdict = ""
            if norms and self._has_exploded(path, rms[path], at_output):
                verdict = "exploding"
            elif norms and rms[path] < at_output / self.limit:
                verdict = "vanishing"
            ratio, dead = _median(self.update_ratios.get(path, [])), _median(self.dead_units.get(path, []))
            found.append(LayerHealth(path, name, _median(norms), ratio, dead, verdict))
        return found

    def _has_exploded(self, path: str, rms: float, at_output: float) -> bool:
        norms, size = self.gradient_norms[path], _median(self._parameter_norms[path])
        largest = max(norm if math.isfinite(norm) else math.inf for norm in norms)
        return (
            largest == math.inf
            or rms > self.limit * at_output
            or _median(norms) > self.limit * size > 0
            or largest > self.limit * norms[0] > 0
        )

    def verdicts(self) -> list[str]:
        """Return the verdicts in words, each with its layer: [] if nothing is wrong."""
        found = [f"{h.verdict}: layer {h.path}, {h.layer}" for h in self.report() if h.verdict]
        found += [f"dead: layer {h.path}, {h.layer}" for h in self.report() if h.dead == 1.0]
        return found + ([] if self.first_nonfinite is None else [f"not finite: {self.first_nonfinite}"])

    def __str__(self) -> str:
        """Return the report as a table."""
        lines = [f"{'layer':<40} {'gradient norm':>13} {'update/weight':>13} {'dead units':>10}  verdict"]
        for h in self.report():
            name = f"{h.path}  {h.layer}"
            name = name if len(name) <= 40 else name[:37] + "..."
            dead = "" if math.isnan(h.dead) else f"{h.dead:.0%}"
            numbers = ["" if math.isnan(value) else f"{value:.2e}" for value in (h.gradient_norm, h.update_ratio)]
            lines.append(f"{name:<40} {numbers[0]:>13} {numbers[1]:>13} {dead:>10}  {h.verdict}".rstrip())
        return "\n".join([*lines, *([self.first_nonfinite] if self.first_nonfinite else [])])


def _norm(arrays: Any) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return math.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in arrays))


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else math.nan


def explain_loss(model: Model, x: FloatArray, drawn_from: Mapping[str, Any] | None) -> str:
    """Say where a loss that is not finite comes from: the first layer whose parameters or output are not.

    The forward pass is repeated; `drawn_from` is the state of the model's generator before it, None if none draws.
    """
    wrong = _count(x)
    if wrong:
        sample = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(axis=1)))
        return f"x has {wrong}, first in sample {sample} of the batch"
    found: list[str] = []

    def visit(path: str, layer: Layer, y: FloatArray) -> None:
        if found:
            return
        for name, array in layer.parameters.items():
            if "." not in name and (wrong := _count(array)):
                found.append(f"parameter {name!r} has {wrong}, in layer {path}, {layer!r}")
                return
        if wrong := _count(y):
            found.append(f"the output has {wrong}, first behind layer {path}, {layer!r}")

    state = model.rng.bit_generator.state
    if drawn_from is not None:
        model.rng.bit_generator.state = drawn_from
    try:
        model._trace(x, True, visit)
    finally:
        model.rng.bit_generator.state = state
    return found[0] if found else "the outputs of all layers are finite, it arises in the loss itself"


def _count(array: FloatArray) -> str:
    """Return how many elements are not finite, in words; "" if all are."""
    finite = np.isfinite(array)
    if finite.all():
        return ""
    return f"{array.size - int(finite.sum())} of {array.size} elements that are not finite"
