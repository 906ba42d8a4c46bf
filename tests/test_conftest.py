"""The suite itself: with FUSEPROP_REQUIRE_PEERS no skip for want of a package is allowed; who imports whom."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import pytest

def test_of_a_peer():
    pytest.importorskip("no_such_package_anywhere")

def test_of_a_newer_peer():
    pytest.importorskip("numpy", "1000")

def test_of_another_machine():
    pytest.skip("this machine has one CPU")
"""


@pytest.mark.parametrize(("required", "code"), [("", 0), ("0", 0), ("1", 1)])
def test_skips_for_want_of_a_package(required: str, code: int, tmp_path: Path) -> None:
    program = tmp_path / "test_program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    here = str(Path(__file__).parent)
    paths = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH", ""))))
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "FUSEPROP_REQUIRE_PEERS": required},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == code, found.stdout + found.stderr
    assert "3 skipped" in found.stdout
    assert ("test_of_a_peer: " in found.stdout) == bool(code)
    assert ("test_of_a_newer_peer: " in found.stdout) == bool(code)
    assert "test_of_another_machine: " not in found.stdout


def test_no_test_file_imports_another() -> None:
    """What several share is in helpers.py and networks.py."""
    for path in Path(__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert [name for name in names if name.startswith("test_")] == [], path.name
