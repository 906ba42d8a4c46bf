"""Interleaved measurement: candidates take turns, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import functools
import gc
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Call:
    """A call that is written out in the timed loop, so that no wrapper's cost is measured with it."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __call__(self) -> Any:
        """Make the call once."""
        return self.function(*self.args, **dict(self.kwargs))


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    """Return the call `function(*args, **kwargs)`, not yet made."""
    return Call(function, args, tuple(kwargs.items()))


@dataclass(frozen=True)
class Timing:
    """Seconds per call."""

    median: float
    minimum: float
    samples: int
    calls_per_sample: int

    @property
    def steady(self) -> bool:
        """Whether the median says something of the call: at most twice the minimum."""
        return self.median <= 2 * self.minimum


Sampler = Callable[[int], float]
"""Makes n calls and returns the seconds they took together."""


@functools.cache
def _loop(num_args: int, keywords: tuple[str, ...]) -> Callable[..., float]:
    """Compile `for _ in range(n): f(a0, a1, out=k0)`, timed."""
    args = [f"a{i}" for i in range(num_args)]
    values = [f"k{i}" for i in range(len(keywords))]
    given = ", ".join([*args, *(f"{key}={value}" for key, value in zip(keywords, values, strict=True))])
    source = (
        f"def loop(n, {', '.join(['f', *args, *values])}):\n"
        "    turns = repeat(None, n)\n"
        "    begin = now()\n"
        f"    for _ in turns: f({given})\n"
        "    return now() - begin\n"
    )
    namespace: dict[str, Any] = {}
    exec("from itertools import repeat\nfrom time import perf_counter as now\n" + source, namespace)
    loop: Callable[..., float] = namespace["loop"]
    return loop


def sampler(what: Call) -> Sampler:
    """Return the timed loop around a call. The loop itself, some 10 ns per turn, is not subtracted."""
    loop = _loop(len(what.args), tuple(key for key, _ in what.kwargs))
    given = (what.function, *what.args, *(value for _, value in what.kwargs))
    return lambda n: loop(n, *given)


_TASKS = Path("/proc/self/task")


def _others_run() -> bool:
    """Whether another thread of this process is running; Linux alone can tell."""
    own = threading.get_native_id()
    for task in _TASKS.iterdir():
        try:
            state = (task / "stat").read_bytes().rpartition(b") ")[2][:1]
        except OSError:  # it has just ended
            continue
        if state == b"R" and int(task.name) != own:
            return True
    return False


def settle(limit: float = 0.2) -> None:
    """Wait until the other threads of this process rest.

    Workers of OpenMP and OpenBLAS spin for tens of milliseconds after their last call; the next candidate should not
    pay for that. The threads' CPU time would not tell: Linux adds it up once per tick.
    """
    if not _TASKS.is_dir():
        time.sleep(0.05)
        return
    end = time.perf_counter() + limit
    while _others_run() and time.perf_counter() < end:
        time.sleep(0.001)


SAMPLE_SECONDS = 1e-3
WARM_SECONDS = 1e-2
MIN_ROUNDS = 5


def _calls_per_sample(sample: Sampler) -> int:
    """Find how many calls make one sample long enough for the clock and for a thread to wake up."""
    n = 1
    while True:
        seconds = sample(n)
        if seconds >= SAMPLE_SECONDS:
            return n
        n = max(n + 1, min(10 * n, int(1.2 * n * SAMPLE_SECONDS / max(seconds, 1e-9)) + 1))


def warm(sample: Sampler, calls: int) -> None:
    """Warm again: caches, branch predictors, and threads, which may take some ticks to come to a CPU of their own."""
    end = time.perf_counter() + WARM_SECONDS
    while True:
        sample(calls)
        if time.perf_counter() > end:
            return


def interleaved(samplers: Sequence[Sampler], *, repeats: int, seconds: float) -> list[Timing]:
    """Measure all candidates in turn, in rounds that begin with another one each time.

    Parameters
    ----------
    samplers
        The candidates; each has been called before.
    repeats
        Rounds.
    seconds
        No new round after this time, but never fewer than `MIN_ROUNDS` rounds.
    """
    end = time.perf_counter() + seconds
    counts = [_calls_per_sample(sample) for sample in samplers]
    times: list[list[float]] = [[] for _ in samplers]
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for round_ in range(repeats):
            if round_ >= MIN_ROUNDS and time.perf_counter() > end:
                break
            for k in range(len(samplers)):
                i = (k + round_) % len(samplers)
                settle()
                warm(samplers[i], max(1, counts[i] // 4))
                times[i].append(samplers[i](counts[i]) / counts[i])
    finally:
        if collecting:
            gc.enable()
    return [
        Timing(statistics.median(found), min(found), len(found), count)
        for found, count in zip(times, counts, strict=True)
    ]
