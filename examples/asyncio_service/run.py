# SPDX-License-Identifier: Apache-2.0
"""An asyncio server and a client that know each other by SPIFFE ID, and send spans of both to a collector."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_spiffe import authorize_id, client_context, server_context
from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer
from otel_spiffe.exporters.grpc import OTLPSpanExporter
from otel_spiffe.sources import StaticSource, WorkloadApiSource
from otel_spiffe.testing import OtlpSink

if TYPE_CHECKING:
    from otel_spiffe.identity import Source

SHOP, STOCK, COLLECTOR = (f"spiffe://prod.example/{name}" for name in ("shop", "stock", "collector"))


async def serve_and_ask(shop: Source, stock: Source, shop_spans: TracerProvider, stock_spans: TracerProvider) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = writer.get_extra_info("ssl_object").peer_id
        with stock_spans.get_tracer("stock").start_as_current_span("answer", attributes={"caller": str(caller)}):
            question = await reader.readline()
            writer.write(b"12 pieces of " + question)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    tls = server_context(stock, authorize=authorize_id(SHOP))
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        tls = client_context(shop, authorize=authorize_id(STOCK))
        with shop_spans.get_tracer("shop").start_as_current_span("ask"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="stock")
            print("talking to", writer.get_extra_info("ssl_object").peer_id)
            writer.write(b"apples\n")
            print("answer:", (await reader.readline()).decode().strip())
            writer.close()
            await writer.wait_closed()


def spans_of(name: str, source: Source, endpoint: str) -> TracerProvider:
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    exporter = OTLPSpanExporter(endpoint, source=source, authorize=authorize_id(COLLECTOR))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def main() -> None:
    authority = CertificateAuthority.in_memory("prod.example")
    with (
        WorkloadApiServer.open(identity=authority.identity(SHOP)) as shop_agent,
        WorkloadApiServer.open(identity=authority.identity(STOCK)) as stock_agent,
        WorkloadApiSource.open(shop_agent.endpoint) as shop,
        WorkloadApiSource.open(stock_agent.endpoint) as stock,
        StaticSource(authority.identity(COLLECTOR)) as collector,
        OtlpSink.open(collector, authorize=authorize_id(SHOP)) as shop_sink,
        OtlpSink.open(collector, authorize=authorize_id(STOCK)) as stock_sink,
    ):
        shop.wait(10)
        stock.wait(10)
        shop_spans = spans_of("shop", shop, shop_sink.grpc_endpoint)
        stock_spans = spans_of("stock", stock, stock_sink.grpc_endpoint)
        asyncio.run(serve_and_ask(shop, stock, shop_spans, stock_spans))
        shop_spans.shutdown()
        stock_spans.shutdown()
        for sink in (shop_sink, stock_sink):
            (received,) = sink.wait_for(spans=1, timeout=10)
            print(f"{received.peer} sent {[span.name for span in sink.spans]}")


if __name__ == "__main__":
    main()
