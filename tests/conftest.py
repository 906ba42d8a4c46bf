"""Fixtures and settings of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest
from helpers import SANITIZER, TARGETS

import fuseprop as fp

hypothesis.settings.register_profile(
    "quick",
    deadline=None,
    database=None,  # leaves no directory behind
    derandomize="CI" in os.environ or SANITIZER != "",
    max_examples=60 if SANITIZER == "" else 15,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("quick")


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each SIMD target of this machine in turn, active during the test."""
    with fp.simd_target(request.param):
        yield request.param


@pytest.fixture(params=[1, 2, 16])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Numbers of threads, in force during the test."""
    with fp.num_threads(request.param):
        yield request.param
