"""What is measured: a case makes a problem, which has candidates and the answer that they must give."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuseprop._bench import peers as _peers
from fuseprop._bench.timing import Call, Sampler, sampler

Array = NDArray[Any]

OURS = "fuseprop"
EPS = float(np.finfo(np.float32).eps)
#: What a float32 answer may differ by, relative to the element or to the array's root mean square, whichever
#: is larger: about 4e-6. It tells a wrong formula from a rounding; how exact a result is, the tests say.
TOLERANCE = 32 * EPS


class Peers:
    """The libraries that take part: installed and chosen."""

    def __init__(self, chosen: Sequence[str] = ("numpy", "torch", "jax", "sklearn")) -> None:
        self.numpy = "numpy" in chosen
        self.torch: Any = _peers.torch_or_none() if "torch" in chosen else None
        self.jax: Any = _peers.jax_or_none() if "jax" in chosen else None
        self.sklearn = "sklearn" in chosen and importlib.util.find_spec("sklearn") is not None


def as_arrays(result: Any) -> list[Array]:
    """Return a call's result as NumPy arrays: of each element, if it is a tuple."""
    parts = result if isinstance(result, tuple | list) else (result,)
    return [np.asarray(part.detach() if hasattr(part, "detach") else part) for part in parts]


@dataclass(frozen=True)
class Candidate:
    """One way to solve the problem."""

    library: str
    call: Call
    #: Tells the variant apart from others of the same library.
    variant: str = ""
    #: What to compare, from the call's result; None: not comparable.
    outputs: Callable[[Any], list[Array]] | None = as_arrays
    #: In force around the calls.
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    #: Replaces the timed loop around the call.
    sample: Sampler | None = None

    @property
    def name(self) -> str:
        """The library with the variant."""
        return f"{self.library} {self.variant}".strip()

    def answer(self) -> list[Array] | None:
        """Call once and return what is to be compared."""
        with self.context():
            result = self.call()
            return None if self.outputs is None else self.outputs(result)

    def sampler(self) -> Sampler:
        """Return what measures it."""
        plain = self.sample or sampler(self.call)

        def measure(n: int) -> float:
            with self.context():
                return plain(n)

        return measure


@dataclass(frozen=True)
class Expected:
    """An array of the answer, in float64, and the absolute error allowed (per element, or one number)."""

    value: Array
    tolerance: Any

    def error(self, found: Array) -> str | None:
        """Return what is wrong with the array found, or None."""
        if found.size != self.value.size:
            return f"shape {found.shape}, expected {self.value.shape}"
        difference = np.abs(found.reshape(self.value.shape).astype(np.float64) - self.value)
        wrong = ~(difference <= self.tolerance)
        if not wrong.any():
            return None
        where = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        return (
            f"{int(wrong.sum())} of {wrong.size} elements; first at {tuple(map(int, where))}: "
            f"found {found.reshape(wrong.shape)[where]!s}, expected {self.value[where]!s}"
        )


def expect(value: Any, factor: float = 1.0) -> Expected:
    """Return what is expected with the usual tolerance, times `factor`."""
    wide = np.asarray(value, np.float64)
    rms = float(np.sqrt(np.mean(wide * wide))) if wide.size else 0.0
    return Expected(wide, factor * TOLERANCE * np.maximum(np.abs(wide), rms))


@dataclass(frozen=True)
class Problem:
    """Candidates, the answer, and how much work it is."""

    candidates: list[Candidate]
    expected: list[Expected] = field(default_factory=list)
    elements: int = 0
    #: Floating-point operations of a matrix product; 0: not bound by them.
    flops: float = 0.0
    flops_dtype: str = "float32"
    #: Read and written at least; a limit is shown if it is more than the caches hold.
    num_bytes: float = 0.0

    def error(self, candidate: Candidate) -> str | None:
        """Return what is wrong with a candidate's answer, or None."""
        found = candidate.answer()
        if found is None or not self.expected:
            return None
        if len(found) != len(self.expected):
            return f"{len(found)} results, expected {len(self.expected)}"
        errors = [expected.error(array) for expected, array in zip(self.expected, found, strict=True)]
        wrong = [f"result {i}: {error}" for i, error in enumerate(errors) if error is not None]
        return "; ".join(wrong) or None


@dataclass(frozen=True)
class Case:
    """Something to measure."""

    name: str
    #: The registry's entry that it covers ("activation tanh"), or "".
    entry: str
    build: Callable[[Peers], Problem]
