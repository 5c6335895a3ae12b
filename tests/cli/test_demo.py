# SPDX-License-Identifier: Apache-2.0
"""The demo, as somebody who types it sees it."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

SECONDS = "5"
PATIENCE = 110


@pytest.fixture
def clean(monkeypatch):
    """What may be set around a user must not spoil the demo."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://nowhere.example:4317")
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", "unix:/nowhere")
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)


def command(*arguments):
    return [sys.executable, "-W", "error", "-m", "otel_spiffe.cli", "demo", "--seconds", SECONDS, *arguments]


@pytest.mark.usefixtures("clean")
def test_the_demo_loses_nothing_refuses_every_impostor_and_says_so():
    done = subprocess.run(command(), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("ALL WELL: ")
    assert "6 of 6 impostors' tries refused" in done.stdout
    assert any("app        has a new X509-SVID" in line for line in lines)
    assert any("forged by another CA, gRPC: refused: peer spiffe://demo.example/collector" in line for line in lines)
    assert any(
        "peer spiffe://demo.example/database is not in one_of(spiffe://demo.example/collector)" in line
        for line in lines
    )


# Shells have a job in the background ignore SIGINT, and it hands that on: undo it before the demo begins.
LISTENING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.mark.usefixtures("clean")
def test_interrupted_it_closes_everything_and_exits_as_shells_expect():
    listening = [sys.executable, "-c", LISTENING, *command("--plain")]
    process = subprocess.Popen(listening, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        while "sends traces" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said == "\ninterrupted; everything is closed\n"


def on_a_terminal(code, *, seconds):
    """Run Python code on a pseudo-terminal and return its exit code and all that it wrote."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    written, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        if select.select([ours], [], [], 1)[0]:
            try:
                written += os.read(ours, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
    os.close(ours)
    return process.wait(seconds), written.decode(errors="replace")


@pytest.mark.usefixtures("clean")
def test_on_a_terminal_it_draws_a_live_picture():
    code = f"import sys; from otel_spiffe.cli import main; sys.exit(main(['demo', '--seconds', '{SECONDS}']))"
    status, written = on_a_terminal(code, seconds=PATIENCE)
    assert status == 0, written
    assert "╭" in written
    assert "mutual TLS, both SPIFFE IDs checked" in written
    assert "ALL WELL" in written


@pytest.mark.usefixtures("clean")
def test_on_a_terminal_without_rich_it_says_how_to_get_it_and_goes_on_in_lines():
    code = (
        "import sys; sys.modules['rich'] = None; from otel_spiffe.cli import main; "
        f"sys.exit(main(['demo', '--seconds', '{SECONDS}']))"
    )
    status, written = on_a_terminal(code, seconds=PATIENCE)
    assert status == 0, written
    assert "pip install 'otel-spiffe[cli]'" in written
    assert "ALL WELL" in written
