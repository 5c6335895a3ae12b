# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.exporters import _parties
from otel_spiffe.identity import authorize_any
from otel_spiffe.sources import StaticSource
from otel_spiffe.testing import OtlpSink

if TYPE_CHECKING:
    from collections.abc import Iterator

APP, COLLECTOR = "spiffe://prod.example/app", "spiffe://prod.example/collector"


@pytest.fixture(autouse=True)
def _clean(monkeypatch) -> Iterator[None]:
    """No variable of the machine or of another test is there, and no shared source is left over."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "SPIFFE_")) or name.upper() in {"HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}:
            monkeypatch.delenv(name)
    _parties._say_unused.cache_clear()
    _parties._say_unknown.cache_clear()
    for logger in list(logging.root.manager.loggerDict.values()):
        for each in getattr(logger, "filters", ()):
            each.__dict__.pop("last_log", None)  # the SDK's DuplicateFilter remembers the test before
    yield
    assert len(_parties._shared_sources) == 0


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return CertificateAuthority.in_memory("prod.example")


@pytest.fixture(scope="session")
def collector(authority) -> Iterator[OtlpSink]:
    with (
        StaticSource(authority.identity(COLLECTOR)) as source,
        OtlpSink.open(source, authorize=authorize_any()) as sink,
    ):
        yield sink


@pytest.fixture
def sink(collector) -> OtlpSink:
    collector.clear()
    return collector


@pytest.fixture
def source(authority) -> Iterator[StaticSource]:
    with StaticSource(authority.identity(APP)) as source:
        yield source


@pytest.fixture(params=["grpc", "http"])
def transport(request) -> str:
    return request.param


@pytest.fixture
def exporters(transport):
    """The module of one transport."""
    return importlib.import_module(f"otel_spiffe.exporters.{transport}")


@pytest.fixture
def endpoint(transport, sink):
    """What to give as `endpoint` for a signal."""
    return lambda signal: sink.grpc_endpoint if transport == "grpc" else f"{sink.http_endpoint}/v1/{signal}"


CLASSES = {"traces": "OTLPSpanExporter", "metrics": "OTLPMetricExporter", "logs": "OTLPLogExporter"}


@pytest.fixture
def send():
    """Sends one item of a signal as an application does, and ends."""
    return {"traces": _send_span, "metrics": _send_metric, "logs": _send_log}


def _send_span(exporter) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("test").start_span("a span").end()
    provider.shutdown()


def _send_metric(exporter) -> None:
    provider = MeterProvider([PeriodicExportingMetricReader(exporter)], shutdown_on_exit=False)
    provider.get_meter("test").create_counter("a.metric").add(1)
    provider.shutdown()


def _send_log(exporter) -> None:
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    provider.get_logger("test").emit(LogRecord(body="a log", severity_number=SeverityNumber.INFO))
    provider.shutdown()
