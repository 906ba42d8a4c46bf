"""Initialisers: their distributions, their dtypes, where the numbers come from, and what they refuse."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from helpers import assert_same_bits, each_dtype

import fuseprop as fp

SHAPE = (300, 500)
VARIANCE = {
    "he_normal": 2 / 300,
    "he_uniform": 2 / 300,
    "glorot_normal": 2 / 800,
    "glorot_uniform": 2 / 800,
    "lecun_normal": 1 / 300,
    "lecun_uniform": 1 / 300,
    "orthogonal": 1 / 500,
    "normal": 0.05**2,
    "uniform": 0.1**2 / 12,
    "constant": 0.0,
    "zeros": 0.0,
}
CONSTANT = ("constant", "zeros")
WITH_GAIN = [name for name in VARIANCE if "_" in name] + ["orthogonal"]

# Constant matrices are warned about; here they are meant.
meant = pytest.mark.filterwarnings("ignore:weights of shape")


def test_every_initialiser_is_tested() -> None:
    assert fp.init.names() == list(VARIANCE)


@meant
@each_dtype
@pytest.mark.parametrize("name", VARIANCE)
def test_distribution(name: str, dtype: Any) -> None:
    values = fp.init.get(name)(SHAPE, rng=1, dtype=dtype)
    assert (values.shape, values.dtype) == (SHAPE, dtype)
    assert values.flags.c_contiguous
    wide = values.astype(np.float64)
    # Five standard errors: of the mean, and of the variance, 2 sigma^4 / n at most.
    assert abs(wide.mean()) <= 5 * math.sqrt(VARIANCE[name] / wide.size)
    assert abs(wide.var() - VARIANCE[name]) <= 5 * VARIANCE[name] * math.sqrt(2 / wide.size)
    if name.endswith("uniform"):
        bound = math.sqrt(3 * VARIANCE[name])
        assert 0.999 * bound < abs(wide).max() <= bound * (1 + 1e-6)
    elif name.endswith("normal"):
        assert abs(wide).max() > 4 * math.sqrt(VARIANCE[name])  # not truncated


@meant
@pytest.mark.parametrize("name", VARIANCE)
def test_where_the_numbers_come_from(name: str) -> None:
    draw = fp.init.get(name)
    assert_same_bits(draw((4, 5), rng=7), draw((4, 5), rng=np.random.default_rng(7)))
    assert_same_bits(draw((4, 5), rng=7), draw((4, 5), rng=np.random.SeedSequence(7)))
    assert draw((4, 5)).dtype == np.float32
    if name not in CONSTANT:
        generator = np.random.default_rng(7)
        assert not np.array_equal(draw((4, 5), rng=generator), draw((4, 5), rng=generator))
        assert not np.array_equal(draw((4, 5)), draw((4, 5)))


@pytest.mark.parametrize("name", WITH_GAIN)
def test_gain(name: str) -> None:
    plain = fp.init.get(name)((30, 40), rng=2, dtype=np.float64)
    # One rounding of the gain's product with the standard deviation, one of that with the number.
    np.testing.assert_allclose(
        fp.init.get(name, gain=3.0)((30, 40), rng=2, dtype=np.float64), 3 * plain, rtol=2 * np.finfo(float).eps
    )
    assert not fp.init.get(name, gain=0.0)((30, 40), rng=2).any()


@pytest.mark.parametrize("name", ["he_normal", "he_uniform"])
def test_mode(name: str) -> None:
    backward = fp.init.get(name, mode="fan_out")((30, 40), rng=2, dtype=np.float64)
    forward = fp.init.get(name)((40, 30), rng=2, dtype=np.float64)
    assert_same_bits(backward.ravel(), forward.ravel())


def test_options_of_normal_and_uniform() -> None:
    values = fp.init.normal((100, 200, 2), mean=3.0, std=0.5, rng=0, dtype=np.float64)
    assert abs(values.mean() - 3) <= 5 * 0.5 / math.sqrt(values.size)
    assert abs(values.var() - 0.25) <= 5 * 0.25 * math.sqrt(2 / values.size)
    values = fp.init.uniform((40_000,), low=2.0, high=5.0, rng=0, dtype=np.float64)
    assert 2 <= values.min() < 2.001
    assert 4.999 < values.max() <= 5
    assert abs(values.mean() - 3.5) <= 5 * math.sqrt(9 / 12 / values.size)
    assert (fp.init.uniform((3,), low=1.0, high=1.0) == 1).all()


@each_dtype
@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (60, 20), (20, 60)])
def test_orthogonal(shape: tuple[int, int], dtype: Any) -> None:
    w = fp.init.orthogonal(shape, rng=0, dtype=dtype).astype(np.float64)
    product = w.T @ w if shape[0] >= shape[1] else w @ w.T
    # Each element is rounded to dtype: a sum of products of unit vectors has twice that error, in the worst case.
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=2 * np.finfo(dtype).eps + 1e-14)


def test_orthogonal_matrices_have_both_orientations() -> None:
    """Without the signs of R's diagonal, LAPACK's choice of signs would not be uniform."""
    generator = np.random.default_rng(0)
    traces = [np.trace(fp.init.orthogonal((2, 2), rng=generator, dtype=np.float64)) for _ in range(400)]
    signs = [np.linalg.det(fp.init.orthogonal((2, 2), rng=generator, dtype=np.float64)) > 0 for _ in range(400)]
    assert abs(np.mean(traces)) <= 5 * math.sqrt(1 / 400)  # E trace = 0, E trace^2 = 1
    assert abs(np.mean(signs) - 0.5) <= 5 * math.sqrt(0.25 / 400)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("xavier_normal", "glorot_normal"),
        ("xavier_uniform", "glorot_uniform"),
        ("kaiming_normal", "he_normal"),
        ("kaiming_uniform", "he_uniform"),
    ],
)
def test_pytorchs_names(alias: str, name: str) -> None:
    assert fp.init.get(alias) is fp.init.get(name)
    assert getattr(fp.init, alias) is getattr(fp.init, name)


def test_constant_weights_are_warned_about() -> None:
    with pytest.warns(UserWarning, match=re.escape("weights of shape (3, 4) are all 0.5: the units of a hidden layer")):
        values = fp.init.constant((3, 4), value=0.5, dtype=np.float64)
    assert_same_bits(values, np.full((3, 4), 0.5))
    with pytest.warns(UserWarning, match="are all 0"):
        fp.nn.Sequential([fp.nn.Dense(3, 4, init="zeros")])
    # A bias is no weight, and one unit has no other to be equal to.
    assert not fp.init.zeros((7,)).any()
    assert not fp.init.zeros((7, 1)).any()


@pytest.mark.filterwarnings("ignore:weights of shape")
def test_why_constant_weights_are_warned_about() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 4), dtype=np.float32)
    y = x[:, :1] * x[:, 1:2]
    for init, equal in ((fp.init.get("constant", value=0.3), True), ("he_normal", False)):
        hidden = fp.nn.Dense(4, 6, "tanh", init=init)
        out = fp.nn.Dense(6, 1, init=fp.init.get("constant", value=0.2))
        model = fp.nn.Sequential([hidden, out], rng=0)
        model.fit(x, y, loss="squared_error", epochs=3, progress=False)
        weight = model.parameters()["0.weight"]
        assert not np.allclose(weight, 0.3)
        assert (weight == weight[:, :1]).all() == equal


# --- the variance through depth -----------------------------------------------------------------------------

DEPTH, WIDTH = 50, 200


def case(name: str, activation: Any, *values: Any, **options: Any) -> Any:
    """A pytest parameter: an initialiser with options, an activation, and what follows."""
    shown = "-".join([name, *options, str(activation)])
    return pytest.param(fp.init.get(name, **options), activation, *values, id=shown)


def through(init: Any, activation: str | None) -> tuple[float, float]:
    """Mean square of the output of 50 layers and of the gradient at their input, both from 1 at the other end."""
    layers = [fp.nn.Dense(WIDTH, WIDTH, activation, init=init, use_bias=False) for _ in range(DEPTH)]
    model = fp.nn.Sequential(layers, rng=0, dtype=np.float64)
    rng = np.random.default_rng(1)
    y = model(rng.standard_normal((20, WIDTH)), training=True)
    dx = model.backward(rng.standard_normal((20, WIDTH)))
    return float(np.mean(y**2)), float(np.mean(dx**2))


# A layer multiplies the mean square by a random factor of mean 1 and variance (E f^4 / (E f^2)^2 - 1) / width, which is
# 5 / width for ReLU and 2 / width for linear layers. The logarithm of 50 of them has a standard deviation of at most
# sqrt(50 * 5 / 200) = 1.1: five of them are a factor of 270. A wrong variance misses it by 2^50.
KEPT = math.exp(5 * math.sqrt(DEPTH * 5 / WIDTH))


@pytest.mark.parametrize(
    ("init", "activation"),
    [
        case("he_normal", "relu"),
        case("he_uniform", "relu"),
        case("orthogonal", "relu", gain=math.sqrt(2)),
        case("he_normal", fp.activations.LeakyReLU(0.2), gain=1 / math.sqrt(1.04)),
        case("glorot_normal", None),
        case("glorot_uniform", None),
        case("lecun_normal", None),
        case("lecun_uniform", None),
        case("orthogonal", None),
        case("normal", None, std=1 / math.sqrt(WIDTH)),
        case("uniform", None, low=-math.sqrt(3 / WIDTH), high=math.sqrt(3 / WIDTH)),
    ],
)
def test_variance_survives_50_layers(init: Any, activation: Any) -> None:
    forward, backward = through(init, activation)
    assert 1 / KEPT < forward < KEPT
    assert 1 / KEPT < backward < KEPT


def test_orthogonal_layers_keep_lengths() -> None:
    layers = [fp.nn.Dense(WIDTH, WIDTH, init="orthogonal") for _ in range(DEPTH)]
    model = fp.nn.Sequential(layers, rng=0, dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((5, WIDTH))
    np.testing.assert_allclose(np.linalg.norm(model(x), axis=1), np.linalg.norm(x, axis=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("init", "activation", "factor"),
    [
        case("glorot_normal", "relu", 1 / 2),
        case("lecun_uniform", "relu", 1 / 2),
        case("normal", "relu", 0.05**2 * WIDTH / 2),
        case("uniform", None, 0.1**2 / 12 * WIDTH),
        case("he_normal", None, 2.0),
        case("normal", "relu", 0.2**2 * WIDTH / 2, std=0.2),
    ],
)
def test_variance_dies_or_explodes_with_the_wrong_one(init: Any, activation: Any, factor: float) -> None:
    """By the factor that theory says, to the power of 50."""
    for found in through(init, activation):
        assert factor**DEPTH / KEPT < found < factor**DEPTH * KEPT
    assert not 1 / KEPT < factor**DEPTH < KEPT


def test_the_gain_of_an_activation_keeps_its_variance() -> None:
    """Through 50 layers of tanh, whose mean square comes back by itself; with gain 1 it dies out."""
    rng = np.random.default_rng(0)
    for gain, low, high in ((fp.init.calculate_gain("tanh"), 0.7, 1.3), (1.0, 0.0, 0.05)):
        x = rng.standard_normal((50, WIDTH))
        for _ in range(DEPTH):
            x = np.tanh(x) @ fp.init.lecun_normal((WIDTH, WIDTH), gain=gain, rng=rng, dtype=np.float64)
        # A layer's own fluctuations, of the order of sqrt(2 / 200), are held down by the saturation.
        assert low < np.mean(x**2) < high


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("identity", 1.0),
        ("relu", math.sqrt(2)),
        (fp.activations.LeakyReLU(0.3), math.sqrt(2 / 1.09)),
        ("prelu", math.sqrt(2 / (1 + 0.25**2))),
        ("selu", 1.0),  # its constants are chosen so, to 16 digits
        ("step", math.sqrt(2)),
        ("softsign", None),
        ("tanh", None),
        ("gelu", None),
        ("hardtanh", None),
    ],
)
def test_calculate_gain(activation: Any, expected: float | None) -> None:
    act = fp.activations.get(activation) if isinstance(activation, str) else activation
    gain = fp.init.calculate_gain(activation)
    if expected is None:
        # The midpoint rule, with 0, -1 and 1 between two midpoints: its error is of the order of h^2 = 1e-10.
        z = 1e-5 * (np.arange(-1_000_000, 1_000_000) + 0.5)
        mean_square = np.sum(act(z) ** 2 * np.exp(-0.5 * z * z)) * 1e-5 / math.sqrt(2 * math.pi)
        expected = 1 / math.sqrt(mean_square)
    assert gain == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("limit", [0.055, 0.55, 2.13])
def test_calculate_gain_with_joints_elsewhere(limit: float) -> None:
    z = 1e-5 * (np.arange(-1_000_000, 1_000_000) + 0.5)
    mean_square = np.sum(np.clip(z, -limit, limit) ** 2 * np.exp(-0.5 * z * z)) * 1e-5 / math.sqrt(2 * math.pi)
    gain = fp.init.calculate_gain(fp.activations.Hardtanh(-limit, limit))
    assert gain * math.sqrt(mean_square) == pytest.approx(1, rel=2e-4)  # what the docstring says


@each_dtype
def test_the_largest_scales_are_finite(dtype: Any) -> None:
    largest = float(np.finfo(dtype).max)
    for name in WITH_GAIN:
        draw = fp.init.get(name, gain=largest / 64)
        for shape in ((1, 1), (1, 3000)):
            assert np.isfinite(draw(shape, rng=0, dtype=dtype)).all(), name
        with pytest.raises(ValueError, match=re.escape("gain is ")):
            fp.init.get(name, gain=largest / 32)((1, 1), dtype=dtype)
    half = largest / 2
    assert np.isfinite(fp.init.normal((3000,), mean=-half, std=largest / 64, rng=0, dtype=dtype)).all()
    assert np.isfinite(fp.init.uniform((3000,), low=-half, high=half, rng=0, dtype=dtype)).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fp.init.he_normal((3,)), ValueError, "shape is (3,); expected (fan_in, fan_out)"),
        (lambda: fp.init.he_uniform((3, 0)), ValueError, "shape is (3, 0)"),
        (lambda: fp.init.zeros((3,), dtype=int), TypeError, "dtype is int64; expected float32 or float64"),
        (lambda: fp.init.lecun_normal((3, 4), dtype=np.float16), TypeError, "dtype is float16"),
        (lambda: fp.init.get("he"), ValueError, "unknown initialiser 'he'; known: he_normal"),
        (lambda: fp.init.get("he_norm"), ValueError, "unknown initialiser 'he_norm'; did you mean 'he_normal'"),
        (
            lambda: fp.init.get("he_normal", std=1),
            TypeError,
            "he_normal has no option 'std'; expected 'gain' or 'mode'",
        ),
        (lambda: fp.init.get("zeros", value=1), TypeError, "zeros has no option 'value'; expected none"),
        (lambda: fp.init.he_normal((3, 4), gain=-1), ValueError, "gain is -1.0; expected a finite number >= 0"),
        (lambda: fp.init.he_normal((3, 4), mode="fan"), ValueError, "mode is 'fan'; expected 'fan_in' or 'fan_out'"),
        (lambda: fp.init.orthogonal((3, 4), gain=np.inf), ValueError, "gain is inf; expected a finite number >= 0"),
        (lambda: fp.init.orthogonal((3,)), ValueError, "shape is (3,); expected (fan_in, fan_out)"),
        (lambda: fp.init.normal((3,), std=-1), ValueError, "std is -1.0; expected a finite number >= 0"),
        (lambda: fp.init.uniform((3,), low=2, high=1), ValueError, "high is 1.0; expected a finite number >= 2"),
        (lambda: fp.init.constant((3,), value=1e39), ValueError, "value is 1e+39; expected a finite number >= -3.4"),
        (lambda: fp.init.constant((3,), value=np.nan), ValueError, "value is nan; expected a finite number"),
        (
            lambda: fp.init.uniform((3,), low=-1e308, high=1e308, dtype=float),
            ValueError,
            "low is -1e+308; expected a finite number >= -8.98847e+307",
        ),
        (lambda: fp.init.uniform((3,), high=1e39), ValueError, "high is 1e+39; expected a finite number >= -0.05 and"),
        (lambda: fp.init.normal((3,), std=1e39), ValueError, "std is 1e+39; expected a finite number >= 0 and <= 5.3"),
        (lambda: fp.init.normal((3,), mean=1e39), ValueError, "mean is 1e+39; expected a finite number >= -1.7"),
        (lambda: fp.init.normal(3), TypeError, "shape must be a tuple of integers, found int"),
        (lambda: fp.init.uniform((3, 2.5)), TypeError, "shape[1] must be an integer, found float"),
        (lambda: fp.init.zeros((-3,)), ValueError, "shape[0] is -3; expected an integer >= 0"),
        (lambda: fp.init.calculate_gain("softmax"), ValueError, "activation is Softmax(axis=-1), which works along an"),
        (lambda: fp.init.calculate_gain(3), TypeError, "activation must be an Activation or a name, found int"),
        (
            lambda: fp.init.calculate_gain(fp.activations.Hardtanh(-1e-200, 1e-200)),
            ValueError,
            "which is 0 throughout: no gain helps",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
