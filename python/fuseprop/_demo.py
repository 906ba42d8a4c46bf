"""The demo: a small network on scikit-learn's digits, how good it gets, and what a training step costs."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fuseprop import losses, nn, optim, plot

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


def make_model() -> nn.Sequential:
    """Return a new 64-128-10 network."""
    return nn.Sequential([nn.Dense(SIZES[0], SIZES[1], "relu"), nn.Dense(SIZES[1], SIZES[2])], rng=0)


def train(digits: Digits, *, epochs: int = 30, progress: bool = True) -> Result:
    """Train the network; the test images serve for the curves alone, nothing is chosen by them."""
    model = make_model()
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

Step = Callable[[], object]


def fuseprop_step(x: NDArray[np.float32], y: NDArray[np.int64]) -> Step:
    """Make the step of this library: forward pass, loss, backward pass and Adam on one batch."""
    model = make_model()
    loss, optimizer = losses.SoftmaxCrossEntropy(), optim.Adam(model)
    return lambda: model.train_step(x, y, loss, optimizer)


def numpy_step(x: NDArray[np.float32], y: NDArray[np.int64]) -> Step:
    """Make the same step as one would write it in NumPy."""
    params = list(make_model().state_dict().values())
    w1, b1, w2, b2 = params
    first, second = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    t = 0

    def step() -> object:
        nonlocal t
        t += 1
        h = np.maximum(x @ w1 + b1, 0)
        z = h @ w2 + b2
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z)
        p /= p.sum(axis=1, keepdims=True)
        rows = np.arange(len(y))
        value = -np.log(p[rows, y]).mean()
        p[rows, y] -= 1
        p /= len(y)
        dh = (p @ w2.T) * (h > 0)
        for param, g, m, v in zip(
            params, (x.T @ dh, dh.sum(axis=0), h.T @ p, p.sum(axis=0)), first, second, strict=True
        ):
            m[...] = 0.9 * m + 0.1 * g
            v[...] = 0.999 * v + 0.001 * g * g
            param[...] -= 1e-3 / (1 - 0.9**t) * m / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return value

    return step


def sklearn_step(x: NDArray[np.float32], y: NDArray[np.int64]) -> Step:
    """Make a `partial_fit` of MLPClassifier, which is one Adam step."""
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415  # optional

    model = MLPClassifier((SIZES[1],), batch_size=BATCH_SIZE, alpha=0.0, random_state=0)
    model.partial_fit(x, y, classes=np.arange(SIZES[2]))
    return lambda: model.partial_fit(x, y)


def torch_step(x: NDArray[np.float32], y: NDArray[np.int64]) -> Step:
    """Make the step of PyTorch, eager, with its fused Adam."""
    import torch  # noqa: PLC0415  # optional

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(SIZES[0], SIZES[1]), torch.nn.ReLU(), torch.nn.Linear(SIZES[1], SIZES[2])
    )
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    xb, yb = torch.from_numpy(x), torch.from_numpy(y)

    def step() -> object:
        optimizer.zero_grad(set_to_none=False)
        value = torch.nn.functional.cross_entropy(model(xb), yb)
        value.backward()
        optimizer.step()
        return value

    return step


def jax_step(x: NDArray[np.float32], y: NDArray[np.int64]) -> Step:
    """Make the step of JAX, compiled as a whole, with its state donated."""
    import jax  # noqa: PLC0415  # optional
    import jax.numpy as jnp  # noqa: PLC0415  # optional

    def loss(params: Any, xb: Any, yb: Any) -> Any:
        w1, b1, w2, b2 = params
        z = jnp.maximum(xb @ w1 + b1, 0) @ w2 + b2
        return -jnp.mean(jax.nn.log_softmax(z)[jnp.arange(len(yb)), yb])

    def update(state: Any, xb: Any, yb: Any) -> Any:
        params, first, second, t = state
        value, grads = jax.value_and_grad(loss)(params, xb, yb)
        t += 1
        first = [0.9 * m + 0.1 * g for m, g in zip(first, grads, strict=True)]
        second = [0.999 * v + 0.001 * g * g for v, g in zip(second, grads, strict=True)]
        params = [
            p - 1e-3 * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
            for p, m, v in zip(params, first, second, strict=True)
        ]
        return (params, first, second, t), value

    compiled = jax.jit(update, donate_argnums=0)
    params = [jnp.array(p) for p in make_model().state_dict().values()]
    state = (params, [jnp.zeros_like(p) for p in params], [jnp.zeros_like(p) for p in params], jnp.float32(0))
    xb, yb = jnp.array(x), jnp.array(y)

    def step() -> object:
        nonlocal state
        state, value = compiled(state, xb, yb)
        return value.block_until_ready()

    return step


#: Name, the module it needs, and what makes the step.
CONTENDERS: tuple[tuple[str, str, Callable[..., Step]], ...] = (
    ("fuseprop", "fuseprop", fuseprop_step),
    ("NumPy", "numpy", numpy_step),
    ("JAX (jit)", "jax", jax_step),
    ("PyTorch (eager)", "torch", torch_step),
    ("scikit-learn", "sklearn", sklearn_step),
)


def step_times(digits: Digits, *, rounds: int = 25, steps: int = 20) -> dict[str, float]:
    """Return seconds per training step of each library that is installed: medians over interleaved rounds."""
    x, y = digits.x_train[:BATCH_SIZE], digits.y_train[:BATCH_SIZE]
    contenders = {name: make(x, y) for name, module, make in CONTENDERS if find_spec(module) is not None}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 2):
        for name, step in contenders.items():
            begin = time.perf_counter()
            for _ in range(steps):
                step()
            if round_ >= 2:  # the first ones warm up
                times[name].append((time.perf_counter() - begin) / steps)
    return {name: float(np.median(values)) for name, values in times.items()}


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
        bars = axes[2].barh(names, values, color=["tab:green"] + ["tab:gray"] * (len(names) - 1))
        axes[2].bar_label(bars, fmt="%.0f", padding=3)
        axes[2].set(xlabel="µs", title=f"one training step, batch of {BATCH_SIZE}", xlim=(0, 1.15 * max(values)))
        axes[2].invert_yaxis()
    figure.suptitle(f"digits, {'-'.join(map(str, SIZES))}: {result.accuracy:.1%} of the test images right")
    figure.savefig(path, dpi=120)


def main(*, output: str | None = None, epochs: int = 30, peers: bool = True) -> int:
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
        times = step_times(digits)
        for name, seconds in times.items():
            print(f"  {name:<16} {1e6 * seconds:8.1f} µs  {seconds / times['fuseprop']:6.1f}x")
        absent = [name for name, module, _ in CONTENDERS if find_spec(module) is None]
        if absent:
            print(f"  not installed: {', '.join(absent)}")
    path = Path(output) if output else Path(tempfile.mkdtemp(prefix="fuseprop-")) / "digits.png"
    draw(result, times, path)
    print(f"\ntraining curves: {path.resolve()}")
    return 0
