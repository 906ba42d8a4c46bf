"""All cases: each entry of the registry, the functions of ops, the optimizers, training steps, and import."""

from __future__ import annotations

import inspect
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fuseprop as fp
from fuseprop import _core, _registry, reference
from fuseprop._bench import peers as other
from fuseprop._bench import steps
from fuseprop._bench.problem import (
    OURS,
    Candidate,
    Case,
    Expected,
    Peers,
    Problem,
    as_arrays,
    expect,
)
from fuseprop._bench.timing import call
from fuseprop._registry import Spec

Array = NDArray[Any]

#: Elements of the elementwise cases: a call's overhead, the first cache, both threads, the memory.
SIZES = ("128", "1000", "100k", "16M")
STRUCTURED_SHAPES = ((128, 10), (1000, 100), (1024, 1024))
CLASS_SHAPES = ((64, 10), (128, 1000), (2048, 50257))
MARGIN_SHAPES = ((64, 128, 10), (256, 512, 1000))
LINEAR_SHAPES = ((64, 128, 10), (1024, 256, 1000), (1024, 256, 16384))


def parse_size(text: str) -> int:
    """Return 100000 for "100k" and 16777216 for "16M": k counts thousands, M 2^20."""
    factor = {"k": 1000, "M": 1 << 20}.get(text[-1:], 1)
    return int(text if factor == 1 else text[:-1]) * factor


def _normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    x *= np.float32(scale)
    x[x == 0] = scale  # where a formula has a joint, libraries take different sides
    return x


def _numpy(
    function: Callable[..., Any], *args: Any, outputs: Any = as_arrays, variant: str = "", **kw: Any
) -> Candidate:
    return Candidate("NumPy", call(function, *args, **kw), variant, outputs)


def _jax(peers: Peers, function: Callable[..., Any], *args: Array, outputs: Any = as_arrays) -> Candidate:
    """Compile a function of arrays; the call waits for its result."""
    compiled = peers.jax.jit(function)
    given = [peers.jax.numpy.asarray(a) for a in args]
    wait = peers.jax.block_until_ready
    return Candidate("JAX", call(lambda: wait(compiled(*given))), outputs=outputs)


def _torch(peers: Peers, function: Callable[..., Any], *args: Any, variant: str = "", **kw: Any) -> Candidate:
    """Call PyTorch without recording gradients."""
    return Candidate("PyTorch", call(function, *args, **kw), variant, context=peers.torch.inference_mode)


# --- activations --------------------------------------------------------------------------------------------


def _activation_forward(spec: Spec, n: int, peers: Peers) -> Problem:
    parameters: dict[str, Any] = dict(spec.parameters)
    act, x = spec.cls(**parameters), _normal(n, scale=2)
    out = np.empty(act.output_shape(x.shape), np.float32)
    candidates = [Candidate(OURS, call(act, x, out=out))]
    if peers.numpy:
        if spec.name in other.NUMPY_ACTIVATIONS:
            forward = partial(other.NUMPY_ACTIVATIONS[spec.name][0], x, np.empty_like(out), **parameters)
            candidates.append(_numpy(forward))
        else:
            candidates.append(_numpy(lambda: spec.reference(x, **parameters)[0], variant="reference"))
    if peers.torch and (function := other.torch_activation(peers.torch, spec.name)):
        xt = peers.torch.from_numpy(x)
        candidates.append(_torch(peers, function, xt, **parameters))
        if n >= 100_000 and (function := other.torch_activation_out(peers.torch, spec.name)):
            out_t = peers.torch.empty(out.shape)
            candidates.append(_torch(peers, function, xt, **parameters, out=out_t, variant="out="))
    if peers.jax and (jax_function := other.jax_activation(peers.jax, spec.name)):
        candidates.append(_jax(peers, with_defaults(jax_function, parameters), x))
    value = spec.reference(x.astype(np.float64), **parameters)[0]
    return Problem(candidates, [expect(value)], elements=n, num_bytes=8 * n)


def _activation_backward(spec: Spec, n: int, peers: Peers) -> Problem:
    parameters: dict[str, Any] = dict(spec.parameters)
    act, x = spec.cls(**parameters), _normal(n, scale=2)
    dy = _normal(*act.output_shape(x.shape), seed=1)
    candidates = [Candidate(OURS, call(act.backward, x, dy, out=np.empty_like(x)))]
    if peers.numpy:
        if spec.name in other.NUMPY_ACTIVATIONS:
            backward = partial(other.NUMPY_ACTIVATIONS[spec.name][1], x, dy, np.empty_like(x), **parameters)
            candidates.append(_numpy(backward))
        else:
            candidates.append(_numpy(lambda: dy * spec.reference(x, **parameters)[1], variant="reference"))
    if peers.torch and spec.name != "step" and (function := other.torch_activation(peers.torch, spec.name)):
        xt = peers.torch.from_numpy(x).requires_grad_()
        y, dy_t = function(xt, **parameters), peers.torch.from_numpy(dy)
        candidates.append(Candidate("PyTorch", call(peers.torch.autograd.grad, y, xt, dy_t, retain_graph=True)))
    if peers.jax and (jax_function := other.jax_activation(peers.jax, spec.name)):
        f = with_defaults(jax_function, parameters)
        candidates.append(_jax(peers, lambda x, dy: peers.jax.vjp(f, x)[1](dy)[0], x, dy))
    derivative = spec.reference(x.astype(np.float64), **parameters)[1]
    return Problem(candidates, [expect(dy * derivative)], elements=n, num_bytes=12 * n)


