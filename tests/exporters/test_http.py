# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as StockSpanExporter

from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.exporters import http as exporters

APP, COLLECTOR = "spiffe://prod.example/app", "spiffe://prod.example/collector"


@pytest.mark.parametrize(
    "keyword",
    [
        {"certificate_file": "/ca.pem"},
        {"client_key_file": "/key.pem"},
        {"client_certificate_file": "/cert.pem"},
        {"session": requests.Session()},
        {"_transport": object()},
    ],
)
def test_keywords_that_contradict_spiffe_are_refused(source, keyword):
    (name,) = keyword
    with pytest.raises(InvalidConfiguration, match=f"{name}=: a SPIFFE exporter does not take it; leave it out"):
        exporters.OTLPSpanExporter(source=source, authorized_ids=COLLECTOR, **keyword)


@pytest.mark.parametrize("compression", ["none", "deflate", "gzip", Compression.Gzip, None])
def test_the_stock_compressions_are_taken(source, sink, send, compression):
    url = f"{sink.http_endpoint}/v1/traces"
    send["traces"](exporters.OTLPSpanExporter(url, source=source, authorized_ids=COLLECTOR, compression=compression))
    assert sink.counts.spans == 1


def test_a_batch_beyond_the_size_limit_is_dropped_by_the_stock_exporter(source, sink, send, caplog):
    url = f"{sink.http_endpoint}/v1/traces"
    send["traces"](exporters.OTLPSpanExporter(url, source=source, authorized_ids=COLLECTOR, max_request_size=1))
    assert "exceeds max_request_size 1 bytes" in caplog.text
    assert sink.counts.spans == 0


@pytest.mark.parametrize(
    "variable",
    [
        "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
        "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
    ],
)
def test_a_stock_exporter_gets_its_session_from_the_credential_provider(authority, sink, send, monkeypatch, variable):
    with WorkloadApiServer.open(identity=authority.identity(APP)) as agent:
        monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", agent.endpoint)
        monkeypatch.setenv("OTEL_SPIFFE_AUTHORIZED_IDS", COLLECTOR)
        monkeypatch.setenv(variable, "spiffe_http_credentials")
        send["traces"](StockSpanExporter(f"{sink.http_endpoint}/v1/traces"))
    (received,) = sink.received()
    assert str(received.peer) == APP


def test_the_credential_provider_refuses_plaintext(authority, send, monkeypatch, caplog):
    with WorkloadApiServer.open(identity=authority.identity(APP)) as agent:
        monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", agent.endpoint)
        monkeypatch.setenv("OTEL_SPIFFE_AUTHORIZED_IDS", COLLECTOR)
        monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "spiffe_http_credentials")
        send["traces"](StockSpanExporter("http://127.0.0.1:4318/v1/traces"))
    assert "plaintext is refused" in caplog.text
