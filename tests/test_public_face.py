"""What a user finds by dir(), help(), inspect.signature and an editor: every public callable of every public module."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import fuseprop as fp

MODULES = (
    "fuseprop",
    "fuseprop.activations",
    "fuseprop.boosting",
    "fuseprop.init",
    "fuseprop.losses",
    "fuseprop.nn",
    "fuseprop.ops",
    "fuseprop.optim",
    "fuseprop.optim.schedules",
    "fuseprop.plot",
    "fuseprop.reference",
    "fuseprop.regularizers",
    "fuseprop.rules",
    "fuseprop.sklearn",
)
OPTIONAL = {"fuseprop.plot": "matplotlib", "fuseprop.sklearn": "sklearn"}
#: Its functions take what a formula takes, by the formula's names: its head describes them.
WITHOUT_PARAMETERS = {"fuseprop.reference"}
#: Bases, and what the library makes for the user: their constructors are not called by users.
NOT_CONSTRUCTED = {
    "fuseprop.activations.Activation",
    "fuseprop.losses.Loss",
    "fuseprop.nn.LayerHealth",
    "fuseprop.nn.NonFiniteLossError",
    "fuseprop.nn.Run",
    "fuseprop.optim.Group",
    "fuseprop.optim.Optimizer",
    "fuseprop.regularizers.Regularizer",
}
#: What takes any keyword: by-name constructors, which pass it on; verbs that a loss has not.
ANY_KEYWORD = {
    "fuseprop.activations.get",
    "fuseprop.init.get",
    "fuseprop.losses.get",
    "fuseprop.optim.get",
    "fuseprop.losses.LargeMarginSoftmax.grad_and_hess",
    "fuseprop.losses.LinearCrossEntropy.grad_and_hess",
}
#: What takes any number of arguments, which its docstring names.
ANY_NUMBER = {"fuseprop.nn.Sequential"}
#: Aliases of types, which are called by nobody.
TYPES = {"fuseprop.optim.schedules.Schedule"}


#: In what help() shows; but for those in a path (the modules of bases) and in formulas (q_j, set_{method}_request).
PRIVATE = re.compile(r"(?<![\w.}])_[a-z]\w{2,}")


def module(name: str) -> ModuleType:
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    return importlib.import_module(name)


class Entry(NamedTuple):
    """A public callable: a function or class, or a method with the class that it was found in."""

    label: str
    value: Any
    owner: type[Any] | None = None

    @property
    def parameters(self) -> list[inspect.Parameter]:
        return [p for p in inspect.signature(self.value).parameters.values() if p.name != "self"]

    @property
    def text(self) -> str:
        """The docstring, with those that it takes up: of what it overrides, and of what it says it is like."""
        own = inspect.getdoc(self.value) or ""
        name = self.label.rpartition(".")[2]
        bases = [vars(base)[name] for base in (self.owner.__mro__ if self.owner else ()) if name in vars(base)]
        like = [referred(other, self.value) for other in re.findall(r"(?:as\s+for|see)\s+`([\w.]+)`", own)]
        return "\n\n".join([own, *(inspect.getdoc(other) or "" for other in (*bases, *like))])


def public(name: str) -> Iterator[Entry]:
    """The public callables of a module, and the public methods of its classes."""
    found = module(name)
    for key in found.__all__:
        value = getattr(found, key)
        if not callable(value) or f"{name}.{key}" in TYPES:
            continue
        yield Entry(f"{name}.{key}", value)
        for method in dir(value) if inspect.isclass(value) else ():
            base = next(base for base in value.__mro__ if method in vars(base))
            # Of other packages' classes (Exception, scikit-learn's mixins) what is theirs is not looked at.
            if not base.__module__.startswith("fuseprop") or (method.startswith("_") and method != "__call__"):
                continue
            if inspect.isroutine(vars(base)[method]) or isinstance(vars(base)[method], classmethod | staticmethod):
                yield Entry(f"{name}.{key}.{method}", getattr(value, method), value)


def referred(name: str, value: Any) -> Any:
    """What a docstring's `name` is: a function beside this one, or one with its whole path."""
    if "." not in name:
        return getattr(importlib.import_module(value.__module__), name, None)
    where, _, last = name.rpartition(".")
    return getattr(importlib.import_module(where), last)


