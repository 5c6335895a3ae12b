# SPDX-License-Identifier: Apache-2.0
"""A script that ends at once loses nothing: its spans go out while the interpreter shuts down."""

from __future__ import annotations

import subprocess
import sys

import pytest

from otel_spiffe.ca import WorkloadApiServer

PATIENCE = 60.0
APP = "spiffe://prod.example/app"

SCRIPT = """
import importlib, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
exporters = importlib.import_module("otel_spiffe.exporters." + sys.argv[1])
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(exporters.OTLPSpanExporter()))
tracer = trace.get_tracer("script")
for number in range(int(sys.argv[2])):
    tracer.start_span(f"span {number}").end()
print("emitted", flush=True)
"""

ALL_SIGNALS = """
import importlib, logging, sys
from opentelemetry import metrics
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
exporters = importlib.import_module("otel_spiffe.exporters." + sys.argv[1])
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(exporters.OTLPMetricExporter())]))
metrics.get_meter("script").create_counter("runs").add(1)
provider = LoggerProvider()
provider.add_log_record_processor(BatchLogRecordProcessor(exporters.OTLPLogExporter()))
provider.get_logger("script").emit(LogRecord(body="ran", severity_number=SeverityNumber.INFO))
"""


@pytest.mark.parametrize("transport", ["grpc", "http"])
@pytest.mark.parametrize("spans", [1, 100, 10_000])
def test_every_span_of_a_script_that_ends_at_once_arrives(world, transport, spans):
    # The stock processor drops the oldest beyond 2048 that wait; that many at once need a queue for them.
    env = world.env(transport, OTEL_BSP_MAX_QUEUE_SIZE="16384")
    done = world.run("-W", "error", "-c", SCRIPT, transport, str(spans), env=env)
    assert (done.returncode, done.stderr) == (0, "")
    names = [span.name for span in world.sink.spans]
    assert sorted(names) == sorted(f"span {number}" for number in range(spans))
    assert {str(each.peer) for each in world.sink.received(transport=transport)} == {APP}


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_metrics_and_logs_of_a_script_that_ends_at_once_arrive(world, transport):
    done = world.run("-W", "error", "-c", ALL_SIGNALS, transport, env=world.env(transport))
    assert (done.returncode, done.stderr) == (0, "")
    assert "runs" in {metric.name for metric in world.sink.metrics}
    assert [record.body.string_value for record in world.sink.log_records] == ["ran"]


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_script_whose_agent_comes_after_its_last_line_loses_nothing(world, transport):
    path, identity = world.agent.path, world.authority.identity(APP)
    world.agent.close()
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, transport, "3"],
        env=world.env(transport),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert script.stdout is not None
    assert script.stdout.readline() == "emitted\n"
    with WorkloadApiServer.open(path, identity=identity):
        _, stderr = script.communicate(timeout=PATIENCE)
    assert script.returncode == 0, stderr
    assert len(world.sink.spans) == 3
