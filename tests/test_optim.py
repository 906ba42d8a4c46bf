"""Optimizers: against formulas written here in float64, against PyTorch, and what they refuse."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import FMA_TARGETS, LARGE, OPTIMIZERS, Array, assert_same_bits, each_dtype, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import fuseprop as fp
from fuseprop import nn
from fuseprop._registry import OptimizerSpec

F64 = NDArray[np.float64]

#: What every optimizer takes besides its own parameters.
SHARED: list[dict[str, Any]] = [
    {},
    {"maximize": True},
    {"max_norm": 0.5, "l1": 0.05, "nonfinite": "raise"},
    {"maximize": True, "max_norm": 0.5},
]
CASES = [
    pytest.param(spec, {**example, **shared}, id=f"{spec.name}-{i}-{'-'.join(shared)}")
    for spec in OPTIMIZERS
    for i, example in enumerate(({}, *spec.examples))
    for shared in (SHARED if i == 0 or i == len(spec.examples) else SHARED[:1])
]
#: Without those shared by all.
OWN_CASES = [
    pytest.param(spec, example, id=f"{spec.name}-{i}")
    for spec in OPTIMIZERS
    for i, example in enumerate(({}, *spec.examples))
]
each_optimizer = pytest.mark.parametrize("spec", OPTIMIZERS, ids=lambda spec: spec.name)
SHAPES = [(3, 4), (5,), (), (0, 2), (7, 130)]


def problem(steps: int = 30, dtype: Any = np.float64) -> tuple[list[F64], list[list[F64]]]:
    """Parameters and the gradients of some steps."""
    rng = np.random.default_rng(0)
    params = [np.asarray(rng.standard_normal(shape), dtype) for shape in SHAPES]
    grads = [[np.asarray(rng.standard_normal(s) * rng.choice([0.1, 3]), dtype) for s in SHAPES] for _ in range(steps)]
    return params, grads


def reference_path(
    spec: OptimizerSpec,
    params: list[F64],
    grads: list[list[F64]],
    *,
    l1: float = 0.0,
    max_norm: float | None = None,
    maximize: bool = False,
    nonfinite: str = "propagate",
    **own: Any,
) -> tuple[list[F64], list[dict[str, F64]]]:
    """The parameters and the states at the end, by the formulas of reference.py behind what all optimizers share."""
    del nonfinite  # the gradients are finite
    params = [p.copy() for p in params]
    states: list[dict[str, F64]] = [{} for _ in params]
    for t, step in enumerate(grads, start=1):
        used = step if max_norm is None else clipped(step, max_norm)
        for i, (p, grad) in enumerate(zip(params, used, strict=True)):
            g = (-grad if maximize else grad) + l1 * np.sign(p)
            params[i] = np.asarray(spec.reference(p, g, states[i], t, **{**spec.parameters, **own}))
    return params, states


def clipped(grads: list[F64], max_norm: float) -> list[F64]:
    norm = math.sqrt(sum(float((g**2).sum()) for g in grads))
    return [g * min(1.0, max_norm / norm) for g in grads]


@pytest.mark.parametrize(("spec", "options"), CASES)
def test_formula(spec: OptimizerSpec, options: dict[str, Any]) -> None:
    params, grads = problem()
    expected, states = reference_path(spec, params, grads, **options)
    optimizer = spec.cls(params, **options)
    for step in grads:
        optimizer.step(step)
    for found, wanted in zip(params, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    for arrays, wanted_arrays in zip(optimizer.state_dict()["groups"][0]["states"], states, strict=True):
        assert arrays.keys() == wanted_arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_allclose(array, wanted_arrays[name], rtol=1e-12, atol=1e-12)
    assert optimizer.steps == 30
    assert optimizer.skipped == 0


#: Without the options that PyTorch has not.
TORCH_CASES = [p for p in CASES if not {"eps_root", "l1"} & p.values[1].keys()]


@pytest.mark.parametrize(("spec", "options"), TORCH_CASES)
def test_torch(spec: OptimizerSpec, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    if not hasattr(torch.optim, spec.cls.__name__):
        return  # there is nothing to compare with
    params, grads = problem()
    theirs = [torch.tensor(p.copy(), requires_grad=True) for p in params]
    optimizer = spec.cls(params, **options)
    own = {name: value for name, value in options.items() if name not in ("max_norm", "nonfinite")}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # NAdam keeps a product of its own in it
    try:
        reference = getattr(torch.optim, spec.cls.__name__)(theirs, **{"lr": spec.parameters["lr"], **own})
        for step in grads:
            optimizer.step(step)
            for tensor, grad in zip(theirs, step, strict=True):
                tensor.grad = torch.tensor(grad)
            if "max_norm" in options:  # theirs divides by norm + 1e-6
                norm = math.sqrt(sum(float((g**2).sum()) for g in step))
                torch.nn.utils.clip_grad_norm_(theirs, options["max_norm"] * (norm + 1e-6) / norm)
            reference.step()
            for found, tensor in zip(params, theirs, strict=True):
                np.testing.assert_allclose(found, tensor.detach().numpy(), rtol=1e-12, atol=1e-12)
    finally:
        torch.set_default_dtype(before)


def test_torch_has_our_defaults() -> None:
    torch = pytest.importorskip("torch")
    both = [spec for spec in OPTIMIZERS if hasattr(torch.optim, spec.cls.__name__)]
    assert len(both) >= 7
    for spec in both:
        theirs = inspect.signature(getattr(torch.optim, spec.cls.__name__)).parameters
        for name, value in spec.parameters.items():
            if name != "eps_root":
                assert theirs[name].default == value, (spec.name, name)


def test_epsilon_under_the_root() -> None:
    # The notes' form of Adam's first step from m = v = 0: lr g / sqrt(g^2 + eps).
    g = np.array([0.0, 1e-3, -0.5, 2.0])
    for name in ("adam", "adamw", "rmsprop", "adagrad"):
        p = np.zeros(4)
        options = {"alpha": 0.0} if name == "rmsprop" else {}
        fp.optim.get(name, p, lr=0.1, eps=0.0, eps_root=1e-6, **options).step(g)
        np.testing.assert_allclose(p, -0.1 * g / np.sqrt(g**2 + 1e-6), rtol=1e-12)


@pytest.mark.parametrize(("spec", "options"), CASES)
def test_float32_is_close_to_float64(spec: OptimizerSpec, options: dict[str, Any]) -> None:
    params, grads = problem(dtype=np.float32)
    wide = [p.astype(np.float64) for p in params]
    ours, reference = spec.cls(params, **options), spec.cls(wide, **options)
    for step in grads:
        ours.step(step)
        reference.step([g.astype(np.float64) for g in step])
    for found, wanted in zip(params, wide, strict=True):
        assert found.dtype == np.float32
        # Each of the 30 steps rounds p and a few intermediate results.
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=30 * 8 * 2**-24 * 2)


@each_dtype
@pytest.mark.parametrize(("spec", "options"), OWN_CASES)
def test_rounding_of_one_step(spec: OptimizerSpec, options: dict[str, Any], dtype: Any) -> None:
    """From any state, a step rounds the parameter (twice with decoupled decay), and its own size some times.

    A step is at most 12 operations on 4 rounded constants. Each shifts a value on the way by half a unit at most, which
    counts as much as a shift of the step itself, or of an input that went into the value, by as much.
    """
    rng = seeded(spec.name, "one step")
    n = 5000
    x, *gradients = (rng.standard_normal((8, n)) * 10 ** rng.uniform(-3, 3, (8, n))).astype(dtype)
    optimizer = spec.cls(x, **options)
    half_unit = np.finfo(dtype).eps / 2
    parameters = {**spec.parameters, **options}
    for t, g in enumerate(gradients, start=1):
        states = optimizer.state_dict()["groups"][0]["states"][0] if t > 1 else {}
        inputs = {name: array.astype(np.longdouble) for name, array in {"p": x, "g": g, **states}.items()}

        def change(t: int = t, **inputs: Any) -> Any:
            p, gradient = inputs.pop("p"), inputs.pop("g")
            return spec.reference(p, gradient, inputs, t, **parameters) - p

        exact, shift = change(**inputs), 2.0**-30
        sizes = np.abs(exact)
        for name, value in inputs.items():
            sizes += np.abs(change(**{**inputs, name: value * (1 + shift)}) - exact) / shift
        optimizer.step(g)
        largest = np.maximum(np.abs(inputs["p"]), np.abs(inputs["p"] + exact))
        bound = half_unit * ((1 + optimizer._decoupled) * largest + 16 * sizes)
        error = np.abs(x - (inputs["p"] + exact))
        if spec.name == "lion" and t > 1:  # a sign within rounding of its change may be either
            kept, added = parameters["betas"][0] * inputs["momentum"], (1 - parameters["betas"][0]) * inputs["g"]
            sure = np.abs(kept + added) > 8 * half_unit * (np.abs(kept) + np.abs(added))
            assert sure.mean() > 0.99
            error = error[sure] / bound[sure]
        else:
            error = error / bound
        assert error.max() <= 1


def test_descent_of_the_notes() -> None:
    # docs/mathematics.md 7: J = x^2 from x = 1.2, rate 0.3.
    x = np.array([1.2])
    optimizer = fp.optim.SGD(x, lr=0.3)
    seen = []
    for _ in range(4):
        optimizer.step(2 * x)
        seen.append(float(x[0]))
    np.testing.assert_allclose(seen, [0.48, 0.192, 0.0768, 0.03072], rtol=1e-14)


def test_descent_of_the_notes_in_two_dimensions() -> None:
    # docs/mathematics.md 7: J = x^2 + sin^2 y from (3, 1), rate 0.1.
    p = np.array([3.0, 1.0])
    optimizer = fp.optim.SGD(p, lr=0.1)
    path, values = [p.copy()], [math.inf]
    for _ in range(16):
        optimizer.step(np.array([2 * p[0], math.sin(2 * p[1])]))
        path.append(p.copy())
        values.append(p[0] ** 2 + math.sin(p[1]) ** 2)
    for step, x, y, value in (
        (1, 2.4, 0.909070, 6.382415),
        (15, 0.105553, 0.063481, 0.015166),
        (16, 0.084442, 0.050819, 0.009711),
    ):
        np.testing.assert_allclose([*path[step], values[step]], [x, y, value], atol=0.5e-6 * (1 + 1e-6))
    assert [step for step, value in enumerate(values) if value < 0.01] == [16]


def test_rates_of_the_notes() -> None:
    # docs/mathematics.md 7: on J = x^2, 1.0 jumps between x and -x, 0.8 zig-zags down, 0.4 and 0.1 come down from one
    # side.
    paths = {}
    for lr in (1.0, 0.8, 0.4, 0.1):
        x = np.array([1.5])
        optimizer, path = fp.optim.SGD(x, lr=lr), []
        for _ in range(12):
            path.append(float(x[0]))
            optimizer.step(2 * x)
        paths[lr] = np.array(path)
    np.testing.assert_allclose(paths[1.0], 1.5 * (-1.0) ** np.arange(12), rtol=1e-14)
    assert (paths[0.8][1:] * paths[0.8][:-1] < 0).all()
    for lr in (0.4, 0.1):
        assert (paths[lr] > 0).all()
    for lr in (0.8, 0.4, 0.1):
        assert (np.diff(np.abs(paths[lr])) < 0).all()
    assert paths[0.4][5] < 1e-3 < paths[0.1][11]


def test_nesterov_is_the_look_ahead_form() -> None:
    # v = mu v - lr g(q + mu v); q += v, in terms of p = q + mu v.
    mu, lr = 0.9, 0.05
    curvature = np.array([1.0, 3.0])
    p = np.array([1.0, -2.0])
    q, v = p.copy(), np.zeros(2)
    optimizer = fp.optim.SGD(p, lr=lr, momentum=mu, nesterov=True)
    for _ in range(20):
        optimizer.step(curvature * p)
        v = mu * v - lr * curvature * (q + mu * v)
        q += v
        np.testing.assert_allclose(p, q + mu * v, rtol=1e-12, atol=1e-14)


# --- what params may be -------------------------------------------------------------------------------------


def model() -> nn.Sequential:
    return nn.Sequential([nn.Dense(3, 4, "tanh"), nn.Dense(4, 2)], rng=1, dtype=np.float64)


def test_arrangements_agree() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((4, 3)), rng.standard_normal(5)
    steps = [(rng.standard_normal((4, 3)), rng.standard_normal(5)) for _ in range(5)]
    results = []
    for arrange in (
        lambda x, y: [x, y],
        lambda x, y: (x, y),
        lambda x, y: {"x": x, "y": y},
        lambda x, y: {"y": y, "x": x},
    ):
        x, y = a.copy(), b.copy()
        optimizer = fp.optim.Adam(arrange(x, y), max_norm=0.7)
        for gx, gy in steps:
            optimizer.step(arrange(gx, gy))
        results.append((x, y))
    x, y = a.copy(), b.copy()
    optimizer = fp.optim.Adam([{"params": x}, {"params": [y]}], max_norm=0.7)
    for gx, gy in steps:
        optimizer.step([gx, [gy]])
    np.testing.assert_allclose(x, results[0][0], rtol=1e-14)  # the norm is summed group by group
    np.testing.assert_allclose(y, results[0][1], rtol=1e-14)
    for other in results[1:]:
        assert_same_bits(other, results[0])


def test_gradients_of_any_strides() -> None:
    rng = np.random.default_rng(3)
    grad = rng.standard_normal((4, 6))
    a, b = np.ones((4, 6)), np.ones((4, 6))
    fp.optim.Adam(a).step(np.asfortranarray(grad))
    fp.optim.Adam(b).step(grad)
    assert_same_bits(a, b)


def test_mixed_dtypes() -> None:
    a, b = np.ones(3, np.float32), np.ones(3)
    fp.optim.SGD([a, b], lr=0.5).step([np.ones(3, np.float32), np.full(3, 2.0)])
    assert a.tolist() == [0.5] * 3
    assert b.tolist() == [0.0] * 3


@pytest.mark.parametrize("kind", ["model", "flat", "views", "dict", "groups"])
def test_a_models_gradients_are_found(kind: str) -> None:
    reference, other = model(), model()
    x, y = np.random.default_rng(0).standard_normal((2, 6, 3))
    params: Any = {
        "model": other,
        "flat": other.flat_parameters,
        "views": list(other.parameters().values()),
        "dict": other.parameters(),
        "groups": [{"params": other.layers[i].parameters} for i in (1, 0)],
    }[kind]
    ours, theirs = fp.optim.Adam(params), fp.optim.Adam(reference.flat_parameters)
    for _ in range(3):
        for network, optimizer in ((reference, theirs), (other, ours)):
            network.backward(network(x, training=True) - y[:, :2])
            grads = {"model": network, "flat": network.flat_gradients}.get(kind) if optimizer is ours else None
            optimizer.step(grads)
    assert_same_bits(other.flat_parameters, reference.flat_parameters)


def test_arrays_of_ones_own_need_gradients() -> None:
    with pytest.raises(TypeError, match="grads is None"):
        fp.optim.SGD(np.ones(3)).step()
    with pytest.raises(TypeError, match="grads is None"):
        fp.optim.SGD([{"params": np.ones(3)}, {"params": np.ones(3)}]).step()


def test_any_object_with_flat_arrays_is_a_model() -> None:
    class Mine:
        flat_parameters = np.ones(3)
        flat_gradients = np.ones(3)

    mine = Mine()
    optimizer = fp.optim.SGD(mine, lr=0.25)
    optimizer.step()
    assert mine.flat_parameters.tolist() == [0.75] * 3


def test_groups() -> None:
    a, b, c = np.zeros(1), np.zeros(1), np.ones(1)
    optimizer = fp.optim.SGD(
        [{"params": a}, {"params": {"b": b}, "lr": 0.5}, {"params": [c], "weight_decay": 1.0}], lr=0.1
    )
    grads = [np.ones(1), {"b": np.ones(1)}, [np.ones(1)]]
    optimizer.step(grads)
    np.testing.assert_allclose([a[0], b[0], c[0]], [-0.1, -0.5, 0.8])
    optimizer.lr = 1.0
    assert [group.lr for group in optimizer.groups] == [1.0, 0.5, 1.0]
    optimizer.groups[2].lr = 2.0
    optimizer.groups[2].weight_decay = 0.0
    optimizer.lr = 3.0
    assert [group.lr for group in optimizer.groups] == [3.0, 0.5, 2.0]
    optimizer.step(grads)
    np.testing.assert_allclose([a[0], b[0], c[0]], [-3.1, -1.0, -1.2])
    assert optimizer.groups[2].params[0] is c


def test_a_single_group_is_a_list_of_one() -> None:
    x = np.ones(2)
    optimizer = fp.optim.SGD([{"params": x}], lr=1.0)
    optimizer.step([np.ones(2)])
    assert not x.any()
    with pytest.raises(ValueError, match="grads is an array"):
        optimizer.step(np.ones(2))


def test_lr_between_steps() -> None:
    x = np.zeros(1)
    optimizer = fp.optim.SGD(x, lr=1.0)
    optimizer.step(np.ones(1))
    optimizer.lr = 0.25
    optimizer.step(np.ones(1))
    assert x[0] == -1.25
    with pytest.raises(ValueError, match=r"lr is -1\.0; expected a finite number >= 0"):
        optimizer.lr = -1.0
    assert optimizer.lr == 0.25


@each_dtype
@pytest.mark.parametrize(("spec", "options"), OWN_CASES)
def test_threads_and_targets_give_the_same_bits(spec: OptimizerSpec, options: dict[str, Any], dtype: Any) -> None:
    rng = seeded("optimizer bits")
    start, grads = rng.standard_normal(LARGE).astype(dtype), rng.standard_normal((3, LARGE)).astype(dtype)
    grads[:, :100] = rng.choice([0.0, np.nan, np.inf, -np.inf, 1e-40, np.finfo(dtype).max], (3, 100))

    def run(**shared: Any) -> tuple[Any, ...]:
        x = start.copy()
        optimizer = spec.cls(x, **options, **shared)
        for grad in grads:
            optimizer.step(grad)
        return (x, *optimizer.state_dict()["groups"][0]["states"][0].values())

    results = []
    for target in FMA_TARGETS or [fp.build_info()["active_target"]]:
        for threads in (1, 2, 3):
            with fp.simd_target(target), fp.num_threads(threads), np.errstate(all="ignore"):
                results.append(run())
    for other in results[1:]:
        assert_same_bits(other, results[0])


def test_clipping_gives_the_same_bits() -> None:
    rng = seeded("clipped bits")
    start, grad = rng.standard_normal((2, LARGE))
    results = []
    for target in FMA_TARGETS or [fp.build_info()["active_target"]]:
        for threads in (1, 2):
            x = start.copy()
            with fp.simd_target(target), fp.num_threads(threads):
                fp.optim.AdamW(x, max_norm=1.0, l1=0.01).step(grad)
            results.append(x)
    for other in results[1:]:
        assert_same_bits(other, results[0])


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.lists(st.integers(0, 40), max_size=3), min_size=1, max_size=5),
    offset=st.integers(0, 3),
    which=st.integers(0, len(OWN_CASES) - 1),
    wide=st.booleans(),
)
def test_an_entry_does_not_depend_on_where_it_stands(
    sizes: list[list[int]], offset: int, which: int, wide: bool
) -> None:
    """Many arrays of any shapes at any alignment get what their entries get in one flat array."""
    spec, options = OWN_CASES[which].values
    dtype = np.float64 if wide else np.float32
    ends = np.cumsum([math.prod(shape) for shape in sizes])
    rng = seeded(sizes, offset)
    flat, *grads = rng.standard_normal((4, ends[-1])).astype(dtype)

    def cut(x: Any) -> list[Any]:
        parts = []
        for part, shape in zip(np.split(x, ends[:-1]), sizes, strict=True):
            memory = np.full(part.size + offset + 1, 7, dtype)
            memory[offset : offset + part.size] = part
            parts.append(memory[offset : offset + part.size].reshape(shape))
        return parts

    pieces = cut(flat)
    many, one = spec.cls(pieces, **options), spec.cls(flat, **options)
    for grad in grads:
        many.step(cut(grad))
        one.step(grad)
    assert_same_bits(np.concatenate([p.ravel() for p in pieces]), flat)
    for piece in pieces:  # nothing beyond was written
        memory = piece.base
        assert (memory[:offset] == 7).all()
        assert memory[-1] == 7


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fp.optim.SGD(np.ones(3), lr=math.nan), ValueError, "lr is nan"),
        (lambda: fp.optim.SGD(np.ones(3), lr=-1), ValueError, "lr is -1.0; expected a finite number >= 0"),
        (lambda: fp.optim.SGD(np.ones(3), lr="fast"), TypeError, "lr must be a number, found str"),
        (lambda: fp.optim.SGD(np.ones(3), momentum=1.5), ValueError, "momentum is 1.5"),
        (lambda: fp.optim.SGD(np.ones(3), momentum=0.5, dampening=-1), ValueError, "dampening is -1.0"),
        (lambda: fp.optim.SGD(np.ones(3), nesterov=True), ValueError, "nesterov needs momentum > 0"),
        (lambda: fp.optim.SGD(np.ones(3), weight_decay=math.inf), ValueError, "weight_decay is inf"),
        (
            lambda: fp.optim.SGD(np.ones(3), max_norm=0),
            ValueError,
            "max_norm is 0.0; expected a finite number > 0",
        ),
        (lambda: fp.optim.SGD(np.ones(3), l1=-1), ValueError, "l1 is -1.0"),
        (lambda: fp.optim.SGD(np.ones(3), maximize=1), TypeError, "maximize must be a bool"),
        (lambda: fp.optim.SGD(np.ones(3), nonfinite="stop"), ValueError, "nonfinite is 'stop'; expected 'propagate'"),
        (lambda: fp.optim.Adam(np.ones(3), amsgrad="no"), TypeError, "amsgrad must be a bool"),
        (lambda: fp.optim.Adagrad(np.ones(3), initial_accumulator_value=-1), ValueError, "initial_accumulator_value"),
        (lambda: fp.optim.RMSprop(np.ones(3), alpha=1.0), ValueError, "alpha is 1.0"),
        (lambda: fp.optim.RMSprop(np.ones(3), centered=None), TypeError, "centered must be a bool"),
        (lambda: fp.optim.RMSprop(np.ones(3), momentum=-0.1), ValueError, "momentum is -0.1"),
        (lambda: fp.optim.NAdam(np.ones(3), momentum_decay=-1), ValueError, "momentum_decay is -1.0"),
        (lambda: fp.optim.Adadelta(np.ones(3), rho=2), ValueError, "rho is 2.0"),
        (lambda: fp.optim.Lion(np.ones(3), betas=(0.9,)), ValueError, "betas is (0.9,); expected a pair"),
        (lambda: fp.optim.Adam(np.ones(3), betas=(0.9, 1.0)), ValueError, "betas[1] is 1.0"),
        (lambda: fp.optim.Adam(np.ones(3), betas=0.9), ValueError, "betas is 0.9; expected a pair"),
        (lambda: fp.optim.Adam(np.ones(3), eps=-1e-8), ValueError, "eps is -1e-08"),
        (lambda: fp.optim.Adam(np.ones(3), eps_root=-1), ValueError, "eps_root is -1.0"),
        (
            lambda: fp.optim.Adam(np.ones(3, int)),
            TypeError,
            "params has dtype int64; expected float32 or float64",
        ),
        (
            lambda: fp.optim.Adam([np.ones(3), [1.0]]),
            TypeError,
            "params[1] must be a NumPy array, found a list of 1",
        ),
        (
            lambda: fp.optim.Adam({"w": np.ones((3, 4)).T}),
            ValueError,
            "params['w'] has shape (4, 3) and strides",
        ),
        (lambda: fp.optim.Adam(np.ones(6)[::2]), ValueError, "must be C-contiguous"),
        (lambda: fp.optim.Adam(np.broadcast_to(1.0, 1)), ValueError, "params is read-only"),
        (lambda: fp.optim.Adam(np.ones(3, ">f8")), TypeError, "params has dtype >f8"),
        (lambda: fp.optim.Adam([]), ValueError, "params is empty"),
        (lambda: fp.optim.Adam(3.0), TypeError, "params must be a model, an array"),
        (lambda: fp.optim.Adam([{"params": np.ones(3), "rate": 1}]), ValueError, "params[0] has the keys"),
        (lambda: fp.optim.Adam([{"params": np.ones(3), "lr": -1}]), ValueError, "params[0]['lr'] is -1.0"),
        (
            lambda: fp.optim.get("adm", np.ones(3)),
            ValueError,
            "unknown optimizer 'adm'; did you mean 'adam'",
        ),
        (
            lambda: fp.optim.Adam(np.ones(3), lrr=1),
            TypeError,
            "Adam() got an unexpected keyword argument 'lrr'; did you mean 'lr'?",
        ),
        (
            lambda: fp.optim.SGD(np.ones(3), learning_rate=1),
            TypeError,
            "SGD() got an unexpected keyword argument 'learning_rate'; did you mean 'lr'?",
        ),
        (
            lambda: fp.optim.Lion(np.ones(3), epsilon=1),
            TypeError,
            "Lion() got an unexpected keyword argument 'epsilon'; expected some of params, lr, betas, weight_decay, "
            "l1, max_norm, maximize, nonfinite",
        ),
        (
            lambda: fp.optim.get("adamw", np.ones(3), beta_1=0.5),
            TypeError,
            "AdamW() got an unexpected keyword argument 'beta_1'; did you mean 'betas'?",
        ),
    ],
)
def test_construction_errors(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_overlapping_parameters() -> None:
    x = np.ones(10)
    with pytest.raises(ValueError, match=r"params\[0\] and params\[1\] share memory"):
        fp.optim.SGD([x[:6], x[5:]])
    with pytest.raises(ValueError, match="share memory"):
        fp.optim.SGD([{"params": x}, {"params": x}])
    fp.optim.SGD([x[:5], x[5:], x[:0]])


def snapshot(optimizer: fp.optim.Optimizer) -> Any:
    return copy.deepcopy(optimizer.state_dict()), [p.copy() for group in optimizer.groups for p in group.params]


def assert_unchanged(optimizer: fp.optim.Optimizer, before: Any) -> None:
    state, params = before
    np.testing.assert_equal(optimizer.state_dict(), state)
    for found, wanted in zip([p for group in optimizer.groups for p in group.params], params, strict=True):
        assert_same_bits(found, wanted)


@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}])
@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        (
            [np.ones(3), np.ones(2, np.float32)],
            ValueError,
            "grads[1] has shape (2,); expected its parameter's, (4,)",
        ),
        (
            [np.ones(3), np.ones(4)],
            TypeError,
            "grads[1] has dtype float64; expected its parameter's, float32",
        ),
        ([np.ones(3)], ValueError, "grads is a list of 1; expected a list of 2 arrays"),
        ({"a": np.ones(3)}, ValueError, "grads is a dict"),
        (np.ones(3), ValueError, "grads is an array of shape (3,)"),
        ([np.ones(3), [1.0] * 4], TypeError, "grads[1] must be a NumPy array, found list"),
    ],
)
def test_failed_step_changes_nothing(options: dict[str, Any], grads: Any, error: type[Exception], message: str) -> None:
    optimizer = fp.optim.Adam([np.ones(3), np.ones(4, np.float32)], **options)
    good = [np.full(3, 0.5), np.full(4, 0.5, np.float32)]
    optimizer.step(good)
    before = snapshot(optimizer)
    with pytest.raises(error, match=re.escape(message)):
        optimizer.step(grads)
    assert_unchanged(optimizer, before)
    optimizer.step(good)
    assert optimizer.steps == 2


def test_failed_step_of_groups_changes_nothing() -> None:
    optimizer = fp.optim.Adam([{"params": np.ones(3)}, {"params": {"w": np.ones(4)}}])
    optimizer.step([np.ones(3), {"w": np.ones(4)}])
    before = snapshot(optimizer)
    for grads, message in (
        ([np.ones(3), {"w": np.ones(5)}], "grads[1]['w'] has shape (5,)"),
        ([np.ones(3), {"v": np.ones(4)}], "grads[1] is a dict with the keys ['v']"),
        ([np.ones(3)], "grads is a list of 1; expected a list of 2"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            optimizer.step(grads)
        assert_unchanged(optimizer, before)


class Hooked(np.ndarray):  # type: ignore[type-arg]  # any shape and dtype
    """An array whose copies run Python code, once."""

    hook: Any = None

    def __array_finalize__(self, other: Any) -> None:
        if Hooked.hook is not None:
            hook, Hooked.hook = Hooked.hook, None
            hook()


def test_gradients_that_run_python_code_when_copied() -> None:
    a, b = np.zeros((4, 6)), np.zeros(3)
    optimizer = fp.optim.SGD([a, b], lr=1.0)
    unaligned = np.zeros(4 * 6 * 8 + 1, np.uint8)[1:].view(Hooked).view(np.float64).reshape(4, 6)
    unaligned[...] = 1.0
    other = [np.full((4, 6), 10.0), np.full(3, 10.0)]
    for strided in (np.ones((6, 4)).view(Hooked).T, unaligned):
        grads = [strided, np.ones(3)]

        def interfere(grads: list[Any] = grads) -> None:
            grads.clear()
            with pytest.raises(RuntimeError, match="is running"):
                optimizer.step(other)

        a[...] = b[...] = 0.0
        Hooked.hook = interfere
        try:
            optimizer.step(grads)
        finally:
            Hooked.hook = None
        assert (a == -1).all()
        assert (b == -1).all()
    assert optimizer.steps == 2


def test_a_refusal_of_a_later_group_changes_nothing() -> None:
    memory = np.arange(5.0)
    a, b, c = np.ones(3), memory[:-1], np.ones(2)
    optimizer = fp.optim.Adam([{"params": a}, {"params": {"b": b}}, {"params": c}], lr=1.0)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=re.escape("grads[1]['b'] overlaps params[1]['params']['b'] in memory")):
        optimizer.step([np.ones(3), {"b": memory[1:]}, np.ones(2)])
    assert_unchanged(optimizer, before)
    c.flags.writeable = False
    with pytest.raises(ValueError, match=re.escape("params[2]['params'] is read-only")):
        optimizer.step([np.ones(3), {"b": np.ones(4)}, np.ones(2)])
    assert_unchanged(optimizer, before)


def test_a_gradient_is_no_other_parameter() -> None:
    memory = np.ones(12)
    a, b, c = memory[:4], memory[4:8], memory[8:]
    optimizer = fp.optim.SGD([a, b, c], lr=0.5)
    for grads, which, whose in (
        ([b, a, c], 0, 1),
        ([a, b, memory[:4]], 2, 0),
        ([np.ones(4), memory[2:6], np.ones(4)], 1, 0),
        ([memory[::3], np.ones(4), np.ones(4)], 0, 0),
        ([a[::-1], b, c], 0, 0),
    ):
        message = f"grads[{which}] overlaps params[{whose}] in memory"
        with pytest.raises(ValueError, match=re.escape(message)):
            optimizer.step(grads)
        with pytest.raises(ValueError, match=re.escape(f"grads[{which}] overlaps params[{whose}]['params']")):
            fp.optim.SGD([{"params": p} for p in (a, b, c)]).step(grads)
    assert (memory == 1).all()
    optimizer.step([a, b, c])  # each its own
    assert (memory == 0.5).all()
    empty = np.ones((0, 4))
    fp.optim.SGD([a, empty]).step([np.ones(4), memory[4:4].reshape(0, 4)])


# --- interrupts and threads ---------------------------------------------------------------------------------


def interruptible(kind: str) -> tuple[fp.optim.Optimizer, list[F64]]:
    params = [np.zeros(3), np.zeros(3)]
    if kind == "groups":
        return fp.optim.SGD([{"params": p} for p in params], lr=1.0, max_norm=1e9), params
    return fp.optim.SGD(params, lr=1.0, max_norm=1e9 if kind == "clipped" else None), params


@pytest.mark.parametrize("kind", ["one", "groups", "clipped"])
@pytest.mark.parametrize("hook", [sys.settrace, sys.setprofile], ids=lambda hook: hook.__name__)
def test_an_interrupt_tears_no_step_apart(hook: Any, kind: str) -> None:
    """Wherever it comes: at every line, call and return of Python, and around every call of the core."""
    optimizer, params = interruptible(kind)
    grads = [np.ones(3), np.ones(3)]
    before = sys.gettrace() if hook is sys.settrace else sys.getprofile()  # coverage, perhaps
    last, interrupted = 0, True
    while interrupted:
        last, seen = last + 1, 0

        def event(_: Any, kind: str, arg: Any, last: int = last) -> Any:
            nonlocal seen
            if kind == "c_call" and arg is hook:  # the end of it
                return None
            seen += 1
            if seen == last:
                raise KeyboardInterrupt
            return event

        interrupted = False
        try:
            hook(event)
            optimizer.step(grads)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            hook(before)
        for p in params:
            assert (p == -optimizer.steps).all(), last
    assert last > 5
    steps = optimizer.steps
    optimizer.step(grads)
    assert optimizer.steps == steps + 1


class Held(fp.optim.SGD):
    """Waits in the middle of its next step until it is released."""

    __slots__ = ("inside", "release")

    def __init__(self, *args: Any, **options: Any) -> None:
        self.inside, self.release = threading.Event(), threading.Event()
        super().__init__(*args, **options)

    def _clip(self, norm: float, grads: Any) -> float | None:
        self.inside.set()
        assert self.release.wait(60)
        return super()._clip(norm, grads)


@pytest.mark.parametrize("groups", [False, True])
def test_a_running_step_is_alone(groups: bool) -> None:
    x = np.zeros(2)
    optimizer = Held([{"params": x}] if groups else x, lr=1.0, momentum=0.5, max_norm=100.0)
    grads: Any = [np.ones(2)] if groups else np.ones(2)
    state = optimizer.state_dict()
    thread = threading.Thread(target=optimizer.step, args=(grads,))
    thread.start()
    try:
        assert optimizer.inside.wait(60)
        for call in (
            lambda: optimizer.step(grads),
            optimizer.state_dict,
            lambda: optimizer.load_state_dict({**state, "lr": 9.0}),
        ):
            with pytest.raises(RuntimeError, match="a step of this optimizer is running"):
                call()
    finally:
        optimizer.release.set()
        thread.join()
    assert optimizer.lr == 1.0
    assert optimizer.steps == 1
    np.testing.assert_array_equal(x, -1.0)
    optimizer.step(grads)
    assert optimizer.steps == 2


class Overtaken(fp.optim.SGD):
    """Before its next step reaches the core, another one is made."""

    __slots__ = ("overtake",)

    def _numbers(self, step: int) -> tuple[float, ...]:
        if self.overtake:
            self.overtake = False
            self.step([np.ones(2)])
        return super()._numbers(step)


@pytest.mark.parametrize("groups", [False, True])
def test_a_step_that_is_overtaken_is_refused(groups: bool) -> None:
    x = np.zeros(2)
    optimizer = Overtaken([{"params": x}] if groups else [x], lr=1.0)
    optimizer.overtake = True
    with pytest.raises(RuntimeError, match="another step of this optimizer came between"):
        optimizer.step([np.ones(2)])
    assert optimizer.steps == 1
    np.testing.assert_array_equal(x, -1.0)


def test_an_interrupt_leaves_the_product_of_nadam_right() -> None:
    def descend(interrupt: bool) -> F64:
        x = np.ones(2)
        optimizer = fp.optim.NAdam(x, lr=0.1, betas=(0.9, 0.99))
        for at in range(1, 30):
            seen = 0

            def event(*_: Any, at: int = at) -> Any:
                nonlocal seen
                seen += 1
                if seen == at:
                    raise KeyboardInterrupt
                return event

            if interrupt:
                before = sys.gettrace()
                try:
                    sys.settrace(event)
                    optimizer._numbers(optimizer.steps + 1)
                except KeyboardInterrupt:
                    pass
                finally:
                    sys.settrace(before)
            optimizer.step(np.ones(2))
        return x

    assert_same_bits(descend(True), descend(False))


def test_nadam_goes_on_from_a_large_number_of_steps() -> None:
    # Far on, M is nothing beside 1 and mu is beta1: no product of 10^15 factors is needed to say so.
    optimizer = fp.optim.NAdam(np.ones(2))
    optimizer.load_state_dict({**optimizer.state_dict(), "steps": 10**15})
    optimizer.step(np.ones(2))
    assert optimizer.steps == 10**15 + 1
    assert optimizer._numbers(10**6)[5:] == pytest.approx((0.1, 0.9), rel=1e-14)


# --- non-finite gradients -----------------------------------------------------------------------------------


def test_non_finite_gradients_propagate() -> None:
    x = np.zeros(4)
    fp.optim.SGD(x, lr=1.0).step(np.array([np.nan, np.inf, 1.0, -2.0]))
    np.testing.assert_array_equal(x, [np.nan, -np.inf, -1.0, 2.0])
    x = np.zeros(3)
    fp.optim.SGD(x, lr=1.0, max_norm=1.0).step(np.array([np.nan, 1.0, -2.0]))
    assert np.isnan(x).all()
    x = np.zeros(3)
    fp.optim.SGD(x, lr=1.0, max_norm=1.0).step(np.array([np.inf, 1.0, -2.0]))
    np.testing.assert_array_equal(x, [np.nan, 0.0, 0.0])


@each_dtype
@pytest.mark.parametrize(("spec", "options"), OWN_CASES)
def test_a_non_finite_gradient_stays_where_it_is(spec: OptimizerSpec, options: dict[str, Any], dtype: Any) -> None:
    rng = seeded(spec.name, "non-finite")
    x, g = rng.standard_normal((2, 40)).astype(dtype)
    expected, bad = x.copy(), g.copy()
    bad[[3, 17, 38]] = np.nan, np.inf, -np.inf
    spec.cls(x, **options).step(bad)
    spec.cls(expected, **options).step(g)
    rest = np.ones(40, bool)
    rest[[3, 17, 38]] = False
    assert_same_bits(x[rest], expected[rest])
    assert np.isnan(x[3])
    with np.errstate(invalid="ignore"):
        given = {**spec.parameters, **options}
        steps = spec.reference(np.zeros(2), np.array([np.inf, -np.inf]), {}, 1, **given)
    np.testing.assert_array_equal(np.isfinite(x[[17, 38]]), np.isfinite(steps))  # finite where a step is a sign


@each_dtype
def test_subnormal_numbers_are_not_flushed(dtype: Any) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0, 5, -3], dtype) * tiny
    fp.optim.SGD(x, lr=1.0).step(np.array([3, 1, -4], dtype) * tiny)
    np.testing.assert_array_equal(x, np.array([-3, 4, 1], dtype) * tiny)
    x = np.zeros(3, dtype)
    fp.optim.Lion(x, lr=1.0).step(np.array([tiny * 64, -tiny * 64, 0], dtype))
    np.testing.assert_array_equal(x, [-1, 1, 0])


@each_optimizer
def test_zero_gradients_of_zero_parameters_change_nothing(spec: OptimizerSpec) -> None:
    x = np.zeros(20)
    optimizer = spec.cls(x, max_norm=1.0, l1=0.5, nonfinite="raise")
    for _ in range(3):
        optimizer.step(np.zeros(20))
    assert not x.any()


def test_an_infinite_parameter_stays_without_penalties() -> None:
    x = np.array([np.inf, 1.0])
    fp.optim.SGD(x, lr=0.5).step(np.ones(2))
    np.testing.assert_array_equal(x, [np.inf, 0.5])


@pytest.mark.parametrize("kind", ["raise", "skip"])
@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("max_norm", [None, 1.0])
@each_optimizer
def test_nonfinite_leaves_everything_as_it_was(spec: OptimizerSpec, max_norm: Any, groups: bool, kind: Any) -> None:
    a, b = np.ones((2, 3)), np.ones(4, np.float32)
    params: Any = [{"params": a}, {"params": {"b": b}}] if groups else {"a": a, "b": b}

    def arranged(x: Any, y: Any) -> Any:
        return [x, {"b": y}] if groups else {"a": x, "b": y}

    optimizer = spec.cls(params, max_norm=max_norm, nonfinite=kind)
    good = arranged(np.full((2, 3), 0.5), np.full(4, 0.25, np.float32))
    optimizer.step(good)
    before = snapshot(optimizer)
    for count, value in enumerate((np.nan, np.inf, -np.inf), start=1):
        bad = np.full((2, 3), 0.5)
        bad[1, 2] = value
        in_b = np.full(4, 0.25, np.float32)
        in_b[3] = value
        if kind == "skip":
            optimizer.step(arranged(bad, good[1]["b"] if groups else good["b"]))
            optimizer.step(arranged(good[0] if groups else good["a"], in_b))
            assert optimizer.skipped == 2 * count
        else:
            first = "grads[0]" if groups else "grads['a']"
            message = f"{first}[1, 2] is {float(value)!r}; expected finite gradients"
            with pytest.raises(FloatingPointError, match=re.escape(message)):
                optimizer.step(arranged(bad, in_b))
            second = "grads[1]['b']" if groups else "grads['b']"
            with pytest.raises(FloatingPointError, match=re.escape(f"{second}[3] is {float(value)!r}")):
                optimizer.step(arranged(good[0] if groups else good["a"], in_b))
        assert_unchanged(optimizer, before)
    optimizer.step(good)
    assert optimizer.steps == 2


@pytest.mark.parametrize("groups", [False, True])
def test_gradients_whose_squares_overflow_are_finite(groups: bool) -> None:
    x = np.zeros(2)
    optimizer = fp.optim.SGD([{"params": x}] if groups else x, lr=1.0, max_norm=1.0, nonfinite="raise")
    g = np.array([3e200, -4e200])
    optimizer.step([g] if groups else g)
    np.testing.assert_allclose(x, [-0.6, 0.8], rtol=1e-15)
    assert fp.optim.clip_grad_norm(g, math.inf) == pytest.approx(5e200, rel=1e-15)
    assert fp.optim.clip_grad_norm(np.array([3e-200, 4e-200]), 1.0) == pytest.approx(5e-200, rel=1e-15)
    limit = np.full(4, np.finfo(np.float64).max)
    optimizer.step([limit[:2]] if groups else limit[:2])  # beyond float64 is the norm alone
    assert optimizer.steps == 2
    np.testing.assert_allclose(x, np.array([-0.6, 0.8]) - math.sqrt(0.5), rtol=0, atol=1e-15)
    assert fp.optim.clip_grad_norm(limit, 1.0) == math.inf
    np.testing.assert_allclose(limit, 0.5, rtol=1e-14)


# --- penalties ----------------------------------------------------------------------------------------------


def test_groups_have_penalties_of_their_own() -> None:
    a, b = np.array([2.0, -2.0, 0.0]), np.array([2.0, -2.0])
    optimizer = fp.optim.SGD([{"params": a, "l1": 0.5}, {"params": b, "l1": 0.0}], lr=1.0, weight_decay=0.25, l1=9.0)
    optimizer.step([np.zeros(3), np.zeros(2)])
    np.testing.assert_allclose(a, [1.0, -1.0, 0.0])
    np.testing.assert_allclose(b, [1.5, -1.5])
    optimizer.groups[1].l1 = 1.0
    optimizer.groups[1].weight_decay = 0.0
    optimizer.step([np.zeros(3), np.zeros(2)])
    np.testing.assert_allclose(b, [0.5, -0.5])
    with pytest.raises(ValueError, match=r"l1 is -1\.0"):
        optimizer.groups[0].l1 = -1.0
    with pytest.raises(ValueError, match=r"params\[0\]\['l1'\] is nan"):
        fp.optim.SGD([{"params": a, "l1": math.nan}])


def test_decoupled_decay_of_groups() -> None:
    a, b = np.ones(1), np.ones(1)
    optimizer = fp.optim.AdamW([{"params": a, "lr": 0.5, "weight_decay": 0.5}, {"params": b}], lr=0.1, weight_decay=1.0)
    optimizer.step([np.zeros(1), np.zeros(1)])
    np.testing.assert_allclose([a[0], b[0]], [0.75, 0.9])


@each_optimizer
def test_groups_take_the_path_of_one(spec: OptimizerSpec) -> None:
    rng = seeded(spec.name, "groups")
    x, y = rng.standard_normal(5), rng.standard_normal((2, 3))
    one, two = [x.copy(), y.copy()], [x.copy(), y.copy()]
    single = spec.cls(one, weight_decay=0.1)
    grouped = spec.cls([{"params": two[0]}, {"params": two[1]}], weight_decay=0.1)
    for _ in range(4):
        gx, gy = rng.standard_normal(5), rng.standard_normal((2, 3))
        single.step([gx, gy])
        grouped.step([gx, gy])
    assert_same_bits(tuple(two), tuple(one))


# --- state --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "options"), OWN_CASES)
def test_state_goes_on_exactly(spec: OptimizerSpec, options: dict[str, Any]) -> None:
    params, grads = problem(6)
    optimizer = spec.cls(params, **options)
    for step in grads[:3]:
        optimizer.step(step)
    optimizer.lr = 0.002
    others = [p.copy() for p in params]
    state = optimizer.state_dict()
    kept = copy.deepcopy(state)
    resumed = spec.cls(others, **{**options, "lr": 0.5})
    resumed.step(grads[5])
    for p, q in zip(others, params, strict=True):
        p[...] = q
    resumed.load_state_dict(state)
    assert resumed.steps == 3
    assert resumed.lr == 0.002
    for step in grads[3:]:
        optimizer.step(step)
        resumed.step(step)
    assert_same_bits(tuple(others), tuple(params))
    np.testing.assert_equal(state, kept)  # copies, which later steps leave alone


def test_weight_decay_is_kept_as_the_rate_is() -> None:
    optimizer = fp.optim.AdamW([{"params": np.ones(1)}, {"params": np.ones(1), "weight_decay": 0.5}], weight_decay=0.3)
    optimizer.weight_decay = 0.2
    assert [group.weight_decay for group in optimizer.groups] == [0.2, 0.5]
    resumed = fp.optim.AdamW([{"params": np.ones(1)}, {"params": np.ones(1)}], weight_decay=0.0)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.weight_decay == 0.2
    resumed.weight_decay = 0.1
    assert [group.weight_decay for group in resumed.groups] == [0.1, 0.5]
    resumed.groups[0].weight_decay = 0.4
    resumed.weight_decay = 0.0
    assert [group.weight_decay for group in resumed.groups] == [0.4, 0.5]
    x = np.ones(1)
    optimizer = fp.optim.AdamW(x, lr=0.5, weight_decay=0.0)
    optimizer.weight_decay = 0.5
    optimizer.step(np.zeros(1))
    assert x[0] == 0.75
    with pytest.raises(ValueError, match=r"weight_decay is -1\.0"):
        optimizer.weight_decay = -1
    assert optimizer.weight_decay == 0.5


def test_state_of_nadam_may_go_back() -> None:
    x, y = np.ones(3), np.ones(3)
    a, b = fp.optim.NAdam(x), fp.optim.NAdam(y)
    start = a.state_dict()
    for _ in range(5):
        a.step(np.ones(3))
    a.load_state_dict(start)
    x[...] = 1.0
    for _ in range(2):
        a.step(np.full(3, 2.0))
        b.step(np.full(3, 2.0))
    assert_same_bits(x, y)


def test_state_of_another_kind_is_refused() -> None:
    adam = fp.optim.Adam([np.ones(3), np.ones(4)])
    adam.step([np.ones(3), np.ones(4)])
    before = snapshot(adam)
    good = adam.state_dict()

    def changed(change: Any) -> dict[str, Any]:
        state = copy.deepcopy(good)
        change(state)
        return state

    def set_moment(state: dict[str, Any], value: Any) -> None:
        state["groups"][0]["states"][1]["second_moment"] = value

    for state, error, message in (
        (fp.optim.SGD(np.ones(3)).state_dict(), ValueError, "state is one of SGD; expected one of Adam"),
        (fp.optim.Adam([np.ones(3)]).state_dict(), ValueError, "1 entries; expected one for each of the 2"),
        (fp.optim.Adam([np.ones(3), np.ones(5)]).state_dict(), ValueError, "an array of shape (4,)"),
        (fp.optim.Adam([np.ones(3), np.ones(4, np.float32)]).state_dict(), ValueError, "dtype float32"),
        (fp.optim.Adam([np.ones(3), np.ones(4)], eps=1e-6).state_dict(), ValueError, "state has eps=1e-06"),
        (changed(lambda s: s.update(steps=-1)), ValueError, "state['steps'] is -1"),
        (changed(lambda s: s.update(lr=math.inf)), ValueError, "state['lr'] is inf"),
        (changed(lambda s: set_moment(s, np.ones(9))), ValueError, "['states'][1]['second_moment']"),
        (changed(lambda s: s.update(groups=[])), ValueError, "state has 0 groups; expected 1"),
        (changed(lambda s: s.update(steps=2**60)), ValueError, "state['steps'] is 1152921504606846976"),
        (changed(lambda s: s.update(weight_decay=-1)), ValueError, "state['weight_decay'] is -1.0"),
        (3, TypeError, "state must be a dict, what state_dict returned, found an object of type int"),
        ({}, ValueError, "state does not fit: missing are ['optimizer', 'options', 'steps', 'lr', 'weight_decay', "),
        (changed(lambda s: s["options"].clear()), ValueError, "state['options'] does not fit: missing are ["),
        (
            changed(lambda s: s["groups"][0].pop("l1")),
            ValueError,
            "state['groups'][0] does not fit: missing are ['l1']",
        ),
        (changed(lambda s: s["groups"][0]["states"][1].clear()), ValueError, "['states'][1] does not fit: missing are"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            adam.load_state_dict(state)
        assert_unchanged(adam, before)


# --- clipping -----------------------------------------------------------------------------------------------


@each_dtype
def test_clip_grad_norm(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal((5, 3)).astype(dtype), rng.standard_normal((4, 6)).astype(dtype)[:, ::2]]
    original = [g.astype(np.float64) for g in grads]
    norm = math.sqrt(sum(float((g**2).sum()) for g in original))
    assert fp.optim.clip_grad_norm(grads, math.inf) == pytest.approx(norm, rel=1e-14)
    assert fp.optim.clip_grad_norm(grads, 2 * norm) == pytest.approx(norm, rel=1e-14)
    for found, wanted in zip(grads, original, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert fp.optim.clip_grad_norm({"a": grads[0], "b": grads[1]}, 0.5) == pytest.approx(norm, rel=1e-14)
    for found, wanted in zip(grads, original, strict=True):
        np.testing.assert_allclose(found, wanted * (0.5 / norm), rtol=4 * np.finfo(dtype).eps)
    network = model()
    network.flat_gradients[:] = 1.0
    fp.optim.clip_grad_norm(network, 1.0)
    assert np.linalg.norm(network.flat_gradients) == pytest.approx(1.0)


def test_clip_grad_norm_does_not_overflow() -> None:
    grads = np.full(4, 1e30, np.float32)
    assert fp.optim.clip_grad_norm(grads, 1.0) == pytest.approx(2e30)
    np.testing.assert_allclose(grads, 0.5, rtol=1e-6)


def test_clip_grad_norm_of_non_finite() -> None:
    grads = np.array([1.0, np.nan])
    assert math.isnan(fp.optim.clip_grad_norm(grads, 1.0))
    assert np.isnan(grads).all()
    assert fp.optim.clip_grad_norm([], 1.0) == 0.0


def test_measuring_changes_nothing() -> None:
    grads = np.array([1.0, np.nan])
    for limit in (math.inf, np.float32(np.inf)):
        assert math.isnan(fp.optim.clip_grad_norm(grads, limit))
    np.testing.assert_array_equal(grads, [1.0, np.nan])


def test_clipping_of_large_float32_does_not_underflow() -> None:
    for max_norm in (1e-7, 1e-20, 1e-43):
        # Half a unit of the result, and the rounding of the factors.
        wanted, unit = -max_norm / 2, float(np.finfo(np.float32).smallest_subnormal)
        tolerance = max_norm * 4 * 2.0**-24 + unit
        grads, x = np.full(4, 3e38, np.float32), np.zeros(4, np.float32)
        fp.optim.SGD(x, lr=1.0, max_norm=max_norm).step(grads)
        np.testing.assert_allclose(x, wanted, rtol=0, atol=tolerance)
        fp.optim.clip_grad_norm(grads, max_norm)
        np.testing.assert_allclose(grads, -wanted, rtol=0, atol=tolerance)


def test_norm_of_mixed_dtypes() -> None:
    grads: list[Any] = [np.ones(3, np.float32), np.full(4, 1e300)]
    assert fp.optim.clip_grad_norm(grads, 1.0) == pytest.approx(2e300, rel=1e-15)
    np.testing.assert_allclose(grads[1], 0.5, rtol=1e-15)
    # A NaN is found wherever it stands.
    for grads in ([np.array([np.nan], np.float32), np.full(4, 1e300)], [np.full(4, 1e300), np.array([np.nan])]):
        assert math.isnan(fp.optim.clip_grad_norm(grads, 1.0))


def test_clip_grad_value() -> None:
    grads = {"a": np.array([-3.0, 0.1, np.nan]), "b": np.array([[2.0, -np.inf]], np.float32)}
    fp.optim.clip_grad_value(grads, 0.5)
    np.testing.assert_array_equal(grads["a"], [-0.5, 0.1, np.nan])
    np.testing.assert_array_equal(grads["b"], [[0.5, -0.5]])


def test_clip_weights() -> None:
    network = model()
    network.flat_parameters[:3] = 5.0, -5.0, 0.005
    gradients = network.flat_gradients.copy()
    fp.optim.clip_weights(network, 0.01)
    assert np.abs(network.flat_parameters).max() == 0.01
    assert network.flat_parameters[:3].tolist() == [0.01, -0.01, 0.005]
    np.testing.assert_array_equal(network.flat_gradients, gradients)
    weights = {"a": np.array([2.0, np.nan]), "b": np.full((3, 4), -2.0, np.float32)[:, ::2]}
    fp.optim.clip_weights(weights, 1.0)
    np.testing.assert_array_equal(weights["a"], [1.0, np.nan])
    np.testing.assert_array_equal(weights["b"], -1)
    with pytest.raises(ValueError, match=r"value is 0\.0"):
        fp.optim.clip_weights(weights, 0)
    with pytest.raises(ValueError, match="params is read-only"):
        fp.optim.clip_weights(np.broadcast_to(1.0, 3), 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fp.optim.clip_grad_norm(np.ones(3), 0), ValueError, "max_norm is 0.0"),
        (lambda: fp.optim.clip_grad_norm(np.ones(3), math.nan), ValueError, "max_norm is nan"),
        (
            lambda: fp.optim.clip_grad_norm([np.ones(3, int)], 1),
            TypeError,
            "grads[0] is an array of shape (3,)",
        ),
        (lambda: fp.optim.clip_grad_norm({"a": np.ones(3, int)}, 1), TypeError, "grads['a'] is an array of shape (3,)"),
        (lambda: fp.optim.clip_grad_norm(np.broadcast_to(1.0, 3), 1), ValueError, "grads is read-only"),
        (lambda: fp.optim.clip_grad_norm(None, 1), TypeError, "grads must be a model, an array"),
        (lambda: fp.optim.clip_grad_norm(np.ones(3), np.ones(2)), TypeError, "max_norm must be a number, found nd"),
        (lambda: fp.optim.clip_grad_value(np.ones(3), -1), ValueError, "value is -1.0"),
    ],
)
def test_clip_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_gradient_that_overlaps_its_parameter() -> None:
    memory = np.arange(65, dtype=np.float32)
    before = memory.copy()
    optimizer = fp.optim.SGD(memory[1:], lr=1.0)
    with pytest.raises(ValueError, match="grads overlaps params in memory"):
        optimizer.step(memory[:-1])
    np.testing.assert_array_equal(memory, before)
    optimizer.step(memory[1:])  # the same elements are allowed
    np.testing.assert_array_equal(memory[1:], 0)


def test_parameter_that_became_read_only() -> None:
    parameter = np.ones(4, np.float32)
    optimizer = fp.optim.SGD(parameter, lr=1.0)
    parameter.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optimizer.step(np.ones(4, np.float32))
    np.testing.assert_array_equal(parameter, 1)


def test_parameters_that_share_memory_around_an_empty_one() -> None:
    memory = np.zeros(100)
    empty = np.lib.stride_tricks.as_strided(memory[50:51], (0,), (8,))
    with pytest.raises(ValueError, match="share memory"):
        fp.optim.SGD([memory, empty, memory[60:70]])


def test_hyper_parameters_beyond_float32() -> None:
    parameter = np.ones(4, np.float32)
    fp.optim.Adam(parameter, eps=1e-50).step(np.zeros(4, np.float32))
    np.testing.assert_array_equal(parameter, 1)


def test_byte_swapped_gradient_is_refused() -> None:
    parameter = np.ones(4, np.float32)
    with pytest.raises(TypeError, match="dtype >f4"):
        fp.optim.SGD(parameter).step(np.ones(4, ">f4"))


# --- arrays that change after they were bound ---------------------------------------------------------------


def resized(p: Array) -> None:
    p.resize(4, refcheck=False)


def grown(p: Array) -> None:
    p.resize(1 << 21, refcheck=False)


def with_dtype(p: Array) -> None:
    p.dtype = np.float32 if p.dtype == np.float64 else np.float64  # type: ignore[misc]  # the fault


def byte_swapped(p: Array) -> None:
    p.dtype = p.dtype.newbyteorder()  # type: ignore[misc]  # the fault


def with_shape(p: Array) -> None:
    p.shape = (-1, 4)  # type: ignore[misc]  # the fault


def frozen(p: Array) -> None:
    p.flags.writeable = False


CHANGES = [
    (resized, "has got shape (4,); expected (65536,), as it was bound"),
    (grown, "has got shape (2097152,); expected (65536,), as it was bound"),
    (with_dtype, "has got dtype"),
    (byte_swapped, "has got dtype"),
    (with_shape, "has got shape (16384, 4); expected (65536,), as it was bound"),
    (frozen, "is read-only; it is updated in place"),
]


#: NumPy's advice against most of these changes; they go on to be possible.
changes = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@changes
@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}, {"nonfinite": "skip"}], ids=str)
@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
@pytest.mark.parametrize("own_gradient", [False, True])
@each_dtype
def test_a_parameter_that_was_changed_in_place(
    dtype: Any, own_gradient: bool, change: Any, message: str, options: dict[str, Any]
) -> None:
    """It is refused by name, before the states or another parameter are written."""
    first, p = np.ones(5, dtype), np.ones(1 << 16, dtype)
    optimizer = fp.optim.Adam({"first": first, "p": p}, **options)
    optimizer.step({"first": first.copy(), "p": p.copy()})
    change(p)
    state, values = optimizer.state_dict(), first.copy()
    grad = p if own_gradient else np.ones(p.shape, p.dtype)
    with pytest.raises(ValueError, match=re.escape(f"params['p'] {message}")):
        optimizer.step({"first": first.copy(), "p": grad})
    np.testing.assert_equal(optimizer.state_dict(), state)
    assert_same_bits(first, values)


@changes
def test_a_parameter_whose_strides_were_set() -> None:
    p = np.ones((3, 3))
    optimizer = fp.optim.SGD(p)
    p.strides = p.strides[::-1]  # type: ignore[misc]  # the fault
    with pytest.raises(ValueError, match="params is not C-contiguous any more; expected the strides"):
        optimizer.step(np.ones((3, 3)))


def test_a_parameter_whose_memory_moved() -> None:
    p = np.ones(8)
    optimizer, address = fp.optim.SGD(p, lr=1.0), p.ctypes.data
    p.resize(1 << 22, refcheck=False)
    others = [np.full(8, 3.0) for _ in range(100)]  # where it was
    p.resize(8, refcheck=False)
    assert p.ctypes.data != address
    with pytest.raises(ValueError, match=r"params lies at 0x\w+ in memory; expected 0x\w+, as it was bound"):
        optimizer.step(np.ones(8))
    assert all((other == 3.0).all() for other in others)


@pytest.mark.parametrize("size", [4, 1 << 20])
def test_the_owner_of_a_parameter_was_resized(size: int) -> None:
    memory = np.ones(1 << 16)
    own, views = np.ones(3), {"a": memory[:100], "b": memory[100:].reshape(-1, 4)}
    optimizer = fp.optim.Adam({"own": own, **views})
    memory.resize(size, refcheck=False)
    grads = {"own": np.ones(3), "a": np.ones(100), "b": np.ones((16359, 4))}
    with pytest.raises(ValueError, match=r"params\['a'\] is a view of an array that has been resized: \d+ bytes, exp"):
        optimizer.step(grads)
    assert (own == 1).all()


@pytest.mark.parametrize("which", ["parameter", "gradient", "owner"])
def test_an_array_that_is_resized_while_the_norm_is_looked_at(which: str) -> None:
    """Python code runs between the checks and the update: for gradients whose squares overflow, NumPy's."""
    memory = np.ones(1 << 16)
    arrays = {"parameter": np.ones(1 << 16), "gradient": np.full(1 << 16, 1e200), "owner": memory}
    params = [arrays["parameter"], memory[:-1]]

    class Resizing(fp.optim.SGD):
        def _clip(self, norm: float, grads: Any) -> float | None:
            arrays[which].resize(3, refcheck=False)
            return 1.0

    optimizer = Resizing(params, max_norm=1.0)
    before = params[0].copy()
    with pytest.raises(ValueError, match=r"(has got shape|was resized during the step|has been resized)"):
        optimizer.step([arrays["gradient"], np.ones((1 << 16) - 1)])
    assert optimizer.steps == 0
    assert_same_bits(params[0], before[: params[0].size])


