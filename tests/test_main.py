"""The command line: info, formulas, demo, bench."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import fuseprop as fp
from fuseprop import _demo, _registry
from fuseprop.__main__ import main
from fuseprop._bench import cases, launch


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["fuseprop"].strip() == fp.__version__
    assert lines["active target"].strip() == fp.build_info()["active_target"]
    assert lines["threads"].strip() == str(fp.get_num_threads())
    assert "torch" in lines


def test_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formulas"]) == 0
    out = capsys.readouterr().out
    for spec in (*_registry.activations().values(), *_registry.losses().values()):
        assert f"  {spec.cls.__name__}(" in out
        assert f"get: {spec.name!r}" in out


def test_everything_has_a_benchmark() -> None:
    assert cases.without_case(cases.all_cases()) == []


def test_bench_is_delegated(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        @staticmethod
        def main(argv: list[str]) -> int:
            assert argv == ["matmul", "--json", "x"]
            return 7

    monkeypatch.setitem(sys.modules, "fuseprop._bench", Fake)  # type: ignore[arg-type]  # stands for a module
    assert main(["bench", "matmul", "--json", "x"]) == 7


def test_bench_keeps_cpus_awake_by_processes_that_yield_to_all_others() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    with launch._kept_awake(cpus) as spinners:
        assert all(os.sched_getscheduler(spinner.pid) == os.SCHED_IDLE for spinner in spinners)
        assert [os.sched_getaffinity(spinner.pid) for spinner in spinners] == [{cpu} for cpu in cpus]
    assert all(spinner.returncode is not None for spinner in spinners)


def test_bench_says_if_it_cannot_keep_cpus_awake(capfd: pytest.CaptureFixture[str]) -> None:
    message = "--awake: no process can be kept on CPU 1000000"
    with pytest.raises(SystemExit, match=message), launch._kept_awake([1_000_000]):
        pass
    assert "OSError" in capfd.readouterr().err


@pytest.mark.parametrize("argv", [[], ["train"], ["info", "--fast"], ["demo", "--epochs", "many"]])
def test_wrong_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2
    assert "usage: python -m fuseprop" in capsys.readouterr().err


def test_demo_reaches_its_accuracy() -> None:
    pytest.importorskip("sklearn")
    digits = _demo.load_digits()
    result = _demo.train(digits, progress=False)
    assert result.accuracy >= 0.97
    assert result.history["val_accuracy"][-1] == result.accuracy


def test_demo_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("sklearn", "matplotlib", "tqdm"):
        pytest.importorskip(module)
    path = tmp_path / "curves.png"
    assert main(["demo", "--epochs", "2", "--no-peers", "--output", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "test accuracy" in out
    assert "training time" in out
    assert str(path) in out
    assert "100%" in err  # the progress bar
    assert path.read_bytes().startswith(b"\x89PNG")


def test_demo_compares_steps() -> None:
    pytest.importorskip("sklearn")
    times = _demo.step_times(_demo.load_digits(), rounds=1, steps=1)
    assert {"fuseprop", "NumPy", "scikit-learn"} <= set(times)
    assert all(seconds > 0 for seconds in times.values())


def test_the_demos_numpy_step_computes_the_same() -> None:
    pytest.importorskip("sklearn")
    digits = _demo.load_digits()
    x, y = digits.x_train[: _demo.BATCH_SIZE], digits.y_train[: _demo.BATCH_SIZE]
    ours, numpys = _demo.fuseprop_step(x, y), _demo.numpy_step(x, y)
    for _ in range(10):
        assert float(ours()) == pytest.approx(float(numpys()), rel=1e-3)  # type: ignore[arg-type]  # a step returns an object


def test_demo_names_the_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_demo, "find_spec", lambda module: None if module == "matplotlib" else module)
    assert main(["demo"]) == 1
    assert 'matplotlib: pip install "fuseprop[demo]"' in capsys.readouterr().err
