# SPDX-License-Identifier: Apache-2.0
"""What the demo's collector took from the app, counted once."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_spiffe.cli._app import COUNTER
from otel_spiffe.cli._story import SIGNALS, TRANSPORTS

if TYPE_CHECKING:
    from otel_spiffe.testing import OtlpSink, Received

__all__ = ["Tally"]


class Tally:
    """Counts what came from one SPIFFE ID, by signal and transport, and the certificates that brought it."""

    def __init__(self, sender: str) -> None:
        self.received = {(signal, way): 0 for signal in SIGNALS for way in TRANSPORTS}
        self.serials: set[int] = set()
        self._sender = sender
        self._last: Received | None = None

    def take(self, sink: OtlpSink) -> None:
        """Count what came since the last time."""
        requests = sink.received()
        # Not by its place: the sink forgets the oldest when it has many.
        new = list(itertools.takewhile(lambda request: request is not self._last, reversed(requests)))
        for request in new:
            if str(request.peer) == self._sender:
                self._count(request)
        self._last = requests[-1] if requests else None

    def _count(self, request: Received) -> None:
        key = request.signal, {"grpc": "gRPC", "http": "HTTP"}[request.transport]
        self.serials.add(request.serial)
        if request.signal == "metrics":  # a running total: the newest says all
            self.received[key] = max(self.received[key], _total(request))
        else:
            self.received[key] += _items(request)


def _items(request: Received) -> int:
    message = request.request
    if isinstance(message, ExportTraceServiceRequest):
        return sum(len(scope.spans) for resource in message.resource_spans for scope in resource.scope_spans)
    if isinstance(message, ExportLogsServiceRequest):
        return sum(len(scope.log_records) for resource in message.resource_logs for scope in resource.scope_logs)
    return 0


def _total(request: Received) -> int:
    message = request.request
    if isinstance(message, ExportTraceServiceRequest | ExportLogsServiceRequest):
        return 0
    metrics = [m for resource in message.resource_metrics for scope in resource.scope_metrics for m in scope.metrics]
    return sum(point.as_int for metric in metrics if metric.name == COUNTER for point in metric.sum.data_points)