@changes
def test_the_arrays_of_a_model_cannot_be_changed_unseen() -> None:
    for change, message in CHANGES[2:]:
        model = fp.nn.Sequential([fp.nn.Dense(4, 8), fp.nn.BatchNorm(8), fp.nn.Dense(8, 4)], rng=0)
        optimizer = fp.optim.Adam(model, lr=0.1)
        x, y = np.ones((6, 4), np.float32), np.zeros(6, int)
        model.train_step(x, y, "softmax_cross_entropy", optimizer)
        change(model.flat_parameters)
        with pytest.raises(ValueError, match="params " + re.escape(message.split(" (")[0])):
            optimizer.step(np.ones(model.flat_parameters.shape, model.flat_parameters.dtype))
        for array in (model.flat_parameters, model.flat_gradients, *model.parameters().values()):
            with pytest.raises(ValueError, match="does not own its data"):
                array.resize(2, refcheck=False)


def test_an_input_that_is_resized_before_the_backward_pass() -> None:
    model = fp.nn.Sequential([fp.nn.Dense(256, 8)], rng=0)
    x = np.ones((1024, 256), np.float32)
    dy = np.ones_like(model(x, training=True))
    x.resize((2, 256), refcheck=False)
    gradients = model.flat_gradients.copy()
    with pytest.raises(ValueError, match=r"x of the forward pass .* shape \(2, 256\) .*expected shape \(1024, 256\)"):
        model.backward(dy)
    assert_same_bits(model.flat_gradients, gradients)


