"""The package's type hints, as a user's type checker sees them, and the files that it needs for that."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("typed_program.py")


def mypy(program: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Check a program in a folder without settings, with the package that this interpreter imports."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(folder), str(program)]
    # Nothing of ours is on the way but the package: what lies beside this file is no part of it.
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["py.typed", "_core.pyi"])
def test_type_checkers_find_what_they_need(name: str) -> None:
    text = (resources.files("fuseprop") / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) >= 1


def test_a_users_program_passes_mypy(tmp_path: Path) -> None:
    found = mypy(PROGRAM, tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.startswith("Success")


def test_hints_are_read(tmp_path: Path) -> None:
    """Without py.typed there would be another error: that the package has none."""
    program = tmp_path / "program.py"
    program.write_text("import fuseprop as fp\n\nx: str = fp.get_num_threads()\n", encoding="utf-8")
    found = mypy(program, tmp_path)
    assert found.returncode == 1
    assert 'expression has type "int", variable has type "str"' in found.stdout
    assert "Found 1 error in 1 file" in found.stdout


def test_a_users_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("typing_extensions", "sklearn", "safetensors"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(PROGRAM))
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "run.safetensors"]
