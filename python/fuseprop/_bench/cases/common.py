"""What the cases of all kinds share: sizes, inputs, and how a peer is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuseprop._bench.problem import Candidate, Peers, as_arrays
from fuseprop._bench.timing import call

Array = NDArray[Any]

#: Elements of the elementwise cases: a call's overhead, the first cache, both threads, the memory.
SIZES = ("128", "1000", "100k", "16M")
CLASS_SHAPES = ((64, 10), (128, 1000), (2048, 50257))


def parse_size(text: str) -> int:
    """Return 100000 for "100k" and 16777216 for "16M": k counts thousands, M 2^20."""
    factor = {"k": 1000, "M": 1 << 20}.get(text[-1:], 1)
    return int(text if factor == 1 else text[:-1]) * factor


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    x *= np.float32(scale)
    x[x == 0] = scale  # where a formula has a joint, libraries take different sides
    return x


def numpy_peer(
    function: Callable[..., Any], *args: Any, outputs: Any = as_arrays, variant: str = "", **kw: Any
) -> Candidate:
    return Candidate("NumPy", call(function, *args, **kw), variant, outputs)


def jax_peer(peers: Peers, function: Callable[..., Any], *args: Array, outputs: Any = as_arrays) -> Candidate:
    """Compile a function of arrays; the call waits for its result."""
    compiled = peers.jax.jit(function)
    given = [peers.jax.numpy.asarray(a) for a in args]
    wait = peers.jax.block_until_ready
    return Candidate("JAX", call(lambda: wait(compiled(*given))), outputs=outputs)


def torch_peer(peers: Peers, function: Callable[..., Any], *args: Any, variant: str = "", **kw: Any) -> Candidate:
    """Call PyTorch without recording gradients."""
    return Candidate("PyTorch", call(function, *args, **kw), variant, context=peers.torch.inference_mode)


def edge_rows(array: Array) -> Array:
    """Return the first and the last eight rows: enough to check of a large result."""
    return array if len(array) <= 256 else np.concatenate([array[:8], array[-8:]])
