"""Threads, targets, build information and the environment."""

from __future__ import annotations

import json
import os
import threading
from importlib.metadata import version
from typing import Any

import pytest
from helpers import TARGETS, check_output, run_python

import fuseprop as fp

INFO = "import json, fuseprop; print(json.dumps(fuseprop.build_info()))"


def test_build_info() -> None:
    info = fp.build_info()
    assert info["version"] == fp.__version__
    assert set(info["supported_targets"]) <= set(info["compiled_targets"])
    assert info["active_target"] == info["supported_targets"][-1]
    assert info["num_threads"] == fp.get_num_threads() >= 1
    assert info["sanitizer"] in ("", "address", "undefined", "thread")
    assert {"compiler", "highway", "pybind11"} <= info.keys()
    assert all(isinstance(info[name], str) and info[name] for name in ("compiler", "highway", "pybind11"))
    info["version"] = "changed"
    assert fp.build_info()["version"] == fp.__version__


@pytest.mark.parametrize("name", TARGETS)
def test_simd_target(name: str) -> None:
    before = fp.build_info()["active_target"]
    with fp.simd_target(name):
        assert fp.build_info()["active_target"] == name
        with fp.simd_target(TARGETS[0]):
            assert fp.build_info()["active_target"] == TARGETS[0]
        assert fp.build_info()["active_target"] == name
        seen: list[str] = []
        thread = threading.Thread(target=lambda: seen.append(fp.build_info()["active_target"]))
        thread.start()
        thread.join()
        assert seen == [before], "it is this thread's alone"
    assert fp.build_info()["active_target"] == before
    with pytest.raises(KeyError), fp.simd_target(name):
        raise KeyError
    assert fp.build_info()["active_target"] == before


@pytest.mark.parametrize("name", ["AVX9", "", "avx2", "SCALAR"])
def test_unknown_target(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}'.*{', '.join(TARGETS)}"), fp.simd_target(name):
        raise AssertionError
    assert fp.build_info()["active_target"] == TARGETS[-1]


@pytest.mark.parametrize("name", [None, 3, b"AVX2"])
def test_target_of_another_type(name: Any) -> None:
    with pytest.raises(TypeError), fp.simd_target(name):
        raise AssertionError


def test_set_num_threads() -> None:
    before = fp.get_num_threads()
    try:
        fp.set_num_threads(3)
        assert fp.get_num_threads() == fp.build_info()["num_threads"] == 3
        with fp.num_threads(5):
            assert fp.get_num_threads() == 5
            with fp.num_threads(1):
                assert fp.get_num_threads() == 1
            assert fp.get_num_threads() == 5
            fp.set_num_threads(2)
            assert fp.get_num_threads() == 5, "this thread's own number comes first"
            seen: list[int] = []
            thread = threading.Thread(target=lambda: seen.append(fp.get_num_threads()))
            thread.start()
            thread.join()
            assert seen == [2], "the process's number holds in other threads"
        assert fp.get_num_threads() == 2
        with pytest.raises(KeyError), fp.num_threads(7):
            raise KeyError
        assert fp.get_num_threads() == 2
    finally:
        fp.set_num_threads(before)


@pytest.mark.parametrize("n", [0, -1, 1025, 2**31, -(2**31)])
def test_number_of_threads_out_of_range(n: int) -> None:
    before = fp.get_num_threads()
    with pytest.raises(ValueError, match=rf"num_threads is {n}; expected an integer >= 1 and <= 1024"):
        fp.set_num_threads(n)
    with (
        pytest.raises(ValueError, match=rf"num_threads is {n}; expected an integer >= 1 and <= 1024"),
        fp.num_threads(n),
    ):
        raise AssertionError
    assert fp.get_num_threads() == before


@pytest.mark.parametrize("n", ["2", 2.5, None, [1], 10**30])
def test_number_of_threads_of_another_type(n: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        fp.set_num_threads(n)
    with pytest.raises((TypeError, ValueError)), fp.num_threads(n):
        raise AssertionError


@pytest.mark.parametrize("name", TARGETS)
def test_target_from_the_environment(name: str) -> None:
    assert json.loads(check_output(INFO, FUSEPROP_TARGET=name))["active_target"] == name


def test_unknown_target_from_the_environment() -> None:
    done = run_python("import fuseprop", FUSEPROP_TARGET="AVX9")
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert "ValueError" in message
    assert "AVX9" in message
    assert ", ".join(TARGETS) in message


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FUSEPROP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "5,2"}, 5),
        ({"FUSEPROP_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"FUSEPROP_NUM_THREADS": "nonsense", "OMP_NUM_THREADS": "5"}, 5),
        ({"FUSEPROP_NUM_THREADS": "0", "OMP_NUM_THREADS": "5"}, 5),
        ({"FUSEPROP_NUM_THREADS": "-2", "OMP_NUM_THREADS": "5"}, 5),
        ({"FUSEPROP_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5),
    ],
    ids=str,
)
def test_threads_from_the_environment(environment: dict[str, str], expected: int) -> None:
    assert json.loads(check_output(INFO, **environment))["num_threads"] == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity masks on this system")
def test_threads_follow_the_affinity_mask() -> None:
    one = min(os.sched_getaffinity(0))
    script = f"import os; os.sched_setaffinity(0, [{one}]); " + INFO
    assert json.loads(check_output(script))["num_threads"] == 1
    script = f"import os; os.sched_setaffinity(0, [{one}]); " + INFO
    assert json.loads(check_output(script, FUSEPROP_NUM_THREADS="4"))["num_threads"] == 4


def test_import_needs_numpy_alone() -> None:
    """Nothing but NumPy and the standard library comes with the import."""
    script = """
import sys, numpy
before = set(sys.modules)
import fuseprop
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(roots - set(sys.stdlib_module_names) - {"fuseprop", "numpy"}))
"""
    assert check_output(script) == "[]"


def test_nothing_is_printed() -> None:
    script = """
import numpy as np, fuseprop as fp
fp.ops.softmax(np.ones((300, 300)))
try:
    fp.losses.SoftmaxCrossEntropy()(np.ones((2, 2)), [0, 9])
except ValueError:
    pass
"""
    done = run_python(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_version_is_that_of_the_package() -> None:
    assert fp.__version__ == version("fuseprop")