def test_lbfgs_of_a_parameter_that_is_resized() -> None:
    p, q = np.ones(8), np.ones(2)

    def value_and_grad() -> Any:
        p.resize(4, refcheck=False)
        return 0.0, [np.ones(4), np.ones(2)]

    pytest.importorskip("scipy")
    with pytest.raises(ValueError, match=re.escape("params[0] has got shape (4,); expected (8,)")):
        fp.optim.lbfgs([p, q], value_and_grad)
    assert (q == 1).all()


# --- gradients that are given twice -------------------------------------------------------------------------


@each_dtype
def test_clip_grad_norm_counts_no_entry_twice(dtype: Any) -> None:
    memory = np.arange(1.0, 25.0).astype(dtype)
    square = memory[:16].reshape(4, 4)
    other = np.ones(3, dtype)
    for grads, message in (
        ([other, memory, memory], "grads[1] and grads[2] share memory; expected each gradient once"),
        ([memory[10:], other, memory[:11]], "grads[0] and grads[2] share memory"),
        ({"a": memory, "b": other, "c": memory[::-1]}, "grads[0] and grads[2] share memory"),
        ([memory[::2], memory[4::3]], "grads[0] and grads[1] share memory"),
        ([square[:, :3], square[:, 2:]], "grads[0] and grads[1] share memory"),
        ([square.T, other, square[1]], "grads[0] and grads[2] share memory"),
        ([square[:, 1], square[2]], "grads[0] and grads[1] share memory"),
    ):
        kept = memory.copy()
        with pytest.raises(ValueError, match=re.escape(message)):
            fp.optim.clip_grad_norm(grads, 1.0)
        assert_same_bits(memory, kept)
    for grads in (
        [memory[:10], memory[10:], memory[3:3], memory[5:5]],
        [memory[::2], memory[1::2]],
        [square[:, :2], square[:, 2:], memory[16:]],
        [square[::-1, 0], square[:, 1], square[:, 2:], memory[16:]],
        [*square.T, memory[16:]],
    ):
        memory[...] = np.arange(1.0, 25.0)
        assert fp.optim.clip_grad_norm(grads, 7.0) == pytest.approx(70.0)
        np.testing.assert_allclose(memory, np.arange(1.0, 25.0) / 10, rtol=1e-6)


