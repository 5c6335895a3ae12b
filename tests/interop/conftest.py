# SPDX-License-Identifier: Apache-2.0
"""Peers for the session, a table of what was tried with which, and no peers at all where nobody asked for them."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin"  # where Debian has nginx and HAProxy

import peerlib  # noqa: E402 -- from the folder beside this file
from peerlib import reports  # noqa: E402
from peerlib.build import PEERS  # noqa: E402

_failed: dict[str, str] = {}


def pytest_configure(config):
    config.addinivalue_line("markers", "peer(name, what): a row of docs/compatibility.md")
    config.addinivalue_line("markers", "builds(*names): Go modules that the test needs")
    config.pluginmanager.register(reports)


def pytest_ignore_collect(collection_path, config):
    """Building takes minutes: only who names this folder gets it, not every run of the suite."""
    named = [(config.invocation_params.dir / each.partition("::")[0]).resolve() for each in config.args]
    asked = any(HERE in (path, *path.parents) for path in named)
    return True if collection_path.suffix == ".py" and not asked else None


def pytest_collection_finish(session):
    """Build what the collected tests need before the first of them runs: no test's time limit counts it."""
    if session.config.option.collectonly or peerlib.missing():
        return
    wanted = {name for item in session.items for mark in item.iter_markers("builds") for name in mark.args}
    for name in sorted(wanted):
        try:
            peerlib.build(name)
        except RuntimeError as error:
            _failed[name] = str(error)


def pytest_runtest_setup(item):
    wanted = [name for mark in item.iter_markers("builds") for name in mark.args]
    if wanted and (reason := peerlib.missing()):
        pytest.skip(reason)
    for name in wanted:
        assert name in PEERS
        if name in _failed:
            pytest.fail(_failed[name], pytrace=False)


@pytest.fixture(scope="session")
def short_folder():
    """Make folders whose path fits into a Unix socket's address."""
    made = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="peer-")))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def go_spiffe():
    """A program on go-spiffe."""
    go = peerlib.GoSpiffe()
    yield go
    go.close()


@pytest.fixture(scope="session")
def spire(short_folder):
    """A SPIRE server and agent of the trust domain prod.example."""
    spire = peerlib.start_spire(short_folder(), "prod.example")
    yield spire
    spire.stop()


@pytest.fixture
def row(request):
    """Note a row of docs/compatibility.md beside those of the `peer` marks: (peer, what was tried, result)."""

    def note(peer: str, what: str, result: str) -> None:
        request.node.user_properties.append(("row", [peer, what, result]))

    return note


def pytest_itemcollected(item):
    for mark in item.iter_markers("peer"):
        item.user_properties.append(("row", [*mark.args, "agree"]))


def pytest_terminal_summary(terminalreporter):
    rows, ran, skipped = {}, set(), set()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in getattr(report, "user_properties", ()):
                if name != "row":
                    continue
                peer, what, result = value
                (skipped if outcome == "skipped" else ran).add(peer)
                if outcome != "skipped":
                    rows[peer, what] = result if outcome == "passed" else "FAILED"
    if ran:
        terminalreporter.write_line(f"interop peers: {', '.join(sorted(ran))}")
    if skipped - ran:
        terminalreporter.write_line(f"interop, skipped as a whole: {', '.join(sorted(skipped - ran))}")
    if path := os.environ.get("OTEL_SPIFFE_COMPATIBILITY"):  # the file that compatibility.py makes the page from
        table = [[peer, what, result] for (peer, what), result in sorted(rows.items())]
        Path(path).write_text(json.dumps(table, indent=1) + "\n")


@pytest.fixture(scope="session")
def eventually():
    """Wait until something about a foreign program comes true: it tells nobody, so this asks again and again."""

    def wait(claim, *, seconds: float = 60.0, what: str = ""):
        end = time.monotonic() + seconds
        while not (found := claim()):
            if time.monotonic() > end:
                faulthandler.dump_traceback(file=sys.__stderr__)
                raise TimeoutError(f"{what or claim} did not come true in {seconds} s")
            threading.Event().wait(0.02)
        return found

    return wait
