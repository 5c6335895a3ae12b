# SPDX-License-Identifier: Apache-2.0
"""Clients that check a server's SPIFFE ID and present nothing, with servers that ask for nothing."""

from __future__ import annotations

import asyncio
import http.server
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import requests
from tls_ends import APP, COLLECTOR, WAIT

from otel_spiffe.credentials import aio_secure_channel, client_context, http_session, secure_channel
from otel_spiffe.credentials._keys import chain_pem, key_pem
from otel_spiffe.identity import authorize_id
from otel_spiffe.sources import StaticSource

OTHER = "spiffe://test.example/other"


@pytest.fixture
def bundles(spiffe_ca):
    """A source that has no X509-SVID at all."""
    with StaticSource(spiffe_ca.identity()) as source:
        yield source


@pytest.fixture
def grpc_port(spiffe_svid):
    svid = spiffe_svid("/collector")
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_registered_method_handlers(
        "test", {"Echo": grpc.unary_unary_rpc_method_handler(lambda request, _: request)}
    )
    credentials = grpc.ssl_server_credentials([(key_pem(svid), chain_pem(svid))])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield port
    server.stop(None).wait()


def sync(port, source, peer):
    channel = secure_channel(f"127.0.0.1:{port}", source, authorize=authorize_id(peer), present_svid=False)
    with channel:
        return channel.unary_unary("/test/Echo")(b"hello", timeout=WAIT)


def aio(port, source, peer):
    async def call():
        channel = aio_secure_channel(f"127.0.0.1:{port}", source, authorize=authorize_id(peer), present_svid=False)
        async with channel:
            return await channel.unary_unary("/test/Echo")(b"hello", timeout=WAIT)

    return asyncio.run(call())


@pytest.mark.parametrize("call", [sync, aio])
def test_over_grpc(bundles, grpc_port, call):
    assert call(grpc_port, bundles, COLLECTOR) == b"hello"
    with pytest.raises(grpc.RpcError) as caught:
        call(grpc_port, bundles, OTHER)
    assert caught.value.details().startswith(f"peer {COLLECTOR} is not in one_of({OTHER}); ")


@pytest.fixture
def https_url(raw_context, spiffe_svid):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        context = raw_context(ssl.PROTOCOL_TLS_SERVER, spiffe_svid("/collector"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join(WAIT)


def test_over_http(bundles, https_url):
    with http_session(bundles, authorize=authorize_id(COLLECTOR), present_svid=False, proxy=None) as session:
        assert session.get(https_url, timeout=WAIT).text == "hello"
    with (
        http_session(bundles, authorize=authorize_id(OTHER), present_svid=False, proxy=None) as session,
        pytest.raises(requests.exceptions.SSLError, match=rf"peer {COLLECTOR} is not in one_of\({OTHER}\); "),
    ):
        session.get(https_url, timeout=WAIT)


def test_nothing_is_presented_although_the_source_has_it(app):
    assert client_context(app, authorize=authorize_id(COLLECTOR)).local_id == APP
    assert client_context(app, authorize=authorize_id(COLLECTOR), present_svid=False).local_id is None
