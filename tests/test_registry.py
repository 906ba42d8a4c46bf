"""The registry: tables, Specs and references match one to one; objects are immutable values."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import re
from typing import Any

import numpy as np
import pytest
from helpers import (
    ACTIVATIONS,
    CLASS_LOSSES,
    GOOD_TARGET,
    LAYER_LOSSES,
    LINEAR_LOSSES,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    ROOTS,
    ROW_LOSSES,
    STRUCTURED,
    cases,
    number_of_classes,
    predictions_for,
    row_predictions,
    row_targets,
    seeded,
)

import fuseprop as fp
from fuseprop import _core, _registry, reference
from fuseprop._registry import ActivationSpec, LossSpec, OptimizerSpec, Spec

ALL = [*ACTIVATIONS, *STRUCTURED, *LOSSES, *METRICS, *ROOTS, *CLASS_LOSSES, *ROW_LOSSES, *LAYER_LOSSES]
each_spec = pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
#: Of all optimizers, with their defaults.
SHARED_OPTIONS = {"l1": 0.0, "max_norm": None, "maximize": False, "nonfinite": "propagate"}
MODULES = {"activation": fp.activations, "loss": fp.losses}


def snake_case(name: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    # ReLU and GLU are one word with what stands before them; "leaky" is a word of its own.
    return re.sub(r"^([a-z]|swi)_(relu|glu)$", r"\1\2", words.lower().replace("re_lu", "relu"))


def test_core_has_the_registered_activations() -> None:
    """Each in the table of its structure."""
    names = _core.activation_names()
    assert names.keys() == {"elementwise", "slopes", "axis"}
    for structure, found in names.items():
        assert sorted(found) == sorted(s.name for s in [*ACTIVATIONS, *STRUCTURED] if s.structure == structure)


def test_core_has_the_registered_losses() -> None:
    """Losses of labels and roots are types of the core of their own; all others are rows of its table."""
    of_labels = [spec for spec in ROW_LOSSES if spec.target_domain == "labels"]
    of_distributions = [spec for spec in ROW_LOSSES if spec not in of_labels]
    assert sorted(_core.loss_names()) == sorted(spec.name for spec in [*LOSSES, *METRICS, *of_distributions])
    for spec in [*CLASS_LOSSES, *LINEAR_LOSSES, *ROOTS, *of_labels]:
        assert hasattr(_core, spec.cls.__name__)


def test_references_are_those_of_the_registry() -> None:
    layers = {"batch_norm", "layer_norm"}
    assert set(reference.__all__) == {spec.name for spec in [*ALL, *OPTIMIZERS]} | layers


def test_core_has_the_rules_of_the_registered_optimizers() -> None:
    """Each rule is reached by an optimizer's defaults or examples, which is what the tests go through."""
    reached = {spec.cls(np.ones(3), **parameters)._rule for spec in OPTIMIZERS for parameters in ({}, *spec.examples)}
    assert reached == set(_core.optimizer_names())


@pytest.mark.parametrize("spec", OPTIMIZERS, ids=lambda spec: spec.name)
def test_spec_of_an_optimizer(spec: OptimizerSpec) -> None:
    assert spec.cls.spec is spec
    assert spec.name == spec.cls.__name__.lower()
    assert getattr(fp.optim, spec.cls.__name__) is spec.cls
    constructor = inspect.signature(spec.cls).parameters
    own = {name: p.default for name, p in constructor.items() if name != "params"}
    assert own == {**spec.parameters, **SHARED_OPTIONS}
    assert list(inspect.signature(spec.reference).parameters) == ["p", "g", "state", "t", *spec.parameters]
    text = inspect.getdoc(spec.cls) or ""
    described = {name for line in re.findall(r"^([\w, ]+?)(?: :.*)?$", text, re.MULTILINE) for name in line.split(", ")}
    assert {*spec.parameters, *SHARED_OPTIONS} <= described
    for example in spec.examples:
        assert set(example) <= set(spec.parameters)
    made = fp.optim.get(spec.name.upper(), np.ones(3))
    assert type(made) is spec.cls
    for name, value in spec.parameters.items():
        found = getattr(made, name)
        assert found == value
        assert type(found) is type(value)


