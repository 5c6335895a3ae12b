# SPDX-License-Identifier: Apache-2.0
"""The demo's application: makes spans, measurements and log records, and sends them over one transport."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_spiffe.exporters import grpc as over_grpc
from otel_spiffe.exporters import http as over_http

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

    from otel_spiffe.identity import Authorizer, Source
    from otel_spiffe.testing import OtlpSink

__all__ = ["COUNTER", "App", "exporters"]

COUNTER = "checkouts"
_TICK_SECONDS = 0.01
_FLUSH_MILLISECONDS = 300
_QUEUE = 65_536  # a busy machine delays the demo and does not fail it


@dataclass(frozen=True, slots=True)
class _Exporters:
    traces: SpanExporter
    metrics: MetricExporter
    logs: LogRecordExporter


def exporters(transport: str, sink: OtlpSink, source: Source, authorize: Authorizer) -> _Exporters:
    """Return the three exporters of `transport`, ``gRPC`` or ``HTTP``."""
    if transport == "gRPC":
        where = sink.grpc_endpoint
        return _Exporters(
            over_grpc.OTLPSpanExporter(where, source=source, authorize=authorize),
            over_grpc.OTLPMetricExporter(where, source=source, authorize=authorize),
            over_grpc.OTLPLogExporter(where, source=source, authorize=authorize),
        )
    where = sink.http_endpoint
    return _Exporters(
        over_http.OTLPSpanExporter(f"{where}/v1/traces", source=source, authorize=authorize),
        over_http.OTLPMetricExporter(f"{where}/v1/metrics", source=source, authorize=authorize),
        over_http.OTLPLogExporter(f"{where}/v1/logs", source=source, authorize=authorize),
    )


class App:
    """Works in a thread of its own until `close`, which sends what is still queued."""

    def __init__(self, transport: str, to: _Exporters) -> None:
        resource = Resource.create({"service.name": "checkout", "transport": transport})
        reader = PeriodicExportingMetricReader(to.metrics, export_interval_millis=_FLUSH_MILLISECONDS)
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._traces.add_span_processor(
            BatchSpanProcessor(to.traces, max_queue_size=_QUEUE, schedule_delay_millis=_FLUSH_MILLISECONDS)
        )
        self._metrics = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self._logs = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._logs.add_log_record_processor(
            BatchLogRecordProcessor(to.logs, max_queue_size=_QUEUE, schedule_delay_millis=_FLUSH_MILLISECONDS)
        )
        self._sent = {"traces": 0, "metrics": 0, "logs": 0}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"demo app {transport}", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def sent(self, signal: str) -> int:
        """How many spans, measurements or log records it has made."""
        return self._sent[signal]

    def _work(self) -> None:
        tracer, logger = self._traces.get_tracer("demo"), self._logs.get_logger("demo")
        counter = self._metrics.get_meter("demo").create_counter(COUNTER)
        while not self._over.wait(_TICK_SECONDS):
            with tracer.start_as_current_span("checkout"):
                tracer.start_span("charge card", attributes={"amount": 42}).end()
                counter.add(1)
                logger.emit(body="card charged", severity_text="INFO")
            for signal, made in (("traces", 2), ("metrics", 1), ("logs", 1)):
                self._sent[signal] += made

    def close(self) -> None:
        """Stop working, and send what is still queued; may be called again."""
        if self._over.is_set():
            return
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._traces.shutdown()
        self._metrics.shutdown()
        self._logs.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
