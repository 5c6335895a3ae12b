# SPDX-License-Identifier: Apache-2.0
"""Programs that end with a source open: from Python 3.12 on no thread starts once the interpreter shuts down."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPEN = """
import atexit, logging, sys
logging.getLogger("otel_spiffe").setLevel("ERROR")
from otel_spiffe.sources import WorkloadApiSource
source = WorkloadApiSource.open(sys.argv[1])
"""

WAIT_AT_EXIT = """
def last():
    print("now", flush=True)
    print(source.wait(60).id, flush=True)
atexit.register(last)
"""

ROTATE_AT_EXIT = """
source.wait(60)
def last():
    import threading
    came = threading.Event()
    held = source.identity().generation
    print("now", flush=True)
    while source.wait(60).generation == held:
        came.wait(0.01)
    heard = []
    source.subscribe(lambda identity: heard.append(identity.generation) or came.set())
    came.wait(60)
    print(heard[0] > held, flush=True)
    source.close()
atexit.register(last)
"""


@pytest.fixture
def run(spiffe_workload_api):
    def run(program, *, do=None):
        command = [sys.executable, "-W", "error", "-c", program, spiffe_workload_api.endpoint]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            try:
                if do is not None:
                    assert running.stdout.readline() == "now\n"
                    do()
                out, said = running.communicate(timeout=90)
            finally:
                running.kill()
        assert (running.returncode, said) == (0, "")
        return out

    return run


@pytest.mark.parametrize("then", ["", "source.wait(60)", "source.subscribe(lambda identity: None)"])
def test_a_source_that_is_never_closed_does_not_hold_the_program_up(run, then):
    assert run(OPEN + then) == ""


def test_an_agent_that_comes_back_during_the_end_is_found(run, spiffe_workload_api, spiffe_identity):
    spiffe_workload_api.go_away()
    said = run(OPEN + WAIT_AT_EXIT, do=lambda: spiffe_workload_api.come_back(spiffe_identity("/late")))
    assert said == "spiffe://test.example/late\n"


def test_rotation_goes_on_during_the_end(run, spiffe_workload_api, spiffe_identity):
    assert run(OPEN + ROTATE_AT_EXIT, do=lambda: spiffe_workload_api.serve(spiffe_identity("/app"))) == "True\n"
