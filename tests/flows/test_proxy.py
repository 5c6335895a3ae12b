# SPDX-License-Identifier: Apache-2.0
"""Exports go through a real proxy by CONNECT where HTTPS_PROXY says so; SPIFFE mTLS stays end to end."""

from __future__ import annotations

import shutil
import socket
import subprocess
from contextlib import contextmanager

import pytest

PROGRAM = shutil.which("tinyproxy") or shutil.which("tinyproxy", path="/usr/sbin")
PATIENCE = 60.0
APP = "spiffe://prod.example/app"

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="tinyproxy is not installed")

CONFIGURATION = """
Port {port}
Listen 127.0.0.1
Timeout 60
LogLevel Connect
LogFile "{log}"
Allow 127.0.0.1
BasicAuth user secret
"""

SCRIPT = """
import importlib, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
exporters = importlib.import_module("otel_spiffe.exporters." + sys.argv[1])
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporters.OTLPSpanExporter(timeout=3)))
provider.get_tracer("script").start_span("a span").end()
"""


@contextmanager
def tinyproxy(folder):
    """Run a proxy that asks for user and password; yields its port and its log."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = folder / "proxy.log"
    log.touch()
    file = folder / "proxy.conf"
    file.write_text(CONFIGURATION.format(port=port, log=log))
    with subprocess.Popen([PROGRAM, "-d", "-c", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        try:
            _wait_for(port, run)
            yield port, log
        finally:
            run.terminate()


def _wait_for(port, run):
    for _ in range(int(PATIENCE / 0.1)):
        assert run.poll() is None
        with socket.socket() as probe:
            probe.settimeout(0.1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        try:
            run.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    pytest.fail("tinyproxy does not listen")


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_exports_go_through_the_proxy_with_its_credentials(world, transport, tmp_path):
    with tinyproxy(tmp_path) as (port, log):
        env = world.env(transport, HTTPS_PROXY=f"http://user:secret@127.0.0.1:{port}", NO_PROXY="elsewhere.example")
        done = world.run("-c", SCRIPT, transport, env=env)
        connects = log.read_text().count(": CONNECT ")
    assert (done.returncode, done.stderr) == (0, "")
    assert [str(each.peer) for each in world.sink.received(transport=transport)] == [APP]
    assert connects > 0


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_no_proxy_goes_around_it(world, transport, tmp_path):
    with tinyproxy(tmp_path) as (port, log):
        env = world.env(transport, HTTPS_PROXY=f"http://user:secret@127.0.0.1:{port}", NO_PROXY="127.0.0.1")
        done = world.run("-c", SCRIPT, transport, env=env)
        connects = log.read_text().count(": CONNECT ")
    assert (done.returncode, done.stderr) == (0, "")
    assert world.sink.counts.spans == 1
    assert connects == 0


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_proxy_that_refuses_is_named_and_its_password_is_not(world, transport, tmp_path):
    with tinyproxy(tmp_path) as (port, _):
        env = world.env(transport, HTTPS_PROXY=f"http://user:wr0ng-pa55@127.0.0.1:{port}", NO_PROXY="")
        done = world.run("-c", SCRIPT, transport, env=env)
    assert done.returncode == 0
    assert world.sink.counts.spans == 0
    assert f"127.0.0.1:{port}" in done.stderr
    assert "407" in done.stderr or "401" in done.stderr
    assert "wr0ng-pa55" not in done.stderr
