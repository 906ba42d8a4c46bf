"""Losses over classes: softmax cross-entropy with labels and with distributions."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from helpers import (
    CLASS_LOSSES,
    LAYOUTS,
    Array,
    Out,
    assert_same_bits,
    assert_within,
    each_dtype,
    exact_truth,
    laid_out,
    seeded,
    truth,
    widened,
)
from hypothesis import given
from hypothesis import strategies as st

import fuseprop as fp
from fuseprop._registry import LossSpec

REDUCTIONS = ("mean", "sum", "none")
#: (rows, classes): short rows, rows around a vector, long rows, and enough of them for several threads.
SHAPES = [(1, 1), (1, 2), (5, 1), (64, 10), (3, 16), (7, 17), (9, 33), (2, 1000), (3, 5003), (2003, 37), (7001, 10)]
INTEGERS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)

each_spec = pytest.mark.parametrize("spec", CLASS_LOSSES, ids=lambda spec: spec.name)
each_kind = pytest.mark.parametrize("kind", ["labels", "distribution", "unnormalised"])


def one_hot(labels: Array, classes: int, dtype: Any) -> Array:
    return np.eye(classes, dtype=dtype)[labels]


def sample(shape: tuple[int, int], dtype: Any, kind: str, spread: float = 3.0) -> tuple[Array, Array]:
    """Logits and targets, which are labels, distributions, or of a sum other than 1 with zeros in them."""
    rng = seeded(shape, kind, spread)
    rows, classes = shape
    pred = (spread * rng.standard_normal(shape)).astype(dtype)
    if kind == "labels":
        return pred, rng.integers(0, classes, rows)
    q = rng.random(shape) * rng.choice([0.0, 1.0], shape)
    q[np.arange(rows), rng.integers(0, classes, rows)] = 1.0
    if kind == "distribution":
        q /= q.sum(axis=1, keepdims=True)
    return pred, q.astype(dtype)


def dense(target: Array, pred: Array) -> Array:
    return target if target.ndim == pred.ndim else one_hot(target, pred.shape[-1], pred.dtype)


class Bounds:
    """A relative error of 6 u (1 + abs(x - max)) of each e^(x - max), and what follows (docs/mathematics.md 6)."""

    C = 6

    def __init__(self, pred: Array, dtype: Any = None) -> None:
        dtype = pred.dtype if dtype is None else dtype
        z = pred.astype(np.float64)
        gap = z.max(axis=-1, keepdims=True) - z
        self.unit = self.C * float(np.finfo(dtype).eps) / 2
        # Beyond the distance at which e^-gap underflows nothing more is lost.
        relative = self.unit * (1 + np.minimum(gap, -np.log(np.finfo(dtype).smallest_subnormal)))
        e = np.exp(-gap)
        total = e.sum(axis=-1, keepdims=True)
        self.p = e / total
        p_error = relative + (self.p * relative).sum(axis=-1, keepdims=True)  # of e_j and of the sum
        self.p_error = self.p * p_error
        # Of 1 - p_j, which is the sum of the others: exactly that for the largest, where it may be tiny.
        top = np.arange(e.shape[-1]) == z.argmax(axis=-1)[..., None]
        others = np.where(top, 0.0, self.p_error).sum(axis=-1, keepdims=True)
        self.complement = np.where(top, others, self.p_error.sum(axis=-1, keepdims=True))
        # Of log p_j = -gap_j - log1p(the sum without the largest).
        rest = np.where(top, 0.0, e * relative).sum(axis=-1, keepdims=True)
        self.log_p = self.unit * gap + 2 * rest


def check(loss: Any, pred: Array, target: Array, expected: tuple[Array, Array, Array]) -> None:
    """Values, gradients and Hessians against the truth, each within its bound."""
    q = dense(target, pred).astype(np.float64)
    total = q.sum(axis=-1, keepdims=True)
    tiny = 4 * float(np.finfo(pred.dtype).smallest_subnormal) * np.maximum(total, 1)
    bounds = Bounds(pred)
    value, grad, hess = expected
    value_bound = (q * bounds.log_p).sum(axis=-1) + bounds.unit * np.abs(value)  # terms of one sign
    assert_within(loss(pred, target, None, "none"), value, value_bound + tiny[..., 0], what="value")
    found_grad, found_hess = loss.grad_and_hess(pred, target)
    # A p - q: each term's error, unless q is one-hot: then nothing may cancel.
    label = (q == total) & (total > 0)
    one_hot_row = label.any(axis=-1, keepdims=True)
    spread = bounds.unit * np.where(one_hot_row, np.abs(grad), total * bounds.p + q)
    bound = total * np.where(label, bounds.complement, bounds.p_error) + spread + tiny
    assert_within(found_grad, grad, bound, pred, what="gradient")
    bound = total * ((1 - bounds.p) * bounds.p_error + bounds.p * bounds.complement) + bounds.unit * np.abs(hess)
    assert_within(found_hess, hess, bound + tiny, pred, what="Hessian")


def truth_softmax(pred: Array) -> Array:
    z = pred.astype(np.float64)
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


# --- accuracy -----------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each_dtype
@each_spec
def test_accuracy(spec: LossSpec, dtype: Any, shape: tuple[int, int], kind: str, target: str) -> None:
    for spread in (0.01, 3.0, 40.0):
        pred, labels = sample(shape, dtype, kind, spread)
        check(spec.cls(), pred, labels, truth(spec, {}, widened(pred), widened(dense(labels, pred))))


@each_dtype
@each_spec
def test_every_number_of_classes(spec: LossSpec, dtype: Any, target: str) -> None:
    for classes in range(1, 70):
        pred, labels = sample((5, classes), dtype, "labels")
        check(spec.cls(), pred, labels, truth(spec, {}, widened(pred), widened(one_hot(labels, classes, dtype))))


@each_spec
def test_float64_against_many_digits(spec: LossSpec, target: str) -> None:
    loss = spec.cls()
    for kind in ("labels", "distribution"):
        pred, labels = sample((12, 7), np.float64, kind, 9.0)
        for row in range(12):
            z, q = pred[row], dense(labels, pred)[row]
            exact = exact_truth(spec, {}, z, q)
            value, grad, hess = (np.array([float(v) for v in e]) for e in exact)
            expected = value[:1], grad[None], hess[None]
            check(loss, z[None], labels[row : row + 1], expected)


@each_dtype
@each_spec
def test_confident_rows_keep_their_digits(spec: LossSpec, dtype: Any, target: str) -> None:
    """Where p is nearly 1, loss, gradient and Hessian are tiny, not zero: p - 1 must not be formed by subtraction."""
    gap = np.array([5.0, 20.0, 40.0, 80.0])
    pred = np.zeros((4, 3), dtype)
    pred[:, 1] = gap
    labels = np.ones(4, int)
    expected = truth(spec, {}, widened(pred), widened(one_hot(labels, 3, dtype)))
    assert np.all(expected[0] > 0)
    check(spec.cls(), pred, labels, expected)


@each_kind
@each_dtype
@each_spec
def test_derivatives_are_those_of_the_value(spec: LossSpec, dtype: Any, kind: str) -> None:
    """Fourth-order central differences in float64, of the value by each logit and of each gradient's own."""
    loss = spec.cls()
    pred, labels = sample((6, 5), dtype, kind)
    z = pred.astype(np.float64)
    q = labels if kind == "labels" else labels.astype(np.float64)
    grad, hess = loss.grad_and_hess(pred, labels)
    h = 1e-3
    for j in range(5):
        step = h * one_hot(np.full(6, j), 5, np.float64)
        values = {k: loss(z + k * step, q, None, "none") for k in (-2, -1, 1, 2)}
        grads = {k: loss.grad_and_hess(z + k * step, q)[0][:, j] for k in (-2, -1, 1, 2)}
        for f, actual in ((values, grad), (grads, hess)):
            difference = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
            # |f^(5)| < A for softmax, h^4 / 30 of it; rounding eps max|f| / h; dtype's own errors.
            bound = 1e-11 + 20 * np.finfo(np.float64).eps / h + 40 * np.finfo(dtype).eps
            assert np.max(np.abs(actual[:, j] - difference)) <= 5 * bound


