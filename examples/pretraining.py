"""Greedy layer-wise pre-training, then fine-tuning: handwritten digits, most of them without a label.

Each hidden layer is first trained without labels: as an auto-encoder that rebuilds its own input, or as a restricted
Boltzmann machine (scikit-learn's BernoulliRBM). What it then makes of the images is the input of the next one. The
stack, with a layer of classes on top, is trained on the few labels there are, and so is the same network from its own
initial values. (Hinton and Salakhutdinov 2006; Bengio et al. 2007)

Needs scikit-learn: pip install "fuseprop[sklearn]"
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import BernoulliRBM

import fuseprop as fp

Parameters = dict[str, np.ndarray]


def autoencoder(x: np.ndarray, units: int, *, epochs: int, rng: np.random.Generator) -> Parameters:
    """Train units that x can be rebuilt from; return their weight and bias."""
    features = x.shape[1]
    model = fp.nn.Sequential([fp.nn.Dense(features, units, "sigmoid"), fp.nn.Dense(units, features)], rng=rng)
    model.fit(
        x,
        x,
        loss="binary_cross_entropy_with_logits",
        optimizer=fp.optim.Adam(model, lr=3e-3),
        epochs=epochs,
        progress=False,
    )
    parameters = model.state_dict()
    return {"weight": parameters["0.weight"], "bias": parameters["0.bias"]}


def boltzmann(x: np.ndarray, units: int, *, epochs: int, rng: np.random.Generator) -> Parameters:
    """Train a restricted Boltzmann machine; return weight and bias of its hidden units."""
    seed = int(rng.integers(2**31))
    machine = BernoulliRBM(units, learning_rate=0.05, n_iter=epochs, random_state=seed).fit(x)
    return {"weight": machine.components_.T, "bias": machine.intercept_hidden_}


METHODS = {"autoencoder": autoencoder, "rbm": boltzmann}


def pretrain(
    x: np.ndarray, sizes: Sequence[int], *, method: str, epochs: int, rng: np.random.Generator
) -> list[Parameters]:
    """Train one layer of sigmoids after the other, without labels."""
    found = []
    for units in sizes:
        parameters = METHODS[method](x, units, epochs=epochs, rng=rng)
        found.append(parameters)
        x = fp.ops.linear(
            x, parameters["weight"].astype(x.dtype), parameters["bias"].astype(x.dtype), activation="sigmoid"
        )
    return found


def classifier(features: int, sizes: Sequence[int], pretrained: Sequence[Parameters]) -> fp.nn.Sequential:
    """Return a network of sigmoids with ten outputs, whose first layers have the parameters given."""
    widths = [features, *sizes]
    hidden = [fp.nn.Dense(m, n, "sigmoid") for m, n in itertools.pairwise(widths)]
    model = fp.nn.Sequential([*hidden, fp.nn.Dense(widths[-1], 10)], rng=0)
    for i, parameters in enumerate(pretrained):
        for name, values in parameters.items():
            model.parameters()[f"{i}.{name}"][...] = values
    return model


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="autoencoder", help="(default: autoencoder)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[128, 64, 32], help="hidden layers (default: 128 64 32)"
    )
    parser.add_argument("--labels", type=int, default=100, help="how many digits have a label (default: 100)")
    parser.add_argument("--epochs", type=int, default=40, help="of each layer's pre-training (default: 40)")
    parser.add_argument("--fine-tuning", type=int, default=150, help="epochs with labels (default: 150)")
    arguments = parser.parse_args(argv)

    data = load_digits()
    x = (data.data / 16).astype(np.float32)
    x_train, x_test, y_train, y_test = train_test_split(x, data.target, test_size=450, random_state=0)
    few = slice(arguments.labels)
    rng = np.random.default_rng(0)
    layers = pretrain(x_train, arguments.sizes, method=arguments.method, epochs=arguments.epochs, rng=rng)
    print(f"{len(x_train)} digits, {arguments.labels} of them with a label; network 64-{arguments.sizes}-10")
    accuracies = {}
    for name, pretrained in (("without pre-training", []), ("with pre-training", layers)):
        model = classifier(x.shape[1], arguments.sizes, pretrained)
        model.fit(
            x_train[few],
            y_train[few],
            loss="softmax_cross_entropy",
            optimizer=fp.optim.Adam(model, lr=3e-3),
            epochs=arguments.fine_tuning,
            batch_size=20,
            progress=False,
        )
        accuracies[name] = fp.nn.accuracy(model.predict(x_test), y_test)
        print(f"{name:<22} test accuracy {accuracies[name]:.3f}")
    return accuracies


if __name__ == "__main__":
    main()
