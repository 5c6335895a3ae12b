# SPDX-License-Identifier: Apache-2.0
"""Real forks, in a program of its own: the agent runs in this process, whose gRPC server must not be forked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.sources._worker import PARK_TIMEOUT

PROGRAM = Path(__file__).with_name("forking.py")

# From Python 3.12 on each fork of a process with threads warns; that is what these tests are about.
WARNINGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")


@pytest.fixture
def rotating_agent(spiffe_identity):
    with WorkloadApiServer.open(issue=lambda: spiffe_identity("/app"), every=timedelta(seconds=0.2)) as server:
        yield server


@pytest.fixture(params=[None, "1"], ids=["grpc's default", "fork support on"])
def run(request):
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    if request.param is not None:
        environment["GRPC_ENABLE_FORK_SUPPORT"] = request.param

    def run(scenario, endpoint, *, do=None):
        command = [sys.executable, *WARNINGS, str(PROGRAM), scenario, endpoint]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, env=environment, text=True, **pipes) as program:
            if do is not None:
                assert program.stdout.readline() == "now\n"
                do()
            try:
                out, said = program.communicate("done\n", timeout=90)
            finally:
                program.kill()
        assert program.returncode == 0, said
        return json.loads(out), said

    return run


def test_parent_child_and_grandchild_go_on_rotating(run, rotating_agent):
    result, said = run("rotating", rotating_agent.endpoint)
    assert "skipping fork() handlers" not in said  # as gRPC does with one of our threads inside it
    assert result["parent rotates"]
    assert len(result["children"]) == 5
    for child in result["children"]:
        for each in (child, child["grandchild"]):
            assert each["held"] >= 1
            assert each["rotates"]
            assert each["ready"]
            assert each["subscriber called"]
            assert each["threads left"] == []


def test_a_channel_of_the_application_does_not_stop_the_source(run, rotating_agent):
    result, _ = run("other_channel", rotating_agent.endpoint)
    assert result == {"child": {"rotates": True}, "parent rotates": True}


def test_locks_that_other_threads_hold_at_the_fork_do_not_stop_the_child(run, rotating_agent):
    result, _ = run("locks", rotating_agent.endpoint)
    assert result == {"child": [True, 1]}


def test_a_closed_source_stays_closed_and_a_child_opens_its_own(run, rotating_agent):
    result, _ = run("closed", rotating_agent.endpoint)
    assert result.pop("opened in the child") >= 1  # the agent rotates meanwhile
    assert result == {"threads": 1, "closed": True}


def test_forks_wait_once_for_all_issuers_that_hang(run, rotating_agent):
    result, _ = run("hanging", rotating_agent.endpoint)
    assert result["first"] < 2 * PARK_TIMEOUT
    assert result["second"] < PARK_TIMEOUT


def test_metrics_that_another_thread_makes_at_the_fork_do_not_stop_the_child(run, rotating_agent):
    result, _ = run("metrics", rotating_agent.endpoint)
    assert result == {"child": "spiffe://prod.example/app"}


def test_many_forks_in_a_row_do_not_hang_in_grpc(run, rotating_agent):
    """Without a channel that stays, a fork meets gRPC's shutdown of the last one: about 25 forks were enough."""
    result, _ = run("many", rotating_agent.endpoint)
    assert result == {"statuses": [0] * 100, "parent rotates": True}


def test_in_an_outage_the_child_keeps_what_is_held_and_tries_by_itself(run, spiffe_workload_api):
    result, _ = run("outage", spiffe_workload_api.endpoint, do=spiffe_workload_api.go_away)
    assert result == {"held": 1, "problem": True}