def test_clip_grad_norm_of_a_model_s_gradients_and_their_views() -> None:
    model = fp.nn.Sequential([fp.nn.Dense(3, 4), fp.nn.Dense(4, 2)], rng=0)
    model.flat_gradients[...] = 1.0
    with pytest.raises(ValueError, match=r"grads\[0\] and grads\[2\] share memory"):
        fp.optim.clip_grad_norm([model.flat_gradients, np.ones(2), model.gradients()["1.bias"]], 1.0)
    assert fp.optim.clip_grad_norm(model.gradients(), 1.0) == pytest.approx(26**0.5)


def test_clipping_entries_twice_is_clipping_them_once() -> None:
    memory = np.linspace(-3, 3, 7)
    fp.optim.clip_grad_value([memory, memory[2:], memory], 2.0)
    np.testing.assert_array_equal(memory, [-2, -2, -1, 0, 1, 2, 2])
    fp.optim.clip_weights([memory, memory], 1.0)
    np.testing.assert_array_equal(memory, [-1, -1, -1, 0, 1, 1, 1])


# --- copies -------------------------------------------------------------------------------------------------


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def pickled_out_of_band(value: Any) -> Any:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, 5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytearray(buffer) for buffer in buffers])


each_copy = pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled, pickled_out_of_band])


