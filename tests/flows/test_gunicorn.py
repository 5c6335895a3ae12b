# SPDX-License-Identifier: Apache-2.0
"""Pre-fork servers: the exporters are made in the master, and every worker exports."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import requests

PATIENCE = 60.0
WORKERS = 2
APP = "spiffe://prod.example/app"

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="there is no fork"),
    pytest.mark.skipif(find_spec("gunicorn") is None, reason="gunicorn is not installed"),
]

MODULE = """
import importlib, os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

exporters = importlib.import_module("otel_spiffe.exporters." + os.environ["TRANSPORT"])
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(exporters.OTLPSpanExporter(), schedule_delay_millis=100))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("app")
if os.environ["MASTER"] == "exports":
    tracer.start_span("master", attributes={"pid": os.getpid()}).end()
    assert provider.force_flush()

def app(environ, start_response):
    with tracer.start_as_current_span("request", attributes={"pid": os.getpid()}):
        start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
        return [str(os.getpid()).encode()]
"""


ZERO_CODE = """
import os
from opentelemetry import trace

def app(environ, start_response):
    with trace.get_tracer("app").start_as_current_span("request", attributes={"pid": os.getpid()}):
        start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
        return [str(os.getpid()).encode()]
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def gunicorn(folder, env, *arguments, program=(sys.executable, "-m", "gunicorn")):
    """Run gunicorn with the app of `folder`; yields its URL, ends it as an operator does."""
    port = free_port()
    command = [*program, "--workers", str(WORKERS), "--bind", f"127.0.0.1:{port}"]
    log = folder / "gunicorn.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*command, *arguments, "served:app"], cwd=folder, env=env, stdout=output, stderr=output
        ) as run,
    ):
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            run.send_signal(signal.SIGTERM)
            try:
                run.wait(PATIENCE)
            finally:
                run.kill()
    assert run.returncode == 0, log.read_text()


def workers_that_answered(url: str) -> set[int]:
    """Ask until every worker has answered."""
    pids: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while len(pids) < WORKERS and time.monotonic() < deadline:
        try:
            pids.add(int(requests.get(url, timeout=PATIENCE).text))
        except requests.ConnectionError:
            time.sleep(0.05)  # it is starting
    assert len(pids) == WORKERS
    return pids


def pids_of(sink) -> set[int]:
    return {attribute.value.int_value for span in sink.spans for attribute in span.attributes if attribute.key == "pid"}


@pytest.mark.parametrize("transport", ["grpc", "http"])
@pytest.mark.parametrize("master", ["exports", "does not"])
def test_every_worker_exports_whether_or_not_the_master_did(world, tmp_path, transport, master):
    (tmp_path / "served.py").write_text(MODULE)
    env = world.env(transport, TRANSPORT=transport, MASTER=master)
    with gunicorn(tmp_path, env, "--preload") as url:
        pids = workers_that_answered(url)
    # The workers have ended, and their last spans went out on the way.
    assert pids_of(world.sink) >= pids
    assert {str(each.peer) for each in world.sink.received(transport=transport)} == {APP}
    assert ("master" in {span.name for span in world.sink.spans}) == (master == "exports")


@pytest.mark.skipif(find_spec("opentelemetry.distro") is None, reason="opentelemetry-distro is not installed")
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_opentelemetry_instrument_sets_up_in_the_master_and_every_worker_exports(world, tmp_path, transport):
    (tmp_path / "served.py").write_text(ZERO_CODE)
    env = world.env(
        transport,
        OTEL_TRACES_EXPORTER="otlp_spiffe",
        OTEL_METRICS_EXPORTER="otlp_spiffe",
        OTEL_LOGS_EXPORTER="none",
        OTEL_BSP_SCHEDULE_DELAY="100",
    )
    program = (Path(sys.executable).with_name("opentelemetry-instrument"), sys.executable, "-m", "gunicorn")
    with gunicorn(tmp_path, env, program=program) as url:
        pids = workers_that_answered(url)
    assert pids_of(world.sink) >= pids
    assert {str(each.peer) for each in world.sink.received(transport=transport)} == {APP}
