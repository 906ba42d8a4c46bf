"""What a freshly installed wheel must do, with NumPy alone: `python tools/smoke_test.py`."""

import subprocess
import sys
from importlib import resources

import numpy as np

import fuseprop as fp

x = np.array([[-1.0, 0.5], [2.0, -3.0]], np.float32)

y = fp.activations.Tanh()(x)
assert y.dtype == np.float32
assert np.allclose(y, np.tanh(x), rtol=1e-6)

value, grad = fp.losses.Huber(delta=1.0).value_and_grad(x, np.zeros_like(x))
assert np.isclose(value, (0.5 + 0.125 + 1.5 + 2.5) / 4)
assert np.allclose(grad, np.clip(x, -1, 1) / 4)

parameters = np.ones(5)
fp.optim.SGD(parameters, lr=0.5).step(np.arange(5.0))
assert np.array_equal(parameters, 1 - 0.5 * np.arange(5.0))

assert np.array_equal(fp.ops.matmul(x, x), x @ x)

info = subprocess.run([sys.executable, "-m", "fuseprop", "info"], check=True, capture_output=True, text=True).stdout
assert fp.__version__ in info
assert fp.build_info()["active_target"] in info

for name in ("py.typed", "_core.pyi"):  # type checkers look for them
    assert (resources.files("fuseprop") / name).read_text(), name
