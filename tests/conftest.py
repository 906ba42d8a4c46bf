"""Fixtures and settings of all tests."""

from __future__ import annotations

import os
import re
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


# --- nothing is skipped for want of a package: make test-peers -----------------------------------------------------

_WANTS_A_PACKAGE = re.compile(r"could not import|required is|pip install")


def _wants_a_package(reporter: pytest.TerminalReporter) -> list[str]:
    """The skips whose reason is a package that is not there, or too old; [] unless FUSEPROP_REQUIRE_PEERS is set."""
    if os.environ.get("FUSEPROP_REQUIRE_PEERS", "") in ("", "0"):
        return []
    reasons = [(report.nodeid, str(report.longrepr[2])) for report in reporter.stats.get("skipped", [])]
    return [f"{node}: {reason}" for node, reason in reasons if _WANTS_A_PACKAGE.search(reason)]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail; the terminal's reporter is that of the process that started the workers."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and _wants_a_package(reporter) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say for want of what tests were skipped that have to run."""
    if missing := _wants_a_package(terminalreporter):
        terminalreporter.section("skipped for want of a package, with FUSEPROP_REQUIRE_PEERS set", red=True)
        terminalreporter.write("".join(f"{line}\n" for line in missing))
