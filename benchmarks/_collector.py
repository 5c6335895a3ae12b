# SPDX-License-Identifier: Apache-2.0
"""A collector's stub: takes OTLP over gRPC and HTTP with mTLS, decodes nothing, answers at once; counts requests."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"


def grpc_server(folder: Path) -> tuple[grpc.Server, int]:
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                f"opentelemetry.proto.collector.{signal}.v1.{signal.capitalize()}Service", {"Export": handler}
            )
            for signal in ("trace", "metrics", "logs")
        ]
    )
    pair = ((folder / "collector.key").read_bytes(), (folder / "collector.pem").read_bytes())
    roots = (folder / "ca.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], root_certificates=roots, require_client_auth=True)
    port = server.add_secure_port("localhost:0", credentials)
    server.start()
    return server, port


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            await reader.readexactly(length)
            writer.write(_ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        writer.close()


async def main(folder: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "collector.pem", folder / "collector.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server, port = grpc_server(folder)
    listener = await asyncio.start_server(http, "127.0.0.1", 0, ssl=context, limit=1 << 22)
    print(json.dumps({"grpc": port, "http": listener.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.stop(None)
    listener.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
