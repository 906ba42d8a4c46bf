"""Layers beside Dense, and models within models."""

from __future__ import annotations

import copy
import os
import pickle
import re
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import FMA_TARGETS, assert_same_bits, each_dtype, seeded
from networks import Scale, everything, numeric_gradient

import fuseprop as fp
from fuseprop import _core, nn
from fuseprop._memory import BatchBuffer, RowBuffer
from fuseprop.nn.layers import LAYERS

Array = Any


def samples(n: int = 12, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 2, 3)), rng.integers(0, 3, n)


X, LABELS = samples()
CROSS_ENTROPY = fp.losses.SoftmaxCrossEntropy()


def check_gradients(model: nn.Sequential, x: Array, *, rtol: float = 1e-6, h: float = 1e-4) -> None:
    """All gradients against central differences of fourth order, in training mode; twice, and accumulated."""
    y = model(x, training=True)
    dy = seeded("dy", y.shape).standard_normal(y.shape)
    state = model.rng.bit_generator.state

    def value() -> float:
        model.rng.bit_generator.state = state  # the same masks each time
        return float(np.sum(dy * model(x, training=True)))

    value()
    dx = model.backward(dy)
    found = model.flat_gradients.copy()
    value()
    assert_same_bits(model.backward(dy), dx)
    assert_same_bits(model.flat_gradients, found)
    model.backward(dy, accumulate=True)
    np.testing.assert_allclose(model.flat_gradients, 2 * found, rtol=1e-12, atol=1e-12)
    scale = np.abs(found).max() if found.size else 1.0
    if found.size:
        numeric = numeric_gradient(value, model.flat_parameters, h=h)
        np.testing.assert_allclose(found, numeric, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(dx, numeric_gradient(value, x, h=h), rtol=rtol, atol=rtol * np.abs(dx).max())


# --- each layer ---------------------------------------------------------------------------------------------


def each(name: str) -> list[Any]:
    """Makers of the registered samples of one class of layers."""
    makers = [lambda i=i: LAYERS[name].samples()[i] for i in range(len(LAYERS[name].samples()))]
    return [pytest.param(make, LAYERS[name].input_shape, id=repr(make()).replace("\n", "")) for make in makers]


each_layer = pytest.mark.parametrize(("make", "shape"), [sample for name in LAYERS for sample in each(name)])


def test_all_layers_are_registered() -> None:
    public = [getattr(nn, name) for name in nn.__all__]
    classes = [cls for cls in public if isinstance(cls, type) and issubclass(cls, nn.Layer) and cls is not nn.Layer]
    assert {cls.__name__: cls for cls in classes} == {name: spec.cls for name, spec in LAYERS.items()}
    assert all({type(layer) for layer in spec.samples()} == {spec.cls} for spec in LAYERS.values())


@each_layer
def test_a_layer_says_its_shapes(make: Any, shape: tuple[int, ...]) -> None:
    """What `load` compares with a file before there is memory for it, and what a model follows."""
    model = nn.Sequential([make()], rng=0)
    x = seeded("shapes").standard_normal((5, *shape))
    assert model(x).shape[1:] == make().output_shape(shape)
    found = {name: array.shape for name, array in model.state_dict().items()}
    shapes = {f"{path}.{name}": size for path, layer in model._leaves() for name, size in layer._shapes().items()}
    assert shapes == found


@each_layer
def test_gradients_of_a_layer(make: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    check_layer(make, shape, tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Residual([nn.Dense(6, 9, "tanh"), nn.BatchNorm(9), nn.Dense(9, 6)]),
        lambda: nn.Residual(nn.Residual(nn.Sequential([nn.Dense(6, 6, "sigmoid")]))),
        lambda: nn.Sequential([nn.Sequential([nn.Dense(6, 5)]), nn.Activation("tanh")]),
    ],
    ids=lambda make: repr(make()).replace("\n", ""),
)
def test_gradients_of_nested_layers(make: Any, tmp_path: Path) -> None:
    check_layer(make, (6,), tmp_path)


def check_layer(make: Any, shape: tuple[int, ...], folder: Path) -> None:
    """The gradients of a layer, alone and between others; and its model, saved and loaded."""
    x = seeded("gradients").standard_normal((9, *shape))
    for place in ("alone", "between"):
        features = nn.Sequential([make()])(x).shape[1]
        made = make()
        before = [nn.Dense(6, 6, "tanh")] if shape == (6,) else []
        layers = [made] if place == "alone" else [*before, made, nn.Dense(features, 2, "tanh")]
        model = nn.Sequential(layers, rng=1, dtype=np.float64)
        check_gradients(model, x.copy())
        path = folder / place
        model.save(path)
        loaded = nn.load(path)
        assert repr(loaded) == repr(model)
        assert_same_bits(loaded(x), model(x))
        assert loaded.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6)], ids=str)
