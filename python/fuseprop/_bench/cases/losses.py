"""Losses: value with gradient, gradient with second derivative; of one prediction per target, and over classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

import fuseprop as fp
from fuseprop import _registry
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
from fuseprop._bench.problem import OURS, Candidate, Case, Peers, Problem, as_arrays, expect
from fuseprop._bench.timing import call
from fuseprop._registry import LossSpec

MARGIN_SHAPES = ((64, 128, 10), (256, 512, 1000))
LINEAR_SHAPES = ((64, 128, 10), (1024, 256, 1000), (1024, 256, 16384))


# --- losses of one prediction per target --------------------------------------------------------------------


def _predictions(spec: LossSpec, n: int) -> Array:
    if spec.pred_domain == "unit":
        return np.random.default_rng(0).uniform(0.01, 0.99, n).astype(np.float32)
    return normal(n, scale=2)


def _targets(spec: LossSpec, pred: Array) -> Array:
    rng = np.random.default_rng(2)
    if spec.target_domain == "unit":
        return rng.random(pred.shape, np.float32)
    if spec.target_domain in ("real", "nonzero"):
        target = pred + normal(*pred.shape, seed=3, scale=1.5)
        target[target == 0] = 1.5  # among millions there is one, which "nonzero" refuses
        return target
    if spec.target_domain in ("nonnegative", "positive"):
        return rng.random(pred.shape, np.float32) * np.float32(4) + np.float32(0.01)
    return np.where(rng.random(pred.shape, np.float32) < 0.5, np.float32(-1), np.float32(1))


def _loss_value_and_grad(spec: LossSpec, n: int, peers: Peers) -> Problem:
    parameters: dict[str, Any] = dict(spec.parameters)
    loss, p = spec.cls(**parameters), _predictions(spec, n)
    y = _targets(spec, p)
    candidates = [Candidate(OURS, call(loss.value_and_grad, p, y, out=np.empty_like(p)))]
    if peers.numpy:
        if spec.name in other.NUMPY_LOSSES:
            candidates.append(numpy_peer(other.NUMPY_LOSSES[spec.name], p, y, **parameters))
        else:
            candidates.append(numpy_peer(_mean_and_grad, spec, p, y, parameters, variant="reference"))
    if peers.torch and (torch_loss := other.torch_loss(peers.torch, spec.name, parameters)):
        candidates.append(_torch_value_and_grad(peers, torch_loss, p, y))
    if peers.jax and (jax_loss := other.jax_loss(peers.jax, spec.name, parameters)):
        mean = peers.jax.value_and_grad(lambda p, y: jax_loss(p, y).mean())
        candidates.append(jax_peer(peers, mean, p, y))
    if peers.sklearn and (sklearn_loss := other.sklearn_loss(spec.name, parameters)):
        candidates.append(_sklearn_value_and_grad(sklearn_loss, p, y))
    value, gradient = _mean_and_grad(spec, p.astype(np.float64), y.astype(np.float64), parameters)
    expected = [expect(value, 4), expect(gradient)]
    return Problem(candidates, expected, elements=n, num_bytes=12 * n)


def _mean_and_grad(spec: LossSpec, p: Array, y: Array, parameters: Mapping[str, Any]) -> tuple[Any, Array]:
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


def _loss_value(spec: LossSpec, n: int, peers: Peers) -> Problem:
    """Measure a metric, which has a value only."""
    parameters: dict[str, Any] = dict(spec.parameters)
    loss, p = spec.cls(**parameters), _predictions(spec, n)
    y = _targets(spec, p)
    candidates = [Candidate(OURS, call(loss, p, y))]
    metric = other.METRICS.get(spec.name)
    if peers.numpy and metric:
        candidates.append(numpy_peer(lambda: np.mean(metric(p, y))))
    elif peers.numpy:
        candidates.append(numpy_peer(lambda: np.mean(spec.reference(p, y, **parameters)[0]), variant="reference"))
    if peers.torch and metric:
        pt, yt = map(peers.torch.from_numpy, (p, y))
        candidates.append(torch_peer(peers, lambda: metric(pt, yt).float().mean()))
    if peers.jax and metric:
        candidates.append(jax_peer(peers, lambda p, y: metric(p, y).mean(), p, y))
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


def _loss_grad_and_hess(spec: LossSpec, n: int, peers: Peers) -> Problem:
    parameters: dict[str, Any] = dict(spec.parameters)
    loss, p = spec.cls(**parameters), _predictions(spec, n)
    y = _targets(spec, p)
    out = np.empty_like(p), np.empty_like(p)
    candidates = [Candidate(OURS, call(loss.grad_and_hess, p, y, out=out))]
    if peers.numpy:
        candidates.append(numpy_peer(lambda: spec.reference(p, y, **parameters)[1:], variant="reference"))
    if peers.jax and (jax_loss := other.jax_loss(peers.jax, spec.name, parameters)):
        grad = peers.jax.grad

        def derivatives(p: Any, y: Any) -> tuple[Any, Any]:
            first = grad(lambda p: jax_loss(p, y).sum())
            return first(p), grad(lambda p: first(p).sum())(p)

        candidates.append(jax_peer(peers, derivatives, p, y))
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


def _class_reference(spec: LossSpec, z: Array, labels: Array) -> tuple[float, Array, Array]:
    """Return mean value, and gradient and Hessian of the edge rows, in float64, some rows at a time."""
    parameters, classes = dict(spec.parameters), z.shape[1]

    def evaluate(z: Array, labels: Array) -> Any:
        one_hot = np.zeros(z.shape)
        one_hot[np.arange(len(labels)), labels] = 1
        return spec.reference(z.astype(np.float64), one_hot, **parameters)

    step = max(1, (1 << 20) // classes)
    total = sum(float(evaluate(z[i : i + step], labels[i : i + step])[0].sum()) for i in range(0, len(z), step))
    _, gradient, hessian = evaluate(edge_rows(z), edge_rows(labels))
    return total / len(z), gradient, hessian


def _class_value_and_grad(spec: LossSpec, shape: tuple[int, int], peers: Peers) -> Problem:
    loss, z = spec.cls(**spec.parameters), normal(*shape, scale=3)
    labels = np.random.default_rng(4).integers(0, shape[1], shape[0])

    def outputs(result: Any) -> list[Array]:
        value, gradient = as_arrays(result)
        return [value, edge_rows(gradient)]

    def one_hot_reference() -> tuple[Any, Array]:
        one_hot = np.zeros_like(z)
        one_hot[np.arange(len(labels)), labels] = 1
        return _mean_and_rows(spec.reference(z, one_hot, **spec.parameters))

    candidates = [Candidate(OURS, call(loss.value_and_grad, z, labels, out=np.empty_like(z)), outputs=outputs)]
    if peers.numpy:
        if spec.name == "softmax_cross_entropy":
            candidates.append(numpy_peer(other.numpy_softmax_cross_entropy, z, labels, outputs=outputs))
        else:
            candidates.append(numpy_peer(one_hot_reference, outputs=outputs, variant="reference"))
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

            candidates.append(jax_peer(peers, jax.value_and_grad(jax_loss), z, labels, outputs=outputs))
    value, gradient, _ = _class_reference(spec, z, labels)
    expected = [expect(value, 4), expect(gradient / len(z))]
    return Problem(candidates, expected, elements=z.size, num_bytes=8 * z.size)


def _mean_and_rows(found: Any) -> tuple[Any, Array]:
    value, gradient, _ = found
    return value.mean(), gradient / len(gradient)


def _class_grad_and_hess(spec: LossSpec, shape: tuple[int, int], peers: Peers) -> Problem:
    loss, z = spec.cls(**spec.parameters), normal(*shape, scale=3)
    labels = np.random.default_rng(4).integers(0, shape[1], shape[0])
    one_hot = np.zeros_like(z)
    one_hot[np.arange(len(labels)), labels] = 1
    out = np.empty_like(z), np.empty_like(z)
    candidates = [Candidate(OURS, call(loss.grad_and_hess, z, labels, out=out))]
    if peers.numpy and spec.name == "softmax_cross_entropy":

        def numpy_grad_and_hess() -> tuple[Array, Array]:
            p = other.numpy_softmax(z)
            return p - one_hot, p * (1 - p)

        candidates.append(numpy_peer(numpy_grad_and_hess))
    elif peers.numpy:
        reference = partial(spec.reference, z, one_hot, **spec.parameters)
        candidates.append(numpy_peer(lambda: reference()[1:], variant="reference"))
    _, gradient, hessian = spec.reference(z.astype(np.float64), one_hot.astype(np.float64), **spec.parameters)
    return Problem(candidates, [expect(gradient), expect(hessian)], elements=z.size, num_bytes=12 * z.size)


def _row_inputs(spec: LossSpec, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return predictions and targets of a loss of labels or of distributions."""
    pred = normal(*shape, scale=3)
    if spec.prediction != "logit":
        pred = np.asarray(fp.ops.softmax(pred) if spec.prediction == "probability" else fp.ops.log_softmax(pred))
    if spec.target_domain == "labels":
        return pred, np.random.default_rng(4).integers(0, shape[1], shape[0])
    return pred, np.asarray(fp.ops.softmax(normal(*shape, seed=4)))


