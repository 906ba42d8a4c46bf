"""Optimizers: against formulas written here in float64, against PyTorch, and what they refuse."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import numpy as np
import pytest
from helpers import assert_same_bits, each_dtype
from numpy.typing import NDArray

import fuseprop as fp
from fuseprop import nn

F64 = NDArray[np.float64]

SGD_OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.3},
    {"lr": 0.05, "momentum": 0.9},
    {"lr": 0.05, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.01},
    {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    {"lr": 0.05, "momentum": 0.8, "nesterov": True, "maximize": True, "weight_decay": 0.01},
]
ADAM_OPTIONS: list[dict[str, Any]] = [
    {},
    {"lr": 0.02, "betas": (0.7, 0.9), "eps": 1e-3},
    {"lr": 0.02, "weight_decay": 0.1},
    {"lr": 0.02, "betas": (0.0, 0.5), "maximize": True},
]
ALL_OPTIONS = [
    *[pytest.param("sgd", options, id=f"sgd-{i}") for i, options in enumerate(SGD_OPTIONS)],
    *[pytest.param("adam", options, id=f"adam-{i}") for i, options in enumerate(ADAM_OPTIONS)],
    pytest.param("adam", {"lr": 0.02, "eps": 0.0, "eps_root": 1e-4}, id="adam-eps_root"),
    pytest.param("adam", {"lr": 0.02, "max_norm": 0.5}, id="adam-max_norm"),
    pytest.param("sgd", {"lr": 0.1, "max_norm": 0.5, "maximize": True}, id="sgd-max_norm"),
]
SHAPES = [(3, 4), (5,), (), (0, 2), (7, 130)]


def problem(steps: int = 30, dtype: Any = np.float64) -> tuple[list[F64], list[list[F64]]]:
    """Parameters and the gradients of some steps."""
    rng = np.random.default_rng(0)
    params = [np.asarray(rng.standard_normal(shape), dtype) for shape in SHAPES]
    grads = [[np.asarray(rng.standard_normal(s) * rng.choice([0.1, 3]), dtype) for s in SHAPES] for _ in range(steps)]
    return params, grads


def formula(
    name: str,
    p: F64,
    grads: list[F64],
    *,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    eps_root: float = 0.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> F64:
    """The parameter at the end, from the formulas of SPEC 4; clipping is left to the caller."""
    p = p.copy()
    u, m, v = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for t, grad in enumerate(grads, start=1):
        g = (-grad if maximize else grad) + weight_decay * p
        if name == "sgd":
            u = g if t == 1 else momentum * u + (1 - dampening) * g
            p = p - lr * (g + momentum * u if nesterov else u)
        else:
            m = betas[0] * m + (1 - betas[0]) * g
            v = betas[1] * v + (1 - betas[1]) * g**2
            m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
            p = p - lr * m_hat / (np.sqrt(v_hat + eps_root) + eps)
    return p


def clipped(grads: list[F64], max_norm: float) -> list[F64]:
    norm = math.sqrt(sum(float((g**2).sum()) for g in grads))
    return [g * min(1.0, max_norm / norm) for g in grads]


@pytest.mark.parametrize(("name", "options"), ALL_OPTIONS)
def test_formula(name: str, options: dict[str, Any]) -> None:
    params, grads = problem()
    options = dict(options)
    optimizer = fp.optim.get(name, params, **options)
    max_norm = options.pop("max_norm", None)
    fed = grads if max_norm is None else [clipped(step, max_norm) for step in grads]
    expected = [formula(name, p, [step[i] for step in fed], **options) for i, p in enumerate(params)]
    for step in grads:
        optimizer.step(step)
    for found, wanted in zip(params, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    assert optimizer.steps == 30


@pytest.mark.parametrize(("name", "options"), [p for p in ALL_OPTIONS if p.id not in ("adam-eps_root",)])
def test_torch(name: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    params, grads = problem()
    options = dict(options)
    optimizer = fp.optim.get(name, params, **options)
    theirs = [torch.tensor(p.copy(), requires_grad=True) for p in params]
    max_norm = options.pop("max_norm", None)
    reference = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name](theirs, **options)
    for step in grads:
        optimizer.step(step)
        for tensor, grad in zip(theirs, step, strict=True):
            tensor.grad = torch.tensor(grad)
        if max_norm is not None:  # theirs divides by norm + 1e-6
            norm = math.sqrt(sum(float((g**2).sum()) for g in step))
            torch.nn.utils.clip_grad_norm_(theirs, max_norm * (norm + 1e-6) / norm)
        reference.step()
    for found, tensor in zip(params, theirs, strict=True):
        np.testing.assert_allclose(found, tensor.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), ALL_OPTIONS)
def test_float32_is_close_to_float64(name: str, options: dict[str, Any]) -> None:
    params, grads = problem(dtype=np.float32)
    wide = [p.astype(np.float64) for p in params]
    ours, reference = fp.optim.get(name, params, **options), fp.optim.get(name, wide, **options)
    for step in grads:
        ours.step(step)
        reference.step([g.astype(np.float64) for g in step])
    for found, wanted in zip(params, wide, strict=True):
        assert found.dtype == np.float32
        # Each of the 30 steps rounds p and a few intermediate results.
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=30 * 8 * 2**-24 * 2)


def test_descent_of_the_notes() -> None:
    # SPEC 7: J = x^2 from x = 1.2, rate 0.3.
    x = np.array([1.2])
    optimizer = fp.optim.SGD(x, lr=0.3)
    seen = []
    for _ in range(4):
        optimizer.step(2 * x)
        seen.append(float(x[0]))
    np.testing.assert_allclose(seen, [0.48, 0.192, 0.0768, 0.03072], rtol=1e-14)


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
@pytest.mark.parametrize("options", [{"momentum": 0.9}, {}])
def test_threads_give_the_same_bits(dtype: Any, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    start, grads = rng.standard_normal(300_001).astype(dtype), rng.standard_normal((3, 300_001)).astype(dtype)
    results = []
    for threads in (1, 2, 3):
        x, y = start.copy(), start.copy()
        adam, sgd = fp.optim.Adam(x, max_norm=1.0), fp.optim.SGD(y, **options)
        with fp.num_threads(threads):
            for grad in grads:
                adam.step(grad)
                sgd.step(grad)
        results.append((x, y))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


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
            "unknown optimizer 'adm'; did you mean 'adam'?",
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
        ([np.ones(3), [1.0] * 4], TypeError, "grads[1] must be a NumPy array, found a list of 4"),
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


# --- state --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), [("adam", {}), ("sgd", {"momentum": 0.9, "dampening": 0.5}), ("sgd", {})])
def test_state_goes_on_exactly(name: str, options: dict[str, Any]) -> None:
    params, grads = problem(6)
    optimizer = fp.optim.get(name, params, **options)
    for step in grads[:3]:
        optimizer.step(step)
    optimizer.lr = 0.002
    others = [p.copy() for p in params]
    state = optimizer.state_dict()
    resumed = fp.optim.get(name, others, lr=0.5, **options)
    resumed.load_state_dict(state)
    assert resumed.steps == 3
    assert resumed.lr == 0.002
    for step in grads[3:]:
        optimizer.step(step)
        resumed.step(step)
    assert_same_bits(tuple(others), tuple(params))
    for group in state["groups"]:  # copies, which later steps leave alone
        for arrays, now in zip(group["states"], optimizer.state_dict()["groups"][0]["states"], strict=True):
            for key, array in arrays.items():
                assert array.size == 0 or not np.array_equal(array, now[key])


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
        ({}, KeyError, "optimizer"),
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


def test_clip_grad_value() -> None:
    grads = {"a": np.array([-3.0, 0.1, np.nan]), "b": np.array([[2.0, -np.inf]], np.float32)}
    fp.optim.clip_grad_value(grads, 0.5)
    np.testing.assert_array_equal(grads["a"], [-0.5, 0.1, np.nan])
    np.testing.assert_array_equal(grads["b"], [[0.5, -0.5]])


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
        (lambda: fp.optim.clip_grad_norm(np.broadcast_to(1.0, 3), 1), ValueError, "grads[0] is read-only"),
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
    with pytest.raises(ValueError, match=r"grads\[0\] overlaps its parameter"):
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