def test_norms_of_samples_of_many_axes(shape: tuple[int, ...]) -> None:
    x = seeded("axes").standard_normal((5, *shape))
    rows = x.reshape(-1, 6)
    for make in (lambda: nn.BatchNorm(6), lambda: nn.LayerNorm(6)):
        model, flat = (nn.Sequential([make()], dtype=np.float64) for _ in range(2))
        check_gradients(model, x.copy(), rtol=1e-5)
        assert_same_bits(model(x, training=True), flat(rows, training=True).reshape(x.shape))
        assert_same_bits(model(x), flat(rows).reshape(x.shape)) if isinstance(model.layers[0], nn.LayerNorm) else None
    whole = nn.Sequential([nn.LayerNorm(shape)], dtype=np.float64)
    np.testing.assert_allclose(whole(x).reshape(5, -1).std(axis=1), 1, rtol=1e-4)
    check_gradients(whole, x.copy(), rtol=1e-5)


@each_dtype
def test_everything_together(dtype: Any) -> None:
    # BatchNorm's own steps are small against the sums, Dropout draws the same masks: the differences are exact enough.
    model = everything(np.float64, p=0.3)
    check_gradients(model, X.copy(), rtol=1e-5)
    wide, narrow = everything(np.float64, p=0.3), everything(dtype, p=0.3)
    narrow.load_state_dict({name: array.astype(dtype) for name, array in wide.state_dict().items()})
    narrow.rng.bit_generator.state = wide.rng.bit_generator.state
    if dtype == np.float64:
        assert_same_bits(narrow(X, training=True), wide(X, training=True))
    np.testing.assert_allclose(narrow(X), wide(X), rtol=1e-3, atol=1e-4)


def test_maxout_is_its_formula() -> None:
    layer = nn.Maxout(6, 4, pieces=3)
    model = nn.Sequential([layer], rng=0, dtype=np.float64)
    x = seeded("maxout").standard_normal((7, 6))
    weight, bias = model.parameters()["0.weight"], model.parameters()["0.bias"]
    bias[...] = seeded("bias").standard_normal(12)
    expected = (x @ weight + bias).reshape(7, 4, 3).max(axis=2)
    np.testing.assert_allclose(model(x), expected, rtol=1e-13)
    # Two pieces keep the mean square: max(a, b)^2 + min(a, b)^2 = a^2 + b^2.
    deep = nn.Sequential([nn.Maxout(200, 200) for _ in range(5)], rng=0)
    y = deep(seeded("deep").standard_normal((100, 200)))
    assert 0.5 < np.mean(y * y) < 2


def test_dropout() -> None:
    model = nn.Sequential([nn.Dropout(0.3)], rng=3)
    x = np.ones((400, 100), np.float32)
    y = model(x, training=True)
    kept = y != 0
    np.testing.assert_array_equal(y[kept], np.float32(1 / 0.7))
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.3 * 0.7 / x.size)
    for axis in (0, 1):  # no row and no column is another's
        assert abs(kept.mean(axis=axis) - 0.7).max() < 6 * np.sqrt(0.21 / x.shape[axis])
    np.testing.assert_array_equal(model.backward(2 * x), 2 * y)
    assert not np.array_equal(model(x, training=True), y)
    found = model(x)
    np.testing.assert_array_equal(found, x)
    assert not np.shares_memory(found, x)
    with fp.num_threads(1):
        again = nn.Sequential([nn.Dropout(0.3)], rng=3)
        np.testing.assert_array_equal(again(x, training=True), y)
    nothing = nn.Sequential([nn.Dropout(0.0)])
    np.testing.assert_array_equal(nothing(x, training=True), x)
    np.testing.assert_array_equal(nothing.backward(y), y)