def _row_value_and_grad(spec: LossSpec, shape: tuple[int, int], peers: Peers) -> Problem:
    loss, (pred, target) = spec.cls(), _row_inputs(spec, shape)
    candidates = [Candidate(OURS, call(loss.value_and_grad, pred, target, out=np.empty_like(pred)))]
    if peers.numpy:
        if spec.name in other.NUMPY_ROW_LOSSES:
            candidates.append(numpy_peer(other.NUMPY_ROW_LOSSES[spec.name], pred, target))
        else:
            candidates.append(
                numpy_peer(lambda: _mean_and_rows(_row_reference(spec, pred, target)), variant="reference")
            )
    if peers.torch and (torch_loss := other.torch_row_loss(peers.torch, spec.name)):
        candidates.append(_torch_value_and_grad(peers, torch_loss, pred, target))
    if peers.jax and (jax_loss := other.jax_row_loss(peers.jax, spec.name)):
        candidates.append(jax_peer(peers, peers.jax.value_and_grad(jax_loss), pred, target))
    value, gradient, _ = _row_reference(spec, pred, target)
    expected = [expect(value.mean(), 4), expect(gradient / len(pred), 4)]
    return Problem(candidates, expected, elements=pred.size, num_bytes=8 * pred.size)


def _row_reference(spec: LossSpec, pred: Array, target: Array) -> tuple[Array, Array, Array]:
    wide = np.eye(pred.shape[1])[target] if spec.target_domain == "labels" else target.astype(np.float64)
    found: tuple[Array, Array, Array] = spec.reference(pred.astype(np.float64), wide, **spec.parameters)
    return found


