"""The options of the estimators, one row each: what is allowed, in words and as a check, and what it is for."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from sklearn.utils import check_random_state

from fuseprop import nn
from fuseprop._checks import choice, flag, integer, real
from fuseprop.sklearn._objective import regression_loss

_Class = TypeVar("_Class", bound=type[Any])


@dataclass(frozen=True)
class Option:
    """An argument of a constructor.

    Parameters
    ----------
    kind
        What it may be, in words.
    check
        Called with the value and the name; raises a ValueError or TypeError.
    text
        What it is for.
    """

    kind: str
    check: Callable[[Any, str], object]
    text: str


_SIGNS = {"above": ">", "least": ">=", "most": "<=", "below": "<"}


def _words(kind: str, limits: dict[str, Any]) -> str:
    return ", ".join([kind, " and ".join(f"{_SIGNS[name]} {limit:g}" for name, limit in limits.items())])


def _real(text: str, **limits: float) -> Option:
    return Option(_words("float", limits), lambda value, name: real(value, name, **limits), text)


def _integer(text: str, *, besides: str | float | None = None, **limits: int) -> Option:
    def check(value: Any, name: str) -> None:
        if besides is None or value != besides:
            integer(value, name, **limits)

    words = _words("int", limits)
    return Option(words if besides is None else f"{words}, or {_quoted(besides)}", check, text)


def _flag(text: str) -> Option:
    return Option("bool", flag, text)


def _choice(text: str, *choices: str) -> Option:
    words = ", ".join(map(_quoted, choices[:-1]))
    return Option(f"{words} or {_quoted(choices[-1])}", lambda value, name: choice(value, name, choices), text)


def _quoted(value: str | float) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def layer_sizes(value: Any, name: str = "hidden_layer_sizes") -> list[int]:
    """Return the units of the hidden layers, of which one may be given as a number."""
    sizes = list(value) if np.iterable(value) else [value]
    return [integer(size, f"{name}[{i}]", least=1) for i, size in enumerate(sizes)]


def _check_class_weight(value: Any, name: str) -> None:
    for of_output in value if isinstance(value, list) else [value]:
        for key, weight in of_output.items() if isinstance(of_output, dict) else ():
            real(weight, f"{name}[{key!r}]", least=0.0)


def _check_verbose(value: Any, name: str) -> None:
    if not isinstance(value, np.bool_):  # the one truth value that is no integer
        integer(value, name, least=0)


OPTIONS = {
    "loss": Option(  # this check, as some below, is one that names the argument itself
        "str or Loss",
        lambda value, name: regression_loss(value),
        '"squared_error" (half of it, as in scikit-learn), "poisson" (its half deviance), or one of `fuseprop.losses`. '
        "With Poisson, Gamma and Tweedie the network predicts the logarithm of the mean, and `predict` gives the mean.",
    ),
    "hidden_layer_sizes": Option("sequence of int, >= 1", layer_sizes, "Units of each hidden layer."),
    "activation": Option(
        "str or Activation",
        lambda value, name: nn.Dense(1, 1, value),
        "Of the hidden layers: elementwise, without learned parameters.",
    ),
    "solver": _choice('"lbfgs" (SciPy\'s L-BFGS-B) uses all samples in each step.', "lbfgs", "sgd", "adam"),
    "alpha": _real(
        "Factor of the L2 penalty of the weights, divided by the number of samples, or their weight, in a batch.",
        least=0.0,
    ),
    "batch_size": _integer('Samples per step; "auto" is 200, or all if there are fewer.', besides="auto", least=1),
    "learning_rate": _choice(
        'Of "sgd": fixed; learning_rate_init / (samples seen + 1)^power_t; or divided by 5 whenever training would '
        "stop.",
        "constant",
        "invscaling",
        "adaptive",
    ),
    "learning_rate_init": _real("The first learning rate.", above=0.0),
    "power_t": _real('The exponent of "invscaling".', least=0.0),
    "max_iter": _integer('Passes over the data, or iterations of "lbfgs".', least=1),
    "shuffle": _flag("Whether each pass has an order of its own."),
    "random_state": Option(
        "int, RandomState or None",
        lambda value, name: check_random_state(value),
        "Draws initial values, orders and the validation set.",
    ),
    "tol": _real("By how much less a loss, or more a validation score, is an improvement.", least=0.0),
    "verbose": Option("bool or int, >= 0", _check_verbose, "Whether to print the loss after each pass."),
    "warm_start": _flag("Whether `fit` goes on from the parameters that are there."),
    "momentum": _real('Of "sgd": how much of the last step is kept.', least=0.0, most=1.0),
    "nesterovs_momentum": _flag('Of "sgd": whether the gradient is that of where the momentum leads.'),
    "early_stopping": _flag(
        "Whether to set samples aside, stop by the score on them, and keep the best parameters. The score is "
        "a classifier's accuracy; a regressor's R^2 for the squared error and Poisson, as in scikit-learn, and minus "
        "the loss for any other."
    ),
    "validation_fraction": _real("The share that is set aside.", least=0.0, below=1.0),
    "beta_1": _real('Of "adam": how much of the mean gradient is kept in a step.', least=0.0, below=1.0),
    "beta_2": _real('Of "adam": how much of the mean squared gradient is.', least=0.0, below=1.0),
    "epsilon": _real('Of "adam": what is added to the root of that mean.', above=0.0),
    "n_iter_no_change": _integer(
        "Training stops when there has been no improvement in more passes than this.", besides=np.inf, least=1
    ),
    "max_fun": _integer('Calls of the loss by "lbfgs".', least=1),
    "class_weight": Option(
        'dict, "balanced" or None', _check_class_weight, "Factors of the samples' weights by their class, >= 0."
    ),
}


def check_parameters(estimator: Any) -> None:
    """Refuse an estimator with an option that is not allowed."""
    for name, option in OPTIONS.items():
        if hasattr(estimator, name):
            option.check(getattr(estimator, name), name)


_BEHIND = """
    Attributes
    ----------
    model_ : fuseprop.nn.Sequential
        The network. `coefs_` and `intercepts_` are its weights and biases.
    loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, n_iter_, t_
        As in scikit-learn: the last loss, the lowest, all; scores; passes; samples seen.
    {attributes}n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        Layers with the input's, outputs, the output's activation, and what X had.

    Raises
    ------
    ValueError, TypeError
        When fitted, if a parameter is not one of the above, if X and y do not fit, if a weight is negative or all are
        0, or if an array is masked. Nothing has changed then. And if the training ends with parameters that are not
        finite.
"""


def documented(*, attributes: str = "") -> Callable[[_Class], _Class]:
    """Class decorator: adds the options of the constructor, attributes and errors to the docstring."""

    def add(cls: _Class) -> _Class:
        lines = ["", "", "Parameters", "----------"]
        for name in inspect.signature(cls).parameters:
            option = OPTIONS[name]
            lines += [
                f"{name} : {option.kind}",
                *textwrap.wrap(option.text, 112, initial_indent=4 * " ", subsequent_indent=4 * " "),
            ]
        parameters = textwrap.indent("\n".join(lines), 4 * " ")
        cls.__doc__ = f"{cls.__doc__}{parameters}\n{_BEHIND.format(attributes=attributes)}"
        return cls

    return add
