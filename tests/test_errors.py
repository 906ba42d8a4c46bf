"""Bad input: every message names the argument, what was found and what was expected; nothing is written.

See "Bad input" in CONTRIBUTING.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import (
    ACTIVATIONS,
    CLASS_LOSSES,
    GOOD_TARGET,
    LAYER_LOSSES,
    LAYOUTS,
    LOSSES,
    METRICS,
    ROOTS,
    ROW_LOSSES,
    STRUCTURED,
    Array,
    Out,
    each_dtype,
    invalid_target,
    predictions_for,
    seeded,
    targets_for,
)

import fuseprop as fp
from fuseprop import _checks, _core, ops
from fuseprop._registry import ActivationSpec, LossSpec, Spec

ALL = [*ACTIVATIONS, *STRUCTURED, *LOSSES, *METRICS, *ROOTS, *CLASS_LOSSES, *ROW_LOSSES, *LAYER_LOSSES]
BAD_DTYPES = (np.float16, np.longdouble, np.complex64, np.complex128, object, "U3", "S3", "M8[s]", "m8[s]")
REAL = [spec for spec in LOSSES if invalid_target(spec)]

each_activation = pytest.mark.parametrize("spec", ACTIVATIONS, ids=lambda spec: spec.name)
each_loss = pytest.mark.parametrize("spec", [*LOSSES, *CLASS_LOSSES], ids=lambda spec: spec.name)
each_elementwise_loss = pytest.mark.parametrize("spec", LOSSES, ids=lambda spec: spec.name)


def refuses(error: type[Exception], *parts: str) -> Any:
    """pytest.raises for a message that has all of these parts, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


def example(spec: LossSpec, shape: tuple[int, int] = (4, 3), dtype: Any = np.float64) -> tuple[Array, Array]:
    rng = seeded("errors", spec.name)
    pred = predictions_for(spec, rng.standard_normal(shape).astype(dtype))
    if spec.target_domain == "classes":
        return pred, rng.integers(0, shape[1], shape[0])
    return pred, targets_for(spec, shape, dtype, rng)


def with_out(loss: Any) -> list[Callable[..., Any]]:
    return [loss.gradient, loss.value_and_grad]


def verbs(loss: Any) -> list[Callable[..., Any]]:
    return [loss, loss.gradient, loss.value_and_grad, loss.grad_and_hess]


# --- hyper-parameters ---------------------------------------------------------------------------------------


#: Parameters beside which 2 is allowed.
BESIDE = {("hardtanh", "min_val"): {"max_val": 3.0}, ("rrelu", "lower"): {"upper": 3.0}}


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
def test_hyper_parameters(spec: Spec) -> None:
    for name, choices in spec.choices.items():
        for wrong in ("nonsense", choices[0].upper(), ""):
            with refuses(ValueError, f"{name} is {wrong!r}; expected", *map(repr, choices)):
                spec.cls(**{name: wrong})
        for wrong in (None, 1, 0.0, True, choices[0].encode(), [choices[0]]):
            with refuses(TypeError, name, "string", type(wrong).__name__):
                spec.cls(**{name: wrong})
    for name in spec.parameters.keys() - spec.choices.keys():
        number = spec.parameters[name]
        if isinstance(number, bool):
            for value in (0, 1.0, "True", None, [True]):
                with refuses(TypeError, name, "bool", type(value).__name__):
                    spec.cls(**{name: value})
            continue
        if isinstance(number, int):
            for value in (1.0, math.nan, "1", b"1", None, 1j, [1], {}, object()):
                with refuses(TypeError, name, "integer", type(value).__name__):
                    spec.cls(**{name: value})
            for same in (2, np.int8(2), np.uint64(2), np.array(2)):
                assert getattr(spec.cls(**{name: same}), name) == 2
            continue
        if not isinstance(number, float):
            continue  # an option
        for value in (math.nan, math.inf, -math.inf, 10**400):
            with refuses(ValueError, name, "finite"):
                spec.cls(**{name: value})
        for value in ("1", b"1", None, 1j, {}, object()):
            with refuses(TypeError, name, "number", type(value).__name__):
                spec.cls(**{name: value})
        beside = BESIDE.get((spec.name, name), {})
        if name != "q":  # which may be a list
            with refuses(TypeError, name, "number", "list"):
                spec.cls(**{name: [1.0]})
        for same in (
            (np.float32(0.5), np.float64(0.5), np.array(0.5))
            if name in ("q", "alpha", "label_smoothing")
            else (np.float32(2.0), np.float64(2.0), 2, np.int8(2), np.array(2.0))
        ):
            assert getattr(spec.cls(**{name: same}, **beside), name) == same
        assert getattr(spec.cls(**{name: number}), name) == number
    with pytest.raises(TypeError):
        spec.cls(no_such_parameter=1.0)


@pytest.mark.parametrize(
    ("make", "name", "bad"),
    [
        (fp.losses.Huber, "delta", [0.0, -1.0]),
        (fp.losses.PseudoHuber, "delta", [0.0, -1.0]),
        (fp.losses.Quantile, "q", [0.0, 1.0, -0.5, 2.0]),
        (fp.losses.FocalWithLogits, "gamma", [-0.5]),
        (fp.losses.BinaryCrossEntropy, "eps", [0.0, 0.5, -1e-9]),
        (fp.activations.Softplus, "beta", [0.0, -0.5]),
        (fp.activations.CELU, "alpha", [0.0, -1.0]),
        (fp.activations.Hardtanh, "max_val", [-1.0, -2.0]),
        (fp.losses.BinaryCrossEntropyWithLogits, "pos_weight", [-1e-300, -1.0]),
    ],
)
def test_limits_of_hyper_parameters(make: Any, name: str, bad: list[float]) -> None:
    for value in bad:
        with refuses(ValueError, f"{name} is {value!r}", "expected a finite number >"):
            make(**{name: value})
        if next(iter(make.spec.parameters)) == name:
            with refuses(ValueError, f"{name} is {value!r}"):
                make(value)