def mix(x: Array) -> Array:
    """The hash of csrc/kernels/dense/dropout.h, step by step."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = x ^ (x >> np.uint32(shift))
        x = x * np.uint32(factor)
    return x ^ (x >> np.uint32(15))


@each_dtype
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999])
def test_the_mask_is_its_hash(p: float, dtype: Any, target: str) -> None:
    key = 0x0123_4567_89AB_CDEF
    for n in (1, 7, 8192, 20_001, 100_003):
        at = np.arange(n, dtype=np.uint32)
        hashed = mix(mix(at ^ np.uint32(key & 0xFFFFFFFF)) + np.uint32(key >> 32))
        expected = np.where(hashed < round(p * 2**32), 0, 1 / (1 - p)).astype(dtype)
        assert_same_bits(_core.dropout(np.ones(n, dtype), p, key, None), expected)
        for threads in (1, 3):
            with fp.num_threads(threads):
                x = seeded("mask").standard_normal(n).astype(dtype)
                assert_same_bits(_core.dropout(x, p, key, None), x * expected)
                assert_same_bits(_core.dropout(x, p, key, x), x)


def test_masks_are_like_random_ones() -> None:
    """Bits of neighbours, of columns, and of masks with keys that differ in one bit are independent."""
    n = 1 << 18
    keys = [0, 1, 2, 1 << 31, 1 << 32, 1 << 62, 12345678901234567]
    masks = np.array([_core.dropout(np.ones(n), 0.5, key, None) - 1 for key in keys])  # -1 or 1
    limit = 5 / np.sqrt(n)
    assert np.abs(masks.mean(axis=1)).max() < limit
    for a in range(len(keys)):
        for b in range(a):
            assert abs(np.mean(masks[a] * masks[b])) < limit
    for lag in (1, 2, 3, 8, 16, 64, 100, 128, 1000, 4096, 65536):
        assert np.abs(np.mean(masks[:, lag:] * masks[:, :-lag], axis=1)).max() < limit
    # Runs of eight as numbers: a chi-square of 255 degrees of freedom.
    for mask in masks:
        counts = np.bincount(np.packbits(mask > 0), minlength=256)
        expected = n / 8 / 256
        assert abs(np.sum((counts - expected) ** 2 / expected) - 255) < 6 * np.sqrt(2 * 255)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones(3), 1.0, 0, None), ValueError, "p is 1.0; expected 0 <= p < 1"),
        ((np.ones(3), 0.5, -1, None), OverflowError, "negative int"),
        ((np.ones(3), 0.5, 0, np.ones(4)), ValueError, "out has shape (4,); expected (3,)"),
        ((["a"], 0.5, 0, None), TypeError, "x"),
    ],
)
def test_errors_of_the_mask(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        _core.dropout(*arguments)


def test_flatten() -> None:
    model = nn.Sequential([nn.Flatten(), nn.Dense(6, 2)], rng=0)
    assert model(X).shape == (12, 2)
    assert model(np.empty((0, 2, 3))).shape == (0, 2)
    alone = nn.Sequential([nn.Flatten()], dtype=np.float64)
    assert not np.shares_memory(alone(X), X)
    assert alone(X, training=True).shape == (12, 6)
    assert alone.backward(np.ones((12, 6))).shape == X.shape
    with pytest.raises(ValueError, match=re.escape("layers[1], Dense(6, 2), gets samples of shape (8,)")):
        model(np.ones((3, 2, 4)))


@each_dtype
def test_batch_norm_runs_and_evaluates(dtype: Any) -> None:
    model = nn.Sequential([nn.BatchNorm(3, momentum=0.25)], dtype=dtype)
    x = (5 + 2 * seeded("running").standard_normal((40, 3))).astype(dtype)
    mean, var = np.zeros(3), np.ones(3)
    for begin in (0, 10, 20, 30):
        batch = x[begin : begin + 10].astype(np.float64)
        model(x[begin : begin + 10], training=True)
        mean, var = 0.75 * mean + 0.25 * batch.mean(axis=0), 0.75 * var + 0.25 * batch.var(axis=0, ddof=1)
    state = model.state_dict()
    tolerance = 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(state["0.running_mean"], mean, rtol=tolerance)
    np.testing.assert_allclose(state["0.running_var"], var, rtol=tolerance)
    expected = (x - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(model(x), expected, rtol=10 * tolerance, atol=10 * tolerance)
    assert_same_bits(model(x[3:4]), model(x)[3:4])
    assert_same_bits(model.state_dict()["0.running_mean"], state["0.running_mean"])


def test_batch_norm_as_pytorch() -> None:
    torch = pytest.importorskip("torch")
    ours = nn.Sequential([nn.BatchNorm(5)], dtype=np.float64)
    theirs = torch.nn.BatchNorm1d(5, dtype=torch.float64)
    for i in range(3):
        x = seeded("torch", i).standard_normal((8, 5)) * (1 + i) + i
        np.testing.assert_allclose(ours(x, training=True), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-11)
    theirs.eval()
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-12)
    for name, array in ours.state_dict().items():
        np.testing.assert_allclose(array, theirs.state_dict()[name[2:]].numpy(), rtol=1e-12)


# --- construction -------------------------------------------------------------------------------------------


def used() -> nn.Sequential:
    model = nn.Sequential([nn.Dense(2, 2)])
    model(np.ones((1, 2)))
    return model


def nested() -> nn.Sequential:
    inner = nn.Sequential([nn.Dense(2, 2)])
    nn.Sequential([inner])
    return inner


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Dropout(1.0), ValueError, "p is 1.0; expected a finite number >= 0 and < 1"),
        (lambda: nn.Dropout("much"), TypeError, "p must be a number, found str"),
        (lambda: nn.BatchNorm(0), ValueError, "num_features is 0"),
        (lambda: nn.BatchNorm(3, eps=0.0), ValueError, "eps is 0.0"),
        (lambda: nn.BatchNorm(3, momentum=1.5), ValueError, "momentum is 1.5"),
        (lambda: nn.BatchNorm(3, affine="no"), TypeError, "affine must be a bool"),
        (lambda: nn.LayerNorm(()), ValueError, "normalized_shape is empty"),
        (lambda: nn.LayerNorm((3, 0)), ValueError, "normalized_shape is 0"),
        (lambda: nn.LayerNorm(2.5), TypeError, "normalized_shape must be an integer"),
        (lambda: nn.Maxout(3, 2, pieces=0), ValueError, "pieces is 0"),
        (lambda: nn.Maxout(0, 2), ValueError, "in_features is 0"),
        (lambda: nn.Residual(nn.Dense(3, 4)), ValueError, "samples of shape (4,); expected (3,)"),
        (lambda: nn.Residual("relu"), TypeError, "block must be a Layer, found str"),
        (lambda: nn.Residual([]), ValueError, "layers is empty"),
        (lambda: nn.Sequential([nn.Dense(2, 3), nn.BatchNorm(4)]), ValueError, "layers[1], BatchNorm(4), gets"),
        (lambda: nn.Sequential([nn.Dense(2, 3), nn.LayerNorm(4)]), ValueError, "shape (3,); expected (4,)"),
        (lambda: nn.Sequential([nn.Dense(2, 3), nn.Sequential([nn.Dense(4, 2)])]), ValueError, "layers[1].layers[0]"),
        (
            lambda: nn.Sequential([nn.Dense(2, 3), nn.Residual([nn.Dense(3, 5), nn.Dense(4, 3)])]),
            ValueError,
            "layers[1], Dense(4, 3), gets samples of shape (5,); expected (4,)",
        ),
        (lambda: nn.Sequential([used()]), ValueError, "has been used as a model of its own"),
        (lambda: nn.Sequential([nested()]), ValueError, "is part of a model already"),
        (lambda: nn.Residual(nested()), ValueError, "is part of a model already"),
        (lambda: nn.Sequential([nn.Sequential([nn.Dense(2, 2)])] * 2), ValueError, "is part of a model already"),
        (lambda: nn.Sequential([d := nn.Dense(3, 3), nn.Residual(d)]), ValueError, "layers[0], Dense(3, 3), is part"),
        (lambda: nn.Sequential([nn.Residual(d := nn.Dense(3, 3)), nn.Residual([d])]), ValueError, "layers[0], Dense(3"),
        (lambda: nn.Residual([nn.Residual(d := nn.Dropout()), d]), ValueError, "layers[1], Dropout(0.5), is part of"),
        (lambda: nn.Residual([nn.Dense(3, 3)] * 2), ValueError, "layers[1], Dense(3, 3), is part of a model already"),
        (lambda: nn.Sequential([nn.Residual(nn.Dense(3, 3))] * 2), ValueError, "is part of a model already"),
        (lambda: nn.Residual(nn.Residual([nn.Dense(3, 3)]).block), ValueError, "is part of a model already"),
    ],
)
def test_construction_errors(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_a_block_keeps_its_layer() -> None:
    """Before it is in a model, too."""
    dense = nn.Dense(3, 3)
    block = nn.Residual(dense)
    with pytest.raises(ValueError, match=re.escape("layers[0], Dense(3, 3), is part of a model already")):
        nn.Sequential([dense])
    model = nn.Sequential([block], rng=0)
    assert np.shares_memory(dense.weight, model.flat_parameters)
    # A copy of the layer is free, and a copy of the block has one of its own.
    for free in (copy.copy(dense), copy.deepcopy(dense), copy.copy(nn.Residual(nn.Dense(3, 3)).block)):
        assert not np.shares_memory(nn.Sequential([free]).flat_parameters, model.flat_parameters)
    for duplicate in (copy.copy, copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))):
        for part in (block, nn.Residual([nn.Dense(3, 3), nn.Dropout()]), nn.Residual(nn.Sequential([nn.Dense(3, 3)]))):
            again = duplicate(part)
            assert repr(again) == repr(part)
            nn.Sequential([again])


def test_a_failed_construction_takes_nothing() -> None:
    def fails(shape: tuple[int, ...], *, rng: Any, dtype: Any) -> Array:
        raise FloatingPointError

    inner, dense, norm = nn.Sequential([nn.Dense(3, 4), nn.BatchNorm(4)], rng=5), nn.Dense(4, 4), nn.BatchNorm(4)
    before, x = repr(inner), seeded("failed").standard_normal((6, 3)).astype(np.float32)
    state = copy.deepcopy(inner).state_dict()
    with pytest.raises(ValueError, match="gets samples of shape"):
        nn.Sequential([inner, nn.Dense(5, 2)])
    with pytest.raises(ValueError, match="samples of shape"):
        nn.Residual([dense, nn.Dense(4, 3)])
    with pytest.raises(TypeError, match="must be a Layer"):
        nn.Sequential([inner, dense, norm, "relu"])  # type: ignore[list-item]  # refused
    # Behind the first layers' initial values.
    with pytest.raises(FloatingPointError):
        nn.Sequential([inner, dense, norm, nn.Dense(4, 2, init=fails)], dtype=np.float64)
    assert repr(inner) == before
    assert inner.dtype == np.float32
    model = nn.Sequential([dense, norm])
    assert model.flat_parameters.size == 28
    np.testing.assert_equal(copy.deepcopy(inner).state_dict(), state)
    inner.fit(x, x[:, [0, 1, 2, 0]], loss="squared_error", epochs=1, progress=False)
    assert inner(x, training=True).dtype == np.float32


def test_a_block_whose_output_has_another_shape() -> None:
    """A layer of one's own need not know its shape beforehand."""

    class First(nn.Layer):
        def output_shape(self, input_shape: Any) -> Any:
            return None

        def forward(self, x: Array, training: bool) -> Array:
            return x[:, :1].copy()

    model = nn.Sequential([nn.Residual(First())])
    health = nn.GradientHealth()
    for call in (
        lambda: model(np.ones((4, 3))),
        lambda: model(np.ones((4, 3)), training=True),
        lambda: model.fit(np.ones((4, 3)), np.ones((4, 3)), loss="squared_error", callbacks=[health], progress=False),
    ):
        with pytest.raises(ValueError, match=re.escape("gets a batch of shape (4, 3); expected (4, 1), which the")):
            call()
    assert model(np.ones((4, 1))).shape == (4, 1)


