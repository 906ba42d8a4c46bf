"""All cases, in a file for each part of the library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import fuseprop as fp
from fuseprop._bench.cases import activations, losses, nn, ops, optim, startup
from fuseprop._bench.cases.common import SIZES
from fuseprop._bench.problem import Case

__all__ = ["SIZES", "all_cases", "without_case"]


def all_cases(sizes: Sequence[str] = SIZES) -> list[Case]:
    """Return all cases; the elementwise ones at the given sizes."""
    made = [activations.cases(sizes), losses.cases(sizes), ops.cases(sizes), optim.cases(), nn.cases(), startup.cases()]
    return [case for cases in made for case in cases]


def without_case(cases: Iterable[Case]) -> list[str]:
    """Return what the library offers and no case covers, as "activation tanh" or "op softmax"."""
    offered = [
        *(f"activation {name}" for name in fp.activations.names()),
        *(f"loss {name}" for name in fp.losses.names()),
        *(f"op {name}" for name in fp.ops.__all__),
        *(f"optimizer {name}" for name in fp.optim.names()),
        *(f"layer {name}" for name in ("dropout", *nn.NORMS)),
    ]
    covered = {case.entry for case in cases}
    return [entry for entry in offered if entry not in covered]