def test_options_of_constructors() -> None:
    for value in ("ignore", ""):
        with refuses(ValueError, "on_zero", repr(value), "raise", "inf", "skip"):
            fp.losses.AbsolutePercentageError(on_zero=value)
    for wrong in (None, 0, b"skip"):
        with refuses(TypeError, "on_zero must be a string", type(wrong).__name__):
            fp.losses.AbsolutePercentageError(on_zero=wrong)
    for huge in (10**400, -(10**400)):
        with refuses(ValueError, f"delta is {'-' if huge < 0 else ''}inf"):
            fp.losses.Huber(huge)
    for alpha in (-0.1, 1.1):
        with refuses(ValueError, f"alpha is {alpha}", "expected a finite number >= 0 and <= 1"):
            fp.losses.FocalWithLogits(alpha=alpha)
    for power in (0.5, 1e-9, 0.999):
        with refuses(ValueError, f"power is {power}", "<= 0 or >= 1"):
            fp.losses.Tweedie(power=power)
    for eps in ("0.1", [0.1]):
        with refuses(TypeError, "eps", "number"):
            fp.losses.BinaryCrossEntropy(eps=eps)


def test_lists_of_quantiles() -> None:
    for q, message in (([], "q is empty"), ([0.1, 1.5], "q[1] is 1.5"), (np.full((2, 2), 0.5), "q has 2 dimensions")):
        with refuses(ValueError, message):
            fp.losses.Quantile(q=q)
    for q in (["0.1"], [None], [[0.1]]):
        with refuses(TypeError, "q[0] must be a number"):
            fp.losses.Quantile(q=q)
    loss = fp.losses.Quantile(q=[0.1, 0.9])
    for shape in ((4,), (4, 1), (4, 3), (2, 4), ()):
        with refuses(ValueError, f"pred has shape {shape}", "2 columns"):
            loss(np.ones(shape), np.ones(shape))
    for shape in ((2,), (3,), (4, 1), (2, 4), ()):
        with refuses(ValueError, "target", str(shape), "pred", "(4, 2)"):
            loss(np.ones((4, 2)), np.ones(shape))


@each_dtype
def test_predictions_outside_of_the_domain(dtype: Any) -> None:
    """Probabilities must be in [0, 1]; a NaN is let through. The first element of either argument is named."""
    loss = fp.losses.BinaryCrossEntropy()
    pred, target = np.full((300, 70), 0.5, dtype), np.ones((300, 70), dtype)
    pred[0, 0] = np.nan
    for row, column in ((0, 1), (200, 69)):
        for value in (-0.01, 1.5, np.inf, -np.inf):
            bad = pred.copy()
            bad[row, column] = bad[250, 3] = value
            later = target.copy()
            later[260] = 7
            message = [f"pred[{row}, {column}] is {float(dtype(value))!r}", "expects values in [0, 1]"]
            for verb in verbs(loss):
                for other in (target, later):
                    with refuses(ValueError, *message):
                        verb(bad, other)
            for verb in with_out(loss):
                out = Out("c", pred.shape, dtype)
                with refuses(ValueError, *message):
                    verb(bad, later, out=out.array)
                out.assert_untouched()
    target[0, 0] = -1
    pred[0, 0] = 2
    with refuses(ValueError, "target[0, 0] is -1.0"):
        loss(pred, target)
    assert np.isnan(loss(np.array([np.nan], dtype), np.ones(1, dtype)))


def test_losses_without_all_verbs() -> None:
    pred, target = np.array([0.5, -1.0]), np.array([1.0, 1.0])
    for spec in METRICS:
        for verb in verbs(spec.cls())[1:]:
            with refuses(TypeError, spec.name, "metric", "no gradient"):
                verb(pred, target)
    for spec in ROOTS:
        loss = spec.cls()
        with refuses(TypeError, spec.name, "no derivatives per sample"):
            loss.grad_and_hess(pred, target)
        for verb in verbs(loss)[:3]:
            for reduction in ("sum", "none"):
                with refuses(ValueError, "reduction", repr(reduction), spec.name, '"mean" only'):
                    verb(pred, target, None, reduction)
            for wrong in ("avg", None):
                with refuses(ValueError, "reduction", repr(wrong), "mean"):
                    verb(pred, target, None, wrong)
            with refuses(ValueError, "target", "(2, 1)", "pred", "(2,)"):
                verb(pred, target[:, None])
            with refuses(ValueError, "sample_weight", "(3,)", "pred", "(2,)"):
                verb(pred, target, np.ones(3))


