"""The command line: info, formulas, demo, bench."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import fuseprop as fp
from fuseprop import _demo, _registry
from fuseprop.__main__ import main
from fuseprop._bench import cases, launch, machine, report
from fuseprop._bench.timing import Timing


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


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["train"],
        ["info", "--fast"],
        ["demo", "--epochs", "many"],
        ["demo", "--epochs", "0"],
        ["demo", "--output", "no/such/folder/x.png"],
        ["demo", "--output", "."],
    ],
)
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


def figures(*, others: float = 0.0, steady: bool = True) -> dict[str, Any]:
    """What the benchmark writes, with two variants of PyTorch."""
    times = (("fuseprop", "", 1e-5), ("NumPy", "", 8e-5), ("PyTorch", "fused", 2e-4), ("PyTorch", "default", 3e-4))
    candidates = [
        report.Measured(library, variant, "ok", "", Timing(t, t if steady or library != "PyTorch" else t / 9, 5, 1))
        for library, variant, t in times
    ]
    candidates.append(report.Measured("JAX", "", "error", "no such thing", None))
    result = report.Result(_demo.CASE, candidates, None, "", 0, 0.0, 0.0, others)
    return {"machine": {"versions": {"NumPy": "2", "PyTorch": "2", "JAX": "1"}}, "cases": [result.as_json()]}


def test_demo_compares_as_the_benchmark_does(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(launch, "figures", lambda *arguments: given.extend(arguments) or figures())
    found = _demo.compare("--repeats", "3")
    assert given == ["--only", "training/64-128-10/batch64", "--repeats", "3"]
    assert found == ({"fuseprop": 1e-5, "NumPy": 8e-5, "PyTorch": 2e-4}, [], ["scikit-learn"])


def test_demo_prints_no_figure_that_is_not_to_be_believed(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(_demo.show(_demo.comparison(figures()))) == ["fuseprop", "NumPy", "PyTorch"]
    out = capsys.readouterr().out
    assert "  PyTorch             200.0 µs    20.0x\n" in out
    assert "left out" not in out
    assert list(_demo.show(_demo.comparison(figures(steady=False)))) == ["fuseprop", "NumPy"]
    out = capsys.readouterr().out
    assert "PyTorch's time varied by more than a factor of 2" in out
    assert " 20.0x" not in out
    assert _demo.show(_demo.comparison(figures(others=0.4))) == {}
    out = capsys.readouterr().out
    assert "other processes took 40% of the CPUs" in out
    assert "x\n" not in out


def test_demo_measures() -> None:
    """For real, in a process of its own; what it finds depends on who else uses this machine."""
    found = _demo.compare("--peers", "numpy", "--repeats", "1")
    assert set(found.seconds) <= {"fuseprop", "NumPy"}
    assert found.warnings or set(found.seconds) == {"fuseprop", "NumPy"}
    assert all(1e-6 < seconds < 1 for seconds in found.seconds.values())


def test_figures_are_of_right_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_measure", lambda given, stdout: 1)
    with pytest.raises(RuntimeError, match="bench --only x failed with exit code 1"):
        launch.figures("--only", "x")


def test_others_are_noticed() -> None:
    before = machine.Others()
    if before.share() is None and before._begin is None:
        pytest.skip("this system does not tell who uses its CPUs")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        time.sleep(0.5)  # they start
        others = machine.Others()
        time.sleep(1.0)
        share = others.share()
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert share is not None
    assert share > 0.5


def test_ones_own_threads_are_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 ticks of two CPUs 300 were busy, 200 of them in this process and its children, 60 in spinners."""
    files = {
        "/proc/stat": "cpu0 0 0 0 1000 0 0 0 0 0 0\ncpu7 0 0 0 1000 0 0 0 0 0 0\n",
        "/proc/9/stat": f"9 (a b) {'0 ' * 40}",
    }
    monkeypatch.setattr(Path, "read_text", lambda self, **options: files[str(self)])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 7})
    monkeypatch.setattr(os, "times", lambda: (0.0, 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(machine, "_TICKS", 100)
    monkeypatch.setenv("FUSEPROP_BENCH_AWAKE", "9")
    others = machine.Others()
    files["/proc/stat"] = (
        "cpu0 90 10 30 1050 0 5 5 10 0 0\ncpu1 900 9 9 9 9 9 9 9 9 9\ncpu7 100 0 50 1040 10 0 0 0 80 0\n"
    )
    files["/proc/9/stat"] = f"9 (a b) S {'0 ' * 10}40 20 {'0 ' * 30}"
    monkeypatch.setattr(os, "times", lambda: (1.0, 0.5, 0.25, 0.25, 9.0))
    assert others.share() == pytest.approx((300 - 200 - 60) / 400)


JUNK = (
    (["--only", "tanh", "--only", "hubber"], "--only 'hubber': no case has such a name"),
    (["--only", "tahn", "--only", "loss/hubber*"], "--only 'tahn', 'loss/hubber*': no case has such a name"),
    (["--only", "training", "--sizes", "1000", "--only", "op/exp/100k"], "--only 'op/exp/100k': no case"),
    (["--only", ""], "argument --only: the pattern is empty"),
    (["--peers", "numpy,torhc"], "argument --peers: unknown 'torhc'; expected some of numpy, torch, jax, sklearn"),
    (["--peers", "none,numpy"], "argument --peers: unknown 'none'"),
    (["--peers", ""], "argument --peers: unknown ''"),
    (["--sizes", "1000,abc"], "argument --sizes: 'abc' is no number of elements"),
    (["--sizes", "0"], "argument --sizes: '0' is no number"),
    (["--sizes", "-5"], "argument --sizes"),
    (["--sizes", "1e3"], "argument --sizes: '1e3' is no number"),
    (["--sizes", ""], "argument --sizes: '' is no number"),
    (["--sizes", "1000,1000"], "argument --sizes: '1000' is given twice"),
    (["--repeats", "0"], "--repeats 0, --seconds 2: both must be positive"),
    (["--seconds", "nan"], "--seconds nan"),
    (["--seconds", "soon"], "argument --seconds"),
    (["--threads", "0"], "--threads must be 1 to"),
    (["--threads", "100000"], "--threads must be 1 to"),
    (["--json", "no/such/folder/x.json"], "there is no folder 'no/such/folder'"),
    (["--json", "."], "argument --json: '.' is a folder; expected a file"),
    (["tanh"], "unrecognized arguments: tanh"),
)


@pytest.mark.parametrize(("argv", "message"), JUNK)
def test_bench_refuses_what_it_cannot_mean(argv: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = main(["bench", "--list", *argv])
    except SystemExit as error:
        code = error.code
    out, err = capfd.readouterr()
    assert code == 2
    assert message in err
    assert out == ""


def test_bench_refuses_a_peer_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: None if name == "jax" else name)
    assert launch.parse([]).peers == ["numpy", "torch", "sklearn"]
    assert launch.parse(["--peers", "none"]).peers == []
    with pytest.raises(SystemExit):
        launch.parse(["--peers", "numpy,jax"])
    assert "argument --peers: 'jax' is not installed" in capsys.readouterr().err


def test_bench_lists_what_matches_any_pattern(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list", "--sizes", "1000", "--only", "op/exp/*", "--only", "training/16"]) == 0
    assert capfd.readouterr().out.split() == ["op/exp/1000", "training/16-32-32-4/batch32"]


def test_demo_names_the_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_demo, "find_spec", lambda module: None if module == "matplotlib" else module)
    assert main(["demo"]) == 1
    assert 'matplotlib: pip install "fuseprop[demo]"' in capsys.readouterr().err
