# SPDX-License-Identifier: Apache-2.0
"""`export()` of 512 spans with 10 attributes: ours beside the stock exporter with static mTLS files, same server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as StockGrpc
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as StockHttp
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from benchmarks._table import Row, compare
from benchmarks._world import COLLECTOR, collector, spans, world
from otel_spiffe import StaticSource, authorize_id
from otel_spiffe.exporters.grpc import OTLPSpanExporter as SpiffeGrpc
from otel_spiffe.exporters.http import OTLPSpanExporter as SpiffeHttp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from benchmarks._world import Ports, World

TITLE = "export() of a batch, as a ratio to the stock exporter with static mTLS files (less is better)"


def run(*, quick: bool) -> list[Row]:
    calls = 40 if quick else 400
    rows = []
    with world() as where, collector(where) as ports, StaticSource(where.identity(where.app)) as source:
        for count, targets in ((512, {"gRPC": 1.05, "HTTP": 1.00}), (16, {"gRPC": None, "HTTP": None})):
            batch = spans(count)
            for transport, pair in exporters(where, ports, source).items():
                result = compare(*(once(exporter, batch) for exporter in pair), calls=calls)
                for exporter in pair:
                    exporter.shutdown()
                target = targets[transport]
                rows.append(
                    Row(
                        what=f"{transport}, {count} spans x 10 attributes",
                        figure=result.figure(),
                        target=f"<= {target:.2f}" if target else "",
                        reached=result.ratio <= target if target else None,
                    )
                )
    return rows


def exporters(where: World, ports: Ports, source: StaticSource) -> dict[str, tuple[SpanExporter, SpanExporter]]:
    folder, authorize = where.folder, authorize_id(COLLECTOR)
    files = [(folder / name).read_bytes() for name in ("ca.pem", "app.key", "app.pem")]
    grpc_endpoint, http_endpoint = f"https://localhost:{ports.grpc}", f"https://localhost:{ports.http}/v1/traces"
    return {
        "gRPC": (
            SpiffeGrpc(endpoint=grpc_endpoint, source=source, authorize=authorize),
            StockGrpc(endpoint=grpc_endpoint, credentials=grpc.ssl_channel_credentials(*files)),
        ),
        "HTTP": (
            SpiffeHttp(endpoint=http_endpoint, source=source, authorize=authorize),
            StockHttp(
                endpoint=http_endpoint,
                certificate_file=str(folder / "ca.pem"),
                client_key_file=str(folder / "app.key"),
                client_certificate_file=str(folder / "app.pem"),
            ),
        ),
    }


def once(exporter: SpanExporter, batch: Sequence[ReadableSpan]) -> Callable[[], None]:
    def export() -> None:
        if exporter.export(batch) is not SpanExportResult.SUCCESS:
            raise RuntimeError(f"{exporter!r} failed")

    return export
