"""Losses over classes: softmax cross-entropy with labels and with distributions."""

from __future__ import annotations

import math
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
from fuseprop._registry import Spec

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
    """What DESIGN 5 allows: a relative error of c 2^-24 (1 + abs(x - max)) of each e^(x - max), and what follows."""

    C = 6

    def __init__(self, pred: Array) -> None:
        z = pred.astype(np.float64)
        gap = z.max(axis=-1, keepdims=True) - z
        self.unit = self.C * float(np.finfo(pred.dtype).eps) / 2
        # Beyond the distance at which e^-gap underflows nothing more is lost.
        relative = self.unit * (1 + np.minimum(gap, -np.log(np.finfo(pred.dtype).smallest_subnormal)))
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
    """Values, gradients and Hessians against the truth, each within what DESIGN 5 allows."""
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
def test_accuracy(spec: Spec, dtype: Any, shape: tuple[int, int], kind: str, target: str) -> None:
    for spread in (0.01, 3.0, 40.0):
        pred, labels = sample(shape, dtype, kind, spread)
        check(spec.cls(), pred, labels, truth(spec, {}, widened(pred), widened(dense(labels, pred))))


@each_dtype
@each_spec
def test_every_number_of_classes(spec: Spec, dtype: Any, target: str) -> None:
    for classes in range(1, 70):
        pred, labels = sample((5, classes), dtype, "labels")
        check(spec.cls(), pred, labels, truth(spec, {}, widened(pred), widened(one_hot(labels, classes, dtype))))


@each_spec
def test_float64_against_many_digits(spec: Spec, target: str) -> None:
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
def test_confident_rows_keep_their_digits(spec: Spec, dtype: Any, target: str) -> None:
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
def test_derivatives_are_those_of_the_value(spec: Spec, dtype: Any, kind: str) -> None:
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
def test_reductions(spec: Spec, dtype: Any, shape: tuple[int, int], kind: str, weighted: bool) -> None:
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
def test_hessian_of_boosters(spec: Spec, dtype: Any) -> None:
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
def test_labels_are_one_hot_distributions(spec: Spec, dtype: Any) -> None:
    loss = spec.cls()
    pred, labels = sample((40, 6), dtype, "labels")
    q = one_hot(labels, 6, dtype)
    expected = truth(spec, {}, widened(pred), widened(q))
    check(loss, pred, labels, expected)
    check(loss, pred, q, expected)


@pytest.mark.parametrize("integer", INTEGERS, ids=lambda t: t.__name__)
@each_spec
def test_labels_of_any_width(spec: Spec, integer: Any) -> None:
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
def test_more_dimensions(spec: Spec) -> None:
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
def test_special_rows(spec: Spec, dtype: Any, target: str) -> None:
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
def test_huge_logits(spec: Spec, dtype: Any, target: str) -> None:
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
def test_empty(spec: Spec) -> None:
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
def test_layouts(spec: Spec, dtype: Any, kind: str, layout: str) -> None:
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
def test_out_beyond_the_caches(spec: Spec, dtype: Any, threads: int) -> None:
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
    """SPEC 7: the gradient of (1, 5, 3) with true class 2; cross-entropies of class 3."""
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
