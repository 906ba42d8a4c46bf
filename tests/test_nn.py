"""Networks: gradients by finite differences, the training loop, saving, and what is refused."""

from __future__ import annotations

import copy
import pickle
import re
import sys
import threading
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SANITIZER, STRUCTURED, assert_same_bits, check_output, each_dtype
from networks import Scale, numeric_gradient, small
from numpy.typing import NDArray

import fuseprop as fp
from fuseprop import _elsewhere, _registry, nn

Array = NDArray[Any]


def samples(n: int = 8, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 5)), rng.integers(0, 3, n)


# --- structure ----------------------------------------------------------------------------------------------


@each_dtype
def test_flat_buffers(dtype: Any) -> None:
    model = small(dtype)
    parameters, gradients = model.parameters(), model.gradients()
    weights_and_biases = [f"{i}.{name}" for i in (0, 1, 3, 4, 5) for name in ("weight", "bias")]
    weights_and_biases.remove("1.bias")
    assert list(parameters) == weights_and_biases
    assert list(gradients) == list(parameters)
    for views, flat in ((parameters, model.flat_parameters), (gradients, model.flat_gradients)):
        assert flat.dtype == dtype
        assert flat.flags.c_contiguous
        assert flat.ctypes.data % 64 == 0
        assert flat.shape == (sum(view.size for view in views.values()),)
        flat[:] = np.arange(flat.size)
        assert_same_bits(np.concatenate([view.ravel() for view in views.values()]), np.arange(flat.size, dtype=dtype))
    assert model.flat_parameters is model.flat_parameters
    model.parameters().clear()
    assert model.parameters()


def test_initial_values() -> None:
    assert_same_bits(small(rng=3).flat_parameters, small(rng=np.random.default_rng(3)).flat_parameters)
    assert not np.array_equal(small(rng=3).flat_parameters, small(rng=4).flat_parameters)
    assert not np.array_equal(small(rng=None).flat_parameters, small(rng=None).flat_parameters)
    model = small()
    assert not model.parameters()["0.bias"].any()
    assert not model.flat_gradients.any()
    rng = np.random.default_rng(3)
    one = nn.Sequential([nn.Dense(4, 5, "relu")], rng=3).parameters()["0.weight"]
    assert_same_bits(one, fp.init.he_normal((4, 5), rng=rng))
    one = nn.Sequential([nn.Dense(4, 5, "tanh")], rng=3).parameters()["0.weight"]
    assert_same_bits(one, fp.init.glorot_uniform((4, 5), rng=3))
    own = nn.Dense(4, 5, init=lambda shape, rng, dtype: np.full(shape, 2.0, dtype))
    assert (nn.Sequential([own]).parameters()["0.weight"] == 2).all()