# --- rules --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("weighted", [False, True])
@each_kind
@pytest.mark.parametrize("shape", [(1, 3), (64, 10), (6007, 9)], ids=str)
@each_dtype
@each_spec
def test_reductions(spec: LossSpec, dtype: Any, shape: tuple[int, int], kind: str, weighted: bool) -> None:
    loss = spec.cls()
    pred, labels = sample(shape, dtype, kind)
    rng = seeded("weights")
    w = (rng.random(shape[0]) * rng.choice([0.0, 1.0], shape[0])).astype(dtype) if weighted else None
    if w is not None:
        w[0] = 0.75
    rows = np.ones(shape[0]) if w is None else w.astype(np.float64)
    eps = float(np.finfo(dtype).eps)
    q = dense(labels, pred).astype(np.float64)
    plain = loss(pred, labels, None, "none")
    d1, d2 = loss.grad_and_hess(pred, labels)
    tiny = float(np.finfo(dtype).smallest_subnormal)

    none = loss(pred, labels, w, "none")
    assert none.shape == shape[:1]
    assert none.dtype == dtype
    assert_within(none, plain * rows, eps * np.abs(plain * rows) + tiny)
    total, mean = loss(pred, labels, w, "sum"), loss(pred, labels, w, "mean")
    assert type(total) is type(mean) is float
    # The rows' values are rounded to dtype once at most before they are summed in float64.
    expected = math.fsum((plain * rows).tolist())
    assert abs(total - expected) <= (eps + shape[0] * 2.0**-53) * expected
    assert math.isclose(mean, total / math.fsum(rows.tolist()), rel_tol=shape[0] * 2.0**-52)
    for reduction, factor in (("sum", 1.0), ("none", 1.0), ("mean", 1 / rows.sum())):
        gradient = loss.gradient(pred, labels, w, reduction)
        true = d1.astype(np.float64) * rows[:, None] * factor
        # The factors are rounded with each term where the gradient is a difference, A p - q.
        size = np.abs(true) if kind == "labels" else (q + q.sum(axis=1, keepdims=True)) * rows[:, None] * factor
        assert_within(gradient, true, 8 * eps * size + tiny)
        both = loss.value_and_grad(pred, labels, w, reduction)
        assert_same_bits(both, (loss(pred, labels, w, reduction), gradient), reduction)
    assert_same_bits(loss.value_and_grad(pred, labels, w), loss.value_and_grad(pred, labels, w, "mean"))
    grad, hess = loss.grad_and_hess(pred, labels, w)
    size = np.abs(d1) if kind == "labels" else q + q.sum(axis=1, keepdims=True)
    assert_within(grad, d1 * rows[:, None], 3 * eps * size * rows[:, None] + tiny)
    assert_within(hess, d2 * rows[:, None], 2 * eps * np.abs(d2 * rows[:, None]) + tiny)


@each_dtype
@each_spec
def test_hessian_of_boosters(spec: LossSpec, dtype: Any) -> None:
    loss = spec.cls()
    pred, labels = sample((50, 4), dtype, "labels")
    w = seeded("weights").random(50).astype(dtype)
    grad, hess = loss.grad_and_hess(pred, labels)
    assert_same_bits(loss.grad_and_hess(pred, labels, hessian="diagonal"), (grad, hess))
    assert_same_bits(loss.grad_and_hess(pred, labels, hessian="upper"), (grad, 2 * hess))
    raised = np.maximum(2 * hess, dtype(0.3))
    assert_same_bits(loss.grad_and_hess(pred, labels, None, 0.3, "upper"), (grad, raised))
    weighted = loss.grad_and_hess(pred, labels, w, hess_floor=0.3, hessian="upper")
    assert_within(weighted[1], raised * w[:, None].astype(np.float64), np.finfo(dtype).eps)


