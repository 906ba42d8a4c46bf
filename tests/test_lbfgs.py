"""L-BFGS through SciPy: it finds minima, and leaves the parameters alone when something fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import assert_same_bits

import fuseprop as fp
from fuseprop import nn

pytest.importorskip("scipy")


def rosenbrock(x: Any, y: Any) -> tuple[float, Any, Any]:
    value = (1 - x[0]) ** 2 + 100 * (y[0] - x[0] ** 2) ** 2
    return value, -2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)


@pytest.mark.parametrize("kind", ["array", "list", "dict"])
def test_finds_the_minimum(kind: str) -> None:
    flat = np.array([-1.2, 1.0])
    x, y = flat[:1], flat[1:]
    params: Any = {"array": flat, "list": [x, y], "dict": {"x": x, "y": y}}[kind]

    def value_and_grad() -> Any:
        value, dx, dy = rosenbrock(x, y)
        return value, {"array": np.concatenate([dx, dy]), "list": [dx, dy], "dict": {"x": dx, "y": dy}}[kind]

    result = fp.optim.lbfgs(params, value_and_grad, tolerance_grad=1e-10, tolerance_change=0)
    assert result.nit > 5
    np.testing.assert_allclose(flat, 1.0, atol=1e-8)
    np.testing.assert_array_equal(result.x, flat)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_trains_a_model(dtype: Any) -> None:
    model = nn.Sequential([nn.Dense(2, 4, "tanh"), nn.Dense(4, 1)], rng=1, dtype=dtype)
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype)
    y = np.array([[0], [1], [1], [0]], dtype)
    loss = fp.losses.BinaryCrossEntropyWithLogits()

    def value() -> float:
        found, dy = loss.value_and_grad(model(x, training=True), y)
        model.backward(dy)
        return float(found)  # type: ignore[arg-type]  # a float, reduced

    result = fp.optim.lbfgs(model, value, max_iter=200)
    assert result.fun < 1e-3
    np.testing.assert_array_equal(model(x) > 0, y == 1)


def test_an_error_leaves_the_parameters_as_they_were() -> None:
    x = np.array([3.0, 4.0])
    calls = []

    def fails() -> Any:
        calls.append(x.copy())
        if len(calls) == 3:
            raise KeyboardInterrupt
        return float(x @ x), 2 * x

    with pytest.raises(KeyboardInterrupt):
        fp.optim.lbfgs(x, fails)
    assert not np.array_equal(calls[-1], calls[0])
    assert_same_bits(x, np.array([3.0, 4.0]))
    for result, error, message in (
        ((1.0, np.ones(3)), ValueError, "gradients of value_and_grad has shape"),
        ((1.0, [np.ones(2)]), ValueError, "gradients of value_and_grad is a list of 1"),
        (1.0, TypeError, "value_and_grad returned an object of type float"),
        ((1.0, np.ones(2), 3), TypeError, r"value_and_grad returned a tuple of 3; expected \(value, gradients\)"),
        (("low", np.ones(2)), TypeError, "value_and_grad returned an object of type str as the value"),
    ):
        with pytest.raises(error, match=message):
            fp.optim.lbfgs(x, lambda result=result: result)  # type: ignore[misc]  # bound now
    with pytest.raises(ValueError, match="max_iter is 0"):
        fp.optim.lbfgs(x, fails, max_iter=0)
    assert_same_bits(x, np.array([3.0, 4.0]))


def test_masks_are_not_lost() -> None:
    hidden = np.ma.masked_equal(np.array([3.0, 4.0]), 4)
    with pytest.raises(TypeError, match=r"^params\[1\] is a masked array"):
        fp.optim.lbfgs([np.zeros(2), hidden], lambda: (0.0, [np.zeros(2), np.zeros(2)]))
    x = np.ones(2)
    with pytest.raises(TypeError, match=r"^the gradients of value_and_grad is a masked array"):
        fp.optim.lbfgs(x, lambda: (0.0, hidden))
    assert_same_bits(x, np.ones(2))