# --- inputs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", BAD_DTYPES, ids=str)
def test_dtypes(dtype: Any) -> None:
    """A TypeError that names the argument and the dtype, and says what to do: where a cast loses much, no cast."""
    bad = np.zeros((3, 3)).astype(dtype)
    good = np.zeros((3, 3))
    instead = {"c": ".real", "M": ".min()) / np.timedelta64", "m": "/ np.timedelta64"}
    found = ["has dtype", str(bad.dtype), "float32 or float64", instead.get(bad.dtype.kind, "astype")]
    for spec in [*ACTIVATIONS, *STRUCTURED]:
        act = spec.cls()
        for call in (act, act.derivative, lambda x, a=act: a.backward(x, good)):
            with refuses(TypeError, "x", *found):
                call(bad)
        with refuses(TypeError, "dy", *found):
            act.backward(np.zeros((3, 2)), bad)
    for spec in [*LOSSES, *CLASS_LOSSES]:
        target = [0, 1, 2] if spec.target_domain == "classes" else good
        for verb in verbs(spec.cls()):
            with refuses(TypeError, "pred", *found):
                verb(bad, target)
            with refuses(TypeError, "target", *found):
                verb(good, bad)
            with refuses(TypeError, "sample_weight", *found):
                verb(good, target, bad[0])
    for function in (ops.softmax, ops.log_softmax, ops.logsumexp):
        with refuses(TypeError, "x", *found):
            function(bad)
    for name, arguments in {"a": (bad, good), "b": (good, bad)}.items():
        with refuses(TypeError, name, *found):
            ops.matmul(*arguments)
    for i, name in enumerate(("x", "weight", "bias")):
        arguments = [good, good, good[0]]
        arguments[i] = bad if i < 2 else bad[0]
        with refuses(TypeError, name, *found):
            ops.linear(*arguments)
    for i, name in enumerate(("x", "weight", "du")):
        arguments = [good, good, good]
        arguments[i] = bad
        with refuses(TypeError, name, *found):
            ops.linear_backward(*arguments)


@pytest.mark.parametrize(
    "bad", [None, [[1.0], [1.0, 2.0]], object(), {"a": 1}], ids=["None", "ragged", "object", "dict"]
)
def test_what_is_not_an_array(bad: Any) -> None:
    good = np.ones((2, 2))
    for spec in [*ACTIVATIONS, *STRUCTURED]:
        act = spec.cls()
        for call, name in ((act, "x"), (act.derivative, "x"), (lambda v, a=act: a.backward(good, v), "dy")):
            with refuses(TypeError, name):
                call(bad)
    for spec in [*LOSSES, *CLASS_LOSSES]:
        target = [0, 1] if spec.target_domain == "classes" else good
        for verb in verbs(spec.cls()):
            with refuses(TypeError, "pred"):
                verb(bad, target)
            with pytest.raises((TypeError, ValueError), match="target"):
                verb(good, bad)
            if bad is not None:
                with refuses(TypeError, "sample_weight"):
                    verb(good, target, bad)
    with refuses(TypeError, "a"):
        ops.matmul(bad, good)
    with refuses(TypeError, "weight"):
        ops.linear(good, bad)
    with refuses(TypeError, "x"):
        ops.softmax(bad)


@each_activation
def test_shapes_of_activations(spec: ActivationSpec) -> None:
    act = spec.cls()
    x = np.ones((2, 3))
    for shape in ((3, 2), (3,), (2, 3, 1), (1, 3), ()):
        with refuses(ValueError, "dy", str(shape), "x", "(2, 3)"):
            act.backward(x, np.ones(shape))
        with refuses(ValueError, "out", str(shape), "expected (2, 3)"):
            act(x, out=np.ones(shape))
    with refuses(TypeError, "dy", "float32", "x", "float64"):
        act.backward(x, x.astype(np.float32))
    with pytest.raises(TypeError):
        act()
    with pytest.raises(TypeError):
        act(x, nonsense=1)


@each_elementwise_loss
def test_shapes_of_losses(spec: LossSpec) -> None:
    """No broadcasting: (N,) against (N, 1) is an error, not a matrix."""
    pred, target = example(spec)
    for verb in verbs(spec.cls()):
        for shape in ((3, 4), (4,), (3,), (4, 1), (4, 3, 1), ()):
            with refuses(ValueError, "target", str(shape), "pred", "(4, 3)"):
                verb(pred, np.full(shape, GOOD_TARGET))
        with refuses(ValueError, "target", "(4, 1)", "pred", "(4,)"):
            verb(np.ones(4), np.ones((4, 1)))
        for shape in ((3,), (12,), (1, 3), (4, 1), (3, 4), ()):
            with refuses(ValueError, "sample_weight", str(shape), "expected pred's shape (4, 3) or (4,)"):
                verb(pred, target, np.ones(shape))


@pytest.mark.parametrize("spec", CLASS_LOSSES, ids=lambda spec: spec.name)
def test_shapes_of_losses_over_classes(spec: LossSpec) -> None:
    pred = np.ones((4, 3))
    for verb in verbs(spec.cls()):
        for shape in ((3,), (4, 1), (1, 4), (5,), (4, 4), (3, 4), (4, 3, 1), ()):
            with refuses(ValueError, "target", str(shape), "(4,)", "(4, 3)"):
                verb(pred, np.zeros(shape, int))
        for shape in ((3,), (4, 1), (4, 3), (), (12,)):
            with refuses(ValueError, "sample_weight", str(shape), "(4,)"):
                verb(pred, np.zeros(4, int), np.ones(shape))
        with refuses(TypeError, "target", "float64", "integer"):
            verb(pred, np.zeros(4))
        with refuses(ValueError, "pred", "()"):
            verb(np.float64(1.0), 0)


