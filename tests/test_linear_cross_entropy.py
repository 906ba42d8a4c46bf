"""LinearCrossEntropy: the loss of a dense layer's logits, and its gradients, without the logits."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from helpers import (
    FMA_TARGETS,
    LAYOUTS,
    LINEAR_LOSSES,
    SANITIZER,
    Array,
    Parameters,
    assert_same_bits,
    assert_within,
    cases,
    check_output,
    each_dtype,
    laid_out,
    seeded,
)

import fuseprop as fp
from fuseprop._registry import LossSpec

REDUCTIONS = ("mean", "sum", "none")
INTEGERS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
#: (rows, features, classes): one row, one feature, one class, short rows, and several blocks of rows.
SHAPES = [(1, 1, 1), (5, 1, 4), (5, 3, 1), (64, 12, 10), (70, 17, 33), (700, 8, 1003)]
BLOCKS = SHAPES[-1]
#: Each option alone, and all of them; class weights as whether there are any.
OPTIONS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"class_weight": True},
    {"ignore_index": -100},
    {"ignore_index": 1},
    {"temperature": 2.5},
    {"temperature": 0.5, "scale_by_temperature": True},
    {"z_loss": 0.03},
    {
        "label_smoothing": 0.2,
        "class_weight": True,
        "ignore_index": 0,
        "temperature": 1.5,
        "scale_by_temperature": True,
        "z_loss": 0.01,
    },
]

each_options = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "none")
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_kind = pytest.mark.parametrize("kind", ["labels", "distribution"])


def sample(
    shape: tuple[int, int, int], dtype: Any, kind: str = "labels", ignored: int | None = None
) -> tuple[Array, Array, Array, Array, Array]:
    """x, weight, labels or distributions, bias, sample weights. Every third label is the ignored one, if there is."""
    rows, features, classes = shape
    rng = seeded(shape, kind)
    x = rng.standard_normal((rows, features)).astype(dtype)
    weight = (rng.standard_normal((features, classes)) * 3 / math.sqrt(max(features, 1))).astype(dtype)
    bias = rng.standard_normal(classes).astype(dtype)
    if kind == "labels":
        y = rng.integers(0, max(classes, 1), rows)
        if ignored is not None:
            y = np.where(np.arange(rows) % 3 == 1, ignored, y)
    else:
        y = rng.random((rows, classes)) * rng.choice([0.0, 1.0], (rows, classes))
        y[:, 0] += 0.1
        y = (y / y.sum(axis=1, keepdims=True)).astype(dtype)
    return x, weight, y, bias, (0.1 + rng.random(rows)).astype(dtype)


def parameters_for(options: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The options with class weights in place of True, one of them 0."""
    weight = 0.5 + seeded("class weights", classes).random(classes)
    if classes > 2:
        weight[classes // 2] = 0
    return {**options, "class_weight": weight} if "class_weight" in options else dict(options)


def materialised(  # noqa: PLR0917  # the loss's arguments
    parameters: Parameters, x: Array, weight: Array, y: Array, bias: Array | None, w: Array | None, reduction: Any
) -> tuple[Any, Array, tuple[Array | None, ...]]:
    """Value, gradient by the logits, and gradients, as a layer and SoftmaxCrossEntropy give them."""
    loss = fp.losses.SoftmaxCrossEntropy(**parameters)
    value, g = loss.value_and_grad(fp.ops.linear(x, weight, bias), y, w, reduction)
    dx, dweight, dbias = fp.ops.linear_backward(x, weight, g)
    return value, g, (dx, dweight, None if bias is None else dbias)


# --- against what it fuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("has_bias", [False, True])
@each_kind
@each_options
@each_shape
@each_dtype
def test_equal_to_the_loss_of_materialised_logits(
    dtype: Any, shape: tuple[int, int, int], options: dict[str, Any], kind: str, has_bias: bool
) -> None:
    """A row's value and dx to the bit: both sides compute the same logits. Sums over rows within their rounding."""
    parameters = parameters_for(options, shape[2])
    x, weight, y, bias, w = sample(shape, dtype, kind, parameters.get("ignore_index"))
    loss = fp.losses.LinearCrossEntropy(**parameters)
    eps = float(np.finfo(dtype).eps)
    rows = shape[0]
    for reduction, weights in itertools.product(REDUCTIONS, (None, w)):
        given: Any = {"bias": bias if has_bias else None, "sample_weight": weights, "reduction": reduction}
        value, g, expected = materialised(parameters, x, weight, y, given["bias"], weights, reduction)
        found, gradients = loss.value_and_grad(x, weight, y, **given)
        assert type(gradients) is tuple
        assert_same_bits(loss(x, weight, y, **given), found)
        assert_same_bits(loss.gradient(x, weight, y, **given), gradients)
        if reduction == "none":
            assert_same_bits(found, value)
        else:
            # The rows' values are rounded once; float64 sums of them, in another order where there are blocks.
            assert type(found) is float
            assert math.isclose(found, value, rel_tol=4 * rows * 2.0**-53 + (0 if rows < 512 else eps))
        assert_same_bits(gradients[0], expected[0], "dx")
        size = np.abs(g).astype(np.float64)
        assert_within(gradients[1], expected[1], 2 * (rows + 2) * eps / 2 * (np.abs(x).T.astype(float) @ size))
        if has_bias:
            assert_within(gradients[2], expected[2], 2 * (eps + rows * 2.0**-53) * size.sum(axis=0))
        else:
            assert gradients[2] is None


@each_kind
@each_options
@each_dtype
def test_against_the_reference(dtype: Any, options: dict[str, Any], kind: str, target: str) -> None:
    """With e the error of a logit, sum over j of abs g_j times e for the value, and 2 p_j e of each of g's terms."""
    spec = fp.losses.LinearCrossEntropy.spec
    for shape in SHAPES:
        parameters = parameters_for(options, shape[2])
        x, weight, y, bias, _ = sample(shape, dtype, kind, parameters.get("ignore_index"))
        u = float(np.finfo(dtype).eps) / 2
        more = np.longdouble if dtype == np.float64 else np.float64
        wide_x = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(more)
        wide_w = np.concatenate([weight, bias[None]]).astype(more)
        wide_y = y if kind == "labels" else y.astype(more)
        value, dx, dweight = spec.reference(wide_x, wide_w, wide_y, **parameters)
        found, gradients = fp.losses.LinearCrossEntropy(**parameters).value_and_grad(
            x, weight, y, bias=bias, reduction="none"
        )

        t = parameters.get("temperature", 1.0)
        c = t * t if parameters.get("scale_by_temperature") else 1.0
        k = parameters.get("z_loss", 0.0)
        z = (wide_x @ wide_w).astype(np.float64)
        _, g, _ = fp.losses.SoftmaxCrossEntropy.spec.reference(z, wide_y.astype(y.dtype), **parameters)
        e = (shape[1] + 2) * u * (np.abs(wide_x) @ np.abs(wide_w)).astype(np.float64).max(axis=1, keepdims=True) / t
        gap = (z.max(axis=1, keepdims=True) - z) / t
        exps = np.exp(-gap)
        p = exps / exps.sum(axis=1, keepdims=True)
        log_sum = np.abs(z.max(axis=1, keepdims=True) / t) + np.log(exps.sum(axis=1, keepdims=True))
        # docs/mathematics.md 6 for the softmax family: 6 u (1 + gap) of each exponential.
        own = 6 * u * (1 + gap)
        own = own + (p * own).sum(axis=1, keepdims=True)
        mass = 1.0 if parameters.get("class_weight") is None else float(parameters["class_weight"].max())
        factor = c * mass + 2 * k * (log_sum + 1)
        sizes = np.abs(g).sum(axis=1, keepdims=True) * t
        values_bound = 2 * sizes * e + 12 * u * (c * mass * (gap.max(axis=1, keepdims=True) + log_sum + 1))
        values_bound += 12 * u * k * (log_sum + 1) ** 2 + 4 * u * np.abs(value[:, None])
        g_bound = factor * p * (2 * e + own) / t + 8 * u * (np.abs(g) + c * mass * p / t)
        if kind == "distribution" or parameters.get("label_smoothing"):
            g_bound += 8 * u * c * mass / t * (wide_y if kind == "distribution" else 1.0)
        if parameters.get("ignore_index") is not None and kind == "labels":
            counts = (y != parameters["ignore_index"])[:, None]
            values_bound, g_bound = values_bound * counts, g_bound * counts
        g_bound = g_bound.astype(np.float64)
        assert_within(found, value.astype(np.float64), values_bound[:, 0].astype(np.float64), what=f"value {shape} ")
        abs_x, abs_w = np.abs(x).astype(np.float64), np.abs(weight).astype(np.float64)
        bound = g_bound @ abs_w.T + (shape[2] + 2) * u * (np.abs(g) @ abs_w.T)
        assert_within(gradients[0], dx[:, :-1].astype(np.float64), bound, what=f"dx {shape} ")
        bound = abs_x.T @ g_bound + (shape[0] + 2) * u * (abs_x.T @ np.abs(g))
        assert_within(gradients[1], dweight[:-1].astype(np.float64), bound, what=f"dweight {shape} ")
        bound = g_bound.sum(axis=0) + (4 * u + shape[0] * 2.0**-53) * np.abs(g).sum(axis=0)
        assert_within(gradients[2], dweight[-1].astype(np.float64), bound, what=f"dbias {shape} ")


@each_kind
@each_options
def test_derivatives_are_those_of_the_value(options: dict[str, Any], kind: str) -> None:
    """Fourth-order central differences along directions that move no logit by more than 1."""
    shape = (7, 3, 5)
    parameters = parameters_for(options, 5)
    x, weight, y, bias, w = sample(shape, np.float64, kind, parameters.get("ignore_index"))
    loss = fp.losses.LinearCrossEntropy(**parameters)
    rng = seeded("directions")
    h, t = 1e-3, parameters.get("temperature", 1.0)
    for reduction in ("mean", "sum"):
        gradients = loss.gradient(x, weight, y, bias=bias, sample_weight=w, reduction=reduction)
        for moved in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)):
            steps = [m * rng.standard_normal(a.shape) for m, a in zip(moved, (x, weight, bias), strict=True)]
            largest = np.abs(steps[0] @ weight + x @ steps[1] + steps[2]).max()
            v_x, v_w, v_b = (step / largest for step in steps)

            def along(s: float, v_x: Array = v_x, v_w: Array = v_w, v_b: Array = v_b, how: Any = reduction) -> float:
                value = loss(x + s * v_x, weight + s * v_w, y, bias=bias + s * v_b, sample_weight=w, reduction=how)
                assert isinstance(value, float)
                return value

            difference = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
            slope = sum(float((g * v).sum()) for g, v in zip(gradients, (v_x, v_w, v_b), strict=True))
            size = 1 + abs(along(0.0))
            bound = 10 * (h / t) ** 4 / t * size + 20 * float(np.finfo(np.float64).eps) * size / h
            assert abs(difference - slope) <= bound


