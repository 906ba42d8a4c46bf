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
    "zeros": 0.0,
}


def test_every_initialiser_is_tested() -> None:
    assert fp.init.names() == list(VARIANCE)


@each_dtype
@pytest.mark.parametrize("name", VARIANCE)
def test_distribution(name: str, dtype: Any) -> None:
    values = fp.init.get(name)(SHAPE, rng=1, dtype=dtype)
    assert (values.shape, values.dtype) == (SHAPE, dtype)
    wide = values.astype(np.float64)
    # Five standard errors: of the mean, and of the variance, 2 sigma^4 / n at most.
    assert abs(wide.mean()) <= 5 * math.sqrt(VARIANCE[name] / wide.size)
    assert abs(wide.var() - VARIANCE[name]) <= 5 * VARIANCE[name] * math.sqrt(2 / wide.size)
    if name.endswith("uniform"):
        bound = math.sqrt(3 * VARIANCE[name])
        assert 0.999 * bound < abs(wide).max() <= bound * (1 + 1e-6)
    elif name.endswith("normal"):
        assert abs(wide).max() > 4 * math.sqrt(VARIANCE[name])  # not truncated


@pytest.mark.parametrize("name", VARIANCE)
def test_where_the_numbers_come_from(name: str) -> None:
    draw = fp.init.get(name)
    assert_same_bits(draw((4, 5), rng=7), draw((4, 5), rng=np.random.default_rng(7)))
    assert_same_bits(draw((4, 5), rng=7), draw((4, 5), rng=np.random.SeedSequence(7)))
    assert draw((4, 5)).dtype == np.float32
    if name != "zeros":
        generator = np.random.default_rng(7)
        assert not np.array_equal(draw((4, 5), rng=generator), draw((4, 5), rng=generator))
        assert not np.array_equal(draw((4, 5)), draw((4, 5)))


def test_variance_is_kept_through_relu_layers() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 256))
    for _ in range(20):
        x = np.maximum(x @ fp.init.he_normal((256, 256), rng=rng, dtype=np.float64), 0)
    assert 0.3 < (x**2).mean() < 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fp.init.he_normal((3,)), ValueError, "shape is (3,); expected (fan_in, fan_out)"),
        (lambda: fp.init.he_uniform((3, 0)), ValueError, "shape is (3, 0)"),
        (lambda: fp.init.zeros((3,), dtype=int), TypeError, "dtype is int64; expected float32 or float64"),
        (lambda: fp.init.lecun_normal((3, 4), dtype=np.float16), TypeError, "dtype is float16"),
        (lambda: fp.init.get("he"), ValueError, "unknown initialiser 'he'; known: he_normal"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
