"""Nothing crashes: arguments that run Python code, and arrays that change under a call. In child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import SANITIZER, check_output

import fuseprop as fp

PRELUDE = """
import threading, time, warnings
import numpy as np, fuseprop as fp
from fuseprop import _core
warnings.simplefilter("ignore")
L = fp.losses

class Argument:
    def __init__(self, change, value):
        self.change, self.value = change, value
    def __array__(self, dtype=None, copy=None):
        self.change()
        return self.value
    def __float__(self):
        self.change()
        return 0.1

def refused(call, text):
    try:
        call()
    except ValueError as error:
        assert text in str(error), error
    else:
        raise AssertionError("not refused")
"""

#: What once read or wrote memory that was not the arrays'. Large arrays: their memory goes back when they shrink.
CASES = {
    "weight shrinks target": """
t = np.zeros(1 << 22, "f4")
weight = Argument(lambda: t.resize(4, refcheck=False), np.ones(1 << 22, "f4"))
refused(lambda: L.SquaredError()(np.zeros(1 << 22, "f4"), t, weight), "target has shape (4,)")
""",
    "weight changes labels": """
for loss in (L.NegativeLogLikelihood(), L.SoftmaxFocal(), L.SoftmaxCrossEntropy()):
    y = np.zeros(4, np.int64)
    weight = Argument(lambda: y.fill(1 << 40), np.ones(4, "f4"))
    refused(lambda: loss.gradient(np.zeros((4, 3), "f4"), y, weight), "target[0] is label 1099511627776")
""",
    "floor changes labels": """
for loss in (L.SoftmaxFocal(), L.NegativeLogLikelihood(), L.SoftmaxCrossEntropy()):
    y = np.zeros(4, np.int64)
    floor = Argument(lambda: y.fill(1 << 40), None)
    refused(lambda: loss.grad_and_hess(np.zeros((4, 3), "f4"), y, None, floor), "is label 1099511627776")
""",
    "floor shrinks target": """
y = np.zeros(1 << 22, "f4")
floor = Argument(lambda: y.resize(1, refcheck=False), None)
refused(lambda: L.SquaredError().grad_and_hess(np.zeros(1 << 22, "f4"), y, None, floor), "target has shape (1,)")
""",
    "dy retypes x": """
x = np.ones(1 << 20)
def retype():
    x.dtype = "f4"
dx = fp.activations.ReLU().backward(x, Argument(retype, np.ones(1 << 21, "f4")))
assert dx.shape == (1 << 21,) and dx.dtype == np.float32
""",
    "x grows a learned parameter": """
beta = np.ones(1, "f4")
x = Argument(lambda: beta.resize(1 << 22, refcheck=False), np.ones(3, "f4"))
act = fp.activations.Swish(learn_beta=True)
refused(lambda: act.backward_params(x, np.ones(3, "f4"), params={"beta": beta}), "params['beta'] has shape (4194304,)")
""",
    "x of the forward pass shrinks before backward": """
w, b = np.zeros((256, 4), "f4"), np.zeros(4, "f4")
stack = _core.DenseStack([(w, b, np.zeros_like(w), np.zeros_like(b), None)])
rows = 1 << 14
x = np.zeros((rows, 256), "f4")
stack.bind(rows, [(np.zeros((rows, 4), "f4"), None, None)])
stack.forward(x)
x.resize((1, 256), refcheck=False)
try:
    stack.backward(np.ones((rows, 4), "f4"), False, False)
except ValueError as error:
    assert "x of the forward pass has been changed in place" in str(error)
else:
    raise AssertionError("not refused")
