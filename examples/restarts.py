"""Training from several initial values, of which the best is kept: XOR with two hidden units has local minima.

Four points, a 2-2-1 network of tanh: from some initial values gradient descent ends in a local minimum with one or two
points wrong. Several starts find a way past it; which one is best is seen by the loss alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

import fuseprop as fp

X = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], np.float64)
Y = np.array([0.0, 1.0, 1.0, 0.0])
LOSS = fp.losses.BinaryCrossEntropyWithLogits()


def train(seed: int, *, hidden: int, steps: int) -> tuple[float, fp.nn.Sequential]:
    """Train from the initial values of this seed, with all points in each step; return the loss and the model."""
    layers = [fp.nn.Dense(2, hidden, "tanh"), fp.nn.Dense(hidden, 1)]
    model = fp.nn.Sequential(layers, rng=seed, dtype=np.float64)
    optimizer = fp.optim.SGD(model, lr=0.5, momentum=0.9)
    for _ in range(steps):
        model.train_step(X, Y, LOSS, optimizer)
    return float(LOSS(model(X), Y[:, np.newaxis])), model


def restart(starts: int, *, hidden: int, steps: int) -> tuple[fp.nn.Sequential, list[float]]:
    """Train from several initial values; return the model with the lowest loss, and all losses."""
    runs = [train(seed, hidden=hidden, steps=steps) for seed in range(starts)]
    losses = [loss for loss, _ in runs]
    return runs[int(np.argmin(losses))][1], losses


def main(argv: Sequence[str] | None = None) -> tuple[fp.nn.Sequential, list[float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=20, help="how many initial values (default: 20)")
    parser.add_argument("--hidden", type=int, default=2, help="units of the hidden layer (default: 2)")
    parser.add_argument("--steps", type=int, default=500, help="of each training (default: 500)")
    arguments = parser.parse_args(argv)
    best, losses = restart(arguments.starts, hidden=arguments.hidden, steps=arguments.steps)
    for seed, loss in enumerate(losses):
        print(f"start {seed:>2}  loss {loss:.4f}  {'solved' if loss < 0.1 else 'stuck'}")
    print(f"{sum(loss < 0.1 for loss in losses)} of {len(losses)} starts solve XOR; the best one answers")
    for x, z in zip(X, best(X)[:, 0], strict=True):
        print(f"  {x[0]:+.0f} xor {x[1]:+.0f}  probability {fp.activations.Sigmoid()(z):.3f}")
    return best, losses


if __name__ == "__main__":
    main()