@each_dtype
@each_spec
def test_labels_are_one_hot_distributions(spec: LossSpec, dtype: Any) -> None:
    loss = spec.cls()
    pred, labels = sample((40, 6), dtype, "labels")
    q = one_hot(labels, 6, dtype)
    expected = truth(spec, {}, widened(pred), widened(q))
    check(loss, pred, labels, expected)
    check(loss, pred, q, expected)


@pytest.mark.parametrize("integer", INTEGERS, ids=lambda t: t.__name__)
@each_spec
def test_labels_of_any_width(spec: LossSpec, integer: Any) -> None:
    loss = spec.cls()
    pred, labels = sample((20, 5), np.float32, "labels")
    expected = loss.value_and_grad(pred, labels)
    given = labels.astype(integer)
    swapped = given.astype(given.dtype.newbyteorder())
    strided = np.repeat(given, 2)[::2]
    for form in (given, swapped, strided, given[::-1][::-1].copy(), given.tolist()):
        assert_same_bits(loss.value_and_grad(pred, form), expected)
    wide = np.iinfo(integer).max
    if wide < 300:
        pred = seeded("wide").standard_normal((3, 256)).astype(np.float32)
        top = np.array([wide, 0, wide - 1])
        assert_same_bits(loss(pred, top.astype(integer), None, "none"), loss(pred, top, None, "none"))


@each_spec
def test_more_dimensions(spec: LossSpec) -> None:
    """Classes last; all other axes are rows."""
    loss = spec.cls()
    pred, labels = sample((24, 5), np.float64, "labels")
    cube = pred.reshape(2, 3, 4, 5)
    value, grad = loss.value_and_grad(pred, labels)
    assert_same_bits(loss.value_and_grad(cube, labels.reshape(2, 3, 4)), (value, grad.reshape(cube.shape)))
    none = loss(cube, labels.reshape(2, 3, 4), None, "none")
    assert_same_bits(none, loss(pred, labels, None, "none").reshape(2, 3, 4))


@each_dtype
@each_spec
def test_special_rows(spec: LossSpec, dtype: Any, target: str) -> None:
    """A row with a NaN, a +inf or nothing but -inf is NaN throughout; others are not touched by it."""
    loss = spec.cls()
    inf = np.inf
    for classes in (3, 40):
        pred, labels = sample((9, classes), dtype, "labels")
        pred[1, 2] = np.nan
        pred[3, 0] = inf
        pred[5] = -inf
        pred[7, 1:] = -inf  # one class left: p = 1
        labels[7] = 0
        bad = [1, 3, 5]
        good = np.delete(np.arange(9), bad)
        value = loss(pred, labels, None, "none")
        grad, hess = loss.grad_and_hess(pred, labels)
        assert np.isnan(value[bad]).all()
        assert np.isnan(grad[bad]).all()
        assert np.isnan(hess[bad]).all()
        assert value[7] == 0
        assert not grad[7].any()
        assert not hess[7].any()
        clean = loss(pred[good], labels[good], None, "none"), *loss.grad_and_hess(pred[good], labels[good])
        assert_same_bits((value[good], grad[good], hess[good]), clean)
        assert math.isnan(loss(pred, labels))
        # An impossible class is an infinite loss, not NaN.
        assert loss(pred[7:8], [1]) == inf


@each_dtype
@each_spec
def test_huge_logits(spec: LossSpec, dtype: Any, target: str) -> None:
    loss = spec.cls()
    big = float(np.finfo(dtype).max) / 4
    for top in (1e4, 3e37, big):
        pred = np.array([[top, -top, 0.0], [-top, -top, -top], [top, top, top]], dtype)
        value = loss(pred, [0, 1, 2], None, "none")
        np.testing.assert_allclose(value, [0.0, math.log(3), math.log(3)], rtol=1e-6, atol=0)
        np.testing.assert_allclose(loss(pred[:1], [1]), 2 * float(pred[0, 0]), rtol=1e-6)
        grad = loss.gradient(pred, [0, 1, 2], None, "sum")
        third = 1 / 3
        np.testing.assert_allclose(grad, [[0, 0, 0], [third, -2 * third, third], [third, third, -2 * third]], rtol=1e-6)


@each_spec
def test_empty(spec: LossSpec) -> None:
    loss = spec.cls()
    pred = np.empty((0, 4), np.float32)
    labels = np.empty(0, int)
    for weight in (None, np.empty(0)):
        value, gradient = loss.value_and_grad(pred, labels, weight)
        assert value == 0.0
        assert type(value) is float
        assert_same_bits(gradient, pred)
        assert loss(pred, labels, weight, "none").shape == (0,)
    value, gradient = loss.value_and_grad(np.ones((2, 3)), [0, 1], [0.0, 0.0])
    assert value == 0.0
    assert not gradient.any()
    assert not np.isnan(gradient).any()


# --- layouts and outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["labels", "distribution"])
@each_dtype
@each_spec
def test_layouts(spec: LossSpec, dtype: Any, kind: str, layout: str) -> None:
    loss = spec.cls()
    shape = (9, 21)
    pred, labels = sample(shape, dtype, kind)
    w = seeded("w").random(9).astype(dtype)
    given = labels if kind == "labels" else laid_out(labels, layout)
    expected = loss.value_and_grad(pred, labels, w)
    assert_same_bits(loss.value_and_grad(laid_out(pred, layout), given, w), expected)
    strided_w = laid_out(np.stack([w, w], axis=1), layout)[:, 0]
    assert_same_bits(loss.value_and_grad(pred, given, strided_w), expected)
    assert_same_bits(loss.grad_and_hess(laid_out(pred, layout), given), loss.grad_and_hess(pred, labels))
    out = Out(layout, shape, dtype)
    value, returned = loss.value_and_grad(pred, labels, w, out=out.array)
    assert value == expected[0]
    out.assert_received(returned, expected[1])
    out = Out(layout, shape, dtype)
    out.array[...] = pred
    value, returned = loss.value_and_grad(out.array, labels, w, out=out.array)
    assert value == expected[0]
    out.assert_received(returned, expected[1], "out is pred")
    if kind == "distribution":
        out = Out(layout, shape, dtype)
        out.array[...] = labels
        value, returned = loss.value_and_grad(pred, out.array, w, out=out.array)
        assert value == expected[0]
        out.assert_received(returned, expected[1], "out is target")


