"""How long the import takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from fuseprop._bench.problem import OURS, Candidate, Case, Peers, Problem
from fuseprop._bench.timing import call


def _import(peers: Peers) -> Problem:
    """Seconds of `import`, in a process of its own that has NumPy already."""

    def candidate(library: str, module: str) -> Candidate:
        first = "" if module == "numpy" else "import numpy; "
        program = f"{first}from time import perf_counter as t; t0 = t(); import {module}; print(t() - t0)"
        command = [sys.executable, "-c", program]

        def sample(n: int) -> float:
            outputs = (subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(n))
            return sum(float(found.stdout) for found in outputs)

        return Candidate(library, call(sample, 1), outputs=None, sample=sample)

    candidates = [candidate(OURS, "fuseprop")]
    candidates += [candidate("NumPy", "numpy")] if peers.numpy else []
    candidates += [candidate("PyTorch", "torch")] if peers.torch else []
    candidates += [candidate("JAX", "jax")] if peers.jax else []
    candidates += [candidate("scikit-learn", "sklearn")] if peers.sklearn else []
    return Problem(candidates)


def cases() -> Iterator[Case]:
    """Return the one case."""
    yield Case("import", "", _import)
