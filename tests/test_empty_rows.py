"""Arrays of no elements and of any number of rows: a call of any function on them ends at once."""

from __future__ import annotations

import itertools
import mmap
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    ACTIVATIONS,
    CLASS_LOSSES,
    FLOATS,
    LINEAR_LOSSES,
    LOSSES,
    MARGIN_LOSSES,
    METRICS,
    ROOTS,
    ROW_LOSSES,
    STRUCTURED,
    Array,
    check_output,
)

import fuseprop as fp
from fuseprop import _core

MANY = 2**59  # rows; a loop over them takes years, an array of one byte for each does not fit into the address space
SHAPES = ((MANY, 0), (0, MANY), (2**30, 0, 2**29), (2**30, 2**29, 0), (0, 2**30, 2**29))
#: Seconds that a call may take.
LIMIT = 10

#: What it is, and the call.
Call = tuple[str, Callable[[], Any]]


def of_formulas(dtype: Any, shape: tuple[int, ...]) -> Iterator[Call]:
    x = np.zeros(shape, dtype)
    for spec in [*ACTIVATIONS, *STRUCTURED]:
        for axis in range(-1, x.ndim - 1) if "axis" in spec.parameters else (None,):
            act = spec.cls() if axis is None else spec.cls(axis=axis)
            yield f"{act!r}", lambda a=act: a(x)
            yield f"{act!r}, out", lambda a=act: a(x, out=np.zeros(a.output_shape(shape), dtype))
            yield f"{act!r}.backward", lambda a=act: a.backward(x, np.zeros(a.output_shape(shape), dtype))
            yield f"{act!r}.derivative", lambda a=act: a.derivative(x)
            if hasattr(act, "sample"):
                yield f"{act!r}.sample", lambda a=act: a.sample(x, np.random.default_rng(0))
            yield (
                f"{act!r}.backward_params",
                lambda a=act: a.backward_params(x, np.zeros(a.output_shape(shape), dtype), params=a.init_params()),
            )
    label = np.broadcast_to(np.int8(0), shape[:-1])
    per_row = np.broadcast_to(np.ones((), dtype), shape[:-1])
    for spec in [*LOSSES, *METRICS, *ROOTS, *CLASS_LOSSES, *ROW_LOSSES]:
        loss = spec.cls()
        for target, what in ((x, "like pred"), (label, "labels")):
            for weight in (None, x, per_row):
                given = f"{loss!r} of targets {what}, weights {None if weight is None else weight.shape}"
                for reduction in ("mean", "sum", "none"):
                    args = (x, target, weight, reduction)
                    yield f"{given}, {reduction}", lambda v=loss, a=args: v(*a)
                    yield f"{given}, {reduction}: gradient", lambda v=loss, a=args: v.gradient(*a)
                    yield f"{given}, {reduction}: value_and_grad", lambda v=loss, a=args: v.value_and_grad(*a)
                for options in ({}, {"hessian": "diagonal"}, {"hessian": "upper"}):
                    args = (x, target, weight)
                    yield (
                        f"{given}: grad_and_hess {options}",
                        lambda v=loss, a=args, o=options: v.grad_and_hess(*a, **o),
                    )


def of_products(dtype: Any) -> Iterator[Call]:
    def zeros(*shape: int) -> Array:
        return np.zeros(shape, dtype)

    ops = fp.ops
    for rows, inner, columns in ((MANY, 0, 0), (0, MANY, 0), (0, 0, MANY), (MANY, 0, 3), (3, 0, MANY)):
        for a_t in (False, True):
            for b_t in (False, True):
                a = zeros(inner, rows) if a_t else zeros(rows, inner)
                b = zeros(columns, inner) if b_t else zeros(inner, columns)
                yield (
                    f"matmul {a.shape} {b.shape}",
                    lambda a=a, b=b, s=a_t, t=b_t: ops.matmul(a, b, transpose_a=s, transpose_b=t),
                )
    for shapes in (((MANY, 0), (0, 0)), ((0, MANY), (MANY, 0)), ((0, 0), (0, MANY)), ((2**30, 2**29, 0), (0, 0))):
        x, weight = (zeros(*shape) for shape in shapes)
        du = zeros(*shapes[0][:-1], shapes[1][1])
        yield f"linear {shapes}", lambda x=x, w=weight: ops.linear(x, w, activation="relu", return_preactivation=True)
        yield f"linear_backward {shapes}", lambda x=x, w=weight, du=du: ops.linear_backward(x, w, du)
        label = np.broadcast_to(np.int8(0), x.shape[:-1])
        for loss in [spec.cls() for spec in (*LINEAR_LOSSES, *MARGIN_LOSSES)]:
            for target in (label, du):
                for reduction in ("mean", "sum", "none"):
                    args = (x, weight, target)
                    yield (
                        f"{loss!r} {shapes}, {reduction}, targets {target.shape}",
                        lambda v=loss, a=args, r=reduction: v.value_and_grad(*a, reduction=r),
                    )