def _row_grad_and_hess(spec: LossSpec, shape: tuple[int, int], peers: Peers) -> Problem:
    loss, (pred, target) = spec.cls(), _row_inputs(spec, shape)
    out = np.empty_like(pred), np.empty_like(pred)
    candidates = [Candidate(OURS, call(loss.grad_and_hess, pred, target, out=out))]
    if peers.numpy:
        candidates.append(numpy_peer(lambda: _row_reference(spec, pred, target)[1:], variant="reference"))
    _, gradient, hessian = _row_reference(spec, pred, target)
    return Problem(candidates, [expect(gradient, 4), expect(hessian, 8)], elements=pred.size)


def _margin_value_and_grad(spec: LossSpec, shape: tuple[int, int, int], peers: Peers) -> Problem:
    rows, features, classes = shape
    x, weight = normal(rows, features), normal(features, classes, seed=1, scale=features**-0.5)
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
        candidates.append(numpy_peer(reference, x, weight, variant="reference"))
    if peers.torch and spec.name == "large_margin_softmax":
        torch = peers.torch
        xt, wt = (torch.from_numpy(a).requires_grad_() for a in (x, weight))
        yt = torch.from_numpy(labels)

        def torch_value_and_grad() -> Any:
            value = other.torch_large_margin(torch, xt, wt, yt)
            return value, torch.autograd.grad(value, (xt, wt))

        candidates.append(Candidate("PyTorch", call(torch_value_and_grad), outputs=flat))
    expected = [expect(part, 8) for part in reference(x.astype(np.float64), weight.astype(np.float64))]
    return Problem(candidates, expected, elements=rows * classes, flops=6.0 * rows * features * classes)


def _linear_value_and_grad(spec: LossSpec, shape: tuple[int, int, int], peers: Peers) -> Problem:
    """Measure loss and gradients of a last layer without bias."""
    rows, features, classes = shape
    x, weight = normal(rows, features), normal(features, classes, seed=1, scale=features**-0.5)
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
        candidates.append(numpy_peer(numpy_value_and_grad, outputs=flat))
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
        candidates.append(jax_peer(peers, differentiated, x, weight, labels, outputs=flat))
    expected = [expect(part, 8) for part in reference()]
    return Problem(candidates, expected, elements=rows * classes, flops=6.0 * rows * features * classes)


def cases(sizes: Sequence[str]) -> Iterator[Case]:
    """Return the cases, the elementwise ones at the given sizes."""
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
        if spec.over_classes:
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