@each_dtype
@each_spec
def test_out_beyond_the_caches(spec: LossSpec, dtype: Any, threads: int) -> None:
    """Gradients of 8 MiB and more are written around the caches; each row has the result that it has alone."""
    loss = spec.cls()
    classes = 5003
    rows = (9 << 20) // np.dtype(dtype).itemsize // classes + 1
    pred, labels = sample((7, classes), dtype, "labels")
    repeat = np.arange(rows) % 7
    memory = np.full(rows * classes + 2, 7.0, dtype)
    out = memory[1:-1].reshape(rows, classes)
    assert loss.gradient(pred[repeat], labels[repeat], None, "sum", out=out) is out
    assert_same_bits(out, loss.gradient(pred, labels, None, "sum")[repeat])
    assert memory[0] == memory[-1] == 7.0


# --- properties, peers, worked numbers ----------------------------------------------------------------------


@given(
    rows=st.integers(1, 20),
    classes=st.integers(1, 50),
    seed=st.integers(0, 10**6),
    shift=st.floats(-20, 20),
    order=st.randoms(use_true_random=False),
)
def test_symmetries(rows: int, classes: int, seed: int, shift: float, order: Any) -> None:
    """Rows are independent, gradients of labels sum to zero, and p(1-p) lies in [0, 1/4]."""
    loss = fp.losses.SoftmaxCrossEntropy()
    rng = np.random.default_rng(seed)
    pred = rng.standard_normal((rows, classes)) * 5
    labels = rng.integers(0, classes, rows)
    value = loss(pred, labels, None, "none")
    grad, hess = loss.grad_and_hess(pred, labels)
    assert np.all(value >= 0)
    assert np.all((hess >= 0) & (hess <= 0.25 + 1e-15))
    assert np.max(np.abs(grad.sum(axis=1))) <= 1e-15 * classes
    permutation = list(range(rows))
    order.shuffle(permutation)
    assert_same_bits(loss(pred[permutation], labels[permutation], None, "none"), value[permutation])
    assert_same_bits(loss.grad_and_hess(pred[permutation], labels[permutation]), (grad[permutation], hess[permutation]))
    # A shift of all logits changes nothing but their rounding: 2 eps (|z| + |shift|) per difference.
    np.testing.assert_allclose(loss(pred + shift, labels, None, "none"), value, rtol=1e-13, atol=1e-13)


@each_kind
@each_dtype
def test_equal_to_torch(dtype: Any, kind: str) -> None:
    torch = pytest.importorskip("torch")
    pred, labels = sample((50, 7), dtype, kind)
    z = torch.tensor(pred, requires_grad=True)
    peer = torch.nn.functional.cross_entropy(z, torch.tensor(labels))
    peer.backward()
    value, grad = fp.losses.SoftmaxCrossEntropy().value_and_grad(pred, labels)
    # torch rounds each step in dtype: a few eps of numbers below 20.
    eps = float(np.finfo(dtype).eps)
    assert abs(value - peer.item()) <= 40 * eps
    assert np.max(np.abs(grad - z.grad.numpy())) <= 4 * eps


def test_equal_to_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    pred, labels = sample((50, 7), np.float64, "labels")
    w = seeded("w").random(50)
    expected = metrics.log_loss(labels, truth_softmax(pred), sample_weight=w, labels=range(7))
    assert math.isclose(fp.losses.SoftmaxCrossEntropy()(pred, labels, w), expected, rel_tol=1e-12)


def test_worked_numbers() -> None:
    """docs/mathematics.md 7: the gradient of (1, 5, 3) with true class 2; cross-entropies of class 3."""
    loss = fp.losses.SoftmaxCrossEntropy()
    grad = loss.gradient([[1.0, 5.0, 3.0]], [1])
    assert np.round(grad, 4).tolist() == [[0.0159, -0.1332, 0.1173]]
    assert round(loss(np.log([[0.2, 0.5, 0.3]]), [2]), 2) == 1.20
    assert round(loss(np.log([[0.2, 0.2, 0.6]]), [2]), 2) == 0.51


def test_binary_cross_entropy_is_its_two_class_case() -> None:
    z = np.linspace(-30, 30, 121)
    y = (np.arange(121) % 2).astype(np.int64)
    two = np.stack([np.zeros_like(z), z], axis=1)
    value = fp.losses.SoftmaxCrossEntropy()(two, y, None, "none")
    np.testing.assert_allclose(
        value, fp.losses.BinaryCrossEntropyWithLogits()(z, y, None, "none"), rtol=60 * np.finfo(float).eps
    )


# --- options ------------------------------------------------------------------------------------------------

#: (temperature, scale_by_temperature)
TEMPERATURES = [(1.0, False), (2.5, False), (0.5, True)]
#: Each option with each other, but for class weights, whose number depends on the classes: whether there are any.
OPTIONS = [
    {
        "label_smoothing": smoothing,
        "class_weight": weighted,
        "ignore_index": ignored,
        "temperature": temperature,
        "scale_by_temperature": scale,
        "z_loss": z_loss,
    }
    for smoothing, weighted, ignored, (temperature, scale), z_loss in itertools.product(
        (0.0, 0.1, 1.0), (False, True), (None, -100, 1), TEMPERATURES, (0.0, 0.03)
    )
]
SMALL = [(6, 1), (9, 3), (20, 10), (5, 16), (7, 33), (3, 1000)]


