"""Every Python example in README.md and docs/ runs, and docs/mathematics.md has every formula as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fuseprop import _registry

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^## (\d)\. .*?\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
#: A table's row about a class: its name, its defaults, the other cells.
ROW = re.compile(r"^\| `(\w+)`(?: \((.*?)\))?[^|]*\|(.*)\|$", re.MULTILINE)
DEFAULT = re.compile(r"(\w+)=(\([^)]*\)|[^,()]+)")
REFERENCE = re.compile(r"docs/mathematics\.md (\d+)")

KINDS = {
    "activation": (_registry.activations, "1"),
    "loss": (_registry.losses, "23"),
    "optimizer": (_registry.optimizers, "4"),
}


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


def sections() -> dict[str, str]:
    """Return the numbered sections of docs/mathematics.md."""
    return dict(SECTION.findall((ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")))


def rows(numbers: str) -> list[tuple[str, str, list[str]]]:
    """Return (class, defaults, cells) of the rows about classes in these sections."""
    text = "\n".join(sections()[number] for number in numbers)
    return [
        (name, defaults, [cell.strip() for cell in cells.split("|")]) for name, defaults, cells in ROW.findall(text)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_mathematics_has_every_formula(kind: str) -> None:
    """A row for each class, in the sections of its kind, none for what is not there, and the defaults as they are."""
    registered, numbers = KINDS[kind]
    specs = {spec.cls.__name__: spec for spec in registered().values()}
    found = rows(numbers)
    assert {name for name, _, _ in found} == set(specs)
    for name, defaults, cells in found:
        assert all(cells[:2]), f"{name} has no formula"
        takes = {**specs[name].parameters, **specs[name].switches}
        for parameter, value in DEFAULT.findall(defaults):
            assert eval(value) == takes[parameter], f"{name}: {parameter}"


def test_mathematics_has_every_budget() -> None:
    """Those of all formulas that have one in ULP, in section 6."""
    along_axes = {"Softmax", "LogSoftmax"}  # relative to the largest exponential
    expected = {
        spec.cls.__name__: [f"{budget:g}" for budget in spec.ulp]
        for spec in _registry.activations().values()
        if spec.cls.__name__ not in along_axes
    }
    expected |= {
        spec.cls.__name__: [*(f"{budget:g}" for budget in spec.ulp), ", ".join(spec.cancels)]
        for spec in _registry.losses().values()
        if len(spec.ulp) == 3
    }
    assert {name: cells for name, _, cells in rows("6")} == expected


def test_references_to_the_mathematics() -> None:
    """Those of the sources name sections that exist."""
    found = {
        number
        for folder in ("csrc", "python", "tests", "bench", "examples")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".h", ".cpp"}
        for number in REFERENCE.findall(path.read_text(encoding="utf-8"))
    }
    assert found
    assert found <= set(sections())
