"""Losses over classes with labels alone or distributions alone, entropies, and the large-margin softmax."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import (
    LAYER_LOSSES,
    LAYOUTS,
    MARGIN_LOSSES,
    ROW_LOSSES,
    Array,
    Out,
    Parameters,
    assert_same_bits,
    assert_ulp,
    assert_within,
    cases,
    each_dtype,
    laid_out,
    number_of_classes,
    predictions_for,
    row_predictions,
    row_targets,
    seeded,
    targets_for,
    truth,
    widened,
)

import fuseprop as fp
from fuseprop import _registry
from fuseprop._registry import LossSpec

each_case = pytest.mark.parametrize(("spec", "parameters"), cases(ROW_LOSSES))
each_spec = pytest.mark.parametrize("spec", ROW_LOSSES, ids=lambda spec: spec.name)
OF_LABELS = [spec for spec in ROW_LOSSES if spec.target_domain == "labels"]
OF_DISTRIBUTIONS = [spec for spec in ROW_LOSSES if spec.target_domain != "labels"]
REDUCTIONS = ("mean", "sum", "none")
SHAPES = [(1, 1), (4, 2), (64, 10), (3, 33), (2, 5003), (7001, 9)]
LOSSES = fp.losses


def sample(
    spec: LossSpec, parameters: Parameters, shape: tuple[int, int], dtype: Any, spread: float = 3.0
) -> tuple[Array, Array]:
    shape = shape[0], number_of_classes(parameters, shape[1])
    rng = seeded(spec.name, shape, spread)
    pred = row_predictions(spec, (spread * rng.standard_normal(shape)).astype(dtype))
    return pred, row_targets(spec, parameters, shape, dtype, rng)


def dense(target: Array, pred: Array) -> Array:
    """Labels as one-hot rows."""
    return target if target.dtype.kind == "f" else np.eye(pred.shape[-1], dtype=pred.dtype)[target]


def unreduced(loss: Any, pred: Array, target: Array) -> tuple[Array, Array, Array]:
    return (loss(pred, target, None, "none"), *loss.grad_and_hess(pred, target))


# --- accuracy -----------------------------------------------------------------------------------------------


def distribution_bounds(spec: LossSpec, parameters: Parameters, pred: Array, target: Array) -> list[Array]:
    """k roundings of every term; with log_target, of the logarithms whose difference it is too."""
    info = np.finfo(pred.dtype)
    k, tiny = 4 * float(info.eps), 4 * float(info.smallest_subnormal)
    p, t = pred.astype(np.float64), target.astype(np.float64)
    with np.errstate(all="ignore"):
        terms = np.stack(
            [spec.reference(p[..., j : j + 1], t[..., j : j + 1], **parameters)[0] for j in range(p.shape[-1])]
        )
        _, d1, d2 = spec.reference(p, t, **parameters)
        sizes = np.abs(terms).sum(axis=0)
        slack = np.full(p.shape[:-1], tiny * p.shape[-1])
        if parameters.get("log_target"):
            logs = np.where(np.isinf(t) | (p == 0), 0.0, np.exp(t) * (np.abs(t) + np.abs(np.log(p))))
            slack = slack + k * logs.sum(axis=-1)
        return [k * sizes + slack, k * np.abs(d1) + tiny / p, k * np.abs(d2) + tiny / p / p]


def focal_bounds(parameters: Parameters, pred: Array, target: Array, expected: tuple[Array, ...]) -> list[Array]:
    """The error allowed of an exponential (docs/mathematics.md 6); a power magnifies the errors of its base."""
    info = np.finfo(pred.dtype)
    gamma = parameters.get("gamma", 2.0)
    z = pred.astype(np.float64)
    gap = z.max(axis=-1, keepdims=True) - z
    gap = np.minimum(gap, -np.log(float(info.smallest_subnormal)))
    q = dense(target, pred).astype(np.float64)
    e = np.exp(-gap)
    p = e / e.sum(axis=-1, keepdims=True)
    # The others' part of a sum counts as much as they weigh in it.
    top = gap == 0
    others = np.where(top, 0.0, e)
    spread = (others * (1 + gap)).sum(axis=-1, keepdims=True) / np.maximum(others.sum(axis=-1, keepdims=True), 1e-300)
    unit = 6 * float(info.eps) / 2
    rel = unit * (1 + gamma) * (1 + spread + gap + (q * gap).sum(axis=-1, keepdims=True))
    row = (rel * q).sum(axis=-1)
    tiny = 8 * float(info.smallest_subnormal)
    value, d1, d2 = (np.abs(f.astype(np.float64)) for f in expected)
    # The Hessian's two terms may cancel: (1 + gamma)^2 (1 + u) times q^g p bounds each of them.
    weight = np.array(parameters.get("class_weight") or np.ones(pred.shape[-1]))
    p_t = (q * p).sum(axis=-1, keepdims=True)
    rest = np.where(p_t < 0.5, 1 - p_t, np.where(q == 1, 0.0, p).sum(axis=-1, keepdims=True))
    terms = (weight * q).sum(axis=-1, keepdims=True) * rest**gamma * (1 + gamma) ** 2 * 3
    terms = (
        terms
        * np.where(q == 1, rest * p_t, p)
        * (1 + np.minimum(-np.log(np.maximum(p_t, 1e-300)), 1 / np.maximum(p_t, 1e-300)))
    )
    # An exponential that underflows is half a subnormal number off, times what it is multiplied with: up to gamma u.
    u = (q * gap).sum(axis=-1, keepdims=True)
    return [
        row * value + tiny,
        rel * d1 + tiny,
        rel * np.maximum(d2, terms) + tiny * weight.max() * (1 + gamma) * (1 + u),
    ]


def check(spec: LossSpec, parameters: Parameters, pred: Array, target: Array) -> None:
    expected = truth(spec, parameters, widened(pred), widened(dense(target, pred)))
    if spec.name == "softmax_focal":
        bounds = focal_bounds(parameters, pred, target, expected)
    elif spec.target_domain == "labels":
        bounds = [2 * float(np.finfo(pred.dtype).eps) * np.abs(f) for f in expected]
    else:
        bounds = distribution_bounds(spec, parameters, pred, target)
    found = unreduced(spec.cls(**parameters), pred, target)
    for a, e, bound, what in zip(found, expected, bounds, ("value", "d1", "d2"), strict=True):
        assert a.dtype == pred.dtype
        assert_within(a, e, bound, what=what)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each_dtype
@each_case
def test_accuracy(spec: LossSpec, parameters: Parameters, dtype: Any, shape: tuple[int, int], target: str) -> None:
    for spread in (0.01, 3.0, 40.0):
        check(spec, parameters, *sample(spec, parameters, shape, dtype, spread))


@each_dtype
@each_case
def test_derivatives_are_those_of_the_value(spec: LossSpec, parameters: Parameters, dtype: Any) -> None:
    """Fourth-order central differences in float64, of a row's value by each element and of each gradient's own."""
    loss = spec.cls(**parameters)
    pred, target = sample(spec, parameters, (40, 5), dtype, 1.0)
    z = pred.astype(np.float64)
    t = target if spec.target_domain == "labels" else target.astype(np.float64)
    grad, hess = loss.grad_and_hess(pred, target)
    h = np.minimum(1e-3, 1e-2 * np.abs(z)) if spec.pred_domain == "unit" else np.full(z.shape, 1e-3)
    for j in range(z.shape[1]):
        step = np.zeros_like(z)
        step[:, j] = h[:, j]
        near = {
            k: unreduced(loss, np.clip(z + k * step, 0, 1) if spec.pred_domain == "unit" else z + k * step, t)
            for k in (-2, -1, 1, 2)
        }
        inside = (
            np.all((z + 2 * step <= 1) & (z - 2 * step >= 0), axis=1) if spec.pred_domain == "unit" else slice(None)
        )
        for order, actual in ((0, grad[:, j]), (1, hess[:, j])):
            f = {k: v[0] if order == 0 else v[1][:, j] for k, v in near.items()}
            difference = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h[:, j])
            size = (
                np.abs(f[1]) / h[:, j] * 1e-14
                + 1e-6 * (np.abs(difference) + 1e-4)
                + 100 * np.finfo(dtype).eps * (1 + np.abs(difference))
            )
            assert_within(actual.astype(np.float64)[inside], difference[inside], size[inside], what=f"{order}, {j}")


@each_dtype
def test_kl_keeps_its_digits_near_the_minimum(dtype: Any, target: str) -> None:
    """Terms of both signs all but cancel: each must keep its relative accuracy, which log y - log p does not give."""
    eps = float(np.finfo(dtype).eps)
    rng = seeded("near")
    y = (rng.random((50, 6)) / 6).astype(dtype)
    p = (y * (1 + 1e-3 * rng.standard_normal(y.shape))).astype(dtype)
    found = LOSSES.KLDivergence()(p, y, None, "none")
    expected = LOSSES.get("kl").spec.reference(widened(p), widened(y), False)[0]
    assert_within(found, expected, 4 * eps * (np.abs(p - y).sum(axis=1) * 1.01))


@each_dtype
def test_confident_focal_rows_keep_their_digits(dtype: Any, target: str) -> None:
    """1 - p is the sum of the others: tiny, not 0."""
    pred = np.zeros((5, 3), dtype)
    pred[:, 1] = [5.0, 12.0, 20.0, 30.0, 40.0]
    for gamma in (0.5, 1.0, 2.0):
        labels = np.ones(5, int)
        value, grad, hess = unreduced(LOSSES.SoftmaxFocal(gamma), pred, labels)
        q = 2 * np.exp(-pred[:, 1].astype(np.longdouble))
        q /= 1 + q
        expected = -(q**gamma) * np.log1p(-q)
        rel = 40 * float(np.finfo(dtype).eps) * (1 + pred[:, 1]) * (1 + gamma)
        tiny = float(np.finfo(dtype).smallest_subnormal)
        assert_within(value, expected, rel * expected + tiny)
        slope = q ** (gamma + 1) * (1 + gamma * (1 - q) * -np.log1p(-q) / q)
        assert_within(-grad[:, 1], slope, rel * slope + tiny)
        assert np.all(hess[:3] > 0)


@each_dtype
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 7.0, 1e6])
def test_focal_at_the_edges(dtype: Any, gamma: float, target: str) -> None:
    """No NaN but from a NaN, a +inf, or nothing but -inf."""
    loss = LOSSES.SoftmaxFocal(gamma)
    largest = np.finfo(dtype).max / 2
    pred = np.array(
        [[0, 1e4, -1e4], [1e4, 0, 0], [-np.inf, 0, 1], [0, -np.inf, -np.inf], [largest, -largest, 0], [0, 0, 0]], dtype
    )
    for label in range(3):
        value, grad, hess = unreduced(loss, pred, np.full(6, label))
        assert not np.isnan(value).any()
        assert np.isfinite(grad).all()
        assert np.isfinite(hess).all()
        assert (value >= 0).all()
    assert loss(pred[2:3], [0]) == math.inf
    assert_same_bits(loss.gradient(pred[3:4], [0]), np.zeros((1, 3), dtype) * dtype([-1, 1, 1]))
    for bad in ([np.nan, 0, 1], [0, 1, np.nan], [np.inf, 0, 1], [-np.inf] * 3, [np.inf, np.inf, 0]):
        for label in range(3):
            for found in unreduced(loss, np.array([bad], dtype), np.array([label])):
                assert np.isnan(found).all()
    for classes in (1, 2):
        assert np.isnan(loss(np.full((1, classes), np.nan, dtype), [0]))
    assert loss(np.zeros((1, 1), dtype), [0]) == 0.0


@each_dtype
@pytest.mark.parametrize("spec", OF_DISTRIBUTIONS, ids=lambda spec: spec.name)
def test_zero_rules(spec: LossSpec, dtype: Any, target: str) -> None:
    loss = spec.cls()
    pred = np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, 1.0], [0.5, 0.5]], dtype)
    y = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, -0.0]], dtype)
    value, grad, hess = unreduced(loss, pred, y)
    assert_same_bits(value, np.array([0, 0, np.inf, 0], dtype))
    assert_same_bits(np.abs(grad), np.array([[0, 1], [0, 1], [np.inf, 0], [0, 0]], dtype))
    assert grad[2, 0] == -np.inf
    assert_same_bits(hess, np.array([[0, 1], [0, 1], [np.inf, 0], [0, 0]], dtype))
    # A NaN prediction, even of a class that is absent, stays in its row.
    pred[3, 0] = np.nan
    value, grad, hess = unreduced(loss, pred, y)
    assert np.isnan(value).tolist() == [False, False, False, True]
    assert np.isnan(grad).sum() == np.isnan(hess).sum() == 1


@each_dtype
def test_kl_of_extremes(dtype: Any, target: str) -> None:
    """y / p may overflow where its logarithm does not; log y of -inf, or of what underflows."""
    info = np.finfo(dtype)
    small = [info.smallest_subnormal, info.tiny, 1e-20, 1.0]
    y, p = (a.ravel()[:, None] for a in np.meshgrid(np.array(small, dtype), np.array(small, dtype)))
    loss = LOSSES.KLDivergence()
    wide = y.astype(np.longdouble), p.astype(np.longdouble)
    expected = (wide[0] * (np.log(wide[0]) - np.log(wide[1])))[:, 0]
    assert_within(
        loss(p, y, None, "none"), expected, 6 * info.eps * np.abs(expected) + 4 * float(info.smallest_subnormal)
    )
    by_log = LOSSES.KLDivergence(log_target=True)
    t = np.array([[-np.inf], [-1e4], [-np.inf], [-1e4], [0.0], [-1.0]], dtype)
    p = np.array([[0.0], [0.0], [0.5], [0.5], [1.0], [0.0]], dtype)
    value, grad, hess = unreduced(by_log, p, t)
    assert_same_bits(value, np.array([0, np.inf, 0, 0, 0, np.inf], dtype))
    assert_same_bits(np.abs(grad[:, 0]), np.array([0, np.inf, 0, 0, 1, np.inf], dtype))
    assert_same_bits(hess[:, 0], np.array([0, np.inf, 0, 0, 1, np.inf], dtype))


# --- rules --------------------------------------------------------------------------------------------------


def row_weights(spec: LossSpec, parameters: Parameters, target: Array, w: Array | None, rows: int) -> Array:
    """What "mean" divides by the sum of."""
    weights = np.ones(rows) if w is None else w.astype(np.float64)
    class_weight = parameters.get("class_weight")
    return weights if class_weight is None else weights * np.array(class_weight)[target]


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(1, 3), (64, 10), (6007, 9), (3, 20_011)], ids=str)
@each_dtype
@each_case
def test_reductions(spec: LossSpec, parameters: Parameters, dtype: Any, shape: tuple[int, int], weighted: bool) -> None:
    loss = spec.cls(**parameters)
    pred, target = sample(spec, parameters, shape, dtype)
    rng = seeded("weights")
    w = (rng.random(shape[0]) * rng.choice([0.0, 1.0], shape[0])).astype(dtype) if weighted else None
    if w is not None:
        w[0] = 0.75
    rows = np.ones(shape[0]) if w is None else w.astype(np.float64)
    denominator = math.fsum(row_weights(spec, parameters, target, w, shape[0]).tolist())
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).smallest_subnormal) * pred.shape[1]
    plain, d1, d2 = unreduced(loss, pred, target)
    # Terms of both signs are rounded one by one.
    sizes = np.abs(plain * rows)
    if spec.name == "kl_divergence":
        sizes = sizes + 2 * rows * np.abs(np.log(np.maximum(pred, np.finfo(dtype).tiny))).max(axis=1)
    none = loss(pred, target, w, "none")
    assert none.shape == shape[:1]
    assert none.dtype == dtype
    rounding = 2 * eps + pred.shape[1] * 2.0**-53  # of the terms, and of their sum in float64
    assert_within(none, plain * rows, rounding * sizes + tiny)
    total, mean = loss(pred, target, w, "sum"), loss(pred, target, w, "mean")
    assert type(total) is type(mean) is float
    assert abs(total - math.fsum((plain * rows).tolist())) <= rounding * sizes.sum() + shape[0] * tiny
    if denominator:
        assert math.isclose(mean, total / denominator, rel_tol=1e-12)
    for reduction, divisor in (("sum", 1.0), ("none", 1.0), ("mean", denominator)):
        gradient = loss.gradient(pred, target, w, reduction)
        true = d1.astype(np.float64) * rows[:, None] / divisor if divisor else np.zeros(d1.shape)
        assert_within(gradient, true, 6 * eps * np.abs(true) + 2 * tiny)
        both = loss.value_and_grad(pred, target, w, reduction)
        assert_same_bits(both, (loss(pred, target, w, reduction), gradient), reduction)
    assert_same_bits(loss.value_and_grad(pred, target, w), loss.value_and_grad(pred, target, w, "mean"))
    grad, hess = loss.grad_and_hess(pred, target, w)
    for found, unweighted in ((grad, d1), (hess, d2)):
        true = unweighted.astype(np.float64) * rows[:, None]
        assert_within(found, true, 6 * eps * np.abs(true) + 2 * tiny)


@each_dtype
@each_case
def test_hess_floor(spec: LossSpec, parameters: Parameters, dtype: Any) -> None:
    loss = spec.cls(**parameters)
    pred, target = sample(spec, parameters, (50, 4), dtype)
    w = seeded("floor").random(50).astype(dtype)
    grad, hess = loss.grad_and_hess(pred, target)
    for floor in (0.0, 0.125, 2.0, -1.0):
        raised = np.where(hess < dtype(floor), dtype(floor), hess)
        assert_same_bits(loss.grad_and_hess(pred, target, None, floor), (grad, raised))
        weighted = loss.grad_and_hess(pred, target, w, floor)[1]
        true = raised.astype(np.float64) * w[:, None]
        assert_within(
            weighted, true, 2 * np.finfo(dtype).eps * np.abs(true) + float(np.finfo(dtype).smallest_subnormal)
        )


@each_dtype
@each_spec
def test_empty_and_weights_of_sum_zero(spec: LossSpec, dtype: Any) -> None:
    loss = spec.cls()
    for shape in ((0, 3), (0, 0)):
        pred = np.empty(shape, dtype)
        target = np.empty(0, int) if spec.target_domain == "labels" else pred
        for w in (None, np.empty(0)):
            value, gradient = loss.value_and_grad(pred, target, w)
            assert value == 0.0
            assert_same_bits(gradient, pred)
            assert loss(pred, target, w, "none").shape == (0,)
            assert_same_bits(loss.grad_and_hess(pred, target, w), (pred, pred))
    if spec.target_domain != "labels":
        nothing = np.empty((3, 0), dtype)
        assert_same_bits(loss(nothing, nothing, None, "none"), np.zeros(3, dtype))
        assert loss(nothing, nothing) == 0.0
    pred, target = sample(spec, {}, (4, 3), dtype)
    value, gradient = loss.value_and_grad(pred, target, np.zeros(4))
    assert value == 0.0
    assert not np.any(gradient)


@each_dtype
@each_spec
def test_leading_axes(spec: LossSpec, dtype: Any) -> None:
    """(..., C) is as many rows; (C,) is one, of value ()."""
    loss = spec.cls()
    pred, target = sample(spec, {}, (12, 5), dtype)
    cube = pred.reshape(3, 4, 5)
    cube_target = target.reshape(3, 4, *target.shape[1:])
    w = seeded("w").random((3, 4))
    value, gradient = loss.value_and_grad(cube, cube_target, w)
    flat_value, flat_gradient = loss.value_and_grad(pred, target, w.ravel())
    assert value == flat_value
    assert_same_bits(gradient, flat_gradient.reshape(cube.shape))
    assert loss(cube, cube_target, None, "none").shape == (3, 4)
    assert loss(pred[0], target[0]) == loss(pred[:1], target[:1])
    assert np.shape(loss(pred[0], target[0], None, "none")) == ()


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
@each_spec
def test_layouts(spec: LossSpec, dtype: Any, layout: str) -> None:
    loss = spec.cls()
    pred, target = sample(spec, {}, (7, 19), dtype)
    expected = loss.value_and_grad(pred, target)
    given = laid_out(pred, layout)
    targets = [target] if target.ndim == 1 else [target, laid_out(target, layout), laid_out(target, "step2")]
    for t in targets:
        assert_same_bits(loss.value_and_grad(given, t), expected)
        out = Out(layout, pred.shape, dtype)
        value, returned = loss.value_and_grad(given, t, out=out.array)
        assert value == expected[0]
        out.assert_received(returned, expected[1])
    for in_place in (pred, target):
        if in_place.ndim == 2:
            out = Out(layout, pred.shape, dtype)
            out.array[...] = in_place
            arguments = [out.array if a is in_place else a for a in (pred, target)]
            out.assert_received(loss.gradient(*arguments, out=out.array), expected[1])


@pytest.mark.parametrize("spec", OF_LABELS, ids=lambda spec: spec.name)
def test_labels_of_any_width(spec: LossSpec) -> None:
    loss = spec.cls()
    pred, labels = sample(spec, {}, (20, 5), np.float32)
    expected = loss.value_and_grad(pred, labels)
    for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">u8"):
        assert_same_bits(loss.value_and_grad(pred, labels.astype(code)), expected)
    assert_same_bits(loss.value_and_grad(pred, labels.tolist()), expected)
    assert_same_bits(loss.value_and_grad(pred, np.repeat(labels, 3)[::3]), expected)
    assert_same_bits(loss(pred, labels > 2), loss(pred, (labels > 2).astype(int)))
    assert_same_bits(loss(pred.tolist(), labels), loss(pred.astype(np.float64), labels))


# --- what they are equal to ---------------------------------------------------------------------------------


@each_dtype
def test_binary_cross_entropy_is_the_case_of_two_classes(dtype: Any) -> None:
    rng = seeded("two")
    p, y = rng.uniform(0.01, 0.99, 200), np.clip(rng.uniform(-0.2, 1.2, 200), 0, 1)
    p, y = np.round(p * 128).astype(dtype) / 128, np.round(y * 128).astype(dtype) / 128  # so that 1 - p is exact
    found = LOSSES.CategoricalCrossEntropy()(np.stack([p, 1 - p], 1), np.stack([y, 1 - y], 1), None, "none")
    assert_within(found, LOSSES.BinaryCrossEntropy()(p, y, None, "none").astype(np.float64), 6 * np.finfo(dtype).eps)


@each_dtype
def test_from_logits(dtype: Any) -> None:
    """NLL of log-softmax, CCE of softmax and focal with gamma 0 are softmax cross-entropy."""
    rng = seeded("logits")
    z = (3 * rng.standard_normal((50, 6))).astype(dtype)
    labels = rng.integers(0, 6, 50)
    q = fp.ops.softmax(rng.standard_normal((50, 6)).astype(dtype))
    fused = LOSSES.SoftmaxCrossEntropy()
    tolerance = 40 * float(np.finfo(dtype).eps)
    assert math.isclose(LOSSES.get("nll")(fp.ops.log_softmax(z), labels), fused(z, labels), rel_tol=tolerance)
    assert math.isclose(LOSSES.get("cce")(fp.ops.softmax(z), q), fused(z, q), rel_tol=tolerance)
    for found, expected in zip(
        unreduced(LOSSES.SoftmaxFocal(0.0), z, labels), unreduced(fused, z, labels), strict=True
    ):
        assert_within(found, expected.astype(np.float64), tolerance * np.abs(expected.astype(np.float64)))


def test_equal_to_torch() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = seeded("torch")
    log_p = np.log(rng.dirichlet(np.ones(5), 30))
    labels, y = rng.integers(0, 5, 30), rng.dirichlet(np.ones(5), 30)
    weights = (0.5, 2.0, 1.25, 0.0, 3.0)

    def torch_gradient(loss: Callable[[Any], Any], x: Array) -> tuple[float, Array]:
        given = torch.tensor(x, requires_grad=True)
        value = loss(given)
        value.backward()
        return value.item(), given.grad.numpy()

    for reduction in ("mean", "sum"):
        value, gradient = torch_gradient(
            lambda x, r=reduction: functional.nll_loss(x, torch.tensor(labels), reduction=r), log_p
        )
        found = LOSSES.NegativeLogLikelihood().value_and_grad(log_p, labels, None, reduction)
        assert math.isclose(found[0], value, rel_tol=1e-13)
        assert np.allclose(found[1], gradient, rtol=1e-13, atol=0)
        torch_reduction = "batchmean" if reduction == "mean" else reduction
        for log_target in (False, True):
            t = np.log(y) if log_target else y
            value, gradient = torch_gradient(
                lambda p, t=t, log=log_target, r=torch_reduction: functional.kl_div(
                    p.log(), torch.tensor(t), reduction=r, log_target=log
                ),
                np.exp(log_p),
            )
            found = LOSSES.KLDivergence(log_target).value_and_grad(np.exp(log_p), t, None, reduction)
            assert math.isclose(found[0], value, rel_tol=1e-12)
            assert np.allclose(found[1], gradient, rtol=1e-12, atol=0)
        # The division by the labels' class weights; torch has it for cross-entropy.
        value, gradient = torch_gradient(
            lambda x, r=reduction: functional.cross_entropy(
                x, torch.tensor(labels), weight=torch.tensor(weights, dtype=torch.float64), reduction=r
            ),
            3 * log_p,
        )
        found = LOSSES.SoftmaxFocal(0.0, weights).value_and_grad(3 * log_p, labels, None, reduction)
        assert math.isclose(found[0], value, rel_tol=1e-12)
        assert np.allclose(found[1], gradient, rtol=1e-11, atol=1e-18)


def test_worked_numbers() -> None:
    """docs/mathematics.md 7."""
    p = [0.7, 0.2, 0.1]
    assert round(float(fp.ops.entropy(p)), 3) == 0.802
    assert np.round(fp.ops.self_information(p), 2).tolist() == [0.36, 1.61, 2.30]
    cce, nll = LOSSES.CategoricalCrossEntropy(), LOSSES.NegativeLogLikelihood()
    for q, expected in (([0.2, 0.5, 0.3], 1.20), ([0.2, 0.2, 0.6], 0.51)):
        assert round(cce([q], [[0.0, 0.0, 1.0]]), 2) == expected
        assert round(nll(np.log([q]), [2]), 2) == expected
        assert round(float(fp.ops.cross_entropy([0.0, 0.0, 1.0], q)), 2) == expected


# --- entropies ----------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("axis", [-1, 0, 1, -3])
def test_entropies(axis: int, dtype: Any, target: str) -> None:
    rng = seeded("entropy", axis)
    p, q = (np.round(rng.random((4, 5, 6)) * 64).astype(dtype) / 64 + dtype(2**-10) for _ in "pq")
    p, q = np.minimum(p, 1), np.minimum(q, 1)
    p[1, 2, 3] = 0
    wide_p, wide_q = p.astype(np.longdouble), q.astype(np.longdouble)
    log_p = np.log(np.where(wide_p == 0, 1, wide_p))
    eps = 4 * float(np.finfo(dtype).eps)
    h, hpq, kl = fp.ops.entropy(p, axis), fp.ops.cross_entropy(p, q, axis), fp.ops.kl_divergence(p, q, axis)
    for found, terms in (
        (h, -wide_p * log_p),
        (hpq, -wide_p * np.log(wide_q)),
        (kl, wide_p * (log_p - np.log(wide_q))),
    ):
        assert found.dtype == dtype
        assert_within(found, terms.sum(axis=axis), eps * np.abs(terms).sum(axis=axis))
    # KL = H(p, q) - H(p)
    assert_within(kl, (hpq - h).astype(np.float64), 2 * eps * (np.abs(hpq) + np.abs(h)).astype(np.float64))
    assert_ulp(fp.ops.self_information(q), -np.log(wide_q), 1 if dtype == np.float32 else 2)
    for function, arguments in ((fp.ops.entropy, (p,)), (fp.ops.cross_entropy, (p, q)), (fp.ops.kl_divergence, (p, q))):
        expected = function(*arguments, axis)
        out = np.empty(expected.shape, dtype)
        assert function(*arguments, axis, out=out) is out
        assert_same_bits(out, expected)
    expected = fp.ops.self_information(q)
    assert fp.ops.self_information(q, out=q) is q
    assert_same_bits(q, expected)


def test_entropies_of_one_row() -> None:
    p = np.array([0.5, 0.5], np.float32)
    assert isinstance(fp.ops.entropy(p), np.float32)
    assert math.isclose(fp.ops.entropy([0.25] * 4), math.log(4))
    assert fp.ops.entropy([1, 0]) == 0.0
    assert fp.ops.self_information(0.0) == math.inf
    assert fp.ops.self_information(1) == 0.0
    assert np.shape(fp.ops.self_information(np.array(0.5))) == ()
    assert fp.ops.kl_divergence([0.5, 0.5], [1.0, 0.0]) == math.inf
    assert fp.ops.kl_divergence([1.0, 0.0], [1.0, 0.0]) == 0.0
    assert fp.ops.entropy(np.empty((3, 0))).tolist() == [0.0] * 3


def test_entropies_refuse() -> None:
    p = np.full((2, 3, 4), 0.25)
    bad = p.copy()
    bad[1, 2, 0] = -0.5
    for axis in (0, 1, 2):
        for function, arguments, name in (
            (fp.ops.entropy, (bad,), "p"),
            (fp.ops.cross_entropy, (bad, p), "p"),
            (fp.ops.cross_entropy, (p, bad), "q"),
            (fp.ops.kl_divergence, (p, bad), "q"),
        ):
            message = rf"^{name}\[1, 2, 0\] is -0.5; {function.__name__} expects values in \[0, 1\]"
            with pytest.raises(ValueError, match=message):
                function(*arguments, axis)
    with pytest.raises(ValueError, match=r"^p\[1, 2, 0\] is -0.5; self_information expects values in \[0, 1\]"):
        fp.ops.self_information(bad)
    out = np.full_like(p, 7.0)
    with pytest.raises(ValueError, match="self_information"):
        fp.ops.self_information(bad, out=out)
    assert (out == 7.0).all()
    for function in (fp.ops.cross_entropy, fp.ops.kl_divergence):
        with pytest.raises(ValueError, match=r"q has shape \(2, 3\) but p has shape \(2, 3, 4\)"):
            function(p, p[..., 0])
        with pytest.raises(TypeError, match="q has dtype float32 but p has dtype float64"):
            function(p, p.astype(np.float32))
        with pytest.raises(ValueError, match="overlaps p"):
            function(p, p.copy(), out=p[..., 0])
    for axis in (3, -4):
        with pytest.raises(ValueError, match=f"axis is {axis}; expected -3 to 2"):
            fp.ops.entropy(p, axis)
    with pytest.raises(TypeError, match="axis must be an integer, found float"):
        fp.ops.entropy(p, 1.0)
    with pytest.raises(ValueError, match=r"p has shape \(\)"):
        fp.ops.entropy(0.5)
    with pytest.raises(ValueError, match=r"out has shape \(2,\); expected \(2, 3\)"):
        fp.ops.entropy(p, out=np.empty(2))
    with pytest.raises(TypeError, match="p has dtype complex128"):
        fp.ops.entropy(p.astype(complex))


# --- bad input ----------------------------------------------------------------------------------------------


def verbs(loss: Any) -> list[Callable[..., Any]]:
    return [loss, loss.gradient, loss.value_and_grad, loss.grad_and_hess]


@each_spec
def test_shapes_and_dtypes(spec: LossSpec) -> None:
    loss = spec.cls()
    pred, target = sample(spec, {}, (4, 3), np.float64)
    for verb in verbs(loss):
        for shape in ((3,), (4, 1), (1, 4), (5,), (4, 4), (3, 4), (4, 3, 1), ()):
            with pytest.raises(ValueError, match="(?s)target.*" + str(shape).replace("(", r"\(").replace(")", r"\)")):
                verb(pred, np.zeros(shape, target.dtype))
        for shape in ((3,), (4, 1), (4, 3), (), (12,)):
            with pytest.raises(ValueError, match=r"sample_weight has shape .*; expected \(4,\)"):
                verb(pred, target, np.ones(shape))
        with pytest.raises(ValueError, match=r"pred has shape \(\)"):
            verb(np.float64(0.5), np.zeros((), target.dtype))
        with pytest.raises(TypeError, match=r"pred has dtype complex128.*real, or np.abs"):
            verb(pred.astype(complex), target)
        with pytest.raises(TypeError, match="target has dtype complex128"):
            verb(pred, target.astype(complex))
        with pytest.raises(TypeError, match="sample_weight has dtype complex128"):
            verb(pred, target, np.ones(4, complex))
        for bad in (None, object(), [[1.0], [1.0, 2.0]]):
            with pytest.raises(TypeError, match="pred"):
                verb(bad, target)
            with pytest.raises((TypeError, ValueError), match="target"):
                verb(pred, bad)
    for verb in verbs(loss)[:3]:
        with pytest.raises(ValueError, match="reduction is 'avg'"):
            verb(pred, target, None, "avg")
    with pytest.raises(ValueError, match="hess_floor is nan"):
        loss.grad_and_hess(pred, target, None, math.nan)
    for out, message in (
        (np.empty((4, 4)), r"out has shape \(4, 4\); expected \(4, 3\)"),
        (np.empty((4, 3), np.float32), "out has dtype float32; expected float64"),
    ):
        with pytest.raises(ValueError, match=message):
            loss.gradient(pred, target, out=out)
    wide = np.zeros((4, 4))
    wide[:, :3] = pred
    with pytest.raises(ValueError, match="out overlaps pred"):
        loss.gradient(wide[:, :3], target, out=wide[:, 1:])


@each_dtype
@pytest.mark.parametrize("spec", OF_LABELS, ids=lambda spec: spec.name)
def test_floors_beyond_the_dtype(spec: LossSpec, dtype: Any) -> None:
    """They act as the nearest number that it has."""
    info = np.finfo(dtype)
    pred = np.array([[1000.0, 0.0, 0.0]], dtype)  # every second derivative is 0
    tiny = 1e-60 if dtype == np.float32 else 5e-324
    for floor, expected in ((1e300, min(float(info.max), 1e300)), (tiny, float(info.smallest_subnormal))):
        assert (spec.cls().grad_and_hess(pred, [0], None, floor)[1] == expected).all()


@each_dtype
@pytest.mark.parametrize("integer", ["i1", "i8", "u1", "u8"])
@pytest.mark.parametrize("spec", OF_LABELS, ids=lambda spec: spec.name)
def test_labels_out_of_range(spec: LossSpec, integer: str, dtype: Any) -> None:
    """Row, label and the number of classes are named; `out` is as it was."""
    loss = spec.cls()
    pred, labels = sample(spec, {}, (9001, 10), dtype)
    info = np.iinfo(integer)
    for row in (0, 9000):
        for label in {10, info.max, info.min, -1} - set(range(10)):
            if not info.min <= label <= info.max:
                continue
            bad = labels.astype(integer)
            bad[row] = label
            message = rf"target\[{row}\] is label {label}; expected 0 to 9 \(pred has C = 10 classes\)"
            for verb in verbs(loss):
                with pytest.raises(ValueError, match=message):
                    verb(pred, bad)
            out = Out("c", pred.shape, dtype)
            for verb in (loss.gradient, loss.value_and_grad):
                with pytest.raises(ValueError, match=message):
                    verb(pred, bad, out=out.array)
            out.assert_untouched()
    with pytest.raises(TypeError, match="target has dtype float64; expected integer labels"):
        loss(pred, labels.astype(float))


@each_dtype
@pytest.mark.parametrize("name", ["pred", "target"])
@pytest.mark.parametrize(("spec", "parameters"), cases(OF_DISTRIBUTIONS))
def test_not_a_probability(spec: LossSpec, parameters: Parameters, name: str, dtype: Any) -> None:
    """Index and value are named; `out` is as it was."""
    loss = spec.cls(**parameters)
    pred, target = sample(spec, parameters, (401, 17), dtype)
    logs = bool(parameters.get("log_target")) and name == "target"
    for row, column in ((0, 0), (200, 5), (400, 16)):
        for value in [0.001, np.inf, np.nan] if logs else [-0.001, 1.5, np.inf, np.nan]:
            if name == "pred" and np.isnan(value):
                continue  # which gives NaN
            arrays = {"pred": pred.copy(), "target": target.copy()}
            arrays[name][row, column] = value
            expects = "logarithms of probabilities, <= 0" if logs else r"values in \[0, 1\]"
            message = rf"{name}\[{row}, {column}\] is {float(dtype(value))!r}; {spec.name} expects {expects}"
            for verb in verbs(loss):
                with pytest.raises(ValueError, match=message):
                    verb(**arrays)
            out = Out("c", pred.shape, dtype)
            for verb in (loss.gradient, loss.value_and_grad):
                with pytest.raises(ValueError, match=message):
                    verb(**arrays, out=out.array)
            out.assert_untouched()


def test_parameters_of_the_focal_loss() -> None:
    focal = LOSSES.SoftmaxFocal
    with pytest.raises(ValueError, match=r"gamma is -0\.5; expected a finite number >= 0"):
        focal(-0.5)
    for bad, message in (
        ([1.0, -1.0], r"class_weight\[1\] is -1.0; expected a finite number >= 0"),
        ([math.nan], r"class_weight\[0\] is nan"),
        ([], "class_weight is empty"),
        ([0.0, 0.0], "class_weight has only zeros; expected at least one number > 0"),
        (2.0, r"class_weight has shape \(\); expected \(C,\), one number for each class"),
        ([[1.0]], r"class_weight has shape \(1, 1\)"),
    ):
        for loss in (focal, LOSSES.SoftmaxCrossEntropy, LOSSES.LinearCrossEntropy):
            with pytest.raises(ValueError, match=message):
                loss(class_weight=bad)
    with pytest.raises(TypeError, match="class_weight is a str; expected an array of numbers"):
        focal(class_weight="ab")
    loss = focal(class_weight=np.array([1, 2, 3]))
    assert loss.class_weight == (1.0, 2.0, 3.0)
    for verb in verbs(loss):
        with pytest.raises(
            ValueError, match=r"class_weight has 3 weights, but pred has C = 4 classes \(shape \(2, 4\)\)"
        ):
            verb(np.zeros((2, 4)), [0, 1])
    with pytest.raises(ValueError, match="margin is 0; expected an integer >= 1"):
        LOSSES.LargeMarginSoftmax(0)


DISTRIBUTION_LOSSES = ["softmax_cross_entropy", "categorical_cross_entropy", "kl_divergence"]


@pytest.mark.parametrize("name", DISTRIBUTION_LOSSES)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_integers_that_are_no_distributions(name: str, dtype: Any) -> None:
    """Labels of the shape of distributions: summed as unnormalised ones, they gave a loss of nothing."""
    loss, pred = LOSSES.get(name), np.full((3, 2), 0.5)
    one_hot = np.array([[0, 1], [1, 0], [0, 1]], dtype)
    assert loss(pred, one_hot) == loss(pred, one_hot.astype(float)) == pytest.approx(np.log(2))
    for rows, row, total in (([[0, 1], [1, 1], [0, 1]], 1, "2.0"), ([[0, 1], [1, 0], [0, 0]], 2, "0.0")):
        for call in (loss, loss.gradient, loss.value_and_grad, loss.grad_and_hess):
            with pytest.raises(
                ValueError, match=rf"target has integers whose row {row} sums to {total}; expected dist"
            ):
                call(pred, np.array(rows, dtype))
    # What fit made of labels for an output of one column.
    with pytest.raises(ValueError, match=re.escape("row 1 sums to 0.0")):
        loss(np.ones((2, 1)), np.array([[1], [0]], dtype))
    # One row of two classes, or two rows of which the classes are missing?
    with pytest.raises(
        ValueError, match=re.escape("target has integers of shape (2,), as pred, which is one row of C = 2")
    ):
        loss(pred[0], np.array([0, 1], dtype))
    assert loss(pred[0], np.array([0.0, 1.0])) == pytest.approx(np.log(2))
    assert np.isfinite(loss(pred, np.array([[0.0, 0.5]] * 3)))  # floats are taken as they are


def test_labels_as_floats_get_advice() -> None:
    z, w = np.zeros((2, 3)), np.eye(3)
    calls: list[tuple[str, Callable[[Array], Any]]] = [
        ("target", lambda y: LOSSES.SoftmaxCrossEntropy()(z, y)),
        ("target", lambda y: LOSSES.NegativeLogLikelihood()(z, y)),
        ("target", lambda y: LOSSES.SoftmaxFocal()(z, y)),
        ("target", lambda y: LOSSES.LargeMarginSoftmax()(z, w, y)),
        ("labels", lambda y: LOSSES.LinearCrossEntropy()(z, w, y)),
    ]
    for name, call in calls:
        advice = re.escape(f"expected integer labels (all are whole numbers: give {name}.astype(int))")
        for dtype in (np.float32, np.float64):
            with pytest.raises(TypeError, match=advice):
                call(np.array([0.0, 2.0], dtype))
        for value in (0.5, np.nan, np.inf):
            with pytest.raises(TypeError, match=r"expected integer labels(, or|$)"):
                call(np.array([0.0, value]))


def test_logits_in_the_place_of_probabilities_get_advice() -> None:
    z = np.array([[1.5, 0.5]])
    for name, takes in (
        ("binary_cross_entropy", "binary_cross_entropy_with_logits takes logits"),
        ("categorical_cross_entropy", "softmax_cross_entropy takes logits"),
        ("kl_divergence", "softmax_cross_entropy takes logits"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"pred[0, 0] is 1.5; {name} expects values in [0, 1]; {takes}")):
            LOSSES.get(name)(z, np.array([[0.5, 0.5]]))
        with pytest.raises(ValueError, match=r"\[0, 1\]$"):
            LOSSES.get(name)(z / 2, z)


# --- large margin -------------------------------------------------------------------------------------------

each_margin = pytest.mark.parametrize(("spec", "parameters"), cases(MARGIN_LOSSES))


def margin_sample(dtype: Any, rows: int = 40) -> tuple[Array, Array, Array]:
    rng = seeded("margin", rows)
    features, weight = rng.standard_normal((rows, 6)).astype(dtype), rng.standard_normal((6, 5)).astype(dtype)
    return features, weight, rng.integers(0, 5, rows)


@each_dtype
@each_margin
def test_large_margin(spec: LossSpec, parameters: Parameters, dtype: Any, target: str) -> None:
    loss = spec.cls(**parameters)
    features, weight, labels = margin_sample(dtype)
    value, d_features, d_weight = spec.reference(
        features.astype(np.float64), weight.astype(np.float64), np.eye(5)[labels], **parameters
    )
    tolerance = 60 * float(np.finfo(dtype).eps) * spec.cls(**parameters).margin ** 2
    w = seeded("margin weights").random(40)
    assert np.allclose(loss(features, weight, labels, None, "none"), value, rtol=tolerance, atol=tolerance)
    for reduction in REDUCTIONS:
        found, gradients = loss.value_and_grad(features, weight, labels, None, reduction)
        assert_same_bits(found, loss(features, weight, labels, None, reduction))
        assert_same_bits(gradients, loss.gradient(features, weight, labels, None, reduction))
        divisor = 40 if reduction == "mean" else 1
        for gradient, expected in zip(gradients, (d_features, d_weight), strict=True):
            assert gradient.dtype == dtype
            assert np.allclose(gradient * divisor, expected, rtol=tolerance, atol=10 * tolerance)
    total, gradients = loss.value_and_grad(features, weight, labels, w, "mean")
    assert math.isclose(total, (value * w).sum() / w.sum(), rel_tol=tolerance)
    parts = [loss.gradient(features[i : i + 1], weight, labels[i : i + 1], w[i : i + 1], "sum") for i in range(40)]
    assert np.allclose(
        gradients[0] * w.sum(), np.concatenate([x for x, _ in parts]), rtol=tolerance, atol=30 * tolerance
    )
    assert np.allclose(gradients[1] * w.sum(), sum(y for _, y in parts), rtol=tolerance, atol=30 * tolerance)


@each_margin
def test_large_margin_gradients_are_those_of_the_value(spec: LossSpec, parameters: Parameters) -> None:
    loss = spec.cls(**parameters)
    features, weight, labels = margin_sample(np.float64, 12)
    gradients = loss.gradient(features, weight, labels)
    h = 1e-4
    for i, array in enumerate((features, weight)):
        for at in np.ndindex(*array.shape):
            values = {}
            for k in (-2, -1, 1, 2):
                moved = [features.copy(), weight.copy()]
                moved[i][at] += k * h
                values[k] = loss(*moved, labels)
            difference = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * h)
            assert math.isclose(gradients[i][at], difference, rel_tol=1e-6, abs_tol=1e-6)


@each_dtype
def test_margin_one_is_softmax_cross_entropy(dtype: Any) -> None:
    features, weight, labels = margin_sample(dtype)
    features[0] = 0
    plain = LOSSES.SoftmaxCrossEntropy()
    for reduction in REDUCTIONS:
        value, d_scores = plain.value_and_grad(fp.ops.matmul(features, weight), labels, None, reduction)
        expected = (
            fp.ops.matmul(d_scores, weight, transpose_b=True),
            fp.ops.matmul(features, d_scores, transpose_a=True),
        )
        found = LOSSES.LargeMarginSoftmax(1).value_and_grad(features, weight, labels, None, reduction)
        assert_same_bits(found, (value, expected))


@pytest.mark.parametrize("margin", [2, 3, 4, 7])
def test_the_labels_score_over_the_angle(margin: int) -> None:
    """With one other class of weight 0, loss = log1p(e^-score): psi falls from 1 to 1 - 2 m, without a step."""
    theta = np.linspace(0, np.pi, 2001)
    features = np.stack([np.cos(theta), np.sin(theta)], 1)
    weight = np.array([[2.0, 0.0], [0.0, 0.0]])
    values = LOSSES.LargeMarginSoftmax(margin)(features, weight, np.zeros(2001, int), None, "none")
    psi = -np.log(np.expm1(values)) / 2
    assert math.isclose(psi[0], 1.0, rel_tol=1e-12)
    assert math.isclose(psi[-1], 1 - 2 * margin, rel_tol=1e-12)
    assert np.all(np.diff(psi) < 1e-12)
    assert np.abs(np.diff(psi)).max() < 2 * margin * np.pi / 2000
    assert np.all(psi <= np.cos(theta) + 1e-12)
    features, weight = np.array([[3.0, 4.0]]), np.array([[4.0, 0.0], [3.0, 1.0]])
    for found in LOSSES.LargeMarginSoftmax(margin).gradient(
        features, 1e3 * features.T @ [[1.0, 0.0]] + 0 * weight, [0]
    ):
        assert np.isfinite(found).all()


@each_dtype
@pytest.mark.parametrize("margin", [2, 3])
def test_zero_norms(margin: int, dtype: Any) -> None:
    """The score is 0, and adds nothing to the gradient."""
    loss = LOSSES.LargeMarginSoftmax(margin)
    rng = seeded("zero norms")
    features, weight = rng.standard_normal((3, 4)).astype(dtype), rng.standard_normal((4, 3)).astype(dtype)
    features[1] = 0
    weight[:, 2] = 0
    labels = np.array([2, 0, 2])
    values, (d_features, d_weight) = loss.value_and_grad(features, weight, labels, None, "none")
    scores = fp.ops.matmul(features, weight)
    assert_same_bits(values, LOSSES.SoftmaxCrossEntropy()(scores, labels, None, "none"))
    d_scores = fp.ops.softmax(scores)
    d_scores[np.arange(3), labels] = 0
    assert np.allclose(d_features, d_scores @ weight.T, rtol=1e-5, atol=1e-6)
    assert np.allclose(d_weight, features.T @ d_scores, rtol=1e-5, atol=1e-6)


def test_large_margin_refuses() -> None:
    loss = LOSSES.LargeMarginSoftmax()
    features, weight, labels = margin_sample(np.float64)
    for verb in verbs(loss)[:3]:
        for arguments, error, message in (
            ((features[0], weight, labels), ValueError, r"features has shape \(6,\); expected two dimensions"),
            ((features, weight[0], labels), ValueError, r"weight has shape \(5,\); expected two dimensions"),
            ((features, weight.T, labels), ValueError, r"weight has shape \(5, 6\); expected 6 rows"),
            ((features, weight.astype(np.float32), labels), TypeError, "weight has dtype float32 but features"),
            ((features.astype(complex), weight, labels), TypeError, "features has dtype complex128.*real, or np.abs"),
            ((features, weight, labels[1:]), ValueError, r"target has shape \(39,\); expected \(40,\)"),
            ((features, weight, labels.astype(float)), TypeError, "target has dtype float64; expected integer labels"),
            ((features, weight, labels, np.ones(3)), ValueError, r"sample_weight has shape \(3,\)"),
            ((features, weight, labels, None, "avg"), ValueError, "reduction is 'avg'"),
        ):
            with pytest.raises(error, match=message):
                verb(*arguments)
        for label in (5, -1, 300):
            bad = labels.copy()
            bad[7] = label
            message = rf"target\[7\] is label {label}; expected 0 to 4 \(weight has C = 5 classes\)"
            with pytest.raises(ValueError, match=message):
                verb(features, weight, bad)
    with pytest.raises(TypeError, match="no derivatives per sample"):
        loss.grad_and_hess(features, weight, labels)
    empty = loss.value_and_grad(features[:0], weight, labels[:0])
    assert empty[0] == 0.0
    assert_same_bits(empty[1], (features[:0], np.zeros_like(weight)))


# --- weights of any size ------------------------------------------------------------------------------------


def all_losses() -> list[Any]:
    """Each loss of the registry as (name, loss, arguments of its verbs for a dtype)."""
    rng = seeded("all losses")
    rows, classes = 60, 5
    labels = rng.integers(0, classes, rows)
    pred = rng.standard_normal((rows, classes))
    features, matrix = rng.standard_normal((rows, 4)), rng.standard_normal((4, classes))
    found: list[Any] = []
    for name, spec in _registry.losses().items():
        if spec.kind_of_value == "metric":  # it has no gradient
            continue
        loss = spec.cls()
        if spec in LAYER_LOSSES:
            arguments: tuple[Any, ...] = (features, matrix, labels)
        elif spec.target_domain == "classes":
            arguments = (pred, labels)
        elif spec in ROW_LOSSES:
            arguments = (row_predictions(spec, pred), row_targets(spec, {}, pred.shape, np.float64, rng))
        else:
            arguments = (predictions_for(spec, pred), targets_for(spec, pred.shape, np.float64, rng))
        found.append(pytest.param(loss, arguments, id=name))
    return found


def flat_gradients(gradients: Any) -> list[Array]:
    return [g for g in (gradients if isinstance(gradients, tuple) else (gradients,)) if g is not None]


@each_dtype
@pytest.mark.parametrize(("loss", "arguments"), all_losses())
def test_uniform_weights_cancel(loss: Any, arguments: tuple[Any, ...], dtype: Any, target: str) -> None:
    """In a mean, whatever their size and sign; in a sum the value is right wherever float64 can hold it."""
    arguments = tuple(a if a.dtype.kind == "i" else a.astype(dtype) for a in arguments)
    value, gradients = loss.value_and_grad(*arguments)
    rooted = type(loss).__name__ == "RootMeanSquaredError"
    sum_of_ones = None if rooted else loss(*arguments, reduction="sum")
    info = np.finfo(dtype)
    ends = [4 * float(info.smallest_subnormal), float(info.tiny) / 100, 1e-20, 1e20, float(info.max) / 1.1]
    for size in [*ends, *(-end for end in ends)]:
        weight = np.full(60, size, dtype)
        found, found_gradients = loss.value_and_grad(*arguments, sample_weight=weight)
        np.testing.assert_allclose(found, value, rtol=20 * float(info.eps), err_msg=f"{size}")
        assert math.isclose(loss(*arguments, sample_weight=weight), found, rel_tol=20 * float(info.eps))
        for one, right in zip(flat_gradients(found_gradients), flat_gradients(gradients), strict=True):
            bound = 40 * float(info.eps) * np.abs(right).max()
            np.testing.assert_allclose(one, right, rtol=0, atol=bound, err_msg=f"{size}")
        exact = 0.0 if rooted else float(weight[0]) * sum_of_ones
        if rooted or not math.isfinite(exact):
            continue
        bound = 20 * float(info.eps) * abs(exact) + 100 * 5e-324
        assert abs(loss(*arguments, sample_weight=weight, reduction="sum") - exact) <= bound, size
        both = loss.value_and_grad(*arguments, sample_weight=weight, reduction="sum")
        assert abs(both[0] - exact) <= bound, size


@each_dtype
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"ignore_index": 3}, {"temperature": 0.01}, {"z_loss": 0.5}], ids=str
)
def test_uniform_class_weights_cancel(options: dict[str, Any], dtype: Any, target: str) -> None:
    rng = seeded("class weights")
    pred, labels = rng.standard_normal((40, 5)).astype(dtype), rng.integers(0, 5, 40)
    matrix, bias = np.eye(5, dtype=dtype), np.ones(5, dtype)
    info = np.finfo(dtype)
    for size in (1e-300, 1e-40, 1e38, 1e300):
        ones, far = (
            {**options, "class_weight": np.full(5, w), "z_loss": options.get("z_loss", 0.0) * w} for w in (1.0, size)
        )
        pairs = [
            (LOSSES.SoftmaxCrossEntropy(**o).value_and_grad(pred, labels) for o in (ones, far)),
            (LOSSES.LinearCrossEntropy(**o).value_and_grad(pred, matrix, labels, bias=bias) for o in (ones, far)),
        ]
        if not options:
            pairs.append(
                LOSSES.SoftmaxFocal(class_weight=o["class_weight"]).value_and_grad(pred, labels) for o in (ones, far)
            )
        for right, found in pairs:
            np.testing.assert_allclose(found[0], right[0], rtol=20 * float(info.eps))
            for one, expected in zip(flat_gradients(found[1]), flat_gradients(right[1]), strict=True):
                bound = 40 * float(info.eps) * np.abs(expected).max()
                np.testing.assert_allclose(one, expected, rtol=0, atol=bound, err_msg=f"{size}")


def weighted_cross_entropy(
    pred: Array, labels: Array, classes: Array, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[Array, Array]:
    """Losses and gradients of rows in long double, which has room for all weights."""
    z, classes = (np.asarray(a, np.longdouble) for a in (pred, classes))
    a = classes * ((1 - label_smoothing) * np.eye(z.shape[1])[labels] + label_smoothing / z.shape[1])
    total = np.logaddexp.reduce(z, axis=1, keepdims=True)
    p = np.exp(z - total)
    losses = (a * (total - z)).sum(axis=1) + z_loss * total[:, 0] ** 2
    gradients = (a.sum(axis=1, keepdims=True) + 2 * z_loss * total) * p - a
    return losses, gradients


@each_dtype
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.5}, {"z_loss": 1e-36}], ids=str)
def test_weights_of_any_size_in_sums(
    options: dict[str, float], count: int, in_place: bool, dtype: Any, target: str
) -> None:
    """The value wherever float64 can hold it, the gradient wherever the dtype can; nothing is NaN."""
    rng = seeded("sums")
    pred, labels = rng.standard_normal((8, count)).astype(dtype), rng.integers(0, count, 8)
    labels[:2] = 0, 1
    info = np.finfo(dtype)
    small, large = float(info.tiny) / 100, float(info.max) / 4
    mixed = np.where(np.arange(count) % 3 == 0, small, np.where(np.arange(count) % 3 == 1, 1.0, 0.0))
    matrix = np.eye(count, dtype=dtype)
    for classes in (*(np.full(count, size) for size in (1e-40, 1e-36, 1.0, 1e30, 1e40)), mixed, mixed + 3):
        for size in (1e-20, 1.0, 1e20, large):
            weight = np.full(8, size, dtype)
            losses, gradients = weighted_cross_entropy(pred, labels, classes, **options)
            losses, gradients = losses * np.longdouble(weight[0]), gradients * np.longdouble(weight[0])
            loss = LOSSES.SoftmaxCrossEntropy(class_weight=classes, **options)
            linear = LOSSES.LinearCrossEntropy(class_weight=classes, **options)
            out = pred.copy() if in_place else None
            logits = pred if out is None else out
            value, gradient = loss.value_and_grad(logits, labels, sample_weight=weight, reduction="sum", out=out)
            text = f"{classes[:3]} {size}"
            values = (
                value,
                loss(pred, labels, sample_weight=weight, reduction="sum"),
                linear(pred, matrix, labels, sample_weight=weight, reduction="sum"),
                linear.value_and_grad(pred, matrix, labels, sample_weight=weight, reduction="sum")[0],
            )
            if losses.sum() < np.finfo(np.float64).max / 4:
                np.testing.assert_allclose(values, float(losses.sum()), rtol=40 * float(info.eps), err_msg=text)
            bound = np.abs(gradients).max()
            if small < bound < info.max / (4 * count):
                limit = 40 * float(info.eps) * float(bound) + 4 * float(info.smallest_subnormal)
                np.testing.assert_allclose(gradient, gradients.astype(dtype), rtol=0, atol=limit, err_msg=text)
            elif bound <= small:
                assert np.isfinite(gradient).all(), text


@each_dtype
def test_products_of_weights_that_vanish(dtype: Any, target: str) -> None:
    """A mean knows none of their size; one whose products add up to 0 is 0."""
    pred, labels = np.zeros((2, 3), dtype), [0, 1]
    weight = np.full(2, 1e-40 if dtype == np.float32 else 1e-200, dtype)
    loss = LOSSES.SoftmaxCrossEntropy(class_weight=[1e-300] * 3)
    value, gradient = loss.value_and_grad(pred, labels, weight)
    assert math.isclose(value, math.log(3), rel_tol=1e-6)
    np.testing.assert_allclose(gradient[0], [-1 / 3, 1 / 6, 1 / 6], rtol=1e-6)
    linear = LOSSES.LinearCrossEntropy(class_weight=[1e-300] * 3)
    assert math.isclose(linear(pred, np.eye(3, dtype=dtype), labels, sample_weight=weight), math.log(3), rel_tol=1e-6)
    # 0.1 + 0.25 - 0.35, which as float32 would not add up to 0.
    classes = np.array([0.1, 0.25, 0.1 + 0.25]) * 2.0**-100
    opposite = np.array([1, 1, -1], dtype)
    found = LOSSES.SoftmaxCrossEntropy(class_weight=classes).value_and_grad(np.eye(3, dtype=dtype), [0, 1, 2], opposite)
    assert found[0] == 0.0
    assert not found[1].any()


@each_dtype
def test_weights_that_cancel_the_class_weights(dtype: Any, target: str) -> None:
    """Only the products count, and they are all 1; a class that does not occur has no influence."""
    rng = seeded("cancel")
    pred, labels = rng.standard_normal((40, 5)).astype(dtype), rng.integers(0, 4, 40)
    sizes = np.array([1e-30, 1.0, 1e30, 1e-37, 1e38])
    weight = (1 / sizes[labels]).astype(dtype)
    info = np.finfo(dtype)
    for loss in (LOSSES.SoftmaxCrossEntropy, LOSSES.SoftmaxFocal):
        value, gradient = loss().value_and_grad(pred, labels)
        found, found_gradient = loss(class_weight=sizes).value_and_grad(pred, labels, weight)
        np.testing.assert_allclose(found, value, rtol=40 * float(info.eps))
        np.testing.assert_allclose(found_gradient, gradient, rtol=0, atol=40 * float(info.eps) * np.abs(gradient).max())


@pytest.mark.parametrize(("loss", "arguments"), all_losses())
def test_negative_weights_multiply(loss: Any, arguments: tuple[Any, ...]) -> None:
    """They are taken as they are; a mean whose weights sum to 0 is 0."""
    weight = np.linspace(-1, 2, 60)
    if type(loss).__name__ == "RootMeanSquaredError":
        residuals = arguments[0] - arguments[1]
        expected = math.sqrt((weight @ (residuals**2).mean(axis=1)) / weight.sum())
        assert math.isclose(loss(*arguments, sample_weight=weight), expected, rel_tol=1e-12)
        # The mean itself is negative, the sum of the weights is not: there is no root.
        worst = np.arange(60) == (residuals**2).mean(axis=1).argmax()
        assert math.isnan(loss(*arguments, sample_weight=np.where(worst, -1.0, 1.01 / 59)))
    else:
        rows = loss(*arguments, reduction="none")
        rows = rows if rows.ndim == 1 else rows.sum(axis=1)
        total = weight @ rows
        np.testing.assert_allclose(loss(*arguments, sample_weight=weight, reduction="sum"), total, rtol=1e-11)
        count = 1 if loss(*arguments, reduction="none").ndim == 1 else 5
        mean = loss(*arguments, sample_weight=weight)
        np.testing.assert_allclose(mean, total / (weight.sum() * count), rtol=1e-11)
    opposite = np.where(np.arange(60) % 2 == 0, 1.0, -1.0)
    value, gradients = loss.value_and_grad(*arguments, sample_weight=opposite)
    assert value == 0.0
    assert not any(g.any() for g in flat_gradients(gradients))