@each_loss
def test_options_of_losses(spec: LossSpec) -> None:
    pred, target = example(spec)
    loss = spec.cls()
    for reduction in ("avg", "Mean", "", None, 3, b"mean"):
        for verb in verbs(loss)[:3]:
            with refuses(ValueError, "reduction", repr(reduction), "mean", "sum", "none"):
                verb(pred, target, None, reduction)
    for number in (math.nan, math.inf, -math.inf):
        with refuses(ValueError, f"hess_floor is {number}", "finite"):
            loss.grad_and_hess(pred, target, None, number)
    for floor in ("0", [], 1j):
        with refuses(TypeError, "hess_floor", type(floor).__name__):
            loss.grad_and_hess(pred, target, None, floor)
    for verb in verbs(loss):
        with pytest.raises(TypeError):
            verb(pred)
        with pytest.raises(TypeError):
            verb(pred, target, nonsense=1)
    if spec.target_domain == "classes":
        for hessian in ("full", "Upper", None, 2):
            with refuses(ValueError, "hessian", repr(hessian), "diagonal", "upper"):
                loss.grad_and_hess(pred, target, hessian=hessian)


# --- targets outside of the domain --------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["c", "f", "step2"])
@each_dtype
@pytest.mark.parametrize("spec", REAL, ids=lambda spec: spec.name)
def test_invalid_targets(spec: LossSpec, dtype: Any, layout: str) -> None:
    """The first offending index and value are named, wherever it stands; `out` is as it was."""
    loss = spec.cls()
    shape = (701, 103)
    pred, target = example(spec, shape, dtype)
    for row, column in ((0, 0), (0, 17), (350, 50), (700, 102)):
        for value in invalid_target(spec):
            bad = LAYOUTS[layout](*shape, dtype)[1]
            bad[...] = target
            bad[row, column] = value
            bad[700, 102] = value
            message = [f"target[{row}, {column}] is {float(dtype(value))!r}", "expects"]
            for verb in verbs(loss):
                with refuses(ValueError, *message):
                    verb(pred, bad)
            for verb in with_out(loss):
                out = Out("c", shape, dtype)
                with refuses(ValueError, *message):
                    verb(pred, bad, out=out.array)
                out.assert_untouched()
    in_place = target.copy()
    in_place[-1, -1] = invalid_target(spec)[0]
    before = in_place.copy()
    with refuses(ValueError, "target[700, 102]"):
        loss.gradient(pred, in_place, out=in_place)
    assert np.array_equal(in_place, before)


@each_dtype
def test_the_first_in_c_order_is_named(dtype: Any) -> None:
    """Even where memory is in Fortran order and is searched so."""
    loss = fp.losses.BinaryCrossEntropy()
    pred, target = (np.full((2, 40, 30), 0.5, dtype, order="F") for _ in range(2))
    target[1, 0, 0] = -1
    pred[0, 3, 29] = 2
    for verb in verbs(loss):
        with refuses(ValueError, "pred[0, 3, 29] is 2.0"):
            verb(pred, target)
    target[0, 3, 28] = 3
    with refuses(ValueError, "target[0, 3, 28] is 3.0"):
        loss(pred, target)


def test_targets_that_the_cast_brings_out_of_the_domain() -> None:
    """The message says so where the value is another one than was given; NumPy's warning does not escape."""
    pred = np.ones((2, 3), np.float32)
    for value, found in ((1e-50, "0.0 as float32;"), (1e300, "inf as float32;"), (-2.5, "-2.5;")):
        target = np.ones((2, 3))
        target[1, 2] = value
        for goal in (target, np.asfortranarray(target), np.repeat(target, 2, axis=1)[:, ::2], target.tolist()):
            for verb in verbs(fp.losses.Gamma()):
                with refuses(ValueError, f"target[1, 2] is {found}"):
                    verb(pred, goal)
    assert fp.losses.AbsoluteError()(pred, np.full((2, 3), 1e300), np.full(2, 0.1)) != 0  # no warning


def test_uninitialised_losses() -> None:
    for spec in [*LOSSES, *METRICS, *ROOTS]:
        with refuses(RuntimeError, "not initialised"):
            spec.cls.__new__(spec.cls)(np.ones(2), np.ones(2))


@each_dtype
@pytest.mark.parametrize(
    "integer", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64], ids=lambda t: t.__name__
)
@pytest.mark.parametrize("spec", CLASS_LOSSES, ids=lambda spec: spec.name)
def test_labels_out_of_range(spec: LossSpec, integer: Any, dtype: Any) -> None:
    """Row, label and the number of classes are named; `out` is as it was."""
    loss = spec.cls()
    for rows, classes in ((5, 3), (9001, 10)):
        pred, labels = example(spec, (rows, classes), dtype)
        for row in (0, rows - 1):
            for label in (classes, np.iinfo(integer).max, np.iinfo(integer).min, -1):
                if label in range(classes) or not np.iinfo(integer).min <= label:
                    continue
                bad = labels.astype(integer)
                bad[row] = label
                message = [f"target[{row}]", str(label), f"0 to {classes - 1}", str(classes)]
                for verb in verbs(loss):
                    with refuses(ValueError, *message):
                        verb(pred, bad)
                for verb in with_out(loss):
                    out = Out("c", pred.shape, dtype)
                    with refuses(ValueError, *message):
                        verb(pred, bad, out=out.array)
                    out.assert_untouched()
                    before = pred.copy()
                    with refuses(ValueError, *message):
                        verb(pred, bad, out=pred)
                    assert np.array_equal(pred, before)


@each_dtype
@pytest.mark.parametrize("value", [-0.001, 1.5, np.nan, np.inf])
@pytest.mark.parametrize("spec", CLASS_LOSSES, ids=lambda spec: spec.name)
def test_invalid_distributions(spec: LossSpec, value: float, dtype: Any) -> None:
    loss = spec.cls()
    pred = seeded("q").standard_normal((4001, 17)).astype(dtype)
    for row, column in ((0, 0), (2000, 5), (4000, 16)):
        q = np.full(pred.shape, 1 / 17, dtype)
        q[row, column] = value
        message = f"target[{row}, {column}] is {float(dtype(value))!r}", "[0, 1]"
        for verb in verbs(loss):
            with refuses(ValueError, *message):
                verb(pred, q)
        for verb in with_out(loss):
            out = Out("c", pred.shape, dtype)
            with refuses(ValueError, *message):
                verb(pred, q, out=out.array)
            out.assert_untouched()


