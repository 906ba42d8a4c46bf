"""`out` of grad_and_hess: a tuple of two arrays, of each loss that has second derivatives."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from helpers import (
    CLASS_LOSSES,
    LAYOUTS,
    LOSSES,
    OVER_PRED,
    ROW_LOSSES,
    Array,
    Out,
    assert_same_bits,
    each_dtype,
    invalid_target,
    predictions_for,
    row_predictions,
    row_targets,
    seeded,
    targets_for,
)

import fuseprop as fp
from fuseprop._registry import LossSpec

ALL = [*LOSSES, *OVER_PRED]
each_spec = pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)


def sample(spec: LossSpec, shape: tuple[int, int], dtype: Any) -> tuple[Array, Array]:
    rng = seeded("hessian out", spec.name)
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    if spec in ROW_LOSSES:
        return row_predictions(spec, x), row_targets(spec, {}, shape, dtype, rng)
    if spec in CLASS_LOSSES:
        return x, rng.integers(0, shape[1], shape[0])
    return predictions_for(spec, x), targets_for(spec, shape, dtype, rng)


@each_dtype
@each_spec
def test_layouts(spec: LossSpec, dtype: Any) -> None:
    loss, shape = spec.cls(), (7, 19)
    pred, target = sample(spec, shape, dtype)
    weight = seeded("w").random(7).astype(dtype)
    expected = loss.grad_and_hess(pred, target, weight, 0.05)
    for first, second in itertools.product(LAYOUTS, LAYOUTS):
        outs = Out(first, shape, dtype), Out(second, shape, dtype)
        returned = loss.grad_and_hess(pred, target, weight, 0.05, out=(outs[0].array, outs[1].array))
        assert isinstance(returned, tuple)
        for out, got, wanted in zip(outs, returned, expected, strict=True):
            out.assert_received(got, wanted, f"{first}, {second}")


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
@each_spec
def test_in_place(spec: LossSpec, dtype: Any, layout: str) -> None:
    """Each may be pred, target, or weights of pred's shape, if that has floats."""
    loss, shape = spec.cls(), (7, 19)
    pred, target = sample(spec, shape, dtype)
    inputs = {"pred": pred, "target": target}
    if spec in LOSSES:
        inputs["sample_weight"] = seeded("w").random(shape).astype(dtype)
    expected = loss.grad_and_hess(**inputs)
    names = [name for name, x in inputs.items() if x.shape == shape and x.dtype == dtype]
    for pair in itertools.permutations([*names, None], 2):
        outs = Out(layout, shape, dtype), Out("c", shape, dtype)
        arguments = dict(inputs)
        for out, name in zip(outs, pair, strict=True):
            if name is not None:
                out.array[...] = inputs[name]
                arguments[name] = out.array
        returned = loss.grad_and_hess(**arguments, out=(outs[0].array, outs[1].array))
        for out, got, wanted in zip(outs, returned, expected, strict=True):
            out.assert_received(got, wanted, f"out is {pair}")


@each_dtype
@each_spec
def test_beyond_the_caches(spec: LossSpec, dtype: Any, target: str) -> None:
    """Outputs of 8 MiB and more go around the caches, from wherever in a vector they start."""
    loss, classes = spec.cls(), 5003
    rows = (9 << 20) // np.dtype(dtype).itemsize // classes + 1
    pred, y = sample(spec, (7, classes), dtype)
    repeat = np.arange(rows) % 7
    expected = [derivative[repeat] for derivative in loss.grad_and_hess(pred, y)]
    pred, y = pred[repeat], y[repeat]
    memory = np.empty((2, rows * classes + 20), dtype)
    for starts in ((1, 1), (3, 18), (16, 7)):
        memory[...] = 7.0
        outs = [memory[k, start : start + pred.size].reshape(pred.shape) for k, start in enumerate(starts)]
        returned = loss.grad_and_hess(pred, y, out=(outs[0], outs[1]))
        for k, start in enumerate(starts):
            assert returned[k] is outs[k]
            assert_same_bits(outs[k], expected[k], f"{starts}, out[{k}]")
            assert (memory[k, :start] == 7.0).all()
            assert (memory[k, start + pred.size :] == 7.0).all()


