"""The functions of `ops`: products of matrices, elementary functions, softmax and its like, entropies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import fuseprop as fp
from fuseprop._bench import peers as other
from fuseprop._bench.cases.common import (
    CLASS_SHAPES,
    Array,
    edge_rows,
    jax_peer,
    normal,
    numpy_peer,
    parse_size,
    torch_peer,
)
from fuseprop._bench.problem import OURS, Candidate, Case, Expected, Peers, Problem, as_arrays, expect
from fuseprop._bench.timing import call

#: (m, k, n), and which factor is stored transposed: cubes, the products of a dense layer's passes, thin ones.
MATMULS: tuple[tuple[int, int, int, str], ...] = (
    *((n, n, n, "") for n in (16, 32, 64, 100, 128, 256, 512, 1000, 1024, 2048)),
    (32, 16, 32, ""),
    (64, 128, 10, ""),
    (128, 64, 10, "a"),
    (64, 10, 128, "b"),
    (128, 784, 256, ""),
    (784, 128, 256, "a"),
    (128, 256, 784, "b"),
    (256, 2048, 1000, ""),
    (4096, 64, 10, ""),
    (4096, 256, 1, ""),
    (1024, 1024, 1, ""),
    (1, 1024, 1024, ""),
)
#: Those in float64.
MATMULS64 = tuple(shape for shape in MATMULS if not shape[-1])


def _product(a: Array, b: Array, more: float = 0.0) -> Expected:
    """Return a @ b; any order of summation in float32 stays within k eps sum(abs a abs b)."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    k = a.shape[1]
    eps = float(np.finfo(a.dtype).eps)
    # In float64 the expected product has an error of its own.
    units = 1 if a.dtype == np.float32 else 2
    return Expected(a64 @ b64, units * (k + 2) * eps / 2 * (np.abs(a64) @ np.abs(b64) + more))


def _matmul(shape: tuple[int, int, int], transposed: str, dtype: str, peers: Peers) -> Problem:
    m, k, n = shape
    a, b = normal(m, k).astype(dtype, copy=False), normal(k, n, seed=1).astype(dtype, copy=False)
    ours = a.T.copy() if transposed == "a" else a, b.T.copy() if transposed == "b" else b
    theirs = ours[0].T if transposed == "a" else a, ours[1].T if transposed == "b" else b
    options = {f"transpose_{transposed}": True} if transposed else {}
    candidates = [Candidate(OURS, call(fp.ops.matmul, *ours, **options, out=np.empty((m, n), dtype)))]
    if peers.numpy:
        candidates.append(numpy_peer(np.matmul, *theirs, out=np.empty((m, n), dtype)))
    if peers.torch:
        at, bt = map(peers.torch.from_numpy, theirs)
        out = peers.torch.from_numpy(np.empty((m, n), dtype))
        candidates.append(torch_peer(peers, peers.torch.matmul, at, bt, out=out))
    if peers.jax and dtype == "float32":  # the other is off by default
        product: Callable[[Any, Any], Any] = {
            "": lambda a, b: a @ b,
            "a": lambda a, b: a.T @ b,
            "b": lambda a, b: a @ b.T,
        }[transposed]
        candidates.append(jax_peer(peers, product, *ours))
    return Problem(candidates, [_product(a, b)], flops=2.0 * m * k * n, flops_dtype=dtype)


LINEARS = ((64, 64, 128), (128, 784, 256), (256, 2048, 2048))


def _linear(n: int, inputs: int, outputs: int, peers: Peers) -> Problem:
    x, w, b = normal(n, inputs), normal(inputs, outputs, seed=1), normal(outputs, seed=2)
    out = np.empty((n, outputs), np.float32)
    relu = fp.activations.ReLU()
    candidates = [Candidate(OURS, call(fp.ops.linear, x, w, b, activation=relu, out=out))]
    if peers.numpy:
        candidates.append(numpy_peer(lambda: np.maximum(x @ w + b, 0)))
    if peers.torch:
        torch = peers.torch
        xt, wt, bt = torch.from_numpy(x), torch.from_numpy(w.T.copy()), torch.from_numpy(b)
        candidates.append(torch_peer(peers, lambda: torch.relu_(torch.nn.functional.linear(xt, wt, bt))))
    if peers.jax:
        candidates.append(jax_peer(peers, lambda x, w, b: peers.jax.numpy.maximum(x @ w + b, 0), x, w, b))
    product = _product(x, w, more=float(np.abs(b).max()))
    expected = Expected(np.maximum(product.value + b, 0), product.tolerance)
    return Problem(candidates, [expected], flops=2.0 * n * inputs * outputs)


