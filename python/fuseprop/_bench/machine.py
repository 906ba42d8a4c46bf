"""The machine: what it is, and what it can do at best."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import fuseprop as fp
from fuseprop import _core
from fuseprop._bench.timing import call, sampler

#: The libraries compared with, by the name of their distribution.
PEERS = {"NumPy": "numpy", "PyTorch": "torch", "JAX": "jax", "scikit-learn": "scikit-learn"}


def cpu_model() -> str:
    """Return the CPU's name as the operating system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")]
    return names[0] if names else platform.machine()


def version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def describe() -> dict[str, Any]:
    """Return what a reader has to know to compare figures: CPU, threads, versions, SIMD target."""
    build = fp.build_info()
    versions = {name: version(distribution) for name, distribution in PEERS.items()}
    return {
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "threads": fp.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "fuseprop": fp.__version__,
        "target": build["active_target"],
        "compiler": build["compiler"],
        "versions": {name: found for name, found in versions.items() if found is not None},
        "kept_awake": bool(os.environ.get("FUSEPROP_BENCH_AWAKE")),
        "removed_environment": os.environ.get("FUSEPROP_BENCH_REMOVED", ""),
    }


class Others:
    """What other processes take of the CPUs that the benchmark runs on, from the moment this is made.

    Where they are busy, a library that waits for all of its threads at every step (PyTorch, OpenBLAS) pays for it
    many times over: the figures are then of the machine and not of the libraries.
    """

    def __init__(self) -> None:
        self._begin = self._read()

    def share(self) -> float | None:
        """Return the share of these CPUs' time, or None if the system does not tell (Linux alone does)."""
        if self._begin is None or (end := self._read()) is None:
            return None
        total, others = (after - before for before, after in zip(self._begin, end, strict=True))
        # Some ticks go to processes that merely look after the system; in a short time they weigh nothing.
        return max(0.0, others / total) if total > 0 else None

    @staticmethod
    def _read() -> tuple[float, float] | None:
        """Return the CPUs' seconds, and those of them in which others ran."""
        try:
            lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
            awake = sum(map(_seconds_of, filter(None, os.environ.get("FUSEPROP_BENCH_AWAKE", "").split(","))))
        except OSError:
            return None
        cpus = {f"cpu{cpu}" for cpu in os.sched_getaffinity(0)}
        total = idle = 0
        for name, *ticks in map(str.split, lines):
            if name in cpus:
                # user, nice, system, idle, iowait, irq, softirq, steal; then guests, which user has already.
                total += sum(map(int, ticks[:8]))
                idle += int(ticks[3]) + int(ticks[4])
        if not total:
            return None
        own = sum(os.times()[:4])
        return total / _TICKS, (total - idle) / _TICKS - own - awake


_TICKS = os.sysconf("SC_CLK_TCK")


def _seconds_of(process: str) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime, stime


class Limits:
    """Probes of the machine's limits, small enough to take their turn among the candidates."""

    #: Larger than the caches of the machines we know.
    COPY_BYTES = 64 << 20

    def __init__(self) -> None:
        self._buffers: tuple[Any, Any] | None = None

    def flops(self, threads: int, seconds: float = 0.003, dtype: str = "float32") -> float:
        """FLOP/s of threads that do nothing but fused multiply-adds in registers."""
        return 1e9 * _core.fma_peak(seconds, threads, dtype)

    def copy_seconds(self, num_bytes: float) -> float:
        """Seconds that a non-temporal copy takes which reads and writes `num_bytes` together."""
        if self._buffers is None:
            shape = self.COPY_BYTES // 4
            self._buffers = np.zeros(shape, np.float32), np.ones(shape, np.float32)
            _core.nt_copy(*self._buffers)
        return sampler(call(_core.nt_copy, *self._buffers))(1) * num_bytes / (2 * self.COPY_BYTES)

    def measure(self) -> dict[str, float]:
        """Return the limits: GFLOP/s and GB/s, on one thread and on all. Each is the best of some tries."""
        threads = fp.get_num_threads()
        result: dict[str, float] = {}
        for n in sorted({1, threads}):
            with fp.num_threads(n):
                result[f"fma_gflops_{n}"] = max(self.flops(n, 0.02) for _ in range(7)) / 1e9
                result[f"copy_gbytes_{n}"] = 1e-9 / min(self.copy_seconds(1.0) for _ in range(15))
        return result
