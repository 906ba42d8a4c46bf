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

#: The specs that each section has.
SPECS = {
    "1": list(_registry.activations().values()),
    "2": [spec for spec in _registry.losses().values() if not spec.over_classes],
    "3": [spec for spec in _registry.losses().values() if spec.over_classes],
    "4": list(_registry.optimizers().values()),
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


def test_counts_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    counts = len(_registry.activations()), len(_registry.losses())
    assert re.findall(r"(\d+) activations and (\d+) losses", text) == [tuple(map(str, counts))]


def sections() -> dict[str, str]:
    """Return the numbered sections of docs/mathematics.md."""
    return dict(SECTION.findall((ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")))


def rows(number: str) -> list[tuple[str, str, list[str]]]:
    """Return (class, defaults, cells) of a section's rows about classes."""
    found = ROW.findall(sections()[number])
    return [(name, defaults, [cell.strip() for cell in cells.split("|")]) for name, defaults, cells in found]


@pytest.mark.parametrize("number", SPECS)
def test_mathematics_has_every_formula(number: str) -> None:
    """A row for each class, none for what is not there, and the defaults as they are."""
    specs = {spec.cls.__name__: spec for spec in SPECS[number]}
    found = rows(number)
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
        if spec.ulp is not None
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