def with_defaults(function: Callable[..., Any], parameters: Mapping[str, float]) -> Callable[[Any], Any]:
    """Give the parameters to a function that takes them; one that does not has the defaults built in."""

    def apply(x: Any) -> Any:
        try:
            return function(x, **parameters)
        except TypeError:
            return function(x)

    return apply


# --- activations of another structure -----------------------------------------------------------------------


def _structured_forward(spec: Spec, shape: tuple[int, int], peers: Peers) -> Problem:
    act, x = spec.cls(), _normal(*shape, scale=2)
    out = np.empty(act.output_shape(shape), np.float32)
    arrays = [x, *act.init_params().values()]
    params = act.init_params() or None
    candidates = [Candidate(OURS, call(act, x, out=out, params=params))]
    if peers.numpy and spec.name in other.NUMPY_STRUCTURED:
        candidates.append(_numpy(other.NUMPY_STRUCTURED[spec.name][0], x, outputs=_checked(spec)))
    if peers.torch and (function := other.torch_structured(peers.torch, spec.name)):
        candidates.append(_torch(peers, function, *map(peers.torch.from_numpy, arrays)))
    if peers.jax and (jax_function := other.jax_structured(peers.jax, spec.name)):
        candidates.append(_jax(peers, jax_function, *arrays))
    value = spec.reference(x.astype(np.float64), **spec.parameters)[0]
    return Problem(candidates, [expect(value, 4)], elements=x.size, num_bytes=4 * (x.size + out.size))


def _structured_backward(spec: Spec, shape: tuple[int, int], peers: Peers) -> Problem:
    """dL/dx, and the gradient of what is learned."""
    act, x = spec.cls(), _normal(*shape, scale=2)
    dy = _normal(*act.output_shape(shape), seed=1)
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
        candidates.append(_numpy(other.NUMPY_STRUCTURED[spec.name][1], x, dy, outputs=_checked(spec)))
    if peers.torch and (function := other.torch_structured(peers.torch, spec.name)):
        given = [peers.torch.from_numpy(a).requires_grad_() for a in arrays]
        y, dy_t = function(*given), peers.torch.from_numpy(dy)
        candidates.append(Candidate("PyTorch", call(peers.torch.autograd.grad, y, given, dy_t, retain_graph=True)))
    if peers.jax and (jax_function := other.jax_structured(peers.jax, spec.name)):
        candidates.append(_jax(peers, lambda dy, *given: peers.jax.vjp(jax_function, *given)[1](dy), dy, *arrays))
    found = spec.reference(x.astype(np.float64), **spec.parameters)[1](dy.astype(np.float64))
    expected = [expect(found[0], 4), expect(found[1], 64)] if params else [expect(found, 4)]
    return Problem(candidates, expected, elements=x.size, num_bytes=4 * (2 * x.size + dy.size))


def _checked(spec: Spec) -> Callable[[Any], list[Array]] | None:
    """Return what to compare of NumPy's answer: not GELU's approximation."""
    return None if spec.name == "geglu" else as_arrays


# --- losses of one prediction per target --------------------------------------------------------------------


def _predictions(spec: Spec, n: int) -> Array:
    if spec.pred_domain == "unit":
        return np.random.default_rng(0).uniform(0.01, 0.99, n).astype(np.float32)
    return _normal(n, scale=2)


def _targets(spec: Spec, pred: Array) -> Array:
    rng = np.random.default_rng(2)
    if spec.target_domain == "unit":
        return rng.random(pred.shape, np.float32)
    if spec.target_domain in ("real", "nonzero"):
        target = pred + _normal(*pred.shape, seed=3, scale=1.5)
        target[target == 0] = 1.5  # among millions there is one, which "nonzero" refuses
        return target
    if spec.target_domain in ("nonnegative", "positive"):
        return rng.random(pred.shape, np.float32) * np.float32(4) + np.float32(0.01)
    return np.where(rng.random(pred.shape, np.float32) < 0.5, np.float32(-1), np.float32(1))


def _loss_value_and_grad(spec: Spec, n: int, peers: Peers) -> Problem:
    parameters: dict[str, Any] = dict(spec.parameters)
    loss, p = spec.cls(**parameters), _predictions(spec, n)
    y = _targets(spec, p)
    candidates = [Candidate(OURS, call(loss.value_and_grad, p, y, out=np.empty_like(p)))]
    if peers.numpy:
        if spec.name in other.NUMPY_LOSSES:
            candidates.append(_numpy(other.NUMPY_LOSSES[spec.name], p, y, **parameters))
        else:
            candidates.append(_numpy(_mean_and_grad, spec, p, y, parameters, variant="reference"))
    if peers.torch and (torch_loss := other.torch_loss(peers.torch, spec.name, parameters)):
        candidates.append(_torch_value_and_grad(peers, torch_loss, p, y))
    if peers.jax and (jax_loss := other.jax_loss(peers.jax, spec.name, parameters)):
        mean = peers.jax.value_and_grad(lambda p, y: jax_loss(p, y).mean())
        candidates.append(_jax(peers, mean, p, y))
    if peers.sklearn and (sklearn_loss := other.sklearn_loss(spec.name, parameters)):
        candidates.append(_sklearn_value_and_grad(sklearn_loss, p, y))
    value, gradient = _mean_and_grad(spec, p.astype(np.float64), y.astype(np.float64), parameters)
    expected = [expect(value, 4), expect(gradient)]
    return Problem(candidates, expected, elements=n, num_bytes=12 * n)


