# SPDX-License-Identifier: Apache-2.0
"""The contexts inside the libraries that people use them with: whom they reach, and what a refusal says there."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import ssl
import threading
from datetime import UTC, datetime, timedelta

import aiohttp
import aiohttp.web
import httpx
import pytest
import urllib3
import websockets
import websockets.sync.client

from otel_spiffe.credentials import client_context, server_context
from otel_spiffe.errors import PeerNotAuthorized, SourceUnavailable
from otel_spiffe.identity import authorize_any, authorize_id
from otel_spiffe.sources import StaticSource

APP, COLLECTOR, DB = (f"spiffe://test.example/{name}" for name in ("app", "collector", "db"))
WRONG_PEER = (
    f"peer {COLLECTOR} is not in one_of({DB}) (we are {APP}); if it is the peer that is meant, authorize its ID"
)
REFUSED_US = f"{COLLECTOR} refused {APP}: unknown_ca"
WAIT = 30.0


@pytest.fixture
def app(spiffe_own_ca):
    with StaticSource(spiffe_own_ca.identity(APP)) as source:
        yield source


@pytest.fixture
def collector(spiffe_own_ca, changing_source):
    return changing_source(spiffe_own_ca.identity(COLLECTOR))


@pytest.fixture
def good(app):
    return client_context(app, authorize=authorize_id(COLLECTOR))


@pytest.fixture
def wrong(app):
    """A client's context for which the server is the wrong peer."""
    return client_context(app, authorize=authorize_id(DB))


