# SPDX-License-Identifier: Apache-2.0
"""What a program with no line of our code gets: the SDK finds the exporters by name."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest
from opentelemetry.sdk._configuration import _import_exporters

from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.exporters import grpc, http

APP, COLLECTOR = "spiffe://prod.example/app", "spiffe://prod.example/collector"
PATIENCE = 60.0
CLASSES = ("OTLPSpanExporter", "OTLPMetricExporter", "OTLPLogExporter")


def classes(name):
    """As the SDK resolves OTEL_*_EXPORTER; it asks issubclass, so a function would not do."""
    return tuple(found[name] for found in _import_exporters([name], [name], [name]))


def of(module):
    return tuple(getattr(module, name) for name in CLASSES)


def test_each_transport_has_its_name():
    assert classes("otlp_spiffe_grpc") == of(grpc)
    assert classes("otlp_spiffe_http") == of(http)


def test_the_short_name_follows_the_protocol_variables(monkeypatch):
    assert classes("otlp_spiffe") == of(grpc)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    assert classes("otlp_spiffe") == of(http)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc")
    assert classes("otlp_spiffe") == (http.OTLPSpanExporter, grpc.OTLPMetricExporter, http.OTLPLogExporter)


def test_a_protocol_that_there_is_not_is_refused_with_the_variable(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
    with pytest.raises(InvalidConfiguration, match=r"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: 'http/json' is not one of"):
        classes("otlp_spiffe")


def test_only_what_can_refuse_a_wrong_peer_is_a_credential_provider():
    provided = {each.name for each in entry_points(group="opentelemetry_otlp_credential_provider")}
    assert "spiffe_http_credentials" in provided
    assert "spiffe_grpc_credentials" not in provided


def test_our_variables_become_flags_of_opentelemetry_instrument():
    (ours,) = [each for each in entry_points(group="opentelemetry_environment_variables") if "spiffe" in each.name]
    assert "OTEL_SPIFFE_AUTHORIZED_IDS" in dir(ours.load())


SCRIPT = """
import logging
from opentelemetry import metrics, trace
trace.get_tracer("app").start_span("a span").end()
metrics.get_meter("app").create_counter("a.metric").add(1)
logging.getLogger("app").warning("a log")
"""


@pytest.fixture
def agent(authority):
    with WorkloadApiServer.open(identity=authority.identity(APP)) as agent:
        yield agent


@pytest.mark.skipif(find_spec("opentelemetry.distro") is None, reason="opentelemetry-distro is not installed")
def test_opentelemetry_instrument_exports_all_signals_without_a_line_of_code(
    agent, sink, transport, tmp_path, monkeypatch
):
    script = tmp_path / "app.py"
    script.write_text(SCRIPT)
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", agent.endpoint)
    protocol, endpoint = {
        "grpc": ("grpc", sink.grpc_endpoint),
        "http": ("http/protobuf", sink.http_endpoint),
    }[transport]
    names = [f"--{signal}_exporter=otlp_spiffe" for signal in ("traces", "metrics", "logs")]
    done = subprocess.run(
        [
            Path(sys.executable).with_name("opentelemetry-instrument"),
            *names,
            f"--spiffe_authorized_ids={COLLECTOR}",
            f"--exporter_otlp_protocol={protocol}",
            f"--exporter_otlp_endpoint={endpoint}",
            sys.executable,
            script,
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "a span" in {span.name for span in sink.spans}, done.stderr
    assert "a.metric" in {metric.name for metric in sink.metrics}
    assert [record.body.string_value for record in sink.log_records].count("a log") == 1
    assert {str(each.peer) for each in sink.received(transport=transport)} == {APP}


DECLARATIVE = """
file_format: "1.0"
tracer_provider:
  processors:
    - batch:
        exporter:
          otlp_spiffe_{transport}: &spiffe
            endpoint: {base}{traces}
            spiffe_endpoint_socket: ${{AGENT}}
            authorized_ids: [{collector}]
            compression: gzip
meter_provider:
  readers:
    - periodic:
        exporter:
          otlp_spiffe_{transport}: {{endpoint: "{base}{metrics}", spiffe_endpoint_socket: "${{AGENT}}",
                                     authorized_ids: "{collector}"}}
logger_provider:
  processors:
    - batch:
        exporter:
          otlp_spiffe_{transport}: {{endpoint: "{base}{logs}", spiffe_endpoint_socket: "${{AGENT}}",
                                     authorized_trust_domains: [prod.example]}}
"""

DECLARED = """
from opentelemetry import metrics, trace
from opentelemetry._logs import LogRecord, SeverityNumber, get_logger
from opentelemetry.sdk._configuration import _OTelSDKConfigurator
_OTelSDKConfigurator().configure()
trace.get_tracer("app").start_span("a span").end()
metrics.get_meter("app").create_counter("a.metric").add(1)
get_logger("app").emit(LogRecord(body="a log", severity_number=SeverityNumber.INFO))
"""


@pytest.mark.skipif(
    find_spec("opentelemetry.configuration") is None, reason="opentelemetry-configuration is not installed"
)
def test_a_configuration_file_is_enough(agent, sink, transport, tmp_path, monkeypatch):
    paths = {signal: "" if transport == "grpc" else f"/v1/{signal}" for signal in ("traces", "metrics", "logs")}
    base = sink.grpc_endpoint if transport == "grpc" else sink.http_endpoint
    file = tmp_path / "otel.yaml"
    file.write_text(DECLARATIVE.format(transport=transport, base=base, collector=COLLECTOR, **paths))
    monkeypatch.setenv("AGENT", agent.endpoint)
    monkeypatch.setenv("OTEL_CONFIG_FILE", str(file))
    done = subprocess.run(
        [sys.executable, "-c", DECLARED], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert "a span" in {span.name for span in sink.spans}
    assert "a.metric" in {metric.name for metric in sink.metrics}
    assert [record.body.string_value for record in sink.log_records].count("a log") == 1
    assert {str(each.peer) for each in sink.received(transport=transport)} == {APP}
