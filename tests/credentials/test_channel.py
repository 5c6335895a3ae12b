# SPDX-License-Identifier: Apache-2.0
"""gRPC over SPIFFE mTLS, and the sentence that a caller reads when it cannot be."""

import asyncio
import datetime as dt
import logging
import socket
import ssl
import threading
import time

import grpc
import pytest

from otel_spiffe.credentials import aio_secure_channel, secure_channel
from otel_spiffe.errors import PeerNotAuthorized
from otel_spiffe.identity import authorize_any, authorize_id

WAIT = 30.0

COLLECTOR = "spiffe://prod.example/collector"
APP = "spiffe://prod.example/app"
TLS_VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls1.2", "tls1.3"]
)
COLOURS = pytest.mark.parametrize("call", ["sync", "aio"], indirect=True)


def call_sync(port, source, *, host="127.0.0.1", request=b"hello", timeout=30, **keywords):
    with secure_channel(f"{host}:{port}", source, **keywords) as channel:
        return channel.unary_unary("/test/Echo")(request, timeout=timeout)


def call_aio(port, source, *, host="127.0.0.1", request=b"hello", timeout=30, **keywords):
    async def run():
        async with aio_secure_channel(f"{host}:{port}", source, **keywords) as channel:
            return await channel.unary_unary("/test/Echo")(request, timeout=timeout)

    return asyncio.run(run())


@pytest.fixture
def call(request):
    return {"sync": call_sync, "aio": call_aio}[request.param]


def refusal(call, port, source, **keywords):
    with pytest.raises(grpc.RpcError) as caught:
        call(port, source, **{"authorize": authorize_any(), "proxy": None, **keywords})
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return caught.value.details()


@COLOURS
def test_a_call_reaches_a_server_that_has_a_uri_san_alone(world, servers, call):
    with servers.echo(world) as port:
        for size in (0, 1, 212_000, 3_000_000):
            request = b"x" * size
            assert call(port, world.source(), request=request, authorize=authorize_id(COLLECTOR)) == request


def test_streams_pass_in_both_directions(world, servers):
    with (
        servers.echo(world) as port,
        secure_channel(f"127.0.0.1:{port}", world.source(), authorize=authorize_any()) as channel,
    ):
        messages = [b"a" * size for size in (0, 1, 16_384, 100_000)] * 10
        assert list(channel.stream_stream("/test/Stream")(iter(messages), timeout=60)) == messages
        assert sum(map(len, channel.unary_stream("/test/Slow")(b"100", timeout=60))) == 10_000_000


@TLS_VERSIONS
@COLOURS
def test_a_server_with_another_id_is_refused_by_name(world, servers, call, version):
    with servers.raw(servers.tls(servers.tls_context(world, "spiffe://prod.example/db", version=version))) as port:
        text = refusal(call, port, world.source(), authorize=authorize_id(COLLECTOR))
    assert text.startswith(f"peer spiffe://prod.example/db is not in one_of({COLLECTOR}) (we are {APP}); ")


@TLS_VERSIONS
@COLOURS
def test_a_server_of_an_unknown_trust_domain_is_refused_by_name(world, stranger_world, servers, call, version):
    context = servers.tls_context(stranger_world, "spiffe://evil.example/collector", version=version)
    with servers.raw(servers.tls(context)) as port:
        text = refusal(call, port, world.source())
    assert "peer spiffe://evil.example/collector is not trusted" in text
    assert f"(we are {APP})" in text


@TLS_VERSIONS
@COLOURS
def test_a_server_whose_svid_has_expired_is_refused(world, servers, call, version):
    svid = world.ca.issue(COLLECTOR, lifetime=dt.timedelta(seconds=-5))
    with servers.raw(servers.tls(servers.tls_context(world, svid=svid, version=version))) as port:
        text = refusal(call, port, world.source())
    assert f"peer {COLLECTOR} is not trusted" in text
    assert "expired" in text


@TLS_VERSIONS
@COLOURS
def test_a_server_that_refuses_us_is_quoted(world, stranger_world, servers, call, version):
    """With TLS 1.3 its alert comes after our handshake, on the first read."""
    source = stranger_world.source("spiffe://evil.example/app", bundles=[world.ca.bundle, stranger_world.ca.bundle])
    with servers.raw(servers.tls(servers.tls_context(world, version=version))) as port:
        text = refusal(call, port, source)
    assert text.startswith(f"{COLLECTOR} refused spiffe://evil.example/app: unknown_ca")


