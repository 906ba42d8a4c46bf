"""What a user of NumPy, PyTorch, JAX or scikit-learn would write instead.

A formula's counterpart in PyTorch and JAX is looked up by its name, which is theirs wherever they have it;
the tables hold what cannot be found that way. A formula without an entry is compared with its reference in
float32 NumPy. Whether a counterpart computes the same is not taken on trust: every answer is checked.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Parameters = Mapping[str, float]


def torch_or_none() -> Any:
    """Return PyTorch, with as many threads as the benchmark may use, or None."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch  # noqa: PLC0415  # optional

    threads = _threads()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return torch


def jax_or_none() -> Any:
    """Return JAX, on the CPU, or None. Its threads follow the affinity mask."""
    if importlib.util.find_spec("jax") is None:
        return None
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax  # noqa: PLC0415  # optional

    return jax


def _threads() -> int:
    import fuseprop as fp  # noqa: PLC0415  # no import before it is needed

    return fp.get_num_threads()


# --- activations --------------------------------------------------------------------------------------------


def _sigmoid(x: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-x))
    return result


def _tail(x: Array) -> Array:
    """e^x for x < 0, 1 elsewhere: what does not overflow in a branch that is not taken."""
    result: Array = np.exp(np.minimum(x, 0))
    return result


_SELU_SCALE, _SELU_ALPHA = np.float32(1.0507009873554805), np.float32(1.6732632423543772)


def _numpy_mish_backward(x: Array, dy: Array, out: Array) -> Array:
    t = np.tanh(np.logaddexp(0, x))
    result: Array = dy * (t + x * (1 - t * t) * _sigmoid(x))
    return result


#: f(x, out, **parameters) and dy * f'(x) as one writes them in NumPy.
NUMPY_ACTIVATIONS: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "identity": (lambda x, out: np.positive(x, out=out), lambda x, dy, out: np.positive(dy, out=out)),
    "step": (
        lambda x, out, at_zero: np.heaviside(x, np.float32(at_zero), out=out),
        lambda x, dy, out, at_zero: np.multiply(dy, 0, out=out),
    ),
    "relu": (lambda x, out: np.maximum(x, 0, out=out), lambda x, dy, out: np.multiply(dy, x > 0, out=out)),
    "leaky_relu": (
        lambda x, out, negative_slope: np.where(x > 0, x, negative_slope * x),
        lambda x, dy, out, negative_slope: np.where(x > 0, dy, negative_slope * dy),
    ),
    "sigmoid": (lambda x, out: _sigmoid(x), lambda x, dy, out: dy * _sigmoid(x) * _sigmoid(-x)),
    "tanh": (lambda x, out: np.tanh(x, out=out), lambda x, dy, out: dy * (1 - np.tanh(x) ** 2)),
    "softplus": (
        lambda x, out, beta: np.logaddexp(0, beta * x) / beta,
        lambda x, dy, out, beta: dy * _sigmoid(beta * x),
    ),
    "elu": (
        lambda x, out, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda x, dy, out, alpha: dy * np.where(x > 0, 1, alpha * _tail(x)),
    ),
    "selu": (
        lambda x, out: _SELU_SCALE * np.where(x > 0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0))),
        lambda x, dy, out: dy * _SELU_SCALE * np.where(x > 0, 1, _SELU_ALPHA * _tail(x)),
    ),
    "celu": (
        lambda x, out, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha)),
        lambda x, dy, out, alpha: dy * np.where(x > 0, 1, _tail(x / alpha)),
    ),
    "swish": (
        lambda x, out, beta: x * _sigmoid(beta * x),
        lambda x, dy, out, beta: dy * _sigmoid(beta * x) * (1 + beta * x * _sigmoid(-beta * x)),
    ),
    "log_sigmoid": (lambda x, out: -np.logaddexp(0, -x), lambda x, dy, out: dy * _sigmoid(-x)),
    "mish": (lambda x, out: x * np.tanh(np.logaddexp(0, x)), _numpy_mish_backward),
    "softsign": (lambda x, out: x / (1 + np.abs(x)), lambda x, dy, out: dy / (1 + np.abs(x)) ** 2),
    "hardtanh": (
        lambda x, out, min_val, max_val: np.clip(x, min_val, max_val, out=out),
        lambda x, dy, out, min_val, max_val: np.multiply(dy, (x > min_val) & (x < max_val), out=out),
    ),
    "hardsigmoid": (
        lambda x, out: np.clip(x / 6 + np.float32(0.5), 0, 1),
        lambda x, dy, out: dy * ((x > -3) & (x < 3)) / 6,
    ),
    "hardswish": (
        lambda x, out: x * np.clip(x / 6 + np.float32(0.5), 0, 1),
        lambda x, dy, out: dy * np.where(x <= -3, 0, np.where(x < 3, x / 3 + np.float32(0.5), 1)),
    ),
}


