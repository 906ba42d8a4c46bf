"""Dense layers in a row as one call of the core: what separate calls give, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import Array, assert_same_bits, each_dtype, seeded

import fuseprop as fp
from fuseprop import _core

ROWS = 9
SIZES = (7, 12, 5, 3)


class Run:
    """A stack with its arrays."""

    def __init__(self, dtype: Any, activations: tuple[Any, ...], use_bias: bool = True) -> None:
        rng = seeded("dense", use_bias)
        self.layers = []
        for i, name in enumerate(activations):
            shape = SIZES[i : i + 2]
            weight, bias = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape[1]).astype(dtype)
            gradients = np.ones(shape, dtype), np.ones(shape[1], dtype) if use_bias else None
            activation = None if name is None else fp.activations.get(name)
            self.layers.append((weight, bias if use_bias else None, *gradients, activation))
        self.stack = _core.DenseStack(self.layers)

    def bind(self, rows: int, first_dx: bool = True) -> list[tuple[Any, ...]]:
        buffers = []
        for i, (weight, *_, activation) in enumerate(self.layers):
            y, u = (np.full((rows, weight.shape[1]), np.nan, weight.dtype) for _ in range(2))
            dx = np.full((rows, weight.shape[0]), np.nan, weight.dtype) if i or first_dx else None
            buffers.append((y, None if activation is None else u, dx))
        self.stack.bind(rows, buffers)
        return buffers

    def expected(self, x: Array, dy: Array, accumulate: bool) -> tuple[Array, Array, list[Array]]:
        """(y, dx, gradients of all layers), layer by layer through the public functions."""
        inputs, pre = [], []
        for weight, bias, _, _, activation in self.layers:
            inputs.append(x)
            x, u = fp.ops.linear(x, weight, bias, activation=activation, return_preactivation=True)
            pre.append(u)
        y, gradients = x, []
        for (weight, bias, _, _, activation), a, u in reversed(list(zip(self.layers, inputs, pre, strict=True))):
            du = dy if activation is None else activation.backward(u, dy)
            into = np.ones_like(weight), False if bias is None else np.ones_like(bias)
            dx, dweight, dbias = _core.linear_backward(a, weight, du, None, *into, accumulate)
            assert dx is not None
            dy = dx
            gradients += [gradient for gradient in (dweight, dbias) if gradient is not None]
        return y, dy, gradients

    def gradients(self) -> list[Array]:
        return [g for layer in reversed(self.layers) for g in layer[2:4] if g is not None]


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("names", [("relu", "gelu", None), ("tanh",), (None, "softplus")], ids=str)
@each_dtype
def test_the_same_as_layer_by_layer(dtype: Any, names: tuple[Any, ...], use_bias: bool, accumulate: bool) -> None:
    run = Run(dtype, names, use_bias)
    rng = seeded("data")
    for rows in (ROWS, 1, ROWS + 5):
        run.bind(rows)
        for gradient in run.gradients():
            gradient[...] = 1
        x = rng.standard_normal((rows, SIZES[0])).astype(dtype)
        dy = rng.standard_normal((rows, SIZES[len(names)])).astype(dtype)
        y, dx, gradients = run.expected(x, dy, accumulate)
        assert_same_bits(run.stack.forward(x).copy(), y)
        assert_same_bits(run.stack.backward(dy.copy(), accumulate, True), dx)
        for actual, wanted in zip(run.gradients(), gradients, strict=True):
            assert_same_bits(actual, wanted)


@pytest.mark.parametrize("layout", ["rows apart", "columns apart", "fortran", "backwards", "unaligned"])
@each_dtype
def test_strides(dtype: Any, layout: str) -> None:
    run = Run(dtype, ("relu", None))
    run.bind(ROWS)
    rng = seeded("strides")
    x = rng.standard_normal((ROWS, SIZES[0])).astype(dtype)
    dy = rng.standard_normal((ROWS, SIZES[2])).astype(dtype)
    y, dx, gradients = run.expected(x, dy, False)

    def laid(a: Array) -> Array:
        n, m = a.shape
        views = {
            "rows apart": lambda: np.zeros((n, m + 3), dtype)[:, 1 : m + 1],
            "columns apart": lambda: np.zeros((n, 2 * m), dtype)[:, ::2],
            "fortran": lambda: np.zeros((m, n), dtype).T,
            "backwards": lambda: np.zeros((n, m), dtype)[::-1],
            "unaligned": lambda: np.ndarray((n, m), dtype, bytearray(a.nbytes + 1), 1),
        }
        view: Array = views[layout]()
        view[...] = a
        return view

    given = laid(x)
    assert_same_bits(run.stack.forward(given).copy(), y)
    assert_same_bits(run.stack.backward(laid(dy), False, True), dx)
    assert_same_bits(np.ascontiguousarray(given), x)
    for actual, wanted in zip(run.gradients(), gradients, strict=True):
        assert_same_bits(actual, wanted)


def test_what_is_refused() -> None:
    run = Run(np.float32, ("relu", None))
    x = np.zeros((ROWS, SIZES[0]), np.float32)
    dy = np.zeros((ROWS, SIZES[2]), np.float32)
    with pytest.raises(RuntimeError, match="no buffers are bound"):
        run.stack.forward(x)
    run.bind(ROWS, first_dx=False)
    with pytest.raises(RuntimeError, match="backward needs a forward pass"):
        run.stack.backward(dy, False, False)
    with pytest.raises(ValueError, match=r"x has shape \(9, 6\); expected \(9, 7\)"):
        run.stack.forward(x[:, 1:])
    with pytest.raises(ValueError, match=r"x has shape \(8, 7\)"):
        run.stack.forward(x[1:])
    with pytest.raises(TypeError, match="x has dtype float64; expected float32"):
        run.stack.forward(x.astype(np.float64))
    run.stack.forward(x)
    with pytest.raises(RuntimeError, match="no dx is bound"):
        run.stack.backward(dy, False, True)
    with pytest.raises(ValueError, match=r"dy has shape \(9, 4\); expected \(9, 5\)"):
        run.stack.backward(np.zeros((ROWS, 4), np.float32), False, False)
    with pytest.raises(TypeError, match="dy has dtype float64; expected float32"):
        run.stack.backward(dy.astype(np.float64), False, False)
    assert all((gradient == 1).all() for gradient in run.gradients())
    assert run.stack.backward(dy, False, False) is None

    weight = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match="layers is empty"):
        _core.DenseStack([])
    with pytest.raises(ValueError, match=r"layers\[1\].weight has shape \(3, 4\); expected \(4, out\)"):
        _core.DenseStack([(weight, None, weight.copy(), None, None)] * 2)
    with pytest.raises(ValueError, match=r"layers\[0\].dweight has shape \(4, 3\); expected \(3, 4\)"):
        _core.DenseStack([(weight, None, weight.T.copy(), None, None)])
    with pytest.raises(TypeError, match="cannot be fused with a product"):
        _core.DenseStack([(weight, None, weight.copy(), None, fp.activations.Softmax())])
    frozen = weight.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"layers\[0\].dweight is read-only"):
        _core.DenseStack([(weight, None, frozen, None, None)])


def test_what_is_no_layer() -> None:
    weight = np.zeros((3, 4), np.float32)
    with pytest.raises(TypeError, match=r"layers\[0\] must be a tuple \(weight, .*\), found list"):
        _core.DenseStack([[weight] * 5])  # type: ignore[list-item]  # refused
    with pytest.raises(TypeError, match=r"layers\[0\].weight must be a NumPy array, found int"):
        _core.DenseStack([(1, None, 1, None, None)])  # type: ignore[list-item]  # refused
    with pytest.raises(TypeError, match=r"layers\[0\].weight has dtype int64; expected float32 or float64"):
        _core.DenseStack([(np.zeros((3, 4), int), None, weight, None, None)])
    with pytest.raises(ValueError, match=r"layers\[0\].weight has shape \(3,\); expected \(in, out\)"):
        _core.DenseStack([(weight[:, 0], None, weight, None, None)])
    stack = _core.DenseStack([(weight, None, weight.copy(), None, None)])
    with pytest.raises(ValueError, match="buffers has 2 entries for 1 layers"):
        stack.bind(2, [(), ()])  # type: ignore[list-item]  # refused
    with pytest.raises(TypeError, match=r"buffers\[0\] must be a tuple \(y, u, dx\), found int"):
        stack.bind(2, [3])  # type: ignore[list-item]  # refused
    with pytest.raises(ValueError, match=r"buffers\[0\].y has shape \(3, 4\); expected \(2, 4\)"):
        stack.bind(2, [(weight, None, None)])


def test_memory_that_overlaps_is_refused() -> None:
    memory = np.zeros(1000, np.float32)
    weight = memory[:9].reshape(3, 3)
    stack = _core.DenseStack([(weight, None, weight.copy(), None, None)])
    y, dx = memory[100:106].reshape(2, 3), memory[105:111].reshape(2, 3)
    for buffers in ((y, None, dx), (y, y, None), (memory[5:11].reshape(2, 3), None, None)):
        with pytest.raises(ValueError, match="buffers overlap"):
            stack.bind(2, [buffers])
    stack.bind(2, [(y, None, None)])
    for x in (y, memory[103:109].reshape(2, 3)):
        with pytest.raises(ValueError, match="x overlaps the layers' buffers in memory"):
            stack.forward(x)
    assert_same_bits(stack.forward(memory[106:112].reshape(2, 3)), np.zeros((2, 3), np.float32))


def test_no_rows() -> None:
    run = Run(np.float32, ("relu", None))
    run.bind(0)
    assert run.stack.forward(np.zeros((0, SIZES[0]), np.float32)).shape == (0, SIZES[2])
    assert run.stack.backward(np.zeros((0, SIZES[2]), np.float32), False, False) is None
    assert all((gradient == 0).all() for gradient in run.gradients())


def test_it_keeps_its_arrays_alive() -> None:
    run = Run(np.float64, ("tanh", None))
    x, dy = np.ones((ROWS, SIZES[0])), np.ones((ROWS, SIZES[2]))
    expected = run.expected(x, dy, False)[0]
    stack = run.stack
    run.bind(ROWS)
    del run
    trash = [np.full((ROWS, n), 7.0) for n in SIZES for _ in range(50)]
    assert_same_bits(stack.forward(x).copy(), expected)
    assert stack.backward(dy, False, True) is not None
    assert all((array == 7.0).all() for array in trash)
