"""Simulated annealing for a network that has no gradient: threshold units, as McCulloch and Pitts had them.

The hidden units are steps, whose derivative is 0 everywhere: back-propagation cannot train them. Generalised simulated
annealing (scipy.optimize.dual_annealing, without its local search) needs values alone, and a model's parameters are one
flat array, which is what such a search moves.

Needs scipy 1.15 or newer.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from scipy.optimize import dual_annealing

import fuseprop as fp

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float64)
Y = np.array([[-1.0], [1.0], [1.0], [-1.0]])  # XOR
LOSS = fp.losses.SquaredHinge()


def make_model(hidden: int) -> fp.nn.Sequential:
    """Return a network of threshold units and a linear output."""
    layers = [fp.nn.Dense(2, hidden, fp.activations.Step(at_zero=0.0)), fp.nn.Dense(hidden, 1)]
    return fp.nn.Sequential(layers, rng=0, dtype=np.float64)


def anneal(model: fp.nn.Sequential, *, iterations: int, seed: int) -> float:
    """Search the model's parameters within [-2, 2], and leave the best ones in it; return their loss."""

    def objective(parameters: np.ndarray) -> float:
        model.flat_parameters[...] = parameters
        return float(LOSS(model(X), Y))

    bounds = [(-2.0, 2.0)] * model.flat_parameters.size
    found = dual_annealing(objective, bounds, maxiter=iterations, no_local_search=True, rng=seed)
    return objective(found.x)


def main(argv: Sequence[str] | None = None) -> tuple[float, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=2, help="threshold units (default: 2)")
    parser.add_argument("--iterations", type=int, default=300, help="of the search (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the search (default: 0)")
    arguments = parser.parse_args(argv)

    model = make_model(arguments.hidden)
    hidden = model.parameters()["0.weight"].copy()
    model.fit(X, Y, loss=LOSS, optimizer=fp.optim.Adam(model, lr=0.05), epochs=200, batch_size=4, progress=False)
    descended = float(LOSS(model(X), Y))
    moved = bool((model.parameters()["0.weight"] != hidden).any())
    print(f"gradient descent     loss {descended:.4f}; hidden weights moved: {'yes' if moved else 'no'}")

    annealed = anneal(model, iterations=arguments.iterations, seed=arguments.seed)
    print(f"simulated annealing  loss {annealed:.4f}")
    for x, y in zip(X, model(X)[:, 0], strict=True):
        print(f"  {x[0]:.0f} xor {x[1]:.0f} = {int(y > 0)}  (score {y:+.3f})")
    return descended, annealed


if __name__ == "__main__":
    main()
