"""Interrupts at every instruction, and calls that come into others: what there is afterwards is the old or the new."""

from __future__ import annotations

import copy
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Array, check_output, seeded

import fuseprop as fp
from fuseprop import nn

LOSS = fp.losses.SoftmaxCrossEntropy()
PACKAGE = str(Path(fp.__file__).parent)
X = seeded("x").standard_normal((12, 5)).astype(np.float32)
LABELS = seeded("labels").integers(0, 3, 12)


def interrupted(work: Callable[[], object], at: int) -> bool:
    """Do the work with Ctrl-C at an instruction, the `at`-th of the package's; return whether there are so many.

    Of other modules' Python code each line counts.
    """
    seen = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename == __file__:
            return None
        ours = frame.f_code.co_filename.startswith(PACKAGE)
        frame.f_trace_opcodes = ours
        seen += event == ("opcode" if ours else "line")
        if seen == at:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()  # coverage, perhaps
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def interruptions(before: Callable[[], object], work: Callable[[], object], most: int) -> Iterator[int]:
    """Do the work again and again, each time after `before` and interrupted at another instruction.

    At all of them, if there are no more than `most`; else at some, the last ones among them.
    """

    def once(at: int) -> bool:
        before()
        return interrupted(work, at)

    end = 1
    while once(end):
        end *= 2
    count = end // 2
    while end - count > 1:
        middle = (count + end) // 2
        count, end = (middle, end) if once(middle) else (count, middle)
    chosen = seeded(count).choice(count, min(most, count), replace=False) + 1
    for at in sorted({*(int(at) for at in chosen), *range(max(count - most // 4, 1), count + 1)}):
        once(at)
        yield at


def a_model(rng: int = 0) -> nn.Sequential:
    block = [nn.Dense(6, 6), nn.BatchNorm(6), nn.Dropout(0.3)]
    layers = [nn.Dense(5, 6, "relu"), nn.BatchNorm(6), nn.Residual(block), nn.LayerNorm(6), nn.Dense(6, 3)]
    return nn.Sequential(layers, rng=rng)


class Everything:
    """A model and its optimizer, with what a checkpoint keeps of them."""

    def __init__(self, rng: int = 0, steps: int = 2) -> None:
        self.model = a_model(rng)
        self.optimizer = fp.optim.Adam(self.model, lr=0.01 * (rng + 1), max_norm=5.0)
        for _ in range(steps):
            self.step()

    def step(self, n: int = 12) -> float:
        return self.model.train_step(X[:n], LABELS[:n], LOSS, self.optimizer)

    def state(self) -> dict[str, Any]:
        rng = copy.deepcopy(self.model.rng.bit_generator.state)
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "rng": rng}

    def bring_back(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.model.rng.bit_generator.state = state["rng"]


def same(a: Any, b: Any) -> bool:
    """Whether two nested states have the same bits."""
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(itertools.starmap(same, zip(a, b, strict=True)))
    return bool(np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype)


def without_rng(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "rng"}


# --- steps --------------------------------------------------------------------------------------------------


def check_usable(found: Everything) -> None:
    """Compare further steps, of this and of another size, with those of another model in this state."""
    twin = Everything(rng=3)
    twin.bring_back(found.state())
    for n in (12, 7):
        assert found.step(n) == twin.step(n)
    assert same(found.state(), twin.state())


@pytest.mark.parametrize("n", [12, 9])
def test_a_step_has_happened_or_has_not(n: int) -> None:
    """Parameters, moments, step count and both running statistics; with the size of the batches before, and another."""
    it = Everything()
    before = it.state()
    it.step(n)
    after = it.state()

    def begin() -> None:
        it.bring_back(before)
        it.step()  # of the size that the buffers are bound to then
        it.bring_back(before)

    old = new = 0
    for at in interruptions(begin, lambda: it.step(n), 400):
        state = it.state()
        counted = it.optimizer.steps == after["optimizer"]["steps"]
        assert same(without_rng(state), without_rng(after if counted else before)), at
        old, new = old + (not counted), new + counted
        if at % 10 == 0:
            check_usable(it)
    assert old > 20
    assert new > 20


def test_a_call_in_training_moves_all_statistics_or_none() -> None:
    it = Everything()
    before = it.model.state_dict()
    drawn = it.model.rng.bit_generator.state

    def begin() -> None:
        it.model.load_state_dict(before)
        it.model.rng.bit_generator.state = drawn

    it.model(X, training=True)
    after = it.model.state_dict()
    found = set()
    for at in interruptions(begin, lambda: it.model(X, training=True), 400):
        state = it.model.state_dict()
        assert same(state, before) or same(state, after), at
        found.add(same(state, after))
    assert found == {False, True}
    check_usable(it)


class Commits(nn.Layer):
    """Ctrl-C at the first instruction of a commit, before anything is done."""

    interrupts = False

    def output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def forward(self, x: Array, training: bool) -> Array:
        return x

    def backward(self, dy: Array, accumulate: bool = False, need_dx: bool = True) -> Array:
        return dy

    def commit(self) -> None:
        if self.interrupts:
            raise KeyboardInterrupt


def test_own_commits_do_not_keep_statistics_from_moving() -> None:
    """Also of a layer in front of the normalisation, and where the call has no optimizer."""
    own = Commits()
    model = nn.Sequential([nn.Dense(5, 4), own, nn.BatchNorm(4), nn.Dense(4, 3)], rng=0)
    before = model.state_dict()
    own.interrupts = True
    with pytest.raises(KeyboardInterrupt):
        model(X, training=True)
    assert not np.array_equal(model.state_dict()["2.running_mean"], before["2.running_mean"])


# --- states -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["model", "optimizer"])
def test_a_state_is_taken_over_or_is_not(what: str) -> None:
    it, other = Everything(), Everything(rng=1, steps=5)
    old, new = it.state()[what], other.state()[what]
    owner: Any = getattr(it, what)
    found = set()
    for at in interruptions(lambda: owner.load_state_dict(old), lambda: owner.load_state_dict(new), 500):
        state = owner.state_dict()
        assert same(state, old) or same(state, new), at
        found.add(same(state, new))
    assert found == {False, True}
    check_usable(it)


def stopped_early(values: list[float]) -> nn.EarlyStopping:
    stopping = nn.EarlyStopping(9)
    model = nn.Sequential([nn.Dense(2, 1)], rng=0)
    run = nn.Run(model, fp.optim.SGD(model), 9, names=("loss",))
    for value in values:
        run.epoch, run.logs = run.epoch + 1, {"loss": value}
        stopping.after_epoch(run)
    return stopping


def followed(values: list[float]) -> fp.optim.schedules.ReduceOnPlateau:
    schedule = fp.optim.schedules.ReduceOnPlateau(0.5, patience=1, cooldown=3)
    for value in values:
        schedule.update(value)
    return schedule


@pytest.mark.parametrize("make", [stopped_early, followed])
def test_companions_take_a_state_over_or_do_not(make: Any) -> None:
    it, other = make([3.0, 2.0]), make([5.0, 6.0, 7.0, 8.0, 9.0])
    old, new = it.state_dict(), other.state_dict()
    assert not same(old, new)
    for at in interruptions(lambda: it.load_state_dict(old), lambda: it.load_state_dict(new), 300):
        assert same(it.state_dict(), old) or same(it.state_dict(), new), at


def test_a_checkpoint_is_taken_over_or_is_not(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    it, other = Everything(), Everything(rng=1, steps=5)
    nn.save_checkpoint(tmp_path / "run", other.model, other.optimizer)
    old, new = it.state(), other.state()

    def work() -> None:
        nn.load_checkpoint(tmp_path / "run", it.model, it.optimizer)

    found = set()
    for at in interruptions(lambda: it.bring_back(old), work, 400):
        state = it.state()
        assert same(state, old) or same(state, new), at
        found.add(same(state, new))
    assert found == {False, True}
    check_usable(it)


def test_a_run_is_resumed_or_is_not(tmp_path: Path) -> None:
    """Model, optimizer, its generator, the one of the order, and a schedule with a state."""
    pytest.importorskip("safetensors")

    def run(it: Everything, schedule: Any, generator: Any, **options: Any) -> None:
        it.model.fit(
            X, LABELS, loss=LOSS, optimizer=it.optimizer, batch_size=6, schedule=schedule, rng=generator, epochs=3,
            early_stopping=nn.EarlyStopping(7, restore_best=False), progress=False, **options,
        )  # fmt: skip

    other, last, order = Everything(rng=1), followed([]), np.random.default_rng(5)
    run(other, last, order, callbacks=[nn.Checkpoint(tmp_path / "run")])
    it, schedule, generator = Everything(), followed([]), np.random.default_rng(6)

    def whole() -> dict[str, Any]:
        return {**it.state(), "schedule": schedule.state_dict(), "order": generator.bit_generator.state}

    old = whole()
    new = {**other.state(), "schedule": last.state_dict(), "order": order.bit_generator.state}

    def work() -> None:
        run(it, schedule, generator, resume=tmp_path / "run")

    def begin() -> None:
        it.bring_back(old)
        schedule.load_state_dict(old["schedule"])
        generator.bit_generator.state = old["order"]

    found = set()
    for at in interruptions(begin, work, 300):
        state = whole()
        assert same(state, old) or same(state, new), at
        found.add(same(state, new))
    assert found == {False, True}


# --- files --------------------------------------------------------------------------------------------------


def contents_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header, in which the order is not defined, and the arrays' bytes."""
    contents = path.read_bytes()
    end = 8 + int.from_bytes(contents[:8], "little")
    return json.loads(contents[8:end]), contents[end:]


# Between `open` and `with` the garbage collector closes it.
unclosed = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@unclosed
@pytest.mark.parametrize("what", ["save", "checkpoint"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_file_is_the_old_one_or_the_new_one(what: str, exists: bool, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    it, other = Everything(), Everything(rng=1)
    path = tmp_path / "file"

    def write(which: Everything) -> None:
        if what == "save":
            which.model.save(path)
        else:
            nn.save_checkpoint(path, which.model, which.optimizer)

    write(it)
    whole = path.read_bytes()
    old = contents_of(path) if exists else None
    write(other)
    new = contents_of(path)

    def begin() -> None:
        path.write_bytes(whole)
        if not exists:
            path.unlink()

    found = set()
    for at in interruptions(begin, lambda: write(other), 150):
        contents = contents_of(path) if path.exists() else None
        assert contents in (new, old), at
        assert os.listdir(tmp_path) == ([] if contents is None else ["file"]), at
        found.add(contents == new)
    assert found == {False, True}


@unclosed
def test_looking_whether_a_file_can_be_written_leaves_none(tmp_path: Path) -> None:
    model = nn.Sequential([nn.Dense(2, 1)], rng=0)
    run = nn.Run(model, fp.optim.SGD(model), 1)
    for at in interruptions(lambda: None, lambda: nn.Checkpoint(tmp_path / "run").begin(run), 1000):
        assert os.listdir(tmp_path) == [], at


@unclosed
def test_a_run_that_is_interrupted_anywhere(tmp_path: Path) -> None:
    """The model stands behind one of its steps, the file behind one of its epochs, and the run can be resumed."""
    pytest.importorskip("safetensors")
    path = tmp_path / "run"

    class Notes(nn.Callback):
        def after_step(self, run: nn.Run) -> None:
            states.append(without_rng(it.state()))

    def run(**options: Any) -> None:
        it.model.fit(
            X, LABELS, loss=LOSS, optimizer=it.optimizer, batch_size=6, epochs=2, progress=False, rng=3,
            metrics=["accuracy"], callbacks=[nn.Checkpoint(path), *options.pop("notes", [])], **options,
        )  # fmt: skip

    it = Everything()
    start = it.state()
    states = [without_rng(start)]
    run(notes=[type("Callback", (Notes,), {})()])
    end, files = it.state(), []

    def begin() -> None:
        it.bring_back(start)
        path.unlink(missing_ok=True)

    for at in interruptions(begin, run, 60):
        state = without_rng(it.state())
        assert any(same(state, each) for each in states), at
        assert len({len(values) for values in it.model.history.values()}) <= 1, at
        assert os.listdir(tmp_path) in ([], ["run"]), at
        if path.exists():
            it.bring_back(start)
            run(resume=path)
            assert same(it.state(), end), at
            files.append(at)
    assert len(files) > 5


# --- calls that come into others ----------------------------------------------------------------------------


class Waits:
    """A loss in which a step waits."""

    def __init__(self) -> None:
        self.inside, self.release = threading.Event(), threading.Event()

    def __call__(self, pred: Array, target: Array) -> tuple[float, Array]:
        self.inside.set()
        assert self.release.wait(60)
        return LOSS.value_and_grad(pred, target)


def test_one_thread_at_a_time_trains_a_model() -> None:
    it, waits = Everything(), Waits()
    before = it.state()
    values: list[float] = []
    thread = threading.Thread(target=lambda: values.append(it.model.train_step(X, LABELS, waits, it.optimizer)))
    thread.start()
    try:
        assert waits.inside.wait(60)
        calls: list[Callable[[], object]] = [
            it.step,
            lambda: it.model(X, training=True),
            lambda: it.model.backward(np.ones((12, 3), np.float32)),
            lambda: it.model.load_state_dict(before["model"]),
            lambda: it.model.fit(X, LABELS, loss="huber", optimizer=it.optimizer, epochs=1, progress=False),
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match="this model is in training, or its state is being set"):
                call()
        assert it.model(X).shape == (12, 3)  # evaluation may go on
    finally:
        waits.release.set()
        thread.join()
    assert it.optimizer.steps == before["optimizer"]["steps"] + 1
    twin = Everything()
    twin.bring_back(before)
    assert values == [twin.step()]
    assert same(it.state(), twin.state())
    check_usable(it)


def test_a_call_within_a_step_is_refused() -> None:
    it = Everything()

    def loss(pred: Array, target: Array) -> tuple[float, Array]:
        it.step()
        return LOSS.value_and_grad(pred, target)

    before = without_rng(it.state())
    with pytest.raises(RuntimeError, match="or around this call"):
        it.model.train_step(X, LABELS, loss, it.optimizer)
    assert same(without_rng(it.state()), before)
    check_usable(it)


def test_backward_belongs_to_the_thread_of_its_call() -> None:
    """Two threads that take turns would get each other's activations."""
    it = Everything()
    it.model(X, training=True)
    thread = threading.Thread(target=lambda: it.model(X[:4], training=True))
    thread.start()
    thread.join()
    with pytest.raises(RuntimeError, match="the last one was made in another thread"):
        it.model.backward(np.ones((4, 3), np.float32))
    it.model(X, training=True)
    assert it.model.backward(np.ones((12, 3), np.float32)).shape == X.shape


def test_many_threads_train_or_are_refused() -> None:
    """Each call that is not refused is a whole step."""
    it = Everything()
    twin = Everything()
    twin.bring_back(it.state())
    values: list[float] = []
    refused: list[str] = []

    def work() -> None:
        for _ in range(300):
            try:
                values.append(it.step())
            except RuntimeError as error:
                refused.append(str(error))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(values) + len(refused) == 1200
    assert sorted(values) == sorted(twin.step() for _ in values)
    assert same(it.state(), twin.state())


FORKED = """
import os, sys, threading, numpy as np, fuseprop as fp
sys.path.insert(0, {tests!r})
from test_interrupts import Everything, Waits, X, LABELS
it, waits = Everything(), Waits()
state = it.model.state_dict()
thread = threading.Thread(target=lambda: it.model.train_step(X, LABELS, waits, it.optimizer))
thread.start()
waits.inside.wait(60)
child = os.fork()
if child == 0:
    try:
        it.model.load_state_dict(state)
        it.step()
        it.model(X, training=True)
        it.model.backward(np.ones((12, 3), np.float32))
    except BaseException as error:
        print(error, flush=True)
        os._exit(1)
    os._exit(0)
status = os.waitpid(child, 0)[1]
waits.release.set()
thread.join()
assert status == 0, status
it.step()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_goes_on_with_a_model_that_was_busy() -> None:
    check_output(FORKED.format(tests=str(Path(__file__).parent)))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """What is looked at is Python's part."""
    with fp.num_threads(1):
        yield
