"""Fit the line y = 2x + 3 by squared error: one Dense layer with one weight and one bias.

With --output, pictures of the loss over weight and bias, and along each of them (needs matplotlib).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fuseprop as fp

LOSS = fp.losses.SquaredError()


def points(count: int, noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return x in [-1, 1] and y = 2x + 3 with noise, both (count, 1)."""
    x = rng.uniform(-1, 1, (count, 1))
    return x, 2 * x + 3 + noise * rng.standard_normal(x.shape)


def loss_of(weight: float, bias: float, x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean squared error of weight x + bias."""
    return float(LOSS(weight * x + bias, y))


def fit(x: np.ndarray, y: np.ndarray, *, steps: int, rate: float) -> np.ndarray:
    """Descend with the whole data in each step; return (weight, bias) at each, (steps + 1, 2)."""
    model = fp.nn.Sequential([fp.nn.Dense(1, 1)], rng=0, dtype=np.float64)
    optimizer = fp.optim.SGD(model, lr=rate)
    path = [model.flat_parameters.copy()]
    for _ in range(steps):
        model.train_step(x, y, LOSS, optimizer)
        path.append(model.flat_parameters.copy())
    return np.array(path)


def draw(output: Path, path: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    output.mkdir(parents=True, exist_ok=True)

    def function(weight: float, bias: float) -> float:
        return loss_of(weight, bias, x, y)

    names = ("weight", "bias")
    low, high = path.min(axis=0) - 1, np.maximum(path.max(axis=0), (2, 3)) + 1
    limits = {"xlim": (low[0], high[0]), "ylim": (low[1], high[1])}
    pictures = {
        "contours": fp.plot.loss_contours(function, **limits, path=path, names=names),
        "surface": fp.plot.loss_surface(function, **limits, path=path, names=names),
        "slices": fp.plot.loss_slices(function, (2.0, 3.0), names=names),
    }
    for name, ax in pictures.items():
        ax.figure.savefig(output / f"line_{name}.png", dpi=120)


def main(argv: Sequence[str] | None = None) -> np.ndarray:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="of the descent (default: 60)")
    parser.add_argument("--rate", type=float, default=0.3, help="learning rate (default: 0.3)")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation around the line (default: 0)")
    parser.add_argument("--output", type=Path, help="a folder for pictures (default: none)")
    arguments = parser.parse_args(argv)
    x, y = points(100, arguments.noise, np.random.default_rng(0))
    path = fit(x, y, steps=arguments.steps, rate=arguments.rate)
    for step in sorted({0, 1, 2, 5, 10, 20, len(path) - 1}):
        if step < len(path):
            weight, bias = path[step]
            print(f"step {step:>3}  y = {weight:.6f} x + {bias:.6f}  loss {loss_of(weight, bias, x, y):.3e}")
    if arguments.output:
        draw(arguments.output, path, x, y)
    return path[-1]


if __name__ == "__main__":
    main()
