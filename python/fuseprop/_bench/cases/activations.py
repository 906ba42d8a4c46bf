"""Activations, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from fuseprop import _registry
from fuseprop._bench import peers as other
from fuseprop._bench.cases.common import Array, jax_peer, normal, numpy_peer, parse_size, torch_peer
from fuseprop._bench.problem import OURS, Candidate, Case, Peers, Problem, as_arrays, expect
from fuseprop._bench.timing import call
from fuseprop._registry import ActivationSpec

STRUCTURED_SHAPES = ((128, 10), (1000, 100), (1024, 1024))


def _activation_forward(spec: ActivationSpec, n: int, peers: Peers) -> Problem:
    parameters: dict[str, Any] = dict(spec.parameters)
    act, x = spec.cls(**parameters), normal(n, scale=2)
    out = np.empty(act.output_shape(x.shape), np.float32)
    candidates = [Candidate(OURS, call(act, x, out=out))]
    if peers.numpy:
        if spec.name in other.NUMPY_ACTIVATIONS:
            forward = partial(other.NUMPY_ACTIVATIONS[spec.name][0], x, np.empty_like(out), **parameters)
            candidates.append(numpy_peer(forward))
        else:
            candidates.append(numpy_peer(lambda: spec.reference(x, **parameters)[0], variant="reference"))
    if peers.torch and (function := other.torch_activation(peers.torch, spec.name)):
        xt = peers.torch.from_numpy(x)
        candidates.append(torch_peer(peers, function, xt, **parameters))
        if n >= 100_000 and (function := other.torch_activation_out(peers.torch, spec.name)):
            out_t = peers.torch.empty(out.shape)
            candidates.append(torch_peer(peers, function, xt, **parameters, out=out_t, variant="out="))
    if peers.jax and (jax_function := other.jax_activation(peers.jax, spec.name)):
        candidates.append(jax_peer(peers, other.with_defaults(jax_function, parameters), x))
    value = spec.reference(x.astype(np.float64), **parameters)[0]
    return Problem(candidates, [expect(value)], elements=n, num_bytes=8 * n)


def _activation_backward(spec: ActivationSpec, n: int, peers: Peers) -> Problem:
    parameters: dict[str, Any] = dict(spec.parameters)
    act, x = spec.cls(**parameters), normal(n, scale=2)
    dy = normal(*act.output_shape(x.shape), seed=1)
    candidates = [Candidate(OURS, call(act.backward, x, dy, out=np.empty_like(x)))]
    if peers.numpy:
        if spec.name in other.NUMPY_ACTIVATIONS:
            backward = partial(other.NUMPY_ACTIVATIONS[spec.name][1], x, dy, np.empty_like(x), **parameters)
            candidates.append(numpy_peer(backward))
        else:
            candidates.append(numpy_peer(lambda: dy * spec.reference(x, **parameters)[1], variant="reference"))
    if peers.torch and spec.name != "step" and (function := other.torch_activation(peers.torch, spec.name)):
        xt = peers.torch.from_numpy(x).requires_grad_()
        y, dy_t = function(xt, **parameters), peers.torch.from_numpy(dy)
        candidates.append(Candidate("PyTorch", call(peers.torch.autograd.grad, y, xt, dy_t, retain_graph=True)))
    if peers.jax and (jax_function := other.jax_activation(peers.jax, spec.name)):
        f = other.with_defaults(jax_function, parameters)
        candidates.append(jax_peer(peers, lambda x, dy: peers.jax.vjp(f, x)[1](dy)[0], x, dy))
    derivative = spec.reference(x.astype(np.float64), **parameters)[1]
    return Problem(candidates, [expect(dy * derivative)], elements=n, num_bytes=12 * n)


def _structured_forward(spec: ActivationSpec, shape: tuple[int, int], peers: Peers) -> Problem:
    act, x = spec.cls(), normal(*shape, scale=2)
    out = np.empty(act.output_shape(shape), np.float32)
    arrays = [x, *act.init_params().values()]
    params = act.init_params() or None
    candidates = [Candidate(OURS, call(act, x, out=out, params=params))]
    if peers.numpy and spec.name in other.NUMPY_STRUCTURED:
        candidates.append(numpy_peer(other.NUMPY_STRUCTURED[spec.name][0], x, outputs=_checked(spec)))
    if peers.torch and (function := other.torch_structured(peers.torch, spec.name)):
        candidates.append(torch_peer(peers, function, *map(peers.torch.from_numpy, arrays)))
    if peers.jax and (jax_function := other.jax_structured(peers.jax, spec.name)):
        candidates.append(jax_peer(peers, jax_function, *arrays))
    value = spec.reference(x.astype(np.float64), **spec.parameters)[0]
    return Problem(candidates, [expect(value, 4)], elements=x.size, num_bytes=4 * (x.size + out.size))


def _structured_backward(spec: ActivationSpec, shape: tuple[int, int], peers: Peers) -> Problem:
    """dL/dx, and the gradient of what is learned."""
    act, x = spec.cls(), normal(*shape, scale=2)
    dy = normal(*act.output_shape(shape), seed=1)
    params = act.init_params()
    arrays = [x, *params.values()]

    def outputs(found: Any) -> list[Array]:
        return as_arrays((found[0], *found[1].values()))

    out = np.empty_like(x)
    if params:
        ours = Candidate(OURS, call(act.backward_params, x, dy, params=params, out=out), outputs=outputs)
    else:
        ours = Candidate(OURS, call(act.backward, x, dy, out=out))
    candidates = [ours]
    if peers.numpy and spec.name in other.NUMPY_STRUCTURED:
        candidates.append(numpy_peer(other.NUMPY_STRUCTURED[spec.name][1], x, dy, outputs=_checked(spec)))
    if peers.torch and (function := other.torch_structured(peers.torch, spec.name)):
        given = [peers.torch.from_numpy(a).requires_grad_() for a in arrays]
        y, dy_t = function(*given), peers.torch.from_numpy(dy)
        candidates.append(Candidate("PyTorch", call(peers.torch.autograd.grad, y, given, dy_t, retain_graph=True)))
    if peers.jax and (jax_function := other.jax_structured(peers.jax, spec.name)):
        candidates.append(jax_peer(peers, lambda dy, *given: peers.jax.vjp(jax_function, *given)[1](dy), dy, *arrays))
    found = spec.reference(x.astype(np.float64), **spec.parameters)[1](dy.astype(np.float64))
    expected = [expect(found[0], 4), expect(found[1], 64)] if params else [expect(found, 4)]
    return Problem(candidates, expected, elements=x.size, num_bytes=4 * (2 * x.size + dy.size))


def _checked(spec: ActivationSpec) -> Callable[[Any], list[Array]] | None:
    """Return what to compare of NumPy's answer: not GELU's approximation."""
    return None if spec.name == "geglu" else as_arrays


def cases(sizes: Sequence[str]) -> Iterator[Case]:
    """Return the cases, the elementwise ones at the given sizes."""
    for spec in _registry.activations().values():
        if spec.structure != "elementwise":
            for shape in STRUCTURED_SHAPES:
                for verb, passes in (("forward", _structured_forward), ("backward", _structured_backward)):
                    name = f"activation/{spec.name}/{verb}/{'x'.join(map(str, shape))}"
                    yield Case(name, f"activation {spec.name}", partial(passes, spec, shape))
            continue
        for verb, build in (("forward", _activation_forward), ("backward", _activation_backward)):
            for size in sizes:
                name = f"activation/{spec.name}/{verb}/{size}"
                yield Case(name, f"activation {spec.name}", partial(build, spec, parse_size(size)))