@pytest.fixture
def forget_us(spiffe_own_ca, collector):
    """Withdraw the authority of the client's SVID from the server's bundle, and change the server's SVID."""

    def act():
        svid = collector.identity().svid
        spiffe_own_ca.rotate()
        spiffe_own_ca.withdraw()
        rotated = spiffe_own_ca.identity(COLLECTOR)
        collector.put(type(rotated)(chosen=svid, svids=(svid,), bundles=rotated.bundles))

    return act


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = str(self.connection.peer_id).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def http_server(collector):
    """`http.server` as its documentation wraps it; yields its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.socket = server_context(collector, authorize=authorize_any()).wrap_socket(
            server.socket, server_side=True
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(WAIT)


def _http_client(context, port):
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=WAIT)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        return connection.getresponse().read().decode()


def _urllib3(context, port):
    # A SPIFFE peer has no host name; urllib3 compares names itself unless it is told not to.
    with urllib3.PoolManager(ssl_context=context, assert_hostname=False, retries=False, timeout=WAIT) as pool:
        return pool.request("GET", f"https://127.0.0.1:{port}/").data.decode()


def _httpx(context, port):
    with httpx.Client(verify=context, trust_env=False, timeout=WAIT) as client:
        return client.get(f"https://127.0.0.1:{port}/").text


def _async_httpx(context, port):
    async def get():
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=WAIT) as client:
            return (await client.get(f"https://127.0.0.1:{port}/")).text

    return asyncio.run(get())


def _aiohttp(context, port):
    async def get():
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"https://127.0.0.1:{port}/", ssl=context) as response,
        ):
            return await response.text()

    return asyncio.run(get())


def _asyncio(context, port):
    async def get():
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return (await reader.read()).decode().rpartition("\r\n")[2]
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    return asyncio.run(get())


CLIENTS = [_http_client, _urllib3, _httpx, _async_httpx, _aiohttp, _asyncio]
clients = pytest.mark.parametrize("get", CLIENTS, ids=lambda get: get.__name__.strip("_"))


@clients
def test_a_client_library_reaches_its_peer_before_and_after_a_rotation(
    get, good, http_server, collector, spiffe_own_ca
):
    assert get(good, http_server) == APP
    collector.put(spiffe_own_ca.identity(COLLECTOR))
    assert get(good, http_server) == APP


def _text(error):
    """All that a program sees that prints an error and its causes."""
    texts, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


@clients
def test_a_client_library_says_which_peer_is_the_wrong_one(get, wrong, http_server):
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- each library has its own
        get(wrong, http_server)
    assert WRONG_PEER in str(caught.value)


@clients
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_library_says_who_refused_us_and_why(get, version, good, http_server, forget_us):
    """With TLS 1.3 the alert comes after the handshake, on the first read."""
    good.maximum_version = version
    assert get(good, http_server) == APP
    forget_us()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        get(good, http_server)
    told = _text(caught.value)
    # Through asyncio, a reset may overtake the alert: the transport meets it and our SSLObject never does.
    lost = get in {_async_httpx, _aiohttp, _asyncio} and version is ssl.TLSVersion.TLSv1_3
    assert REFUSED_US in told or (lost and ("reset" in told or "disconnected" in told)), told


@clients
def test_a_client_library_says_that_there_is_no_identity(get, good, http_server, app):
    app.close()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        get(good, http_server)
    assert "static source: " in _text(caught.value)
    assert "closed" in _text(caught.value)


@clients
def test_an_identity_that_has_expired_is_named(get, http_server, changing_source, spiffe_own_ca):
    later = datetime.now(UTC) + timedelta(hours=2)
    source = changing_source(spiffe_own_ca.identity(APP, lifetime=timedelta(hours=1)), clock=lambda: later)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        get(client_context(source, authorize=authorize_any()), http_server)
    assert f"the X509-SVID of {APP} expired " in _text(caught.value)


def test_asyncio_servers_know_and_refuse_their_clients(collector, good, app):
    async def main():
        async def greet(_, writer):
            writer.write(str(writer.get_extra_info("ssl_object").peer_id).encode())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(
            greet, "127.0.0.1", 0, ssl=server_context(collector, authorize=authorize_id(APP))
        )
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=good)
            assert (await reader.read()).decode() == APP
            writer.close()
            none = client_context(app, authorize=authorize_any(), present_svid=False)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=none)
            assert await reader.read() == b""  # asyncio's servers hang up without an alert
            writer.close()

    asyncio.run(main())


@pytest.mark.parametrize("authorized", [APP, DB])
def test_aiohttp_servers_know_their_client_before_the_handler_runs(collector, good, authorized):
    served = []

    async def handle(request):
        served.append(str(request.transport.get_extra_info("ssl_object").peer_id))
        return aiohttp.web.Response(text="ok")

    async def main():
        application = aiohttp.web.Application()
        application.router.add_get("/", handle)
        runner = aiohttp.web.AppRunner(application)
        await runner.setup()
        context = server_context(collector, authorize=authorize_id(authorized))
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"https://127.0.0.1:{port}/", ssl=good) as answer,
            ):
                return await answer.text()
        finally:
            await runner.cleanup()

    if authorized == APP:
        assert asyncio.run(main()) == "ok"
        assert served == [APP]
    else:
        with pytest.raises(aiohttp.ClientError):
            asyncio.run(main())
        assert served == []


def test_websockets_knows_both_ends_and_refuses_the_wrong_one(collector, good, wrong):
    async def serve(connection):
        await connection.send(str(connection.transport.get_extra_info("ssl_object").peer_id))

    async def main():
        context = server_context(collector, authorize=authorize_id(APP))
        async with websockets.serve(serve, "127.0.0.1", 0, ssl=context) as server:
            uri = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with websockets.connect(uri, ssl=good) as connection:
                assert await connection.recv() == APP
            with pytest.raises(PeerNotAuthorized) as caught:
                await websockets.connect(uri, ssl=wrong)
            assert str(caught.value) == WRONG_PEER

            def sync():
                with websockets.sync.client.connect(uri, ssl=good) as connection:
                    return connection.recv()

            assert await asyncio.get_running_loop().run_in_executor(None, sync) == APP

    asyncio.run(main())


def test_asyncio_leaves_nothing_open_when_there_is_no_identity(collector, app):
    """`-W error` would report a socket that nobody closed."""

    async def main():
        server = await asyncio.start_server(
            lambda *_: None, "127.0.0.1", 0, ssl=server_context(collector, authorize=authorize_any())
        )
        async with server:
            port = server.sockets[0].getsockname()[1]
            collector.close()
            with pytest.raises(OSError, match=r"EOF|reset|closed"):
                await asyncio.open_connection("127.0.0.1", port, ssl=client_context(app, authorize=authorize_any()))
            app.close()
            with pytest.raises(SourceUnavailable):
                await asyncio.open_connection("127.0.0.1", port, ssl=client_context(app, authorize=authorize_any()))

    asyncio.run(main())