def torch_activation(torch: Any, name: str) -> Callable[..., Any] | None:
    """Return PyTorch's function of this name, which takes our parameters, or None."""
    if name == "step":
        return lambda x, at_zero: torch.heaviside(x, torch.tensor(at_zero))
    if name == "swish":
        return lambda x, beta: torch.nn.functional.silu(x)
    name = {"log_sigmoid": "logsigmoid"}.get(name, name)
    return getattr(torch, name, None) or getattr(torch.nn.functional, name, None)


def torch_activation_out(torch: Any, name: str) -> Callable[..., Any] | None:
    """Return PyTorch's function of this name that takes out=, or None."""
    if name == "step":
        return lambda x, at_zero, out: torch.heaviside(x, torch.tensor(at_zero), out=out)
    if name == "relu":  # torch.relu has none
        return lambda x, out: torch.clamp(x, min=0, out=out)
    if name == "swish":
        return lambda x, beta, out: torch.ops.aten.silu.out(x, out=out)
    operator = getattr(torch.ops.aten, name, None)
    return None if operator is None else getattr(operator, "out", None)


def jax_activation(jax: Any, name: str) -> Callable[..., Any] | None:
    """Return JAX's function of this name, or None. It takes our parameters, or has their defaults built in."""
    if name == "step":
        return lambda x, at_zero: jax.numpy.heaviside(x, jax.numpy.float32(at_zero))
    if name == "gelu":
        return lambda x, approximate: jax.nn.gelu(x, approximate=approximate == "tanh")
    known = {
        "swish": "silu",
        "softsign": "soft_sign",
        "hardtanh": "hard_tanh",
        "hardsigmoid": "hard_sigmoid",
        "hardswish": "hard_silu",
    }
    name = known.get(name, name)
    return getattr(jax.nn, name, None) or getattr(jax.numpy, name, None)


# --- softmax ------------------------------------------------------------------------------------------------