# --- out ----------------------------------------------------------------------------------------------------


def calls_with_out() -> list[Any]:
    """(function of (x, out) with a square x, whether out may be x), for everything that takes out."""
    square, ones = np.full((6, 6), 0.5), np.full((6, 6), GOOD_TARGET)
    calls: list[Any] = []

    def add(name: str, call: Callable[..., Any], in_place: bool) -> None:
        calls.append(pytest.param(call, in_place, id=name))

    for spec in ACTIVATIONS:
        act = spec.cls()
        add(f"{spec.name}", lambda x, out, a=act: a(x, out=out), True)
        add(f"{spec.name}.derivative", lambda x, out, a=act: a.derivative(x, out=out), True)
        add(f"{spec.name}.backward x", lambda x, out, a=act: a.backward(x, square.astype(x.dtype), out=out), True)
        add(f"{spec.name}.backward dy", lambda x, out, a=act: a.backward(square.astype(x.dtype), x, out=out), True)
    for spec in [*LOSSES, *ROOTS, *CLASS_LOSSES]:
        loss = spec.cls()
        for verb in with_out(loss):
            name = f"{spec.name}.{verb.__name__}"
            add(f"{name} pred", lambda x, out, v=verb: v(x, ones, out=out), True)
            add(f"{name} target", lambda x, out, v=verb: v(ones.astype(x.dtype), x, out=out), True)
    add("softmax", lambda x, out: ops.softmax(x, out=out), True)
    add("log_softmax 0", lambda x, out: ops.log_softmax(x, 0, out=out), True)
    for name in ("matmul", "linear"):
        function = getattr(ops, name)
        add(f"{name} left", lambda x, out, f=function: f(x, square.astype(x.dtype), out=out), False)
        add(f"{name} right", lambda x, out, f=function: f(square.astype(x.dtype), x, out=out), False)
    for activation in (None, "tanh"):
        add(
            f"linear preactivation {activation}",
            lambda x, out, f=activation: ops.linear(
                x, square.astype(x.dtype), activation=f, return_preactivation=True, out=out
            ),
            False,
        )
    return calls


@pytest.mark.parametrize(("call", "in_place"), calls_with_out())
@each_dtype
def test_out(call: Callable[..., Any], in_place: bool, dtype: Any) -> None:
    x = np.full((6, 6), 1.0, dtype)
    other = np.float32 if dtype == np.float64 else np.float64
    for wrong in (other, np.int64, np.complex128, np.float16, np.dtype(dtype).newbyteorder()):
        out = np.full((6, 6), 7, wrong)
        with refuses(ValueError, "out has dtype", str(out.dtype), f"expected {np.dtype(dtype).name}"):
            call(x, out)
        assert (out == 7).all()
    for shape in ((6,), (5, 6), (6, 5), (1, 6, 6), (36,), ()):
        out = np.full(shape, 7, dtype)
        with refuses(ValueError, "out has shape", str(shape), "expected (6, 6)"):
            call(x, out)
        assert (out == 7).all()
    out = np.full((6, 6), 7, dtype)
    out.flags.writeable = False
    with refuses(ValueError, "out", "read-only"):
        call(x, out)
    assert (out == 7).all()
    for not_an_array in ([[0.0] * 6] * 6, 3.0, "out"):
        with refuses(TypeError, "out", type(not_an_array).__name__):
            call(x, not_an_array)

    # Any overlap but the same elements.
    memory = np.full(200, 1.0, dtype)
    base = memory[40:76].reshape(6, 6)
    shifted = [memory[k : k + 36].reshape(6, 6) for k in (39, 41, 46, 5, 75)]
    strided = [base.T, base[::-1], base[:, ::-1], memory[40:112:2].reshape(6, 6)]
    for out in [*shifted, *strided]:
        with refuses(ValueError, "out overlaps"):
            call(base, out)
        assert (memory == 1.0).all()
    if not in_place:
        with refuses(ValueError, "out overlaps"):
            call(base, base)
        assert (memory == 1.0).all()
    # Neighbours, and elements that lie between each other, do not overlap.
    for out in (memory[4:40].reshape(6, 6), memory[76:112].reshape(6, 6)):
        call(base, out)
    interleaved = np.full((6, 12), 1.0, dtype)
    expected = np.empty((6, 6), dtype)
    call(np.full((6, 6), 1.0, dtype), expected)
    call(interleaved[:, ::2], interleaved[:, 1::2])
    assert np.array_equal(interleaved[:, 1::2], expected)
    assert (interleaved[:, ::2] == 1.0).all()


# --- ops ----------------------------------------------------------------------------------------------------


def test_shapes_of_products() -> None:
    a, b = np.ones((2, 3)), np.ones((4, 5))
    with refuses(ValueError, "a has shape (2, 3)", "b has shape (4, 5)"):
        ops.matmul(a, b)
    with refuses(ValueError, "a has shape (2, 3) (transposed)", "b has shape (4, 5) (transposed)"):
        ops.matmul(a, b, transpose_a=True, transpose_b=True)
    with refuses(ValueError, "a has shape (3,)", "two dimensions"):
        ops.matmul(np.ones(3), b)
    with refuses(ValueError, "b has shape (1, 4, 5)", "two dimensions"):
        ops.matmul(a, b[None])
    with refuses(TypeError, "b has dtype float32", "a has dtype float64"):
        ops.matmul(a, np.ones((3, 2), np.float32))


