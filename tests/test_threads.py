"""Many Python threads at once, forks, and interpreters that end while the pool is in use."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from helpers import (
    ACTIVATIONS,
    CLASS_LOSSES,
    LARGE,
    LOSSES,
    ROW_LOSSES,
    SANITIZER,
    STRUCTURED,
    Array,
    assert_same_bits,
    check_output,
    predictions_for,
    row_predictions,
    row_targets,
    seeded,
    targets_for,
)

import fuseprop as fp

ROUNDS = 6 if SANITIZER == "" else 2


def jobs() -> list[Callable[[], Any]]:
    """Computations of every kind, each on data of its own, large enough for the pool."""
    result: list[Callable[[], Any]] = []
    for i, spec in enumerate(STRUCTURED):
        act = spec.cls()
        x = seeded("structured", i).standard_normal((6007, 16)).astype([np.float32, np.float64][i % 2])
        dy = act(x)

        def passes(act: Any = act, x: Array = x, dy: Array = dy) -> Any:
            dx, gradients = act.backward_params(x, dy, params=act.init_params())
            return (act(x), dx, *gradients.values())

        result.append(passes)
    for i, spec in enumerate(ACTIVATIONS):
        act = spec.cls()
        x = seeded("thread", i).standard_normal(LARGE).astype([np.float32, np.float64][i % 2])
        result.append(lambda act=act, x=x: (act(x), act.backward(x, x)))
    for i, spec in enumerate([*LOSSES, *CLASS_LOSSES]):
        rng = seeded("thread", spec.name)
        pred = predictions_for(spec, rng.standard_normal((6007, 17)).astype([np.float32, np.float64][i % 2]))
        target: Array = rng.integers(0, 17, 6007)
        if spec.target_domain != "classes":
            target = targets_for(spec, pred.shape, pred.dtype, rng)
        loss = spec.cls()
        result.append(lambda loss=loss, p=pred, t=target: (loss.value_and_grad(p, t), loss.grad_and_hess(p, t)))
    for i, spec in enumerate(ROW_LOSSES):
        rng = seeded("thread", spec.name)
        pred = row_predictions(spec, rng.standard_normal((6007, 17)).astype([np.float32, np.float64][i % 2]))
        target = row_targets(spec, {}, pred.shape, pred.dtype, rng)
        loss = spec.cls()
        result.append(lambda loss=loss, p=pred, t=target: (loss.value_and_grad(p, t), loss.grad_and_hess(p, t)))
    for n in (150, 260):
        a, b = seeded("thread", n).standard_normal((2, n, n))
        result.append(lambda a=a, b=b: (fp.ops.linear(a, b, activation="tanh"), *fp.ops.linear_backward(a, b, a)))
        labels = np.arange(n) % 7
        loss = fp.losses.LinearCrossEntropy(ignore_index=3)
        result.append(lambda loss=loss, a=a, b=b, y=labels: loss.value_and_grad(a, b, y, bias=b[0]))
    x = seeded("thread").standard_normal((3001, 40))
    result.append(lambda: (fp.ops.softmax(x), fp.ops.log_softmax(x, 0), fp.ops.logsumexp(x)))
    return result


def test_eight_threads_at_once(threads: int) -> None:
    """Each gets its own results, whoever has the pool."""
    work = jobs()
    expected = [job() for job in work]
    before = fp.get_num_threads()
    barrier = threading.Barrier(8)

    def run(k: int) -> None:
        with fp.num_threads(threads):
            barrier.wait()
            for i in range(ROUNDS * len(work) // 2):
                at = (i * (2 * k + 1) + k) % len(work)
                assert_same_bits(work[at](), expected[at], f"thread {k}, job {at}")
            assert fp.get_num_threads() == threads

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(run, k) for k in range(8)]:
            future.result()
    assert fp.get_num_threads() == before


def test_threads_have_targets_of_their_own() -> None:
    names = fp.build_info()["supported_targets"]
    work = jobs()
    expected = {}
    for name in names:
        with fp.simd_target(name):
            expected[name] = [job() for job in work]

    def run(name: str) -> None:
        with fp.simd_target(name):
            for job, result in zip(work, expected[name], strict=True):
                assert_same_bits(job(), result, name)

    with ThreadPoolExecutor(len(names)) as pool:
        for future in [pool.submit(run, name) for name in names for _ in range(2)]:
            future.result()


def test_errors_in_threads_stay_there() -> None:
    loss = fp.losses.SoftmaxCrossEntropy()
    pred = np.zeros((9001, 10), np.float32)
    good = np.zeros(9001, int)
    bad = good.copy()
    bad[-1] = 10
    expected = loss(pred, good)

    def run(k: int) -> None:
        for _ in range(20):
            if k % 2:
                with pytest.raises(ValueError, match=r"target\[9000\]"):
                    loss.value_and_grad(pred, bad)
            else:
                assert loss(pred, good) == expected

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(run, k) for k in range(8)]:
            future.result()


FORK = """
import os, sys, threading
import numpy as np, fuseprop as fp

