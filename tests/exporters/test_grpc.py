# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.exporter import InvalidCompressionValueException
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as StockSpanExporter

from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.exporters import grpc as exporters

COLLECTOR = "spiffe://prod.example/collector"


@pytest.mark.parametrize("keyword", [{"insecure": True}, {"credentials": grpc.ssl_channel_credentials()}])
def test_keywords_that_contradict_spiffe_are_refused(source, keyword):
    (name,) = keyword
    with pytest.raises(InvalidConfiguration, match=f"{name}=: a SPIFFE exporter does not take it; leave it out"):
        exporters.OTLPSpanExporter(source=source, authorized_ids=COLLECTOR, **keyword)


def test_keywords_that_say_what_is_so_anyway_are_taken(source, sink, send):
    exporter = exporters.OTLPSpanExporter(
        sink.grpc_endpoint, source=source, authorized_ids=COLLECTOR, insecure=False, credentials=None
    )
    send["traces"](exporter)
    assert sink.counts.spans == 1


def test_an_endpoint_without_a_scheme_is_tls_too(source, sink, send):
    send["traces"](exporters.OTLPSpanExporter(sink.grpc_target, source=source, authorized_ids=COLLECTOR))
    assert sink.counts.spans == 1


def test_options_of_the_channel_and_codes_to_retry_may_be_plain_data(source, sink, send):
    exporter = exporters.OTLPSpanExporter(
        sink.grpc_endpoint,
        source=source,
        authorized_ids=COLLECTOR,
        channel_options=[["grpc.default_authority", "somebody.example"], ["grpc.max_send_message_length", 1 << 20]],
        retryable_error_codes=["unavailable", grpc.StatusCode.ABORTED],
        compression=grpc.Compression.Deflate,
    )
    sink.answer(grpc.StatusCode.ABORTED, times=1)
    send["traces"](exporter)
    assert sink.counts.spans == 1


def test_an_unknown_status_code_is_refused(source):
    with pytest.raises(InvalidConfiguration, match="retryable_error_codes=: 'BUSY' is no gRPC status code"):
        exporters.OTLPSpanExporter(source=source, authorized_ids=COLLECTOR, retryable_error_codes=["BUSY"])


def test_fork_support_that_is_switched_off_is_warned_of(source, monkeypatch, caplog):
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
    exporters._warn_of_fork.cache_clear()
    exporters.OTLPSpanExporter(source=source, authorized_ids=COLLECTOR).shutdown()
    exporters._warn_of_fork.cache_clear()
    assert "GRPC_ENABLE_FORK_SUPPORT is off: after a fork no gRPC call ends" in caplog.text


def test_a_variable_that_says_no_compression_is_taken(source, monkeypatch):
    """The stock exporter refuses the word that the OTLP Exporter Configuration has for it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    exporters.OTLPSpanExporter(source=source, authorized_ids=COLLECTOR).shutdown()


def test_canary_the_stock_exporter_does_not_take_it(monkeypatch):
    """When it does, `_with_compression` can go."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    with pytest.raises(InvalidCompressionValueException):
        StockSpanExporter(endpoint="localhost:1", insecure=True)
