"""The command line, and the process that measures: its environment must not slow a peer down."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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

_PEERS = ("numpy", "torch", "jax", "sklearn")
_SIZE = re.compile(r"[1-9]\d*[kM]?", re.ASCII)


def _pattern(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the pattern is empty; --list shows the names")
    return text


def _sizes(text: str) -> list[str]:
    sizes = text.split(",")
    for size in sizes:
        if not _SIZE.fullmatch(size):
            raise argparse.ArgumentTypeError(f"{size!r} is no number of elements; expected such as 1000, 100k or 16M")
        if sizes.count(size) > 1:
            raise argparse.ArgumentTypeError(f"{size!r} is given twice")
    return sizes


def _peers(text: str) -> list[str]:
    names = [] if text == "none" else text.split(",")
    for name in names:
        if name not in _PEERS:
            raise argparse.ArgumentTypeError(f"unknown {name!r}; expected some of {', '.join(_PEERS)}, or none")
        if find_spec(name) is None:
            raise argparse.ArgumentTypeError(f"{name!r} is not installed")
    return names


def file_to_write(text: str) -> Path:
    """Return the path if a file can be there; for `add_argument(type=)`."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; expected a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: there is no folder {str(path.parent)!r}")
    return path


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fuseprop bench",
        description="Measure fuseprop and the installed peers side by side. How to read it: bench/README.md.",
    )
    parser.add_argument(
        "--only", metavar="PATTERN", action="append", default=[], type=_pattern,
        help="cases whose name matches (shell pattern, or a part of the name); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", metavar="N,N", type=_sizes, help="elements of the elementwise cases (default: 128,1000,100k,16M)"
    )
    parser.add_argument("--repeats", type=int, default=30, help="rounds per case, at most (default: 30)")
    parser.add_argument("--seconds", type=float, default=2.0, help="no new round after this time per case (default: 2)")
    parser.add_argument("--threads", type=int, help="CPUs to use, for everybody (default: those of the affinity mask)")
    parser.add_argument(
        "--peers", metavar="NAME,NAME", type=_peers,
        help=f"compare with these (default: those of {', '.join(_PEERS)} that are installed; none: nobody)",
    )  # fmt: skip
    parser.add_argument(
        "--awake", action="store_true",
        help="keep CPUs busy with processes of the lowest priority: a virtual machine's may sleep for milliseconds",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=file_to_write, help="write all figures there")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    arguments = parser.parse_args(argv)
    cpus = _cpus()
    if arguments.repeats < 1 or not arguments.seconds > 0:
        parser.error(f"--repeats {arguments.repeats}, --seconds {arguments.seconds:g}: both must be positive")
    if arguments.threads is not None and not 1 <= arguments.threads <= len(cpus):
        parser.error(f"--threads must be 1 to {len(cpus)}, the CPUs of this process")
    if arguments.peers is None:
        arguments.peers = [name for name in _PEERS if find_spec(name) is not None]
    return arguments


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def main(argv: Sequence[str] | None = None) -> int:
    """Start the measuring process; return its exit code."""
    return _measure(list(sys.argv[1:] if argv is None else argv))


def figures(*given: str) -> dict[str, Any]:
    """Measure without a table on the screen: return what `--json` writes. RuntimeError if an answer is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        code = _measure([*given, "--json", str(path)], stdout=subprocess.DEVNULL)
        if code != 0:
            raise RuntimeError(f"python -m fuseprop bench {' '.join(given)} failed with exit code {code}")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def _measure(given: list[str], stdout: int | None = None) -> int:
    arguments = parse(given)
    environment = dict(os.environ)
    # A wrong core type or cache size costs OpenBLAS, and so NumPy, up to half of its speed.
    removed = [name for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in environment]
    environment["FUSEPROP_BENCH_REMOVED"] = ", ".join(f"{name}={environment.pop(name)}" for name in removed)
    cpus = _cpus()[: arguments.threads]
    for name in ("FUSEPROP_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(len(cpus))
    with _kept_awake(cpus if arguments.awake and not arguments.list else []) as spinners:
        environment["FUSEPROP_BENCH_AWAKE"] = ",".join(str(spinner.pid) for spinner in spinners)
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)  # inherited
        try:
            command = [sys.executable, "-m", "fuseprop._bench", *given]
            process = subprocess.Popen(command, env=environment, stdout=stdout)
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