def of_arrays(dtype: Any, shape: tuple[int, ...]) -> Iterator[Call]:
    x = np.zeros(shape, dtype)
    ops = fp.ops
    for map_ in (ops.exp, ops.expm1, ops.log, ops.log1p, ops.erf, ops.self_information):
        yield map_.__name__, lambda f=map_: f(x)
    for axis in range(x.ndim):
        for of_one in (ops.softmax, ops.log_softmax, ops.logsumexp, ops.entropy):
            yield f"{of_one.__name__} along {axis}", lambda f=of_one, i=axis: f(x, i)
        for of_two in (ops.cross_entropy, ops.kl_divergence):
            yield f"{of_two.__name__} along {axis}", lambda f=of_two, i=axis: f(x, x, i)
    yield "dropout", lambda: _core.dropout(x, 0.5, 1, None)
    yield "clip_grad_norm", lambda: fp.optim.clip_grad_norm([x, x.copy()], 1.0)
    yield "clip_grad_value", lambda: fp.optim.clip_grad_value([x], 1.0)
    yield "Adam", lambda: fp.optim.Adam([x.copy()], max_norm=1.0).step([x])


def of_layers(dtype: Any, shape: tuple[int, ...]) -> Iterator[Call]:
    x = np.zeros(shape, dtype)
    if x.ndim == 2:
        # The statistics of many rows are no array that there is memory for, but a view may stand for one.
        mean, row_mean = np.zeros(shape[1] if shape[0] else 0), np.broadcast_to(0.0, shape[:1])
        for training in (False, True):
            yield f"batch_norm, {training=}", lambda t=training: _core.batch_norm(x, None, None, 1, mean, mean, t, None)
        yield "layer_norm", lambda: _core.layer_norm(x, None, None, 1, None, None, None)
        for function, m in ((_core.batch_norm_backward, mean), (_core.layer_norm_backward, row_mean)):
            for wanted in (None, False):
                outputs = (None, wanted, wanted)
                yield (
                    f"{function.__name__}, dweight={wanted}",
                    lambda f=function, m=m, o=outputs: f(x, x, None, 1, m, m, *o, False),
                )
    for layer in (fp.nn.Activation("relu"), fp.nn.Activation("softmax"), fp.nn.Dropout(0.5), fp.nn.Flatten()):
        model = fp.nn.Sequential([layer], dtype=dtype)
        yield f"{layer!r}", lambda m=model: m(x)
        yield f"{layer!r} in training", lambda m=model: m.backward(m(x, training=True))


def calls() -> Iterator[Call]:
    for dtype in FLOATS:
        for shape in SHAPES:
            for family in (of_formulas, of_arrays, of_layers):
                for name, call in family(dtype, shape):
                    yield f"{name}; {dtype.__name__} {shape}", call
        for name, call in of_products(dtype):
            yield f"{name}; {dtype.__name__}", call


def walk() -> None:
    """Print the calls that do not end, and how many there are. They are made in a process that such a call ends."""
    warnings.simplefilter("ignore")  # Python 3.12 warns of fork with threads, NumPy of means of nothing
    done = memoryview(mmap.mmap(-1, 8)).cast("q")  # shared by both processes
    while (child := os.fork()) != 0:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code >= 0:
            print(done[0], f"calls, exit code {code}")
            return
        name, _ = next(itertools.islice(calls(), done[0], None))
        print(f"{name}: {signal.Signals(-code).name}", flush=True)
        done[0] += 1
    for _, call in itertools.islice(calls(), done[0], None):
        signal.alarm(LIMIT)  # whose action ends the process
        with suppress(MemoryError, ValueError, TypeError, NotImplementedError):
            call()
        done[0] += 1
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_rows_of_nothing() -> None:
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_empty_rows as t; t.walk()"
    *stuck, last = check_output(script).splitlines()
    assert not stuck, "\n".join(stuck)
    assert last.endswith(" calls, exit code 0")
    assert int(last.split()[0]) > 10_000