def numpy_softmax(x: Array) -> Array:
    """Softmax over the last axis as one writes it in NumPy."""
    p: Array = x - x.max(axis=-1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def numpy_logsumexp(x: Array) -> Array:
    """Logsumexp over the last axis as one writes it in NumPy."""
    m = x.max(axis=-1, keepdims=True)
    result: Array = np.log(np.exp(x - m).sum(axis=-1)) + m[..., 0]
    return result


def numpy_log_softmax(x: Array) -> Array:
    """Log-softmax over the last axis as one writes it in NumPy."""
    result: Array = x - numpy_logsumexp(x)[..., np.newaxis]
    return result


# --- activations of another structure -----------------------------------------------------------------------


def _numpy_silu(x: Array) -> tuple[Array, Array]:
    s = _sigmoid(x)
    return x * s, s * (1 + x * (1 - s))


def _numpy_gelu(x: Array) -> tuple[Array, Array]:
    """Return the tanh approximation's value and derivative: NumPy has no erf."""
    u = np.float32(0.7978845608) * (x + np.float32(0.044715) * x**3)
    t = np.tanh(u)
    du = np.float32(0.7978845608) * (1 + np.float32(3 * 0.044715) * x**2)
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du


def _numpy_gate(gate: Callable[[Array], tuple[Array, Array]]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def forward(x: Array) -> Array:
        a, b = np.split(x, 2, axis=-1)
        result: Array = a * gate(b)[0]
        return result

    def backward(x: Array, dy: Array) -> Array:
        a, b = np.split(x, 2, axis=-1)
        value, derivative = gate(b)
        return np.concatenate([dy * value, dy * a * derivative], axis=-1)

    return forward, backward


def _numpy_softmax_backward(x: Array, dy: Array) -> Array:
    f = numpy_softmax(x)
    result: Array = f * (dy - (dy * f).sum(axis=-1, keepdims=True))
    return result


def _numpy_log_softmax_backward(x: Array, dy: Array) -> Array:
    result: Array = dy - numpy_softmax(x) * dy.sum(axis=-1, keepdims=True)
    return result


def _numpy_prelu_backward(x: Array, dy: Array) -> tuple[Array, Any]:
    left = x <= 0
    return np.where(left, np.float32(0.25) * dy, dy), np.sum(dy * x, where=left).reshape(1)


def _numpy_maxout_backward(x: Array, dy: Array) -> Array:
    pairs = x.reshape(*dy.shape, 2)
    first = pairs[..., 0] >= pairs[..., 1]
    return np.stack([dy * first, dy * ~first], axis=-1).reshape(x.shape)


def _numpy_crelu_backward(x: Array, dy: Array) -> Array:
    first, second = np.split(dy, 2, axis=-1)
    result: Array = first * (x > 0) - second * (x < 0)
    return result


#: f(x) and dL/dx (for PReLU also dL/dalpha) at the default parameters, along the last axis.
NUMPY_STRUCTURED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "prelu": (lambda x: np.where(x > 0, x, np.float32(0.25) * x), _numpy_prelu_backward),
    "rrelu": (
        lambda x: np.where(x > 0, x, np.float32(11 / 48) * x),
        lambda x, dy: np.where(x > 0, dy, np.float32(11 / 48) * dy),
    ),
    "softmax": (numpy_softmax, _numpy_softmax_backward),
    "log_softmax": (numpy_log_softmax, _numpy_log_softmax_backward),
    "crelu": (lambda x: np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis=-1), _numpy_crelu_backward),
    "maxout": (lambda x: x.reshape(len(x), -1, 2).max(axis=-1), _numpy_maxout_backward),
    "glu": _numpy_gate(lambda b: (_sigmoid(b), _sigmoid(b) * _sigmoid(-b))),
    "swiglu": _numpy_gate(_numpy_silu),
    "geglu": _numpy_gate(_numpy_gelu),
}