def test_shapes_of_linear() -> None:
    x, weight = np.ones((2, 3)), np.ones((3, 5))
    with refuses(ValueError, "x has shape (2, 3)", "weight has shape (5, 3)"):
        ops.linear(x, weight.T)
    with refuses(ValueError, "x has shape (3,)", "two dimensions"):
        ops.linear(x[0], weight)
    for shape in ((3,), (1, 5), (5, 1), ()):
        with refuses(ValueError, "bias has shape", str(shape), "(5,)"):
            ops.linear(x, weight, np.ones(shape))
    with refuses(TypeError, "weight has dtype float32", "x has dtype float64"):
        ops.linear(x, weight.astype(np.float32))
    with refuses(TypeError, "bias has dtype float32", "x has dtype float64"):
        ops.linear(x, weight, np.ones(5, np.float32))
    with refuses(ValueError, "unknown activation 'tanhh'", "'tanh'"):
        ops.linear(x, weight, activation="tanhh")
    for activation in (3, np.tanh, fp.activations.Tanh, fp.losses.Huber()):
        with refuses(TypeError, "activation", type(activation).__name__):
            ops.linear(x, weight, activation=activation)


def test_shapes_of_linear_backward() -> None:
    x, weight, du = np.ones((2, 3)), np.ones((3, 5)), np.ones((2, 5))
    for arguments in ((x.T, weight, du), (x, weight.T, du), (x, weight, du[:1]), (x, weight, du[:, :4])):
        shapes = [str(a.shape) for a in arguments]
        with refuses(ValueError, "x has shape", shapes[0], "weight has shape", shapes[1], "du has shape", shapes[2]):
            ops.linear_backward(*arguments)
    with refuses(ValueError, "du has shape (5,)", "two dimensions"):
        ops.linear_backward(x, weight, du[0])
    with refuses(TypeError, "du has dtype float32", "x has dtype float64"):
        ops.linear_backward(x, weight, du.astype(np.float32))


def test_linear_backward_with_activation() -> None:
    x, weight, dy, u = np.ones((2, 3)), np.ones((3, 5)), np.ones((2, 5)), np.ones((2, 5))
    with refuses(ValueError, "activation is given without its preactivation"):
        ops.linear_backward(x, weight, dy, activation="tanh")
    with refuses(ValueError, "preactivation is given without an activation"):
        ops.linear_backward(x, weight, dy, preactivation=u)
    for wrong in (u[:1], u.T, u[0]):
        with refuses(ValueError, "preactivation has shape", str(wrong.shape), "du has shape (2, 5)"):
            ops.linear_backward(x, weight, dy, activation="tanh", preactivation=wrong)
    with refuses(TypeError, "preactivation has dtype float32", "x has dtype float64"):
        ops.linear_backward(x, weight, dy, activation="tanh", preactivation=u.astype(np.float32))
    with refuses(ValueError, "tanhh"):
        ops.linear_backward(x, weight, dy, activation="tanhh", preactivation=u)
    for activation in (fp.activations.Softmax(), fp.activations.PReLU(), 3):
        with refuses(TypeError, "activation", type(activation).__name__):
            ops.linear_backward(x, weight, dy, activation=activation, preactivation=u)  # type: ignore[arg-type]  # refused
    with refuses(ValueError, "dbias overlaps preactivation"):
        _core.linear_backward(x, weight, dy, None, None, u[0], False, fp.activations.Tanh(), u)
    assert all((a == 1).all() for a in (x, weight, dy, u))


@pytest.mark.parametrize("function", [ops.softmax, ops.log_softmax, ops.logsumexp], ids=lambda f: f.__name__)
def test_axes(function: Any) -> None:
    x = np.ones((2, 3))
    for axis in (2, -3, 100, 10**30):
        with pytest.raises((ValueError, OverflowError), match="axis"):
            function(x, axis)
    with refuses(ValueError, "axis is 2", "-2 to 1", "(2, 3)"):
        function(x, 2)
    for axis in (1.0, "0", None, (0,)):
        with refuses(TypeError, "axis", "integer", type(axis).__name__):
            function(x, axis)
    with refuses(ValueError, "x has shape ()"):
        function(1.0)
    assert np.shape(function(x, np.int64(0))) == ((3,) if function is ops.logsumexp else (2, 3))


def test_out_of_logsumexp() -> None:
    x = np.ones((4, 3))
    for out, message in (
        (np.ones(3), ["out has shape (3,)", "expected (4,)"]),
        (np.ones(4, np.float32), ["out has dtype float32", "expected float64"]),
        (x[:, 0], ["out overlaps x"]),
    ):
        with refuses(ValueError, *message):
            ops.logsumexp(x, out=out)
    assert (x == 1).all()


# --- what is no array of real numbers -----------------------------------------------------------------------