def _linear_backward(n: int, inputs: int, outputs: int, peers: Peers) -> Problem:
    x, w, du = normal(n, inputs), normal(inputs, outputs, seed=1), normal(n, outputs, seed=2)
    candidates = [Candidate(OURS, call(fp.ops.linear_backward, x, w, du))]
    if peers.numpy:
        candidates.append(numpy_peer(lambda: (du @ w.T, x.T @ du, du.sum(axis=0))))
    if peers.torch:
        torch = peers.torch
        xt, bt = torch.from_numpy(x).requires_grad_(), torch.zeros(outputs, requires_grad=True)
        wt, dut = torch.from_numpy(w.T.copy()).requires_grad_(), torch.from_numpy(du)
        y = torch.nn.functional.linear(xt, wt, bt)

        def gradients(found: Any) -> list[Array]:
            dx, dw, db = as_arrays(found)
            return [dx, dw.T, db]

        grad = call(torch.autograd.grad, y, (xt, wt, bt), dut, retain_graph=True)
        candidates.append(Candidate("PyTorch", grad, outputs=gradients))
    if peers.jax:
        candidates.append(jax_peer(peers, lambda x, w, du: (du @ w.T, x.T @ du, du.sum(axis=0)), x, w, du))
    expected = [_product(du, w.T), _product(x.T, du), _product(np.ones((1, n), np.float32), du)]
    return Problem(candidates, expected, flops=4.0 * n * inputs * outputs)


def _linear_both_ways(n: int, inputs: int, outputs: int, peers: Peers) -> Problem:
    """Forward and backward pass of a layer with ReLU, from x, W, b and the gradient at the output."""
    x, w, b, dy = normal(n, inputs), normal(inputs, outputs, seed=1), normal(outputs, seed=2), normal(n, outputs)
    product = _product(x, w, more=float(np.abs(b).max()))
    u = product.value + b
    dy[np.abs(u) <= product.tolerance] = 0  # there libraries take different sides
    dense = fp.nn.Dense(inputs, outputs, "relu")
    fp.nn.Sequential([dense], rng=0).load_state_dict({"0.weight": w, "0.bias": b})
    gradient = np.empty_like(dy)

    def ours() -> Any:
        y = dense.forward(x, True)
        np.copyto(gradient, dy)  # the layer works in place
        return y, dense.backward(gradient), dense.gradients["weight"], dense.gradients["bias"]

    candidates = [Candidate(OURS, call(ours))]
    if peers.numpy:

        def with_numpy() -> Any:
            y = np.maximum(x @ w + b, 0)
            du = dy * (y > 0)
            return y, du @ w.T, x.T @ du, du.sum(axis=0)

        candidates.append(numpy_peer(with_numpy))
    if peers.torch:
        torch = peers.torch
        xt, bt = torch.from_numpy(x).requires_grad_(), torch.from_numpy(b).requires_grad_()
        wt, dyt = torch.from_numpy(w.T.copy()).requires_grad_(), torch.from_numpy(dy)

        def with_torch() -> Any:
            y = torch.relu(torch.nn.functional.linear(xt, wt, bt))
            return y, *torch.autograd.grad(y, (xt, wt, bt), dyt)

        def gradients(found: Any) -> list[Array]:
            y, dx, dw, db = as_arrays(found)
            return [y, dx, dw.T, db]

        candidates.append(Candidate("PyTorch", call(with_torch), outputs=gradients))
    if peers.jax:

        def with_jax(x: Any, w: Any, b: Any, dy: Any) -> Any:
            y = peers.jax.numpy.maximum(x @ w + b, 0)
            du = dy * (y > 0)
            return y, du @ w.T, x.T @ du, du.sum(axis=0)

        candidates.append(jax_peer(peers, with_jax, x, w, b, dy))
    du = np.where(u > 0, dy, 0)
    du = du.astype(np.float32)
    expected = [Expected(np.maximum(u, 0), product.tolerance), _product(du, w.T), _product(x.T, du)]
    expected.append(_product(np.ones((1, n), np.float32), du))
    return Problem(candidates, expected, flops=6.0 * n * inputs * outputs)