def _mean_and_grad(spec: Spec, p: Array, y: Array, parameters: Mapping[str, Any]) -> tuple[Any, Array]:
    value, gradient, _ = spec.reference(p, y, **parameters)
    return (value, gradient) if spec.kind_of_value == "root" else (value.mean(), gradient / p.size)


def _sklearn_value_and_grad(sklearn_loss: Any, p: Array, y: Array) -> Candidate:
    """Return a call for the mean, and the gradient of the sum, with arrays that are there."""
    given = {
        "y_true": y,
        "raw_prediction": p,
        "loss_out": np.empty_like(p),
        "gradient_out": np.empty_like(p),
        "n_threads": fp.get_num_threads(),
    }

    def value_and_grad() -> tuple[Any, Array]:
        value, gradient = sklearn_loss.loss_gradient(**given)
        return value.mean(), gradient

    def outputs(found: Any) -> list[Array]:
        value, gradient = as_arrays(found)
        return [value, gradient / p.size]

    return Candidate("scikit-learn", call(value_and_grad), outputs=outputs)


def _loss_value(spec: Spec, n: int, peers: Peers) -> Problem:
    """Measure a metric, which has a value only."""
    parameters: dict[str, Any] = dict(spec.parameters)
    loss, p = spec.cls(**parameters), _predictions(spec, n)
    y = _targets(spec, p)
    candidates = [Candidate(OURS, call(loss, p, y))]
    if peers.numpy:
        candidates.append(_numpy(lambda: np.mean(p * y <= 0)))
    if peers.torch:
        pt, yt = map(peers.torch.from_numpy, (p, y))
        candidates.append(_torch(peers, lambda: (pt * yt <= 0).float().mean()))
    if peers.jax:
        candidates.append(_jax(peers, lambda p, y: (p * y <= 0).mean(), p, y))
    value = spec.reference(p.astype(np.float64), y.astype(np.float64), **parameters)[0]
    return Problem(candidates, [expect(value.mean(), 4)], elements=n, num_bytes=8 * n)


def _torch_value_and_grad(peers: Peers, loss: Callable[[Any, Any], Any], p: Array, y: Array) -> Candidate:
    """Value and gradient through autograd, as users do it."""
    pt, yt = peers.torch.from_numpy(p).requires_grad_(), peers.torch.from_numpy(y)

    def value_and_grad() -> tuple[Any, Any]:
        pt.grad = None
        value = loss(pt, yt)
        value.backward()
        return value, pt.grad

    return Candidate("PyTorch", call(value_and_grad))


def _loss_grad_and_hess(spec: Spec, n: int, peers: Peers) -> Problem:
    parameters: dict[str, Any] = dict(spec.parameters)
    loss, p = spec.cls(**parameters), _predictions(spec, n)
    y = _targets(spec, p)
    out = np.empty_like(p), np.empty_like(p)
    candidates = [Candidate(OURS, call(loss.grad_and_hess, p, y, out=out))]
    if peers.numpy:
        candidates.append(_numpy(lambda: spec.reference(p, y, **parameters)[1:], variant="reference"))
    if peers.jax and (jax_loss := other.jax_loss(peers.jax, spec.name, parameters)):
        grad = peers.jax.grad

        def derivatives(p: Any, y: Any) -> tuple[Any, Any]:
            first = grad(lambda p: jax_loss(p, y).sum())
            return first(p), grad(lambda p: first(p).sum())(p)

        candidates.append(_jax(peers, derivatives, p, y))
    if peers.sklearn and (sklearn_loss := other.sklearn_loss(spec.name, parameters)):
        given = {
            "y_true": y,
            "raw_prediction": p,
            "gradient_out": np.empty_like(p),
            "hessian_out": np.empty_like(p),
            "n_threads": fp.get_num_threads(),
        }
        comparable = None if spec.name in other.SKLEARN_WITHOUT_HESSIAN else as_arrays
        found = Candidate("scikit-learn", call(sklearn_loss.gradient_hessian, **given), outputs=comparable)
        candidates.append(found)
    _, gradient, hessian = spec.reference(p.astype(np.float64), y.astype(np.float64), **parameters)
    return Problem(candidates, [expect(gradient), expect(hessian)], elements=n, num_bytes=16 * n)


# --- losses over classes ------------------------------------------------------------------------------------


def _edge_rows(array: Array) -> Array:
    """Return the first and the last eight rows: enough to check of a large result."""
    return array if len(array) <= 256 else np.concatenate([array[:8], array[-8:]])