def torch_structured(torch: Any, name: str) -> Callable[..., Any] | None:
    """Return what one writes in PyTorch for this activation at its default parameters, or None."""
    functional = torch.nn.functional

    def gate(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def apply(x: Any) -> Any:
            a, b = x.chunk(2, -1)
            return a * function(b)

        return apply

    known: dict[str, Callable[..., Any]] = {
        "prelu": functional.prelu,
        "rrelu": functional.rrelu,
        "softmax": lambda x: torch.softmax(x, -1),
        "log_softmax": lambda x: torch.log_softmax(x, -1),
        "crelu": lambda x: torch.cat([torch.relu(x), torch.relu(-x)], -1),
        "maxout": lambda x: x.unflatten(-1, (-1, 2)).max(-1).values,
        "glu": functional.glu,
        "swiglu": gate(functional.silu),
        "geglu": gate(functional.gelu),
    }
    return known.get(name)


def jax_structured(jax: Any, name: str) -> Callable[..., Any] | None:
    """Return what one writes in JAX for this activation at its default parameters, or None."""
    nn, np_ = jax.nn, jax.numpy

    def gate(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def apply(x: Any) -> Any:
            a, b = np_.split(x, 2, axis=-1)
            return a * function(b)

        return apply

    known: dict[str, Callable[..., Any]] = {
        "prelu": lambda x, alpha: np_.where(x > 0, x, alpha * x),
        "rrelu": lambda x: nn.leaky_relu(x, 11 / 48),
        "softmax": nn.softmax,
        "log_softmax": nn.log_softmax,
        "crelu": lambda x: np_.concatenate([nn.relu(x), nn.relu(-x)], axis=-1),
        "maxout": lambda x: x.reshape(*x.shape[:-1], -1, 2).max(axis=-1),
        "glu": gate(nn.sigmoid),
        "swiglu": gate(nn.silu),
        "geglu": gate(lambda b: nn.gelu(b, approximate=False)),
    }
    return known.get(name)


# --- losses of one prediction per target --------------------------------------------------------------------


def _numpy_half_squared_error(p: Array, y: Array) -> tuple[Any, Array]:
    r = p - y
    return 0.5 * np.mean(r * r), r / r.size


def _numpy_huber(p: Array, y: Array, delta: float) -> tuple[Any, Array]:
    r = p - y
    a = np.abs(r)
    return np.mean(np.where(a <= delta, 0.5 * r * r, delta * (a - 0.5 * delta))), np.clip(r, -delta, delta) / r.size


def _numpy_bce_with_logits(p: Array, y: Array, pos_weight: float) -> tuple[Any, Array]:
    tail = np.log1p(np.exp(-np.abs(p)))
    positive, negative = tail + np.maximum(-p, 0), tail + np.maximum(p, 0)
    s = 1 / (1 + np.exp(-p))
    value = np.mean(pos_weight * y * positive + (1 - y) * negative)
    return value, ((1 - y) * s - pos_weight * y * (1 - s)) / p.size


def _numpy_squared_error(p: Array, y: Array) -> tuple[Any, Array]:
    r = p - y
    return np.mean(r * r), 2 / r.size * r


def _numpy_root_mean_squared_error(p: Array, y: Array) -> tuple[Any, Array]:
    r = p - y
    value = np.sqrt(np.mean(r * r))
    return value, r / (value * r.size)


def _numpy_absolute_error(p: Array, y: Array) -> tuple[Any, Array]:
    r = p - y
    return np.mean(np.abs(r)), np.sign(r) / r.size


def _numpy_quantile(p: Array, y: Array, q: float) -> tuple[Any, Array]:
    r = p - y
    slope = np.where(r > 0, np.float32(1 - q), np.float32(-q))
    return np.mean(slope * r), slope / r.size


def _numpy_hinge(p: Array, y: Array) -> tuple[Any, Array]:
    slack = 1 - y * p
    return np.mean(np.maximum(slack, 0)), np.where(slack > 0, -y, np.float32(0)) / p.size


def _numpy_squared_hinge(p: Array, y: Array) -> tuple[Any, Array]:
    slack = np.maximum(1 - y * p, 0)
    return np.mean(slack * slack), -2 / p.size * y * slack


def _numpy_exponential(p: Array, y: Array) -> tuple[Any, Array]:
    e = np.exp(-y * p)
    return np.mean(e), -y * e / p.size


def _numpy_logistic(p: Array, y: Array) -> tuple[Any, Array]:
    margin = y * p
    return np.mean(np.logaddexp(0, -margin)), -y / (1 + np.exp(margin)) / p.size


def _numpy_binary_cross_entropy(p: Array, y: Array, eps: float | None) -> tuple[Any, Array]:
    del eps
    value = -np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))
    return value, (p - y) / (p * (1 - p)) / p.size


def _numpy_poisson(p: Array, y: Array) -> tuple[Any, Array]:
    e = np.exp(p)
    return np.mean(e - y * p), (e - y) / p.size


def _numpy_gamma(p: Array, y: Array) -> tuple[Any, Array]:
    e = y * np.exp(-p)
    return np.mean(p + e), (1 - e) / p.size


def _numpy_tweedie(p: Array, y: Array, power: float) -> tuple[Any, Array]:
    first, second = np.exp((2 - power) * p), y * np.exp((1 - power) * p)
    return np.mean(first / (2 - power) - second / (1 - power)), (first - second) / p.size


