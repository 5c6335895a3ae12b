# SPDX-License-Identifier: Apache-2.0
"""What arrived at an OTLP sink, decoded, and what it answers: no sockets here."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
    from opentelemetry.proto.trace.v1.trace_pb2 import Span
    from spiffe import SpiffeId

__all__ = ["Counts", "ExportRequest", "Received", "Record", "Signal", "Transport", "Verdict"]

Signal = Literal["traces", "metrics", "logs"]
"""What a request carries, in the word of the OTLP paths."""

Transport = Literal["grpc", "http"]
"""How it came."""

ExportRequest = ExportTraceServiceRequest | ExportMetricsServiceRequest | ExportLogsServiceRequest

LONGEST_STALL_SECONDS = 600.0
"""How long a call is held; without an end, a program that forgot to close its sink would never end."""

_REQUESTS: dict[Signal, Callable[[bytes], ExportRequest]] = {
    "traces": ExportTraceServiceRequest.FromString,
    "metrics": ExportMetricsServiceRequest.FromString,
    "logs": ExportLogsServiceRequest.FromString,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One export request that was accepted.

    Attributes:
        signal: `traces`, `metrics` or `logs`.
        transport: `grpc` or `http`.
        peer: the verified SPIFFE ID of who sent it.
        serial: the serial number of the X509-SVID that it presented.
        request: the message, decoded.
        headers: gRPC metadata or HTTP headers, names in lowercase.
    """

    signal: Signal
    transport: Transport
    peer: SpiffeId
    serial: int
    request: ExportRequest
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much was accepted since the sink was opened or cleared, kept or not.

    Attributes:
        requests: export requests.
        spans: in them.
        metrics: in them; one with many data points counts once.
        log_records: in them.
    """

    requests: int = 0
    spans: int = 0
    metrics: int = 0
    log_records: int = 0

    def reaches(self, other: Counts) -> bool:
        """Whether no figure is below the other's."""
        return (
            self.requests >= other.requests
            and self.spans >= other.spans
            and self.metrics >= other.metrics
            and self.log_records >= other.log_records
        )

    def plus(self, other: Counts) -> Counts:
        """Return the sum."""
        return Counts(
            requests=self.requests + other.requests,
            spans=self.spans + other.spans,
            metrics=self.metrics + other.metrics,
            log_records=self.log_records + other.log_records,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an export call is answered: `OK`, or an error.

    Attributes:
        code: the gRPC status; over HTTP the status that OTLP maps it to.
        details: a sentence.
        retry_after: seconds for HTTP's Retry-After, or None.
    """

    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    retry_after: int | None = None


@dataclass(slots=True)
class _Plan:
    verdict: Verdict = field(default_factory=Verdict)
    times: float = 0


class Record:
    """Keeps the newest requests, counts all, and wakes who waits; any thread may use it."""

    def __init__(self, *, keep: int) -> None:
        self._changed = threading.Condition()
        self._kept: deque[Received] = deque(maxlen=keep)
        self._counts = Counts()
        self._refusals: deque[str] = deque(maxlen=keep)
        self._plan = _Plan()
        self._flowing = threading.Event()
        self._flowing.set()

    def take(
        self,
        signal: Signal,
        transport: Transport,
        body: bytes,
        *,
        peer: SpiffeId,
        serial: int,
        headers: Mapping[str, str],
    ) -> Verdict:
        """Wait while the sink is stalled, then decode and keep `body`, or answer what was ordered."""
        self._flowing.wait(LONGEST_STALL_SECONDS)
        with self._changed:
            if self._plan.times > 0:
                self._plan.times -= 1
                return self._plan.verdict
        try:
            request = _REQUESTS[signal](body)
        except DecodeError as error:
            return Verdict(code=grpc.StatusCode.INVALID_ARGUMENT, details=f"no OTLP {signal} request: {error}")
        received = Received(
            signal=signal,
            transport=transport,
            peer=peer,
            serial=serial,
            request=request,
            headers=MappingProxyType(dict(headers)),
        )
        with self._changed:
            self._kept.append(received)
            self._counts = self._counts.plus(_count(request))
            self._changed.notify_all()
        return Verdict()

    def refused(self, reason: str) -> None:
        """Note that a peer was not let in."""
        with self._changed:
            self._refusals.append(reason)
            self._changed.notify_all()

    def order(self, verdict: Verdict, *, times: float) -> None:
        """Answer the next `times` calls with `verdict`."""
        with self._changed:
            self._plan = _Plan(verdict, times)

    def stall(self) -> None:
        """Hold each call until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let held calls go on."""
        self._flowing.set()

    def clear(self) -> None:
        """Forget what arrived and who was refused."""
        with self._changed:
            self._kept.clear()
            self._refusals.clear()
            self._counts = Counts()

    def wait_for(self, wanted: Counts, *, refusals: int, timeout: float) -> bool:
        """Wait until so much is there; return whether that came true."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (self._counts.reaches(wanted) and len(self._refusals) >= refusals):
                if not self._changed.wait(deadline - time.monotonic()):
                    return False
        return True

    @property
    def counts(self) -> Counts:
        """How much was accepted."""
        return self._counts

    @property
    def received(self) -> tuple[Received, ...]:
        """The newest requests, oldest first."""
        with self._changed:
            return tuple(self._kept)

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why peers were not let in, oldest first."""
        with self._changed:
            return tuple(self._refusals)


def spans_of(request: ExportRequest) -> list[Span]:
    """Return the spans in a request; none for another signal."""
    if not isinstance(request, ExportTraceServiceRequest):
        return []
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


def metrics_of(request: ExportRequest) -> list[Metric]:
    """Return the metrics in a request; none for another signal."""
    if not isinstance(request, ExportMetricsServiceRequest):
        return []
    return [
        metric for resource in request.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    ]


def log_records_of(request: ExportRequest) -> list[LogRecord]:
    """Return the log records in a request; none for another signal."""
    if not isinstance(request, ExportLogsServiceRequest):
        return []
    return [
        record for resource in request.resource_logs for scope in resource.scope_logs for record in scope.log_records
    ]


def _count(request: ExportRequest) -> Counts:
    return Counts(
        requests=1,
        spans=len(spans_of(request)),
        metrics=len(metrics_of(request)),
        log_records=len(log_records_of(request)),
    )