def with_class_weight(options: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """Random class weights in place of True, one of them 0."""
    weight = np.float32(2) * seeded("class weights", classes).random(classes).astype(np.float32)
    if classes > 2:
        weight[classes // 2] = 0
    return {**options, "class_weight": weight.astype(np.float64) if options["class_weight"] else None}


def with_ignored(labels: Array, ignored: int | None) -> Array:
    """Labels of which every third is ignored."""
    return labels if ignored is None else np.where(np.arange(len(labels)) % 3 == 1, ignored, labels)


def option_truth(pred: Array, target: Array, options: Mapping[str, Any]) -> tuple[Array, Array, Array]:
    """The reference in more precision than pred's, with the options as they are."""
    more = np.longdouble if pred.dtype == np.float64 else np.float64
    target = target if target.ndim < pred.ndim else target.astype(more)
    with np.errstate(all="ignore"):
        value, grad, hess = fp.losses.SoftmaxCrossEntropy.spec.reference(pred.astype(more), target, **options)
    return value, grad, hess


def option_bounds(pred: Array, target: Array, options: Mapping[str, Any]) -> tuple[Array, Array, Array]:
    """What `Bounds` allows for value, gradient and Hessian under options; terms with the error of each factor."""
    dtype, classes = pred.dtype, pred.shape[-1]
    t, k = options["temperature"], options["z_loss"]
    z = pred.astype(np.float64) / t
    bounds = Bounds(z, dtype)
    unit, p = bounds.unit, bounds.p
    labels = target.ndim < pred.ndim
    apart = np.where(target == options["ignore_index"], 0, target) if labels else z.argmax(axis=-1)
    at = np.arange(classes) == apart[..., None]
    w = 1.0 if options["class_weight"] is None else options["class_weight"]
    y = at if labels else target.astype(np.float64)
    a = w * ((1 - options["label_smoothing"]) * y + options["label_smoothing"] / classes)
    total = a.sum(axis=-1, keepdims=True)
    others = total - a if classes > 1 else 0 * a
    c = t * t if options["scale_by_temperature"] else 1.0
    top = z.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(z - top).sum(axis=-1, keepdims=True))
    lse, lse_error = np.abs(top + log_sum), unit * (np.abs(top) + log_sum)
    smallest = 8 * float(np.finfo(dtype).smallest_subnormal) * np.maximum(total, 1) * (1 + c) * (1 + 1 / t) ** 2

    log_p = z - top - log_sum
    value = c * (a * (bounds.log_p - unit * log_p)).sum(axis=-1, keepdims=True) + 3 * k * lse * lse_error
    value += k * (lse_error + unit * lse) ** 2
    by_term = total * bounds.p_error + unit * (total * p + a)
    at_apart = a * bounds.complement + others * bounds.p_error + unit * (a * (1 - p) + others * p)
    gradient = c * np.where(at, at_apart, by_term) + 2 * k * (lse * bounds.p_error + (lse_error + unit * lse) * p)
    q_error = (1 - p) * bounds.p_error + p * bounds.complement
    pq = p * (1 - p)
    hessian = (c * total + 2 * k * (lse + lse_error)) * (q_error + 2 * unit * pq) + 2 * k * lse_error * pq
    hessian += 2 * k * p * (2 * bounds.p_error + unit * p)
    return (value + smallest)[..., 0], gradient / t + smallest, hessian / t**2 + smallest


@each_kind
@each_dtype
def test_options_against_the_reference(dtype: Any, kind: str, target: str) -> None:
    for shape, options in itertools.product(SMALL, OPTIONS):
        given = with_class_weight(options, shape[1])
        loss = fp.losses.SoftmaxCrossEntropy(**given)
        for spread in (1.0, 12.0):
            pred, labels = sample(shape, dtype, kind, spread)
            if kind == "labels":
                labels = with_ignored(labels, given["ignore_index"])
            elif given["ignore_index"] == 1 and spread == 1.0:
                continue  # of no effect here
            expected = option_truth(pred, labels, given)
            found = loss(pred, labels, None, "none"), *loss.grad_and_hess(pred, labels)
            bound = option_bounds(pred, labels, given)
            for what, f, e, b in zip(("value", "gradient", "Hessian"), found, expected, bound, strict=True):
                assert_within(f, e, b, what=f"{what} of {shape}, {spread}, {options}")
            # The gradient alone goes another way through long rows than the one with a Hessian.
            assert_within(loss.gradient(pred, labels, None, "sum"), expected[1], bound[1], what=f"{shape}, {options}")


@pytest.mark.parametrize("kind", ["labels", "distribution"])
@each_dtype
def test_options_and_reductions(dtype: Any, kind: str, target: str) -> None:
    eps = float(np.finfo(dtype).eps)
    for (rows, classes), options in itertools.product([(20, 10), (17, 40)], OPTIONS):
        given = with_class_weight(options, classes)
        loss = fp.losses.SoftmaxCrossEntropy(**given)
        pred, labels = sample((rows, classes), dtype, kind)
        counts, mass = np.ones(rows), np.ones(rows)
        if kind == "labels":
            if given["class_weight"] is not None:
                mass = given["class_weight"][labels]
            labels = with_ignored(labels, given["ignore_index"])
            counts = np.where(labels == given["ignore_index"], 0.0, 1.0)
        for w in (None, seeded("w").random(rows).astype(dtype)):
            weights = np.ones(rows) if w is None else w.astype(np.float64)
            none = loss(pred, labels, w, "none")
            plain = loss(pred, labels, None, "none")
            assert none.dtype == dtype
            assert_within(none, plain * weights, eps * np.abs(plain * weights))
            total = loss(pred, labels, w, "sum")
            size = np.abs(plain * weights).sum()
            assert abs(total - (plain * weights).sum()) <= 2 * eps * size
            denominator = math.fsum(weights * counts * mass)
            assert math.isclose(loss(pred, labels, w), total / denominator, rel_tol=1e-14)
            d1, d2 = loss.grad_and_hess(pred, labels)
            t = given["temperature"]
            scale = t if given["scale_by_temperature"] else 1 / t
            bound = 8 * eps * (np.abs(d1) + 4 * scale) * weights[:, None]
            for reduction, factor in (("sum", 1.0), ("none", 1.0), ("mean", 1 / denominator)):
                both = loss.value_and_grad(pred, labels, w, reduction)
                assert_same_bits(both[0], loss(pred, labels, w, reduction))
                assert_same_bits(both[1], loss.gradient(pred, labels, w, reduction))
                assert_within(both[1], d1 * (weights * factor)[:, None], bound * factor, what=f"{reduction}, {options}")
            grad, hess = loss.grad_and_hess(pred, labels, w)
            assert_within(grad, d1 * weights[:, None], bound)
            assert_within(hess, d2 * weights[:, None], 4 * eps * np.abs(d2) * weights[:, None])
            upper = loss.grad_and_hess(pred, labels, w, hessian="upper")
            assert_within(upper[1], 2.0 * hess.astype(np.float64), 4 * eps * np.abs(hess))
            floored = loss.grad_and_hess(pred, labels, w, 0.1)[1]
            raised = np.where(counts[:, None] > 0, np.maximum(d2, 0.1), 0.0) * weights[:, None]
            assert_within(floored, raised, 4 * eps * np.abs(raised))


@pytest.mark.parametrize("kind", ["labels", "distribution"])
def test_derivatives_with_options_are_those_of_the_value(kind: str) -> None:
    """Fourth-order central differences, of the value by each logit and of each gradient's own."""
    pred, labels = sample((6, 5), np.float64, kind, 1.5)
    h = 2e-3
    for options in OPTIONS:
        given = with_class_weight(options, 5)
        loss = fp.losses.SoftmaxCrossEntropy(**given)
        grad, hess = loss.grad_and_hess(pred, labels)
        for j in range(5):
            step = h * one_hot(np.full(6, j), 5, np.float64)
            values = {k: loss(pred + k * step, labels, None, "none") for k in (-2, -1, 1, 2)}
            grads = {k: loss.grad_and_hess(pred + k * step, labels)[0][:, j] for k in (-2, -1, 1, 2)}
            for f, actual in ((values, grad), (grads, hess)):
                difference = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
                # h^4 / 30 of the fifth derivative, which has temperature^-5; rounding eps max|f| / h.
                size = max(float(np.max(np.abs(v))) for v in f.values())
                bound = h**4 * 4 / given["temperature"] ** 5 + 20 * np.finfo(np.float64).eps * (1 + size) / h
                assert np.max(np.abs(actual[:, j] - difference)) <= bound, given


@pytest.mark.parametrize("classes", [1, 3, 10, 33, 1100])
@each_dtype
def test_ignored_rows(dtype: Any, classes: int, target: str) -> None:
    """They are 0 whatever they hold, and others are as they would be without them."""
    rows = 301 if classes < 100 else 11
    pred, labels = sample((rows, classes), dtype, "labels")
    w = seeded("w").random(rows).astype(dtype)
    gone = np.arange(rows) % 3 == 0
    pred[gone] = np.resize([np.nan, np.inf, -np.inf], (rows, classes))[gone]
    w[3::6] = np.nan
    for ignored, integer in itertools.product((-100, 255, 0, 2**40, -(2**63)), (np.int16, np.uint8, np.int64)):
        if not np.iinfo(integer).min <= ignored <= np.iinfo(integer).max:
            continue
        given = labels.copy()
        given[~gone & (given == ignored)] = classes - 1
        kept = ~gone & (given != ignored)
        given[~kept] = ignored
        for options in ({}, {"label_smoothing": 0.1, "temperature": 2.0}, {"class_weight": np.ones(classes)}):
            loss = fp.losses.SoftmaxCrossEntropy(ignore_index=ignored, **options)
            as_integer = given.astype(integer)
            for weight in (None, w):
                some = None if weight is None else weight[kept]
                if not kept.any():
                    continue
                for reduction in ("mean", "sum", "none"):
                    value, grad = loss.value_and_grad(pred, as_integer, weight, reduction)
                    alone, alone_grad = loss.value_and_grad(pred[kept], as_integer[kept], some, reduction)
                    if reduction == "mean":  # the weights are added in another order; terms are below 2
                        eps = float(np.finfo(dtype).eps)
                        np.testing.assert_allclose(grad[kept], alone_grad, rtol=2 * eps, atol=4 * eps)
                    else:
                        assert_same_bits(grad[kept], alone_grad)
                    assert not grad[~kept].any()
                    if reduction == "none":
                        assert_same_bits(value[kept], alone)
                        assert not value[~kept].any()
                    else:
                        assert math.isclose(value, alone, rel_tol=1e-13)
                grad, hess = loss.grad_and_hess(pred, as_integer, weight, 0.5)
                assert_same_bits((grad[kept], hess[kept]), loss.grad_and_hess(pred[kept], as_integer[kept], some, 0.5))
                assert not grad[~kept].any()
                assert not hess[~kept].any()
                in_place = pred.copy()
                loss.gradient(in_place, as_integer, weight, out=in_place)
                assert_same_bits(in_place, loss.gradient(pred, as_integer, weight))


@each_dtype
def test_nothing_left(dtype: Any) -> None:
    """Value and gradient are 0 where all rows are ignored, or all that are left have weight 0."""
    pred = np.full((4, 3), np.nan, dtype)
    labels = np.full(4, -1)
    cases_of = [
        (fp.losses.SoftmaxCrossEntropy(ignore_index=-1), pred, labels, None),
        (fp.losses.SoftmaxCrossEntropy(ignore_index=-1, label_smoothing=0.1), pred, labels, np.ones(4)),
        (fp.losses.SoftmaxCrossEntropy(class_weight=[1, 0, 2]), pred, np.ones(4, int), None),
        (fp.losses.SoftmaxCrossEntropy(temperature=2.0), pred, np.ones(4, int), np.zeros(4)),
        (fp.losses.SoftmaxCrossEntropy(temperature=2.0), pred, np.full((4, 3), 0.25), np.zeros(4)),
        (fp.losses.SoftmaxCrossEntropy(ignore_index=-1), pred[:0], labels[:0], None),
    ]
    for loss, z, y, w in cases_of:
        value, grad = loss.value_and_grad(z, y, w)
        assert type(value) is float
        assert value == loss(z, y, w) == 0.0
        assert_same_bits(grad, np.zeros_like(z))
    for reduction in ("mean", "sum"):
        assert cases_of[0][0](pred, labels, None, reduction) == 0.0


@each_dtype
def test_confident_rows_keep_their_digits_under_options(dtype: Any, target: str) -> None:
    gap = np.array([5.0, 20.0, 40.0, 80.0])
    for classes in (3, 20, 100):
        pred = np.zeros((4, classes), dtype)
        pred[:, 1] = gap
        labels = np.ones(4, int)
        w = np.linspace(1, 2, classes)
        loss = fp.losses.SoftmaxCrossEntropy(class_weight=w, temperature=2.0, ignore_index=9)
        expected = option_truth(pred, labels, {"class_weight": w, "temperature": 2.0})
        found = loss(pred, labels, None, "none"), *loss.grad_and_hess(pred, labels)
        for f, e in zip(found, expected, strict=True):
            assert np.all(e != 0)
            np.testing.assert_allclose(f, e.astype(np.float64), rtol=100 * np.finfo(dtype).eps)


def test_special_rows_under_options() -> None:
    inf = np.inf
    loss = fp.losses.SoftmaxCrossEntropy(label_smoothing=0.1, class_weight=[1, 1, 0], z_loss=0.1)
    pred = np.array([[0, np.nan, 0], [0, inf, 0], [-inf, -inf, -inf], [0.0, 1, -inf], [0, -inf, 1]])
    value = loss(pred, [0, 0, 0, 1, 0], None, "none")
    grad, hess = loss.grad_and_hess(pred, [0, 0, 0, 1, 0])
    assert np.isnan(value[:3]).all()
    assert np.isnan(grad[:3]).all()
    assert np.isnan(hess[:3]).all()
    assert np.isfinite(value[3])  # the class that is impossible has weight 0
    assert np.isfinite(grad[3:]).all()
    assert value[4] == inf


@each_dtype
def test_options_beyond_the_caches(dtype: Any, threads: int) -> None:
    classes = 5003
    rows = (9 << 20) // np.dtype(dtype).itemsize // classes + 1
    pred, labels = sample((7, classes), dtype, "labels")
    labels[3] = -100
    repeat = np.arange(rows) % 7
    for options in ({"label_smoothing": 0.1}, {"label_smoothing": 0.1, "class_weight": np.linspace(0, 1, classes)}):
        loss = fp.losses.SoftmaxCrossEntropy(ignore_index=-100, temperature=2.0, z_loss=0.01, **options)
        expected = loss.gradient(pred, labels, None, "sum")
        assert_same_bits(loss.gradient(pred[repeat], labels[repeat], None, "sum"), expected[repeat])
        grad, hess = loss.grad_and_hess(pred[repeat], labels[repeat])
        assert_same_bits((grad, hess), tuple(x[repeat] for x in loss.grad_and_hess(pred, labels)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["labels", "distribution"])
def test_options_equal_to_torch(kind: str, reduction: str) -> None:
    torch = pytest.importorskip("torch")
    for (rows, classes), smoothing, weighted, ignored in itertools.product(
        [(50, 7), (20, 40)], (0.0, 0.1, 1.0), (False, True), (-100, 2)
    ):
        pred, labels = sample((rows, classes), np.float64, kind)
        if kind == "labels":
            labels = with_ignored(labels, ignored)
        w = 0.5 + seeded("weights").random(classes) if weighted else None
        z = torch.tensor(pred, requires_grad=True)
        peer = torch.nn.functional.cross_entropy(
            z,
            torch.tensor(labels),
            weight=None if w is None else torch.tensor(w),
            ignore_index=ignored if kind == "labels" else -100,
            reduction=reduction,
            label_smoothing=smoothing,
        )
        peer.sum().backward()
        loss = fp.losses.SoftmaxCrossEntropy(smoothing, w, ignored)
        value, grad = loss.value_and_grad(pred, labels, None, reduction)
        np.testing.assert_allclose(value, peer.detach().numpy(), rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(grad, z.grad.numpy(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", ["labels", "distribution"])
def test_temperature_and_z_loss_as_torch_differentiates_them(kind: str) -> None:
    """With all other options; the Hessian's diagonal too."""
    torch = pytest.importorskip("torch")
    for options in OPTIONS:
        given = with_class_weight(options, 7)
        pred, labels = sample((20, 7), np.float64, kind)
        if kind == "labels":
            labels = with_ignored(labels, given["ignore_index"])
        w = None if given["class_weight"] is None else torch.tensor(given["class_weight"])
        ignored = given["ignore_index"] if kind == "labels" and given["ignore_index"] is not None else -100
        counts = torch.tensor(labels != ignored if kind == "labels" else np.ones(20), dtype=torch.float64)
        t = given["temperature"]
        c = t * t if given["scale_by_temperature"] else 1.0

        z = torch.tensor(pred, requires_grad=True)
        values = c * torch.nn.functional.cross_entropy(
            z / t,
            torch.tensor(labels),
            weight=w,
            ignore_index=ignored,
            reduction="none",
            label_smoothing=given["label_smoothing"],
        )
        values = values + given["z_loss"] * counts * torch.logsumexp(z / t, 1) ** 2
        (gradient,) = torch.autograd.grad(values.sum(), z, create_graph=True)
        columns = [torch.autograd.grad(gradient[:, j].sum(), z, retain_graph=True)[0][:, j] for j in range(7)]
        loss = fp.losses.SoftmaxCrossEntropy(**given)
        found = loss(pred, labels, None, "none"), *loss.grad_and_hess(pred, labels)
        for what, actual, peer in zip("vgh", found, (values, gradient, torch.stack(columns, 1)), strict=True):
            expected = peer.detach().numpy()
            np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11, err_msg=f"{what} of {given}")


@each_dtype
@each_spec
def test_floors_beyond_the_dtype(spec: LossSpec, dtype: Any) -> None:
    """They act as the nearest number that it has."""
    info = np.finfo(dtype)
    tiny = 1e-60 if dtype == np.float32 else 5e-324
    for classes in (3, 40):
        pred = np.zeros((2, classes), dtype)
        pred[:, 0] = 1000  # every second derivative is 0
        for floor, expected in ((1e300, min(float(info.max), 1e300)), (tiny, float(info.smallest_subnormal))):
            hess = spec.cls().grad_and_hess(pred, [0, 0], None, floor)[1]
            assert (hess == expected).all()


def test_distillation_keeps_the_gradients_size() -> None:
    """T^2 KL(q || softmax(z / T)) with q = softmax(v / T): as T grows, the gradient becomes (z - v) / C, centred."""
    z, v = seeded("z").standard_normal((5, 4)), seeded("v").standard_normal((5, 4))
    temperature = 1e4
    loss = fp.losses.SoftmaxCrossEntropy(temperature=temperature, scale_by_temperature=True)
    grad = loss.gradient(z, truth_softmax(v / temperature), None, "sum")
    difference = z - v
    expected = (difference - difference.mean(axis=1, keepdims=True)) / 4
    np.testing.assert_allclose(grad, expected, atol=1e-3)


def test_options_are_values() -> None:
    given = np.array([1.0, 2.0, 0.0])
    loss = fp.losses.SoftmaxCrossEntropy(class_weight=given, temperature=2)
    given[0] = 7
    assert loss.class_weight.tolist() == [1, 2, 0]
    assert loss.class_weight.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        loss.class_weight[0] = 3.0
    same = fp.losses.SoftmaxCrossEntropy(class_weight=[1, 2, 0], temperature=2.0)
    for other in (same, pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss), copy.copy(loss)):
        assert other == loss
        assert hash(other) == hash(loss)
        assert not other.class_weight.flags.writeable
        assert other([[1.0, 2.0, 3.0]], [1]) == loss([[1.0, 2.0, 3.0]], [1])
    assert eval(repr(loss), {"SoftmaxCrossEntropy": fp.losses.SoftmaxCrossEntropy}) == loss
    assert loss != fp.losses.SoftmaxCrossEntropy(class_weight=[1, 2, 1], temperature=2)
    assert loss != fp.losses.SoftmaxCrossEntropy(temperature=2)
    assert fp.losses.SoftmaxCrossEntropy().class_weight is None


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"label_smoothing": -0.1}, ValueError, ["label_smoothing is -0.1", ">= 0 and <= 1"]),
        ({"label_smoothing": 1.5}, ValueError, ["label_smoothing is 1.5"]),
        ({"temperature": 0.0}, ValueError, ["temperature is 0.0", "> 0"]),
        ({"temperature": math.inf}, ValueError, ["temperature is inf"]),
        ({"z_loss": -1.0}, ValueError, ["z_loss is -1.0", ">= 0"]),
        ({"z_loss": math.nan}, ValueError, ["z_loss is nan"]),
        ({"ignore_index": 1.0}, TypeError, ["ignore_index", "integer", "float"]),
        ({"ignore_index": 2**63}, ValueError, ["ignore_index is 9223372036854775808"]),
        ({"scale_by_temperature": 1}, TypeError, ["scale_by_temperature", "bool", "int"]),
        ({"class_weight": [1.0, -0.5]}, ValueError, ["class_weight[1] is -0.5", ">= 0"]),
        ({"class_weight": [1.0, 2.0, math.inf]}, ValueError, ["class_weight[2] is inf", "finite"]),
        ({"class_weight": [math.nan]}, ValueError, ["class_weight[0] is nan"]),
        ({"class_weight": [0.0, 0.0]}, ValueError, ["class_weight", "only zeros", "> 0"]),
        ({"class_weight": []}, ValueError, ["class_weight", "empty"]),
        ({"class_weight": [[1.0]]}, ValueError, ["class_weight", "(1, 1)"]),
        ({"class_weight": 1.0}, ValueError, ["class_weight", "()"]),
        ({"class_weight": "balanced"}, TypeError, ["class_weight", "str"]),
        ({"class_weight": [1j]}, TypeError, ["class_weight", "complex"]),
        ({"class_weight": {0: 1.0}}, TypeError, ["class_weight", "dict"]),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type[Exception], parts: list[str]) -> None:
    with pytest.raises(error, match=".*".join(map(re.escape, parts))):
        fp.losses.SoftmaxCrossEntropy(**options)


