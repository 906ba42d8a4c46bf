"""The command line, and the process that measures: its environment must not slow a peer down."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

# Keeps one CPU busy while hardly anything else wants it, until its parent ends.
_SPINNER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.sched_setaffinity(0, [int(sys.argv[1])])
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
print(flush=True)
while os.getppid() == int(sys.argv[2]):
    for _ in range(1_000_000):
        pass
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fuseprop bench",
        description="Measure fuseprop and the installed peers side by side. How to read it: bench/README.md.",
    )
    parser.add_argument(
        "--only", metavar="PATTERN", action="append", default=[],
        help="cases whose name matches (shell pattern, or a part of the name); may be repeated",
    )  # fmt: skip
    parser.add_argument("--sizes", metavar="N,N", help="elements of the elementwise cases (default: 128,1000,100k,16M)")
    parser.add_argument("--repeats", type=int, default=30, help="rounds per case, at most (default: 30)")
    parser.add_argument("--seconds", type=float, default=2.0, help="no new round after this time per case (default: 2)")
    parser.add_argument("--threads", type=int, help="CPUs to use, for everybody (default: those of the affinity mask)")
    parser.add_argument(
        "--peers", metavar="NAME,NAME", default="numpy,torch,jax,sklearn",
        help="compare with these, if installed (default: %(default)s; none: nobody)",
    )  # fmt: skip
    parser.add_argument(
        "--awake", action="store_true",
        help="keep CPUs busy with processes of the lowest priority: a virtual machine's may sleep for milliseconds",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    arguments = parser.parse_args(argv)
    cpus = _cpus()
    if arguments.repeats < 1 or not arguments.seconds > 0:
        parser.error("--repeats and --seconds must be positive")
    if arguments.threads is not None and not 1 <= arguments.threads <= len(cpus):
        parser.error(f"--threads must be 1 to {len(cpus)}, the CPUs of this process")
    unknown = set(arguments.peers.split(",")) - {"numpy", "torch", "jax", "sklearn", "none"}
    if unknown:
        parser.error(f"--peers: unknown {', '.join(sorted(unknown))}")
    return arguments


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def main(argv: Sequence[str] | None = None) -> int:
    """Start the measuring process; return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(given)
    environment = dict(os.environ)
    # A wrong core type or cache size costs OpenBLAS, and so NumPy, up to half of its speed.
    removed = [name for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in environment]
    environment["FUSEPROP_BENCH_REMOVED"] = ", ".join(f"{name}={environment.pop(name)}" for name in removed)
    environment["FUSEPROP_BENCH_AWAKE"] = "1" if arguments.awake else ""
    cpus = _cpus()[: arguments.threads]
    for name in ("FUSEPROP_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(len(cpus))
    with _kept_awake(cpus if arguments.awake and not arguments.list else []):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)  # inherited
        try:
            process = subprocess.Popen([sys.executable, "-m", "fuseprop._bench", *given], env=environment)
        finally:
            os.sched_setaffinity(0, allowed)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the child got it too, and prints what it has
                continue


@contextlib.contextmanager
def _kept_awake(cpus: Sequence[int]) -> Iterator[list[subprocess.Popen[bytes]]]:
    spinners = []
    with contextlib.ExitStack() as stack:
        for cpu in cpus:
            command = [sys.executable, "-S", "-c", _SPINNER, str(cpu), str(os.getpid())]
            spinner = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(spinner.kill)  # before the context waits for it
            if spinner.stdout is None or not spinner.stdout.readline():
                raise SystemExit(f"--awake: no process can be kept on CPU {cpu} with the lowest priority (see above)")
            spinners.append(spinner)
        yield spinners
