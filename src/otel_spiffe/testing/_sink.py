# SPDX-License-Identifier: Apache-2.0
"""An OTLP receiver for tests and demos: SPIFFE mTLS, gRPC and HTTP, remembers what came and from whom."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import grpc

from otel_spiffe.testing._sink_grpc import GrpcReceiver
from otel_spiffe.testing._sink_http import HttpReceiver
from otel_spiffe.testing._sink_record import (
    Counts,
    Received,
    Record,
    Signal,
    Transport,
    Verdict,
    log_records_of,
    metrics_of,
    spans_of,
)

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from otel_spiffe.identity import Authorizer, Source

__all__ = ["KEEP_REQUESTS", "MAX_BODY_BYTES", "OtlpSink"]

MAX_BODY_BYTES = 64 * 1024 * 1024
"""The largest request that is taken, after decompression."""

KEEP_REQUESTS = 10_000
"""How many of the newest requests are kept; all are counted."""

_LOOPBACK = "127.0.0.1"


class OtlpSink:
    """Accepts OTLP on two ports of the loopback interface and keeps it, decoded, with the sender's SPIFFE ID."""

    def __init__(self, source: Source, *, authorize: Authorizer, keep: int, max_body: int) -> None:
        self._source = source
        self._authorize = authorize
        self._max_body = max_body
        self._record = Record(keep=keep)
        self._ports: tuple[int, int] = 0, 0
        self._receivers: tuple[GrpcReceiver, HttpReceiver] | None = None

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        authorize: Authorizer,
        grpc_port: int = 0,
        http_port: int = 0,
        keep: int = KEEP_REQUESTS,
        max_body: int = MAX_BODY_BYTES,
    ) -> Self:
        """Listen on 127.0.0.1.

        Args:
            source: of the sink's X509-SVID, asked at each handshake.
            authorize: who may send.
            grpc_port: 0 takes a free one.
            http_port: 0 takes a free one.
            keep: how many of the newest requests are kept.
            max_body: bytes of the largest request, after decompression.

        Raises:
            SourceUnavailable: the source has no identity yet.
            OSError: a port is taken.
        """
        sink = cls(source, authorize=authorize, keep=keep, max_body=max_body)
        sink._ports = grpc_port, http_port
        sink.come_back()
        return sink

    @property
    def grpc_endpoint(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT` with protocol `grpc`."""
        return f"https://{self.grpc_target}"

    @property
    def grpc_target(self) -> str:
        """The gRPC port as ``host:port``."""
        return f"{_LOOPBACK}:{self._ports[0]}"

    @property
    def http_endpoint(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT` with protocol `http/protobuf`; the exporter appends ``/v1/traces``."""
        return f"https://{_LOOPBACK}:{self._ports[1]}"

    @property
    def counts(self) -> Counts:
        """How much was accepted since `open` or `clear`."""
        return self._record.counts

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why peers were not let in: HTTP handshakes that failed, and who the authorizer refused over gRPC."""
        return self._record.refusals

    def received(
        self, *, signal: Signal | None = None, transport: Transport | None = None, peer: object = None
    ) -> tuple[Received, ...]:
        """Return the kept requests, oldest first.

        Args:
            signal: those of this signal alone.
            transport: those that came this way alone.
            peer: those of this SPIFFE ID alone, as `SpiffeId` or string.
        """
        return tuple(
            each
            for each in self._record.received
            if (signal is None or each.signal == signal)
            and (transport is None or each.transport == transport)
            and (peer is None or str(each.peer) == str(peer))
        )

    @property
    def spans(self) -> list[Span]:
        """The spans of the kept requests."""
        return [span for each in self._record.received for span in spans_of(each.request)]

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of the kept requests."""
        return [metric for each in self._record.received for metric in metrics_of(each.request)]

    @property
    def log_records(self) -> list[LogRecord]:
        """The log records of the kept requests."""
        return [record for each in self._record.received for record in log_records_of(each.request)]

    def wait_for(
        self,
        *,
        timeout: float,
        requests: int = 0,
        spans: int = 0,
        metrics: int = 0,
        log_records: int = 0,
        refusals: int = 0,
    ) -> tuple[Received, ...]:
        """Return what is kept, once at least so much has arrived.

        Args:
            timeout: seconds.
            requests: export requests.
            spans: in them.
            metrics: in them.
            log_records: in them.
            refusals: peers that were not let in.

        Raises:
            TimeoutError: it did not arrive in time; the message says what did.
        """
        wanted = Counts(requests=requests, spans=spans, metrics=metrics, log_records=log_records)
        if not self._record.wait_for(wanted, refusals=refusals, timeout=timeout):
            raise TimeoutError(
                f"OTLP sink: waited {timeout} s for {wanted} and {refusals} refusals; "
                f"there are {self.counts} and these refusals: {list(self.refusals)}"
            )
        return self._record.received

    def clear(self) -> None:
        """Forget what arrived and who was refused."""
        self._record.clear()

    def answer(
        self,
        code: grpc.StatusCode,
        *,
        times: int | None = None,
        details: str = "ordered by the test",
        retry_after: int | None = None,
    ) -> None:
        """Answer the next calls with `code` and keep nothing of them; over HTTP with the status that stands for it.

        Args:
            code: `OK` ends an earlier order.
            times: how many calls; None until the next order.
            details: the status's sentence.
            retry_after: seconds, sent over HTTP.
        """
        times = 0 if code is grpc.StatusCode.OK else times
        verdict = Verdict(code=code, details=details, retry_after=retry_after)
        self._record.order(verdict, times=math.inf if times is None else times)

    def stall(self) -> None:
        """Take calls and answer none of them until `resume`."""
        self._record.stall()

    def resume(self) -> None:
        """Answer the calls that `stall` held, and later ones at once."""
        self._record.resume()

    def go_away(self) -> None:
        """End every connection and refuse new ones, until `come_back`."""
        self._record.resume()  # a thread that is held cannot be joined
        receivers, self._receivers = self._receivers, None
        for receiver in receivers or ():
            receiver.close()

    def come_back(self) -> None:
        """Listen again, on the same ports."""
        if self._receivers is not None:
            return
        first = GrpcReceiver(
            self._source,
            authorize=self._authorize,
            address=(_LOOPBACK, self._ports[0]),
            record=self._record,
            max_body=self._max_body,
        )
        try:
            second = HttpReceiver(
                self._source,
                authorize=self._authorize,
                address=(_LOOPBACK, self._ports[1]),
                record=self._record,
                max_body=self._max_body,
            )
        except BaseException:
            first.close()
            raise
        self._receivers = first, second
        self._ports = first.port, second.port

    def close(self) -> None:
        """End the connections, join the threads; what arrived can still be read; may be called again."""
        self.go_away()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
