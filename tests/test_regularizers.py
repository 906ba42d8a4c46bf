"""Regularisers and objectives: values against formulas, gradients against differences, optimizers' penalties."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest
from helpers import assert_same_bits, each_dtype, seeded

import fuseprop as fp
from fuseprop import nn
from fuseprop.regularizers import L1, L2, ElasticNet, mix, objective

ALL = [L1(0.3), L2(0.7), ElasticNet(0.5, 0.25), ElasticNet(0.5, 0.0), ElasticNet(0.5, 1.0), L1(0), L2(0)]
each_regularizer = pytest.mark.parametrize("regularizer", ALL, ids=repr)


def test_values_and_gradients_of_the_formulas() -> None:
    w = np.array([2.0, -1.0, 0.0])
    assert L1(0.5)(w) == 1.5
    assert L2(0.5)(w) == 1.25
    assert ElasticNet(0.5, 0.25)(w) == pytest.approx(0.5 * (0.25 * 3 + 0.375 * 5))
    assert L1(0.5).gradient(w).tolist() == [0.5, -0.5, 0.0]
    assert L2(0.5).gradient(w).tolist() == [1.0, -0.5, 0.0]
    np.testing.assert_allclose(ElasticNet(0.5, 0.25).gradient(w), [0.125 + 0.75, -0.125 - 0.375, 0], rtol=1e-15)


@each_regularizer
def test_gradient_is_the_derivative(regularizer: Any) -> None:
    w = seeded("regularizers").uniform(0.1, 2, 6) * [1, -1, 1, -1, 1, -1]
    h = 1e-5
    for i, slope in enumerate(regularizer.gradient(w)):
        up, down = w.copy(), w.copy()
        up[i] += h
        down[i] -= h
        # Of a quadratic the central difference is exact; what is left is the rounding of values of about 10.
        assert (regularizer(up) - regularizer(down)) / (2 * h) == pytest.approx(slope, abs=10 * 2**-52 / h * 4)


@each_dtype
@each_regularizer
def test_arrangements(regularizer: Any, dtype: Any) -> None:
    rng = seeded("arrangements")
    a, b = rng.standard_normal((3, 4)).astype(dtype), rng.standard_normal(5).astype(dtype)
    value = regularizer(a) + regularizer(b)
    for params in ([a, b], (a, b), {"a": a, "b": b}):
        found, gradient = regularizer.value_and_grad(params)
        assert isinstance(found, float)
        assert found == pytest.approx(value, rel=1e-14)
        parts = list(gradient.values()) if isinstance(gradient, dict) else gradient
        assert_same_bits(tuple(parts), (regularizer.gradient(a), regularizer.gradient(b)))
        assert parts[0].dtype == dtype
    assert regularizer([]) == 0.0
    assert regularizer(np.zeros((0, 2))) == 0.0
    # Strides do not matter.
    np.testing.assert_array_equal(regularizer.gradient(a.T), regularizer.gradient(a).T)


@each_regularizer
def test_penalties_of_an_optimizer_are_the_same_gradient(regularizer: Any) -> None:
    rng = seeded("penalties")
    x = rng.standard_normal((4, 5))
    x[0, 0] = 0.0
    y = x.copy()
    ours, theirs = fp.optim.Adam(x, lr=0.1, **regularizer.penalties), fp.optim.Adam(y, lr=0.1)
    for _ in range(10):
        g = rng.standard_normal((4, 5))
        ours.step(g)
        theirs.step(g + regularizer.gradient(y))
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14)


def test_objective_of_a_model() -> None:
    model = nn.Sequential([nn.Dense(3, 4, "tanh"), nn.Dense(4, 2)], rng=1, dtype=np.float64)
    rng = seeded("objective")
    x, target = rng.standard_normal((8, 3)), rng.standard_normal((8, 2))
    loss, regularizer = fp.losses.HalfSquaredError(), ElasticNet(0.1, 0.3)

    def risk() -> float:
        return float(loss(model(x), target)) + regularizer(model)

    value, dy = loss.value_and_grad(model(x, training=True), target)
    model.backward(dy)
    before = model.flat_gradients.copy()
    total, gradient = objective(float(value), model, model, regularizer)
    assert total == pytest.approx(risk(), rel=1e-14)
    np.testing.assert_array_equal(model.flat_gradients, before)
    w, h = model.flat_parameters, 1e-6
    for i in (0, 7, 20):
        start = w[i]
        w[i] = start + h
        up = risk()
        w[i] = start - h
        down = risk()
        w[i] = start
        # Rounding of the values, and h^2 times third derivatives of the size of 1.
        assert (up - down) / (2 * h) == pytest.approx(gradient[i], abs=4 * 2**-52 / h + 10 * h**2)


def test_mix() -> None:
    w, g = {"w": np.array([1.0, -2.0])}, {"w": np.array([4.0, 8.0])}
    value, gradient = mix(10.0, g, w, 0.75)
    assert value == 7.5 + 0.25 * 5
    assert gradient["w"].tolist() == [3.5, 5.0]
    assert mix(10.0, g, w, 1)[0] == 10.0
    assert mix(10.0, g, w, 0)[1]["w"].tolist() == [2.0, -4.0]
    values, gradients = objective(1.0, [np.ones(2)], [np.array([1.0, -1.0])], L1(0.5))
    assert (values, gradients[0].tolist()) == (2.0, [1.5, 0.5])


@each_dtype
def test_arrays_without_dimensions(dtype: Any) -> None:
    w, g = np.array(2.0, dtype), np.array(1.0, dtype)
    optimizer = fp.optim.SGD({"w": w}, lr=1.0)
    for regularizer in ALL:
        _, total = objective(1.0, {"w": g}, {"w": w}, regularizer)
        for gradient in (regularizer.gradient(w), total["w"], mix(1.0, g, w, 0.5)[1]):
            assert isinstance(gradient, np.ndarray)
            assert (gradient.dtype, gradient.shape) == (dtype, ())
        optimizer.step(total)


def test_values() -> None:
    for regularizer in ALL:
        assert pickle.loads(pickle.dumps(regularizer)) == copy.copy(regularizer) == regularizer
        assert eval(repr(regularizer), {"L1": L1, "L2": L2, "ElasticNet": ElasticNet}) == regularizer
        with pytest.raises(AttributeError):
            regularizer.factor = 1.0


def test_infinite_weights() -> None:
    w = np.array([np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(L1(0.5).gradient(w), [0.5, -0.5, np.nan])
    np.testing.assert_array_equal(L2(0.5).gradient(w), [np.inf, -np.inf, np.nan])
    assert L1(1)(w[:2]) == np.inf
    assert np.isnan(L2(1)(w))
    assert L2(2.0)(np.full(2, 1e30, np.float32)) == pytest.approx(2e60, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: L1(-1), ValueError, "factor is -1.0"),
        (lambda: L2("a"), TypeError, "factor must be a number"),
        (lambda: ElasticNet(1, 1.5), ValueError, "l1_ratio is 1.5"),
        (lambda: L1(1)(np.ones(3, int)), TypeError, "params is an array of shape (3,) and dtype int64"),
        (lambda: L1(1)({"a": [1.0]}), TypeError, "params['a'] is a list of 1"),
        (lambda: L1(1)(3.0), TypeError, "params must be a model, an array, a list or a dict of arrays, found"),
        (lambda: mix(1.0, np.ones(3), np.ones(3), 1.5), ValueError, "share is 1.5"),
        (lambda: mix(1.0, np.ones(2), np.ones(3), 0.5), ValueError, "grads has shape (2,); expected its parameter's"),
        (lambda: objective(1.0, [], [np.ones(3)], L1(1)), ValueError, "grads is a list of 0; expected a list of 1"),
        (
            lambda: objective(1.0, np.ones(2), np.ones(2, np.float32), L1(1)),
            TypeError,
            "grads has dtype float64; expected its parameter's, float32: cast it with .astype(np.float32)",
        ),
        (lambda: objective(1.0, np.ones(2), np.ones(2), 3), TypeError, "regularizer must be a Regularizer, found"),
        (lambda: objective(1.0, {}, {"a": np.ones(3)}, L1(1)), ValueError, "expected a dict with the keys ['a']"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
