# SPDX-License-Identifier: Apache-2.0
"""What a run of these tests prints: accounts when it passes, the words of every program when a test fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_TESTS = """
import sys
from peerlib import Process

def say(word):
    with Process([sys.executable, "-c", f"print('{word}')"], name="peer") as peer:
        peer.wait_for_line(word)

def test_counts(record_property):
    say("earlier")
    record_property("account", "3 sent")

def test_fails():
    say("one")
    say("two")
    assert False
"""


def test_accounts_and_logs_are_printed_under_xdist_too(tmp_path):
    (tmp_path / "test_it.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "peerlib.reports", "--rootdir", tmp_path, "-n", "1", tmp_path]
    environ = {"PYTHONPATH": str(Path(__file__).parent), "PATH": "/usr/bin:/bin"}
    said = subprocess.run(command, check=False, capture_output=True, text=True, env=environ, timeout=90, cwd=tmp_path)
    lines = said.stdout.splitlines()
    assert "interop account: 3 sent" in lines
    assert (lines.count("one"), lines.count("two"), lines.count("earlier")) == (1, 1, 0), said.stdout + said.stderr