@each_dtype
@pytest.mark.parametrize("spec", LOSSES, ids=lambda spec: spec.name)
def test_values_beside_a_gradient_beyond_the_caches(spec: LossSpec, dtype: Any, target: str) -> None:
    """The sum of the values does not depend on where the gradient starts in a vector, or whether there is one."""
    loss = spec.cls()
    n = (9 << 20) // np.dtype(dtype).itemsize + 5
    pred, y = (np.resize(x, n) for x in sample(spec, (61, 83), dtype))
    value, gradient = loss(pred, y), loss.gradient(pred, y)
    memory = np.empty(n + 20, dtype)
    for start in (1, 4, 15):
        memory[...] = 7.0
        out = memory[start : start + n]
        assert loss.value_and_grad(pred, y, out=out)[0] == value, start
        assert_same_bits(out, gradient, str(start))
        assert (memory[:start] == 7.0).all()
        assert (memory[start + n :] == 7.0).all()


@each_spec
def test_one_of_the_two(spec: LossSpec) -> None:
    """None in the tuple is a new array."""
    pred, target = sample(spec, (7, 19), np.float32)
    expected = spec.cls().grad_and_hess(pred, target)
    out = np.empty_like(pred)
    first = spec.cls().grad_and_hess(pred, target, out=(out, None))
    assert first[0] is out
    assert_same_bits(first, expected)
    second = spec.cls().grad_and_hess(pred, target, out=(None, out))
    assert second[1] is out
    assert_same_bits(second, expected)


@each_spec
def test_refused(spec: LossSpec) -> None:
    """What is not two arrays of pred's shape and dtype, apart; nothing is written."""
    loss = spec.cls()
    pred, target = sample(spec, (7, 19), np.float64)
    good = Out("c", pred.shape, pred.dtype)
    for wrong, found in (
        (good.array, r"found numpy\.ndarray"),
        ([good.array, good.array], "found list"),
        ((good.array,), "found tuple of 1"),
        ((good.array,) * 3, "found tuple of 3"),
    ):
        with pytest.raises(TypeError, match=f"out must be a tuple of two NumPy arrays, {found}"):
            loss.grad_and_hess(pred, target, out=wrong)
    read_only = np.empty_like(pred)
    read_only.flags.writeable = False
    for bad, message in (
        (np.empty((7, 18)), r"\] has shape \(7, 18\); expected \(7, 19\)"),
        (np.empty((7, 19), np.float32), r"\] has dtype float32; expected float64"),
        (read_only, r"\] is read-only"),
    ):
        for k in (0, 1):
            outs = (bad, good.array)[:: 1 - 2 * k]
            with pytest.raises(ValueError, match=rf"out\[{k}{message}"):
                loss.grad_and_hess(pred, target, out=outs)
    for k in (0, 1):
        with pytest.raises(TypeError, match=rf"out\[{k}\] must be a NumPy array, found int"):
            loss.grad_and_hess(pred, target, out=((3, good.array)[:: 1 - 2 * k]))
    good.assert_untouched()
    same = np.zeros_like(pred)
    wide = np.zeros((7, 38))
    for outs in ((same, same), (wide[:, :19], wide[:, 1:20])):
        with pytest.raises(ValueError, match=r"out\[1\] overlaps out\[0\] in memory"):
            loss.grad_and_hess(pred, target, out=outs)
    assert not same.any()
    assert not wide.any()
    memory = np.zeros(7 * 19 + 1)
    memory[:-1].reshape(7, 19)[...] = pred
    with pytest.raises(ValueError, match=r"out\[1\] overlaps pred in memory"):
        loss.grad_and_hess(memory[:-1].reshape(7, 19), target, out=(good.array, memory[1:].reshape(7, 19)))
    good.assert_untouched()


