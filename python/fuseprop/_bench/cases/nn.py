"""Layers with kernels of their own, and whole training steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import fuseprop as fp
from fuseprop import _core, reference
from fuseprop._bench import steps
from fuseprop._bench.cases.common import Array, jax_peer, normal, numpy_peer, torch_peer
from fuseprop._bench.problem import OURS, Candidate, Case, Peers, Problem, expect
from fuseprop._bench.timing import call

NORMS = ("batch_norm", "layer_norm")
NORM_SHAPES = ((128, 256), (256, 2048), (4096, 512), (16384, 1024))


def _norm_arrays(shape: tuple[int, int]) -> list[Array]:
    """Return x, weight, bias and dy."""
    n = shape[1]
    return [normal(*shape) + 1, 1 + normal(n, seed=1, scale=0.1), normal(n, seed=2), normal(*shape, seed=3)]


def _torch_norm(peers: Peers, name: str) -> Callable[..., Any]:
    functional = peers.torch.nn.functional
    if name == "batch_norm":
        return lambda x, w, b: functional.batch_norm(x, None, None, w, b, training=True)
    return lambda x, w, b: functional.layer_norm(x, x.shape[1:], w, b)


def _jax_norm(peers: Peers, name: str) -> Callable[..., Any]:
    axis = 0 if name == "batch_norm" else 1
    return lambda x, w, b: (x - x.mean(axis, keepdims=True)) / (x.var(axis, keepdims=True) + 1e-5) ** 0.5 * w + b


def _norm_forward(name: str, shape: tuple[int, int], peers: Peers) -> Problem:
    """Normalise in training, with the statistics kept for the backward pass."""
    x, w, b, _ = _norm_arrays(shape)
    layer = fp.nn.BatchNorm(shape[1]) if name == "batch_norm" else fp.nn.LayerNorm(shape[1])
    model = fp.nn.Sequential([layer])
    model.load_state_dict({**model.state_dict(), "0.weight": w, "0.bias": b})
    candidates = [Candidate(OURS, call(layer.forward, x, True))]
    formula = getattr(reference, name)
    if peers.numpy:
        candidates.append(numpy_peer(lambda: formula(x, w, b)[0], variant="reference"))
    if peers.torch:
        candidates.append(torch_peer(peers, _torch_norm(peers, name), *map(peers.torch.from_numpy, (x, w, b))))
    if peers.jax:
        candidates.append(jax_peer(peers, _jax_norm(peers, name), x, w, b))
    value = formula(*(a.astype(np.float64) for a in (x, w, b)))[0]
    return Problem(candidates, [expect(value, 4)], elements=x.size, num_bytes=8 * x.size)


def _norm_backward(name: str, shape: tuple[int, int], peers: Peers) -> Problem:
    """dx, dweight and dbias."""
    x, w, b, dy = _norm_arrays(shape)
    mean, var = x.astype(np.float64).mean(0), x.astype(np.float64).var(0)
    if name == "layer_norm":
        mean, var = x.astype(np.float64).mean(1), x.astype(np.float64).var(1)
    kernel = getattr(_core, f"{name}_backward")
    outputs = np.empty_like(x), np.empty_like(w), np.empty_like(w)
    candidates = [Candidate(OURS, call(kernel, x, dy, w, 1e-5, mean, var, *outputs, False))]
    formula = getattr(reference, name)
    if peers.numpy:
        vjp = formula(x, w, b)[1]
        candidates.append(numpy_peer(vjp, dy, variant="reference"))
    if peers.torch:
        given = [peers.torch.from_numpy(a).requires_grad_() for a in (x, w, b)]
        y, dy_t = _torch_norm(peers, name)(*given), peers.torch.from_numpy(dy)
        candidates.append(Candidate("PyTorch", call(peers.torch.autograd.grad, y, given, dy_t, retain_graph=True)))
    if peers.jax:
        function = _jax_norm(peers, name)
        candidates.append(jax_peer(peers, lambda dy, *given: peers.jax.vjp(function, *given)[1](dy), dy, x, w, b))
    found = formula(*(a.astype(np.float64) for a in (x, w, b)))[1](dy.astype(np.float64))
    return Problem(candidates, [expect(a, 16) for a in found], elements=x.size, num_bytes=12 * x.size)


def _dropout(shape: tuple[int, int], peers: Peers) -> Problem:
    """Draw a mask and multiply with it, as in training; everybody draws another one."""
    x, p = normal(*shape), 0.1
    layer = fp.nn.Dropout(p)
    fp.nn.Sequential([layer])
    candidates = [Candidate(OURS, call(layer.forward, x, True), outputs=None)]
    if peers.numpy:
        rng, scale = np.random.default_rng(0), np.float32(1 / (1 - p))
        candidates.append(numpy_peer(lambda: x * ((rng.random(shape, np.float32) >= p) * scale), outputs=None))
    if peers.torch:
        found = torch_peer(peers, peers.torch.nn.functional.dropout, peers.torch.from_numpy(x), p, training=True)
        candidates.append(replace(found, outputs=None))
    return Problem(candidates, elements=x.size, num_bytes=8 * x.size)


def _layers() -> Iterator[Case]:
    for shape in NORM_SHAPES:
        yield Case(f"layer/dropout/forward/{shape[0]}x{shape[1]}", "layer dropout", partial(_dropout, shape))
    for name in NORMS:
        for shape in NORM_SHAPES:
            for verb, build in (("forward", _norm_forward), ("backward", _norm_backward)):
                yield Case(f"layer/{name}/{verb}/{shape[0]}x{shape[1]}", f"layer {name}", partial(build, name, shape))


TRAINING = (
    ((16, 32, 32, 4), 32),
    ((64, 128, 10), 64),
    ((784, 256, 128, 10), 128),
    ((1024, 2048, 2048, 1000), 256),
)


def _training(sizes: tuple[int, ...], batch: int, peers: Peers) -> Problem:
    x = normal(batch, sizes[0])
    y = np.random.default_rng(1).integers(0, sizes[-1], batch)

    def candidate(library: str, step: steps.Step, variant: str = "", checked: bool = True) -> Candidate:
        # The loss of three steps: the later ones depend on the gradients and on Adam.
        def outputs(first: Any) -> list[Array]:
            return [np.array([float(value) for value in (first, step(), step())])]

        return Candidate(library, call(step), variant, outputs if checked else None)

    candidates = [candidate(OURS, steps.fuseprop_step(sizes, x, y))]
    if peers.numpy:
        candidates.append(candidate("NumPy", steps.numpy_step(sizes, x, y)))
    if peers.torch:
        candidates.append(candidate("PyTorch", steps.torch_step(peers.torch, sizes, x, y), "fused"))
        plain = steps.torch_step(peers.torch, sizes, x, y, fused=False)
        candidates.append(candidate("PyTorch", plain, "default"))
    if peers.jax:
        candidates.append(candidate("JAX", steps.jax_step(peers.jax, sizes, x, y)))
    if peers.sklearn:
        candidates.append(candidate("scikit-learn", steps.sklearn_step(sizes, x, y), checked=False))
    wide = steps.numpy_step(sizes, x.astype(np.float64), y)
    products = [a * b for a, b in itertools.pairwise(sizes)]
    # Three products per layer; the first one needs no gradient of its input.
    flops = 2.0 * batch * (3 * sum(products) - products[0])
    return Problem(candidates, [expect([wide() for _ in range(3)], 32)], flops=flops)


def _training_steps() -> Iterator[Case]:
    for sizes, batch in TRAINING:
        yield Case(f"training/{'-'.join(map(str, sizes))}/batch{batch}", "", partial(_training, sizes, batch))


def cases() -> Iterator[Case]:
    """Return the cases, the layers' first."""
    yield from _layers()
    yield from _training_steps()