def test_get_refuses_optimizers() -> None:
    with pytest.raises(ValueError, match="unknown optimizer 'rmspro'; did you mean 'rmsprop'"):
        fp.optim.get("rmspro", np.ones(3))
    with pytest.raises(ValueError, match="known are " + ", ".join(fp.optim.names())):
        fp.optim.get("qqqqqqqqqq", np.ones(3))
    with pytest.raises(TypeError, match="name must be a string, found int"):
        fp.optim.get(3, np.ones(3))  # type: ignore[arg-type]  # refused
    for name in fp.optim.names():
        with pytest.raises(TypeError, match="wrong_parameter"):
            fp.optim.get(name, np.ones(3), wrong_parameter=1.0)


@each_spec
def test_spec_fits_class_and_reference(spec: ActivationSpec | LossSpec) -> None:
    assert spec.cls.spec is spec
    assert spec.name == snake_case(spec.cls.__name__)
    constructor = inspect.signature(spec.cls).parameters
    assert {name: p.default for name, p in constructor.items()} == {**spec.parameters, **spec.switches}
    expected = [*(["x"] if isinstance(spec, ActivationSpec) else spec.inputs), *spec.parameters]
    more: list[str] = []
    if isinstance(spec, ActivationSpec) and spec.structure == "slopes":
        # What is learned or drawn is an argument of its own, by default the constructor's value.
        more = list(inspect.signature(spec.reference).parameters)[len(expected) :]
        assert more in ([], list(spec.learned), ["slopes"])
    assert list(inspect.signature(spec.reference).parameters) == [*expected, *more]
    for example in spec.examples:
        assert example.keys() <= spec.parameters.keys()
        assert all(example.get(name, choices[0]) in choices for name, choices in spec.choices.items())
        assert example != spec.parameters
    assert spec.examples or not spec.parameters, "parameters without examples are not tested"
    for name, choices in spec.choices.items():
        tested = {values.get(name, spec.parameters[name]) for values in (spec.parameters, *spec.examples)}
        assert tested == set(choices), "choices without examples are not tested"


def beside_the_minimum(spec: LossSpec) -> tuple[Any, Any]:
    """Predictions close to where a sample's loss is least, on both sides, and the targets."""
    if spec.prediction == "value":
        target = np.repeat([0.4, 1.7, 30.0], 2)
        optimum = np.log(target) if spec.link == "log" else target
        return optimum + np.tile([-1e-3, 1e-3], 3), target
    if spec.prediction == "probability":
        return np.array([0.299, 0.301]), np.array([0.3, 0.3])
    # The least is at the end of a slope: behind a margin of 1, or ever farther on the target's side.
    sides = np.repeat([-1.0, 1.0], 5)
    return sides * np.tile([0.99, 1.01, 3.0, 6.0, 9.0], 2), sides if spec.target_domain == "sign" else sides / 2 + 0.5


@pytest.mark.parametrize(("spec", "parameters"), cases(LOSSES))
def test_curvature(spec: LossSpec, parameters: dict[str, float]) -> None:
    wide = np.linspace(0.01, 0.99, 99) if spec.pred_domain == "unit" else np.linspace(-9.03, 9.02, 300)
    target = np.ones(())
    everywhere = spec.reference(wide, target, **parameters)[2]
    assert (spec.curvature == "constant") == bool(everywhere[0] > 0 and np.all(everywhere == everywhere[0]))
    _, first, second = spec.reference(*beside_the_minimum(spec), **parameters)
    assert (spec.curvature == "none") == bool(np.any((first != 0) & (second <= 0)))


