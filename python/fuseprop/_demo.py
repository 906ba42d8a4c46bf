"""The demo: a small network on scikit-learn's digits, how good it gets, and what a training step costs."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fuseprop import nn, optim, plot
from fuseprop._bench import launch, machine, problem
from fuseprop._bench.steps import make_model

BATCH_SIZE = 64
SIZES = (64, 128, 10)
LEARNING_RATE = 2e-3


class Digits(NamedTuple):
    """Images, (N, 64) in float32, scaled to [0, 1], and labels; three quarters are for training."""

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]


class Result(NamedTuple):
    """What `train` found."""

    model: nn.Sequential
    history: dict[str, list[float]]
    accuracy: float  # on the test images
    seconds: float  # of fit


def load_digits() -> Digits:
    """Return scikit-learn's 1797 digits, split with a fixed seed."""
    from sklearn import datasets, model_selection  # noqa: PLC0415  # optional

    data = datasets.load_digits()
    x_train, x_test, y_train, y_test = model_selection.train_test_split(
        (data.data / 16).astype(np.float32), data.target, test_size=0.25, random_state=0, stratify=data.target
    )
    return Digits(x_train, y_train, x_test, y_test)


def train(digits: Digits, *, epochs: int = 30, progress: bool = True) -> Result:
    """Train the network; the test images serve for the curves alone, nothing is chosen by them."""
    model = make_model(SIZES)
    begin = time.perf_counter()
    history = model.fit(
        digits.x_train,
        digits.y_train,
        loss="softmax_cross_entropy",
        optimizer=optim.Adam(model, lr=LEARNING_RATE),
        epochs=epochs,
        batch_size=BATCH_SIZE,
        validation_data=(digits.x_test, digits.y_test),
        metrics=["accuracy"],
        progress=progress,
    )
    seconds = time.perf_counter() - begin
    return Result(model, history, nn.accuracy(model.predict(digits.x_test), digits.y_test), seconds)


# --- one training step, in each library ---------------------------------------------------------------------


CASE = f"training/{'-'.join(map(str, SIZES))}/batch{BATCH_SIZE}"


class Comparison(NamedTuple):
    """What a training step of this network costs, as `python -m fuseprop bench` measures it."""

    seconds: dict[str, float]  # medians, by library; without those that are not to be believed
    warnings: list[str]  # why some are left out
    absent: list[str]  # libraries that are not installed


def compare(*options: str) -> Comparison:
    """Measure a training step beside the libraries that are installed; options as those of the benchmarks."""
    return comparison(launch.figures("--only", CASE, *options))


def comparison(figures: Mapping[str, Any]) -> Comparison:
    """Return what the figures of the benchmark say: of each library its fastest variant."""
    (case,) = figures["cases"]
    best: dict[str, Mapping[str, Any]] = {}
    for timed in sorted((c for c in case["candidates"] if "median_seconds" in c), key=itemgetter("median_seconds")):
        best.setdefault(timed["library"], timed)
    seconds = {
        library: best[library]["median_seconds"] for library in (problem.OURS, *machine.PEERS) if library in best
    }
    warnings = []
    if case["disturbed"]:
        warnings.append(f"other processes took {case['others_share_of_cpus']:.0%} of the CPUs")
        seconds.clear()
    for library in [name for name in seconds if not best[name]["steady"]]:
        warnings.append(f"{library}'s time varied by more than a factor of 2")
        del seconds[library]
    return Comparison(seconds, warnings, [name for name in machine.PEERS if name not in figures["machine"]["versions"]])


# --- what the user sees -------------------------------------------------------------------------------------


def draw(result: Result, times: dict[str, float], path: Path) -> None:
    """Write a picture: loss and accuracy over the epochs, and the time per step beside the peers'."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # optional
    from matplotlib.figure import Figure  # noqa: PLC0415  # optional

    figure = Figure(figsize=(13 if times else 9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3 if times else 2)
    for axis, metric, title in ((axes[0], "loss", "softmax cross-entropy"), (axes[1], "accuracy", "accuracy")):
        plot.training_history(result.history, metric=metric, labels=("training", "test"), ax=axis).set_title(title)
    axes[1].axhline(0.97, color="gray", linestyle=":", linewidth=1)
    if times:
        names, values = list(times), [1e6 * seconds for seconds in times.values()]
        bars = axes[2].barh(names, values, color=["tab:green" if n == problem.OURS else "tab:gray" for n in names])
        axes[2].bar_label(bars, fmt="%.0f", padding=3)
        axes[2].set(xlabel="µs", title=f"one training step, batch of {BATCH_SIZE}", xlim=(0, 1.15 * max(values)))
        axes[2].invert_yaxis()
    figure.suptitle(f"digits, {'-'.join(map(str, SIZES))}: {result.accuracy:.1%} of the test images right")
    figure.savefig(path, dpi=120)


def show(found: Comparison) -> dict[str, float]:
    """Print a comparison; return the times in it."""
    ours = found.seconds.get(problem.OURS)
    for name, seconds in found.seconds.items():
        ratio = "" if ours is None else f"  {seconds / ours:6.1f}x"
        print(f"  {name:<16} {1e6 * seconds:8.1f} µs{ratio}")
    if found.absent:
        print(f"  not installed: {', '.join(found.absent)}")
    if found.warnings:
        print(f"  left out, as the machine was disturbed: {'; '.join(found.warnings)}")
        print(f"  on a quiet machine: python -m fuseprop bench --only {CASE}")
    return found.seconds


def main(*, output: Path | None = None, epochs: int = 30, peers: bool = True) -> int:
    """Run the demo; return the exit code."""
    needed = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"}
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        print(f'The demo needs {" and ".join(missing)}: pip install "fuseprop[demo]"', file=sys.stderr)
        return 1
    digits = load_digits()
    print(
        f"Training {'-'.join(map(str, SIZES))} (ReLU, softmax cross-entropy, Adam) on "
        f"{len(digits.x_train)} digits, testing on {len(digits.x_test)}."
    )
    result = train(digits, epochs=epochs)
    steps = epochs * -(-len(digits.x_train) // BATCH_SIZE)
    print(f"test accuracy   {result.accuracy:.4f}")
    print(f"training time   {result.seconds:.2f} s ({steps} steps in {epochs} epochs, evaluated after each)")
    times: dict[str, float] = {}
    if peers:
        print(f"\nOne training step (forward, loss, backward, Adam), batch of {BATCH_SIZE}, float32:")
        times = show(compare())
    path = output or Path(tempfile.mkdtemp(prefix="fuseprop-")) / "digits.png"
    draw(result, times, path)
    print(f"\ntraining curves: {path.resolve()}")
    return 0