@pytest.mark.parametrize("reduction", REDUCTIONS)
@each_kind
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [-100, 2])
def test_equal_to_torch(ignored: int, weighted: bool, smoothing: float, kind: str, reduction: Any) -> None:
    torch = pytest.importorskip("torch")
    for shape in ((50, 6, 7), BLOCKS):
        x, weight, y, bias, _ = sample(shape, np.float64, kind, ignored)
        class_weight = parameters_for({"class_weight": weighted}, shape[2])["class_weight"] if weighted else None
        given = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
        peer = torch.nn.functional.cross_entropy(
            given[0] @ given[1] + given[2],
            torch.tensor(y),
            weight=None if class_weight is None else torch.tensor(class_weight),
            reduction=reduction,
            label_smoothing=smoothing,
            **({"ignore_index": ignored} if kind == "labels" else {}),
        )
        expected = torch.autograd.grad(peer.sum(), given)
        loss = fp.losses.LinearCrossEntropy(smoothing, class_weight, ignored)
        value, gradients = loss.value_and_grad(x, weight, y, bias=bias, reduction=reduction)
        np.testing.assert_allclose(value, peer.detach().numpy(), rtol=1e-11, atol=1e-11)
        for found, other in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(found, other.numpy(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("z_loss", [0.0, 0.03])
@each_kind
def test_temperature_and_z_loss_as_torch_differentiates_them(kind: str, z_loss: float, scale: bool) -> None:
    torch = pytest.importorskip("torch")
    x, weight, y, bias, w = sample((50, 6, 7), np.float64, kind)
    t = 2.5
    given = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    z = (given[0] @ given[1] + given[2]) / t
    terms = torch.nn.functional.cross_entropy(z, torch.tensor(y), reduction="none") * (t * t if scale else 1.0)
    terms = terms + z_loss * torch.logsumexp(z, 1) ** 2
    peer = (terms * torch.tensor(w)).sum() / w.sum()
    expected = torch.autograd.grad(peer, given)
    loss = fp.losses.LinearCrossEntropy(temperature=t, scale_by_temperature=scale, z_loss=z_loss)
    value, gradients = loss.value_and_grad(x, weight, y, bias=bias, sample_weight=w)
    assert math.isclose(value, peer.item(), rel_tol=1e-11)
    for found, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, other.numpy(), rtol=1e-11, atol=1e-11)


# --- rules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("integer", INTEGERS, ids=lambda t: t.__name__)
def test_labels_of_any_width(integer: Any) -> None:
    """In every block."""
    x, weight, y, _, _ = sample(BLOCKS, np.float64)
    y %= 100
    for ignored in (None, 7):
        loss = fp.losses.LinearCrossEntropy(ignore_index=ignored)
        expected = loss.value_and_grad(x, weight, y)
        given = y.astype(integer)
        for form in (given, given.astype(given.dtype.newbyteorder()), np.repeat(given, 2)[::2], given.tolist()):
            assert_same_bits(loss.value_and_grad(x, weight, form), expected)


@pytest.mark.parametrize("shape", [(9, 4, 5), BLOCKS], ids=str)
@each_options
@each_dtype
def test_ignored_rows_are_as_if_they_were_not_there(
    dtype: Any, options: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    """Whatever x and the weights hold in them; their own value and dx are 0."""
    x, weight, y, bias, w = sample(shape, dtype, ignored=-7)
    gone = y == -7
    x[gone] = np.resize([np.nan, np.inf, 3.0], x.shape)[gone]
    w[gone] = np.nan
    parameters = {**parameters_for(options, shape[2]), "ignore_index": -7}
    loss = fp.losses.LinearCrossEntropy(**parameters)
    alone = fp.losses.LinearCrossEntropy(**{**parameters, "ignore_index": None})
    eps = float(np.finfo(dtype).eps)
    for order in ("C", "F"):
        given = np.asarray(x, order=order)
        for reduction in REDUCTIONS:
            value, (dx, dweight, dbias) = loss.value_and_grad(
                given, weight, y, bias=bias, sample_weight=w, reduction=reduction
            )
            kept = alone.value_and_grad(
                x[~gone], weight, y[~gone], bias=bias, sample_weight=w[~gone], reduction=reduction
            )
            if reduction == "none":
                assert_same_bits(value[~gone], kept[0])
                assert not value[gone].any()
            else:  # other blocks
                assert math.isclose(value, kept[0], rel_tol=4 * eps)
            assert not dx[gone].any()
            # Of one weight sum in float64, in another order; dweight's sums over other blocks.
            tolerance = {"rtol": 4 * eps, "atol": 4 * eps * float(np.abs(kept[1][0]).max())}
            np.testing.assert_allclose(dx[~gone], kept[1][0], **tolerance)
            # Sums of the same terms in other blocks; a mean's terms are off by the rounding of the weights' sum.
            _, g, _ = materialised(
                {**parameters, "ignore_index": None}, x[~gone], weight, y[~gone], bias, w[~gone], reduction
            )
            size, bound = np.abs(g).astype(np.float64), (len(g) + 2) * eps
            assert_within(dweight, kept[1][1], bound * (np.abs(x[~gone]).T.astype(float) @ size), what="dweight")
            assert_within(dbias, kept[1][2], bound * size.sum(axis=0), what="dbias")


@each_dtype
def test_nothing_left(dtype: Any) -> None:
    """Zeros where there are no rows, all are ignored, or their weights are zero; whatever the rows hold."""
    x, weight, _, bias, _ = sample((6, 3, 4), dtype)
    ignored = np.full(6, -1)
    loss = fp.losses.LinearCrossEntropy(ignore_index=-1)
    zeros = np.zeros_like(x), np.zeros_like(weight), np.zeros_like(bias)
    x[2] = np.nan
    for reduction in ("mean", "sum"):
        value, gradients = loss.value_and_grad(x, weight, ignored, bias=bias, reduction=reduction)
        assert type(value) is float
        assert value == 0.0
        assert_same_bits(gradients, zeros)
    values, gradients = loss.value_and_grad(x, weight, ignored, bias=bias, reduction="none")
    assert_same_bits((values, gradients), (np.zeros(6, dtype), zeros))
    plain = fp.losses.LinearCrossEntropy()
    for given in (plain, loss):
        value, gradients = given.value_and_grad(x, weight, np.zeros(6, int), bias=bias, sample_weight=np.zeros(6))
        assert value == 0.0
        assert_same_bits(gradients, zeros)
        for reduction in REDUCTIONS:
            value, gradients = given.value_and_grad(x[:0], weight, ignored[:0], bias=bias, reduction=reduction)
            assert np.array_equal(value, [] if reduction == "none" else 0.0)
            assert_same_bits(gradients, (zeros[0][:0], *zeros[1:]))


@each_dtype
def test_no_features(dtype: Any) -> None:
    """The logits are the bias."""
    bias = np.array([1.0, -2.0, 0.5], dtype)
    x, weight, y = np.empty((5, 0), dtype), np.empty((0, 3), dtype), np.array([0, 1, 2, 0, 0])
    z = np.tile(bias, (5, 1))
    value, grad = fp.losses.SoftmaxCrossEntropy().value_and_grad(z, y)
    found, (dx, dweight, dbias) = fp.losses.LinearCrossEntropy().value_and_grad(x, weight, y, bias=bias)
    assert found == value
    assert_same_bits((dx, dweight), (x, weight))
    np.testing.assert_allclose(dbias, grad.sum(axis=0), atol=4 * float(np.finfo(dtype).eps))
    assert math.isclose(fp.losses.LinearCrossEntropy()(x, weight, y), math.log(3), rel_tol=1e-6)


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("features", [0, 2])
def test_no_classes(features: int, rows: int) -> None:
    """There is a distribution over none, and no label."""
    x, weight = np.ones((rows, features)), np.ones((features, 0))
    loss = fp.losses.LinearCrossEntropy()
    for reduction in REDUCTIONS:
        value, gradients = loss.value_and_grad(x, weight, np.ones((rows, 0)), bias=np.ones(0), reduction=reduction)
        assert np.array_equal(value, np.zeros(rows) if reduction == "none" else 0.0)
        assert_same_bits(gradients, (np.zeros_like(x), weight, np.ones(0)))
    if rows:
        with pytest.raises(ValueError, match=r"labels\[0\] is label 0; expected 0 to -1 \(weight has C = 0 classes\)"):
            loss(x, weight, np.zeros(rows, int))


@each_dtype
def test_special_rows(dtype: Any, target: str) -> None:
    """A NaN in a row of x is in its own value and dx, and in all of the sums over rows."""
    x, weight, y, _, _ = sample((9, 4, 5), dtype)
    loss = fp.losses.LinearCrossEntropy()
    expected, (expected_dx, _, _) = loss.value_and_grad(x, weight, y, reduction="none")
    x[3, 1] = np.nan
    values, (dx, dweight, _) = loss.value_and_grad(x, weight, y, reduction="none")
    others = np.arange(9) != 3
    assert np.isnan(values[3])
    assert np.isnan(dx[3]).all()
    assert_same_bits((values[others], dx[others]), (expected[others], expected_dx[others]))
    assert np.isnan(dweight).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
def test_layouts(dtype: Any, layout: str) -> None:
    x, weight, y, bias, w = sample((70, 17, 33), dtype)
    q = sample((70, 17, 33), dtype, "distribution")[2]
    loss = fp.losses.LinearCrossEntropy(label_smoothing=0.1, ignore_index=3)
    strided = laid_out(np.stack([bias, bias], axis=1), layout)[:, 0]
    for target in (y, q):
        expected = loss.value_and_grad(x, weight, target, bias=bias, sample_weight=w)
        given = target if target.ndim == 1 else laid_out(target, layout)
        found = loss.value_and_grad(laid_out(x, layout), laid_out(weight, layout), given, bias=strided, sample_weight=w)
        assert_same_bits(found, expected)
        assert all(array.flags.c_contiguous for array in found[1])


def test_integers_and_torch_tensors() -> None:
    x, weight, y, _, _ = sample((9, 4, 5), np.float32)
    loss = fp.losses.LinearCrossEntropy()
    whole = np.rint(x).astype(int), np.rint(weight).astype(int)
    floats = [a.astype(float) for a in whole]
    assert_same_bits(loss.value_and_grad(*whole, y), loss.value_and_grad(*floats, y))
    torch = pytest.importorskip("torch")
    expected = loss.value_and_grad(x, weight, y)
    # Linear.weight is (C, D).
    found = loss.value_and_grad(torch.tensor(x), torch.tensor(weight.T.copy()).T, torch.tensor(y))
    assert_same_bits(found, expected)


# --- bits and memory ----------------------------------------------------------------------------------------


@functools.cache
def _expected(dtype: Any, kind: str) -> tuple[Any, ...]:
    """The results on one thread and the first target."""
    return _results(dtype, kind, 1, FMA_TARGETS[0])


def _results(dtype: Any, kind: str, num_threads: int, simd_target: str) -> tuple[Any, ...]:
    with fp.num_threads(num_threads), fp.simd_target(simd_target):
        found: list[Any] = []
        for shape in ((64, 12, 10), BLOCKS, (333, 40, 2003)):
            for options in OPTIONS[0], OPTIONS[-1]:
                parameters = parameters_for(options, shape[2])
                x, weight, y, bias, w = sample(shape, dtype, kind, parameters.get("ignore_index"))
                loss = fp.losses.LinearCrossEntropy(**parameters)
                for reduction in ("mean", "none"):
                    found += loss.value_and_grad(x, weight, y, bias=bias, sample_weight=w, reduction=reduction)
        return tuple(found)


@pytest.mark.skipif(not FMA_TARGETS, reason="no target with fused multiply-add")
@pytest.mark.parametrize("simd_target", FMA_TARGETS)
@pytest.mark.parametrize("num_threads", [1, 2, 5])
@each_kind
@each_dtype
def test_same_bits(dtype: Any, kind: str, num_threads: int, simd_target: str) -> None:
    assert_same_bits(_results(dtype, kind, num_threads, simd_target), _expected(dtype, kind))


MEMORY = """
import tracemalloc
import numpy as np
import fuseprop as fp

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))

rows, features, classes = {shape}
rng = np.random.default_rng(0)
x = rng.standard_normal((rows, features), np.float32)
weight = rng.standard_normal((features, classes), np.float32)
labels = rng.integers(0, classes, rows)
labels[::{step}] = -100
loss = fp.losses.LinearCrossEntropy(ignore_index=-100)
loss.value_and_grad(x[:2], weight[:, :9].copy(), [1, 2], bias=np.zeros(9, np.float32))  # the threads are there
bias = np.zeros(classes, np.float32)
before = status("VmHWM:")
{measure}
value, gradients = loss.value_and_grad(x, weight, labels, bias=bias)
peak = {peak}
print(peak - sum(gradient.nbytes for gradient in gradients))
assert np.isfinite(value)
"""


@pytest.mark.parametrize(
    ("shape", "step"),
    [((1024, 64, 65536), 10**9), ((1024, 64, 65536), 3), ((300, 16, 262144), 3), ((100_000, 64, 1000), 3)],
    ids=str,
)
def test_memory(shape: tuple[int, int, int], step: int) -> None:
    """At most 64 MiB beside inputs and outputs, where the logits are 262 to 400 MiB and their gradient as much."""
    parts = {"measure": "tracemalloc.start()", "peak": "tracemalloc.get_traced_memory()[1]"}
    limit = 64 << 20
    assert 0 < int(check_output(MEMORY.format(shape=shape, step=step, **parts))) <= limit
    if SANITIZER:  # which keeps memory of its own
        return
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            assert any(line.startswith("VmHWM:") for line in lines)
    except FileNotFoundError:
        pytest.skip("the most memory that was resident is known on Linux only")
    parts = {"measure": "", "peak": 'status("VmHWM:") - before'}
    # With more threads than two, each has its own copies of parts of the factors.
    more = {"FUSEPROP_NUM_THREADS": "2"}
    assert 0 < int(check_output(MEMORY.format(shape=shape, step=step, **parts), **more)) <= limit


def test_out_of_memory() -> None:
    x, weight = np.empty((1, 0)), np.empty((0, 1 << 50))
    for verb in verbs(fp.losses.LinearCrossEntropy()):
        with pytest.raises(MemoryError):
            verb(x, weight, [0])


# --- bad input ----------------------------------------------------------------------------------------------


def verbs(loss: Any) -> list[Any]:
    return [loss, loss.gradient, loss.value_and_grad]


def test_refuses() -> None:
    x, weight, y, bias, w = sample((6, 3, 4), np.float64)
    q = np.full((6, 4), 0.25)
    loss = fp.losses.LinearCrossEntropy(ignore_index=-1)
    single = np.float32
    for arguments, options, error, message in (
        ((x[0], weight, y), {}, ValueError, "x has shape (3,); expected two dimensions"),
        ((x, weight[0], y), {}, ValueError, "weight has shape (4,); expected two dimensions"),
        ((x, weight.T, y), {}, ValueError, "x has shape (6, 3) but weight has shape (4, 3); expected"),
        ((x, weight.astype(single), y), {}, TypeError, "weight has dtype float32 but x has dtype float64"),
        ((x.astype(complex), weight, y), {}, TypeError, "x has dtype complex128; expected float32 or float64"),
        ((x, weight, y), {"bias": bias[1:]}, ValueError, "bias has shape (3,); expected (4,)"),
        ((x, weight, y), {"bias": bias.astype(single)}, TypeError, "bias has dtype float32 but x has dtype float64"),
        ((x, weight, y[1:]), {}, ValueError, "labels has shape (5,); expected (6,) for labels, or (6, 4) for"),
        ((x, weight, q[:, 1:]), {}, ValueError, "labels has shape (6, 3); expected (6,) for labels, or (6, 4) for"),
        ((x, weight, y.astype(float)), {}, TypeError, "labels has dtype float64 and shape (6,); expected integer"),
        ((x, weight, y), {"sample_weight": w[1:]}, ValueError, "sample_weight has shape (5,); expected (6,), one"),
        ((x, weight, y), {"reduction": "avg"}, ValueError, "reduction is 'avg'"),
        ((None, weight, y), {}, TypeError, "x is None"),
        ((x, None, y), {}, TypeError, "weight is None"),
        ((x, weight, None), {}, TypeError, "labels is None"),
        ((x, weight, y, bias), {}, TypeError, "positional argument"),
    ):  # fmt: skip
        for verb in verbs(loss):
            with pytest.raises(error, match=re.escape(message)):
                verb(*arguments, **options)
    with pytest.raises(
        ValueError, match=r"class_weight has 3 numbers; expected one for each of the C = 4 classes of w"
    ):
        fp.losses.LinearCrossEntropy(class_weight=[1, 2, 3])(x, weight, y)
    with pytest.raises(TypeError, match="no derivatives per sample"):
        loss.grad_and_hess(x, weight, y)


@each_dtype
def test_labels_out_of_range(dtype: Any) -> None:
    """Row, label and the number of classes are named, in any block, ahead of any work."""
    x, weight, y, _, _ = sample(BLOCKS, dtype)
    classes = BLOCKS[2]
    for row, label in itertools.product((0, 300, 699), (classes, -1, 2**40, -(2**63))):
        bad = y.copy()
        bad[row] = label
        for options, more in (({}, ""), ({"ignore_index": -9}, r" or ignore_index = -9")):
            expected = rf"labels\[{row}\] is label {label}; expected 0 to 1002{more} \(weight has C = 1003 classes\)"
            for verb in verbs(fp.losses.LinearCrossEntropy(**options)):
                with pytest.raises(ValueError, match=expected):
                    verb(x, weight, bad)


@each_dtype
def test_not_a_distribution(dtype: Any) -> None:
    x, weight, q, _, _ = sample(BLOCKS, dtype, "distribution")
    for row, column, value in ((0, 0, -0.5), (300, 5, 1.5), (699, 1002, np.nan), (699, 0, np.inf)):
        bad = q.copy()
        bad[row, column] = value
        message = rf"labels\[{row}, {column}\] is {float(dtype(value))!r}; a distribution has values in \[0, 1\]"
        for options in ({}, {"ignore_index": 1, "z_loss": 0.1}):
            for verb in verbs(fp.losses.LinearCrossEntropy(**options)):
                with pytest.raises(ValueError, match=message):
                    verb(x, weight, bad)


@pytest.mark.parametrize(("spec", "parameters"), cases(LINEAR_LOSSES))
def test_options_are_those_of_softmax_cross_entropy(spec: LossSpec, parameters: Parameters) -> None:
    assert dict(spec.parameters) == dict(fp.losses.SoftmaxCrossEntropy.spec.parameters)
    for name, value in {**spec.parameters, **parameters}.items():
        assert getattr(spec.cls(**parameters), name) == value
    with pytest.raises(ValueError, match="temperature is 0"):
        spec.cls(temperature=0)