@pytest.mark.parametrize("spec", [*CLASS_LOSSES, *ROW_LOSSES], ids=lambda spec: spec.name)
def test_strided_labels_and_weights_in_out(spec: LossSpec) -> None:
    """What the caller gave counts, not a copy of it that is contiguous or of another dtype."""
    loss = spec.cls()
    pred, target = sample(spec, (6, 3), np.float64)
    memory = np.zeros((6, 3))
    for k in (0, 1):
        out = (memory, None)[:: 1 - 2 * k]
        weight = memory[:, 1]
        with pytest.raises(ValueError, match=rf"out\[{k}\] overlaps sample_weight"):
            loss.grad_and_hess(pred, target, weight, out=out)
        if target.ndim == 1:
            labels = memory.view(np.int64)[:, 1]
            with pytest.raises(ValueError, match=rf"out\[{k}\] overlaps target"):
                loss.grad_and_hess(pred, labels, out=out)
            with pytest.raises(ValueError, match="out overlaps target"):
                loss.gradient(pred, labels, out=memory)
        with pytest.raises(ValueError, match="out overlaps sample_weight"):
            loss.gradient(pred, target, weight, out=memory)
        integers = memory.view(np.int64)
        with pytest.raises(ValueError, match=rf"out\[{k}\] overlaps pred"):
            loss.grad_and_hess(integers, target, out=out)
        assert not memory.any()


@pytest.mark.parametrize("spec", LOSSES, ids=lambda spec: spec.name)
def test_arguments_of_another_dtype_in_out(spec: LossSpec) -> None:
    """A cast copies, but the caller's array would be overwritten."""
    loss = spec.cls()
    pred, target = sample(spec, (6, 4), np.float32)
    wide = target.astype(np.float64)
    before = wide.copy()
    inside = wide.view(np.float32)[:, :4]
    with pytest.raises(ValueError, match=r"out\[1\] overlaps target"):
        loss.grad_and_hess(pred, wide, out=(None, inside))
    with pytest.raises(ValueError, match="out overlaps target"):
        loss.value_and_grad(pred, wide, out=inside)
    with pytest.raises(ValueError, match="out overlaps sample_weight"):
        loss.gradient(pred, target, wide, out=inside)
    assert np.array_equal(wide, before)


@each_dtype
@pytest.mark.parametrize(
    "spec", [spec for spec in ALL if spec not in LOSSES or invalid_target(spec)], ids=lambda spec: spec.name
)
def test_a_bad_target_writes_nothing(spec: LossSpec, dtype: Any) -> None:
    pred, target = sample(spec, (701, 103), dtype)
    target = target.copy()
    if target.ndim == 1:
        target[700] = 103
    elif spec in LOSSES:
        target[700, 102] = invalid_target(spec)[0]
    else:
        target[700, 102] = 1.5
    for k in (0, 1):
        out = Out("c", pred.shape, dtype)
        with pytest.raises(ValueError, match=r"target\[700"):
            spec.cls().grad_and_hess(pred, target, out=(out.array, None)[:: 1 - 2 * k])
        out.assert_untouched()


@each_dtype
@pytest.mark.parametrize("hessian", ["diagonal", "upper"])
def test_hessian_of_boosters(hessian: Any, dtype: Any) -> None:
    loss = fp.losses.SoftmaxCrossEntropy()
    pred, target = seeded("boosters").standard_normal((9, 21)).astype(dtype), np.arange(9)
    out = np.empty_like(pred), np.empty_like(pred)
    returned = loss.grad_and_hess(pred, target, None, None, hessian, out=out)
    assert returned[0] is out[0]
    assert returned[1] is out[1]
    assert_same_bits(out, loss.grad_and_hess(pred, target, hessian=hessian))