@TLS_VERSIONS
@COLOURS
def test_a_server_that_misses_our_certificate_is_quoted(world, servers, call, version):
    with servers.raw(servers.tls(servers.tls_context(world, version=version))) as port:
        text = refusal(call, port, world.source(), present_svid=False)
    assert "refused us, who presented no X509-SVID" in text
    assert "certificate_required" in text or version is ssl.TLSVersion.TLSv1_2


@COLOURS
def test_a_grpc_server_that_hangs_up_on_our_certificate_is_named(world, stranger_world, servers, call):
    source = stranger_world.source("spiffe://evil.example/app", bundles=[world.ca.bundle])
    with servers.echo(world) as port:
        text = refusal(call, port, source)
    assert text.startswith(f"{COLLECTOR} refused spiffe://evil.example/app: ")


@COLOURS
def test_a_client_may_present_nothing_to_a_server_that_asks_for_nothing(world, servers, call):
    def serve(connection):
        with context.wrap_socket(connection, server_side=True) as tls:
            asked.append(tls.getpeercert(binary_form=True))

    asked = []
    context = servers.tls_context(world, ask=False)
    with servers.raw(serve) as port:
        refusal(call, port, world.source(), present_svid=False)
    assert asked[0] is None


@COLOURS
def test_an_identity_that_has_expired_is_not_used(world, servers, call):
    source = world.source(lifetime=dt.timedelta(seconds=-5))
    with servers.echo(world) as port:
        text = refusal(call, port, source, identity_timeout=0.1)
    assert f"the X509-SVID of {APP} expired" in text


@COLOURS
def test_a_source_without_an_identity_is_waited_for_then_named(held_source, call):
    text = refusal(call, 9, held_source(), identity_timeout=0.1)
    assert text == "held source: no identity has come yet"


def test_a_call_goes_on_when_the_first_identity_comes(world, servers, held_source):
    source = held_source()
    with (
        servers.echo(world) as port,
        secure_channel(f"127.0.0.1:{port}", source, authorize=authorize_any(), identity_timeout=60) as channel,
    ):
        answer = channel.unary_unary("/test/Echo").future(b"hello", timeout=60)
        source.put(world.identity())
        assert answer.result(60) == b"hello"


@COLOURS
def test_a_port_where_nobody_listens_is_named(world, call):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    text = refusal(call, port, world.source())
    assert text.startswith(f"cannot reach 127.0.0.1:{port} from {APP}: Connection refused (127.0.0.1); ")


@COLOURS
def test_a_name_that_does_not_resolve_is_named(world, call):
    text = refusal(call, 4317, world.source(), host="collector.invalid", connect_timeout=30, timeout=60)
    assert text.startswith(f"cannot reach collector.invalid:4317 from {APP}: 'collector.invalid' does not resolve")


@COLOURS
def test_a_server_without_tls_is_named_as_such(world, servers, call):
    with servers.echo(world, credentials=False) as port:
        text = refusal(call, port, world.source())
    assert f"cannot reach 127.0.0.1:{port}" in text
    assert "TLS" in text


