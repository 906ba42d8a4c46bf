"""The measuring process; `launch.main` starts it."""

from __future__ import annotations

import fnmatch
import gc
import json
import sys

import fuseprop as fp
from fuseprop._bench import machine, report
from fuseprop._bench.cases import SIZES, all_cases, without_case
from fuseprop._bench.launch import parse
from fuseprop._bench.problem import Candidate, Case, Peers, Problem
from fuseprop._bench.timing import Sampler, interleaved

#: Work that moves more than this is compared with a copy: the caches hold less.
MEMORY_BOUND_BYTES = 64 << 20


def _status(problem: Problem, candidate: Candidate) -> tuple[str, str]:
    try:
        error = problem.error(candidate)
    except Exception as exception:  # a peer may fail in any way
        return "error", f"{type(exception).__name__}: {exception}"
    if error is not None:
        return "wrong", error
    return ("unchecked" if candidate.outputs is None else "ok"), ""


def _limit(problem: Problem, limits: machine.Limits) -> tuple[str, Sampler | None]:
    """Return what bounds the problem, and what measures the time at that bound."""
    if problem.flops:
        return "fma", lambda n: n * problem.flops / limits.flops(fp.get_num_threads(), dtype=problem.flops_dtype)
    if problem.num_bytes >= MEMORY_BOUND_BYTES:
        return "copy", lambda n: n * limits.copy_seconds(problem.num_bytes)
    return "", None


def measure(case: Case, peers: Peers, limits: machine.Limits, *, repeats: int, seconds: float) -> report.Result:
    """Check all candidates of a case, then time those whose answer is right."""
    problem = case.build(peers)
    statuses = [_status(problem, candidate) for candidate in problem.candidates]
    problem.expected.clear()  # may be large
    right = [
        candidate
        for candidate, (status, _) in zip(problem.candidates, statuses, strict=True)
        if status in ("ok", "unchecked")
    ]
    kind, limit = _limit(problem, limits)
    failed = statuses[0][0] in ("wrong", "error")
    timings = {}
    limit_timing = None
    others = machine.Others()
    if not failed:
        samplers = [candidate.sampler() for candidate in right] + ([limit] if limit else [])
        found = interleaved(samplers, repeats=repeats, seconds=seconds)
        timings = {candidate.name: timing for candidate, timing in zip(right, found, strict=False)}
        limit_timing = found[-1] if limit else None
    share = others.share()
    measured = [
        report.Measured(candidate.library, candidate.variant, *status, timings.get(candidate.name))
        for candidate, status in zip(problem.candidates, statuses, strict=True)
    ]
    return report.Result(
        case.name, measured, limit_timing, kind, problem.elements, problem.flops, problem.num_bytes, share
    )


def _matches(case: Case, pattern: str) -> bool:
    return pattern in case.name or fnmatch.fnmatchcase(case.name, pattern)


def select(cases: list[Case], patterns: list[str]) -> list[Case]:
    """Return the cases that match one of the patterns, all without any; ValueError if a pattern matches none."""
    idle = [pattern for pattern in patterns if not any(_matches(case, pattern) for case in cases)]
    if idle:
        raise ValueError(f"--only {', '.join(map(repr, idle))}: no case has such a name; --list shows all")
    return [case for case in cases if not patterns or any(_matches(case, pattern) for pattern in patterns)]


def run() -> int:
    """Do what the command line says; return 1 if an answer of ours is wrong or a case is missing."""
    arguments = parse()
    everything = all_cases(arguments.sizes or SIZES)
    if missing := without_case(everything):
        print(f"without a benchmark: {', '.join(missing)}", file=sys.stderr)
        return 1
    try:
        cases = select(everything, arguments.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return 0
    limits = machine.Limits()
    about, measured_limits = machine.describe(), limits.measure()
    print(report.preamble(about, measured_limits), "", report.heading(), sep="\n", flush=True)
    peers = Peers(arguments.peers)
    results: list[report.Result] = []
    try:
        for case in cases:
            results.append(measure(case, peers, limits, repeats=arguments.repeats, seconds=arguments.seconds))
            print(report.row(results[-1]), flush=True)
            gc.collect()
    except KeyboardInterrupt:
        print("interrupted")
    print(report.summary(results))
    if arguments.json:
        content = {"machine": about, "limits": measured_limits, "cases": [r.as_json() for r in results]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(run())