#: (mean value, its gradient) as one writes them in NumPy.
NUMPY_LOSSES: dict[str, Callable[..., tuple[Any, Array]]] = {
    "half_squared_error": _numpy_half_squared_error,
    "huber": _numpy_huber,
    "binary_cross_entropy_with_logits": _numpy_bce_with_logits,
    "squared_error": _numpy_squared_error,
    "root_mean_squared_error": _numpy_root_mean_squared_error,
    "absolute_error": _numpy_absolute_error,
    "quantile": _numpy_quantile,
    "hinge": _numpy_hinge,
    "squared_hinge": _numpy_squared_hinge,
    "exponential": _numpy_exponential,
    "logistic": _numpy_logistic,
    "binary_cross_entropy": _numpy_binary_cross_entropy,
    "poisson": _numpy_poisson,
    "gamma": _numpy_gamma,
    "tweedie": _numpy_tweedie,
}


def _formula(xp: Any, softplus: Callable[[Any], Any], name: str, parameters: Parameters) -> Callable[..., Any] | None:
    """Return the loss per element as one writes it in a library with NumPy's function names, or None."""

    def focal(p: Any, y: Any) -> Any:
        gamma, alpha = parameters["gamma"], parameters["alpha"]
        positive = alpha * y * xp.exp(-gamma * softplus(p)) * softplus(-p)
        return positive + (1 - alpha) * (1 - y) * xp.exp(-gamma * softplus(-p)) * softplus(p)

    def tweedie(p: Any, y: Any) -> Any:
        power = parameters["power"]
        return xp.exp((2 - power) * p) / (2 - power) - y * xp.exp((1 - power) * p) / (1 - power)

    def quantile(p: Any, y: Any) -> Any:
        q, r = parameters["q"], p - y
        return xp.where(r > 0, (1 - q) * r, -q * r)

    def pseudo_huber(p: Any, y: Any) -> Any:
        delta = parameters["delta"]
        return delta**2 * (xp.sqrt(1 + ((p - y) / delta) ** 2) - 1)

    def hinge(p: Any, y: Any) -> Any:
        slack = 1 - y * p
        return xp.where(slack > 0, slack, 0)

    def log_cosh(p: Any, y: Any) -> Any:
        return (p - y) + softplus(-2 * (p - y)) - float(np.log(2.0))

    formulas: dict[str, Callable[..., Any]] = {
        "hinge": hinge,
        "squared_hinge": lambda p, y: hinge(p, y) ** 2,
        "exponential": lambda p, y: xp.exp(-y * p),
        "logistic": lambda p, y: softplus(-y * p),
        "binary_cross_entropy": lambda p, y: -(y * xp.log(p) + (1 - y) * xp.log1p(-p)),
        "focal_with_logits": focal,
        "squared_error": lambda p, y: (p - y) ** 2,
        "absolute_error": lambda p, y: xp.abs(p - y),
        "absolute_percentage_error": lambda p, y: 100 * xp.abs((p - y) / y),
        "symmetric_absolute_percentage_error": lambda p, y: 200 * xp.abs(p - y) / (xp.abs(p) + xp.abs(y)),
        "pseudo_huber": pseudo_huber,
        "log_cosh": log_cosh,
        "quantile": quantile,
        "poisson": lambda p, y: xp.exp(p) - y * p,
        "gamma": lambda p, y: p + y * xp.exp(-p),
        "tweedie": tweedie,
    }
    return formulas.get(name)


def torch_loss(torch: Any, name: str, parameters: Parameters) -> Callable[[Any, Any], Any] | None:
    """Return PyTorch's mean loss of this name, or None."""
    functional = torch.nn.functional
    if name == "half_squared_error":
        return lambda p, y: 0.5 * functional.mse_loss(p, y)
    if name == "binary_cross_entropy_with_logits":
        weight = torch.tensor(parameters["pos_weight"])
        plain = parameters["pos_weight"] == 1
        return lambda p, y: functional.binary_cross_entropy_with_logits(p, y, pos_weight=None if plain else weight)
    known = {
        "absolute_error": "l1_loss",
        "binary_cross_entropy": "binary_cross_entropy",
        "logistic": "soft_margin_loss",
        "poisson": "poisson_nll_loss",
        "squared_error": "mse_loss",
    }
    if name in known:
        found: Callable[[Any, Any], Any] = getattr(functional, known[name])
        return found
    if name == "root_mean_squared_error":
        return lambda p, y: functional.mse_loss(p, y).sqrt()
    if name == "huber":
        return lambda p, y: functional.huber_loss(p, y, **parameters)
    if (formula := _formula(torch, functional.softplus, name, parameters)) is not None:
        return lambda p, y: formula(p, y).mean()
    return None


