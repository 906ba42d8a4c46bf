"""What a formula is, in one record: the tests, the benchmarks and the documentation's tables are driven by it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from fuseprop import reference

Kind = Literal["activation", "loss", "optimizer"]
#: What a loss is defined for: any real number, [0, 1], -1 and 1, finite numbers >= 0 or > 0, any number but 0; and
#: over classes, a class axis being last: labels, distributions (in [0, 1]), their logarithms (<= 0), or "classes",
#: which is labels or distributions.
Domain = Literal[
    "real",
    "unit",
    "sign",
    "nonnegative",
    "positive",
    "nonzero",
    "labels",
    "distribution",
    "log_distribution",
    "classes",
]
#: The target domains of losses over classes.
OVER_CLASSES = ("labels", "distribution", "log_distribution", "classes")
#: What a loss's prediction is. "value": an estimate of the target, its mean, median or a quantile, on a scale that the
#: link says. Over two classes: "margin", a score whose sign is the class; "logit", the log-odds of class 1;
#: "probability", that of class 1. Of a loss over classes, one for each class: "logit", scores whose softmax are the
#: probabilities; "probability"; "log_probability".
Prediction = Literal["value", "margin", "logit", "probability", "log_probability"]
#: The function that leads from what is estimated, the value or the probability of class 1 (over classes: of each), to
#: the prediction. "identity", "log" and "logit", log(p / (1 - p)), are themselves; "half_logit" is half of the latter;
#: "multinomial_logit" is the logarithm up to a number that all classes share. None: there is no such function, as
#: a margin that the loss is 0 behind has no probability.
Link = Literal["identity", "log", "logit", "half_logit", "multinomial_logit"] | None
#: Which second derivative a loss has: the same number everywhere; one that varies; or "none" that Newton's step could
#: be taken with, as beside the minimum there are predictions where the first is not 0 and the second is not positive.
Curvature = Literal["constant", "varying", "none"]
#: How an activation's result depends on its input: element by element and on nothing else; element by element, with
#: slopes that are learned or drawn; along an axis.
Structure = Literal["elementwise", "slopes", "axis"]


@dataclass(frozen=True)
class Spec:
    """One formula of the library.

    Parameters
    ----------
    name
        The name in the core's table, in `reference.py` and in `get`: snake_case of the class's name.
    kind
        "activation", "loss" or "optimizer".
    cls
        The public class; its constructor takes `parameters` by keyword (an optimizer's, behind what it updates).
    parameters
        The constructor's parameters with their defaults: those of the formula.
    choices
        For each parameter that is a string: the values it may take. The core is given the position in this list.
    switches
        What else the constructor takes, which does not change the formula, with the defaults.
    structure
        Of an activation: "elementwise", "slopes" or "axis".
    learned
        Of an activation: the arrays that `init_params` gives, if need be with a switch set.
    examples
        Further parameter values that the tests go through.
    target_domain
        Of a loss: what targets are allowed, at default parameters.
    targets_of
        Of a loss whose target_domain depends on its parameters: the domain by them.
    pred_domain
        Of a loss: what predictions are allowed; a NaN is, everywhere, and gives a NaN.
    prediction
        Of a loss: what a prediction is, see `Prediction`.
    link
        Of a loss: what leads from the quantity that is estimated to the prediction, see `Link`.
    curvature
        Of a loss with two derivatives: what its second one is like, see `Curvature`.
    inputs
        Of a loss: the arrays it takes. Those of more than pred and target have gradients by all but the target, and
        no `out`.
    kind_of_value
        Of a loss: "sum" (a sum over elements, with two derivatives), "metric" (such a sum, without derivatives), or
        "root" (of a mean: reduction "mean" only, a gradient but no derivatives per sample).
    ulp
        The largest errors allowed at default parameters, in units in the last place of the
        result, as (float32 value, float32 derivative, float64 value, float64 derivative). 0: exact. Of a loss of one
        prediction per target: (value, d1, d2), for both dtypes and the tests' parameters.
    cancels
        Of a loss: which of "value", "d1", "d2" are sums that may change their sign; `ulp` is of their terms there.
    properties
        Of an activation: "range", "monotone", "saturating", "zero_centred", "near_identity" (at 0).
    aliases
        Other names that `get` understands.
    """

    name: str
    kind: Kind
    cls: type[Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    switches: Mapping[str, bool] = field(default_factory=dict)
    structure: Structure = "elementwise"
    learned: tuple[str, ...] = ()
    examples: tuple[Mapping[str, Any], ...] = ()
    target_domain: Domain = "real"
    targets_of: Callable[[Mapping[str, Any]], Domain] | None = None
    pred_domain: Domain = "real"
    prediction: Prediction = "value"
    link: Link = "identity"
    curvature: Curvature = "varying"
    inputs: tuple[str, ...] = ("pred", "target")
    kind_of_value: Literal["sum", "metric", "root"] = "sum"
    ulp: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    cancels: tuple[str, ...] = ()
    properties: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def over_classes(self) -> bool:
        """Whether it is a loss over classes: a prediction and one label, or a distribution, per row."""
        return self.target_domain in OVER_CLASSES

    def domain_of_targets(self, parameters: Mapping[str, Any]) -> Domain:
        """Return what targets a loss of these parameters allows."""
        return self.target_domain if self.targets_of is None else self.targets_of(parameters)

    @property
    def reference(self) -> Callable[..., Any]:
        """The formula in float64 NumPy, see `reference.py`.

        Its arguments: (x, **parameters), (pred, target, **parameters) or (p, g, state, t, **parameters).

        Losses over classes take labels as one-hot rows.
        """
        function: Callable[..., Any] = getattr(reference, self.name)
        return function


#: What an activation may have.
TRAITS = ("monotone", "saturating", "zero_centred", "near_identity")


def properties(low: float, high: float, *traits: str) -> dict[str, Any]:
    """Return an activation's properties: its range, and whether it has each of `TRAITS`."""
    unknown = set(traits) - set(TRAITS)
    if unknown:
        raise ValueError(f"unknown traits {sorted(unknown)}; expected some of {TRAITS}")
    return {"range": (low, high), **{trait: trait in traits for trait in TRAITS}}


_specs: dict[str, dict[str, Spec]] = {"activation": {}, "loss": {}, "optimizer": {}}
_names: dict[str, dict[str, str]] = {"activation": {}, "loss": {}, "optimizer": {}}
_spellings: dict[str, dict[str, str]] = {"activation": {}, "loss": {}, "optimizer": {}}

#: Names elsewhere that are ambiguous here, or of something other than the entry that is nearest: what to say of them.
ELSEWHERE: dict[str, dict[str, str]] = {
    "loss": {
        "cross_entropy": "of logits it is 'softmax_cross_entropy', of probabilities 'categorical_cross_entropy'",
        "sparse_categorical_crossentropy": (
            "of logits and labels it is 'softmax_cross_entropy', of log-probabilities and labels "
            "'negative_log_likelihood'"
        ),
        "kl_div": "it is 'kl_divergence', which takes probabilities, not their logarithms",
        "log_loss": (
            "of logits it is 'binary_cross_entropy_with_logits' or 'softmax_cross_entropy', of probabilities "
            "'binary_cross_entropy'"
        ),
    },
    "activation": {"relu6": "it is fuseprop.activations.Hardtanh(0, 6)"},
    "optimizer": {"momentum": "it is 'sgd' with momentum="},
}


def _spelling(name: str) -> str:
    return name.lower().replace("_", "")


_Class = TypeVar("_Class", bound=type[Any])


def _parameter(name: str) -> Callable[[Any], Any]:
    return lambda formula: formula._parameters[name]


def register(kind: Kind, name: str, **fields: Any) -> Callable[[_Class], _Class]:
    """Class decorator: makes the class's Spec, puts it in the registry and on the class as `spec`.

    The parameters become read-only attributes of the objects.
    """

    def add(cls: _Class) -> _Class:
        cls.spec = Spec(name=name, kind=kind, cls=cls, **fields)
        for parameter in (*cls.spec.parameters, *cls.spec.switches):
            if not (kind == "optimizer" and hasattr(cls, parameter)):  # an optimizer's lr can be set
                setattr(cls, parameter, property(_parameter(parameter)))
        _specs[kind][name] = cls.spec
        # Spelled with and without underscores it is one name; a class has none in its own.
        for key in {_spelling(alias) for alias in (name, cls.__name__, *cls.spec.aliases)}:
            if key in _spellings[kind]:
                raise ValueError(f"{kind} {key!r} is registered twice")
            _spellings[kind][key] = name
        _names[kind].update(dict.fromkeys((name, *cls.spec.aliases), name))
        return cls

    return add


def activations() -> Mapping[str, Spec]:
    """All activations, by name."""
    return _specs["activation"]


def losses() -> Mapping[str, Spec]:
    """All losses, by name."""
    return _specs["loss"]


def optimizers() -> Mapping[str, Spec]:
    """All optimizers, by name."""
    return _specs["optimizer"]


def find(kind: Kind, name: str) -> Spec:
    """Return the entry that `name`, or an alias, stands for; ValueError with the nearest names if there is none."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, found {type(name).__name__}")
    key = name.lower().replace("-", "_").replace(" ", "_")
    if _spelling(key) in _spellings[kind]:
        return _specs[kind][_spellings[kind][_spelling(key)]]
    if key in ELSEWHERE[kind]:
        raise ValueError(f"unknown {kind} {name!r}; {ELSEWHERE[kind][key]}")
    near = difflib.get_close_matches(key, _names[kind], n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {', '.join(_specs[kind])}"
    raise ValueError(f"unknown {kind} {name!r}; {hint}")