def _class_reference(spec: Spec, z: Array, labels: Array) -> tuple[float, Array, Array]:
    """Return mean value, and gradient and Hessian of the edge rows, in float64, some rows at a time."""
    parameters, classes = dict(spec.parameters), z.shape[1]

    def evaluate(z: Array, labels: Array) -> Any:
        one_hot = np.zeros(z.shape)
        one_hot[np.arange(len(labels)), labels] = 1
        return spec.reference(z.astype(np.float64), one_hot, **parameters)

    step = max(1, (1 << 20) // classes)
    total = sum(float(evaluate(z[i : i + step], labels[i : i + step])[0].sum()) for i in range(0, len(z), step))
    _, gradient, hessian = evaluate(_edge_rows(z), _edge_rows(labels))
    return total / len(z), gradient, hessian


def _class_value_and_grad(spec: Spec, shape: tuple[int, int], peers: Peers) -> Problem:
    loss, z = spec.cls(**spec.parameters), _normal(*shape, scale=3)
    labels = np.random.default_rng(4).integers(0, shape[1], shape[0])

    def outputs(result: Any) -> list[Array]:
        value, gradient = as_arrays(result)
        return [value, _edge_rows(gradient)]

    def one_hot_reference() -> tuple[Any, Array]:
        one_hot = np.zeros_like(z)
        one_hot[np.arange(len(labels)), labels] = 1
        return _mean_and_rows(spec.reference(z, one_hot, **spec.parameters))

    candidates = [Candidate(OURS, call(loss.value_and_grad, z, labels, out=np.empty_like(z)), outputs=outputs)]
    if peers.numpy:
        if spec.name == "softmax_cross_entropy":
            candidates.append(_numpy(other.numpy_softmax_cross_entropy, z, labels, outputs=outputs))
        else:
            candidates.append(_numpy(one_hot_reference, outputs=outputs, variant="reference"))
    if spec.name == "softmax_cross_entropy":
        if peers.torch:
            torch_loss = peers.torch.nn.functional.cross_entropy
            found = _torch_value_and_grad(peers, torch_loss, z, labels)
            candidates.append(Candidate(found.library, found.call, outputs=outputs))
        if peers.jax:
            jax = peers.jax

            def jax_loss(z: Any, labels: Any) -> Any:
                log_p = jax.nn.log_softmax(z)
                return -jax.numpy.take_along_axis(log_p, labels[:, None], axis=1).mean()

            candidates.append(_jax(peers, jax.value_and_grad(jax_loss), z, labels, outputs=outputs))
    value, gradient, _ = _class_reference(spec, z, labels)
    expected = [expect(value, 4), expect(gradient / len(z))]
    return Problem(candidates, expected, elements=z.size, num_bytes=8 * z.size)


def _mean_and_rows(found: Any) -> tuple[Any, Array]:
    value, gradient, _ = found
    return value.mean(), gradient / len(gradient)


def _class_grad_and_hess(spec: Spec, shape: tuple[int, int], peers: Peers) -> Problem:
    loss, z = spec.cls(**spec.parameters), _normal(*shape, scale=3)
    labels = np.random.default_rng(4).integers(0, shape[1], shape[0])
    one_hot = np.zeros_like(z)
    one_hot[np.arange(len(labels)), labels] = 1
    out = np.empty_like(z), np.empty_like(z)
    candidates = [Candidate(OURS, call(loss.grad_and_hess, z, labels, out=out))]
    if peers.numpy and spec.name == "softmax_cross_entropy":

        def numpy_grad_and_hess() -> tuple[Array, Array]:
            p = other.numpy_softmax(z)
            return p - one_hot, p * (1 - p)

        candidates.append(_numpy(numpy_grad_and_hess))
    elif peers.numpy:
        reference = partial(spec.reference, z, one_hot, **spec.parameters)
        candidates.append(_numpy(lambda: reference()[1:], variant="reference"))
    _, gradient, hessian = spec.reference(z.astype(np.float64), one_hot.astype(np.float64), **spec.parameters)
    return Problem(candidates, [expect(gradient), expect(hessian)], elements=z.size, num_bytes=12 * z.size)


def _row_inputs(spec: Spec, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return predictions and targets of a loss of labels or of distributions."""
    pred = _normal(*shape, scale=3)
    if spec.name != "softmax_focal":
        pred = np.asarray(fp.ops.log_softmax(pred) if spec.target_domain == "labels" else fp.ops.softmax(pred))
    if spec.target_domain == "labels":
        return pred, np.random.default_rng(4).integers(0, shape[1], shape[0])
    return pred, np.asarray(fp.ops.softmax(_normal(*shape, seed=4)))


def _row_value_and_grad(spec: Spec, shape: tuple[int, int], peers: Peers) -> Problem:
    loss, (pred, target) = spec.cls(), _row_inputs(spec, shape)
    candidates = [Candidate(OURS, call(loss.value_and_grad, pred, target, out=np.empty_like(pred)))]
    if peers.numpy:
        candidates.append(_numpy(other.NUMPY_ROW_LOSSES[spec.name], pred, target))
    if peers.torch:
        candidates.append(_torch_value_and_grad(peers, other.torch_row_loss(peers.torch, spec.name), pred, target))
    if peers.jax:
        jax_loss = other.jax_row_loss(peers.jax, spec.name)
        candidates.append(_jax(peers, peers.jax.value_and_grad(jax_loss), pred, target))
    value, gradient, _ = _row_reference(spec, pred, target)
    expected = [expect(value.mean(), 4), expect(gradient / len(pred), 4)]
    return Problem(candidates, expected, elements=pred.size, num_bytes=8 * pred.size)


def _row_reference(spec: Spec, pred: Array, target: Array) -> tuple[Array, Array, Array]:
    wide = np.eye(pred.shape[1])[target] if spec.target_domain == "labels" else target.astype(np.float64)
    found: tuple[Array, Array, Array] = spec.reference(pred.astype(np.float64), wide, **spec.parameters)
    return found


def _row_grad_and_hess(spec: Spec, shape: tuple[int, int], peers: Peers) -> Problem:
    loss, (pred, target) = spec.cls(), _row_inputs(spec, shape)
    out = np.empty_like(pred), np.empty_like(pred)
    candidates = [Candidate(OURS, call(loss.grad_and_hess, pred, target, out=out))]
    if peers.numpy:
        candidates.append(_numpy(lambda: _row_reference(spec, pred, target)[1:], variant="reference"))
    _, gradient, hessian = _row_reference(spec, pred, target)
    return Problem(candidates, [expect(gradient, 4), expect(hessian, 8)], elements=pred.size)


def _margin_value_and_grad(spec: Spec, shape: tuple[int, int, int], peers: Peers) -> Problem:
    rows, features, classes = shape
    x, weight = _normal(rows, features), _normal(features, classes, seed=1, scale=features**-0.5)
    labels = np.random.default_rng(4).integers(0, classes, rows)
    loss = spec.cls()

    def reference(x: Array, weight: Array) -> list[Any]:
        value, d_x, d_weight = spec.reference(x, weight, np.eye(classes, dtype=x.dtype)[labels], **spec.parameters)
        return [value.mean(), d_x / rows, d_weight / rows]

    def flat(found: Any) -> list[Array]:
        value, gradients = found
        return as_arrays((value, *gradients))

    candidates = [Candidate(OURS, call(loss.value_and_grad, x, weight, labels), outputs=flat)]
    if peers.numpy:
        candidates.append(_numpy(reference, x, weight, variant="reference"))
    if peers.torch:
        torch = peers.torch
        xt, wt = (torch.from_numpy(a).requires_grad_() for a in (x, weight))
        yt = torch.from_numpy(labels)

        def torch_value_and_grad() -> Any:
            value = other.torch_large_margin(torch, xt, wt, yt)
            return value, torch.autograd.grad(value, (xt, wt))

        candidates.append(Candidate("PyTorch", call(torch_value_and_grad), outputs=flat))
    expected = [expect(part, 8) for part in reference(x.astype(np.float64), weight.astype(np.float64))]
    return Problem(candidates, expected, elements=rows * classes, flops=6.0 * rows * features * classes)


def _linear_value_and_grad(spec: Spec, shape: tuple[int, int, int], peers: Peers) -> Problem:
    """Measure loss and gradients of a last layer without bias."""
    rows, features, classes = shape
    x, weight = _normal(rows, features), _normal(features, classes, seed=1, scale=features**-0.5)
    labels = np.random.default_rng(4).integers(0, classes, rows)
    loss = spec.cls()

    def reference() -> list[Any]:
        wide_w = weight.astype(np.float64)
        found = [
            spec.reference(x[i : i + 256].astype(np.float64), wide_w, labels[i : i + 256], **spec.parameters)
            for i in range(0, rows, 256)
        ]
        values, d_x, d_weight = zip(*found, strict=True)
        return [np.concatenate(values).mean(), np.concatenate(d_x) / rows, sum(d_weight) / rows]

    def flat(found: Any) -> list[Array]:
        value, gradients = found
        return as_arrays((value, *gradients[:2]))

    def numpy_value_and_grad() -> Any:
        value, d_z = other.numpy_softmax_cross_entropy(x @ weight, labels)
        return value, (d_z @ weight.T, x.T @ d_z)

    candidates = [Candidate(OURS, call(loss.value_and_grad, x, weight, labels), outputs=flat)]
    if peers.numpy:
        candidates.append(_numpy(numpy_value_and_grad, outputs=flat))
    if peers.torch:
        torch = peers.torch
        xt, wt = torch.from_numpy(x).requires_grad_(), torch.from_numpy(weight).requires_grad_()
        for variant, torch_loss in other.torch_linear_cross_entropy(torch, xt, wt, torch.from_numpy(labels)).items():

            def torch_value_and_grad(torch_loss: Callable[[], Any] = torch_loss) -> Any:
                value = torch_loss()
                return value, torch.autograd.grad(value, (xt, wt))

            candidates.append(Candidate("PyTorch", call(torch_value_and_grad), variant, flat))
    if peers.jax:
        jax = peers.jax

        def jax_loss(x: Any, weight: Any, labels: Any) -> Any:
            log_p = jax.nn.log_softmax(x @ weight)
            return -jax.numpy.take_along_axis(log_p, labels[:, None], axis=1).mean()

        differentiated = jax.value_and_grad(jax_loss, argnums=(0, 1))
        candidates.append(_jax(peers, differentiated, x, weight, labels, outputs=flat))
    expected = [expect(part, 8) for part in reference()]
    return Problem(candidates, expected, elements=rows * classes, flops=6.0 * rows * features * classes)


def _entropy(name: str, shape: tuple[int, int], peers: Peers) -> Problem:
    p, q = (np.asarray(fp.ops.softmax(_normal(*shape, seed=k))) for k in (0, 4))
    formulas: dict[str, Callable[..., Any]] = {
        "entropy": lambda p: -(p * np.log(p)).sum(axis=-1),
        "cross_entropy": lambda p, q: -(p * np.log(q)).sum(axis=-1),
        "kl_divergence": lambda p, q: (p * np.log(p / q)).sum(axis=-1),
        "self_information": lambda p: -np.log(p),
    }
    arguments = (p, q) if name in ("cross_entropy", "kl_divergence") else (p,)
    candidates = [Candidate(OURS, call(getattr(fp.ops, name), *arguments))]
    if peers.numpy:
        candidates.append(_numpy(formulas[name], *arguments))
    expected = [expect(formulas[name](*(a.astype(np.float64) for a in arguments)), 4)]
    return Problem(candidates, expected, elements=p.size, num_bytes=4 * len(arguments) * p.size)


# --- ops ----------------------------------------------------------------------------------------------------

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
    a, b = _normal(m, k).astype(dtype, copy=False), _normal(k, n, seed=1).astype(dtype, copy=False)
    ours = a.T.copy() if transposed == "a" else a, b.T.copy() if transposed == "b" else b
    theirs = ours[0].T if transposed == "a" else a, ours[1].T if transposed == "b" else b
    options = {f"transpose_{transposed}": True} if transposed else {}
    candidates = [Candidate(OURS, call(fp.ops.matmul, *ours, **options, out=np.empty((m, n), dtype)))]
    if peers.numpy:
        candidates.append(_numpy(np.matmul, *theirs, out=np.empty((m, n), dtype)))
    if peers.torch:
        at, bt = map(peers.torch.from_numpy, theirs)
        out = peers.torch.from_numpy(np.empty((m, n), dtype))
        candidates.append(_torch(peers, peers.torch.matmul, at, bt, out=out))
    if peers.jax and dtype == "float32":  # the other is off by default
        product: Callable[[Any, Any], Any] = {
            "": lambda a, b: a @ b,
            "a": lambda a, b: a.T @ b,
            "b": lambda a, b: a @ b.T,
        }[transposed]
        candidates.append(_jax(peers, product, *ours))
    return Problem(candidates, [_product(a, b)], flops=2.0 * m * k * n, flops_dtype=dtype)


LINEARS = ((64, 64, 128), (128, 784, 256), (256, 2048, 2048))


def _linear(n: int, inputs: int, outputs: int, peers: Peers) -> Problem:
    x, w, b = _normal(n, inputs), _normal(inputs, outputs, seed=1), _normal(outputs, seed=2)
    out = np.empty((n, outputs), np.float32)
    relu = fp.activations.ReLU()
    candidates = [Candidate(OURS, call(fp.ops.linear, x, w, b, activation=relu, out=out))]
    if peers.numpy:
        candidates.append(_numpy(lambda: np.maximum(x @ w + b, 0)))
    if peers.torch:
        torch = peers.torch
        xt, wt, bt = torch.from_numpy(x), torch.from_numpy(w.T.copy()), torch.from_numpy(b)
        candidates.append(_torch(peers, lambda: torch.relu_(torch.nn.functional.linear(xt, wt, bt))))
    if peers.jax:
        candidates.append(_jax(peers, lambda x, w, b: peers.jax.numpy.maximum(x @ w + b, 0), x, w, b))
    product = _product(x, w, more=float(np.abs(b).max()))
    expected = Expected(np.maximum(product.value + b, 0), product.tolerance)
    return Problem(candidates, [expected], flops=2.0 * n * inputs * outputs)


def _linear_backward(n: int, inputs: int, outputs: int, peers: Peers) -> Problem:
    x, w, du = _normal(n, inputs), _normal(inputs, outputs, seed=1), _normal(n, outputs, seed=2)
    candidates = [Candidate(OURS, call(fp.ops.linear_backward, x, w, du))]
    if peers.numpy:
        candidates.append(_numpy(lambda: (du @ w.T, x.T @ du, du.sum(axis=0))))
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
        candidates.append(_jax(peers, lambda x, w, du: (du @ w.T, x.T @ du, du.sum(axis=0)), x, w, du))
    expected = [_product(du, w.T), _product(x.T, du), _product(np.ones((1, n), np.float32), du)]
    return Problem(candidates, expected, flops=4.0 * n * inputs * outputs)


def _linear_both_ways(n: int, inputs: int, outputs: int, peers: Peers) -> Problem:
    """Forward and backward pass of a layer with ReLU, from x, W, b and the gradient at the output."""
    x, w, b, dy = _normal(n, inputs), _normal(inputs, outputs, seed=1), _normal(outputs, seed=2), _normal(n, outputs)
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

        candidates.append(_numpy(with_numpy))
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

        candidates.append(_jax(peers, with_jax, x, w, b, dy))
    du = np.where(u > 0, dy, 0)
    du = du.astype(np.float32)
    expected = [Expected(np.maximum(u, 0), product.tolerance), _product(du, w.T), _product(x.T, du)]
    expected.append(_product(np.ones((1, n), np.float32), du))
    return Problem(candidates, expected, flops=6.0 * n * inputs * outputs)


def _elementary(name: str, n: int, peers: Peers) -> Problem:
    x = np.abs(_normal(n, scale=2))  # logarithms of them exist
    out = np.empty_like(x)
    candidates = [Candidate(OURS, call(getattr(fp.ops, name), x, out=out))]
    if peers.numpy and name != "erf":
        candidates.append(_numpy(getattr(np, name), x, out=np.empty_like(x)))
    if peers.torch:
        torch = peers.torch
        candidates.append(_torch(peers, getattr(torch, name), torch.from_numpy(x), out=torch.empty(n)))
    if peers.jax:
        function = getattr(peers.jax.numpy, name, None) or getattr(peers.jax.scipy.special, name)
        candidates.append(_jax(peers, function, x))
    truth = math.erf if name == "erf" else getattr(math, name)
    value = np.array([truth(v) for v in x[:4096].tolist()])
    some = [replace(c, outputs=lambda found: [as_arrays(found)[0][:4096]]) for c in candidates]
    return Problem(some, [expect(value)], elements=n, num_bytes=8 * n)


def _softmax_family(name: str, shape: tuple[int, int], peers: Peers) -> Problem:
    x = _normal(*shape, scale=3)
    out_shape = shape[:1] if name == "logsumexp" else shape
    out = np.empty(out_shape, np.float32)

    def outputs(result: Any) -> list[Array]:
        return [_edge_rows(as_arrays(result)[0])]

    candidates = [Candidate(OURS, call(getattr(fp.ops, name), x, out=out), outputs=outputs)]
    if peers.numpy:
        candidates.append(_numpy(getattr(other, f"numpy_{name}"), x, outputs=outputs))
    if peers.torch:
        torch = peers.torch
        found = _torch(peers, getattr(torch, name), torch.from_numpy(x), -1, out=torch.empty(out_shape))
        candidates.append(Candidate(found.library, found.call, outputs=outputs, context=found.context))
    if peers.jax:
        function = getattr(peers.jax.nn, name)
        candidates.append(_jax(peers, lambda x: function(x, axis=-1), x, outputs=outputs))
    value = getattr(other, f"numpy_{name}")(_edge_rows(x).astype(np.float64))
    return Problem(candidates, [expect(value, 4)], elements=x.size, num_bytes=4 * (x.size + out.size))


# --- optimizers ---------------------------------------------------------------------------------------------


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


def _optimizer(spec: Spec, options: dict[str, Any], tensors: tuple[int, int], peers: Peers) -> Problem:
    number, length = tensors
    start = [_normal(length, seed=2 * i) for i in range(number)]
    grads = [_normal(length, seed=2 * i + 1) for i in range(number)]
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
        candidates.append(_numpy(in_numpy(copies, grads, by_hand), outputs=_joined(copies), variant=variant))
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


# --- layers with kernels of their own -----------------------------------------------------------------------

NORMS = ("batch_norm", "layer_norm")
NORM_SHAPES = ((128, 256), (256, 2048), (4096, 512), (16384, 1024))


def _norm_arrays(shape: tuple[int, int]) -> list[Array]:
    """Return x, weight, bias and dy."""
    n = shape[1]
    return [_normal(*shape) + 1, 1 + _normal(n, seed=1, scale=0.1), _normal(n, seed=2), _normal(*shape, seed=3)]


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
        candidates.append(_numpy(lambda: formula(x, w, b)[0], variant="reference"))
    if peers.torch:
        candidates.append(_torch(peers, _torch_norm(peers, name), *map(peers.torch.from_numpy, (x, w, b))))
    if peers.jax:
        candidates.append(_jax(peers, _jax_norm(peers, name), x, w, b))
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
        candidates.append(_numpy(vjp, dy, variant="reference"))
    if peers.torch:
        given = [peers.torch.from_numpy(a).requires_grad_() for a in (x, w, b)]
        y, dy_t = _torch_norm(peers, name)(*given), peers.torch.from_numpy(dy)
        candidates.append(Candidate("PyTorch", call(peers.torch.autograd.grad, y, given, dy_t, retain_graph=True)))
    if peers.jax:
        function = _jax_norm(peers, name)
        candidates.append(_jax(peers, lambda dy, *given: peers.jax.vjp(function, *given)[1](dy), dy, x, w, b))
    found = formula(*(a.astype(np.float64) for a in (x, w, b)))[1](dy.astype(np.float64))
    return Problem(candidates, [expect(a, 16) for a in found], elements=x.size, num_bytes=12 * x.size)


def _dropout(shape: tuple[int, int], peers: Peers) -> Problem:
    """Draw a mask and multiply with it, as in training; everybody draws another one."""
    x, p = _normal(*shape), 0.1
    layer = fp.nn.Dropout(p)
    fp.nn.Sequential([layer])
    candidates = [Candidate(OURS, call(layer.forward, x, True), outputs=None)]
    if peers.numpy:
        rng, scale = np.random.default_rng(0), np.float32(1 / (1 - p))
        candidates.append(_numpy(lambda: x * ((rng.random(shape, np.float32) >= p) * scale), outputs=None))
    if peers.torch:
        found = _torch(peers, peers.torch.nn.functional.dropout, peers.torch.from_numpy(x), p, training=True)
        candidates.append(replace(found, outputs=None))
    return Problem(candidates, elements=x.size, num_bytes=8 * x.size)


def _layers() -> Iterator[Case]:
    for shape in NORM_SHAPES:
        yield Case(f"layer/dropout/forward/{shape[0]}x{shape[1]}", "layer dropout", partial(_dropout, shape))
    for name in NORMS:
        for shape in NORM_SHAPES:
            for verb, build in (("forward", _norm_forward), ("backward", _norm_backward)):
                yield Case(f"layer/{name}/{verb}/{shape[0]}x{shape[1]}", f"layer {name}", partial(build, name, shape))


# --- training steps, import ---------------------------------------------------------------------------------

TRAINING = (
    ((16, 32, 32, 4), 32),
    ((64, 128, 10), 64),
    ((784, 256, 128, 10), 128),
    ((1024, 2048, 2048, 1000), 256),
)


def _training(sizes: tuple[int, ...], batch: int, peers: Peers) -> Problem:
    x = _normal(batch, sizes[0])
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


def _import(peers: Peers) -> Problem:
    """Seconds of `import`, in a process of its own that has NumPy already."""

    def candidate(library: str, module: str) -> Candidate:
        first = "" if module == "numpy" else "import numpy; "
        program = f"{first}from time import perf_counter as t; t0 = t(); import {module}; print(t() - t0)"
        command = [sys.executable, "-c", program]

        def sample(n: int) -> float:
            outputs = (subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(n))
            return sum(float(found.stdout) for found in outputs)

        return Candidate(library, call(sample, 1), outputs=None, sample=sample)

    candidates = [candidate(OURS, "fuseprop")]
    candidates += [candidate("NumPy", "numpy")] if peers.numpy else []
    candidates += [candidate("PyTorch", "torch")] if peers.torch else []
    candidates += [candidate("JAX", "jax")] if peers.jax else []
    candidates += [candidate("scikit-learn", "sklearn")] if peers.sklearn else []
    return Problem(candidates)


# --- all ----------------------------------------------------------------------------------------------------


def all_cases(sizes: Sequence[str] = SIZES) -> list[Case]:
    """Return all cases; the elementwise ones at the given sizes."""
    elementwise = [*_activations(sizes), *_losses(sizes)]
    return [*elementwise, *_ops(sizes), *_optimizers(), *_layers(), *_training_steps(), Case("import", "", _import)]


def _activations(sizes: Sequence[str]) -> Iterator[Case]:
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


def _losses(sizes: Sequence[str]) -> Iterator[Case]:
    for spec in _registry.losses().values():
        entry = f"loss {spec.name}"
        if spec.inputs != ("pred", "target"):
            of_linear = spec.target_domain == "classes"
            layer_build = _linear_value_and_grad if of_linear else _margin_value_and_grad
            for shape in LINEAR_SHAPES if of_linear else MARGIN_SHAPES:
                name = f"loss/{spec.name}/value_and_grad/{'x'.join(map(str, shape))}"
                yield Case(name, entry, partial(layer_build, spec, shape))
            continue
        if spec.target_domain == "classes":
            for rows, classes in CLASS_SHAPES:
                name = f"loss/{spec.name}/value_and_grad/{rows}x{classes}"
                yield Case(name, entry, partial(_class_value_and_grad, spec, (rows, classes)))
            for rows, classes in CLASS_SHAPES[:2]:
                name = f"loss/{spec.name}/grad_and_hess/{rows}x{classes}"
                yield Case(name, entry, partial(_class_grad_and_hess, spec, (rows, classes)))
            continue
        if spec.target_domain in _registry.OVER_CLASSES:
            for rows, classes in CLASS_SHAPES[:2]:
                for verb, row_build in (("value_and_grad", _row_value_and_grad), ("grad_and_hess", _row_grad_and_hess)):
                    name = f"loss/{spec.name}/{verb}/{rows}x{classes}"
                    yield Case(name, entry, partial(row_build, spec, (rows, classes)))
            continue
        verbs = {
            "sum": {"value_and_grad": _loss_value_and_grad, "grad_and_hess": _loss_grad_and_hess},
            "root": {"value_and_grad": _loss_value_and_grad},
            "metric": {"value": _loss_value},
        }[spec.kind_of_value]
        for verb, build in verbs.items():
            for size in sizes:
                yield Case(f"loss/{spec.name}/{verb}/{size}", entry, partial(build, spec, parse_size(size)))


def _ops(sizes: Sequence[str]) -> Iterator[Case]:
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


def _optimizers() -> Iterator[Case]:
    for name, spec in _registry.optimizers().items():
        for variant, options in {"": {}, **OPTIMIZER_VARIANTS.get(name, {})}.items():
            for label, tensors in TENSORS.items():
                case = "/".join(filter(None, ("optimizer", name, variant, label)))
                yield Case(case, f"optimizer {name}", partial(_optimizer, spec, options, tensors))


def _training_steps() -> Iterator[Case]:
    for sizes, batch in TRAINING:
        yield Case(f"training/{'-'.join(map(str, sizes))}/batch{batch}", "", partial(_training, sizes, batch))


def without_case(cases: Iterable[Case]) -> list[str]:
    """Return what the library offers and no case covers, as "activation tanh" or "op softmax"."""
    offered = [
        *(f"activation {name}" for name in fp.activations.names()),
        *(f"loss {name}" for name in fp.losses.names()),
        *(f"op {name}" for name in fp.ops.__all__),
        *(f"optimizer {name}" for name in fp.optim.names()),
        *(f"layer {name}" for name in ("dropout", *NORMS)),
    ]
    covered = {case.entry for case in cases}
    return [entry for entry in offered if entry not in covered]