def test_a_batch_of_one_has_no_variance() -> None:
    model = nn.Sequential([nn.Dense(3, 2), nn.BatchNorm(2)], rng=0)
    optimizer = fp.optim.SGD(model)
    before = model.state_dict()
    with pytest.raises(ValueError, match=re.escape("BatchNorm(2) gets a batch of 1 in training")):
        model.train_step(np.ones((1, 3)), np.array([0]), CROSS_ENTROPY, optimizer)
    for name, array in model.state_dict().items():
        assert_same_bits(array, before[name])
    assert model(np.ones((1, 3))).shape == (1, 2)


# --- models within models -----------------------------------------------------------------------------------


def test_the_root_lays_out() -> None:
    inner = nn.Sequential([nn.Dense(4, 4, "tanh"), nn.BatchNorm(4)], rng=5, dtype=np.float64)
    model = nn.Sequential([nn.Dense(3, 4), inner, nn.Residual(nn.Sequential([nn.Dense(4, 4)]))], rng=0)
    flat = nn.Sequential([nn.Dense(3, 4), nn.Dense(4, 4, "tanh"), nn.BatchNorm(4), nn.Dense(4, 4)], rng=0)
    assert_same_bits(model.flat_parameters, flat.flat_parameters)
    assert list(model.parameters()) == [
        "0.weight", "0.bias", "1.0.weight", "1.0.bias", "1.1.weight", "1.1.bias", "2.block.0.weight", "2.block.0.bias",
    ]  # fmt: skip
    assert list(model.state_dict())[-2:] == ["1.1.running_mean", "1.1.running_var"]
    assert inner.dtype == model.dtype == np.float32
    assert inner.rng is model.rng
    for name, array in inner.parameters().items():
        assert np.shares_memory(array, model.flat_parameters)
        assert_same_bits(array, model.parameters()[f"1.{name}"])
    x = seeded("inner").standard_normal((6, 4))
    assert inner(x).dtype == np.float32
    inner.load_state_dict({name: np.full_like(array, 0.5) for name, array in inner.state_dict().items()})
    assert (model.parameters()["1.0.weight"] == 0.5).all()
    weight = inner.parameters()["0.weight"]
    weight[...] = seeded("weight").standard_normal(weight.shape)
    for what in (
        lambda: inner.flat_parameters,
        lambda: inner(x, training=True),
        lambda: inner.train_step(x, np.zeros(6, int), CROSS_ENTROPY, fp.optim.SGD(model)),
        lambda: fp.optim.Adam(inner),
    ):
        with pytest.raises(RuntimeError, match="part of another model"):
            what()
    # A part of the parameters can be trained alone, through the root.
    before = model.state_dict()
    some = fp.optim.SGD(model.layers[1].parameters(), lr=0.1)  # type: ignore[union-attr]  # a layer, as made above
    model.train_step(seeded("x").standard_normal((6, 3)), np.zeros(6, int), CROSS_ENTROPY, some)
    changed = {name for name, array in model.state_dict().items() if not np.array_equal(array, before[name])}
    assert {"1.1.weight", "1.1.bias", "1.1.running_mean"} <= changed
    assert all(name.startswith("1.") for name in changed)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_go_on_alike(duplicate: Any) -> None:
    model = everything(np.float32, p=0.2)
    model.fit(X, LABELS, loss="softmax_cross_entropy", epochs=2, batch_size=5, progress=False)
    other = duplicate(model)
    assert repr(other) == repr(model)
    for name, array in model.state_dict().items():
        assert_same_bits(other.state_dict()[name], array)
    histories = [
        m.fit(X, LABELS, loss="softmax_cross_entropy", epochs=2, batch_size=5, progress=False) for m in (model, other)
    ]
    assert histories[0] == histories[1]
    assert_same_bits(other.flat_parameters, model.flat_parameters)
    assert not np.shares_memory(other.flat_parameters, model.flat_parameters)


