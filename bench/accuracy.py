"""Largest errors of the activations and their derivatives over all 2^32 float32 inputs, per SIMD target.

    python bench/accuracy.py                     # everything: 4.3e9 inputs per function, minutes
    python bench/accuracy.py --stride 1009       # every 1009th input: seconds
    python bench/accuracy.py --only tanh swish --markdown docs/accuracy.md

The error of a result is measured in units in the last place (ULP) of the exact result; results below the smallest
normal number in units of the smallest subnormal number, in a column of their own. A NaN, an infinity or a zero in the
wrong place, or with the wrong sign, counts as an infinite error. Where terms of a derivative cancel, near a change of
its sign, an error of 2^-23 of the sum of their sizes is allowed and not counted.

The exact result is our own float64 kernel's, whose error is below 1e-7 of a float32 ULP. That it is right is checked
against `fuseprop.reference`, which is independent of it, at every 1021st input of the same run.

The peers' errors (what `python -m fuseprop bench` compares with: NumPy's is what one writes by hand) are measured at
every 1021st input, against the reference. A row of ours that exceeds its budget (the formula's Spec) is marked; the
exit status is 1 then, and nothing is written to --markdown.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fuseprop as fp
from fuseprop import _registry
from fuseprop._bench import peers
from fuseprop._registry import ActivationSpec

VERBS = ("value", "derivative")
CHUNK = 1 << 13  # inputs at a time: buffers stay in the cache, and are too small for mmap
PARTS = 256
SAMPLE = 1021

TINY = float(np.finfo(np.float32).tiny)  # the smallest normal number
LARGEST = float(np.finfo(np.float32).max)
EXPONENT = np.uint64(0x7FF << 52)
TINY_EXPONENT = np.uint64((1023 - 126) << 52)

Array = np.ndarray[Any, Any]
#: Whether the results are subnormal, the largest error among them, and its input.
Found = tuple[bool, float, float]
#: (verb, target or peer) -> [error among normal results, its input, error among subnormal results, its input]
Worst = dict[tuple[str, str], list[float]]


def update(worst: Worst, key: tuple[str, str], subnormal: bool, error: float, at: float) -> None:
    """Keep the larger error."""
    found = worst.setdefault(key, [0.0, 0.0, 0.0, 0.0])
    i = 2 if subnormal else 0
    if error > found[i]:
        found[i : i + 2] = error, at


def allowed(spec: ActivationSpec, verb: str, x: Array, derivative: Array) -> Array | float:
    """Return the absolute error that is allowed near a sign change, where terms cancel: 2^-23 of their sizes.

    Only a derivative of a function that is not monotone has one; those are x g(x), with the terms g and x g'.
    """
    if verb == "value" or spec.properties["monotone"]:
        return 0.0
    wide = x.astype(np.float64)
    g = np.where(wide == 0, derivative, spec.cls(**spec.parameters)(wide) / wide)
    terms: Array = np.abs(g) + np.abs(derivative - g)
    return np.where(np.abs(derivative) < terms / 8, 2.0**-23 * terms, 0.0)


def judge(got: Array, exact: Array, x: Array, tolerance: Array | float = 0.0) -> list[Found]:
    """Return (subnormal or not, the largest error, its input) for normal and for subnormal results."""
    size = np.abs(exact)
    exponent = np.maximum(size.view(np.uint64) & EXPONENT, TINY_EXPONENT)
    error = np.abs(got - exact)
    error[error <= tolerance] = 0.0
    error /= (exponent - np.uint64(23 << 52)).view(np.float64)
    same_sign = np.signbit(got) == np.signbit(exact)
    right = ((got == exact) & same_sign) | (np.isnan(exact) & np.isnan(got))
    right |= np.isinf(got) & (size >= LARGEST + 2.0**103) & same_sign
    error[np.isnan(error) | ((exact == 0) & ~right)] = np.inf
    error[right] = 0.0
    found = []
    subnormal = size < TINY  # false for NaN
    for flag in (False, True):
        selected = np.where(subnormal == flag, error, 0.0)
        i = int(np.argmax(selected))
        found.append((flag, float(selected[i]), float(x[i])))
    return found


@dataclass
class Truth:
    """What is right for a chunk of inputs, and in which units errors are measured."""

    x: Array
    exact: Array
    inverse_ulp: Array
    #: Whether all results are "normal" or all "subnormal", and none of them zero; else "mixed".
    kind: str


class Judge:
    """The errors of one activation on chunks of inputs, by the fastest way that cannot miss one."""

    def __init__(self, spec: ActivationSpec, targets: list[str]) -> None:
        self.spec = spec
        activation = spec.cls(**spec.parameters)
        self.verbs: dict[str, Callable[..., Any]] = {"value": activation, "derivative": activation.derivative}
        self.targets = targets
        self.worst: Worst = {}
        self.results = {target: np.empty(CHUNK, np.float32) for target in targets}
        self.buffers = np.empty((3, CHUNK))
        self.exponents = np.empty(CHUNK, np.uint64)

    def chunk(self, x: Array) -> None:
        """Judge all verbs and targets."""
        wide = self.buffers[0, : x.size]
        wide[:] = x
        for verb, function in self.verbs.items():
            truth = self._truth(x, function(wide, out=self.buffers[1, : x.size]))
            judged: list[tuple[str, list[Found]]] = []
            for target in self.targets:
                got = self.results[target][: x.size]
                with fp.simd_target(target):
                    function(x, out=got)
                # Targets mostly agree in every bit.
                bits = got.view(np.uint32)
                same = (f for t, f in judged if np.array_equal(bits, self.results[t][: x.size].view(np.uint32)))
                found = next(same, None)
                if found is None:
                    found = self._errors(verb, got, truth)
                judged.append((target, found))
                for one in found:
                    update(self.worst, (verb, target), *one)

    def _truth(self, x: Array, exact: Array) -> Truth:
        exponents = self.exponents[: x.size]
        np.bitwise_and(exact.view(np.uint64), EXPONENT, out=exponents)
        low, high = exponents.min(), exponents.max()
        kind = "mixed"
        if high < EXPONENT and exact.all():
            kind = "normal" if low >= TINY_EXPONENT else "subnormal" if high < TINY_EXPONENT else "mixed"
        np.maximum(exponents, TINY_EXPONENT, out=exponents)
        np.subtract(np.uint64((2 * 1023 + 23) << 52), exponents, out=exponents)
        return Truth(x, exact, exponents.view(np.float64), kind)

    def _errors(self, verb: str, got: Array, truth: Truth) -> list[Found]:
        if truth.kind != "mixed":
            difference = self.buffers[2, : got.size]
            difference[:] = got
            np.subtract(difference, truth.exact, out=difference)
            np.multiply(difference, truth.inverse_ulp, out=difference)
            error = max(float(difference.max()), -float(difference.min()))
            if error <= self.spec.ulp[VERBS.index(verb)]:
                at = float(truth.x[np.argmax(np.abs(difference, out=difference))])
                return [(truth.kind == "subnormal", error, at)]
        elif not (truth.exact.any() or got.any()) and np.array_equal(np.signbit(got), np.signbit(truth.exact)):
            return []
        return judge(got.astype(np.float64), truth.exact, truth.x, allowed(self.spec, verb, truth.x, truth.exact))


def bit_patterns(start: int, stop: int, stride: int) -> Array:
    """Return the floats whose bits are the multiples of `stride` in [start, stop)."""
    first = -(-start // stride) * stride
    return np.arange(first, stop, stride, dtype=np.uint64).astype(np.uint32).view(np.float32)


def sweep(name: str, start: int, stop: int, stride: int, targets: list[str]) -> Worst:
    """Judge one activation on the floats whose bits are the multiples of `stride` in [start, stop)."""
    fp.set_num_threads(1)
    np.seterr(all="ignore")
    spec = _registry.activations()[name]
    judge_ = Judge(spec, targets)
    for first in range(start, stop, CHUNK * stride):
        x = bit_patterns(first, min(stop, first + CHUNK * stride), stride)
        if x.size:
            judge_.chunk(x)
    # The float64 kernel against the reference, to a thousandth of a float32 ULP.
    x = bit_patterns(start, stop, max(SAMPLE, stride))
    if x.size:
        exact = spec.reference(x.astype(np.float64), **spec.parameters)
        for verb, right in zip(VERBS, exact, strict=True):
            kernel = judge_.verbs[verb](x.astype(np.float64))
            tolerance = 2.0**-33 * np.abs(right) + 2.0**-159 + 2.0**-10 * allowed(spec, verb, x, right)
            bad = ~((np.abs(kernel - right) <= tolerance) | (kernel == right) | (np.isnan(kernel) & np.isnan(right)))
            if bad.any():
                i = int(np.argmax(bad))
                raise AssertionError(
                    f"{name}, {verb}: float64 kernel {kernel[i]!r}, reference {right[i]!r} at {x[i]!r}"
                )
    return judge_.worst


def peer_functions(spec: ActivationSpec) -> dict[str, Callable[[Array], tuple[Any, Any]]]:
    """For each installed peer that has the function: x -> (value, derivative) in float32."""
    parameters = dict(spec.parameters)
    functions: dict[str, Callable[[Array], tuple[Any, Any]]] = {}
    if spec.name in peers.NUMPY_ACTIVATIONS:
        forward, backward = peers.NUMPY_ACTIVATIONS[spec.name]

        def in_numpy(x: Array) -> tuple[Any, Any]:
            value = forward(x, np.empty_like(x), **parameters)
            return value, backward(x, np.ones_like(x), np.empty_like(x), **parameters)

        functions["NumPy"] = in_numpy
    torch, jax = peers.torch_or_none(), peers.jax_or_none()
    # PyTorch has no derivative of a step.
    if torch is not None and spec.name != "step" and (torch_function := peers.torch_activation(torch, spec.name)):

        def in_torch(x: Array) -> tuple[Any, Any]:
            xt = torch.from_numpy(x).requires_grad_()
            y = torch_function(xt, **parameters)
            return y.detach().numpy(), torch.autograd.grad(y, xt, torch.ones_like(y))[0].numpy()

        functions["PyTorch"] = in_torch
    if jax is not None and (jax_function := peers.jax_activation(jax, spec.name)):

        def in_jax(x: Array) -> tuple[Any, Any]:
            y, vjp = jax.vjp(peers.with_defaults(jax_function, parameters), x)
            return np.asarray(y), np.asarray(vjp(jax.numpy.ones_like(y))[0])

        functions["JAX"] = in_jax
    return functions


def peers_errors(name: str, start: int, stop: int) -> Worst:
    """Judge the peers at every SAMPLE-th float whose bits are in [start, stop)."""
    np.seterr(all="ignore")
    spec = _registry.activations()[name]
    worst: Worst = {}
    x = bit_patterns(start, stop, SAMPLE)
    # A change of sign costs a peer as little as it costs us; NaN among the inputs tells nothing.
    x = x[np.isfinite(x)]
    if not x.size:
        return worst
    wide = x.astype(np.float64)
    exact = spec.reference(wide, **spec.parameters)
    for peer, function in peer_functions(spec).items():
        for verb, right, got in zip(VERBS, exact, function(x.copy()), strict=True):
            truth = np.broadcast_to(right, x.shape).copy()
            # The sign of a zero is left to the peer.
            result = np.where((truth == 0) & (got == 0), truth, got.astype(np.float64))
            for one in judge(result, truth, x, allowed(spec, verb, x, truth)):
                update(worst, (verb, peer), *one)
    return worst


def merge(jobs: list[concurrent.futures.Future[Worst]]) -> Worst:
    """Return the worst of all parts."""
    total: Worst = {}
    for job in jobs:
        for key, found in job.result().items():
            update(total, key, False, found[0], found[1])
            update(total, key, True, found[2], found[3])
    return total


def figure(error: float) -> str:
    """Three decimals where that says something."""
    return f"{error:.3f}" if error < 100 else "wrong" if error == np.inf else f"{error:.1e}"


def write_table(path: str, note: str, lines: list[str]) -> None:
    """Write the table as docs/accuracy.md."""
    command = " ".join(["python bench/accuracy.py", *sys.argv[1:]])
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"# Largest errors\n\nWritten by `{command}`: {note}. In units in the last place; how they are\n")
        file.write("measured stands at the head of that program. A peer's figure includes its subnormal results;\n")
        file.write('"wrong" is a NaN, an infinity or a zero where the truth is none; ours has none of them.\n\n')
        file.write("\n".join(lines) + "\n")


PEERS = ("NumPy", "PyTorch", "JAX")


def main() -> int:
    """Run the sweep and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    elementwise = [name for name, spec in _registry.activations().items() if spec.structure == "elementwise"]
    parser.add_argument("--only", nargs="+", choices=elementwise, metavar="NAME", help="activations (default: all)")
    parser.add_argument("--stride", type=int, default=1, help="take every n-th input (default 1: all)")
    targets = fp.build_info()["supported_targets"]
    parser.add_argument("--targets", nargs="+", choices=targets, default=targets)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument("--markdown", metavar="FILE", help="write the table here too")
    options = parser.parse_args()
    names = options.only or elementwise

    began = time.perf_counter()
    edges = [i * (1 << 32) // PARTS for i in range(PARTS + 1)]
    parts = list(itertools.pairwise(edges))
    shown = () if options.no_peers else PEERS
    header = ["function", *options.targets, "budget", "worst at", "subnormal results", *shown]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    print("\n".join(lines))
    failed: list[str] = []
    # Children that do not give memory back to the system after each chunk, to ask for it again in the next one.
    os.environ["MALLOC_TRIM_THRESHOLD_"] = str(1 << 28)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.processes, spawn) as pool:
        for name in names:
            spec = _registry.activations()[name]
            total = merge([pool.submit(sweep, name, *part, options.stride, options.targets) for part in parts])
            if shown:
                total.update(merge([pool.submit(peers_errors, name, *part) for part in parts]))
            for verb, budget in zip(VERBS, spec.ulp[:2], strict=True):
                ours = [total.get((verb, target), [0.0] * 4) for target in options.targets]
                subnormal = max(found[2] for found in ours)
                worst = max(ours, key=lambda found: found[0])
                cells = [name if verb == "value" else f"{name}, derivative"]
                if worst[0] > budget or subnormal > max(budget, 1.0):
                    failed.append(cells[0])
                    cells[0] += " **FAILED**"
                cells += [figure(found[0]) for found in ours]
                cells += [f"{budget:g}", f"{worst[1]:.9g}", f"{subnormal:.2f}"]
                for peer in shown:
                    found = total.get((verb, peer))
                    cells.append("" if found is None else figure(max(found[0], found[2])))
                lines.append("| " + " | ".join(cells) + " |")
                print(lines[-1], flush=True)
    seconds = time.perf_counter() - began
    count = "all 2^32 float32 inputs" if options.stride == 1 else f"every {options.stride}th float32 input"
    note = f"{count}, {seconds:.0f} s on {options.processes} processes"
    print(note)
    if failed:
        print(f"beyond their budgets: {', '.join(failed)}", file=sys.stderr)
    elif options.markdown:
        write_table(options.markdown, note, lines)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
