"""What a formula is, in one record: the tests, the benchmarks and the documentation's tables are driven by it.

An activation, a loss and an optimizer have a record each, with the facts that their kind has. Whoever needs to know
something of a formula reads it here, and asks neither for the class nor for the name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec, TypeVar, cast

from fuseprop import reference
from fuseprop._checks import nearest

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
_OVER_CLASSES = ("labels", "distribution", "log_distribution", "classes")
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Spec:
    """One formula of the library: what all kinds have.

    Parameters
    ----------
    cls
        The public class; its constructor takes `parameters` by keyword (an optimizer's, behind what it updates).
    name
        The name in the core's table, in `reference.py` and in `get`: snake_case of the class's name.
    parameters
        The constructor's parameters with their defaults: those of the formula.
    choices
        For each parameter that is a string: the values it may take. The core is given the position in this list.
    switches
        What else the constructor takes, which does not change the formula, with the defaults.
    examples
        Further parameter values that the tests go through.
    aliases
        Other names that `get` understands.
    """

    kind: ClassVar[Kind]

    cls: type[Any] = field(kw_only=False)
    name: str = field(kw_only=False)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    switches: Mapping[str, bool] = field(default_factory=dict)
    examples: tuple[Mapping[str, Any], ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def reference(self) -> Callable[..., Any]:
        """The formula in float64 NumPy, see `reference.py`.

        Its arguments: (x, **parameters), (pred, target, **parameters) or (p, g, state, t, **parameters).

        Losses over classes take labels as one-hot rows.
        """
        function: Callable[..., Any] = getattr(reference, self.name)
        return function


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ActivationSpec(Spec):
    """An activation.

    Parameters
    ----------
    structure
        "elementwise", "slopes" or "axis", see `Structure`.
    learned
        The arrays that `init_params` gives, if need be with a switch set.
    ulp
        The largest errors allowed at default parameters, in units in the last place of the result, as (float32 value,
        float32 derivative, float64 value, float64 derivative). 0: exact.
    properties
        "range", "monotone", "saturating", "zero_centred", "near_identity" (at 0).
    """

    kind = "activation"

    structure: Structure = "elementwise"
    learned: tuple[str, ...] = ()
    ulp: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LossSpec(Spec):
    """A loss.

    Parameters
    ----------
    inputs
        The arrays it takes. Those of more than pred and target have gradients by all but the target, and no `out`.
    target_domain
        What targets are allowed, at default parameters.
    targets_of
        Where the target domain depends on the parameters: the domain by them.
    pred_domain
        What predictions are allowed; a NaN is, everywhere, and gives a NaN.
    prediction
        What a prediction is, see `Prediction`.
    link
        What leads from the quantity that is estimated to the prediction, see `Link`.
    curvature
        With two derivatives: what the second one is like, see `Curvature`.
    kind_of_value
        "sum" (a sum over elements, with two derivatives), "metric" (such a sum, without derivatives), or "root" (of
        a mean: reduction "mean" only, a gradient but no derivatives per sample).
    best
        The function of `_constants.py` that gives the best constant prediction; None where there is no closed form.
    dropped
        The function of `_constants.py` that gives the terms in the target alone that half the deviance has and the
        loss leaves out; None: it leaves out nothing.
    ulp
        The largest errors allowed of (value, d1, d2), for both dtypes and the tests' parameters, in units in the last
        place of the result. 0: exact. None: the errors are those of a sum, over samples or classes.
    cancels
        Which of "value", "d1", "d2" are sums that may change their sign; `ulp` is of their terms there.
    """

    kind = "loss"

    inputs: tuple[str, ...] = ("pred", "target")
    target_domain: Domain = "real"
    targets_of: Callable[[Mapping[str, Any]], Domain] | None = None
    pred_domain: Domain = "real"
    prediction: Prediction = "value"
    link: Link = "identity"
    curvature: Curvature = "varying"
    kind_of_value: Literal["sum", "metric", "root"] = "sum"
    best: str | None = None
    dropped: str | None = None
    ulp: tuple[float, float, float] | None = None
    cancels: tuple[str, ...] = ()

    @property
    def over_classes(self) -> bool:
        """Whether it is a loss over classes: a prediction and one label, or a distribution, per row."""
        return self.target_domain in _OVER_CLASSES

    @property
    def per_sample(self) -> bool:
        """Whether it has a gradient and a second derivative for each prediction."""
        return self.kind_of_value == "sum" and self.inputs == ("pred", "target")

    def domain_of_targets(self, parameters: Mapping[str, Any]) -> Domain:
        """Return what targets a loss of these parameters allows."""
        return self.target_domain if self.targets_of is None else self.targets_of({**self.parameters, **parameters})

    def samples(self, parameters: Mapping[str, Any] | None = None) -> tuple[list[float], list[float]]:
        """Return target values that a loss of these parameters allows, and some that it refuses."""
        from fuseprop import _constants  # noqa: PLC0415  # what few need is not imported by all

        return _constants.SAMPLES[self.domain_of_targets(parameters or {})]

    def best_constant(
        self, target: Any, sample_weight: Any = None, parameters: Mapping[str, Any] | None = None
    ) -> Any | None:
        """Return the prediction that, given to all samples, has the smallest mean loss; None without a closed form.

        A number for targets (N,), an array for targets of several columns. Over classes the targets are distributions,
        labels as one-hot rows, and so is the result, one number for each class. Where many are as good, one of them.
        """
        if self.best is None:
            return None
        return _constant(self.best, target, sample_weight, {**self.parameters, **(parameters or {})})

    def dropped_constant(self, target: Any, parameters: Mapping[str, Any] | None = None) -> Any:
        """Return, for each target, what added to the loss makes half the deviance, or nothing: 0."""
        if self.dropped is None:
            return 0.0
        return _constant(self.dropped, target, {**self.parameters, **(parameters or {})})


def _constant(name: str, *arguments: Any) -> Any:
    from fuseprop import _constants  # noqa: PLC0415  # what few need is not imported by all

    return getattr(_constants, name)(*arguments)


class OptimizerSpec(Spec):
    """An optimizer, of which nothing more is to be known."""

    kind = "optimizer"


#: What an activation may have.
TRAITS = ("monotone", "saturating", "zero_centred", "near_identity")


def properties(low: float, high: float, *traits: str) -> dict[str, Any]:
    """Return an activation's properties: its range, and whether it has each of `TRAITS`."""
    unknown = set(traits) - set(TRAITS)
    if unknown:
        raise ValueError(f"unknown traits {sorted(unknown)}; expected some of {TRAITS}")
    return {"range": (low, high), **{trait: trait in traits for trait in TRAITS}}


_specs: dict[Kind, dict[str, Spec]] = {"activation": {}, "loss": {}, "optimizer": {}}
_names: dict[Kind, dict[str, str]] = {"activation": {}, "loss": {}, "optimizer": {}}
_spellings: dict[Kind, dict[str, str]] = {"activation": {}, "loss": {}, "optimizer": {}}

#: Names elsewhere that are ambiguous here, or of something other than the entry that is nearest: what to say of them.
ELSEWHERE: dict[Kind, dict[str, str]] = {
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


def spelling(name: str) -> str:
    """Return what all spellings of a name share: with and without capitals and underscores."""
    return name.lower().replace("_", "")


_Class = TypeVar("_Class", bound=type[Any])
_Facts = ParamSpec("_Facts")


def _registering(
    record: Callable[Concatenate[type[Any], str, _Facts], Spec],
) -> Callable[Concatenate[str, _Facts], Callable[[_Class], _Class]]:
    """Return the class decorator for one kind of record, which takes the name and the facts."""

    def register(name: str, /, *args: _Facts.args, **facts: _Facts.kwargs) -> Callable[[_Class], _Class]:
        """Return what makes a class's record, puts it in the registry and on the class as `spec`.

        The parameters become read-only attributes of the objects.
        """

        def add(cls: _Class) -> _Class:
            cls.spec = record(cls, name, *args, **facts)
            _add(cls.spec)
            return cls

        return add

    return register


register_activation = _registering(ActivationSpec)
register_loss = _registering(LossSpec)
register_optimizer = _registering(OptimizerSpec)


def _add(spec: Spec) -> None:
    kind, cls = spec.kind, spec.cls
    for parameter in (*spec.parameters, *spec.switches):
        if not (kind == "optimizer" and hasattr(cls, parameter)):  # an optimizer's lr can be set
            setattr(cls, parameter, property(_parameter(parameter)))
    _specs[kind][spec.name] = spec
    # Spelled with and without underscores it is one name; a class has none in its own.
    for key in {spelling(alias) for alias in (spec.name, cls.__name__, *spec.aliases)}:
        if key in _spellings[kind]:
            raise ValueError(f"{kind} {key!r} is registered twice")
        _spellings[kind][key] = spec.name
    _names[kind].update(dict.fromkeys((spec.name, *spec.aliases), spec.name))


def _parameter(name: str) -> Callable[[Any], Any]:
    return lambda formula: formula._parameters[name]


def activations() -> Mapping[str, ActivationSpec]:
    """All activations, by name."""
    return cast(Mapping[str, ActivationSpec], _specs["activation"])


def losses() -> Mapping[str, LossSpec]:
    """All losses, by name."""
    return cast(Mapping[str, LossSpec], _specs["loss"])


def optimizers() -> Mapping[str, OptimizerSpec]:
    """All optimizers, by name."""
    return cast(Mapping[str, OptimizerSpec], _specs["optimizer"])


def spelled(kind: Kind, name: str) -> Spec | None:
    """Return the entry of this name or alias, however spelled, or None."""
    found = _spellings[kind].get(spelling(name))
    return None if found is None else _specs[kind][found]


#: Who knows what a formula is here that is neither a name nor an alias: functions of its kind and name.
ADVISERS: list[Callable[[Kind, str], str | None]] = []


def find(kind: Kind, name: str) -> Spec:
    """Return the entry that `name`, or an alias, stands for; ValueError with the nearest names if there is none."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, found {type(name).__name__}")
    key = name.lower().replace("-", "_").replace(" ", "_")
    spec = spelled(kind, key)
    if spec is not None:
        return spec
    for advise in ADVISERS:
        if (advice := advise(kind, key)) is not None:
            raise ValueError(f"unknown {kind} {name!r}; {advice}")
    near = nearest(key, _names[kind])
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {', '.join(_specs[kind])}"
    raise ValueError(f"unknown {kind} {name!r}; {hint}")