@each_dtype
def test_save_and_load_everything(dtype: Any, tmp_path: Path) -> None:
    model = everything(dtype, p=0.2)
    model.fit(X, LABELS, loss="softmax_cross_entropy", epochs=2, batch_size=6, progress=False)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=re.escape("layers[5].layers[1] is a Scale, which is not known")):
        nn.load(tmp_path / "model")
    loaded = nn.load(tmp_path / "model", layers=[Scale])
    assert repr(loaded) == repr(model)
    assert_same_bits(loaded(X), model(X))
    for name, array in model.state_dict().items():
        assert_same_bits(loaded.state_dict()[name], array)


def test_state_dict_of_buffers() -> None:
    model = everything()
    state = model.state_dict()
    with pytest.raises(ValueError, match=re.escape("missing are ['3.running_mean']")):
        model.load_state_dict({name: array for name, array in state.items() if name != "3.running_mean"})
    with pytest.raises(ValueError, match=re.escape("state['5.3.running_var'] has shape (5,); expected (6,)")):
        model.load_state_dict(state | {"5.3.running_var": np.ones(5)})
    with pytest.raises(TypeError, match=re.escape("state['3.running_var'] has dtype float32")):
        model.load_state_dict(state | {"3.running_var": np.ones(8, np.float32)})


