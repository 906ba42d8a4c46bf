"""The table on the screen and the JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fuseprop._bench.machine import PEERS
from fuseprop._bench.problem import OURS
from fuseprop._bench.timing import Timing

#: The share of the CPUs' time that other processes may take: a tenth leaves medians as they are.
DISTURBING = 0.1


class Measured(NamedTuple):
    """What became of a candidate."""

    library: str
    variant: str
    #: "ok", "unchecked" (its answer cannot be compared), "wrong" or "error"; the latter two are not timed.
    status: str
    message: str
    timing: Timing | None


class Result(NamedTuple):
    """What became of a case."""

    name: str
    measured: list[Measured]
    #: Seconds at the machine's limit, or None; and what that limit is, "fma" or "copy".
    limit: Timing | None
    limit_kind: str
    elements: int
    flops: float
    num_bytes: float
    #: The share of the CPUs' time that other processes took meanwhile, or None if it is not known.
    others: float | None = None

    @property
    def disturbed(self) -> bool:
        """Whether other processes took so much that the figures are not to be believed."""
        return self.others is not None and self.others > DISTURBING

    @property
    def ours(self) -> Measured:
        """Our own candidate."""
        return self.measured[0]

    @property
    def failed(self) -> bool:
        """Whether our own answer was wrong, or the call failed."""
        return self.ours.timing is None

    def best(self, library: str | None = None) -> Measured | None:
        """Return the fastest variant of a library; without one, of all peers."""
        libraries = (library,) if library else tuple(PEERS)
        found = [m for m in self.measured if m.library in libraries and m.timing is not None]
        return min(found, key=_median) if found else None

    @property
    def speedup(self) -> float | None:
        """The best peer's time over ours: above 1 we are faster."""
        best = self.best()
        if best is None or best.timing is None or self.ours.timing is None:
            return None
        return best.timing.median / self.ours.timing.median

    @property
    def share_of_limit(self) -> float | None:
        """The time at the limit over ours: 1 is the limit."""
        if self.limit is None or self.ours.timing is None:
            return None
        return self.limit.median / self.ours.timing.median

    def as_json(self) -> dict[str, Any]:
        """Return plain values; times in seconds."""
        return {
            "name": self.name,
            "failed": self.failed,
            "speedup_over_best_peer": self.speedup,
            "share_of_limit": self.share_of_limit,
            "limit_kind": self.limit_kind,
            "limit_seconds": None if self.limit is None else self.limit.median,
            "elements": self.elements,
            "flops": self.flops,
            "bytes": self.num_bytes,
            "others_share_of_cpus": self.others,
            "disturbed": self.disturbed,
            "candidates": [
                {
                    "library": m.library,
                    "variant": m.variant,
                    "status": m.status,
                    "message": m.message,
                    **({} if m.timing is None else _timing_as_json(m.timing)),
                }
                for m in self.measured
            ],
        }


def _median(measured: Measured) -> float:
    return float("inf") if measured.timing is None else measured.timing.median


def _timing_as_json(timing: Timing) -> dict[str, Any]:
    return {
        "median_seconds": timing.median,
        "min_seconds": timing.minimum,
        "samples": timing.samples,
        "steady": timing.steady,
        "calls_per_sample": timing.calls_per_sample,
    }


def seconds(value: float) -> str:
    """Return a time with three digits and its unit."""
    for factor, unit in ((1e9, "ns"), (1e6, "us"), (1e3, "ms")):
        if value * factor < 999.5:
            return f"{_three_digits(value * factor)} {unit}"
    return f"{_three_digits(value)} s"


def _three_digits(value: float) -> str:
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def _rate(result: Result) -> str:
    timing = result.ours.timing
    if timing is None:
        return ""
    if result.flops:
        return f"{_three_digits(result.flops / timing.median / 1e9)} GFLOP/s"
    if result.limit_kind == "copy":
        return f"{_three_digits(result.num_bytes / timing.median / 1e9)} GB/s"
    return f"{_three_digits(result.elements / timing.median / 1e9)} G/s" if result.elements else ""


