"""A formula is added in the places that CONTRIBUTING names, and everything follows the registry.

`added_formulas.py` adds a loss with a log link, one without curvature, two over classes, a metric and an optimizer that
PyTorch lacks, to a child process each time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import SANITIZER, check_output

HERE = Path(__file__).parent
SETUP = f"import sys; sys.path.insert(0, {str(HERE)!r}); import added_formulas\n"
#: What is about the kernels, which are borrowed and have names of their own in errors and in the core's tables;
#: `test_losses.py`, which is about their digits, is left out for its time.
OF_KERNELS = "not test_not_a_probability and not test_core_has"


def run_suite(*arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest with the formulas added, on the tests whose names have "added" in them or what `arguments` say."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "added_formulas", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"PYTHONPATH": path}
    return subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True, check=False)


@pytest.mark.skipif(SANITIZER != "", reason="the same tests of the same kernels, once more")
def test_the_suite_takes_them() -> None:
    files = ("registry", "loss_facts", "class_losses", "boosting", "plot", "nn", "optim", "errors")
    paths = [str(HERE / f"test_{name}.py") for name in files]
    done = run_suite(*paths, "-k", f"added and {OF_KERNELS}")
    assert done.returncode == 0, done.stdout[-4000:]
    passed = int(done.stdout.rpartition(" passed")[0].split()[-1])
    assert passed > 300, done.stdout


def test_the_documents_ask_for_them() -> None:
    done = run_suite(str(HERE / "test_docs.py"), "-k", "every_formula or every_budget or counts")
    failed = [line.partition(" - ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    names = [line.rpartition("::")[2] for line in failed]
    assert names == [
        "test_counts_in_the_readme",
        *(f"test_mathematics_has_every_formula[{section}]" for section in (2, 3, 4)),
        "test_mathematics_has_every_budget",
    ], done.stdout
    for name in ("AddedLog", "AddedOverClasses", "AddedOptimizer"):
        assert name in done.stdout


def test_they_are_listed() -> None:
    out = check_output(SETUP + "from fuseprop.__main__ import main; main(['formulas'])")
    assert "AddedLog()" in out
    assert "get: 'added_log', 'added_mean'" in out
    out = check_output(SETUP + "import fuseprop as fp; print(fp.losses.get('AddedMean'), fp.optim.names()[-1])")
    assert out == "AddedLog() addedoptimizer"


def test_boosting_accuracy_and_plots_decide_by_the_record() -> None:
    check_output(
        SETUP
        + """
import numpy as np
import fuseprop as fp
from fuseprop import boosting, nn, plot
from fuseprop.losses import get

def refused(text, function, *arguments, **options):
    try:
        function(*arguments, **options)
    except ValueError as error:
        assert text in str(error), error
    else:
        raise AssertionError(text)

# By its link: the curvature is raised to the chord, which ends at the target's logarithm.
gradient, hessian = boosting.xgboost_objective("added_log")(np.array([4.0]), np.log([8.0]))
np.testing.assert_allclose(hessian, [0.5 / (np.log(8) - np.log(4))])
refused("no second derivative > 0", boosting.xgboost_objective, "added_flat")
assert boosting.xgboost_objective("added_flat", hess_floor=1.0)
refused("takes probabilities", boosting.xgboost_objective, "added_over_classes")
refused("takes logarithms of probabilities", boosting.xgboost_objective, "added_of_labels", hess_floor=1.0)
refused("no gradient and Hessian per sample", boosting.xgboost_objective, "added_metric")

refused("accuracy is not defined for added_log", nn.accuracy, np.ones(3), np.ones(3), loss="added_log")
p = np.array([[0.2, 0.8], [0.6, 0.4]])
assert nn.accuracy(p, np.array([1, 1]), loss="added_of_labels") == 0.5
assert nn.accuracy(p, p[::-1], loss="added_over_classes") == 0.0

assert plot._against(get("added_log").spec) == "logarithm"
assert plot._against(get("added_flat").spec) == "residual"
assert plot._against(get("added_metric").spec) == "margin"
refused("a loss over classes", plot._against, get("added_of_labels").spec)
"""
    )


def test_benchmarks_measure_them_with_the_peers_that_there_are() -> None:
    """Each case is built with all peers that are installed, and all answers are right."""
    out = check_output(
        SETUP
        + """
from fuseprop._bench import cases
from fuseprop._bench.problem import Peers

cases.losses.CLASS_SHAPES = ((64, 10), (16, 100))
cases.optim.TENSORS = {"2000": (1, 2000)}
every = cases.all_cases(["128"])
assert cases.without_case(every) == []
for case in every:
    if "added" in case.entry:
        problem = case.build(Peers())
        wrong = [problem.error(candidate) for candidate in problem.candidates]
        assert not any(wrong), (case.name, wrong)
        assert {"fuseprop", "NumPy"} <= {candidate.library for candidate in problem.candidates}, case.name
        print(case.name)
"""
    )
    assert out.split() == [
        "loss/added_log/value_and_grad/128",
        "loss/added_log/grad_and_hess/128",
        "loss/added_flat/value_and_grad/128",
        "loss/added_flat/grad_and_hess/128",
        *(
            f"loss/{name}/{verb}/{shape}"
            for name in ("added_over_classes", "added_of_labels")
            for shape in ("64x10", "16x100")
            for verb in ("value_and_grad", "grad_and_hess")
        ),
        "loss/added_metric/value/128",
        "optimizer/addedoptimizer/2000",
    ]
