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
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # it would hide what is left to be written at the end


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
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_interrupted_it_closes_everything_and_exits_as_shells_expect(number, status, word, tmp_path):
    listening = [sys.executable, "-c", LISTENING, *command("--plain")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(listening, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    with process:
        while "sends traces" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == status
    assert said == f"\n{word}; everything is closed\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("clean")
def test_a_reader_that_leaves_ends_it_with_one_sentence():
    process = subprocess.Popen(command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1
    assert said == "otel-spiffe demo: [Errno 32] Broken pipe\n"


@pytest.mark.usefixtures("clean")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")  # noqa: PTH110
@pytest.mark.parametrize("both", [False, True])
def test_an_output_that_is_full_ends_it_with_one_sentence(both):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            command(), stdout=full, stderr=full if both else subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    assert done.returncode == 1
    assert both or done.stderr == "otel-spiffe demo: [Errno 28] No space left on device\n"


FULL = """
import sys, tempfile
from otel_spiffe.cli import main

def full(**_):
    raise OSError(28, "No space left on device")

tempfile.mkdtemp = full
sys.exit(main(["demo", "--plain"]))
"""


@pytest.mark.usefixtures("clean")
def test_a_machine_that_is_full_ends_it_with_one_sentence():
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("otel-spiffe demo: Unix socket: no directory can be made for it: ")
    assert done.stderr.count("\n") == 1


def on_a_terminal(code, *, seconds, until=None, number=signal.SIGTERM, **environment):
    """Run Python code on a pseudo-terminal and return its exit code and all that it wrote.

    Args:
        until: what it writes before it gets the signal `number`.
    """
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", **environment}
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
        if until is not None and until in written:
            process.send_signal(number)
            until = None
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


DEMO = f"import sys; from otel_spiffe.cli import main; sys.exit(main(['demo', '--seconds', '{SECONDS}']))"


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("terminal", [{"TERM": "dumb"}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"}])
def test_on_a_terminal_that_cannot_draw_it_writes_lines(terminal):
    status, written = on_a_terminal(DEMO, seconds=PATIENCE, **terminal)
    assert status == 0, written
    assert "app        has a new X509-SVID" in written
    assert "\x1b" not in written
    assert "╭" not in written
    assert "ALL WELL" in written


@pytest.mark.usefixtures("clean")
def test_terminated_on_a_terminal_it_gives_the_cursor_back():
    status, written = on_a_terminal(DEMO, seconds=PATIENCE, until="╭".encode())
    assert status == 143, written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1
    assert written.endswith("terminated; everything is closed\r\n")