@pytest.mark.parametrize("spec", [*CLASS_LOSSES, *ROW_LOSSES], ids=lambda spec: spec.name)
def test_curvature_over_classes(spec: LossSpec) -> None:
    pred = row_predictions(spec, seeded(spec.name).standard_normal((9, 4)))
    labels = np.arange(9) % 4
    target = labels if spec.target_domain in ("labels", "classes") else np.eye(4)[labels]
    hessian = spec.cls().grad_and_hess(pred, target)[1]
    assert spec.curvature == ("varying" if (hessian > 0).any() else "none")


@pytest.mark.parametrize("spec", [*ACTIVATIONS, *STRUCTURED], ids=lambda spec: spec.name)
def test_activation_spec_has_its_properties(spec: ActivationSpec) -> None:
    assert set(spec.properties) == {"range", "monotone", "saturating", "zero_centred", "near_identity"}
    low, high = spec.properties["range"]
    assert low < high
    allowed = 4 if spec.structure == "elementwise" else 5  # a product with another factor comes on top
    assert all(0 <= budget <= allowed for budget in spec.ulp), "beyond what docs/mathematics.md 6 allows"


@each_spec
def test_docstring_states_the_error_budget_and_every_parameter(spec: Spec) -> None:
    text = inspect.getdoc(spec.cls) or ""
    for name in (*spec.parameters, *spec.switches):
        assert re.search(rf"^{name}$", text, re.MULTILINE), f"{name} is not described"
    if spec.kind == "activation":
        assert "ULP" in text or "Exact" in text
    elif spec in LOSSES:
        flat = " ".join(text.split())
        found = re.search(r"At most ([\d.]+), ([\d.]+), ([\d.]+) ULP(?:, of the terms where (.*?) cancels?)?\.", flat)
        assert found, "the error budget is not stated"
        assert tuple(map(float, found.groups()[:3])) == spec.ulp
        assert tuple(re.findall(r"value|d1|d2", found.group(4) or "")) == spec.cancels


@each_spec
def test_class_is_public_and_get_finds_it(spec: Spec) -> None:
    module = MODULES[spec.kind]
    assert getattr(module, spec.cls.__name__) is spec.cls
    assert spec.cls.__name__ in module.__all__
    assert spec.name in module.names()
    expected = spec.cls(**spec.parameters)
    for name in (spec.name, *spec.aliases, spec.name.upper(), spec.name.replace("_", "-")):
        assert module.get(name) == expected
    for example in spec.examples:
        assert module.get(spec.name, **example) == spec.cls(**example)


@pytest.mark.parametrize("kind", MODULES)
def test_get_refuses(kind: str) -> None:
    get = MODULES[kind].get
    for name in MODULES[kind].names():
        wrong = name[:-1] + "q"
        with pytest.raises(ValueError, match=f"unknown {kind} '{wrong}'; did you mean .*'{name}'"):
            get(wrong)
    with pytest.raises(ValueError, match="known are " + ", ".join(MODULES[kind].names())):
        get("qqqqqqqqqq")
    with pytest.raises(TypeError, match="name must be a string, found int"):
        get(3)
    with pytest.raises(TypeError, match="wrong_parameter"):
        get(MODULES[kind].names()[0], wrong_parameter=1.0)


def test_a_name_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match="'logistic' is registered twice"):
        _registry.register_activation("tests_own", aliases=("logistic",))(type("TestsOwn", (), {}))
    for table in (_registry._specs, _registry._names):
        table["activation"].pop("tests_own", None)


def test_a_failed_bind_leaves_nothing() -> None:
    act = fp.activations.ReLU.__new__(fp.activations.ReLU)
    with pytest.raises(ValueError, match="parameters must be a tuple of 2 numbers for prelu"):
        act._bind("prelu", ())
    with pytest.raises(RuntimeError, match="not initialised"):
        act(1.0)
    act._bind("relu", ())
    with pytest.raises(RuntimeError, match="immutable"):
        act._bind("prelu", (0.25, 1))
    assert act(-1.0) == 0