def jax_loss(jax: Any, name: str, parameters: Parameters) -> Callable[[Any, Any], Any] | None:
    """Return the loss per element as one writes it in JAX, or None."""
    np_ = jax.numpy
    if name == "half_squared_error":
        return lambda p, y: 0.5 * (p - y) ** 2
    if name == "huber":
        delta = parameters["delta"]

        def huber(p: Any, y: Any) -> Any:
            a = np_.abs(p - y)
            return np_.where(a <= delta, 0.5 * a * a, delta * (a - 0.5 * delta))

        return huber
    if name == "binary_cross_entropy_with_logits":
        w = parameters["pos_weight"]
        return lambda p, y: w * y * jax.nn.softplus(-p) + (1 - y) * jax.nn.softplus(p)
    return _formula(np_, jax.nn.softplus, name, parameters)


# --- losses over classes, but for softmax cross-entropy -----------------------------------------------------


def _numpy_categorical_cross_entropy(p: Array, y: Array) -> tuple[Any, Array]:
    return -(y * np.log(p)).sum(axis=-1).mean(), -y / (p * np.float32(len(p)))


def _numpy_kl_divergence(p: Array, y: Array) -> tuple[Any, Array]:
    return (y * np.log(y / p)).sum(axis=-1).mean(), -y / (p * np.float32(len(p)))


def _numpy_negative_log_likelihood(log_p: Array, labels: Array) -> tuple[Any, Array]:
    rows = np.arange(len(labels))
    gradient = np.zeros_like(log_p)
    gradient[rows, labels] = -1 / len(labels)
    return -log_p[rows, labels].mean(), gradient


def _numpy_softmax_focal(z: Array, labels: Array) -> tuple[Any, Array]:
    rows = np.arange(len(labels))
    p = numpy_softmax(z)
    own = p[rows, labels]
    log_own = np.log(own)
    slope = (1 - own) ** 2 - 2 * own * (1 - own) * log_own
    p[rows, labels] -= 1
    p *= (slope / np.float32(len(labels)))[:, None]
    return -((1 - own) ** 2 * log_own).mean(), p


#: (mean value, its gradient) at default parameters as one writes them in NumPy.
#: Metrics as one writes them for arrays of any of the libraries: what the mean is of.
METRICS: dict[str, Callable[[Any, Any], Any]] = {"zero_one": lambda p, y: p * y <= 0}

NUMPY_ROW_LOSSES: dict[str, Callable[..., tuple[Any, Array]]] = {
    "categorical_cross_entropy": _numpy_categorical_cross_entropy,
    "kl_divergence": _numpy_kl_divergence,
    "negative_log_likelihood": _numpy_negative_log_likelihood,
    "softmax_focal": _numpy_softmax_focal,
}


def torch_row_loss(torch: Any, name: str) -> Callable[[Any, Any], Any] | None:
    """Return the mean loss at default parameters as one writes it in PyTorch, or None."""
    functional = torch.nn.functional

    def focal(z: Any, labels: Any) -> Any:
        log_own = functional.log_softmax(z, -1).gather(1, labels[:, None])[:, 0]
        return -((1 - log_own.exp()) ** 2 * log_own).mean()

    losses: dict[str, Callable[[Any, Any], Any]] = {
        "categorical_cross_entropy": lambda p, y: -(y * p.log()).sum(-1).mean(),
        "kl_divergence": lambda p, y: functional.kl_div(p.log(), y, reduction="batchmean"),
        "negative_log_likelihood": functional.nll_loss,
        "softmax_focal": focal,
    }
    return losses.get(name)


