"""Optimizers: one step over all parameters."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from fuseprop import _registry
from fuseprop._bench.cases.common import Array, normal, numpy_peer
from fuseprop._bench.problem import OURS, Candidate, Case, Peers, Problem, as_arrays, expect
from fuseprop._bench.timing import call
from fuseprop._registry import OptimizerSpec


def _numpy_sgd(
    p: Array, g: Array, state: dict[str, Array], t: int, *, momentum: float = 0.0, nesterov: bool = False
) -> None:
    if momentum == 0:
        p -= 1e-3 * g
        return
    if t == 1:
        state["u"] = g.copy()
    else:
        state["u"] *= momentum
        state["u"] += g
    p -= 1e-3 * (g + momentum * state["u"] if nesterov else state["u"])


def _numpy_adam(p: Array, g: Array, state: dict[str, Array], t: int) -> None:
    m, v = state.setdefault("m", np.zeros_like(p)), state.setdefault("v", np.zeros_like(p))
    m *= 0.9
    m += 0.1 * g
    v *= 0.999
    v += 0.001 * g * g
    p -= (1e-3 / (1 - 0.9**t)) * m / (np.sqrt(v * (1 / (1 - 0.999**t))) + 1e-8)


#: What one writes by hand in NumPy; for the others, the reference formula in float32.
NUMPY_OPTIMIZERS: dict[str, Callable[..., None]] = {"sgd": _numpy_sgd, "adam": _numpy_adam}
#: By name: variants beside the defaults, with their options (PyTorch's too, but for max_norm). lr is 1e-3 throughout.
OPTIMIZER_VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "sgd": {"nesterov": {"momentum": 0.9, "nesterov": True}},
    "rmsprop": {"centered-momentum": {"centered": True, "momentum": 0.9}},
    "adam": {"amsgrad": {"amsgrad": True}, "max_norm": {"max_norm": 1.0}},
}
#: How many arrays of how many elements.
TENSORS = {"10M": (1, 10_000_000), "100x4096": (100, 4096), "2000": (1, 2000)}


def _joined(parameters: Iterable[Any]) -> Callable[[Any], list[Array]]:
    """Return what reads a candidate's answer: its parameters, which were updated in place."""
    found = list(parameters)
    return lambda _: [np.concatenate(as_arrays(found))]


def _optimizer(spec: OptimizerSpec, options: dict[str, Any], tensors: tuple[int, int], peers: Peers) -> Problem:
    number, length = tensors
    start = [normal(length, seed=2 * i) for i in range(number)]
    grads = [normal(length, seed=2 * i + 1) for i in range(number)]
    own = {name: value for name, value in options.items() if name != "max_norm"}
    max_norm = options.get("max_norm")

    def in_numpy(parameters: list[Array], gradients: list[Array], by_hand: bool) -> Callable[[], None]:
        states: list[dict[str, Array]] = [{} for _ in parameters]
        given = {**spec.parameters, **own, "lr": 1e-3}
        t = 0

        def step() -> None:
            nonlocal t
            t += 1
            scale = 1.0
            if max_norm is not None:
                scale = min(1.0, max_norm / math.sqrt(sum(float(np.vdot(g, g)) for g in gradients)))
            for p, g, state in zip(parameters, gradients, states, strict=True):
                clipped = g if max_norm is None else scale * g
                if by_hand:
                    NUMPY_OPTIMIZERS[spec.name](p, clipped, state, t, **own)
                else:
                    p[...] = spec.reference(p, clipped, state, t, **given)

        return step

    ours = [p.copy() for p in start]
    optimizer = spec.cls(ours if number > 1 else ours[0], **{**options, "lr": 1e-3})
    step = call(optimizer.step, grads if number > 1 else grads[0])
    candidates = [Candidate(OURS, step, outputs=_joined(ours))]
    if peers.numpy:
        copies, by_hand = [p.copy() for p in start], spec.name in NUMPY_OPTIMIZERS and "amsgrad" not in own
        variant = "" if by_hand else "reference"
        candidates.append(numpy_peer(in_numpy(copies, grads, by_hand), outputs=_joined(copies), variant=variant))
    if peers.torch and (kind := getattr(peers.torch.optim, spec.cls.__name__, None)):
        candidates += _torch_optimizers(peers.torch, partial(kind, **{**own, "lr": 1e-3}), start, grads, max_norm)
    if peers.jax and spec.name in ("sgd", "adam") and not {"amsgrad", "max_norm"} & options.keys():
        candidates.append(_jax_optimizer(peers.jax, spec.name, (own, optimizer.num_states), start, grads))
    wide = [p.astype(np.float64) for p in start]
    in_numpy(wide, [g.astype(np.float64) for g in grads], False)()
    size = number * length
    # The gradient read (for its norm, once more), parameter and states read and written.
    num_bytes = 4 * size * (3 + 2 * optimizer.num_states + (max_norm is not None))
    return Problem(candidates, [expect(np.concatenate(wide))], elements=size, num_bytes=num_bytes)