def described(text: str) -> set[str]:
    """The names that a numpydoc section of parameters describes."""
    lines = re.findall(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: : .+)?$", text, re.MULTILINE)
    return {name.lstrip("*") for line in lines for name in line.split(", ")}


@pytest.mark.parametrize("name", MODULES)
def test_dir_shows_public_names_only(name: str) -> None:
    found = module(name)
    more = {"sklearn"} if name == "fuseprop" else set()  # it is there if scikit-learn is
    assert dir(found) == sorted({*found.__all__, *more})
    assert [key for key in found.__all__ if key.startswith("_") and key != "__version__"] == []
    for key in found.__all__:
        assert getattr(found, key) is not None


def test_every_public_module_is_looked_at() -> None:
    modules = {f"fuseprop.{key}" for key in dir(fp) if isinstance(getattr(fp, key), ModuleType)}
    assert modules | {"fuseprop", "fuseprop.optim.schedules"} == set(MODULES)


def test_reference_lists_its_formulas() -> None:
    functions = [
        key
        for key, value in vars(fp.reference).items()
        if inspect.isfunction(value) and value.__module__ == "fuseprop.reference" and not key.startswith("_")
    ]
    assert fp.reference.__all__ == sorted(functions)


@pytest.mark.parametrize("name", MODULES)
def test_signatures_show_every_parameter(name: str) -> None:
    for entry in public(name):
        label, kinds = entry.label, {parameter.kind for parameter in entry.parameters}
        hidden = kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
        if label in ANY_NUMBER:
            hidden.remove(inspect.Parameter.VAR_POSITIONAL)
        if label in ANY_KEYWORD:
            assert hidden, f"{label} does not: take it from the list"
        elif label not in NOT_CONSTRUCTED:
            assert not hidden, f"{label}{inspect.signature(entry.value)}"


@pytest.mark.parametrize("name", MODULES)
def test_every_parameter_is_described(name: str) -> None:
    """In a numpydoc section where there are more than two; else the text has to name them."""
    missing = []
    for entry in public(name):
        label, text = entry.label, entry.text
        assert text.strip(), f"{label} has no docstring"
        if name in WITHOUT_PARAMETERS or label in NOT_CONSTRUCTED:
            continue
        names = [parameter.name for parameter in entry.parameters]
        known = described(text) if len(names) > 2 else described(text) | set(re.findall(r"\w+", text))
        lacking = [each for each in names if each not in known]
        if lacking:
            missing.append(f"{label}: {', '.join(lacking)}")
    assert missing == []


@pytest.mark.parametrize("name", MODULES)
def test_help_renders(name: str) -> None:
    found = module(name)
    text = pydoc.render_doc(found, renderer=pydoc.plaintext)
    assert text.startswith("Python Library Documentation")
    assert [key for key in found.__all__ if not key.startswith("__") and key not in text] == []
    for entry in public(name):
        text = pydoc.render_doc(entry.value, renderer=pydoc.plaintext)
        # pydoc shows the annotations of a class as they are, in one line.
        private = PRIVATE.findall(re.sub(r"__annotations__ = .*", "", text))
        assert private == [], f"{entry.label}: {private}"


def test_objects_that_are_called_have_signatures() -> None:
    call = "(x, out=None, *, params=None)"
    for spec in fp.activations.names():
        act = fp.activations.get(spec)
        assert str(inspect.signature(act)) == str(inspect.signature(act.__call__)) == call
        assert str(inspect.signature(type(act))) != call
    loss = inspect.signature(fp.losses.Huber())
    assert list(loss.parameters) == ["pred", "target", "sample_weight", "reduction"]
    assert loss == inspect.signature(fp.losses.Huber().__call__)


def test_a_call_made_in_python_has_its_own_signature() -> None:
    class Doubled(fp.activations.ReLU):
        def __call__(self, x: Any, factor: float = 2.0) -> Any:  # type: ignore[override]
            return factor * x

    assert str(inspect.signature(Doubled())) == "(x: 'Any', factor: 'float' = 2.0) -> 'Any'"
    assert Doubled()(3.0) == 6.0


def test_optimizers_take_what_they_share() -> None:
    for name in fp.optim.names():
        optimizer = type(fp.optim.get(name, [fp.reference.np.zeros(1)]))
        assert {"l1", "max_norm", "maximize", "nonfinite"} < set(inspect.signature(optimizer).parameters)