def what_is_refused() -> dict[str, tuple[Any, list[str]]]:
    """Return arguments that no function takes, and what the message says of each but its name."""
    masked = np.ma.masked_array([1.0, 2.0], [False, True])
    text = np.array(["cat", "dog"])
    fields = np.zeros(2, [("height", "f4"), ("width", "f4")])

    class Sparse:
        def toarray(self) -> Array:
            return np.zeros(2)

    class Broken:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            raise RuntimeError("no data yet")

    real = "expected float32 or float64"
    return {
        "None": (None, ["is None; expected an array"]),
        "masked": (masked, ["is a masked array, whose mask would be lost", ".filled(value)"]),
        "nothing masked": (np.ma.masked_array([1.0, 2.0]), ["is a masked array"]),
        "list of masked": ([1.0, [np.ma.masked]], ["holds masked arrays", "fill them"]),
        "sparse": (Sparse(), ["is sparse (Sparse)", ".toarray()"]),
        "complex": (np.zeros(2, complex), ["dtype complex128", real, ".real, or np.abs("]),
        "complex list": ([1j, 2.0], ["dtype complex128", real, "take np.asarray("]),
        "fields": (fields, ["has dtype [('height'", real, "take its fields one by one", "['height']"]),
        "dates": (np.zeros(2, "M8[s]"), ["datetime64", real, ".min()) / np.timedelta64(1, 'D')"]),
        "durations": (np.zeros(2, "m8[s]"), ["timedelta64", real, " / np.timedelta64(1, 's')"]),
        "text": (text, ["has dtype <U3", real, ".astype(float)", "return_inverse=True)[1]"]),
        "bytes": (np.zeros(2, "V3"), ["has dtype |V3", real, "without a meaning"]),
        "objects": ([[1.0, None]], ["has dtype object", real, "element [0, 1] is of type NoneType"]),
        "numbers as objects": (np.array([1, 10**30]), ["has dtype object", real, "cast it with ", ".astype(float)"]),
        "ragged": ([[1.0, 2.0], [3.0]], ["is a ragged list", "differ in length, 2 in [0] and 1 in [1]"]),
        "ragged deep": ([[[1.0], [1.0, 2.0]]], ["is a ragged list"]),
        "dict": ({"a": 1.0}, ["of type dict cannot be made an array of numbers"]),
        "broken": (Broken(), ["of type Broken cannot be made an array of numbers: no data yet"]),
    }


REFUSED = what_is_refused()


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_array_of_real_numbers(case: str) -> None:
    """The message says what it is and what to do; no advice that loses something on the way."""
    value, parts = REFUSED[case]
    with refuses(TypeError, "rates", *parts) as caught:
        _checks.real_array(value, "rates")
    assert ".astype(np.float32)" not in str(caught.value)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64, np.float16, np.float32, np.float64, np.longdouble])
def test_arrays_of_real_numbers_are_taken_as_they_are(dtype: Any) -> None:
    array = np.ones(3, dtype)
    assert _checks.real_array(array, "rates") is array
    assert _checks.real_array([True, 2], "rates").dtype == np.int64


def test_tensors_that_numpy_cannot_take() -> None:
    """What keeps it from being taken is named, with the method that ends it, and one is enough for all."""
    torch = pytest.importorskip("torch")
    plain = torch.ones(2, 2)
    cases = {
        "it requires grad): give x.detach()": plain.clone().requires_grad_(),
        "of dtype torch.bfloat16): give x.float()": plain.bfloat16(),
        "on the device meta): give x.cpu()": plain.to("meta"),
        "of layout torch.sparse_coo): give x.to_dense()": plain.to_sparse(),
        "it requires grad, of dtype torch.bfloat16): give x.detach().float()": plain.bfloat16().requires_grad_(),
    }
    for expected, tensor in cases.items():
        with refuses(TypeError, f"x is a tensor that NumPy cannot take ({expected}"):
            _checks.real_array(tensor, "x")
    assert _checks.real_array(plain, "x").shape == (2, 2)


def array_arguments() -> dict[str, Callable[[Any], Any]]:
    """Return a call for each array that the public functions take, by its name in messages."""
    ones = np.ones((2, 2))
    loss, focal, softmax = fp.losses.SquaredError(), fp.losses.SoftmaxFocal(), fp.losses.SoftmaxCrossEntropy()
    linear, margin = fp.losses.LinearCrossEntropy(), fp.losses.LargeMarginSoftmax()
    act, swish, rrelu = fp.activations.Tanh(), fp.activations.Swish(learn_beta=True), fp.activations.RReLU()
    rules = fp.rules
    out = (None, None)
    return {
        "pred": lambda v: loss(v, ones),
        "target": lambda v: loss(ones, v),
        "sample_weight": lambda v: loss(ones, ones, v),
        "out": lambda v: loss.gradient(ones, ones, out=v),
        "out[0]": lambda v: loss.grad_and_hess(ones, ones, out=(v, *out[1:])),
        "out[1]": lambda v: focal.grad_and_hess(ones, [0, 1], out=(*out[:1], v)),
        "target (labels)": lambda v: softmax.value_and_grad(ones, v),
        "target (focal)": lambda v: focal(ones, v),
        "sample_weight (labels)": lambda v: softmax(ones, [0, 1], v),
        "class_weight": lambda v: fp.losses.SoftmaxCrossEntropy(class_weight=v),
        "class_weight (focal)": lambda v: fp.losses.SoftmaxFocal(class_weight=v),
        "x": lambda v: linear(v, ones, [0, 1]),
        "weight": lambda v: linear.gradient(ones, v, [0, 1]),
        "labels": lambda v: linear(ones, ones, v),
        "bias": lambda v: linear(ones, ones, [0, 1], bias=v),
        "features": lambda v: margin(v, ones, [0, 1]),
        "weight (margin)": lambda v: margin.gradient(ones, v, [0, 1]),
        "target (margin)": lambda v: margin(ones, ones, v),
        "sample_weight (margin)": lambda v: margin(ones, ones, [0, 1], v),
        "x (activation)": act,
        "x (derivative)": act.derivative,
        "dy": lambda v: act.backward(ones, v),
        "slopes": lambda v: rrelu.backward(ones, ones, slopes=v),
        "params['beta']": lambda v: swish(ones, params={"beta": v}),
        "x (sample)": lambda v: rrelu.sample(v, np.random.default_rng(0)),
        "a": lambda v: ops.matmul(v, ones),
        "b": lambda v: ops.matmul(ones, v),
        "weight (linear)": lambda v: ops.linear(ones, v),
        "bias (linear)": lambda v: ops.linear(ones, ones, v),
        "du": lambda v: ops.linear_backward(ones, ones, v),
        "preactivation": lambda v: ops.linear_backward(ones, ones, ones, activation="tanh", preactivation=v),
        "x (softmax)": ops.softmax,
        "x (logsumexp)": ops.logsumexp,
        "x (exp)": ops.exp,
        "p": ops.entropy,
        "q": lambda v: ops.cross_entropy(ones, v),
        "p (information)": ops.self_information,
        "pre": lambda v: rules.hebb(v, 1.0),
        "post": lambda v: rules.hebb(ones[0], v),
        "output": lambda v: rules.delta(ones[0], v, 1.0),
        "threshold": lambda v: rules.neuron(ones[0], ones[0], v),
        "x (rule)": rules.with_threshold,
        "params": fp.optim.SGD,
        "grads": lambda v: fp.optim.SGD(np.ones(2)).step(v),
        "grads[0]": lambda v: fp.optim.clip_grad_norm([v], 1.0),
        "params (regularizer)": fp.regularizers.L2(0.1),
        "params[0]": lambda v: fp.regularizers.L1(0.1).gradient([v]),
    }


