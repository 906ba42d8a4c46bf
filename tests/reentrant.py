"""A fuzzer of arguments that run Python code: python reentrant.py SEED COUNT.

Of the call of a public function, one argument is an object that changes another argument when it is converted: its
size, its dtype, its shape or its values. The call must give what it gives for plain arguments as they are after that.
"""

from __future__ import annotations

import faulthandler
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from helpers import LAYER_LOSSES, Array, number_of_classes, predictions_for, row_predictions, row_targets, targets_for

import fuseprop as fp
from fuseprop import _core, _registry, ops

Arguments = dict[str, Any]
Change = Callable[[], None]
#: What makes the arguments of a call of this many rows and columns, in a dtype, and the call.
Case = tuple[str, Callable[..., Any], Callable[[np.random.Generator, tuple[int, int], Any], Arguments]]

ROWS, COLUMNS = 6, 4


# --- the calls ----------------------------------------------------------------------------------------------


def loss_cases(spec: Any) -> list[Case]:
    parameters = (spec.examples or (spec.parameters,))[-1]
    loss = spec.cls(**parameters)
    columns = number_of_classes(parameters, COLUMNS)
    by_rows = spec.over_classes

    def arguments(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        if by_rows:
            shape = (shape[0], columns)
            x = row_predictions(spec, rng.standard_normal(shape).astype(dtype))
            target = row_targets(spec, parameters, shape, dtype, rng)
        else:
            x = predictions_for(spec, rng.standard_normal(shape).astype(dtype))
            target = targets_for(spec, shape, dtype, rng)
        weight = rng.uniform(0.5, 2.0, shape[0] if by_rows or rng.random() < 0.5 else shape).astype(dtype)
        return {"pred": x, "target": target, "sample_weight": weight}

    def reduced(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        return arguments(rng, shape, dtype) | {"reduction": str(rng.choice(["mean", "sum", "none"]))}

    def with_out(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        found = reduced(rng, shape, dtype)
        return found | {"out": np.empty_like(found["pred"])}

    def hessian(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        found = arguments(rng, shape, dtype)
        return found | {"hess_floor": 0.25, "out": (np.empty_like(found["pred"]), np.empty_like(found["pred"]))}

    return [
        (spec.name, loss, reduced),
        (f"{spec.name}.gradient", loss.gradient, with_out),
        (f"{spec.name}.value_and_grad", loss.value_and_grad, with_out),
        (f"{spec.name}.grad_and_hess", loss.grad_and_hess, hessian),
    ]


def layer_loss_cases(spec: Any) -> list[Case]:
    loss = spec.cls(**(spec.examples or (spec.parameters,))[0])

    def arguments(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        rows, features = shape
        x, weight = rng.standard_normal(shape).astype(dtype), rng.standard_normal((features, 5)).astype(dtype)
        found: Arguments = {spec.inputs[0]: x, "weight": weight, spec.inputs[2]: rng.integers(0, 5, rows)}
        if "bias" in spec.inputs or spec.name.startswith("linear"):
            found["bias"] = rng.standard_normal(5).astype(dtype)
        return found | {"sample_weight": rng.uniform(0.5, 2.0, rows).astype(dtype)}

    verbs = (loss, loss.gradient, loss.value_and_grad)
    return [(f"{spec.name} {i}", verb, arguments) for i, verb in enumerate(verbs)]


def activation_cases(spec: Any) -> list[Case]:
    choices = [spec.parameters, *spec.examples]
    parameters = next((p | {"learn_beta": True} for p in choices if "learn_beta" in spec.switches), choices[-1])
    act = spec.cls(**parameters)
    columns = 12

    def forward(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        columns_here = parameters.get("num_parameters", columns)
        x = rng.standard_normal((shape[0], columns_here if columns_here != 1 else columns)).astype(dtype)
        return {"x": x, "out": np.empty(act.output_shape(x.shape), dtype), **learned(rng, dtype)}

    def learned(rng: np.random.Generator, dtype: Any) -> Arguments:
        params = act.init_params(dtype)
        return {"params": params} if params else {}

    def backward(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        found = forward(rng, shape, dtype)
        dy = rng.standard_normal(found["out"].shape).astype(dtype)
        return found | {"dy": dy, "out": np.empty_like(found["x"])}

    def with_slopes(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        found = backward(rng, shape, dtype)
        return found | {"slopes": rng.uniform(0.1, 0.3, found["x"].shape).astype(dtype)}

    def derivative(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        found = forward(rng, shape, dtype)
        return found | {"out": np.empty_like(found["x"])}

    cases: list[Case] = [
        (spec.name, act, forward),
        (f"{spec.name}.backward", act.backward, backward),
        (f"{spec.name}.backward_params", act.backward_params, backward),
        (f"{spec.name}.derivative", act.derivative, derivative),
    ]
    return [*cases, (f"{spec.name} with slopes", act.backward, with_slopes)] if spec.name == "rrelu" else cases


def positional(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the core with its arguments by name, in the order of the dict."""
    return lambda **arguments: function(*arguments.values())


def op_cases() -> list[Case]:
    def two(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> tuple[Array, Array, Array]:
        x = rng.standard_normal(shape).astype(dtype)
        return x, rng.standard_normal((shape[1], 5)).astype(dtype), rng.standard_normal(5).astype(dtype)

    def matmul(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        a, b, _ = two(rng, shape, dtype)
        out = np.empty((shape[0], 5), dtype)
        return {"a": a, "b": b, "transpose_a": False, "transpose_b": False, "out": out}

    def linear(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        x, weight, bias = two(rng, shape, dtype)
        out = np.empty((shape[0], 5), dtype)
        return {"x": x, "weight": weight, "bias": bias, "activation": fp.activations.Tanh(), "out": out}

    def linear_backward(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        x, weight, _ = two(rng, shape, dtype)
        du, u = rng.standard_normal((2, shape[0], 5)).astype(dtype)
        return {"x": x, "weight": weight, "du": du, "activation": fp.activations.Tanh(), "preactivation": u}

    def along(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        return {"x": rng.standard_normal(shape).astype(dtype), "axis": int(rng.integers(-2, 2))}

    def elementwise(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        return {"x": rng.uniform(0.1, 0.9, shape).astype(dtype), "out": np.empty(shape, dtype)}

    def distributions(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        p, q = rng.uniform(0.1, 0.9, (2, *shape)).astype(dtype)
        return {"p": p, "q": q, "axis": 1, "out": np.empty(shape[0], dtype)}

    def dropout(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
        return {"x": rng.standard_normal(shape).astype(dtype), "p": 0.5, "key": 3, "out": np.empty(shape, dtype)}

    def norm(rows: bool) -> Callable[[np.random.Generator, tuple[int, int], Any], Arguments]:
        def arguments(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
            x = rng.standard_normal(shape).astype(dtype)
            weight, bias = rng.standard_normal((2, shape[1])).astype(dtype)
            mean, var = rng.uniform(0.5, 1.0, (2, shape[0 if rows else 1]))
            found: Arguments = {"x": x, "weight": weight, "bias": bias, "eps": 1e-5, "mean": mean, "var": var}
            return found | ({} if rows else {"training": False}) | {"out": np.empty(shape, dtype)}

        return arguments

    def norm_backward(rows: bool) -> Callable[[np.random.Generator, tuple[int, int], Any], Arguments]:
        def arguments(rng: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Arguments:
            x, dy = rng.standard_normal((2, *shape)).astype(dtype)
            mean, var = rng.uniform(0.5, 1.0, (2, shape[0 if rows else 1]))
            weight = rng.standard_normal(shape[1]).astype(dtype)
            found: Arguments = {"x": x, "dy": dy, "weight": weight, "eps": 1e-5, "mean": mean, "var": var}
            return found | {"dx": np.empty_like(x), "dweight": None, "dbias": None, "accumulate": False}

        return arguments

    return [
        ("matmul", ops.matmul, matmul),
        ("linear", ops.linear, linear),
        ("linear_backward", ops.linear_backward, linear_backward),
        *((f.__name__, f, along) for f in (ops.softmax, ops.log_softmax, ops.logsumexp, ops.entropy)),
        *((f.__name__, f, elementwise) for f in (ops.exp, ops.expm1, ops.log, ops.log1p, ops.erf)),
        *((f.__name__, f, distributions) for f in (ops.cross_entropy, ops.kl_divergence)),
        ("self_information", positional(ops.self_information), lambda r, s, d: {"p": r.uniform(0.1, 0.9, s).astype(d)}),
        ("dropout", positional(_core.dropout), dropout),
        ("batch_norm", positional(_core.batch_norm), norm(False)),
        ("layer_norm", positional(_core.layer_norm), norm(True)),
        ("batch_norm_backward", positional(_core.batch_norm_backward), norm_backward(False)),
        ("layer_norm_backward", positional(_core.layer_norm_backward), norm_backward(True)),
    ]


def all_cases() -> list[Case]:
    cases = op_cases()
    for spec in _registry.losses().values():
        cases += layer_loss_cases(spec) if spec in LAYER_LOSSES else loss_cases(spec)
    for spec in _registry.activations().values():
        cases += activation_cases(spec)
    return cases


# --- objects that run code when they are converted ----------------------------------------------------------


class Lazy:
    """An array by the protocol __array__."""

    def __init__(self, value: Any, change: Change) -> None:
        self.value, self.change = value, change

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        self.change()
        return np.asarray(self.value)


class Tensor:
    """An array by DLPack alone."""

    def __init__(self, value: Any, change: Change) -> None:
        self.value, self.change = np.array(value), change

    def __dlpack__(self, **options: Any) -> Any:
        self.change()
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.value.__dlpack_device__()


class Rows(Lazy):
    """An array as a sequence of rows."""

    __array__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, i: int) -> Any:
        self.change()
        return self.value[i]


class Subclass(np.ndarray[Any, Any]):
    """An array whose views, copies and functions run code: none of it may run in a call."""

    change: Change | None = None

    def __array_finalize__(self, of: Any) -> None:
        if isinstance(of, Subclass) and of.change is not None:
            of.change()

    def __array_function__(self, *arguments: Any) -> Any:
        if self.change is not None:
            self.change()
        return super().__array_function__(*arguments)


class Number:
    """A number."""

    def __init__(self, value: Any, change: Change) -> None:
        self.value, self.change = value, change

    def __float__(self) -> float:
        self.change()
        return float(self.value)

    def __index__(self) -> int:
        self.change()
        return int(self.value)

    def __bool__(self) -> bool:
        self.change()
        return bool(self.value)


class Params:
    """A mapping with an array."""

    def __init__(self, value: dict[str, Array], change: Change) -> None:
        self.value, self.change = value, change

    def keys(self) -> Any:
        self.change()
        return self.value.keys()

    def __getitem__(self, key: str) -> Array:
        self.change()
        return self.value[key]


# --- one call -----------------------------------------------------------------------------------------------


def changes_of(array: Array, rng: np.random.Generator) -> list[Change]:
    """Return what one can do to an array."""

    def resize() -> None:
        array.resize(int(rng.choice([0, 1, 3, array.size // 2, array.size * 4])), refcheck=False)

    def retype() -> None:
        if array.flags.c_contiguous and array.nbytes % 8 == 0:
            array.dtype = rng.choice(["f4", "i4", "f8", "i8", "i2", "c8"])  # type: ignore[misc]

    def reshape() -> None:
        array.shape = (array.size,) if array.ndim > 1 else (1, array.size)

    def fill() -> None:
        array[...] = 1 << 40 if array.dtype.itemsize == 8 and array.dtype.kind == "i" else 100

    return [resize, resize, retype, reshape, fill]


def copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.array(value, subok=False)
    if isinstance(value, tuple):
        return tuple(copied(item) for item in value)
    return {k: copied(v) for k, v in value.items()} if isinstance(value, dict) else value


def outcome(function: Callable[..., Any], arguments: Arguments) -> Any:
    try:
        return function(**arguments)
    except (TypeError, ValueError) as error:
        return error


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a is b if a is None else np.array_equal(a, b, equal_nan=True)


def arrays_in(arguments: Arguments) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for name, value in arguments.items():
        items = value if isinstance(value, tuple) else value.values() if isinstance(value, dict) else [value]
        found |= {f"{name} {i}": item for i, item in enumerate(items) if isinstance(item, np.ndarray)}
    return found


def run_once(cases: list[Case], seed: int) -> str | None:
    """Make the call that the seed says; return what is wrong with it."""
    rng = np.random.default_rng(seed)
    name, function, make = cases[rng.integers(len(cases))]
    rows = 150_000 if rng.random() < 0.01 else ROWS  # whose memory goes back to the system when they are resized
    arguments = make(rng, (rows, COLUMNS), rng.choice([np.float32, np.float64]))
    actors = [key for key, value in arguments.items() if not isinstance(value, (str, fp.activations.Activation, tuple))]
    actor = str(rng.choice([key for key in actors if arguments[key] is not None]))
    victims = arrays_in({key: value for key, value in arguments.items() if key != actor})
    if not victims:
        return None
    victim = str(rng.choice(list(victims)))
    changes = changes_of(victims[victim], rng)
    change = changes[rng.integers(len(changes))]
    value = arguments[actor]
    plain = dict(arguments)  # with what they are once the last change is done
    state: Arguments = {}
    count = 0

    def act() -> None:
        nonlocal count
        count += 1
        if count <= 2:
            change()
            state.update({key: copied(item) for key, item in plain.items()})

    if isinstance(value, dict):
        kind: Any = Params
    elif not isinstance(value, np.ndarray):
        kind = Number
    else:
        kind = [Lazy, Lazy, Tensor, Rows, Subclass][rng.integers(5 if rows == ROWS else 3)]
        kind = Lazy if actor.startswith(("out", "dx")) and kind is not Subclass else kind
    if kind is Subclass:
        evil = value.view(Subclass)
        evil.change = act
    else:
        evil = kind(value, act)
    found = outcome(function, arguments | {actor: evil})
    if kind is Subclass:
        return f"{name}: code of a subclass has run, {actor} on {victim}, {change.__name__}" if count else None
    if actor.startswith(("out", "dx")) or not state:
        return None
    expected = outcome(function, state)
    if same(found, expected):
        return None
    return f"{name}: {actor} ({kind.__name__}) on {victim}, {change.__name__}: {found!r} instead of {expected!r}"


def main(seed: int, count: int) -> int:
    faulthandler.enable()
    warnings.simplefilter("ignore")
    cases = all_cases()
    wrong = 0
    for i in range(seed, seed + count):
        problem = run_once(cases, i)
        if problem is not None:
            wrong += 1
            print(f"seed {i}: {problem[:600]}", file=sys.stderr)
    print(f"{count} calls, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
