"""Every Python example in README.md and docs/ runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fuseprop import _registry

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> list[Any]:
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            found.append(pytest.param(path, line, match[1], id=f"{path.relative_to(ROOT)}:{line}"))
    return found


@pytest.mark.parametrize(("path", "line", "code"), blocks())
def test_example(path: Path, line: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty directory and a fresh namespace; an error shows the line of the document."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    exec(compile("\n" * (line - 1) + code, str(path), "exec"), {"__name__": "example"})


def test_counts_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    counts = len(_registry.activations()), len(_registry.losses())
    assert re.findall(r"(\d+) activations and (\d+) losses", text) == [tuple(map(str, counts))]
