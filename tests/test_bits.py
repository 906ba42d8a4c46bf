"""The same bits everywhere: targets with fused multiply-add, threads, alignment, and position.

See "How the bits stay the same" in CONTRIBUTING.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import (
    ACTIVATIONS,
    CLASS_LOSSES,
    FMA_TARGETS,
    LARGE,
    LOSSES,
    MARGIN_LOSSES,
    ROW_LOSSES,
    STRUCTURED,
    Array,
    assert_same_bits,
    cases,
    each_dtype,
    extremes,
    number_of_classes,
    numbers,
    predictions_for,
    row_predictions,
    row_targets,
    seeded,
    targets_for,
)

import fuseprop as fp

Results = dict[str, Any]

#: Odd, longer than what one thread gets, and not a whole number of blocks.
ROWS, COLUMNS = 1201, 83


def activation_results(spec: Any, parameters: Any, dtype: Any) -> Results:
    act = spec.cls(**parameters)
    x = numbers(LARGE, dtype, seeded("bits"))
    x[-100:] = np.resize(extremes(dtype), 100)
    dy = numbers(LARGE, dtype, seeded("bits", "dy"))
    return {"value": act(x), "derivative": act.derivative(x), "backward": act.backward(x, dy)}


def structured_results(spec: Any, parameters: Any, dtype: Any) -> Results:
    act = spec.cls(**parameters)
    results: Results = {}
    last = parameters.get("num_parameters", 1)
    for shape in ((1212, 84), (12, 1200, 12), (2412, 12), (24, 6000)):
        rng = seeded("bits", shape)
        x = (4 * rng.standard_normal(shape if last == 1 else (*shape[:-1], last))).astype(dtype)
        x = x[:: -1 if parameters.get("axis") != 0 else 1]
        dy = rng.standard_normal(act.output_shape(x.shape)).astype(dtype)
        dx, gradients = act.backward_params(x, dy, params=act.init_params(dtype))
        results |= {f"value {shape}": act(x), f"backward {shape}": dx}
        results |= {f"{name} {shape}": gradient for name, gradient in gradients.items()}
    return results


def learned_results(dtype: Any) -> Results:
    act = fp.activations.Swish(learn_beta=True)
    x, dy = (seeded("beta", k).standard_normal(LARGE).astype(dtype) for k in "xy")
    return {"swish": act.backward_params(5 * x, dy, params={"beta": np.array([1.25], dtype)})}


def verbs_of_loss(loss: Any, pred: Array, target: Array, weight: Array) -> Results:
    results: Results = {"hessian": loss.grad_and_hess(pred, target, weight, 0.05)}
    for reduction in ("mean", "sum", "none"):
        results[reduction] = loss(pred, target, weight, reduction)
        results[f"{reduction}, unweighted"] = loss.value_and_grad(pred, target, None, reduction)
        results[f"{reduction}, both"] = loss.value_and_grad(pred, target, weight, reduction)
    return results


def loss_results(spec: Any, parameters: Any, dtype: Any) -> Results:
    rng = seeded(spec.name, "bits")
    pred = predictions_for(spec, (5 * rng.standard_normal((ROWS, COLUMNS))).astype(dtype))
    weight = rng.random(ROWS).astype(dtype)
    loss = spec.cls(**parameters)
    if spec.target_domain != "classes":
        return verbs_of_loss(loss, pred, targets_for(spec, pred.shape, dtype, rng), weight)
    distributions = rng.random(pred.shape).astype(dtype)
    results = verbs_of_loss(loss, pred, rng.integers(0, COLUMNS, ROWS), weight)
    return results | {f"q {k}": v for k, v in verbs_of_loss(loss, pred, distributions, weight).items()}


def row_loss_results(spec: Any, parameters: Any, dtype: Any) -> Results:
    results: Results = {}
    for rows, classes in ((ROWS, COLUMNS), (9, 11_003), (20_000, 5)):
        shape = rows, number_of_classes(parameters, classes)
        rng = seeded(spec.name, "bits", shape)
        pred = row_predictions(spec, (5 * rng.standard_normal(shape)).astype(dtype))
        weight = rng.random(rows).astype(dtype)
        target = row_targets(spec, parameters, shape, dtype, rng)
        found = verbs_of_loss(spec.cls(**parameters), pred, target, weight)
        results |= {f"{name} {shape}": value for name, value in found.items()}
    return results


def margin_results(spec: Any, parameters: Any, dtype: Any) -> Results:
    rng = seeded(spec.name, "bits")
    features, weight = rng.standard_normal((ROWS, 40)).astype(dtype), rng.standard_normal((40, 11)).astype(dtype)
    loss, labels = spec.cls(**parameters), rng.integers(0, 11, ROWS)
    return {r: loss.value_and_grad(features, weight, labels, None, r) for r in ("mean", "sum", "none")}


def ops_results(dtype: Any) -> Results:
    rng = seeded("ops bits")

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    results: Results = {}
    for m, k, n in ((1, 700, 90), (900, 700, 1), (900, 64, 10), (70, 65, 130), (257, 1100, 300), (700, 20, 300)):
        x, weight, bias, du = normal(m, k), normal(k, n), normal(n), normal(m, n)
        results[f"matmul {m, k, n}"] = fp.ops.matmul(x, weight)
        results[f"linear {m, k, n}"] = fp.ops.linear(x, weight, bias, activation="tanh", return_preactivation=True)
        results[f"backward {m, k, n}"] = fp.ops.linear_backward(x, weight, du)
        u = results[f"linear {m, k, n}"][1]
        folded = fp.ops.linear_backward(x, weight, du, activation="gelu", preactivation=u)
        results[f"backward of gelu {m, k, n}"] = folded
    for shape in ((ROWS, COLUMNS), (9, 11_003), (20_000, 5)):
        x = 5 * normal(*shape)
        for function in (fp.ops.softmax, fp.ops.log_softmax, fp.ops.logsumexp):
            results[f"{function.__name__} {shape}"] = function(x)
        p, q = fp.ops.softmax(x), fp.ops.softmax(2 * x)
        results[f"entropy {shape}"] = fp.ops.entropy(p, 0), fp.ops.self_information(p)
        results[f"divergence {shape}"] = fp.ops.cross_entropy(p, q), fp.ops.kl_divergence(p, q)
    return results


COMPUTATIONS: list[Any] = [
    *(pytest.param(lambda dtype, v=c.values: activation_results(*v, dtype), id=c.id) for c in cases(ACTIVATIONS)),
    *(pytest.param(lambda dtype, v=c.values: structured_results(*v, dtype), id=c.id) for c in cases(STRUCTURED)),
    *(
        pytest.param(lambda dtype, v=c.values: loss_results(*v, dtype), id=c.id)
        for c in cases([*LOSSES, *CLASS_LOSSES])
    ),
    *(pytest.param(lambda dtype, v=c.values: row_loss_results(*v, dtype), id=c.id) for c in cases(ROW_LOSSES)),
    *(pytest.param(lambda dtype, v=c.values: margin_results(*v, dtype), id=c.id) for c in cases(MARGIN_LOSSES)),
    pytest.param(ops_results, id="ops"),
    pytest.param(learned_results, id="learned"),
]
each_computation = pytest.mark.parametrize("compute", COMPUTATIONS)


def assert_same_results(actual: Results, expected: Results, what: object) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert_same_bits(actual[name], value, f"{what}, {name}")


@pytest.mark.skipif(len(FMA_TARGETS) < 2, reason="this machine has one target with fused multiply-add at most")
@each_dtype
@each_computation
def test_targets(compute: Callable[..., Results], dtype: Any) -> None:
    with fp.simd_target(FMA_TARGETS[0]):
        expected = compute(dtype)
    for name in FMA_TARGETS[1:]:
        with fp.simd_target(name):
            assert_same_results(compute(dtype), expected, name)


@each_dtype
@each_computation
def test_threads(compute: Callable[..., Results], dtype: Any, target: str) -> None:
    with fp.num_threads(1):
        expected = compute(dtype)
    for n in (2, 16):
        with fp.num_threads(n):
            assert_same_results(compute(dtype), expected, n)


@each_dtype
@pytest.mark.parametrize(("spec", "parameters"), cases(ACTIVATIONS))
def test_position_of_an_element(spec: Any, parameters: Any, dtype: Any, target: str) -> None:
    """f(x)[a:b] == f(x[a:b]) for slices of all lengths and alignments."""
    act = spec.cls(**parameters)
    x = numbers(70_001, dtype, seeded("position"))
    dy = x[::-1].copy()
    rng = seeded("slices")
    whole = act(x), act.derivative(x), act.backward(x, dy)
    starts = [0, 1, 2, 3, 5, 8190, *rng.integers(0, 69_000, 20)]
    for start in starts:
        part = slice(int(start), int(start) + int(rng.choice([1, 7, 40, 700, 60_000])))
        found = act(x[part]), act.derivative(x[part]), act.backward(x[part], dy[part])
        assert_same_bits(found, tuple(w[part] for w in whole), str(part))


@each_dtype
@pytest.mark.parametrize(("spec", "parameters"), cases(LOSSES))
def test_position_of_a_sample(spec: Any, parameters: Any, dtype: Any, target: str) -> None:
    loss = spec.cls(**parameters)
    rng = seeded(spec.name, "position")
    pred = predictions_for(spec, (5 * rng.standard_normal(70_001)).astype(dtype))
    y = targets_for(spec, pred.shape, dtype, rng)
    w = rng.random(pred.size).astype(dtype)
    whole = loss(pred, y, w, "none"), *loss.grad_and_hess(pred, y, w)
    for start in (0, 1, 3, 1023, 8191, 30_000):
        for length in (1, 30, 1025, 9000, 40_000):
            part = slice(start, start + length)
            found = loss(pred[part], y[part], w[part], "none"), *loss.grad_and_hess(pred[part], y[part], w[part])
            assert_same_bits(found, tuple(a[part] for a in whole), str(part))


@each_dtype
@pytest.mark.parametrize("spec", CLASS_LOSSES, ids=lambda spec: spec.name)
def test_position_of_a_row(spec: Any, dtype: Any, target: str) -> None:
    loss = spec.cls()
    rng = seeded(spec.name, "rows")
    for classes in (2, 7, 10, 33, 1000):
        pred = (5 * rng.standard_normal((71, classes))).astype(dtype)
        labels = rng.integers(0, classes, 71)
        whole = loss(pred, labels, None, "none"), *loss.grad_and_hess(pred, labels)
        for part in (slice(0, 1), slice(1, 2), slice(3, 20), slice(5, 71), slice(70, 71)):
            found = loss(pred[part], labels[part], None, "none"), *loss.grad_and_hess(pred[part], labels[part])
            assert_same_bits(found, tuple(a[part] for a in whole), f"{classes}, {part}")


@each_dtype
@pytest.mark.parametrize("offset", [1, 2, 3, 5])
@pytest.mark.parametrize("spec", [*LOSSES, *CLASS_LOSSES], ids=lambda spec: spec.name)
def test_alignment_of_sums(spec: Any, offset: int, dtype: Any, target: str) -> None:
    """Values do not depend on where the arrays start in memory, nor on strides."""
    loss = spec.cls()
    rng = seeded(spec.name, "alignment")
    pred = predictions_for(spec, (5 * rng.standard_normal((ROWS, 7))).astype(dtype))
    y: Array = rng.integers(0, 7, ROWS)
    if spec.target_domain != "classes":
        y = targets_for(spec, pred.shape, dtype, rng)
    expected = loss.value_and_grad(pred, y)

    def moved(x: Array) -> Array:
        memory = np.empty(x.size + offset, x.dtype)
        memory[offset:] = x.ravel()
        return memory[offset:].reshape(x.shape)

    assert_same_bits(loss.value_and_grad(moved(pred), moved(y)), expected)
    assert_same_bits(loss.value_and_grad(np.repeat(pred, offset, axis=1)[:, ::offset], y), expected)


@each_dtype
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_alignment_of_products(offset: int, dtype: Any, target: str) -> None:
    rng = seeded("products")
    a, b = rng.standard_normal((61, 75)).astype(dtype), rng.standard_normal((75, 70)).astype(dtype)
    memory = np.zeros(a.size + b.size + 2 * offset, dtype)
    moved_a = memory[offset : offset + a.size].reshape(a.shape)
    moved_b = memory[2 * offset + a.size :].reshape(b.shape)
    moved_a[...], moved_b[...] = a, b
    assert_same_bits(fp.ops.matmul(moved_a, moved_b), fp.ops.matmul(a, b))
    for function in (fp.ops.softmax, fp.ops.log_softmax, fp.ops.logsumexp):
        assert_same_bits(function(moved_a), function(a))