@each_copy
@pytest.mark.parametrize(("spec", "options"), OWN_CASES)
def test_a_copy_of_arrays_and_optimizer_goes_on_exactly(
    spec: OptimizerSpec, options: dict[str, Any], duplicate: Callable[[Any], Any]
) -> None:
    rng = seeded("copies", spec.name)
    params = {"a": rng.standard_normal((3, 5)), "b": rng.standard_normal(7).astype(np.float32)}
    steps = [{name: rng.standard_normal(p.shape).astype(p.dtype) for name, p in params.items()} for _ in range(4)]
    optimizer = spec.cls(params, **options, l1=1e-3, max_norm=3.0, nonfinite="skip")
    optimizer.step(steps[0])
    optimizer.step(dict.fromkeys(params, np.full(7, np.nan, np.float32)) | {"a": np.full((3, 5), np.nan)})
    optimizer.step(steps[1])
    optimizer.lr *= 0.5
    again, twin = duplicate((params, optimizer))
    assert type(twin) is type(optimizer)
    assert repr(twin) == repr(optimizer)
    assert (twin.steps, twin.skipped) == (2, 1)
    np.testing.assert_equal(twin.state_dict(), optimizer.state_dict())
    assert all(found is p for found, p in zip(twin.groups[0].params, again.values(), strict=True))
    kept = {name: p.copy() for name, p in params.items()}
    for grads in steps[2:]:
        twin.step(grads)
    assert_same_bits(params, kept)  # the twin's are its own
    for grads in steps[2:]:
        optimizer.step(grads)
    assert_same_bits(dict(again), params)
    np.testing.assert_equal(twin.state_dict(), optimizer.state_dict())
    duplicate(twin).step(steps[0])  # the copy of a copy