def test_forward_is_the_formula() -> None:
    model = small()
    p = model.parameters()
    x = samples()[0]
    h = np.tanh(x @ p["0.weight"] + p["0.bias"])
    h = np.log1p(np.exp(h @ p["1.weight"])) @ p["3.weight"] + p["3.bias"]
    h = np.maximum(np.where(h > 0, h, 0.2 * h) @ p["4.weight"] + p["4.bias"], 0)
    expected = h @ p["5.weight"] + p["5.bias"]
    np.testing.assert_allclose(model(x), expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(model(x, training=True), expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(model.predict(x, batch_size=3), expected, rtol=1e-13, atol=1e-14)
    assert model(x[:0]).shape == (0, 3)


def test_repr() -> None:
    text = repr(nn.Sequential([nn.Dense(2, 3, fp.activations.LeakyReLU(0.2), use_bias=False), nn.Activation("tanh")]))
    assert text == (
        "Sequential([\n    Dense(2, 3, activation=LeakyReLU(negative_slope=0.2), use_bias=False),\n"
        "    Activation(Tanh()),\n], dtype=float32)  # 6 parameters"
    )


# --- gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "half_squared_error"])
def test_gradients_by_finite_differences(loss: str) -> None:
    layers = [
        nn.Dense(5, 7, "tanh"),
        nn.Dense(7, 6, use_bias=False),
        Scale(),
        nn.Activation("softplus"),
        nn.Dense(6, 4, "sigmoid"),
        nn.Dense(4, 3),
    ]
    model = nn.Sequential(layers, rng=0, dtype=np.float64)
    x, labels = samples()
    target: Array = labels if loss == "softmax_cross_entropy" else np.random.default_rng(1).standard_normal((8, 3))
    function = fp.losses.get(loss)
    dx = model.backward(function.gradient(model(x, training=True), target))
    for name, parameter in model.parameters().items():
        numeric = numeric_gradient(lambda: function(model(x), target), parameter)
        np.testing.assert_allclose(model.gradients()[name], numeric, rtol=1e-7, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(dx, numeric_gradient(lambda: function(model(x), target), x), rtol=1e-7, atol=1e-9)


def test_gradients_of_piecewise_activations() -> None:
    # relu and leaky_relu take their derivative from the output.
    model = small()
    x, labels = samples(20)
    loss = fp.losses.SoftmaxCrossEntropy()
    model.backward(loss.gradient(model(x, training=True), labels))
    found = model.flat_gradients.copy()
    numeric = numeric_gradient(lambda: loss(model(x), labels), model.flat_parameters, h=1e-5)
    np.testing.assert_allclose(found, numeric, rtol=1e-5, atol=1e-8)


def structured(activation: Any, width: int = 12) -> nn.Sequential:
    features = activation.output_shape((1, width))[1]
    layers = [nn.Dense(5, width), nn.Activation(activation), nn.Dense(features, 3)]
    return nn.Sequential(layers, rng=1, dtype=np.float64)


@pytest.mark.parametrize(
    "activation",
    [
        *(spec.cls() for spec in STRUCTURED if spec.name != "rrelu"),
        fp.activations.PReLU(0.1, num_parameters=12),
        fp.activations.Maxout(3),
        fp.activations.Swish(1.5, learn_beta=True),
    ],
    ids=repr,
)
def test_layers_of_structured_activations(activation: Any, tmp_path: Path) -> None:
    """Shapes that change, parameters that are learned: gradients by finite differences, accumulation, saving."""
    model = structured(activation)
    assert {name.split(".")[-1] for name in model.parameters()} == {"weight", "bias", *activation.init_params()}
    x = np.random.default_rng(2).standard_normal((7, 5))
    dy = np.random.default_rng(3).standard_normal((7, 3))
    for _ in range(2):  # the second time in the buffers of the first
        y = model(x, training=True)
        dx = model.backward(dy.copy())
    assert_same_bits(y.copy(), model(x))
    found = model.flat_gradients.copy()
    numeric = numeric_gradient(lambda: float(np.sum(dy * model(x))), model.flat_parameters, h=1e-5)
    np.testing.assert_allclose(found, numeric, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(
        dx, numeric_gradient(lambda: float(np.sum(dy * model(x))), x, h=1e-5), rtol=1e-5, atol=1e-8
    )
    model(x, training=True)
    model.backward(dy.copy(), accumulate=True)
    np.testing.assert_allclose(model.flat_gradients, 2 * found, rtol=1e-12)
    model.save(tmp_path / "model.safetensors")
    loaded = nn.load(tmp_path / "model.safetensors")
    assert loaded.layers[1].activation == activation
    assert_same_bits(loaded(x), model(x))


def identity(shape: tuple[int, ...], rng: Any, dtype: Any) -> Array:
    return np.eye(*shape, dtype=dtype)


def test_a_layer_of_rrelu(tmp_path: Path) -> None:
    """Draws in training, from the model's generator; the mean slope otherwise."""
    x = -np.ones((50, 4))

    def make() -> nn.Sequential:
        dense = nn.Dense(4, 4, init=identity)
        return nn.Sequential([dense, nn.Activation("rrelu")], rng=5, dtype=np.float64)

    model, again = make(), make()
    first = model(x, training=True).copy()
    assert_same_bits(again(x, training=True).copy(), first)
    assert 0.12 < -first.max() < -first.min() < 0.34
    assert_same_bits(model.backward(np.ones_like(x)), -first)
    assert not np.array_equal(model(x, training=True), first)
    assert_same_bits(model(x), np.full_like(x, -11 / 48))
    model.save(tmp_path / "model.safetensors")
    loaded = [nn.load(tmp_path / "model.safetensors", rng=rng) for rng in (5, 5, 6, None, None)]
    drawn = [m(x, training=True).copy() for m in loaded]
    assert_same_bits(drawn[0], drawn[1])
    assert len({y.tobytes() for y in drawn}) == 4
    # Copies go on where the model stands, and apart from it.
    copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    after = model(x, training=True).copy()
    assert not np.array_equal(after, first)
    for other in copies:
        assert_same_bits(other(x, training=True).copy(), after)


@pytest.mark.parametrize(
    "activation", [fp.activations.CReLU(0), fp.activations.Softmax(0), fp.activations.Maxout(2, 0)], ids=repr
)
def test_activations_across_samples_are_refused(activation: Any) -> None:
    with pytest.raises(ValueError, match="along axis 0, which is that of the samples"):
        nn.Activation(activation)


def test_axes_counted_from_the_end_that_are_the_samples() -> None:
    model = nn.Sequential([nn.Activation(fp.activations.Softmax(-2))])
    assert model(np.ones((2, 4, 3))).shape == (2, 4, 3)
    with pytest.raises(ValueError, match=r"samples of shape \(3,\), of which axis -2 is not one"):
        model(np.ones((4, 3)))


def test_an_activation_of_ones_own_is_not_saved(tmp_path: Path) -> None:
    class Shifted(fp.activations.Tanh):
        __slots__ = ()

    for layer in (nn.Activation(Shifted()), nn.Dense(2, 2, Shifted())):
        with pytest.raises(NotImplementedError, match="of a class of its own"):
            nn.Sequential([nn.Dense(2, 2), layer]).save(tmp_path / "model.safetensors")


@pytest.mark.parametrize("slope", [-0.5, 0.0, 2.5])
def test_leaky_relu_of_any_slope(slope: float) -> None:
    x = np.array([[-2.0, -1.0, 0.0, 1.0, np.nan]])
    activation = fp.activations.LeakyReLU(slope)
    dense = nn.Dense(5, 5, activation, use_bias=False, init=lambda shape, rng, dtype: np.eye(5, dtype=dtype))
    model = nn.Sequential([dense, nn.Dense(5, 1)], dtype=np.float64)
    x[0, 4] = 3.0
    model(x, training=True)
    model.layers[1].parameters["weight"][...] = 1.0
    np.testing.assert_array_equal(model.backward(np.ones((1, 1))), activation.derivative(x))


def test_accumulate() -> None:
    model = small()
    (x1, y1), (x2, y2) = samples(6, 1), samples(9, 2)
    loss = fp.losses.SoftmaxCrossEntropy()

    def gradient(x: Array, y: Array, accumulate: bool = False) -> Array:
        model.backward(loss.gradient(model(x, training=True), y), accumulate=accumulate)
        return model.flat_gradients.copy()

    first, second = gradient(x1, y1), gradient(x2, y2)
    gradient(x1, y1)
    np.testing.assert_allclose(gradient(x2, y2, accumulate=True), first + second, rtol=1e-13, atol=1e-15)


@pytest.mark.skipif(SANITIZER != "", reason="sanitizers reserve address space of their own")
def test_accumulating_without_memory_adds_nothing() -> None:
    """The memory for all layers' gradients is there before the first is added to."""
    pytest.importorskip("resource", reason="the limit is POSIX's")
    if not Path("/proc/self/statm").exists():
        pytest.skip("the size of the address space is known on Linux only")
    script = """
import resource
import numpy as np
import fuseprop as fp
layers = [fp.nn.Dense(64, 600, activation="tanh"), fp.nn.Dense(600, 3)]
model = fp.nn.Sequential(layers, rng=0, dtype=np.float64)
x, dy = np.ones((1100, 64)), np.ones((1100, 3))
def size():
    with open("/proc/self/statm", encoding="ascii") as status:
        return int(status.read().split()[0]) * resource.getpagesize()
refused = 0
for spare in range(14, 25):  # so that each of the allocations is once the one that fails
    model(x, training=True)
    model.flat_gradients[:] = 0
    resource.setrlimit(resource.RLIMIT_AS, (size() + 2**spare, resource.RLIM_INFINITY))
    done = False
    try:
        model.backward(dy, accumulate=True)
        done = True
    except MemoryError:
        refused += 1
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    assert done or not model.flat_gradients.any(), spare
print(refused > 0, model.flat_gradients.all())
"""
    assert check_output(script, FUSEPROP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1") == "True True"


def test_backward_twice_and_what_stays_untouched() -> None:
    model = small()
    x, _ = samples()
    y = model(x, training=True)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    kept_x, kept_dy, kept_y = x.copy(), dy.copy(), y.copy()
    dx = model.backward(dy)
    grads, kept_dx = model.flat_gradients.copy(), dx.copy()
    model(samples(3, 5)[0])  # evaluation in between does not disturb
    assert_same_bits(model.backward(dy), dx)
    assert_same_bits(model.flat_gradients, grads)
    model(samples(8, 6)[0], training=True)
    for array, kept in ((x, kept_x), (dy, kept_dy), (y, kept_y), (dx, kept_dx)):
        assert_same_bits(array, kept)


def test_backward_needs_a_training_call() -> None:
    model = small()
    x, labels = samples()
    with pytest.raises(RuntimeError, match="training=True"):
        model.backward(np.ones((8, 3)))
    model(x)
    with pytest.raises(RuntimeError, match="training=True"):
        model.backward(np.ones((8, 3)))
    model(x, training=True)
    model.backward(np.ones((8, 3)))
    model.train_step(x, labels, fp.losses.SoftmaxCrossEntropy(), fp.optim.SGD(model))
    with pytest.raises(RuntimeError, match="training=True"):
        model.backward(np.ones((8, 3)))


# --- a step -------------------------------------------------------------------------------------------------


@each_dtype
def test_train_step_is_its_parts(dtype: Any) -> None:
    a, b = small(dtype), small(dtype)
    loss = fp.losses.SoftmaxCrossEntropy()
    step_optimizer, optimizer = fp.optim.Adam(a, max_norm=1.0), fp.optim.Adam(b, max_norm=1.0)
    for n in (8, 8, 5, 16, 8):
        x, y = samples(n, n)
        x = x.astype(dtype)
        weight = np.random.default_rng(n).uniform(0, 2, n)
        found = a.train_step(x, y, loss, step_optimizer, weight)
        value, dy = loss.value_and_grad(b(x, training=True), y, weight)
        b.backward(dy)
        optimizer.step()
        assert type(found) is float
        assert found == value
        assert_same_bits(a.flat_parameters, b.flat_parameters)


def test_losses_by_name_and_of_ones_own() -> None:
    x, _ = samples()
    target = np.random.default_rng(1).standard_normal((8, 3))

    def own(pred: Array, target: Array, weight: Array | None = None) -> tuple[float, Array]:
        w = np.ones(len(pred)) if weight is None else weight
        r = (pred - target) * w[:, np.newaxis]
        return float((r * (pred - target)).sum() / 2 / (3 * w.sum())), (r / (3 * w.sum())).astype(np.float32)

    weight = np.arange(8.0)
    models = []
    for loss in ("half_squared_error", fp.losses.HalfSquaredError(), own):
        model = small()
        optimizer = fp.optim.SGD(model, lr=0.1)
        values = [model.train_step(x, target, loss, optimizer) for _ in range(3)]
        values.append(model.train_step(x, target, loss, optimizer, weight))
        models.append((values, model.flat_parameters))
    assert_same_bits(models[1][1], models[0][1])
    np.testing.assert_allclose(models[2][0], models[0][0], rtol=1e-6)
    np.testing.assert_allclose(models[2][1], models[0][1], rtol=1e-5, atol=1e-7)


def test_one_output_takes_flat_targets() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, 4)), rng.integers(0, 2, 10)
    results = []
    for target in (y, y[:, np.newaxis], y.astype(bool), y.astype(np.float32)):
        model = nn.Sequential([nn.Dense(4, 3, "tanh"), nn.Dense(3, 1)], rng=0)
        optimizer = fp.optim.Adam(model)
        loss = fp.losses.BinaryCrossEntropyWithLogits()
        values = [model.train_step(x, target, loss, optimizer)]
        values += model.fit(x, target, loss=loss, epochs=2, batch_size=4, progress=False)["loss"]
        results.append(values)
    assert results[1:] == results[:1] * 3


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "negative_log_likelihood", "softmax_focal"])
def test_labels_of_one_column_stay_labels(loss: str) -> None:
    """As (N, 1) they would be read as distributions, of which each has the loss 0 in one class."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, 4)), np.array([0, 1] * 5)
    model = nn.Sequential([nn.Dense(4, 1)], rng=0)
    optimizer = fp.optim.SGD(model)
    with pytest.raises(ValueError, match=re.escape("target[1] is label 1; expected 0 to 0")):
        model.train_step(x, y, loss, optimizer)
    message = "y[1] is label 1; expected 0 to 0 (the model's output has C = 1 classes)"
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(x, y, loss=loss, progress=False)
    with pytest.raises(ValueError, match=re.escape(message.replace("]", "] of validation_data", 1))):
        model.fit(x, 0 * y, loss=loss, validation_data=(x, y), progress=False)
    assert optimizer.steps == 0
    # The same step again, with a loss of elements: the targets are a column.
    model.train_step(x, y, "half_squared_error", optimizer)
    assert optimizer.steps == 1


def test_inputs_are_cast() -> None:
    model = small(np.float32)
    x, _ = samples()
    expected = model(x.astype(np.float32))
    assert expected.dtype == np.float32
    assert_same_bits(model(x), expected)
    assert_same_bits(model(x.tolist()), expected)
    assert_same_bits(model(np.asfortranarray(x)), expected)
    assert model(np.ones((2, 5), np.int8)).dtype == np.float32


def test_a_steady_step_allocates_nothing() -> None:
    model = nn.Sequential([nn.Dense(64, 128, "relu"), nn.Dense(128, 128, "tanh"), nn.Dense(128, 10)], rng=0)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 64)).astype(np.float32), rng.integers(0, 10, 64)
    loss, optimizer = fp.losses.SoftmaxCrossEntropy(), fp.optim.Adam(model)
    for _ in range(3):
        model.train_step(x, y, loss, optimizer)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(5):
            model.train_step(x, y, loss, optimizer)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 4096  # a few Python objects; the smallest array, the output, has 2560 bytes


def test_evaluation_in_several_threads() -> None:
    model = small()
    data = [samples(50, i)[0] for i in range(8)]
    expected = [model(x) for x in data]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(50) if not np.array_equal(model(data[i]), expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- what is refused ----------------------------------------------------------------------------------------


def used() -> nn.Dense:
    layer = nn.Dense(2, 2)
    nn.Sequential([layer])
    return layer


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Sequential([]), ValueError, "layers is empty"),
        (lambda: nn.Sequential([nn.Dense(2, 3), "relu"]), TypeError, "layers[1] must be a Layer, found str"),
        (lambda: nn.Sequential([nn.Dense(2, 3), nn.Dense(4, 2)]), ValueError, "layers[1], Dense(4, 2), gets"),
        (lambda: nn.Sequential([nn.Dense(2, 3), nn.Dense(4, 2)]), ValueError, "shape (3,); expected (4,)"),
        (lambda: nn.Sequential([used()]), ValueError, "is part of a model already"),
        (lambda: nn.Sequential([nn.Dense(2, 2)] * 2), ValueError, "is part of a model already"),
        (lambda: nn.Sequential([nn.Dense(2, 2)], dtype=np.float16), TypeError, "dtype is float16"),
        (lambda: nn.Dense(0, 3), ValueError, "in_features is 0; expected an integer >= 1"),
        (lambda: nn.Dense(3, 2.5), TypeError, "out_features must be an integer, found float"),
        (lambda: nn.Dense(3, 2, "rleu"), ValueError, "unknown activation 'rleu'"),
        (lambda: nn.Dense(3, 2, 5), TypeError, "activation must be an Activation or a name, found int"),
        (lambda: nn.Dense(3, 2, init="best"), ValueError, "unknown initialiser 'best'"),
        (lambda: nn.Dense(3, 2, use_bias="no"), TypeError, "use_bias must be a bool, True or False, found str"),
        (lambda: nn.Maxout(3, 2, use_bias=0), TypeError, "use_bias must be a bool, True or False, found int"),
    ],
)
def test_construction_errors(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()


X, LABELS = samples()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X[:, :4]}, ValueError, "x has samples of shape (4,); expected (5,)"),
        ({"x": X[0]}, ValueError, "x has samples of shape (); expected (5,)"),
        ({"x": 3.0}, ValueError, "x has shape (); expected samples along the first axis"),
        ({"x": X + 1j}, TypeError, "x has dtype complex128"),
        ({"x": X.astype(str)}, TypeError, "x has dtype <U"),
        ({"target": LABELS[:-1]}, ValueError, "target"),
        ({"target": LABELS + 1}, ValueError, "3"),
        ({"loss": "softmax"}, ValueError, "unknown loss 'softmax'"),
        ({"loss": 3}, TypeError, "loss must be a loss, its name, or a function"),
        (
            {"loss": lambda pred, target: (0.0, np.ones(3))},
            ValueError,
            "a gradient of shape (3,); expected pred's",
        ),
        ({"optimizer": "adam"}, TypeError, "optimizer must be an Optimizer, found str"),
        (
            {"optimizer": fp.optim.SGD(np.ones(3))},
            ValueError,
            "optimizer updates other arrays than this model's",
        ),
        (
            {"optimizer": fp.optim.SGD(small())},
            ValueError,
            "optimizer updates other arrays than this model's",
        ),
    ],
)
def test_a_failed_step_changes_nothing(change: dict[str, Any], error: type[Exception], message: str) -> None:
    model = small()
    optimizer = fp.optim.Adam(model)
    arguments: dict[str, Any] = {
        "x": X, "target": LABELS, "loss": fp.losses.SoftmaxCrossEntropy(), "optimizer": optimizer,
    }  # fmt: skip
    model.train_step(**arguments)
    parameters, state = model.flat_parameters.copy(), optimizer.state_dict()
    with pytest.raises(error, match=re.escape(message)):
        model.train_step(**(arguments | change))
    assert_same_bits(model.flat_parameters, parameters)
    np.testing.assert_equal(optimizer.state_dict(), state)
    assert model.train_step(**arguments) > 0


def test_backward_errors() -> None:
    model = small()
    model(X, training=True)
    with pytest.raises(ValueError, match=re.escape("dy has shape (8, 2); expected that of the output, (8, 3)")):
        model.backward(np.ones((8, 2)))
    with pytest.raises(TypeError, match="dy has dtype complex128"):
        model.backward(np.ones((8, 3), complex))


# --- state, copies, files -----------------------------------------------------------------------------------


def test_state_dict() -> None:
    a, b = small(rng=1), small(rng=2)
    state = a.state_dict()
    a.flat_parameters[:] += 1
    b.load_state_dict(state)
    np.testing.assert_allclose(b.flat_parameters + 1, a.flat_parameters)
    before = b.flat_parameters.copy()
    for change, error, message in (
        ({"0.weight": np.ones((7, 5))}, ValueError, "state['0.weight'] has shape (7, 5); expected (5, 7)"),
        (
            {"5.bias": np.ones(3, np.float32)},
            TypeError,
            "state['5.bias'] has dtype float32; expected float64",
        ),
        ({"6.bias": np.ones(3)}, ValueError, "missing are [], unknown are ['6.bias']"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            b.load_state_dict(a.state_dict() | change)
        assert_same_bits(b.flat_parameters, before)
    with pytest.raises(ValueError, match=re.escape("missing are ['0.weight'")):
        b.load_state_dict({})


def test_an_error_comes_back_from_another_process() -> None:
    for error in (fp.nn.NonFiniteLossError(np.inf), fp.nn.NonFiniteLossError(np.inf, "at step 3")):
        found = pickle.loads(pickle.dumps(error))
        assert (type(found), str(found), found.value) == (type(error), str(error), np.inf)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_stand_alone(duplicate: Any) -> None:
    model = small()
    model.fit(X, LABELS, loss="softmax_cross_entropy", epochs=1, batch_size=4, progress=False)
    other = duplicate(model)
    assert_same_bits(other.flat_parameters, model.flat_parameters)
    histories = [
        m.fit(X, LABELS, loss="softmax_cross_entropy", epochs=3, batch_size=3, progress=False) for m in (model, other)
    ]
    assert histories[0] == histories[1]  # the generator is copied, too
    assert_same_bits(other.flat_parameters, model.flat_parameters)
    assert not np.shares_memory(other.flat_parameters, model.flat_parameters)


@each_dtype
def test_save_and_load(dtype: Any, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model = small(dtype)
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = nn.load(str(path))
    assert repr(loaded) == repr(model)
    assert_same_bits(loaded.flat_parameters, model.flat_parameters)
    assert_same_bits(loaded(X), model(X))
    loaded.fit(X, LABELS, loss="softmax_cross_entropy", epochs=1, progress=False)


def test_save_and_load_layers_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model = nn.Sequential([nn.Dense(5, 3), Scale()], rng=0)
    path = tmp_path / "model.safetensors"
    model.save(path)
    with pytest.raises(ValueError, match=re.escape("layers[1] is a Scale, which is not known")):
        nn.load(path)
    assert_same_bits(nn.load(path, layers=[Scale])(X), model(X))


def test_load_refuses_other_files(tmp_path: Path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    with pytest.raises(FileNotFoundError):
        nn.load(tmp_path / "nothing")
    (tmp_path / "text").write_text("no tensors in here")
    with pytest.raises(ValueError, match="text is not a safetensors file"):
        nn.load(tmp_path / "text")
    numpy_files.save_file({"a": np.ones(3)}, tmp_path / "other")
    with pytest.raises(ValueError, match="other has the format None; expected 'fuseprop 1'"):
        nn.load(tmp_path / "other")


def test_without_the_extras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in ("safetensors", "safetensors.numpy", "tqdm"):
        monkeypatch.setitem(sys.modules, module, None)
    model = small()
    for call in (lambda: model.save(tmp_path / "x"), lambda: nn.load(tmp_path / "x")):
        with pytest.raises(ImportError, match=re.escape('pip install "fuseprop[save]"')):
            call()
    assert model.fit(X, LABELS, loss="softmax_cross_entropy", epochs=1)["loss"]  # silently without a bar


# --- by habit -----------------------------------------------------------------------------------------------


def test_activations_stand_for_layers() -> None:
    act = fp.activations
    plain = nn.Sequential(
        [
            nn.Dense(5, 4),
            nn.Activation("tanh"),
            nn.Residual(nn.Activation("relu")),
            nn.Activation("prelu"),
            nn.Dense(4, 3, "relu"),
        ],
        rng=0,
    )
    tanh = act.Tanh()
    wrapped = nn.Sequential(
        nn.Dense(5, 4), tanh, nn.Residual(act.ReLU), act.PReLU, nn.Dense(4, 3, act.ReLU), rng=0, dtype=np.float32
    )
    assert repr(wrapped) == repr(plain)
    assert list(wrapped.parameters()) == list(plain.parameters())
    assert_same_bits(wrapped(X), plain(X))
    assert [type(layer) for layer in wrapped.layers] == [nn.Dense, nn.Activation, nn.Residual, nn.Activation, nn.Dense]
    nn.Sequential([nn.Dense(5, 4), tanh, tanh])  # it has no state
    assert repr(nn.Sequential(nn.Sequential([nn.Dense(5, 4)]), rng=0)).count("Dense") == 1


def test_classes_stand_for_objects() -> None:
    a, b = small(), small()
    classes = fitted(a, loss=fp.losses.SoftmaxCrossEntropy, optimizer=fp.optim.SGD, validation_data=(X, LABELS))
    assert classes == fitted(b, loss="softmax_cross_entropy", optimizer="sgd", validation_data=(X, LABELS))
    assert_same_bits(a.flat_parameters, b.flat_parameters)
    values = [m.train_step(X, LABELS, fp.losses.SoftmaxCrossEntropy, fp.optim.SGD(m)) for m in (a, b)]
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.Sequential(None), TypeError, "layers[0] must be a Layer, found NoneType"),
        (lambda: nn.Sequential([nn.Flatten]), TypeError, "layers[0] is the class Flatten; expected an object of it"),
        (lambda: nn.Sequential(nn.Dense(5, 4), "relu"), TypeError, "found str; an activation of this name is Activati"),
        (lambda: nn.Sequential([nn.Dense(5, 4)], nn.Dense(4, 3)), TypeError, "layers[0] must be a Layer, found list"),
        (lambda: nn.Dense(5, 4, bias=False), TypeError, "Dense() got an unexpected keyword argument 'bias'; did you"),
        (lambda: nn.Maxout(5, units=4), TypeError, "Maxout() got an unexpected keyword argument 'units'; did you"),
        (
            lambda: small().train_step(X, LABELS, "softmax_cross_entropy", fp.optim.Adam),
            TypeError,
            "optimizer must be an Optimizer, found the class Adam: give Adam(model)",
        ),
        (lambda: nn.Linear, AttributeError, "'fuseprop.nn' has no attribute 'Linear'; here it is fuseprop.nn.Dense"),
        (lambda: nn.ReLU, AttributeError, "here it is fuseprop.activations.ReLU, and as a layer fuseprop.nn.Activ"),
        (lambda: fp.losses.MSELoss, AttributeError, "here it is fuseprop.losses.SquaredError"),
        (lambda: fp.activations.ReLU6, AttributeError, "here it is fuseprop.activations.Hardtanh(0, 6)"),
        (lambda: fp.optim.ReduceLROnPlateau, AttributeError, "here it is fuseprop.optim.schedules.ReduceOnPlateau"),
        (lambda: fp.losses.get("cross_entropy"), ValueError, "of logits it is 'softmax_cross_entropy', of probab"),
        *(
            (call, TypeError, f"got an unexpected keyword argument {wrong!r}; did you mean {right!r}?")
            for call, wrong, right in (
                (lambda: nn.Dropout(rate=0.5), "rate", "p"),
                (lambda: nn.BatchNorm(3, epsilon=1e-3), "epsilon", "eps"),
                (lambda: nn.LayerNorm(3, epsilon=1e-3), "epsilon", "eps"),
                (lambda: fp.losses.Huber(beta=1.0), "beta", "delta"),
                (lambda: fp.losses.SoftmaxCrossEntropy(weight=[1.0]), "weight", "class_weight"),
                (lambda: fp.losses.get("quantile", quantile=0.5), "quantile", "q"),
                (lambda: fp.activations.LeakyReLU(alpha=0.2), "alpha", "negative_slope"),
            )
        ),
        (lambda: fp.losses.SquaredError(delta=1.0), TypeError, "SquaredError() got an unexpected keyword arg"),
        *(
            (lambda name=name: small().fit(X, LABELS, loss="nll", **{name: 1}), TypeError, f"{name!r}; here it is {to}")
            for name, to in (
                ("learning_rate", "the optimizer's"),
                ("verbose", "progress="),
                ("validation_split", "validation_data=(x, y)"),
            )
        ),
        (lambda: fp.losses.get("kl_div"), ValueError, "takes probabilities, not their logarithms"),
        *(
            (lambda name=name: fp.losses.get(name), ValueError, f"unknown loss {name!r}; {said}")
            for name, said in (
                ("crossentropy", "of logits it is 'softmax_cross_entropy'"),
                ("CrossEntropyLoss", "it is fuseprop.losses.SoftmaxCrossEntropy"),
                ("cross_entropy_loss", "it is fuseprop.losses.SoftmaxCrossEntropy"),
                ("SparseCategoricalCrossentropy", "of logits and labels it is 'softmax_cross_entropy'"),
                ("KLDivLoss", "it is fuseprop.losses.KLDivergence, which takes probabilities, not their logarithms"),
                ("LogLoss", "of logits it is 'binary_cross_entropy_with_logits'"),
            )
        ),
        (lambda: fp.activations.get("ReLU6"), ValueError, "it is fuseprop.activations.Hardtanh(0, 6)"),
        (lambda: fp.losses.MeanSquaredError, AttributeError, "here it is fuseprop.losses.SquaredError"),
        (lambda: fp.losses.CategoricalCrossentropy, AttributeError, "is fuseprop.losses.CategoricalCrossEntropy"),
        (lambda: fp.losses.LogLoss, AttributeError, "; of logits it is 'binary_cross_entropy_with_logits'"),
        (lambda: fp.optim.RMSProp, AttributeError, "here it is fuseprop.optim.RMSprop"),
        (lambda: fp.optim.LBFGS, AttributeError, "here it is fuseprop.optim.lbfgs, a function"),
    ],
)  # fmt: skip
def test_habits_that_differ_are_answered(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_names_elsewhere_lead_to_what_there_is() -> None:
    for here in _elsewhere.CLASSES.values():
        path = here.split(",", maxsplit=1)[0].split("(", maxsplit=1)[0].split(".")
        found: Any = fp
        for name in path[1:]:
            found = getattr(found, name)
        assert callable(found)
    with pytest.raises(AttributeError, match=r"^module 'fuseprop.nn' has no attribute 'nothing'$"):
        nn.nothing  # noqa: B018
    assert not hasattr(fp.losses, "__path__")


@pytest.mark.parametrize(
    ("name", "torch_name", "targets"),
    [
        ("l1_loss", "L1Loss", "real"),
        ("mse_loss", "MSELoss", "real"),
        ("huber_loss", "HuberLoss", "real"),
        ("smooth_l1", "SmoothL1Loss", "real"),
        ("SmoothL1Loss", "SmoothL1Loss", "real"),
        ("bce_loss", "BCELoss", "unit"),
        ("soft_margin_loss", "SoftMarginLoss", "sign"),
        ("poisson_nll_loss", "PoissonNLLLoss", "unit"),
    ],
)
def test_aliases_mean_the_same(name: str, torch_name: str, targets: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    pred, target = rng.uniform(0.05, 0.95, 50), rng.uniform(0, 1, 50)
    if targets == "real":
        pred, target = 3 * rng.standard_normal(50), rng.standard_normal(50)
    if targets == "sign":
        target = np.where(target > 0.5, 1.0, -1.0)
    expected = getattr(torch.nn, torch_name)()(torch.tensor(pred), torch.tensor(target)).item()
    assert fp.losses.get(name)(pred, target) == pytest.approx(expected, rel=1e-12)


def test_predict_goes_in_batches_by_itself() -> None:
    """The same bits as all at once, and memory for a few activations instead of all."""
    model = nn.Sequential([nn.Dense(20, 1024, "relu"), nn.BatchNorm(1024), nn.Dense(1024, 1)], rng=0)
    x = np.random.default_rng(0).standard_normal((20_000, 20)).astype(np.float32)
    whole = model.predict(x, len(x))
    tracemalloc.start()
    try:
        found = model.predict(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_same_bits(found, whole)
    assert_same_bits(model.predict(x, 7), whole)
    assert peak < 20 << 20 < x.shape[0] * 1024 * 4  # 82 MB for one activation of all
    for shape in ((0, 20), (1, 20), (256, 20), (257, 20)):
        assert_same_bits(model.predict(x[: shape[0]]), whole[: shape[0]])
    with pytest.raises(ValueError, match=re.escape("x has samples of shape (19,); expected (20,)")):
        model.predict(x[:, :19])


# --- fit ----------------------------------------------------------------------------------------------------


def fitted(model: nn.Sequential, x: Any = X, y: Any = LABELS, **options: Any) -> dict[str, list[float]]:
    options = {"loss": "softmax_cross_entropy", "epochs": 3, "batch_size": 3, "progress": False} | options
    return model.fit(x, y, **options)


def test_fit_is_its_steps() -> None:
    # Eight samples in batches of three: the last has two.
    a, b = small(), small()
    optimizer = fp.optim.SGD(a, lr=0.1, momentum=0.5)
    history = fitted(a, optimizer=optimizer, epochs=2, rng=5)
    rng, optimizer = np.random.default_rng(5), fp.optim.SGD(b, lr=0.1, momentum=0.5)
    expected = []
    for _ in range(2):
        order, total = rng.permutation(8), 0.0
        for rows in (order[:3], order[3:6], order[6:]):
            total += len(rows) * b.train_step(X[rows], LABELS[rows], fp.losses.SoftmaxCrossEntropy(), optimizer)
        expected.append(total / 8)
    assert_same_bits(a.flat_parameters, b.flat_parameters)
    assert history == {"loss": pytest.approx(expected, rel=1e-14)}


def test_fit_is_reproducible() -> None:
    a, b, c, d = small(), small(), small(), small()
    assert fitted(a) == fitted(b)
    assert_same_bits(a.flat_parameters, b.flat_parameters)
    fitted(c, rng=9)
    assert not np.array_equal(a.flat_parameters, c.flat_parameters)
    fitted(d, shuffle=False)
    assert not np.array_equal(a.flat_parameters, d.flat_parameters)


def test_fit_learns() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 5))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    model = nn.Sequential([nn.Dense(5, 32, "relu"), nn.Dense(32, 2)], rng=0)
    optimizer = fp.optim.Adam(model, lr=0.01)
    history = fitted(model, x, y, optimizer=optimizer, epochs=60, batch_size=32, metrics=["accuracy"])
    assert history["loss"][-1] < 0.1 * history["loss"][0]
    assert history["accuracy"][-1] > 0.97
    assert nn.accuracy(model.predict(x), y) > 0.97


def every_second(x: Array) -> Array:
    return np.repeat(x, 2, axis=0)[::2]


@pytest.mark.parametrize("convert", [np.float32, np.asfortranarray, every_second, np.ndarray.tolist])
def test_fit_takes_arrays_of_all_kinds(convert: Any) -> None:
    a, b = small(np.float32), small(np.float32)
    assert fitted(a, convert(X)) == fitted(b, X)
    assert_same_bits(a.flat_parameters, b.flat_parameters)


def test_fit_takes_memory_mapped_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    a, b = small(np.float32), small(np.float32)
    assert fitted(a, mapped) == fitted(b, X)


def test_fit_does_not_copy_the_data() -> None:
    x, y = np.zeros((200_000, 5), np.float32), np.zeros(200_000, np.int64)
    model = nn.Sequential([nn.Dense(5, 3)], rng=0)
    tracemalloc.start()
    try:
        for data in (x, x.astype(np.float64), np.asfortranarray(x)):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            fitted(model, data, y, epochs=1, batch_size=10_000)
            peak = tracemalloc.get_traced_memory()[1] - before
            order = 8 * len(x)  # the permutation
            assert peak - order < 0.5 * x.nbytes
    finally:
        tracemalloc.stop()


def test_fit_validates() -> None:
    model = small()
    xv, yv = samples(20, 3)
    weight = np.arange(20.0)
    history = fitted(model, validation_data=(xv, yv, weight), metrics=["accuracy", len_of_target])
    assert list(history) == [
        "loss", "accuracy", "len_of_target", "val_loss", "val_accuracy", "val_len_of_target",
    ]  # fmt: skip
    assert all(len(values) == 3 for values in history.values())
    assert history["val_loss"][-1] == fp.losses.SoftmaxCrossEntropy()(model(xv), yv, weight)
    assert history["val_accuracy"][-1] == (model(xv).argmax(axis=1) == yv).mean()
    assert history["val_len_of_target"] == [20.0] * 3
    assert history["len_of_target"] == pytest.approx([(9 + 9 + 4) / 8] * 3)


def squared(pred: Array, target: Array) -> float:
    return float(np.mean((pred - target) ** 2))


@pytest.mark.parametrize("flat", [True, False])
def test_metrics_get_the_target_that_the_loss_gets(flat: bool) -> None:
    y = X.sum(axis=1) if flat else X.sum(axis=1, keepdims=True)
    model = nn.Sequential([nn.Dense(5, 1)], rng=0, dtype=np.float64)
    before = squared(model(X), y.reshape(8, 1))
    history = fitted(
        model, X, y, loss="squared_error", metrics=[squared], validation_data=(X, y), batch_size=8, epochs=2
    )
    assert history["squared"][0] == pytest.approx(before, rel=1e-12)
    assert history["val_squared"][-1] == squared(model(X), y.reshape(8, 1))


def test_names_of_metrics() -> None:
    history = fitted(small(), metrics=["accuracy", lambda pred, target: 1.0, lambda pred, target: 2.0], epochs=1)
    assert history == history | {"metric_1": [1.0], "metric_2": [2.0]}
    for name in ("loss", "lr", "val_loss", "accuracy", "metric_1"):

        def metric(pred: Array, target: Array) -> float:
            return 7.0

        metric.__name__ = name
        model = small()
        before = model.flat_parameters.copy()
        with pytest.raises(ValueError, match=re.escape(f"metrics[2] has the name '{name}'; expected one that")):
            fitted(model, metrics=["accuracy", lambda pred, target: 1.0, metric])
        assert_same_bits(model.flat_parameters, before)
    with pytest.raises(ValueError, match=re.escape("metrics[1] has the name 'accuracy'")):
        fitted(small(), metrics=["accuracy", "accuracy"])


def test_metrics_that_are_not_defined_for_one_sample() -> None:
    sizes: list[int] = []

    def of_two_classes(pred: Array, target: Array) -> float:
        sizes.append(len(target))
        if len(np.unique(target)) < 2:
            raise ValueError("only one class")
        return 1.0

    history = fitted(small(), metrics=[of_two_classes], validation_data=(X[:5], LABELS[:5]), batch_size=8, epochs=1)
    assert history["val_of_two_classes"] == [1.0]
    assert sizes == [8, 5]


def len_of_target(pred: Array, target: Array) -> float:
    assert len(pred) == len(target)
    return float(len(target))


def test_validation_of_a_loss_of_ones_own_and_one_output() -> None:
    def own(pred: Array, target: Array) -> tuple[float, Array]:
        return float(((pred - target) ** 2).mean()), 2 * (pred - target) / pred.size

    y = X.sum(axis=1)
    model = nn.Sequential([nn.Dense(5, 1)], rng=0)
    history = fitted(model, X, y, loss=own, validation_data=(X, y))
    assert history["val_loss"][-1] == pytest.approx(float(((model(X)[:, 0] - y) ** 2).mean()), rel=1e-5)


def test_accuracy() -> None:
    scores = np.array([[1.0, 2.0], [3.0, 0.0]])
    assert nn.accuracy(scores, np.array([1, 1])) == 0.5
    assert nn.accuracy(scores, np.array([[0.2, 0.8], [0.9, 0.1]])) == 1.0
    assert nn.accuracy(scores[:, :1] - 2, np.array([0, 1])) == 1.0
    assert nn.accuracy(scores[:, :1] - 2, np.array([[-1.0], [-1.0]])) == 0.5
    assert nn.accuracy(scores, np.array([[1], [0]])) == 1.0
    assert nn.accuracy(scores, np.array([[1], [1]])) == 0.5
    for wrong in (np.zeros(3), np.zeros(()), np.zeros((2, 3)), np.zeros((2, 1, 1))):
        with pytest.raises(ValueError, match=re.escape(f"found (2, 2) and {wrong.shape}")):
            nn.accuracy(scores, wrong)
    with pytest.raises(ValueError, match=re.escape("found (2, 1) and (2, 2)")):
        nn.accuracy(scores[:, :1], scores)


#: (loss, pred, target, which are right): computed by hand from what each loss says of its predictions.
RIGHT = [
    ("hinge", [-2.0, 0.3, 0.0, 0.4, np.nan], [-1, -1, 1, 1, 1], [True, False, False, True, False]),
    ("squared_hinge", [0.3], [1], [True]),
    ("exponential", [0.3, -0.1], [-1, -1], [False, True]),
    ("zero_one", [-0.1, 0.2], [-1, -1], [True, False]),
    ("logistic", [-2.0, 0.3, 0.2], [-1, -1, 1], [True, False, True]),
    ("binary_cross_entropy_with_logits", [-2.0, 0.3, 0.4, np.nan], [0, 0, 1, 0], [True, False, True, False]),
    ("focal_with_logits", [0.3, 0.4], [0.2, 0.9], [False, True]),
    ("binary_cross_entropy", [0.3, 0.4, 0.6, 0.7], [0, 1, 0, 1], [True, False, False, True]),
]


@pytest.mark.parametrize(("loss", "pred", "target", "right"), RIGHT, ids=[case[0] for case in RIGHT])
@pytest.mark.parametrize("columns", [1, 0], ids=["(N,1)", "(N,)"])
def test_accuracy_of_two_classes(
    loss: str, pred: list[float], target: list[float], right: list[bool], columns: int
) -> None:
    shaped = np.array(pred)[:, np.newaxis] if columns else np.array(pred)
    found = [nn.accuracy(shaped, np.array(target), given) for given in (loss, fp.losses.get(loss))]
    assert found == [np.mean(right)] * 2
    with pytest.raises(ValueError, match=f"of one shape for {loss}"):
        nn.accuracy(shaped, np.zeros(len(pred) + 1), loss)


def test_accuracy_over_classes() -> None:
    z = np.array([[1.0, 2.0, 0.0], [3.0, 0.0, 9.0], [0.0, 1.0, np.nan]])
    labels = np.array([1, 0, 1])  # right, wrong, a row with a NaN
    p = np.array([[0.1, 0.6, 0.3], [0.9, 0.05, 0.05], [0.0, 0.0, 1.0]])
    for loss in ("softmax_cross_entropy", "softmax_focal", "negative_log_likelihood"):
        assert nn.accuracy(z, labels, loss) == 1 / 3
        assert nn.accuracy(z.reshape(1, 3, 3), labels.reshape(1, 3), loss) == 1 / 3
        assert nn.accuracy(np.zeros((0, 3)), labels[:0], loss) == 0.0
    for loss in ("categorical_cross_entropy", "kl_divergence"):
        assert nn.accuracy(p, p[[0, 1, 0]], loss) == 2 / 3
    assert nn.accuracy(p, np.log(p[[0, 1, 0]] + 1e-9), fp.losses.KLDivergence(log_target=True)) == 2 / 3
    ignores = fp.losses.SoftmaxCrossEntropy(ignore_index=-100)
    assert nn.accuracy(p, np.array([1, -100, 0]), ignores) == 0.5
    assert nn.accuracy(p, np.full(3, -100), ignores) == 0.0
    with pytest.raises(ValueError, match=re.escape("for softmax_cross_entropy; found (3, 3) and (2,)")):
        nn.accuracy(p, labels[:2], "softmax_cross_entropy")


def test_what_predictions_are_is_what_their_links_say() -> None:
    """The best constant prediction for 30% of class 1, found from the loss alone, is the link of 0.3."""
    minimize_scalar = pytest.importorskip("scipy.optimize").minimize_scalar
    y = np.array([1.0] * 3 + [0.0] * 7)
    links = {"identity": 0.3, "log": np.log(0.3), "logit": np.log(0.3 / 0.7), "half_logit": np.log(0.3 / 0.7) / 2}
    checked = (
        "squared_error", "half_squared_error", "poisson", "tweedie", "binary_cross_entropy", "exponential", "logistic",
        "binary_cross_entropy_with_logits",
    )  # fmt: skip
    for name in checked:
        spec = _registry.losses()[name]
        target = 2 * y - 1 if spec.target_domain == "sign" else y
        loss = fp.losses.get(name)
        bounds = (1e-3, 1 - 1e-3) if spec.pred_domain == "unit" else (-5, 5)
        best = minimize_scalar(lambda c: loss(np.full(10, c), target), bounds=bounds, method="bounded").x  # noqa: B023
        assert best == pytest.approx(links[spec.link], abs=1e-4), name


@pytest.mark.parametrize("spec", _registry.losses().values(), ids=lambda spec: spec.name)
def test_facts_of_losses(spec: Any) -> None:
    """What would contradict itself."""
    assert (spec.prediction == "margin") <= (spec.target_domain == "sign")
    assert (spec.pred_domain == "unit") == (spec.prediction == "probability")
    assert (spec.link == "multinomial_logit") == (spec.over_classes and spec.prediction == "logit")
    assert (spec.prediction == "value") <= (not spec.over_classes)
    assert (spec.target_domain in ("sign", "unit") or spec.over_classes) == (spec.prediction != "value")


def test_the_accuracy_of_a_run_follows_the_loss() -> None:
    """By the loss's probabilities, of which a threshold at 0 would find all to be class 1."""
    y = (X[:, 0] > 0).astype(float)
    for loss, layers, target in (
        ("binary_cross_entropy", [nn.Dense(5, 1, "sigmoid")], y),
        ("binary_cross_entropy_with_logits", [nn.Dense(5, 1)], y),
        ("hinge", [nn.Dense(5, 1)], 2 * y - 1),
    ):
        for metric in ("accuracy", nn.accuracy):
            model = nn.Sequential(layers := [nn.Dense(5, 1, layers[0].activation)], rng=0)
            history = fitted(model, X, target, loss=loss, metrics=[metric], validation_data=(X, target), epochs=4)
            decision = model(X)[:, 0] > (0.5 if loss == "binary_cross_entropy" else 0)
            assert history["val_accuracy"][-1] == np.mean(decision == (y > 0))
    for loss in ("squared_error", "poisson", "quantile"):
        with pytest.raises(ValueError, match=f"accuracy is not defined for {loss}, whose predictions are numbers"):
            fitted(nn.Sequential([nn.Dense(5, 1)]), X, y, loss=loss, metrics=["accuracy"])
    with pytest.raises(ValueError, match="a function of your own says nothing"):
        fitted(small(), loss=lambda pred, target: (0.0, pred), metrics=["accuracy"])
    # A function that was given as it is goes by its own rule; a loss is a metric of its name.
    metrics = [nn.accuracy, fp.losses.AbsoluteError()]
    model = nn.Sequential([nn.Dense(5, 1)], rng=0)
    history = fitted(model, X, y, loss="squared_error", metrics=metrics, batch_size=8, epochs=1, validation_data=(X, y))
    assert history["val_absolute_error"] == [np.abs(model(X)[:, 0] - y.astype(np.float32)).mean(dtype=np.float64)]


def test_sample_weights() -> None:
    a, b = small(), small()
    weight = np.array([0, 1, 2, 0, 1, 1, 0, 3])
    repeated = np.repeat(np.arange(8), weight)
    optimizer = {m: fp.optim.SGD(m, lr=0.1) for m in (a, b)}
    ha = fitted(a, sample_weight=weight, optimizer=optimizer[a], batch_size=8)
    hb = fitted(b, X[repeated], LABELS[repeated], optimizer=optimizer[b], batch_size=8)
    np.testing.assert_allclose(ha["loss"], hb["loss"], rtol=1e-12)
    np.testing.assert_allclose(a.flat_parameters, b.flat_parameters, rtol=1e-10, atol=1e-12)


def test_callbacks() -> None:
    calls: list[tuple[str, int, list[str]]] = []
    model = small()

    def first(epoch: int, logs: Mapping[str, float], m: nn.Sequential) -> None:
        assert m is model
        calls.append(("first", epoch, list(logs)))

    def second(epoch: int, logs: Mapping[str, float], m: nn.Sequential) -> bool:
        calls.append(("second", epoch, list(logs)))
        return epoch == 1

    history = fitted(model, epochs=5, callbacks=[second, first], validation_data=(X, LABELS))
    assert [call[:2] for call in calls] == [("second", 0), ("first", 0), ("second", 1), ("first", 1)]
    assert calls[0][2] == ["loss", "val_loss"]
    assert len(history["loss"]) == 2


def test_interrupt_leaves_a_usable_model() -> None:
    model = small()
    seen = []

    def interrupt(epoch: int, logs: Mapping[str, float], m: nn.Sequential) -> None:
        seen.append(m.flat_parameters.copy())
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(model, epochs=5, callbacks=[interrupt])
    assert_same_bits(model.flat_parameters, seen[1])
    assert model.predict(X).shape == (8, 3)
    fitted(model)


def test_ctrl_c_in_the_midst_of_training() -> None:
    script = """
import signal, threading, os, numpy as np
import fuseprop as fp
from fuseprop import _registry, nn
model = nn.Sequential([nn.Dense(64, 128, "relu"), nn.Dense(128, 10)], rng=0)
optimizer = fp.optim.Adam(model)
x, y = np.random.default_rng(0).standard_normal((6400, 64)), np.zeros(6400, int)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    model.fit(x, y, loss="softmax_cross_entropy", optimizer=optimizer, epochs=10**6, progress=False)
except KeyboardInterrupt:
    steps = optimizer.steps
    assert steps > 0
    assert np.isfinite(model.predict(x)).all()
    model.fit(x, y, loss="softmax_cross_entropy", optimizer=optimizer, epochs=1, progress=False)
    assert optimizer.steps == steps + 200
    print("usable")
"""
    assert check_output(script) == "usable"


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    fitted(small(), progress=True, epochs=2, validation_data=(X, LABELS))
    out, err = capsys.readouterr()
    assert out == ""
    assert "6/6" in err
    assert "val_loss=" in err
    fitted(small(), progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X[:, :4]}, ValueError, "x has samples of shape (4,); expected (5,)"),
        ({"x": X[:0], "y": LABELS[:0]}, ValueError, "x has shape (0, 5); expected at least one sample"),
        ({"x": X + 1j}, TypeError, "x has dtype complex128"),
        ({"y": LABELS[:5]}, ValueError, "y has shape (5,); expected 8 samples, as x has"),
        ({"y": LABELS.astype(str)}, TypeError, "y has dtype <U21"),
        ({"loss": lambda pred, target: 1.0}, TypeError, "loss returned float; expected a tuple (value, gradient)"),
        ({"epochs": 0}, ValueError, "epochs is 0; expected an integer >= 1"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer, found float"),
        ({"sample_weight": np.ones(7)}, ValueError, "sample_weight has shape (7,); expected 8 samples"),
        ({"sample_weight": np.ones((8, 3))}, ValueError, "sample_weight has shape (8, 3); expected (8,)"),
        ({"validation_data": X}, TypeError, "validation_data must be (x, y) or (x, y, sample_weight)"),
        ({"validation_data": (X, LABELS[:5])}, ValueError, "y of validation_data has shape (5,); expected 8"),
        ({"validation_data": (X[:, :3], LABELS)}, ValueError, "x of validation_data has samples"),
        ({"metrics": ["accurcy"]}, ValueError, "unknown metric 'accurcy'; known: accuracy"),
        ({"metrics": [3]}, TypeError, "metrics[0] must be a name or a function"),
        ({"optimizer": "adm"}, ValueError, "unknown optimizer 'adm'"),
        (
            {"optimizer": fp.optim.SGD(small())},
            ValueError,
            "optimizer updates other arrays than this model's",
        ),
        ({"loss": "softmx_cross_entropy"}, ValueError, "did you mean 'softmax_cross_entropy'"),
        (
            {"loss": 3, "validation_data": (X, LABELS)},
            TypeError,
            "loss must be a loss, its name, or a function",
        ),
    ],
)
def test_fit_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    model = small()
    before = model.flat_parameters.copy()
    with pytest.raises(error, match=re.escape(message)):
        fitted(model, **({"x": X, "y": LABELS} | change))
    assert_same_bits(model.flat_parameters, before)