def _elementary(name: str, n: int, peers: Peers) -> Problem:
    x = np.abs(normal(n, scale=2))  # logarithms of them exist
    out = np.empty_like(x)
    candidates = [Candidate(OURS, call(getattr(fp.ops, name), x, out=out))]
    if peers.numpy and name != "erf":
        candidates.append(numpy_peer(getattr(np, name), x, out=np.empty_like(x)))
    if peers.torch:
        torch = peers.torch
        candidates.append(torch_peer(peers, getattr(torch, name), torch.from_numpy(x), out=torch.empty(n)))
    if peers.jax:
        function = getattr(peers.jax.numpy, name, None) or getattr(peers.jax.scipy.special, name)
        candidates.append(jax_peer(peers, function, x))
    truth = math.erf if name == "erf" else getattr(math, name)
    value = np.array([truth(v) for v in x[:4096].tolist()])
    some = [replace(c, outputs=lambda found: [as_arrays(found)[0][:4096]]) for c in candidates]
    return Problem(some, [expect(value)], elements=n, num_bytes=8 * n)


def _softmax_family(name: str, shape: tuple[int, int], peers: Peers) -> Problem:
    x = normal(*shape, scale=3)
    out_shape = shape[:1] if name == "logsumexp" else shape
    out = np.empty(out_shape, np.float32)

    def outputs(result: Any) -> list[Array]:
        return [edge_rows(as_arrays(result)[0])]

    candidates = [Candidate(OURS, call(getattr(fp.ops, name), x, out=out), outputs=outputs)]
    if peers.numpy:
        candidates.append(numpy_peer(getattr(other, f"numpy_{name}"), x, outputs=outputs))
    if peers.torch:
        torch = peers.torch
        found = torch_peer(peers, getattr(torch, name), torch.from_numpy(x), -1, out=torch.empty(out_shape))
        candidates.append(Candidate(found.library, found.call, outputs=outputs, context=found.context))
    if peers.jax:
        function = getattr(peers.jax.nn, name)
        candidates.append(jax_peer(peers, lambda x: function(x, axis=-1), x, outputs=outputs))
    value = getattr(other, f"numpy_{name}")(edge_rows(x).astype(np.float64))
    return Problem(candidates, [expect(value, 4)], elements=x.size, num_bytes=4 * (x.size + out.size))


def _entropy(name: str, shape: tuple[int, int], peers: Peers) -> Problem:
    p, q = (np.asarray(fp.ops.softmax(normal(*shape, seed=k))) for k in (0, 4))
    formulas: dict[str, Callable[..., Any]] = {
        "entropy": lambda p: -(p * np.log(p)).sum(axis=-1),
        "cross_entropy": lambda p, q: -(p * np.log(q)).sum(axis=-1),
        "kl_divergence": lambda p, q: (p * np.log(p / q)).sum(axis=-1),
        "self_information": lambda p: -np.log(p),
    }
    arguments = (p, q) if name in ("cross_entropy", "kl_divergence") else (p,)
    candidates = [Candidate(OURS, call(getattr(fp.ops, name), *arguments))]
    if peers.numpy:
        candidates.append(numpy_peer(formulas[name], *arguments))
    expected = [expect(formulas[name](*(a.astype(np.float64) for a in arguments)), 4)]
    return Problem(candidates, expected, elements=p.size, num_bytes=4 * len(arguments) * p.size)


def cases(sizes: Sequence[str]) -> Iterator[Case]:
    """Return the cases, the elementwise ones at the given sizes."""
    for m, k, n, transposed in MATMULS:
        suffix = f"/transpose_{transposed}" if transposed else ""
        yield Case(f"op/matmul/{m}x{k}x{n}{suffix}", "op matmul", partial(_matmul, (m, k, n), transposed, "float32"))
    for m, k, n, transposed in MATMULS64:
        name = f"op/matmul/{m}x{k}x{n}/float64"
        yield Case(name, "op matmul", partial(_matmul, (m, k, n), transposed, "float64"))
    for layer in LINEARS:
        size = "x".join(map(str, layer))
        yield Case(f"op/linear/relu/{size}", "op linear", partial(_linear, *layer))
        yield Case(f"op/linear_backward/{size}", "op linear_backward", partial(_linear_backward, *layer))
        yield Case(f"op/linear/relu_both_ways/{size}", "op linear", partial(_linear_both_ways, *layer))
    for name in ("exp", "expm1", "log", "log1p", "erf"):
        for size in sizes:
            yield Case(f"op/{name}/{size}", f"op {name}", partial(_elementary, name, parse_size(size)))
    for name in ("softmax", "log_softmax", "logsumexp"):
        for shape in CLASS_SHAPES:
            size = "x".join(map(str, shape))
            yield Case(f"op/{name}/{size}", f"op {name}", partial(_softmax_family, name, shape))
    for name in ("entropy", "cross_entropy", "kl_divergence", "self_information"):
        for shape in CLASS_SHAPES[:2]:
            yield Case(f"op/{name}/{'x'.join(map(str, shape))}", f"op {name}", partial(_entropy, name, shape))
