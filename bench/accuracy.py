"""Largest errors of the activations and their derivatives over all 2^32 float32 inputs, per SIMD target.

    python bench/accuracy.py                     # everything: about 4.3e9 inputs per function
    python bench/accuracy.py --stride 1009       # every 1009th input: seconds
    python bench/accuracy.py --only tanh --markdown docs/accuracy.md

The error of a result is measured in units in the last place (ULP) of the exact result, which is evaluated in float64
by `fuseprop.reference`; its own error is below 1e-7 of a float32 ULP. Results below the smallest normal number are
measured in units of the smallest subnormal number, in a column of their own. A NaN, an infinity or a sign in the wrong
place counts as an infinite error. A target's results are judged where they differ from the first target's, so that from
the second target on a figure is an upper bound. The exit status is 1 if a budget (the formula's Spec) is exceeded.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import os
import sys
import time
from dataclasses import dataclass

import numpy as np

import fuseprop as fp
from fuseprop import _registry

CHUNK = 1 << 20
TINY = float(np.finfo(np.float32).tiny)  # the smallest normal number
LARGEST = float(np.finfo(np.float32).max)


@dataclass
class Worst:
    """Largest error seen, and the input it was seen at."""

    error: float = 0.0
    at: float = 0.0

    def update(self, other: Worst) -> None:
        """Keep the larger of the two."""
        if other.error > self.error:
            self.error, self.at = other.error, other.at


def errors(got: np.ndarray, exact: np.ndarray, x: np.ndarray) -> tuple[Worst, Worst]:
    """Return the worst error among normal and among subnormal results."""
    with np.errstate(all="ignore"):
        size = np.abs(exact)
        # The unit in the last place from the exponent bits of the float64, down to the smallest subnormal float32.
        exponent = size.view(np.int64) & (0x7FF << 52)
        ulp = np.maximum(exponent - (23 << 52), (1023 - 149) << 52).view(np.float64)
        error = np.abs(got - exact) / ulp
        right = (got == exact) & (np.signbit(got) == np.signbit(exact)) | (np.isnan(exact) & np.isnan(got))
        right |= np.isinf(got) & (size >= LARGEST + 2.0**103) & (np.signbit(got) == np.signbit(exact))
    error[np.isnan(error) | ((exact == 0) & ~right)] = np.inf
    error[right] = 0.0
    subnormal = size < TINY  # false for NaN
    result = []
    for selected in (np.where(subnormal, 0.0, error), np.where(subnormal, error, 0.0)):
        i = int(np.argmax(selected))
        result.append(Worst(float(selected[i]), float(x[i])))
    return result[0], result[1]


def sweep(
    name: str, start: int, stop: int, stride: int, targets: list[str]
) -> dict[tuple[str, str], tuple[Worst, Worst]]:
    """Worst errors of one activation over the bit patterns start, start + stride, ..., for each target and verb."""
    fp.set_num_threads(1)
    spec = _registry.activations()[name]
    activation = spec.cls(**spec.parameters)
    worst = {(verb, target): (Worst(), Worst()) for verb in ("value", "derivative") for target in targets}
    for first in range(start, stop, CHUNK * stride):
        bits = np.arange(first, min(stop, first + CHUNK * stride), stride, dtype=np.uint64).astype(np.uint32)
        x = bits.view(np.float32)
        with np.errstate(all="ignore"):
            exact = spec.reference(x.astype(np.float64), **spec.parameters)
        seen: list[dict[str, np.ndarray]] = [{}, {}]
        for target in targets:
            with fp.simd_target(target):
                got = (activation(x), activation.derivative(x))
            for verb, y, truth, before in zip(("value", "derivative"), got, exact, seen, strict=True):
                # Most targets agree in most bits: a result is judged where it is new, and for all targets at once.
                other = next(iter(before.values()), None)
                new = slice(None) if other is None else y.view(np.uint32) != other.view(np.uint32)
                if other is not None:
                    judged = next(iter(before))
                    for kept, earlier in zip(worst[verb, target], worst[verb, judged], strict=True):
                        kept.update(earlier)
                if other is None or new.any():
                    with np.errstate(invalid="ignore"):  # signalling NaNs among the inputs
                        wide = y[new].astype(np.float64)
                    found = errors(wide, np.broadcast_to(truth, x.shape)[new].copy(), x[new])
                    for kept, latest in zip(worst[verb, target], found, strict=True):
                        kept.update(latest)
                before[target] = y
    return worst


def main() -> int:
    """Run the sweep and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names of activations (default: all)")
    parser.add_argument("--stride", type=int, default=1, help="take every n-th input (default 1: all)")
    parser.add_argument("--targets", nargs="*", default=fp.build_info()["supported_targets"])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--markdown", metavar="FILE", help="write the table here too")
    options = parser.parse_args()
    names = options.only or list(_registry.activations())

    began = time.perf_counter()
    parts = 64
    edges = [i * (1 << 32) // parts for i in range(parts + 1)]
    lines = [
        "| function | " + " | ".join(options.targets) + " | budget | worst at | subnormal results |",
        "|---|" + "---|" * (len(options.targets) + 3),
    ]
    print("\n".join(lines))
    failed = False
    with concurrent.futures.ProcessPoolExecutor(options.processes) as pool:
        for name in names:
            spec = _registry.activations()[name]
            # Each part starts at a multiple of the stride from 0, so that a stride means the same inputs.
            starts = [-(-edge // options.stride) * options.stride for edge in edges]
            jobs = [
                pool.submit(sweep, name, start, min(stop, 1 << 32), options.stride, options.targets)
                for start, stop in itertools.pairwise(starts)
            ]
            total: dict[tuple[str, str], tuple[Worst, Worst]] = {}
            for job in jobs:
                for key, seen in job.result().items():
                    kept = total.setdefault(key, (Worst(), Worst()))
                    for a, b in zip(kept, seen, strict=True):
                        a.update(b)
            for verb, budget in zip(("value", "derivative"), spec.ulp[:2], strict=True):
                normal = [total[verb, target][0] for target in options.targets]
                subnormal = max(total[verb, target][1].error for target in options.targets)
                worst = max(normal, key=lambda w: w.error)
                failed |= worst.error > budget or subnormal > max(budget, 1.0)
                title = name if verb == "value" else f"{name}, derivative"
                cells = " | ".join(f"{w.error:.3f}" for w in normal)
                line = f"| {title} | {cells} | {budget:g} | {worst.at:.9g} | {subnormal:.2f} |"
                lines.append(line)
                print(line, flush=True)
    seconds = time.perf_counter() - began
    count = "all 2^32 float32 inputs" if options.stride == 1 else f"every {options.stride}th float32 input"
    note = f"{count}, {seconds:.0f} s on {options.processes} processes"
    print(note)
    if options.markdown:
        with open(options.markdown, "w", encoding="utf-8") as file:
            file.write("# Largest errors\n\nWritten by `python bench/accuracy.py`. In units in the last place, over ")
            file.write(note + ".\nFrom the second target on, a figure is an upper bound.\n\n")
            file.write("\n".join(lines) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
