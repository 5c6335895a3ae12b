# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: a failed test shows what its programs said, and a passing run prints what was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from peerlib.process import started

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = ["ACCOUNT"]

ACCOUNT = "account"
"""The name under which a test gives `record_property` a line to print."""

_LAST = 16_000  # characters of one log


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget what other tests started."""
    del item
    started.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of the logs of the peers that a failed test was given, and of the programs that it started."""
    report = yield
    if report.failed:
        shown: list[str] = []
        for name, log in _logs(item):
            if log and not any(log in each for each in shown):  # a fixture may show its programs by itself
                report.sections.append((f"log of {name}", log[-_LAST:]))
                shown.append(log)
    return report


def _logs(item: pytest.Item) -> Iterator[tuple[str, str]]:
    given: dict[str, Any] = getattr(item, "funcargs", {})
    for name, value in given.items():
        if isinstance(log := getattr(value, "log", None), str):
            yield name, log
    for process in tuple(started):
        yield f"{process.name}, process {process.pid}", process.log


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the accounts; under xdist, too, where no worker's own words are shown."""
    for report in terminalreporter.stats.get("passed", ()):
        for name, line in getattr(report, "user_properties", ()):
            if name == ACCOUNT:
                terminalreporter.write_line(f"interop account: {line}")