ARRAY_ARGUMENTS = array_arguments()
#: Arguments that must be arrays; a list among them would be a list of arrays.
ARRAYS_ALONE = ("out", "out[0]", "out[1]", "params['beta']", "params", "grads", "grads[0]", "params[0]")


@pytest.mark.parametrize("argument", ARRAY_ARGUMENTS)
def test_masked_arrays(argument: str) -> None:
    """A mask would be lost: refused by name, with what to do, in every array argument."""
    name = argument.partition(" ")[0]
    shape = {"out": (2, 2), "out[0]": (2, 2), "out[1]": (2, 2), "params['beta']": (1,)}.get(argument, (2,))
    masked = np.ma.masked_array(np.ones(shape), np.zeros(shape, bool))
    with refuses(TypeError, f"{name} is a masked array, whose mask would be lost: give {name}.filled(value)"):
        ARRAY_ARGUMENTS[argument](masked)
    if argument not in (*ARRAYS_ALONE, "params (regularizer)"):
        with refuses(TypeError, f"{name} holds masked arrays"):
            ARRAY_ARGUMENTS[argument]([masked, masked])


@pytest.mark.parametrize("case", [case for case in REFUSED if case not in ("None", "masked", "nothing masked")])
def test_no_argument_takes_what_is_no_array_of_real_numbers(case: str) -> None:
    """The core's words are those of Python: for each argument that takes more than arrays."""
    value, parts = REFUSED[case]
    for argument, call in ARRAY_ARGUMENTS.items():
        if argument in (*ARRAYS_ALONE, "params (regularizer)") or argument == "class_weight (focal)":
            continue
        name = argument.partition(" ")[0]
        labels = argument in ("target (labels)", "target (focal)", "labels", "target (margin)")
        if labels and isinstance(value, np.ndarray):
            continue  # of another dtype: expected are integer labels
        with refuses(TypeError, f"{name} ", *parts):
            call(value)


def test_advice_for_tensors() -> None:
    """The core names what keeps a tensor from being taken, as `_checks` does."""
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, 2)
    loss = fp.losses.SquaredError()
    with refuses(TypeError, "pred is a tensor", "it requires grad): give pred.detach()"):
        loss(tensor.clone().requires_grad_(), np.ones((2, 2)))
    with refuses(TypeError, "target is a tensor", "of dtype torch.bfloat16): give target.float()"):
        loss(np.ones((2, 2)), tensor.bfloat16())
    with refuses(TypeError, "x is a tensor", "of dtype torch.float16): give x.float()"):
        ops.softmax(tensor.half())
    with refuses(TypeError, "x is a tensor", "on the device meta): give x.cpu()"):
        fp.activations.ReLU()(tensor.to("meta"))
    with refuses(TypeError, "x has dtype complex64", "take np.asarray(x).real"):
        fp.activations.ReLU()(tensor.to(torch.complex64))


def test_advice_for_half_precision() -> None:
    """Here a cast is right."""
    for dtype in (np.float16, np.longdouble):
        with refuses(TypeError, "x has dtype", "cast it with x.astype(np.float32)"):
            ops.exp(np.ones(2, dtype))


def test_an_error_in_a_conversion_is_its_cause() -> None:
    value, _ = REFUSED["broken"]
    with refuses(TypeError, "x of type Broken cannot be made an array of numbers: no data yet") as caught:
        ops.exp(value)
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("core", [False, True])
def test_what_formulas_share_is_no_formula(core: bool) -> None:
    """A base class says what to make instead, whatever it is given."""
    loss: Any = _core.Loss if core else fp.losses.Loss
    activation: Any = _core.Activation if core else fp.activations.Activation
    for arguments in ((), ("mse",), (1.0, 2.0)):
        with refuses(TypeError, "Loss has no formula of its own", 'losses.Huber() or losses.get("huber")'):
            loss(*arguments)
        with refuses(TypeError, "Activation has no formula of its own", 'activations.get("relu")'):
            activation(*arguments)
    for own in (_core.SoftmaxCrossEntropy, _core.RootMeanSquaredError, _core.LinearCrossEntropy, _core.SoftmaxFocal):
        with refuses(TypeError, "has no formula of its own"):
            own()