@COLOURS
def test_a_server_that_answers_tls_with_plain_text_is_named_as_such(world, servers, call):
    def serve(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.recv(65536)

    with servers.raw(serve) as port:
        text = refusal(call, port, world.source())
    assert "it does not speak TLS" in text


@COLOURS
@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
def test_a_server_without_http2_is_named_as_such(world, servers, call, alpn):
    with servers.raw(servers.tls(servers.tls_context(world, alpn=alpn))) as port:
        text = refusal(call, port, world.source())
    assert "did not choose HTTP/2 by ALPN" in text


@COLOURS
def test_a_server_that_never_shakes_hands_is_given_up(world, servers, call):
    def serve(connection):
        while connection.recv(65536):
            pass

    with servers.raw(serve) as port:
        text = refusal(call, port, world.source(), connect_timeout=0.5)
    assert "the TLS handshake did not end within 0.5 s" in text


@COLOURS
def test_a_server_that_never_says_a_word_is_given_up(world, servers, call):
    with servers.raw(servers.tls(servers.tls_context(world))) as port:
        text = refusal(call, port, world.source(), connect_timeout=0.5)
    assert f"{COLLECTOR} accepted the connection and said nothing within 0.5 s" in text


def until_it_answers(echo, refused):
    """Call until the refusal, which stands for a second, is over."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            return echo(b"hello", timeout=30)
        except grpc.RpcError as error:
            if refused not in error.details():
                raise
    pytest.fail("it never recovered")


def test_the_next_try_after_a_refusal_may_succeed(world, servers):
    """A refusal stands for a second; then a call makes a new handshake."""
    allowed = []

    def authorizer(peer):
        if not allowed:
            raise PeerNotAuthorized(peer, "nobody")

    with (
        servers.echo(world) as port,
        secure_channel(f"127.0.0.1:{port}", world.source(), authorize=authorizer) as channel,
    ):
        echo = channel.unary_unary("/test/Echo")
        with pytest.raises(grpc.RpcError, match="is not in nobody"):
            echo(b"hello", timeout=30)
        allowed.append(True)
        assert until_it_answers(echo, "is not in nobody") == b"hello"


def test_a_new_identity_ends_a_refusal(world, servers):
    source = world.source(lifetime=dt.timedelta(seconds=-5))
    with (
        servers.echo(world) as port,
        secure_channel(f"127.0.0.1:{port}", source, authorize=authorize_any(), identity_timeout=0.1) as channel,
    ):
        echo = channel.unary_unary("/test/Echo")
        with pytest.raises(grpc.RpcError, match="expired"):
            echo(b"hello", timeout=30)
        source.put(world.identity())
        assert until_it_answers(echo, "expired") == b"hello"


def test_news_of_the_identity_that_was_refused_ends_no_refusal(world, servers):
    """A source's subscriber may hear of the first identity after the handshake with it has been refused.

    A GOAWAY right behind the first SETTINGS then made gRPC retry for ever: one call in 400 to go-spiffe hung.
    """
    source, asked = world.source(), []

    def authorizer(peer):
        asked.append(peer)
        for callback in list(source._callbacks):
            callback(source.identity())
        raise PeerNotAuthorized(peer, "nobody")

    with servers.echo(world) as port:
        for _ in range(5):
            assert "is not in nobody" in refusal(call_sync, port, source, authorize=authorizer)
    assert len(asked) == 5


def test_an_identity_that_comes_with_a_refusal_ends_it(world, servers):
    """A GOAWAY waits until gRPC is ready for it, also for a new generation."""
    source, refused = world.source(), []

    def authorizer(peer):
        if not refused:
            refused.append(peer)
            source.put(world.identity())
            raise PeerNotAuthorized(peer, "nobody")

    with (
        servers.echo(world) as port,
        secure_channel(f"127.0.0.1:{port}", source, authorize=authorizer) as channel,
    ):
        assert until_it_answers(channel.unary_unary("/test/Echo"), "is not in nobody") == b"hello"


def test_options_and_stub_keywords_reach_the_channel(world, servers):
    limit = (("grpc.max_receive_message_length", 10),)
    with (
        servers.echo(world) as port,
        secure_channel(
            f"127.0.0.1:{port}",
            world.source(),
            authorize=authorize_any(),
            options=limit,
            compression=grpc.Compression.Gzip,
        ) as channel,
    ):
        echo = channel.unary_unary("/test/Echo", _registered_method=True)
        with pytest.raises(grpc.RpcError) as caught:
            echo(b"x" * 11, timeout=30)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_closed_channel_refuses_and_may_be_closed_again(world):
    channel = secure_channel("127.0.0.1:9", world.source(), authorize=authorize_any())
    channel.close()
    channel.close()
    with pytest.raises(ValueError, match="closed channel"):
        channel.unary_unary("/test/Echo")(b"")


def test_a_log_handler_that_blocks_stops_no_call(world, servers):
    """As OpenTelemetry's own may, whose lines go out through a relay."""
    reached, hold = threading.Event(), threading.Event()

    class Blocking(logging.Handler):
        def emit(self, _):
            reached.set()
            hold.wait(WAIT)

    handler, logger = Blocking(), logging.getLogger("otel_spiffe.credentials")
    logger.addHandler(handler)
    try:
        with (
            servers.echo(world) as port,
            secure_channel("127.0.0.1:9", world.source(), authorize=authorize_any()) as dead,
            secure_channel(f"127.0.0.1:{port}", world.source(), authorize=authorize_any()) as healthy,
        ):
            with pytest.raises(grpc.RpcError):
                dead.unary_unary("/test/Echo")(b"hello", timeout=WAIT)
            assert reached.wait(WAIT)
            assert healthy.unary_unary("/test/Echo")(b"hello", timeout=WAIT / 2) == b"hello"
            hold.set()
    finally:
        hold.set()
        logger.removeHandler(handler)
