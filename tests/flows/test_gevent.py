# SPDX-License-Identifier: Apache-2.0
"""Under gevent exporters refuse at the start and say why, where they would hang the process."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed")

SCRIPT = """
from gevent import monkey
monkey.patch_all()
import importlib, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
exporters = importlib.import_module("otel_spiffe.exporters." + sys.argv[1])
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(exporters.OTLPSpanExporter()))
for number in range(100):
    trace.get_tracer("script").start_span("a span").end()
"""


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_an_exporter_refuses_at_the_start_and_names_the_way_out(world, transport):
    done = world.run("-c", SCRIPT, transport, env=world.env(transport))
    assert done.returncode == 1
    assert "gevent has replaced this process's threads and TLS sockets" in done.stderr
    assert "gunicorn's gthread workers" in done.stderr
