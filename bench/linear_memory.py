"""Time and memory of LinearCrossEntropy, value and gradients, against ways that have the logits as an array.

    python bench/linear_memory.py --shape 4096,256,65536

Each way runs in a process of its own: once to warm up, then `--repeats` times. Its memory is the most that was resident
(Linux's VmHWM) beyond what was before the first call, less the gradients returned.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WAYS = ("fuseprop", "fuseprop, unfused", "NumPy", "PyTorch", "PyTorch chunked", "JAX")


def way(name: str, x: Any, weight: Any, labels: Any) -> Callable[[], Any]:
    """Return a function without arguments that returns a value and gradients."""
    if name.startswith("fuseprop"):
        import fuseprop as fp  # noqa: PLC0415  # what is not measured should not take memory

        if name == "fuseprop":
            fused = fp.losses.LinearCrossEntropy()
            return lambda: fused.value_and_grad(x, weight, labels)
        loss = fp.losses.SoftmaxCrossEntropy()

        def unfused() -> Any:
            value, d_z = loss.value_and_grad(fp.ops.linear(x, weight), labels)
            return value, fp.ops.linear_backward(x, weight, d_z)

        return unfused
    from fuseprop._bench import peers  # noqa: PLC0415  # likewise

    if name == "NumPy":

        def in_numpy() -> Any:
            value, d_z = peers.numpy_softmax_cross_entropy(x @ weight, labels)
            return value, (d_z @ weight.T, x.T @ d_z)

        return in_numpy
    if name == "JAX":
        jax = peers.jax_or_none()

        def jax_loss(x: Any, weight: Any, labels: Any) -> Any:
            log_p = jax.nn.log_softmax(x @ weight)
            return -jax.numpy.take_along_axis(log_p, labels[:, None], axis=1).mean()

        compiled = jax.jit(jax.value_and_grad(jax_loss, argnums=(0, 1)))
        given = [jax.numpy.asarray(a) for a in (x, weight, labels)]
        return lambda: jax.block_until_ready(compiled(*given))
    torch = peers.torch_or_none()
    tensors = torch.from_numpy(x).requires_grad_(), torch.from_numpy(weight).requires_grad_()
    ways = peers.torch_linear_cross_entropy(torch, *tensors, torch.from_numpy(labels))
    torch_loss = ways["chunked" if name.endswith("chunked") else ""]

    def in_torch() -> Any:
        value = torch_loss()
        return value, torch.autograd.grad(value, tensors)

    return in_torch


def resident(key: str) -> int:
    """Return a figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))


def measure(name: str, shape: tuple[int, int, int], repeats: int) -> None:
    """Print seconds and MiB."""
    rows, features, classes = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, features), np.float32)
    weight = rng.standard_normal((features, classes), np.float32)
    weight *= np.float32(features**-0.5)
    labels = rng.integers(0, classes, rows)
    call = way(name, x, weight, labels)
    way(name, x[:8].copy(), weight[:, :16].copy(), labels[:8] % 16)()  # code is loaded, threads have started
    before = resident("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
    call()
    memory = resident("VmHWM:") - before - x.nbytes - weight.nbytes
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    print(f"{name:20s} {statistics.median(times) * 1e3:9.1f} ms {memory / 2**20:9.1f} MiB", flush=True)


def main() -> None:
    """Measure each way in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="4096,256,65536", help="rows, features, classes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", default=";".join(WAYS), help="some of them, separated by semicolons")
    parser.add_argument("--own-process", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    rows, features, classes = map(int, args.shape.split(","))
    if unknown := set(args.ways.split(";")) - set(WAYS):
        parser.error(f"--ways: unknown {', '.join(map(repr, sorted(unknown)))}; expected some of {'; '.join(WAYS)}")
    for name in args.ways.split(";"):
        if args.own_process:
            measure(name, (rows, features, classes), args.repeats)
        else:
            command = [sys.executable, __file__, "--own-process", "--ways", name, "--shape", args.shape]
            subprocess.run([*command, "--repeats", str(args.repeats)], check=True)


if __name__ == "__main__":
    main()
