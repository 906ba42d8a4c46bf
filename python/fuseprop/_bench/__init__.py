"""Benchmarks of every formula beside the installed peers: `python -m fuseprop bench`. See bench/README.md.

`timing` measures, `machine` knows the limits, `problem` says what a case is, `cases`, `steps` and `peers` hold
them, `report` prints; `launch` starts the measuring process, `__main__`, in a clean environment.
"""

from __future__ import annotations

from fuseprop._bench.launch import main

__all__ = ["main"]