def jax_row_loss(jax: Any, name: str) -> Callable[[Any, Any], Any] | None:
    """Return the mean loss at default parameters as one writes it in JAX, or None."""
    xp = jax.numpy

    def own(log_p: Any, labels: Any) -> Any:
        return xp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]

    def focal(z: Any, labels: Any) -> Any:
        log_own = own(jax.nn.log_softmax(z), labels)
        return -((1 - xp.exp(log_own)) ** 2 * log_own).mean()

    losses: dict[str, Callable[[Any, Any], Any]] = {
        "categorical_cross_entropy": lambda p, y: -(y * xp.log(p)).sum(-1).mean(),
        "kl_divergence": lambda p, y: (y * xp.log(y / p)).sum(-1).mean(),
        "negative_log_likelihood": lambda log_p, labels: -own(log_p, labels).mean(),
        "softmax_focal": focal,
    }
    return losses.get(name)


def torch_large_margin(torch: Any, x: Any, weight: Any, labels: Any) -> Any:
    """Mean large-margin softmax loss with margin 2."""
    scores = x @ weight
    size = x.norm(dim=1) * weight.norm(dim=0)[labels]
    cosine = scores.gather(1, labels[:, None])[:, 0] / size
    double = 2 * cosine * cosine - 1
    psi = torch.where(cosine > 0, double, -double - 2)
    scores = scores.scatter(1, labels[:, None], (size * psi)[:, None])
    return torch.nn.functional.cross_entropy(scores, labels)


def torch_linear_cross_entropy(torch: Any, x: Any, weight: Any, labels: Any) -> dict[str, Callable[[], Any]]:
    """Return the mean loss of x @ weight, by variant: as a layer and a loss, and as PyTorch 2.13 fuses them."""
    functional = torch.nn.functional
    ways: dict[str, Callable[[], Any]] = {"": lambda: functional.cross_entropy(x @ weight, labels)}
    if hasattr(functional, "linear_cross_entropy") and hasattr(torch.nn, "LinearCrossEntropyOptions"):
        options = torch.nn.LinearCrossEntropyOptions()
        # Its weight is (classes, features).
        ways["chunked"] = lambda: functional.linear_cross_entropy(x, weight.T, labels, options=options)
    return ways


def sklearn_loss(name: str, parameters: Parameters) -> Any:
    """Return scikit-learn's internal loss of this name (what its boosting uses), or None."""
    known = {
        "half_squared_error": "HalfSquaredError",
        "binary_cross_entropy_with_logits": "HalfBinomialLoss",
        "poisson": "HalfPoissonLoss",
        "gamma": "HalfGammaLoss",
        "tweedie": "HalfTweedieLoss",
        "absolute_error": "AbsoluteError",
        "quantile": "PinballLoss",
        "huber": "HuberLoss",
    }
    if name not in known or importlib.util.find_spec("sklearn") is None:
        return None
    try:
        from sklearn._loss import loss  # noqa: PLC0415  # optional, and private there
    except ImportError:
        return None
    options = {{"q": "quantile"}.get(key, key): parameters[key] for key in ("q", "delta", "power") if key in parameters}
    return getattr(loss, known[name])(**options)


#: Whose Hessian is 1 everywhere in scikit-learn, which its boosting wants.
SKLEARN_WITHOUT_HESSIAN = {"absolute_error", "quantile", "huber"}


# --- classes ------------------------------------------------------------------------------------------------


def numpy_softmax_cross_entropy(z: Array, labels: Array) -> tuple[Any, Array]:
    """(mean value, gradient) as one writes them in NumPy."""
    p = z - z.max(axis=1, keepdims=True)
    np.exp(p, out=p)
    total = p.sum(axis=1, keepdims=True)
    p /= total
    rows = np.arange(len(labels))
    value = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    p /= len(labels)
    return value, p


def with_defaults(function: Callable[..., Any], parameters: Mapping[str, float]) -> Callable[[Any], Any]:
    """Give the parameters to a function that takes them; one that does not has the defaults built in."""

    def apply(x: Any) -> Any:
        try:
            return function(x, **parameters)
        except TypeError:
            return function(x)

    return apply