@each_copy
@each_optimizer
def test_a_copy_of_model_and_optimizer_trains_on(spec: OptimizerSpec, duplicate: Callable[[Any], Any]) -> None:
    model = fp.nn.Sequential([fp.nn.Dense(4, 8), fp.nn.BatchNorm(8), fp.nn.Dense(8, 3)], rng=0)
    optimizer = spec.cls(model)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 4)).astype(np.float32), rng.integers(0, 3, 16)
    model.train_step(x, y, "softmax_cross_entropy", optimizer)
    for order in (1, -1):
        both = duplicate([model, optimizer][::order])[::order]
        assert both[1].groups[0].params[0] is both[0].flat_parameters
        expected = copy.deepcopy(model)
        saved = spec.cls(expected)
        saved.load_state_dict(optimizer.state_dict())
        for m, o in (both, (expected, saved)):
            for _ in range(3):
                m.train_step(x, y, "softmax_cross_entropy", o)
        assert_same_bits(both[0].state_dict(), expected.state_dict())


@each_copy
def test_copies_of_groups(duplicate: Callable[[Any], Any]) -> None:
    model = fp.nn.Sequential([fp.nn.Dense(4, 3)], rng=0)
    arrays = [np.ones(3), np.ones(2)]
    optimizer = fp.optim.AdamW(
        [{"params": model, "lr": 0.5, "l1": 0.1}, {"params": arrays, "weight_decay": 0.25}, {"params": np.ones(1)}],
        lr=0.125,
    )
    optimizer.groups[2].l1 = 0.75
    grads = [np.ones(15, np.float32), [np.ones(3), np.ones(2)], np.ones(1)]
    optimizer.step(grads)
    model_again, arrays_again, twin = duplicate((model, arrays, optimizer))
    assert [repr(group) for group in twin.groups] == [repr(group) for group in optimizer.groups]
    assert twin.groups[0].params[0] is model_again.flat_parameters
    assert all(found is p for found, p in zip(twin.groups[1].params, arrays_again, strict=True))
    twin.lr = optimizer.lr = 1.0
    assert [group.lr for group in twin.groups] == [0.5, 1.0, 1.0]
    twin.step(grads)
    optimizer.step(grads)
    assert_same_bits(model_again.flat_parameters, model.flat_parameters)
    assert_same_bits(tuple(arrays_again), tuple(arrays))