@each_dtype
def test_threads_give_the_same_bits(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((600, 200)), rng.integers(0, 10, 600)
    results = []
    for threads in (1, 2, 3):
        with fp.num_threads(threads):
            model = nn.Sequential(
                [nn.Dense(200, 300, "relu"), nn.Dense(300, 100, "tanh"), nn.Dense(100, 10)],
                rng=0,
                dtype=dtype,
            )
            optimizer = fp.optim.Adam(model, max_norm=1.0)
            history = fitted(model, x, y, optimizer=optimizer, batch_size=256, epochs=2, validation_data=(x, y))
            results.append((model.flat_parameters, np.array([*history["loss"], *history["val_loss"]])))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_a_loss_that_overrides_value_and_grad() -> None:
    """Training takes the class's own verb, as a call of it would."""

    class Doubled(fp.losses.SquaredError):
        def value_and_grad(self, *arguments: Any, **options: Any) -> Any:
            value, gradient = super().value_and_grad(*arguments, **options)
            gradient *= 2
            return 2 * value, gradient

    x, y = np.ones((4, 2), np.float32), np.zeros((4, 1), np.float32)
    values, weights = [], []
    for loss, rate in ((Doubled(), 0.1), (fp.losses.SquaredError(), 0.2)):
        model = nn.Sequential([nn.Dense(2, 1)], rng=3)
        values.append(model.train_step(x, y, loss, fp.optim.SGD(model, lr=rate)))
        weights.append(model.flat_parameters.copy())
    assert values[0] == 2 * values[1]
    assert np.array_equal(*weights)