# --- steps --------------------------------------------------------------------------------------------------


@each_dtype
def test_train_step_is_its_parts(dtype: Any) -> None:
    a, b = everything(dtype, p=0.2), everything(dtype, p=0.2)
    optimizers = fp.optim.Adam(a), fp.optim.Adam(b)
    for n in (12, 12, 7, 12):
        x, y = samples(n, n)
        found = a.train_step(x.astype(dtype), y, CROSS_ENTROPY, optimizers[0])
        value, dy = CROSS_ENTROPY.value_and_grad(b(x, training=True), y)
        b.backward(dy)
        optimizers[1].step()
        assert found == value
        for name, array in a.state_dict().items():
            assert_same_bits(array, b.state_dict()[name], name)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"x": X[:, :1]}, ValueError),
        ({"x": X[:1], "target": LABELS[:1]}, ValueError),
        ({"target": LABELS[:-1]}, ValueError),
        ({"target": LABELS + 1}, ValueError),
        ({"loss": lambda pred, target: (0.0, np.ones(3))}, ValueError),
    ],
    ids=["shape", "one sample", "too few labels", "label", "gradient"],
)
def test_a_failed_step_changes_nothing(change: dict[str, Any], error: type[Exception]) -> None:
    model = everything(p=0.2)
    optimizer = fp.optim.Adam(model)
    arguments = {"x": X, "target": LABELS, "loss": CROSS_ENTROPY, "optimizer": optimizer}
    model.train_step(**arguments)
    before, state = model.state_dict(), optimizer.state_dict()
    with pytest.raises(error):
        model.train_step(**(arguments | change))
    np.testing.assert_equal(model.state_dict(), before)
    np.testing.assert_equal(optimizer.state_dict(), state)


@each_layer
@pytest.mark.parametrize("in_model", [False, True])
def test_backward_needs_forward(make: Any, shape: tuple[int, ...], in_model: bool) -> None:
    """Of each layer, also of one that is in no model yet."""
    layer, x = make(), np.ones((3, *shape), np.float32)
    dy = np.ones((3, *layer.output_shape(shape)), np.float32)
    if in_model:
        model = nn.Sequential([nn.Sequential([layer])], rng=0)
        for part in (model, model._chain, model._chain.children["0"]):
            with pytest.raises(RuntimeError, match="needs a"):
                part.backward(dy.copy())
        assert model(x).shape == dy.shape  # evaluation keeps nothing
    with pytest.raises(RuntimeError, match="needs a forward pass in training before it"):
        layer.backward(dy.copy())
    if in_model:
        layer.forward(x, True)
        assert layer.backward(dy.copy()).shape == x.shape


@pytest.mark.parametrize("state", [np.ones(3), [np.ones(3)], None, 3, "state.safetensors"])
def test_a_state_is_a_dict(state: Any) -> None:
    model = everything()
    before = model.state_dict()
    for owner in (model, fp.optim.Adam(model), fp.optim.SGD(model)):
        with pytest.raises(TypeError, match="state must be a dict, what state_dict returned, found"):
            owner.load_state_dict(state)
    np.testing.assert_equal(model.state_dict(), before)


def test_a_state_of_views_of_the_model() -> None:
    """Each array is taken as it was, though another one is written before it."""
    model = nn.Sequential([nn.Dense(3, 3, use_bias=False), nn.Dense(3, 3, use_bias=False)], rng=0)
    first, second = (array.copy() for array in model.parameters().values())
    views = model.parameters()
    model.load_state_dict({"0.weight": views["1.weight"], "1.weight": views["0.weight"]})
    np.testing.assert_array_equal(model.parameters()["0.weight"], second)
    np.testing.assert_array_equal(model.parameters()["1.weight"], first)


def test_an_interrupted_step_changes_nothing() -> None:
    """Ctrl-C in the midst of the forward pass, of the loss, or of the backward pass."""

    class Interrupts(nn.Layer):
        when = "never"

        def output_shape(self, input_shape: Any) -> Any:
            return input_shape

        def forward(self, x: Array, training: bool) -> Array:
            self.interrupt("forward")
            return x

        def backward(self, dy: Array, accumulate: bool = False, need_dx: bool = True) -> Array:
            self.interrupt("backward")
            return dy

        def interrupt(self, when: str) -> None:
            if self.when == when:
                raise KeyboardInterrupt

    layer = Interrupts()

    def loss(pred: Array, target: Array) -> tuple[float, Array]:
        layer.interrupt("loss")
        return CROSS_ENTROPY.value_and_grad(pred, target)

    model = nn.Sequential([nn.Dense(6, 5), nn.BatchNorm(5), layer, nn.Dense(5, 3)], rng=0, dtype=np.float64)
    optimizer = fp.optim.Adam(model)
    x = X.reshape(12, 6)
    model.train_step(x, LABELS, loss, optimizer)
    before, state = model.state_dict(), optimizer.state_dict()
    for layer.when in ("forward", "loss", "backward"):
        with pytest.raises(KeyboardInterrupt):
            model.train_step(x, LABELS, loss, optimizer)
        np.testing.assert_equal(model.state_dict(), before)
        np.testing.assert_equal(optimizer.state_dict(), state)
    layer.when = "never"
    assert np.isfinite(model.train_step(x, LABELS, loss, optimizer))


