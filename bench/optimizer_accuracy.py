"""Rounding errors of the optimizers in float32, against the reference formulas in float64.

    python bench/optimizer_accuracy.py                          # the table, in seconds
    python bench/optimizer_accuracy.py --markdown docs/optimizers.md

Everybody takes the same steps down a quadratic function from the same float32 start: the gradient is c (p - minimum)
plus noise, of float32, formed from the float64 path, so that nobody's errors change the gradients. The error is the
distance to the float64 path in units in the last place of the largest value that the parameter had on the way. NumPy's
is the reference formula in float32, PyTorch's is fused where it has that, else foreach.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

import fuseprop as fp
from fuseprop import _registry
from fuseprop._registry import OptimizerSpec

SIZE = 4096
STEPS = (1, 100, 1000)
MARK = "<!-- errors -->"
#: Of the parameters of a Spec, what the table changes; a line each.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "sgd": [{"lr": 0.01}, {"lr": 0.01, "momentum": 0.9, "nesterov": True}],
    "rmsprop": [{}, {"centered": True, "momentum": 0.9}],
    "adam": [{}, {"amsgrad": True}],
    "lion": [{"lr": 1e-3}],
}

Array = np.ndarray[Any, Any]
Stepper = Callable[[Array], Array]


def in_numpy(spec: OptimizerSpec, start: Array, options: dict[str, Any]) -> Stepper:
    p, state, t = start.copy(), {}, 0

    def step(g: Array) -> Array:
        nonlocal p, t
        t += 1
        p = spec.reference(p, g.astype(p.dtype), state, t, **{**spec.parameters, **options})
        return p

    return step


def ours(spec: OptimizerSpec, start: Array, options: dict[str, Any]) -> Stepper:
    p = start.copy()
    optimizer = spec.cls(p, **options)

    def step(g: Array) -> Array:
        optimizer.step(g)
        return p

    return step


def in_torch(spec: OptimizerSpec, start: Array, options: dict[str, Any]) -> Stepper | None:
    try:
        import torch  # noqa: PLC0415  # a peer, optional
    except ImportError:
        return None
    kind = getattr(torch.optim, spec.cls.__name__, None)
    if kind is None:
        return None
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    flavour = "fused" if "fused" in inspect.signature(kind).parameters else "foreach"
    optimizer = kind([p], **{"lr": spec.parameters["lr"], **options, flavour: True})

    def step(g: Array) -> Array:
        p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        found: Array = p.detach().numpy()
        return found

    return step


def errors(spec: OptimizerSpec, options: dict[str, Any]) -> dict[str, list[float] | None]:
    """Return the largest error of each library after each number of steps."""
    rng = np.random.default_rng(0)
    start, minimum = rng.standard_normal((2, SIZE)).astype(np.float32)
    curvature = np.exp(rng.uniform(-2, 2, SIZE))
    exact = in_numpy(spec, start.astype(np.float64), options)
    libraries = {"fuseprop": ours, "NumPy": in_numpy, "PyTorch": in_torch}
    steppers = {name: make(spec, start, options) for name, make in libraries.items()}
    found: dict[str, list[float] | None] = {name: None if step is None else [] for name, step in steppers.items()}
    p, largest = start.astype(np.float64), np.abs(start)
    for t in range(1, max(STEPS) + 1):
        g = (curvature * (p - minimum) + 0.5 * rng.standard_normal(SIZE)).astype(np.float32)
        p = exact(g)
        largest = np.maximum(largest, np.abs(p).astype(np.float32))
        for name, step in steppers.items():
            if step is None:
                continue
            q = step(g)
            if t in STEPS:
                found[name].append(float(np.max(np.abs(q - p) / np.spacing(largest))))  # type: ignore[union-attr]  # set above
    return found


def table() -> list[str]:
    """Return the lines of the table."""
    peers = ("fuseprop", "NumPy", "PyTorch")
    columns = [f"{peer}, {t} step{'s' if t > 1 else ''}" for t in STEPS for peer in peers]
    lines = ["| optimizer | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, spec in _registry.optimizers().items():
        for options in VARIANTS.get(name, [{}]):
            found = errors(spec, options)
            title = ", ".join([name, *(f"{k}={v}" for k, v in options.items())])
            cells = ["" if found[p] is None else f"{found[p][i]:.2f}" for i in range(len(STEPS)) for p in peers]  # type: ignore[index]  # not None
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Rounding errors of the optimizers in float32.")
    parser.add_argument("--markdown", metavar="FILE", help=f"replace what stands between two lines {MARK} of this file")
    given = parser.parse_args()
    fp.set_num_threads(1)
    lines = table()
    print("\n".join(lines))
    if given.markdown:
        with open(given.markdown, encoding="utf-8") as file:
            before, _, after = file.read().split(MARK)
        with open(given.markdown, "w", encoding="utf-8") as file:
            file.write(f"{before}{MARK}\n" + "\n".join(lines) + f"\n{MARK}{after}")


if __name__ == "__main__":
    main()
