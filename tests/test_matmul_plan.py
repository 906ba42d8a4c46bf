"""The plan of a matrix product: scalar, so that its choices can be seen without computing anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fuseprop as fp
from fuseprop import _core


def plan(m: int, k: int, n: int, *, ta: bool = False, tb: bool = False, add: bool = False, size: int = 4) -> Any:
    return _core.matmul_plan(m, k, n, size, ta, tb, add)


@pytest.mark.parametrize(
    ("regime", "shape", "transposed"),
    [
        ("squares", (3, 500, 200), (False, True)),
        ("wide", (2, 300, 400), (False, False)),
        ("in place", (64, 64, 64), (False, False)),
        ("in place", (3, 64, 16), (False, False)),  # no wider than a tile
        ("packed", (256, 2048, 1000), (False, False)),
        ("packed", (128, 64, 64), (False, True)),
        ("squares", (1000, 500, 5), (False, False)),  # few columns: the transposed product
    ],
)
@pytest.mark.parametrize("target", ["AVX2", "AVX3"])
def test_regimes(regime: str, shape: tuple[int, int, int], transposed: tuple[bool, bool], target: str) -> None:
    if target not in fp.build_info()["supported_targets"]:
        pytest.skip(f"this CPU has no {target}")
    with fp.simd_target(target):
        assert plan(*shape, ta=transposed[0], tb=transposed[1])["regime"] == regime


@given(
    m=st.integers(2, 3000), k=st.integers(1, 5000), n=st.integers(2, 3000),
    ta=st.booleans(), tb=st.booleans(), add=st.booleans(), size=st.sampled_from([4, 8]), threads=st.integers(1, 8),
)  # fmt: skip
def test_blocks_cover_the_product(
    *, m: int, k: int, n: int, ta: bool, tb: bool, add: bool, size: int, threads: int
) -> None:
    with fp.num_threads(threads):
        found = plan(m, k, n, ta=ta, tb=tb, add=add, size=size)
    rows, cols = found["mc"] * found["row_blocks"], found["nc"] * found["col_blocks"]
    # C, or its transpose if that fills vectors better; no block is empty.
    assert any(
        0 <= rows - a < found["mc"] and cols >= b and (found["col_blocks"] - 1) * found["nc"] < b
        for a, b in ((m, n), (n, m))
    )
    assert found["threads"] in (1, threads)
    assert 1 <= found["kc"] <= k + 64 // size
    if found["regime"] == "packed":
        assert found["scratch"] >= min(found["kc"], k) * min(found["nc"], cols)
    # A thread's copies and sums are of a block, not of the matrices.
    assert found["scratch"] * size <= 32 << 20


def test_small_products_use_one_thread() -> None:
    with fp.num_threads(4):
        assert plan(16, 32, 32)["threads"] == 1
        assert plan(512, 512, 512)["threads"] == 4


def test_steps_of_k_are_cut_evenly() -> None:
    assert plan(256, 512, 1000)["kc"] == 512
    halves = plan(256, 520, 1000)["kc"]
    assert halves == 272  # 260, in whole lines


def test_junk_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        plan(0, 3, 4)
    with pytest.raises(TypeError):
        plan(np.ones(2), 3, 4)  # type: ignore[arg-type]