@each_copy
def test_a_copy_of_an_optimizer_alone_has_arrays_of_its_own(duplicate: Callable[[Any], Any]) -> None:
    p = np.ones(3)
    optimizer = fp.optim.SGD(p, lr=1.0)
    twin = duplicate(optimizer)
    twin.step(np.ones(3))
    assert (p == 1).all()
    assert (twin.groups[0].params[0] == 0).all()


def test_a_shallow_copy_is_another_optimizer_for_the_same_arrays() -> None:
    p = np.ones(3)
    optimizer = fp.optim.SGD(p, lr=1.0, momentum=0.5)
    optimizer.step(np.ones(3))
    twin = copy.copy(optimizer)
    twin.step(np.ones(3))
    assert (p == -1.5).all()
    assert (optimizer.steps, twin.steps) == (1, 2)


@each_copy
def test_copies_that_would_be_bound_to_something_else_are_refused(duplicate: Callable[[Any], Any]) -> None:
    model = fp.nn.Sequential([fp.nn.Dense(4, 3)], rng=0)
    memory = np.ones(9)
    for params, message in (
        (model.flat_parameters, "params is a view of a model's parameters, .* for the model itself, or keep its state"),
        (model.parameters(), r"params\['0.weight'\] is a view of a model's parameters"),
        ([np.ones(2), memory[:4]], r"params\[1\] is a view of another array, .*\.copy\(\)\), or keep its state_dict"),
        ([{"params": [memory.reshape(3, 3)]}], r"params\[0\]\['params'\]\[0\] is a view of another array"),
    ):
        with pytest.raises(TypeError, match=message):
            duplicate(fp.optim.Adam(params))  # type: ignore[arg-type]  # of several kinds
    optimizer = fp.optim.Adam(memory)
    memory.resize(4, refcheck=False)
    with pytest.raises(ValueError, match=re.escape("params has got shape (4,); expected (9,)")):
        duplicate(optimizer)


class Named(fp.optim.SGD):
    """A subclass with an attribute of its own."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self.name = "new"


@each_copy
def test_copies_of_a_user_s_subclass(duplicate: Callable[[Any], Any]) -> None:
    optimizer = Named(np.ones(3), momentum=0.5)
    optimizer.name = "mine"
    optimizer.step(np.ones(3))
    twin = duplicate(optimizer)
    assert (type(twin), twin.name, twin.momentum, twin.steps) == (Named, "mine", 0.5, 1)
