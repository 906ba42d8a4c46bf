"""Where files are written: as a whole, with the mode of any new file, and refused before anything is trained."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fuseprop as fp
from fuseprop import nn

safetensors = pytest.importorskip("safetensors")

X = np.ones((8, 3), np.float32)
Y = np.ones((8, 1), np.float32)


def a_model() -> nn.Sequential:
    return nn.Sequential([nn.Dense(3, 1)], rng=0)


def save(path: Any) -> None:
    a_model().save(path)


def save_checkpoint(path: Any) -> None:
    model = a_model()
    nn.save_checkpoint(path, model, fp.optim.SGD(model))


def run(path: Any) -> None:
    """Train, with checkpoints; nothing is trained if they cannot be written."""
    model = a_model()
    before, epochs = model.state_dict(), 0

    def count(*_: Any) -> None:
        nonlocal epochs
        epochs += 1

    try:
        model.fit(X, Y, loss="mse", epochs=3, progress=False, callbacks=[nn.Checkpoint(path), count])
    except BaseException:
        np.testing.assert_equal(model.state_dict(), before)
        assert epochs == 0
        raise


each_writer = pytest.mark.parametrize("write", [save, save_checkpoint, run])


@each_writer
@pytest.mark.parametrize("as_path", [str, Path, os.fsencode])
def test_where_nothing_can_be_written(write: Callable[[Any], None], as_path: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "dangling").symlink_to("nowhere/file")
    (tmp_path / "device").symlink_to(os.devnull)
    before = sorted(os.listdir(tmp_path))
    for name, error in (
        ("no/folder", FileNotFoundError),
        ("file/name", NotADirectoryError),
        ("dangling", FileNotFoundError),
        (".", IsADirectoryError),
        ("x" * 300, OSError),
        ("device", OSError),
    ):
        path = tmp_path / name
        with pytest.raises(error) as caught:
            write(as_path(path))
        assert str(path) in str(caught.value)
        assert sorted(os.listdir(tmp_path)) == before
    for empty in ("", f"{tmp_path}/new/"):
        with pytest.raises(IsADirectoryError):
            write(empty)
    assert (tmp_path / "file").read_text() == "text"
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@each_writer
@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_cannot_be_written_to(write: Callable[[Any], None], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="run"):
            write(tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    """Sets the mask for new files, until the end of the test."""
    before = os.umask(0o022)

    def set_mask(mask: int) -> None:
        os.umask(mask)

    yield set_mask
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@each_writer
@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_modes(write: Callable[[Any], None], umask: Callable[[int], None], tmp_path: Path) -> None:
    """A new file's is that of any new file, an old one stays as it is."""
    path = tmp_path / "run"
    for mask, expected in ((0o022, 0o644), (0o002, 0o664), (0o077, 0o600)):
        umask(mask)
        path.unlink(missing_ok=True)
        write(path)
        assert mode(path) == expected
    path.chmod(0o640)
    write(path)
    assert mode(path) == 0o640
    assert os.listdir(tmp_path) == ["run"]


@each_writer
def test_a_link_stays_one(write: Callable[[Any], None], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere/run")
    for _ in range(2):  # the file is new, then old
        write(tmp_path / "link")
        assert os.readlink(tmp_path / "link") == "elsewhere/run"
        assert os.listdir(tmp_path / "elsewhere") == ["run"]
    assert nn.load(tmp_path / "elsewhere" / "run")(X).shape == (8, 1)


@pytest.mark.parametrize("write", [save, save_checkpoint])
def test_a_failure_leaves_the_old_file(
    write: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A full disk, say: in the midst of the arrays."""
    path = tmp_path / "run"
    write(path)
    before = path.read_bytes()

    def fails(arrays: Any, name: str, metadata: Any) -> None:
        Path(name).write_bytes(before[:100])
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.numpy.save_file", fails)
    with pytest.raises(OSError, match=r"run cannot be written: I/O error: No space left on device"):
        write(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run"]


KILLED = """
import os, sys, fuseprop as fp
from fuseprop import nn
model = nn.Sequential([nn.Dense(300, 300)], rng=0)
while True:
    model.save(sys.argv[1])
    print("saved", flush=True)
"""


def test_a_killed_process_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "run"
    nn.Sequential([nn.Dense(300, 300)], rng=0).save(path)
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        process.kill()  # in the midst of the next one
    assert nn.load(path)(np.ones((1, 300), np.float32)).shape == (1, 300)
    assert len(os.listdir(tmp_path)) <= 2
