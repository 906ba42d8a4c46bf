"""The floors of the house: an import or an include goes down, never up, and nowhere in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fuseprop as fp

PACKAGE = Path(fp.__file__).parent
CSRC = Path(__file__).resolve().parent.parent / "csrc"

#: What the package is made of, by the first name below it. What has an underscore and is not named is on the first one.
FLOORS = (
    {"reference"},
    {"activations", "init", "losses", "ops", "optim", "regularizers", "rules"},
    {"nn"},
    {"boosting", "plot", "sklearn"},
    {""},  # fuseprop itself, the face of what is below
    {"__main__", "_bench", "_demo"},
)
#: Layers, models made of them, what goes along with a model, and what users make and train.
NN_FLOORS = (
    {"layers"},
    {"dropout", "maxout", "norm"},
    {"containers"},
    {"model"},
    {"data", "io", "metrics"},
    {"callbacks"},
    {"health"},
    {"fit"},
    {"sequential"},
    {""},
)
CSRC_FLOORS = ({"simd", "threads"}, {"kernels"}, {"bind"})

#: What is imported when it is needed, and not along with the module.
LAZY = {
    ("fuseprop", "fuseprop.*"),  # boosting, plot and sklearn, which training does without
    ("fuseprop._registry", "fuseprop._constants"),  # what few ask a loss for
    ("fuseprop.nn.sequential", "fuseprop.nn.data"),  # to make and load a model takes neither of the two
    ("fuseprop.nn.sequential", "fuseprop.nn.fit"),
    ("fuseprop.__main__", "fuseprop._bench"),  # a command needs its own modules alone
    ("fuseprop.__main__", "fuseprop._demo"),
    ("fuseprop._bench.peers", "fuseprop"),  # one library among others, each loaded when it is asked for
}


def python_modules() -> dict[str, ast.Module]:
    """All modules of the package by name, and their texts as trees."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("fuseprop", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = python_modules()


def imported(node: ast.AST) -> Iterator[str]:
    """The package's modules that a statement or a call imports; "fuseprop.*" are some that the text does not name."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "fuseprop")
    elif isinstance(node, ast.ImportFrom) and (node.module or "fuseprop").split(".")[0] == "fuseprop":
        assert node.level == 0, "an import names the whole way, so that a reader and this test see it"
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            yield name if name in MODULES or name == "fuseprop._core" else str(node.module)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        (argument,) = node.args
        name = str(argument.value) if isinstance(argument, ast.Constant) else "fuseprop.*"
        if name.startswith("fuseprop"):
            yield name


def graph() -> dict[str, set[str]]:
    """What each module imports: at its head, for type checkers alone, or in a function."""
    return {
        name: {other for node in ast.walk(tree) for other in imported(node)} - {name, "fuseprop.*"}
        for name, tree in MODULES.items()
    }


def floor(name: str, floors: tuple[set[str], ...]) -> int:
    """The place of a name in the order."""
    places = [i for i, names in enumerate(floors) if name in names]
    assert places or name.startswith("_"), f"{name} has no place in the order: give it one in this test"
    return places[0] if places else 0


def below(name: str, package: str) -> str:
    """The first name of a module's path below a package."""
    return name.removeprefix(package).removeprefix(".").split(".")[0]


def assert_no_circle(edges: Mapping[str, set[str]]) -> None:
    tuple(TopologicalSorter(edges).static_order())  # a CycleError names the circle


def test_no_module_is_in_a_circle() -> None:
    found = graph()
    assert "fuseprop.nn.layers" in found["fuseprop.nn.containers"]
    assert "fuseprop.optim" in found["fuseprop.nn.callbacks"]  # for type checkers
    assert_no_circle(found)


def test_imports_go_down() -> None:
    up = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if floor(below(name, "fuseprop"), FLOORS) < floor(below(other, "fuseprop"), FLOORS)
    ]
    assert up == []


def test_imports_in_nn_go_down() -> None:
    """Each module has a floor of its own, or shares it with ones that do not know each other."""
    up = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if name.startswith("fuseprop.nn") and other.startswith("fuseprop.nn")
        if floor(below(name, "fuseprop.nn"), NN_FLOORS) <= floor(below(other, "fuseprop.nn"), NN_FLOORS)
    ]
    assert up == []


def test_imports_in_functions_are_known() -> None:
    found = {
        (name, other)
        for name, tree in MODULES.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        for other in imported(node)
    }
    assert found == LAZY


def test_a_model_is_used_as_it_says() -> None:
    """Of what begins with an underscore, the modules of nn use what `Model` names as theirs, and all of that."""
    model = next(node for node in MODULES["fuseprop.nn.model"].body if getattr(node, "name", "") == "Model")
    assert isinstance(model, ast.ClassDef)
    named = set(re.findall(r"`(_\w+)`", ast.get_docstring(model) or ""))
    used = {
        node.attr
        for name, tree in MODULES.items()
        if name.startswith("fuseprop.nn.") and name not in ("fuseprop.nn.model", "fuseprop.nn.sequential")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.fullmatch(r"_(?!_)\w+", node.attr)
        and re.fullmatch(r"(\w+\.)*model|cls", ast.unparse(node.value))
    }
    assert used == named


def includes(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]', text, re.MULTILINE)


def sources() -> dict[str, list[str]]:
    """The files of the core, and what each includes."""
    if not CSRC.is_dir():
        pytest.skip("the sources of the core are not here")
    return {path.relative_to(CSRC).as_posix(): includes(path) for path in sorted(CSRC.rglob("*.*"))}


def test_no_header_is_in_a_circle() -> None:
    found = sources()
    assert_no_circle({name: {other for other in included if other in found} for name, included in found.items()})


def test_includes_go_down() -> None:
    found = sources()
    assert "simd/math-inl.h" in found["kernels/activations/activations-inl.h"]
    up = [
        f"{name} includes {other}"
        for name, included in found.items()
        for other in included
        if other in found
        if floor(name.split("/")[0], CSRC_FLOORS) < floor(other.split("/")[0], CSRC_FLOORS)
    ]
    assert up == []


def test_the_core_knows_python_in_bind_alone() -> None:
    knowing = {
        name.split("/")[0]
        for name, included in sources().items()
        if any(re.match(r"(?i)python|numpy/|pybind11/", other) for other in included)
    }
    assert knowing == {"bind"}


def test_the_core_asks_python_for_words_alone() -> None:
    """What an error says of an argument that is no array of numbers."""
    texts = [(CSRC / name).read_text(encoding="utf-8") for name in sources()]
    asked = {name for text in texts for name in re.findall(r'Import\w*\("(fuseprop[\w.]*)"', text)}
    assert asked == {"fuseprop._checks"}