""",
}


@pytest.mark.parametrize("case", CASES)
def test_arguments_that_change_others(case: str) -> None:
    check_output(PRELUDE + CASES[case])


def fuzz(seed: int, count: int) -> None:
    script = Path(__file__).with_name("reentrant.py")
    done = subprocess.run(
        [sys.executable, script, str(seed), str(count)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{done.returncode} {done.stderr[-3000:]}"
    assert done.stdout == f"{count} calls, 0 wrong\n"


@pytest.mark.parametrize("batch", range(2))
def test_fuzz_of_arguments_that_run_code(batch: int) -> None:
    """Each public verb: the result is that of plain arguments, as they are after the code has run."""
    count = 4000 if SANITIZER == "" else 1000
    first = int(os.environ.get("FUSEPROP_FUZZ_SEED", "0"))
    fuzz(first + batch * count, count)


RACES = {
    "softmax cross-entropy": "L.SoftmaxCrossEntropy().gradient(z, y)",
    "its Hessian": "L.SoftmaxCrossEntropy().grad_and_hess(z, y)",
    "its options": "L.SoftmaxCrossEntropy(label_smoothing=0.1, class_weight=w, ignore_index=1).value_and_grad(z, y)",
    "many classes": "L.SoftmaxCrossEntropy().value_and_grad(wide, y[:4000])",
    "many classes, options": "L.SoftmaxCrossEntropy(class_weight=[1.0] * 300, ignore_index=1).gradient(wide, y[:4000])",
    "negative log-likelihood": "L.NegativeLogLikelihood().grad_and_hess(z, y)",
    "focal": "L.SoftmaxFocal(class_weight=w.tolist()).grad_and_hess(z, y)",
    "linear": "L.LinearCrossEntropy().value_and_grad(z, w8, y)",
    "linear, options": "L.LinearCrossEntropy(class_weight=w, ignore_index=1).value_and_grad(z, w8, y)",
    "margin": "L.LargeMarginSoftmax(2).value_and_grad(z, w8, y)",
}


@pytest.mark.skipif(SANITIZER == "thread", reason="the race is the point")
@pytest.mark.parametrize("name", RACES)
def test_labels_that_change_under_the_call(name: str) -> None:
    """Another thread writes labels that are out of range, between the check and the use."""
    check_output(f"""{PRELUDE}
z, y = np.zeros((20000, 8), "f4"), np.zeros(20000, np.int64)
w, w8, wide = np.ones(8), np.ones((8, 8), "f4"), np.zeros((4000, 300), "f4")
def change():
    while True:
        y[:] = 1 << 40
        y[:] = 1
        y[:] = -(1 << 40)
        y[:] = 0
        y[:] = 1
threading.Thread(target=change, daemon=True).start()
end = time.monotonic() + 0.4
while time.monotonic() < end:
    try:
        {RACES[name]}
    except ValueError as error:
        assert "label" in str(error), error
""")


@pytest.mark.skipif(SANITIZER == "thread", reason="the race is the point")
def test_targets_that_change_under_the_call() -> None:
    """A target that is found to be invalid, and is valid where its place is looked for."""
    check_output(f"""{PRELUDE}
pred, y = np.zeros(20003, "f4"), np.ones(20003, "f4")
def change():
    while True:
        y[-3:] = 7
        y[-3:] = 1
threading.Thread(target=change, daemon=True).start()
end = time.monotonic() + 0.5
while time.monotonic() < end:
    try:
        L.Hinge()(pred, y)
    except ValueError as error:
        assert "hinge expects" in str(error), error
""")


def test_a_bound_formula_is_not_bound_again() -> None:
    """What a running kernel reads stays as it is: the class weights would be freed."""
    weights = (1.0, 2.0, 3.0)
    for loss, again in (
        (fp.losses.SoftmaxFocal(class_weight=weights), (2.0, (1.0,))),
        (fp.losses.SoftmaxCrossEntropy(class_weight=weights), (0.0, [1.0], None, 1.0, False, 0.0)),
        (fp.losses.Quantile([0.1, 0.5]), ((0.2,),)),
        (fp.losses.NegativeLogLikelihood(), ()),
    ):
        with pytest.raises(RuntimeError, match="immutable"):
            loss._bind(loss.spec.name, again)
    assert fp.losses.SoftmaxFocal(class_weight=weights)(np.zeros((1, 3)), [0]) > 0
