"""What things are called elsewhere, by PyTorch and Keras above all, and what they are called here.

Names of formulas are in the registry: aliases where the meaning is the same, `ELSEWHERE` where it is not.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from fuseprop import _registry
from fuseprop._checks import nearest

#: Classes of PyTorch and Keras that have another name here, or another module than that in which one looks for them.
CLASSES = {
    "Linear": "fuseprop.nn.Dense",
    "BatchNorm1d": "fuseprop.nn.BatchNorm",
    "BatchNormalization": "fuseprop.nn.BatchNorm",
    "LayerNormalization": "fuseprop.nn.LayerNorm",
    "Module": "fuseprop.nn.Layer",
    "ModelCheckpoint": "fuseprop.nn.Checkpoint",
    "ReduceLROnPlateau": "fuseprop.optim.schedules.ReduceOnPlateau",
    "LBFGS": "fuseprop.optim.lbfgs, a function",
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
    here = CLASSES.get(name) or _of_registry(module, name)
    hint = f"here it is {here}" if here else _of_formula(module, name)
    return AttributeError(f"module {module!r} has no attribute {name!r}" + (f"; {hint}" if hint else ""))


def _of_registry(module: str, name: str) -> str | None:
    """Return where a formula's class of this name is, however spelled; in its own module by its aliases, too."""
    for kind, home in _MODULES.items():
        spec = _registry.spelled(kind, name) if name[:1].isupper() else None
        if spec is None or (module != home and _registry.spelling(spec.cls.__name__) != _registry.spelling(name)):
            continue
        layer = f", and as a layer fuseprop.nn.Activation({spec.name!r})" if kind == "activation" else ""
        return f"{home}.{spec.cls.__name__}{layer}"
    return None


def _of_formula(module: str, name: str) -> str | None:
    return next((of_formula(kind, name) for kind, home in _MODULES.items() if home == module), None)


def of_formula(kind: _registry.Kind, name: str) -> str | None:
    """Say what a formula of this name elsewhere is here, if that is neither its name nor an alias."""
    spelling = _registry.spelling(name)
    for known, text in _registry.ELSEWHERE[kind].items():
        if _registry.spelling(known) == spelling:
            return text
    for known, here in CLASSES.items():
        if _registry.spelling(known) == spelling and here.startswith(_MODULES[kind]):
            return f"it is {here}"
    return None


_registry.ADVISERS.append(of_formula)

_MODULES: dict[_registry.Kind, str] = {
    "activation": "fuseprop.activations",
    "loss": "fuseprop.losses",
    "optimizer": "fuseprop.optim",
}

#: What options are called elsewhere, and here.
OPTIONS = {
    "alpha": "negative_slope",
    "b1": "betas",
    "b2": "betas",
    "beta": "delta",
    "beta_1": "betas",
    "beta_2": "betas",
    "bias": "use_bias",
    "clipnorm": "max_norm",
    "epsilon": "eps",
    "global_clipnorm": "max_norm",
    "kernel_initializer": "init",
    "learning_rate": "lr",
    "quantile": "q",
    "rate": "p",
    "units": "out_features",
    "weight": "class_weight",
    "weights": "class_weight",
}

#: Those of `Sequential.fit`.
OF_FIT = {
    "learning_rate": "the optimizer's: give optimizer=fuseprop.optim.Adam(model, lr=...)",
    "lr": "the optimizer's: give optimizer=fuseprop.optim.Adam(model, lr=...)",
    "validation_split": "validation_data=(x, y): leave these samples out of the others",
    "verbose": "progress=True or False",
}


def check_options(cls: type[Any], constructor: Any, options: Iterable[str]) -> None:
    """Refuse options that a class's constructor does not have, with the names that they may have here."""
    code = getattr(inspect.unwrap(constructor), "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARKEYWORDS:  # none in Python, or one that takes any
        return
    known = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    for name in options:
        if name not in known:
            meant = OPTIONS.get(name, name)
            near = [meant] if meant in known else nearest(name, known)[:1]
            expected = f"expected some of {', '.join(known)}" if known else "it has none"
            hint = f"did you mean {near[0]!r}?" if near else expected
            raise TypeError(f"{cls.__name__}() got an unexpected keyword argument {name!r}; {hint}")


def check_constructor(cls: type[Any]) -> None:
    """Let a class's own constructor, if it has one, refuse such options."""
    constructor: Any = vars(cls).get("__init__")
    if constructor is None:
        return

    @functools.wraps(constructor)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        if options:
            check_options(type(self), constructor, options)
        constructor(self, *args, **options)

    cls.__init__ = checked


_P = ParamSpec("_P")
_R = TypeVar("_R")


def options(names: Mapping[str, str]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a method: it says what options that have these names elsewhere are here."""

    def around(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def method(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for name in kwargs.keys() & names:
                raise TypeError(
                    f"{function.__name__}() got an unexpected keyword argument {name!r}; here it is {names[name]}"
                )
            return function(*args, **kwargs)

        return method

    return around
