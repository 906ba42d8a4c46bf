"""Threads, SIMD targets and what the build is made of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fuseprop import _core
from fuseprop._checks import integer


def build_info() -> dict[str, Any]:
    """Return what this build contains and uses.

    Returns
    -------
    dict
        "version"; "compiled_targets", the SIMD targets in the binary; "supported_targets", those of them that this
        CPU runs; "active_target", the one that the calling thread uses; "num_threads"; "compiler"; "highway" and
        "pybind11", the versions built with; "sanitizer", "" in a normal build.
    """
    return _core.build_info()


def get_num_threads() -> int:
    """Return the number of threads that a call from this thread may use."""
    return _core.get_num_threads()


def _checked(n: int) -> int:
    return integer(n, "num_threads", least=1, most=1024)


def set_num_threads(n: int) -> None:
    """Set the number of threads that a call may use, for the whole process.

    The initial number is ``FUSEPROP_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the number of CPUs that the process
    may use (affinity mask and cgroup quota). Results do not depend on it, to the bit.

    Raises
    ------
    ValueError
        If n is not in 1 to 1024.
    """
    _core.set_num_threads(_checked(n))


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Context manager: let calls from this thread use `n` threads.

    Raises
    ------
    ValueError
        If n is not in 1 to 1024.
    """
    previous = _core.set_thread_num_threads(_checked(n))
    try:
        yield
    finally:
        _core.set_thread_num_threads(previous)


@contextmanager
def simd_target(name: str) -> Iterator[None]:
    """Context manager: let calls from this thread use the SIMD target `name`, for tests and comparisons.

    The environment variable ``FUSEPROP_TARGET`` sets it for the whole process. Results are the same bits on all
    targets with fused multiply-add (AVX2, AVX3, NEON).

    Raises
    ------
    ValueError
        If `name` is not one of ``build_info()["supported_targets"]``.
    TypeError
        If `name` is not a string.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, found {type(name).__name__}")
    previous = _core.set_thread_target(name)
    try:
        yield
    finally:
        _core.set_thread_target(previous)


def set_target_from_environment() -> None:
    """Let the process use the target that ``FUSEPROP_TARGET`` names, if it is set."""
    name = os.environ.get("FUSEPROP_TARGET")
    if name:
        try:
            _core.set_default_target(name)
        except ValueError as error:
            raise ValueError(f"environment variable FUSEPROP_TARGET: {error}") from None
