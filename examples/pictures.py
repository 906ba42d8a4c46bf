"""Every picture of `fuseprop.plot`, written to a folder: activations, losses, descents, training.

Needs matplotlib: pip install "fuseprop[plot]"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fuseprop as fp


def bowl(x: float, y: float) -> float:
    """J = x^2 + sin^2 y."""
    return x**2 + np.sin(y) ** 2


def descent_path(steps: int) -> np.ndarray:
    """Descend on J from (3, 1) with rate 0.1; return the points."""
    point = np.array([3.0, 1.0])
    optimizer = fp.optim.SGD(point, lr=0.1)
    path = [point.copy()]
    for _ in range(steps):
        x, y = point
        optimizer.step(np.array([2 * x, np.sin(2 * y)]))
        path.append(point.copy())
    return np.array(path)


def parabola(rate: float, steps: int) -> list[float]:
    """Descend on J = x^2 from x = 1.2; return J at each step."""
    x = np.array([1.2])
    optimizer = fp.optim.SGD(x, lr=rate)
    values = [float(x[0] ** 2)]
    for _ in range(steps):
        optimizer.step(2 * x)
        values.append(float(x[0] ** 2))
    return values


def line_loss(weight: float, bias: float) -> float:
    """Squared error of weight x + bias on points of the line y = 2x + 3."""
    x = np.linspace(-1, 1, 21)
    return float(fp.losses.SquaredError()(weight * x + bias, 2 * x + 3))


def classify(epochs: int) -> dict[str, list[float]]:
    """Train on two noisy half moons; what `fit` returns."""
    rng = np.random.default_rng(0)
    angle, labels = rng.uniform(0, np.pi, 600), rng.integers(0, 2, 600)
    side = 1 - 2 * labels
    x = np.stack([np.cos(angle) * side + labels, np.sin(angle) * side + 0.5 * labels], axis=1)
    x += 0.25 * rng.standard_normal(x.shape)
    model = fp.nn.Sequential([fp.nn.Dense(2, 64, "relu"), fp.nn.Dense(64, 64, "relu"), fp.nn.Dense(64, 2)], rng=0)
    return model.fit(
        x[:300],
        labels[:300],
        loss="softmax_cross_entropy",
        optimizer=fp.optim.Adam(model, lr=5e-3),
        epochs=epochs,
        validation_data=(x[300:], labels[300:]),
        metrics=["accuracy"],
        progress=False,
    )


def deep_gradients(activation: str, depth: int) -> dict[str, np.ndarray]:
    """Return the gradients of a deep network at its initial values."""
    rng = np.random.default_rng(0)
    layers = [fp.nn.Dense(64, 64, activation) for _ in range(depth)]
    model = fp.nn.Sequential([*layers, fp.nn.Dense(64, 10)], rng=0)
    x, labels = rng.standard_normal((256, 64), dtype=np.float32), rng.integers(0, 10, 256)
    _, dy = fp.losses.SoftmaxCrossEntropy().value_and_grad(model(x, training=True), labels)
    model.backward(dy)
    return model.gradients()


def quantile_model(epochs: int, quantiles: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Learn quantiles of y = sin x with noise that grows with x; return x, y and the predictions."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 6, 1500)
    y = np.sin(x) + 0.12 * (1 + x) * rng.standard_normal(len(x))
    model = fp.nn.Sequential([fp.nn.Dense(1, 64, "silu"), fp.nn.Dense(64, 32, "silu"), fp.nn.Dense(32, 5)], rng=0)
    inputs = (x[:, np.newaxis] - 3) / 2
    optimizer = fp.optim.Adam(model, lr=5e-3)
    model.fit(
        inputs,
        y,
        loss=fp.losses.Quantile(q=quantiles),
        optimizer=optimizer,
        epochs=epochs,
        batch_size=50,
        progress=False,
    )
    return x, y, np.sort(model.predict(inputs), axis=1)


def draw_all(output: Path, *, epochs: int, steps: int) -> list[Path]:
    """Write the pictures; return the files."""
    plot = fp.plot
    history = classify(epochs)
    path = descent_path(steps)
    quantiles = (0.05, 0.25, 0.5, 0.75, 0.95)
    x, y, predicted = quantile_model(epochs, quantiles)
    flow = plot.gradient_flow(deep_gradients("sigmoid", 12), label="Sigmoid")
    pictures = {
        "activations": plot.activation_curves(["relu", "gelu", "tanh"], limits=(-4, 4)),
        "losses_margin": plot.loss_curves(["zero_one", "hinge", "squared_hinge", "logistic", "exponential"]),
        "losses_residual": plot.loss_curves(
            ["half_squared_error", "absolute_error", "huber", "log_cosh", fp.losses.Quantile(q=0.8)], limits=(-4, 4)
        ),
        "losses_residual_slopes": plot.loss_curves(["half_squared_error", "huber", "log_cosh"], derivative=True),
        "cross_entropy": plot.loss_curves("binary_cross_entropy", limits=(0.05, 1)),
        "descent_contours": plot.loss_contours(bowl, xlim=(-3.5, 3.5), ylim=(-1.8, 1.8), path=path),
        "descent_surface": plot.loss_surface(bowl, xlim=(-3.5, 3.5), ylim=(-1.8, 1.8), path=path),
        "line_slices": plot.loss_slices(line_loss, (2.0, 3.0), names=("w", "b")),
        "learning_rates": plot.learning_rates({rate: parabola(rate, 12) for rate in (1.0, 0.8, 0.4, 0.1)}, ylabel="J"),
        "history_loss": plot.training_history(history),
        "history_accuracy": plot.training_history(history, metric="accuracy"),
        "gradient_flow": plot.gradient_flow(deep_gradients("relu", 12), label="ReLU", ax=flow),
        "quantile_bands": plot.quantile_bands(x, predicted, quantiles, y=y),
    }
    output.mkdir(parents=True, exist_ok=True)
    files = [output / f"{name}.png" for name in pictures]
    for file, ax in zip(files, pictures.values(), strict=True):
        ax.figure.savefig(file, dpi=120)
    return files


def main(argv: Sequence[str] | None = None) -> list[Path]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("pictures"), help="the folder (default: pictures)")
    parser.add_argument("--epochs", type=int, default=60, help="of the two networks that are trained (default: 60)")
    parser.add_argument("--steps", type=int, default=16, help="of the descent (default: 16)")
    arguments = parser.parse_args(argv)
    files = draw_all(arguments.output, epochs=arguments.epochs, steps=arguments.steps)
    for file in files:
        print(file)
    return files


if __name__ == "__main__":
    main()
