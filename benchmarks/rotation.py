# SPDX-License-Identifier: Apache-2.0
"""A hundred rotations in a minute while two exporters send without pause: what fails, what is lost."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from benchmarks._table import Row
from benchmarks._world import APP, COLLECTOR, spans
from otel_spiffe import CertificateAuthority, WorkloadApiSource, authorize_id
from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.exporters.grpc import OTLPSpanExporter as SpiffeGrpc
from otel_spiffe.exporters.http import OTLPSpanExporter as SpiffeHttp
from otel_spiffe.testing import OtlpSink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

TITLE = "Rotation under load, one exporter per transport sending without pause"
_BATCH = 64
_EVERY = timedelta(seconds=0.6)


@dataclass(slots=True)
class Sender:
    """Exports one batch after the other until told to stop."""

    exporter: SpanExporter
    batch: Sequence[ReadableSpan]
    exports: int = 0
    failed: int = 0

    def run(self, over: threading.Event) -> None:
        """Export until `over`, then shut down."""
        while not over.is_set():
            self.exports += 1
            self.failed += self.exporter.export(self.batch) is not SpanExportResult.SUCCESS
        self.exporter.shutdown()


def run(*, quick: bool) -> list[Row]:
    seconds = 10.0 if quick else 60.0
    authority = CertificateAuthority.in_memory("bench.example")
    batch = spans(_BATCH)
    with (
        WorkloadApiServer.open(issue=lambda: authority.identity(APP), every=_EVERY) as app_agent,
        WorkloadApiServer.open(issue=lambda: authority.identity(COLLECTOR), every=_EVERY) as collector_agent,
        WorkloadApiSource.open(app_agent.endpoint) as app,
        WorkloadApiSource.open(collector_agent.endpoint) as collector,
    ):
        app.wait(20)
        collector.wait(20)
        with OtlpSink.open(collector, authorize=authorize_id(APP), keep=1_000_000) as sink:
            authorize = authorize_id(COLLECTOR)
            senders = {
                "grpc": Sender(SpiffeGrpc(sink.grpc_endpoint, source=app, authorize=authorize), batch),
                "http": Sender(SpiffeHttp(f"{sink.http_endpoint}/v1/traces", source=app, authorize=authorize), batch),
            }
            send(list(senders.values()), seconds)
            return rows(senders, sink, app.identity().generation)


def send(senders: list[Sender], seconds: float) -> None:
    over = threading.Event()
    threads = [threading.Thread(target=sender.run, args=(over,)) for sender in senders]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join()


def rows(senders: dict[str, Sender], sink: OtlpSink, generation: int) -> list[Row]:
    found = [Row(what="generations of the app's identity", figure=f"{generation}")]
    for transport, sender in senders.items():
        requests = [request for request in sink.received() if request.transport == transport]
        serials = len({request.serial for request in requests})
        lost = _BATCH * (sender.exports - len(requests))
        found += [
            Row(
                what=f"{transport}: failed exports, lost spans",
                figure=f"{sender.failed} of {sender.exports:,}, {lost} of {_BATCH * sender.exports:,}",
                target="0, 0",
                reached=(sender.failed, lost) == (0, 0),
            ),
            Row(what=f"{transport}: different certificates used", figure=f"{serials}"),
        ]
    return found
