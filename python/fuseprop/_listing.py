"""What `dir()` shows of a public module: its public names, not what it imports."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def listing(public: Iterable[str]) -> Callable[[], list[str]]:
    """Return a module's `__dir__`: `__dir__ = listing(__all__)`."""
    return sorted(public).copy