_NAME = 59
_WIDTHS = {"fuseprop": 9, "min": 9, "rate": 13, **dict.fromkeys(PEERS, 9), "best/ours": 9, "limit": 6}
_WIDTHS["scikit-learn"] = 12


def heading() -> str:
    """Return the table's first line."""
    return _line("case", {name: name for name in _WIDTHS})


def _line(name: str, cells: Mapping[str, str]) -> str:
    return " ".join([f"{name:<{_NAME}}", *(f"{cells[column]:>{width}}" for column, width in _WIDTHS.items())])


def row(result: Result) -> str:
    """Return a case's line, and below it what went wrong."""
    ours = result.ours.timing
    cells = {
        "fuseprop": "FAIL" if ours is None else seconds(ours.median),
        "min": "" if ours is None else seconds(ours.minimum),
        "rate": _rate(result),
        **{library: _peer_cell(result, library) for library in PEERS},
        "best/ours": "" if result.speedup is None else f"{result.speedup:.2f}",
        "limit": "" if result.share_of_limit is None else f"{result.share_of_limit:.0%}",
    }
    lines = [_line(result.name, cells)]
    for m in result.measured:
        if m.message:
            lines.append(f"    {m.library} {m.variant}".rstrip() + f": {m.status}: {m.message}")
    unsteady = [f"{m.library} {m.variant}".rstrip() for m in result.measured if m.timing and not m.timing.steady]
    if unsteady:
        lines.append(f"    unsteady (the median is more than twice the minimum): {', '.join(unsteady)}")
    if result.disturbed:
        lines.append(f"    disturbed: other processes took {result.others:.0%} of the CPUs")
    return "\n".join(lines)


def _peer_cell(result: Result, library: str) -> str:
    best = result.best(library)
    if best is not None and best.timing is not None:
        mark = "?" if best.status == "unchecked" and result.name != "import" else ""
        return seconds(best.timing.median) + mark
    return next((m.status for m in result.measured if m.library == library), "-")


def preamble(machine: Mapping[str, Any], limits: Mapping[str, float]) -> str:
    """Return what stands above the table: the machine, the versions, the limits."""
    threads = machine["threads"]
    busy = " (the machine is busy: figures will be disturbed)" if machine["load"] > 1 else ""
    lines = [
        f"{machine['cpu']}, {machine['cpus']} CPUs, load {machine['load']}{busy}; threads: {threads}; float32",
        f"{OURS} {machine['fuseprop']} ({machine['target']}, {machine['compiler']}), "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + f", Python {machine['python']}",
    ]
    if machine["kept_awake"]:
        lines.append("CPUs kept awake by processes of the lowest priority (--awake)")
    if machine["removed_environment"]:
        lines.append(f"removed from the environment, as it slows NumPy down: {machine['removed_environment']}")
    for n in sorted({1, threads}):
        lines.append(
            f"limits, {n} thread(s): {limits[f'fma_gflops_{n}']:.0f} GFLOP/s (FMA), "
            f"{limits[f'copy_gbytes_{n}']:.1f} GB/s (non-temporal copy, read + written)"
        )
    return "\n".join(lines)


def summary(results: list[Result]) -> str:
    """Return the last line."""
    failed = [result.name for result in results if result.failed]
    ahead = sum(1 for result in results if (result.speedup or 0) >= 1)
    compared = sum(1 for result in results if result.speedup is not None)
    text = f"{len(results)} cases, at least as fast as the best peer in {ahead} of {compared}"
    if disturbed := sum(1 for result in results if result.disturbed):
        text += f"; {disturbed} disturbed by other processes: repeat them on a quiet machine"
    return text + (f"; FAILED: {', '.join(failed)}" if failed else "")