fp.set_num_threads({threads})
x = np.random.default_rng(0).standard_normal(400_000)
a = x[:90_000].reshape(300, 300)
tanh = fp.activations.Tanh()
loss = fp.losses.HalfSquaredError()

def compute():
    return tanh(x).tobytes() + fp.ops.matmul(a, a).tobytes() + repr(loss.value_and_grad(x, x[::-1])[0]).encode()

expected = compute() if {before} else None
stop = threading.Event()
def busy():
    out = np.empty_like(x)
    while not stop.is_set():
        tanh(x, out=out)
threads = [threading.Thread(target=busy) for _ in range({busy})]
for thread in threads:
    thread.start()
children = []
for _ in range({children}):
    child = os.fork()
    if child == 0:
        os._exit(0 if expected is None or compute() == expected and compute() == expected else 3)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
stop.set()
for thread in threads:
    thread.join()
print(codes, expected is None or compute() == expected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("busy", [0, 2], ids=["idle", "busy"])
def test_fork(busy: int, n: int) -> None:
    """A child computes the same, whether or not the pool was in use when it was forked; the parent goes on."""
    script = "import warnings; warnings.simplefilter('ignore')\n"  # Python 3.12 warns of fork with threads
    children = 12 if busy and SANITIZER == "" else 3
    script += FORK.format(threads=n, before=True, busy=busy, children=children)
    assert check_output(script) == f"{[0] * children} True"


FORK_IN_A_STEP = """
import os, signal, threading, time
import numpy as np, fuseprop as fp

fp.set_num_threads({threads})
params = [np.zeros(300_000, np.float32), np.zeros(70_000)]
grads = [np.ones_like(p) for p in params]
optimizer = fp.optim.Adam(params, max_norm={max_norm})
model = fp.nn.Sequential([fp.nn.Dense(64, 256, activation="relu"), fp.nn.Dense(256, 64)], rng=0)
trainer = fp.optim.Adam(model)
x = np.ones((2048, 64), np.float32)

def step():
    optimizer.step(grads)

def train():
    model.train_step(x, x, "mse", trainer)

stop = threading.Event()
def repeat(work):
    while not stop.is_set():
        work()

found = []
for work in (step, train):
    thread = threading.Thread(target=repeat, args=(work,))
    thread.start()
    for k in range({children}):
        time.sleep(0.0002 * k)
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # ends the child if it waits for a thread that it does not have
            work()
            work()
            os._exit(0 if all(np.isfinite(p).all() for p in (*params, model.flat_parameters)) else 3)
        found.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop.set()
    thread.join()
    stop.clear()
print(set(found), len(found))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize("n", [1, 2])
def test_fork_while_a_thread_steps(n: int, max_norm: float | None) -> None:
    """Neither the optimizer nor the model's layers are in use in the child, whose thread of that is gone."""
    children = 20 if SANITIZER == "" else 4
    script = "import warnings; warnings.simplefilter('ignore')\n"  # Python 3.12 warns of fork with threads
    script += FORK_IN_A_STEP.format(threads=n, children=children, max_norm=max_norm)
    assert check_output(script) == f"{{0}} {2 * children}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_before_first_use() -> None:
    script = """
import os, numpy as np, fuseprop as fp
x = np.linspace(-3, 3, 300_000)
child = os.fork()
y = fp.activations.Sigmoid()(x)
if child == 0:
    os._exit(0)
print(os.waitpid(child, 0)[1], y[0] == fp.activations.Sigmoid()(x[:1])[0])
"""
    assert check_output(script) == "0 True"


def test_fork_of_multiprocessing() -> None:
    script = """
import multiprocessing, numpy as np, fuseprop as fp
import warnings; warnings.simplefilter("ignore")
x = np.linspace(-3, 3, 300_000)
def work(k):
    return float(fp.activations.Tanh()(x * k).sum())
if __name__ == "__main__":
    expected = [work(k) for k in range(6)]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        print(pool.map(work, range(6)) == expected)
"""
    assert check_output(script) == "True"


def test_exit_while_the_pool_is_in_use() -> None:
    """An interpreter that ends with a daemon thread inside of a kernel neither hangs nor crashes."""
    script = """
import threading, time, numpy as np, fuseprop as fp
x = np.ones(1_000_000)
def run():
    while True:
        fp.activations.Tanh()(x)
for _ in range(3):
    threading.Thread(target=run, daemon=True).start()
time.sleep(0.2)
print("done")
"""
    assert check_output(script) == "done"


def test_the_gil_is_released() -> None:
    """While one thread is inside of a long call, another one runs Python code."""
    entered = threading.Event()
    progress = 0
    switches = sys.getswitchinterval()
    a = np.ones((1500, 1500))

    def compute() -> None:
        entered.set()
        fp.ops.matmul(a, a)
        finished.set()

    finished = threading.Event()
    sys.setswitchinterval(30.0)  # Python itself would not switch in time
    try:
        with fp.num_threads(1):
            thread = threading.Thread(target=compute)
            thread.start()
            entered.wait()
            while not finished.is_set():
                progress += 1
                if progress == 100:
                    break
            thread.join()
    finally:
        sys.setswitchinterval(switches)
    assert progress == 100


#: Work that takes minutes, of sizes of every day.
LONG_LOOPS = {
    "fit": "model.fit(x, y, loss=loss, epochs=10_000, progress=False)",
    "fit in large batches": "model.fit(x, y, loss=loss, epochs=10_000, batch_size=50_000, progress=False)",
    "fit with validation data": (
        "model.fit(x, y, loss=loss, epochs=10_000, batch_size=4096, progress=False, validation_data=(x, y))"
    ),
    "predict": "model.predict(np.broadcast_to(x[:1], (10**7, 64)), batch_size=16)",
    "lbfgs": (
        "fp.optim.lbfgs(model, lambda: step(fp.optim.SGD(model, lr=0.0)), max_iter=10**6, max_evaluations=10**6, "
        "tolerance_grad=0.0, tolerance_change=0.0)"
    ),
    "steps": "optimizer = fp.optim.Adam(model)\nwhile True: step(optimizer)",
    "estimator": "fp.sklearn.MLPClassifier((256,), max_iter=10**6, tol=0.0, n_iter_no_change=10**6).fit(x, y)",
    "estimator, lbfgs": "fp.sklearn.MLPClassifier((256,), solver='lbfgs', max_iter=10**6, tol=0.0).fit(x, y)",
}


@pytest.mark.skipif(SANITIZER != "", reason="measures time")
@pytest.mark.parametrize("loop", LONG_LOOPS.values(), ids=list(LONG_LOOPS))
def test_ctrl_c_ends_a_loop_within_a_second(loop: str) -> None:
    # Imported beforehand: Python 3.11 ends with the signal's code if it comes during an import, whoever catches it.
    needs = "import sklearn.neural_network, scipy.optimize\n" if "lbfgs" in loop or "sklearn" in loop else ""
    if needs:
        pytest.importorskip("sklearn")
    script = """
import os, signal, threading, time, warnings
import numpy as np, fuseprop as fp

warnings.simplefilter("ignore")  # of an estimator whose training was interrupted
rng = np.random.default_rng(0)
x = rng.standard_normal((50_000, 64)).astype(np.float32)
y = rng.integers(0, 10, 50_000)
model = fp.nn.Sequential([fp.nn.Dense(64, 256, activation="relu"), fp.nn.Dense(256, 10)], rng=0)
loss = fp.losses.SoftmaxCrossEntropy()

def step(optimizer):
    return model.train_step(x, y, loss, optimizer)

def interrupt():
    global begin
    begin = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
begin = None
timer = threading.Timer(1.0, interrupt)
timer.start()
try:
    LOOP
except KeyboardInterrupt:
    pass
print(-1 if begin is None else time.monotonic() - begin)
""".replace("LOOP", loop.replace("\n", "\n    "))
    assert 0 <= float(check_output(needs + script)) < 1


#: Prints the affinity masks of the threads that are neither the main one nor one of Python's.
WORKERS = """
import os, threading, time
import numpy as np
import fuseprop as fp

fp.set_num_threads(2)
x = np.ones(2_000_000, np.float32)
out = np.empty_like(x)

def work():
    for _ in range(30):
        fp.activations.Tanh()(x, out=out)
        time.sleep(0.001)

def masks():
    known = {thread.native_id for thread in threading.enumerate()}
    tasks = set(map(int, os.listdir("/proc/self/task"))) - known
    return [os.sched_getaffinity(task) for task in tasks]
"""
two_cpus = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs and Linux"
)


@two_cpus
def test_workers_stay_where_the_user_puts_them() -> None:
    """The pool keeps workers off their caller's CPU, but within a mask that is set from outside."""
    script = """
work()
everything = os.sched_getaffinity(0)
for cpu in sorted(everything)[:2]:
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), {cpu})
    work()
    assert masks() and all(mask == {cpu} for mask in masks()), (cpu, masks())
print("done")
"""
    assert check_output(WORKERS + script) == "done"


@two_cpus
def test_workers_do_not_inherit_a_thread_s_own_mask() -> None:
    script = """
everything = os.sched_getaffinity(0)

def narrow():
    os.sched_setaffinity(0, {min(everything)})
    work()

thread = threading.Thread(target=narrow)
thread.start()
thread.join()
found = set().union(*masks())
assert len(found) > 1 or found != {min(everything)}, found
print("done")
"""
    assert check_output(WORKERS + script) == "done"