def _torch_optimizers(
    torch: Any, make: partial[Any], start: list[Array], grads: list[Array], max_norm: float | None
) -> Iterator[Candidate]:
    """Fused where PyTorch has it, and foreach."""
    for flavour in ("fused", "foreach"):
        if flavour not in inspect.signature(make.func).parameters:
            continue
        parameters = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in start]
        for parameter, g in zip(parameters, grads, strict=True):
            parameter.grad = torch.from_numpy(g.copy())  # PyTorch's foreach SGD with nesterov writes it
        optimizer = make(parameters, **{flavour: True})

        def clip_and_step(optimizer: Any = optimizer, parameters: list[Any] = parameters) -> None:
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()

        step = optimizer.step if max_norm is None else clip_and_step
        yield Candidate("PyTorch", call(step), flavour, outputs=_joined(parameters))


def _jax_optimizer(
    jax: Any, name: str, variant: tuple[dict[str, Any], int], start: list[Array], grads: list[Array]
) -> Candidate:
    jnp, tree_map = jax.numpy, jax.tree_util.tree_map
    options, num_states = variant

    def sgd(parameters: Any, states: Any, t: Any, gradients: Any) -> Any:
        momentum = options.get("momentum", 0.0)
        if not momentum:
            return tree_map(lambda p, g: p - 1e-3 * g, parameters, gradients), states
        (u,) = states  # starts at zero, which makes it g at the first step
        u = tree_map(lambda u, g: momentum * u + g, u, gradients)
        look = tree_map(lambda u, g: g + momentum * u, u, gradients) if options["nesterov"] else u
        return tree_map(lambda p, d: p - 1e-3 * d, parameters, look), [u]

    def adam(parameters: Any, states: Any, t: Any, gradients: Any) -> Any:
        m = tree_map(lambda m, g: 0.9 * m + 0.1 * g, states[0], gradients)
        v = tree_map(lambda v, g: 0.999 * v + 0.001 * g * g, states[1], gradients)
        rate, correction = 1e-3 / (1 - 0.9**t), 1 / (1 - 0.999**t)
        new = tree_map(lambda p, m, v: p - rate * m / (jnp.sqrt(v * correction) + 1e-8), parameters, m, v)
        return new, [m, v]

    rule = {"sgd": sgd, "adam": adam}[name]

    def update(parameters: Any, states: Any, t: Any, gradients: Any) -> Any:
        return *rule(parameters, states, t + 1, gradients), t + 1

    compiled = jax.jit(update, donate_argnums=(0, 1, 2))
    parameters = [jnp.array(p) for p in start]
    state = (parameters, [tree_map(jnp.zeros_like, parameters) for _ in range(num_states)], jnp.float32(0))
    gradients = [jnp.array(g) for g in grads]

    def step() -> Any:
        nonlocal state
        state = compiled(*state, gradients)
        jax.block_until_ready(state)
        return state[0]

    return Candidate("JAX", call(step), outputs=lambda found: [np.concatenate(as_arrays(found))])


def cases() -> Iterator[Case]:
    """Return the cases."""
    for name, spec in _registry.optimizers().items():
        for variant, options in {"": {}, **OPTIMIZER_VARIANTS.get(name, {})}.items():
            for label, tensors in TENSORS.items():
                case = "/".join(filter(None, ("optimizer", name, variant, label)))
                yield Case(case, f"optimizer {name}", partial(_optimizer, spec, options, tensors))