class Interrupted(fp.optim.SGD):
    """Ctrl-C during the kernel is delivered behind it."""

    interrupted = False

    def step(self, grads: Any = None) -> None:
        super().step(grads)
        if self.interrupted:
            raise KeyboardInterrupt


class Commits(nn.Layer):
    """Ctrl-C while the buffers follow."""

    interrupted = False

    def output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def forward(self, x: Array, training: bool) -> Array:
        return x

    def backward(self, dy: Array, accumulate: bool = False, need_dx: bool = True) -> Array:
        return dy

    def commit(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt


@pytest.mark.parametrize("what", ["optimizer", "layer"])
def test_buffers_follow_an_interrupted_step(what: str) -> None:
    """When the parameters have changed, the running statistics have."""
    x = X.reshape(12, 6)
    states = []
    for interrupt in (False, True):
        commits = Commits()
        layers = [nn.Dense(6, 5), commits, nn.BatchNorm(5), nn.Dense(5, 3), nn.BatchNorm(3)]
        model = nn.Sequential(layers, rng=0, dtype=np.float64)
        optimizer = Interrupted(model, lr=0.1)
        model.train_step(x, LABELS, CROSS_ENTROPY, optimizer)
        before = model.state_dict()
        if interrupt:
            (optimizer if what == "optimizer" else commits).interrupted = True  # type: ignore[attr-defined]  # of the test's own classes
            with pytest.raises(KeyboardInterrupt):
                model.train_step(x, LABELS, CROSS_ENTROPY, optimizer)
            optimizer.interrupted = commits.interrupted = False
        else:
            model.train_step(x, LABELS, CROSS_ENTROPY, optimizer)
        states.append(model.state_dict())
        assert all(not np.array_equal(array, before[name]) for name, array in model.state_dict().items())
        assert optimizer.steps == 2
    np.testing.assert_equal(states[1], states[0])


def test_a_step_that_the_optimizer_leaves_out() -> None:
    """NaN does not get into the running statistics, where it would stay."""
    model = nn.Sequential([nn.Dense(6, 5), nn.BatchNorm(5), nn.Dense(5, 3)], rng=0, dtype=np.float64)
    optimizer = fp.optim.Adam(model, nonfinite="skip")
    x = X.reshape(12, 6).copy()
    model.train_step(x, LABELS, CROSS_ENTROPY, optimizer)
    before = model.state_dict()
    x[3, 2] = np.nan
    model.train_step(x, LABELS, CROSS_ENTROPY, optimizer)
    assert (optimizer.steps, optimizer.skipped) == (1, 1)
    np.testing.assert_equal(model.state_dict(), before)


def test_an_interrupt_anywhere_leaves_a_usable_model() -> None:
    """At each line in turn of a step with another size, and of one with another loss."""
    x, other = X.reshape(12, 6), fp.losses.SoftmaxCrossEntropy(label_smoothing=0.5)

    def make() -> nn.Sequential:
        block = nn.Residual([nn.Dense(8, 8), nn.LayerNorm(8)])
        layers = [nn.Dense(6, 8, "tanh"), nn.Dense(8, 8), nn.BatchNorm(8), block, nn.Maxout(8, 8), Sizes()]
        return nn.Sequential([*layers, nn.Activation("softsign"), nn.Dense(8, 3)], rng=0, dtype=np.float64)

    class Sizes(nn.Layer):
        """Makes the model ask the first batch of a size for the shape."""

        def output_shape(self, input_shape: Any) -> Any:
            return None

        def forward(self, x: Array, training: bool) -> Array:
            return x.copy()

        def backward(self, dy: Array, accumulate: bool = False, need_dx: bool = True) -> Array:
            return dy

    def interrupted_at(line: int) -> bool:
        """Interrupt the step at this line; return whether it was so long, and check the steps after it."""
        model, seen = make(), 0
        optimizer = fp.optim.SGD(model, lr=0.1)
        model.train_step(x[:8], LABELS[:8], CROSS_ENTROPY, optimizer)

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal seen
            if f"fuseprop{os.sep}" not in frame.f_code.co_filename:
                return None
            seen += event == "line"
            if seen == line:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        tracer = sys.gettrace()
        sys.settrace(trace)
        try:
            model.train_step(x, LABELS, other, optimizer)
        except KeyboardInterrupt:
            pass
        else:
            return False
        finally:
            sys.settrace(tracer)
        reference = make()
        reference.load_state_dict(model.state_dict())
        optimizers = optimizer, fp.optim.SGD(reference, lr=0.1)
        for n, loss in ((8, CROSS_ENTROPY), (12, other), (8, CROSS_ENTROPY)):
            values = [
                m.train_step(x[:n], LABELS[:n], loss, o) for m, o in zip((model, reference), optimizers, strict=True)
            ]
            assert values[0] == values[1], line
        np.testing.assert_equal(model.state_dict(), reference.state_dict())
        return True

    lines = 1
    while interrupted_at(lines):
        lines += 1
    assert lines > 50


@pytest.mark.parametrize("first", [(4, 3), (4, 5)])
def test_a_buffer_after_an_interrupt(first: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two things that it keeps."""
    buffer, dtype = BatchBuffer(), np.dtype(np.float64)
    buffer.of(first, dtype)

    def interrupt(self: Any, n: int) -> Array:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RowBuffer, "rows", interrupt)
        with pytest.raises(KeyboardInterrupt):
            buffer.of((4, 7), dtype)
    for shape in ((9, *first[1:]), (4, 7), first):
        assert buffer.of(shape, dtype).shape == shape


def test_a_steady_step_allocates_nothing() -> None:
    layers = [
        nn.Flatten(),
        nn.Dense(64, 128, "relu"),
        nn.BatchNorm(128),
        nn.Dropout(0.1),
        nn.Residual([nn.Dense(128, 128), nn.LayerNorm(128), nn.Activation("rrelu")]),
        nn.Maxout(128, 64),
        nn.Activation(fp.activations.CReLU()),
        nn.Dense(128, 10),
    ]
    model = nn.Sequential(layers, rng=0)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 8, 8)).astype(np.float32), rng.integers(0, 10, 64)
    optimizer = fp.optim.Adam(model)
    for _ in range(3):
        model.train_step(x, y, CROSS_ENTROPY, optimizer)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(5):
            model.train_step(x, y, CROSS_ENTROPY, optimizer)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 4096  # Python objects; the smallest array of a batch, the output, has 2560 bytes, all others 16 KiB


def deep(dtype: Any) -> nn.Sequential:
    block = [nn.Dense(300, 300), nn.BatchNorm(300), nn.Activation("rrelu"), nn.Dropout(0.2)]
    layers = [nn.Dense(120, 300), nn.Residual(block), nn.LayerNorm(300), nn.Maxout(300, 80), nn.Dense(80, 10)]
    return nn.Sequential(layers, rng=0, dtype=dtype)


def whole_run(dtype: Any) -> tuple[Array, ...]:
    """All that a run leaves behind: parameters, running statistics, history."""
    generator = seeded("threads")
    x, y = generator.standard_normal((600, 120)), generator.integers(0, 10, 600)
    model = deep(dtype)
    history = model.fit(
        x, y, loss="softmax_cross_entropy", batch_size=256, epochs=2, validation_data=(x, y), progress=False
    )
    return (*model.state_dict().values(), np.array([*history["loss"], *history["val_loss"]]))


@each_dtype
def test_threads_give_the_same_bits(dtype: Any) -> None:
    results = []
    for threads in (1, 2, 5):
        with fp.num_threads(threads):
            results.append(whole_run(dtype))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


@pytest.mark.skipif(len(FMA_TARGETS) < 2, reason="this machine has one target with fused multiply-add at most")
@each_dtype
def test_targets_give_the_same_bits(dtype: Any) -> None:
    results = []
    for name in FMA_TARGETS:
        with fp.simd_target(name):
            results.append(whole_run(dtype))
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_evaluation_in_several_threads() -> None:
    model = deep(np.float32)
    data = [seeded(i).standard_normal((50 + i, 120)) for i in range(6)]
    expected = [model(x) for x in data]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(20) if not np.array_equal(model(data[i]), expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@each_dtype
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_dropped_element_is_0_whatever_it_was(bad: float, dtype: Any, target: str) -> None:
    model = nn.Sequential([nn.Dropout(0.5)], rng=0, dtype=dtype)
    y = model(np.full((7, 61), bad, dtype), training=True)
    dropped = y == 0
    assert 0.3 < dropped.mean() < 0.7
    np.testing.assert_array_equal(y[~dropped], np.full((~dropped).sum(), bad))
    dx = model.backward(np.full((7, 61), bad, dtype))
    np.testing.assert_array_equal(dx == 0, dropped)
    np.testing.assert_array_equal(dx[~dropped], np.full((~dropped).sum(), bad))


def test_one_batch_of_huge_values_does_not_spoil_the_running_statistics() -> None:
    """The variance of a float32 batch near 1e20 is beyond float32; what follows is right."""
    model = nn.Sequential([nn.BatchNorm(1)], rng=0)
    x = np.array([[1], [2], [3], [4]], np.float32)
    model(x * np.float32(1e20), training=True)
    model(x, training=True)
    var = 0.9 * (0.9 + 0.1 * 5e40 / 3) + 0.1 * 5 / 3
    mean = 0.9 * 0.1 * 2.5e20 + 0.1 * 2.5
    state = model.state_dict()
    np.testing.assert_allclose(state["0.running_var"], [var], rtol=1e-6)
    np.testing.assert_allclose(model(x), (x - mean) / np.sqrt(var), rtol=1e-6)
