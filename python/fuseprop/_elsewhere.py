"""What things are called elsewhere, by PyTorch and Keras above all, and what they are called here.

Names of formulas are in the registry: aliases where the meaning is the same, `ELSEWHERE` where it is not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

from fuseprop import _registry

#: Classes of PyTorch and Keras that have another name here, or another module than that in which one looks for them.
CLASSES = {
    "Linear": "fuseprop.nn.Dense",
    "BatchNorm1d": "fuseprop.nn.BatchNorm",
    "BatchNormalization": "fuseprop.nn.BatchNorm",
    "LayerNormalization": "fuseprop.nn.LayerNorm",
    "Module": "fuseprop.nn.Layer",
    "ModelCheckpoint": "fuseprop.nn.Checkpoint",
    "ReduceLROnPlateau": "fuseprop.optim.schedules.ReduceOnPlateau",
    "CrossEntropyLoss": "fuseprop.losses.SoftmaxCrossEntropy",
    "NLLLoss": "fuseprop.losses.NegativeLogLikelihood",
    "BCELoss": "fuseprop.losses.BinaryCrossEntropy",
    "BCEWithLogitsLoss": "fuseprop.losses.BinaryCrossEntropyWithLogits",
    "MSELoss": "fuseprop.losses.SquaredError",
    "L1Loss": "fuseprop.losses.AbsoluteError",
    "SmoothL1Loss": "fuseprop.losses.Huber, which is beta times as large",
    "HuberLoss": "fuseprop.losses.Huber",
    "PoissonNLLLoss": "fuseprop.losses.Poisson",
    "SoftMarginLoss": "fuseprop.losses.Logistic",
    "KLDivLoss": "fuseprop.losses.KLDivergence, which takes probabilities, not their logarithms",
    "SiLU": "fuseprop.activations.Swish",
    "ReLU6": "fuseprop.activations.Hardtanh(0, 6)",
}


def attribute_error(module: str, name: str) -> AttributeError:
    """Return the error for a name that a module does not have, with what it is called here."""
    here = CLASSES.get(name) or _of_registry(name)
    return AttributeError(f"module {module!r} has no attribute {name!r}" + (f"; here it is {here}" if here else ""))


def _of_registry(name: str) -> str | None:
    """Return where a formula's class of this name is."""
    for specs in (_registry.activations(), _registry.losses(), _registry.optimizers()):
        for spec in specs.values():
            if spec.cls.__name__ == name:
                layer = f", and as a layer fuseprop.nn.Activation({spec.name!r})" if spec.kind == "activation" else ""
                return f"{_MODULES[spec.kind]}.{name}{layer}"
    return None


_MODULES = {"activation": "fuseprop.activations", "loss": "fuseprop.losses", "optimizer": "fuseprop.optim"}

_P = ParamSpec("_P")
_R = TypeVar("_R")


def options(**names: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a constructor: it says what options that have these names elsewhere are called here."""

    def around(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def constructor(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for name in kwargs.keys() & names:
                _refuse(args[0], name, names[name])
            return function(*args, **kwargs)

        return constructor

    return around


def _refuse(made: Any, name: str, here: str) -> NoReturn:
    raise TypeError(f"{type(made).__name__}() got an unexpected keyword argument {name!r}; here it is {here!r}")