@pytest.mark.parametrize("integer", [np.int8, np.uint8, np.int64, np.uint64], ids=lambda t: t.__name__)
def test_calls_with_options_are_checked(integer: Any) -> None:
    pred = np.zeros((500, 3))
    labels = np.zeros(500, integer)
    loss = fp.losses.SoftmaxCrossEntropy(class_weight=[1.0, 2.0])
    verbs = (loss, loss.gradient, loss.value_and_grad, loss.grad_and_hess)
    for verb in verbs:
        with pytest.raises(ValueError, match=r"class_weight has 2 numbers.*C = 3"):
            verb(pred, labels)
    loss = fp.losses.SoftmaxCrossEntropy(class_weight=[1.0, 2.0, 3.0], ignore_index=-100, label_smoothing=0.1)
    labels[400:] = wrong = 156 if integer is np.uint8 else np.iinfo(integer).max  # 156 is -100 as uint8
    labels[:400] = np.where(np.arange(400) % 2, 1, 0)
    if np.iinfo(integer).min < 0:
        labels[7] = -100
    out = np.full_like(pred, 7.0)
    calls = [lambda verb=verb: verb(pred, labels) for verb in (loss, loss.gradient, loss.grad_and_hess)]
    for call in (*calls, lambda: loss.value_and_grad(pred, labels, out=out)):
        with pytest.raises(ValueError, match=rf"target\[400\] is label {wrong}; expected 0 to 2 or .*-100.*C = 3"):
            call()
    assert (out == 7.0).all()
    q = np.full((4, 3), 1 / 3)
    q[2, 1] = 1.25
    with pytest.raises(ValueError, match=r"target\[2, 1\] is 1.25; a distribution"):
        loss.value_and_grad(pred[:4], q, out=out[:4])
    assert (out == 7.0).all()
