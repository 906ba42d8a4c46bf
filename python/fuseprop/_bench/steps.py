"""A whole training step of a small network (forward, loss, backward, Adam on one batch) in each library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuseprop import losses, nn, optim

Array = NDArray[Any]
#: Makes a step and returns the batch's loss before the update.
Step = Callable[[], Any]

LEARNING_RATE = 1e-3


def make_model(sizes: Sequence[int]) -> nn.Sequential:
    """Return a new network of these widths: ReLU in between, logits at the end."""
    last = len(sizes) - 2
    layers = [nn.Dense(sizes[i], sizes[i + 1], "relu" if i < last else None) for i in range(last + 1)]
    return nn.Sequential(layers, rng=0)


def _weights(sizes: Sequence[int]) -> tuple[list[Array], list[Array]]:
    """Return copies of the weights (in, out) and biases that every library starts from."""
    parameters = list(make_model(sizes).state_dict().values())
    weights, biases = parameters[::2], parameters[1::2]
    return list(weights), list(biases)


def fuseprop_step(sizes: Sequence[int], x: Array, y: Array) -> Step:
    """Make the step of this library."""
    model = make_model(sizes)
    loss, optimizer = losses.SoftmaxCrossEntropy(), optim.Adam(model, lr=LEARNING_RATE)
    return lambda: model.train_step(x, y, loss, optimizer)


def numpy_step(sizes: Sequence[int], x: Array, y: Array) -> Step:
    """Make the same step as one would write it in NumPy, in x's dtype."""
    weights, biases = ([a.astype(x.dtype) for a in arrays] for arrays in _weights(sizes))
    parameters = [*weights, *biases]
    first, second = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters]
    rows = np.arange(len(y))
    t = 0

    def step() -> Any:
        nonlocal t
        t += 1
        inputs, h = [], x
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            inputs.append(h)
            h = h @ w + b
            if i < len(weights) - 1:
                h = np.maximum(h, 0)
        p = np.exp(h - h.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        value = -np.log(p[rows, y]).mean()
        p[rows, y] -= 1
        delta = p / len(y)
        grads: list[Array] = [x] * len(parameters)
        for i in range(len(weights) - 1, -1, -1):
            grads[i], grads[len(weights) + i] = inputs[i].T @ delta, delta.sum(axis=0)
            if i > 0:
                delta = (delta @ weights[i].T) * (inputs[i] > 0)
        rate, correction = LEARNING_RATE / (1 - 0.9**t), 1 / (1 - 0.999**t)
        for param, g, m, v in zip(parameters, grads, first, second, strict=True):
            m[...] = 0.9 * m + 0.1 * g
            v[...] = 0.999 * v + 0.001 * g * g
            param[...] -= rate * m / (np.sqrt(v * correction) + 1e-8)
        return value

    return step


def torch_step(torch: Any, sizes: Sequence[int], x: Array, y: Array, *, fused: bool = True) -> Step:
    """Make the step of PyTorch, eager."""
    layers: list[Any] = []
    for i, (w, b) in enumerate(zip(*_weights(sizes), strict=True)):
        layers += [torch.nn.ReLU()] if i > 0 else []
        layer = torch.nn.Linear(*w.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(w.T.copy()))
            layer.bias.copy_(torch.from_numpy(b))
        layers.append(layer)
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=fused)
    xb, yb = torch.from_numpy(x), torch.from_numpy(y)

    def step() -> Any:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(model(xb), yb)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def jax_step(jax: Any, sizes: Sequence[int], x: Array, y: Array) -> Step:
    """Make the step of JAX, compiled as a whole, with its state donated."""
    jnp = jax.numpy
    weights, biases = _weights(sizes)
    rows = np.arange(len(y))

    def loss(params: Any, xb: Any, yb: Any) -> Any:
        h = xb
        for i, (w, b) in enumerate(params):
            h = h @ w + b
            if i < len(params) - 1:
                h = jnp.maximum(h, 0)
        return -jnp.mean(jax.nn.log_softmax(h)[rows, yb])

    def update(state: Any, xb: Any, yb: Any) -> Any:
        params, first, second, t = state
        value, grads = jax.value_and_grad(loss)(params, xb, yb)
        t = t + 1
        tree = jax.tree_util.tree_map
        first = tree(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
        second = tree(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
        rate, correction = LEARNING_RATE / (1 - 0.9**t), 1 / (1 - 0.999**t)
        params = tree(lambda p, m, v: p - rate * m / (jnp.sqrt(v * correction) + 1e-8), params, first, second)
        return (params, first, second, t), value

    compiled = jax.jit(update, donate_argnums=0)

    def fresh() -> Any:
        return [(jnp.array(w), jnp.array(b)) for w, b in zip(weights, biases, strict=True)]

    zeros = jax.tree_util.tree_map(jnp.zeros_like, fresh())
    state = (fresh(), zeros, jax.tree_util.tree_map(jnp.zeros_like, zeros), jnp.float32(0))
    xb, yb = jnp.array(x), jnp.array(y)

    def step() -> Any:
        nonlocal state
        state, value = compiled(state, xb, yb)
        return value.block_until_ready()

    return step


def sklearn_step(sizes: Sequence[int], x: Array, y: Array) -> Step:
    """Make a `partial_fit` of MLPClassifier, which is one Adam step; it starts from weights of its own."""
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415  # optional

    model = MLPClassifier(
        tuple(sizes[1:-1]), batch_size=len(y), alpha=0.0, learning_rate_init=LEARNING_RATE, random_state=0
    )
    model.partial_fit(x, y, classes=np.arange(sizes[-1]))

    def step() -> Any:
        model.partial_fit(x, y)
        return model.loss_

    return step
