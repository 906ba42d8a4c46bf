"""Classic rules: what they change, and what they can and cannot learn."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from helpers import seeded

import fuseprop as fp
from fuseprop import nn, rules

#: The inputs of two bits.
BITS = np.array(list(itertools.product([0, 1], repeat=2)))
AND, OR, XOR, NOT = BITS.all(axis=1), BITS.any(axis=1), BITS.sum(axis=1) == 1, ~BITS[:, 0].astype(bool)


def learn(x: Any, target: Any, epochs: int) -> tuple[Any, list[int]]:
    """The weights, and the number of mistakes in each epoch, one sample at a time from zero weights."""
    x = rules.with_threshold(x).astype(float)
    w, mistakes = np.zeros(x.shape[1]), []
    for _ in range(epochs):
        wrong = 0
        for sample, y in zip(x, target, strict=True):
            predicted = rules.neuron(sample, w, at_zero=0)
            wrong += int(predicted != y)
            w += rules.perceptron(sample, predicted, y, rate=0.5)
        mistakes.append(wrong)
    return w, mistakes


@pytest.mark.parametrize(("x", "target"), [(BITS, AND), (BITS, OR), (BITS, NOT), (np.array([[0], [1]]), [1, 0])])
def test_the_perceptron_learns(x: Any, target: Any) -> None:
    w, mistakes = learn(x, target, 20)
    assert mistakes[0] > 0
    assert mistakes[-1] == 0
    np.testing.assert_array_equal(rules.neuron(rules.with_threshold(x), w, at_zero=0), target)
    # The weight of the input -1 is the threshold.
    np.testing.assert_array_equal(rules.neuron(x, w[:-1], w[-1], at_zero=0), target)


def test_the_perceptron_oscillates_on_xor() -> None:
    w, mistakes = learn(BITS, XOR, 200)
    assert all(mistakes)
    seen = {tuple(learn(BITS, XOR, epochs)[0]) for epochs in range(100, 120)}
    assert len(seen) <= 4, "the weights go round in a circle"
    assert tuple(w) in seen


def test_a_network_of_two_layers_solves_xor() -> None:
    x, y = BITS.astype(np.float64), XOR.astype(np.float64)[:, np.newaxis]
    model = nn.Sequential([nn.Dense(2, 4, "tanh"), nn.Dense(4, 1)], rng=3, dtype=np.float64)
    loss, optimizer = fp.losses.BinaryCrossEntropyWithLogits(), fp.optim.Adam(model, lr=0.05)
    values = [model.train_step(x, y, loss, optimizer) for _ in range(300)]
    assert values[-1] < 0.05 < values[0]
    np.testing.assert_array_equal(model(x) > 0, y == 1)


def test_neurons_of_mcculloch_and_pitts() -> None:
    np.testing.assert_array_equal(rules.neuron(BITS, [1, 1], 2), AND)
    np.testing.assert_array_equal(rules.neuron(BITS, [1, 1], 1), OR)
    np.testing.assert_array_equal(rules.neuron(BITS, [-1, 0], 0), NOT)
    both = rules.neuron(BITS, [[1, 1], [1, 1]], [2, 1])
    np.testing.assert_array_equal(both, np.stack([AND, OR], axis=1))
    np.testing.assert_array_equal(rules.neuron(both, [-1, 1], 1), XOR)  # two layers
    assert rules.neuron([2.0], [0.5], 1.0) == 1
    assert rules.neuron([2.0], [0.5], 1.0, at_zero=0) == 0
    assert np.isnan(rules.neuron([np.nan], [1.0]))
    step = fp.activations.Step()
    x, w = seeded("neuron").standard_normal((20, 3)), np.array([0.5, -1, 2])
    np.testing.assert_array_equal(rules.neuron(x, w, 0.25), step(x @ w - 0.25))


def test_hebb() -> None:
    assert rules.hebb([1.0, 2.0], 3.0, 0.5).tolist() == [1.5, 3.0]
    assert rules.hebb([1.0, 2.0], [1.0, 0.0, -1.0]).tolist() == [[1, 0, -1], [2, 0, -2]]
    # Sums of outer products store patterns that the same weights bring back.
    patterns = np.array([[1, -1, 1, -1, 1, -1], [1, 1, 1, -1, -1, -1]])
    w = rules.hebb(patterns, patterns, 1 / 6)
    np.testing.assert_array_equal(np.sign(patterns @ w), patterns)


def test_delta_goes_down_the_squared_error() -> None:
    rng = seeded("delta")
    x, target, w = rng.standard_normal((9, 4)), rng.standard_normal((9, 2)), rng.standard_normal((4, 2))
    _, slope = fp.losses.HalfSquaredError().value_and_grad(x @ w, target, reduction="sum")
    np.testing.assert_allclose(rules.delta(x, x @ w, target, 0.1), -0.1 * x.T @ slope, rtol=1e-13, atol=1e-14)
    start = w.copy()
    for _ in range(2000):
        w += rules.delta(x, x @ w, target, 0.02)
    np.testing.assert_allclose(w, np.linalg.lstsq(x, target, rcond=None)[0], rtol=1e-8, atol=1e-8)
    assert not np.allclose(w, start)


@pytest.mark.parametrize("units", [None, 3])
@pytest.mark.parametrize("rule", [rules.delta, rules.perceptron])
def test_a_batch_is_the_sum_of_its_samples(rule: Any, units: Any) -> None:
    rng = seeded("batch")
    shape = (6,) if units is None else (6, units)
    x, out, target = rng.standard_normal((6, 4)), rng.standard_normal(shape), rng.standard_normal(shape)
    total = sum(rule(a, b, c, 0.3) for a, b, c in zip(x, out, target, strict=True))
    found = rule(x, out, target, 0.3)
    assert found.shape == ((4,) if units is None else (4, units))
    np.testing.assert_allclose(found, total, rtol=1e-13, atol=1e-14)
    hebbian = sum(rules.hebb(a, b) for a, b in zip(x, out, strict=True))
    np.testing.assert_allclose(rules.hebb(x, out), hebbian, rtol=1e-13, atol=1e-14)
    assert rule(x.astype(np.float32), out.astype(np.float32), target.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rules.hebb(np.ones((2, 3)), np.ones(3)), ValueError, "post has shape (3,); expected (2,) or (2, U)"),
        (lambda: rules.hebb(1.0, 1.0), ValueError, "pre has shape (); expected (F,)"),
        (lambda: rules.hebb([1.0], ["a"]), TypeError, "post has dtype"),
        (lambda: rules.hebb([1.0], 1.0, -1), ValueError, "rate is -1.0"),
        (lambda: rules.delta([1.0], 1.0, [1.0]), ValueError, "output has shape () and target has shape (1,)"),
        (lambda: rules.perceptron(np.ones((2, 2, 2)), 1.0, 1.0), ValueError, "x has shape (2, 2, 2)"),
        (lambda: rules.neuron([1.0, 2.0], [1.0]), ValueError, "weight has shape (1,); expected (2,) or (2, U)"),
        (lambda: rules.neuron([1.0], [1.0], [1.0, 2.0]), ValueError, "threshold has shape (2,)"),
        (lambda: rules.neuron([1.0], [1.0], at_zero=2), ValueError, "at_zero is 2.0"),
        (lambda: rules.with_threshold(np.ones(2, complex)), TypeError, "x has dtype complex128"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
