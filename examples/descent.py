"""Gradient descent on two functions, step by step: a parabola at several rates, and a bowl in two dimensions.

    J = x^2              from x = 1.2
    J = x^2 + sin^2 y    from (3, 1)

With --output, a picture of the path and one of the rates (needs matplotlib).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import fuseprop as fp


def parabola(point: np.ndarray) -> tuple[float, np.ndarray]:
    """J = x^2 and its gradient."""
    (x,) = point
    return float(x**2), 2 * point


def bowl(point: np.ndarray) -> tuple[float, np.ndarray]:
    """J = x^2 + sin^2 y and its gradient."""
    x, y = point
    return float(x**2 + np.sin(y) ** 2), np.array([2 * x, np.sin(2 * y)])


def descend(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]], start: Sequence[float], *, rate: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Go down the gradient; return the points, (steps + 1, n), and J at each of them."""
    point = np.array(start, np.float64)
    optimizer = fp.optim.SGD(point, lr=rate)
    value, gradient = function(point)
    points, values = [point.copy()], [value]
    for _ in range(steps):
        optimizer.step(gradient)  # in place
        value, gradient = function(point)
        points.append(point.copy())
        values.append(value)
    return np.array(points), np.array(values)


def draw(output: Path, path: np.ndarray, by_rate: dict[float, np.ndarray]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    ax = fp.plot.loss_contours(
        lambda x, y: bowl(np.array([x, y]))[0], xlim=(-3.5, 3.5), ylim=(-1.8, 1.8), path=path, names=("x", "y")
    )
    ax.figure.savefig(output / "descent.png", dpi=120)
    fp.plot.learning_rates(by_rate, ylabel="J").figure.savefig(output / "rates.png", dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16, help="of each descent (default: 16)")
    parser.add_argument("--rate", type=float, default=0.1, help="of the descent into the bowl (default: 0.1)")
    parser.add_argument("--output", type=Path, help="a folder for pictures (default: none)")
    arguments = parser.parse_args(argv)

    path, values = descend(bowl, (3.0, 1.0), rate=arguments.rate, steps=arguments.steps)
    print(f"J = x^2 + sin^2 y, rate {arguments.rate:g}")
    for step, ((x, y), value) in enumerate(zip(path, values, strict=True)):
        print(f"{step:>4}  ({x:.6f}, {y:.6f})  J = {value:.6f}")

    print("\nJ = x^2 from x = 1.2")
    by_rate = {}
    for rate in (1.0, 0.8, 0.4, 0.3, 0.1):
        points, by_rate[rate] = descend(parabola, (1.2,), rate=rate, steps=arguments.steps)
        print(f"rate {rate:g}: x = {', '.join(f'{x:.6g}' for x in points[:6, 0])} ...")
    if arguments.output:
        draw(arguments.output, path, by_rate)


if __name__ == "__main__":
    main()
