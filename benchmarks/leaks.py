# SPDX-License-Identifier: Apache-2.0
"""What a thousand exporters on one source hold open, and what is left when they are closed."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING

import psutil
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from benchmarks._table import Row
from benchmarks._world import COLLECTOR, collector, spans, world
from otel_spiffe import WorkloadApiSource, authorize_id
from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.exporters.grpc import OTLPSpanExporter as SpiffeGrpc
from otel_spiffe.exporters.http import OTLPSpanExporter as SpiffeHttp

if TYPE_CHECKING:
    from benchmarks._world import Ports

TITLE = "A thousand exporters on one source, and what is left after close()"
_SETTLE_SECONDS = 3.0


def run(*, quick: bool) -> list[Row]:
    count = 100 if quick else 1000
    with (
        world() as where,
        collector(where) as ports,
        WorkloadApiServer.open(identity=where.identity(where.app)) as agent,
    ):
        round_of(ports, agent, 2)  # what is loaded and started once for good stands before the first count
        before, threads_before = held()
        streams, threads_open, loops = round_of(ports, agent, count)
        after, threads_after = held()
    return [
        Row(what=f"streams to the agent, {count} exporters", figure=f"{streams}", target="1", reached=streams == 1),
        Row(what="relay loop threads", figure=f"{loops}", target="1", reached=loops == 1),
        Row(what="threads of the process meanwhile", figure=f"{threads_open}"),
        Row(
            what="open files before and after",
            figure=f"{before} and {after}",
            target="the same",
            reached=after <= before,
        ),
        Row(
            what="threads before and after",
            figure=f"{threads_before} and {threads_after}",
            target="the same",
            reached=threads_after <= threads_before,
        ),
    ]


def round_of(ports: Ports, agent: WorkloadApiServer, count: int) -> tuple[int, int, int]:
    """Open `count` exporters of both transports, send one batch with each, count, close."""
    batch = spans(1)
    with WorkloadApiSource.open(agent.endpoint) as source:
        source.wait(20)
        authorize = authorize_id(COLLECTOR)
        grpc_endpoint, http_endpoint = f"https://localhost:{ports.grpc}", f"https://localhost:{ports.http}/v1/traces"
        exporters: list[SpanExporter] = [
            SpiffeGrpc(endpoint=grpc_endpoint, source=source, authorize=authorize)
            if number % 2
            else SpiffeHttp(endpoint=http_endpoint, source=source, authorize=authorize)
            for number in range(count)
        ]
        for exporter in exporters:
            if exporter.export(batch) is not SpanExportResult.SUCCESS:
                raise RuntimeError(f"{exporter!r} failed")
        threads = threading.enumerate()
        streams, loops = agent.streams, sum(thread.name == "otel-spiffe relay" for thread in threads)
        for exporter in exporters:
            exporter.shutdown()
    agent.wait_for_streams(0, timeout=20)
    return streams, len(threads), loops


def held() -> tuple[int, int]:
    """Return how many files and threads this process holds, once what was closed is gone."""
    end = time.monotonic() + _SETTLE_SECONDS
    best = (psutil.Process().num_fds(), threading.active_count())
    while time.monotonic() < end:  # gRPC closes sockets a moment after its channels
        gc.collect()
        time.sleep(0.1)
        best = min(best, (psutil.Process().num_fds(), threading.active_count()))
    return best