@pytest.mark.parametrize(("spec", "parameters"), cases(ALL))
def test_objects_are_immutable_values(spec: Spec, parameters: dict[str, float]) -> None:
    formula = spec.cls(**parameters)
    same = spec.cls(**parameters)
    assert formula == same
    assert hash(formula) == hash(same)
    assert formula is not same
    for other in (pickle.loads(pickle.dumps(formula)), copy.copy(formula), copy.deepcopy(formula)):
        assert other == formula
        assert type(other) is spec.cls
    assert eval(repr(formula), {spec.cls.__name__: spec.cls}) == formula
    for name, value in parameters.items():
        assert getattr(formula, name) == value
        assert type(getattr(formula, name)) is type(value)
        with pytest.raises(AttributeError, match=f"immutable.*{name}"):
            setattr(formula, name, 2.0)
        assert getattr(formula, name) == value
    with pytest.raises(RuntimeError, match="immutable"):
        formula.__init__(**parameters)
    with pytest.raises(AttributeError):
        formula.new_attribute = 1
    with pytest.raises(AttributeError, match=f"'{spec.cls.__name__}' object has no attribute 'nonsense'"):
        _ = formula.nonsense
    for example in spec.examples:
        complete = {**spec.parameters, **example}
        assert (spec.cls(**example) == formula) == (complete == {**spec.parameters, **parameters})
    assert all(formula != o.cls(**o.parameters) for o in ALL if o is not spec)
    assert formula != spec.name


@each_spec
def test_a_pickled_copy_computes_the_same(spec: ActivationSpec | LossSpec) -> None:
    formula = spec.cls(**(spec.examples[-1] if spec.examples else {}))
    again = pickle.loads(pickle.dumps(formula))
    x = np.linspace(-3, 3, 12).reshape(4, 3)
    arguments: tuple[Any, ...] = (x,)
    if isinstance(spec, ActivationSpec):
        if spec.structure != "elementwise":
            arguments = (np.linspace(-3, 3, 72).reshape(1, 12, 6),)
    elif spec in ROW_LOSSES:
        parameters = spec.examples[-1] if spec.examples else {}
        shape = (4, number_of_classes(parameters))
        pred = row_predictions(spec, seeded("pickled").standard_normal(shape))
        arguments = pred, row_targets(spec, parameters, shape, np.float64, seeded("pickled"))
    elif spec in LAYER_LOSSES:
        arguments = x, x[:3], np.array([0, 1, 2, 1])
    else:
        pred = predictions_for(spec, x)
        arguments = pred, np.array([0, 1, 2, 1]) if spec.over_classes else np.full((4, 3), GOOD_TARGET)
    assert np.array_equal(formula(*arguments), again(*arguments))


PUBLIC_MODULES = [
    "fuseprop",
    "fuseprop.activations",
    "fuseprop.losses",
    "fuseprop.ops",
    "fuseprop.optim",
    "fuseprop.optim.schedules",
    "fuseprop.reference",
    "fuseprop.regularizers",
    "fuseprop.rules",
]


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_everything_public_is_documented_and_exported(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    own = {
        n
        for n, value in vars(module).items()
        if not n.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__.startswith("fuseprop")
        and name in {value.__module__, "fuseprop"}
    }
    exported = set(getattr(module, "__all__", own))
    assert own <= exported, f"not in __all__: {own - exported}"
    for entry in exported:
        value = getattr(module, entry) if hasattr(module, entry) else importlib.import_module(f"{name}.{entry}")
        if not (inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value)):
            continue
        assert inspect.getdoc(value), entry
        if inspect.isclass(value):
            for method, function in vars(value).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    assert inspect.getdoc(function), f"{entry}.{method}"
