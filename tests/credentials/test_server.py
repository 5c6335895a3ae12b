# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from grpc.experimental import session_cache

from otel_spiffe.credentials import (
    AioAuthorizationInterceptor,
    AuthorizationInterceptor,
    client_context,
    peer_id,
    server_credentials,
)
from otel_spiffe.credentials._interceptor_verdict import MAX_VERDICTS, Connection, Judge, calls
from otel_spiffe.credentials._keys import chain_pem, key_pem
from otel_spiffe.credentials._server import _Fetcher, _sealed
from otel_spiffe.errors import PeerUntrusted, RefusedByPeer, Untrusted
from otel_spiffe.identity import Identity, authorize_any, authorize_id, authorize_one_of
from otel_spiffe.sources import StaticSource
from otel_spiffe.testing import Fault

APP, COLLECTOR, DB = (f"spiffe://test.example/{name}" for name in ("app", "collector", "db"))
AUTHORIZE = "; if it is the peer that is meant, authorize its ID"
WAIT = 30.0
KINDS = ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"]


def _say(_, context):
    return str(peer_id(context)).encode()


def _say_in_a_stream(_, context):
    yield str(peer_id(context)).encode()
    yield b"end"


def _handler(one=_say, many=_say_in_a_stream):
    return grpc.method_handlers_generic_handler(
        "test.Test",
        {
            "UnaryUnary": grpc.unary_unary_rpc_method_handler(one),
            "UnaryStream": grpc.unary_stream_rpc_method_handler(many),
            "StreamUnary": grpc.stream_unary_rpc_method_handler(one),
            "StreamStream": grpc.stream_stream_rpc_method_handler(many),
        },
    )


@contextlib.contextmanager
def _serving(source, *interceptors, handler=None, credentials=None):
    pool = ThreadPoolExecutor(4)
    server = grpc.server(pool, interceptors=interceptors)
    server.add_generic_rpc_handlers((handler or _handler(),))
    port = server.add_secure_port("127.0.0.1:0", credentials or server_credentials(source))
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait(WAIT)
        pool.shutdown()


@contextlib.contextmanager
def _channel(svid, authorities, port, name="localhost", options=()):
    """A stock channel; the server's SVID needs a DNS name for it."""
    roots = b"".join(each.public_bytes(Encoding.PEM) for each in authorities)
    credentials = grpc.ssl_channel_credentials(roots, key_pem(svid), chain_pem(svid))
    options = [
        ("grpc.ssl_target_name_override", name),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        *options,
    ]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        yield channel


def _call(channel, kind, method=None):
    """Make a call of a kind and return its first response."""
    path = f"/test.Test/{method or kind}"
    if kind == "UnaryUnary":
        return channel.unary_unary(path)(b"", timeout=WAIT)
    if kind == "UnaryStream":
        return next(iter(list(channel.unary_stream(path)(b"", timeout=WAIT))))
    if kind == "StreamUnary":
        return channel.stream_unary(path)(iter([b""]), timeout=WAIT)
    return next(iter(list(channel.stream_stream(path)(iter([b""]), timeout=WAIT))))


@pytest.fixture
def collector(spiffe_own_ca, spiffe_federated_ca, changing_source):
    return changing_source(_collector(spiffe_own_ca, spiffe_federated_ca))


def _collector(authority, federated=None):
    svid = authority.issue(COLLECTOR, dns_names=["localhost"])
    bundles = [authority.bundle] if federated is None else [authority.bundle, federated.bundle]
    return Identity(chosen=svid, svids=(svid,), bundles={bundle.trust_domain: bundle for bundle in bundles})


@pytest.fixture
def roots(spiffe_own_ca):
    return spiffe_own_ca.bundle.authorities


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_of_each_kind_knows_its_client(collector, spiffe_own_ca, roots, kind):
    interceptor = AuthorizationInterceptor(collector, authorize=authorize_id(APP))
    with _serving(collector, interceptor) as port, _channel(spiffe_own_ca.issue(APP), roots, port) as channel:
        assert _call(channel, kind) == APP.encode()
        assert _call(channel, kind) == APP.encode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [None, "NoSuchMethod"])
def test_a_client_that_is_not_authorized_reaches_no_handler_and_learns_no_method(
    collector, spiffe_own_ca, roots, kind, method
):
    reached = []
    handler = _handler(lambda *_: reached.append(1) or b"", lambda *_: iter([reached.append(1) or b""]))
    interceptor = AuthorizationInterceptor(collector, authorize=authorize_id(DB))
    with (
        _serving(collector, interceptor, handler=handler) as port,
        _channel(spiffe_own_ca.issue(APP), roots, port) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        _call(channel, kind, method)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == f"peer {APP} is not authorized here (we are {COLLECTOR}){AUTHORIZE}"
    assert not reached


@pytest.mark.parametrize("kind", KINDS)
def test_an_authorized_client_learns_that_there_is_no_such_method(collector, spiffe_own_ca, roots, kind):
    interceptor = AuthorizationInterceptor(collector, authorize=authorize_any())
    with (
        _serving(collector, interceptor) as port,
        _channel(spiffe_own_ca.issue(APP), roots, port) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        _call(channel, kind, "NoSuchMethod")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_refused_client_learns_nothing_of_the_authorizer(collector, spiffe_own_ca, roots, caplog):
    def broken(_):
        raise ConnectionError("postgres://authz:hunter2@10.0.0.7/policies")

    for policy in (broken, authorize_one_of(*(f"spiffe://test.example/{number}" for number in range(1000)))):
        interceptor = AuthorizationInterceptor(collector, authorize=policy)
        with (
            _serving(collector, interceptor) as port,
            _channel(spiffe_own_ca.issue(APP), roots, port) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            _call(channel, KINDS[0])
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.details() == f"peer {APP} is not authorized here (we are {COLLECTOR}){AUTHORIZE}"
    assert "hunter2" in caplog.text  # whoever runs the server does learn it


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_forged_by_a_federated_authority_is_refused(collector, spiffe_own_ca, spiffe_federated_ca, roots, kind):
    """gRPC pools the authorities of all trust domains and lets the handshake pass."""
    forged = _faulty(spiffe_own_ca, spiffe_federated_ca, Fault.FORGED_BY_FEDERATED)
    interceptor = AuthorizationInterceptor(collector, authorize=authorize_id(APP))
    with (
        _serving(collector, interceptor) as port,
        _channel(forged, roots, port) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        _call(channel, kind)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.details().startswith(f"peer {APP} is not trusted: ")
    assert caught.value.details().count(f" (we are {COLLECTOR})") == 1


def _faulty(authority, forger, fault):
    from otel_spiffe.testing import faulty_svid  # noqa: PLC0415

    return faulty_svid(authority, fault, id=APP, forger=forger)


# What OpenSSL's rules in gRPC let pass, and SPIFFE's do not.
PASSED_BY_GRPC = [
    Fault.NO_SAN,
    Fault.DNS_ALONE,
    Fault.TWO_URI_SANS,
    Fault.NO_PATH,
    Fault.ID_WITH_QUERY,
    Fault.ID_TRAILING_SLASH,
    Fault.NO_KEY_USAGE,
    Fault.KEY_USAGE_NOT_CRITICAL,
    Fault.CLIENT_AUTH_ALONE,
    Fault.FORGED_BY_FEDERATED,
]


@pytest.mark.parametrize("fault", PASSED_BY_GRPC)
def test_what_grpc_lets_pass_is_refused(collector, spiffe_own_ca, spiffe_federated_ca, roots, fault):
    interceptor = AuthorizationInterceptor(collector, authorize=authorize_any())
    with (
        _serving(collector, interceptor) as port,
        _channel(_faulty(spiffe_own_ca, spiffe_federated_ca, fault), roots, port) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        _call(channel, "UnaryUnary")
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "is not trusted: " in caught.value.details()


def test_canary_grpc_still_pools_the_authorities(collector, spiffe_own_ca, spiffe_federated_ca, roots):
    """When this fails, gRPC has learned to verify per trust domain."""
    forged = _faulty(spiffe_own_ca, spiffe_federated_ca, Fault.FORGED_BY_FEDERATED)
    seen = []

    def look(_, context):
        seen.extend(context.auth_context()["peer_spiffe_id"])
        with pytest.raises(PeerUntrusted, match="no AuthorizationInterceptor verified this call"):
            peer_id(context)
        return b"reached"

    with _serving(collector, handler=_handler(look)) as port, _channel(forged, roots, port) as channel:
        assert _call(channel, "UnaryUnary") == b"reached"
    assert seen == [APP.encode()]


def test_a_client_without_svid_makes_no_connection(collector, roots):
    pem = b"".join(each.public_bytes(Encoding.PEM) for each in roots)
    interceptor = AuthorizationInterceptor(collector, authorize=authorize_any())
    options = [("grpc.ssl_target_name_override", "localhost")]
    with (
        _serving(collector, interceptor) as port,
        grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(pem), options) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        _call(channel, "UnaryUnary")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_plaintext_server_with_the_interceptor_refuses_everybody(collector):
    pool = ThreadPoolExecutor(2)
    server = grpc.server(pool, interceptors=[AuthorizationInterceptor(collector, authorize=authorize_any())])
    server.add_generic_rpc_handlers((_handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
            _call(channel, "UnaryUnary")
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "it presented no X509-SVID" in caught.value.details()
    finally:
        server.stop(0).wait(WAIT)
        pool.shutdown()


def test_intermediates_are_verified(collector, spiffe_own_ca, roots):
    svid = spiffe_own_ca.intermediate().issue(APP)
    assert len(svid.chain) == 2
    interceptor = AuthorizationInterceptor(collector, authorize=authorize_any())
    with _serving(collector, interceptor) as port, _channel(svid, roots, port) as channel:
        assert _call(channel, "UnaryUnary") == APP.encode()


def test_an_svid_that_expires_ends_the_use_of_its_connection(collector, spiffe_own_ca, roots):
    """gRPC looks at the certificate once, at the handshake."""
    now = [datetime.now(UTC)]
    svid = spiffe_own_ca.issue(APP, lifetime=timedelta(minutes=5))
    interceptor = AuthorizationInterceptor(collector, authorize=authorize_any(), clock=lambda: now[0])
    with _serving(collector, interceptor) as port, _channel(svid, roots, port) as channel:
        assert _call(channel, "UnaryUnary") == APP.encode()
        now[0] = svid.expires_at - timedelta(seconds=1)
        assert _call(channel, "UnaryUnary") == APP.encode()
        now[0] = svid.expires_at + timedelta(seconds=12)
        with pytest.raises(grpc.RpcError) as caught:
            _call(channel, "UnaryUnary")
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert f"peer {APP} is not trusted: it expired 12 s ago" in caught.value.details()


def test_a_withdrawn_authority_ends_the_use_of_its_connections(collector, spiffe_own_ca, roots):
    interceptor = AuthorizationInterceptor(collector, authorize=authorize_any())
    with _serving(collector, interceptor) as port, _channel(spiffe_own_ca.issue(APP), roots, port) as channel:
        assert _call(channel, "UnaryUnary") == APP.encode()
        spiffe_own_ca.rotate()
        collector.put(_collector(spiffe_own_ca))
        assert _call(channel, "UnaryUnary") == APP.encode()
        spiffe_own_ca.withdraw()
        collector.put(_collector(spiffe_own_ca))
        with pytest.raises(grpc.RpcError) as caught:
            _call(channel, "UnaryUnary")
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_authorizer_is_asked_at_every_call(collector, spiffe_own_ca, roots):
    allowed = [APP]

    def policy(peer):
        authorize_id(allowed[0])(peer)

    interceptor = AuthorizationInterceptor(collector, authorize=policy)
    with _serving(collector, interceptor) as port, _channel(spiffe_own_ca.issue(APP), roots, port) as channel:
        assert _call(channel, "UnaryUnary") == APP.encode()
        allowed[0] = DB
        with pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
            _call(channel, "UnaryUnary")


def test_a_server_without_an_identity_answers_that_it_has_none(collector, spiffe_own_ca, roots):
    interceptor = AuthorizationInterceptor(collector, authorize=authorize_any())
    with _serving(collector, interceptor) as port, _channel(spiffe_own_ca.issue(APP), roots, port) as channel:
        assert _call(channel, "UnaryUnary") == APP.encode()
        collector.close()
        with pytest.raises(grpc.RpcError) as caught:
            _call(channel, "UnaryUnary")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "static source: " in caught.value.details()


def test_a_call_that_has_ended_has_no_peer(collector, spiffe_own_ca, roots):
    contexts, ended = [], threading.Event()

    def keep(_, context):
        context.add_callback(ended.set)
        contexts.append(context)
        return str(peer_id(_Wrapped(context))).encode()

    interceptor = AuthorizationInterceptor(collector, authorize=authorize_any())
    with (
        _serving(collector, interceptor, handler=_handler(keep)) as port,
        _channel(spiffe_own_ca.issue(APP), roots, port) as channel,
    ):
        assert _call(channel, "UnaryUnary") == APP.encode()
        assert ended.wait(WAIT)
    assert calls._live == {}
    with pytest.raises(PeerUntrusted):
        peer_id(contexts[0])


class _Wrapped:
    """What OpenTelemetry's own interceptor hands on."""

    def __init__(self, context):
        self._context = context

    def __getattr__(self, name):
        return getattr(self._context, name)


def test_verdicts_are_bounded(collector, spiffe_own_ca):
    judge = Judge(collector, authorize_any(), lambda: datetime.now(UTC))
    svid = spiffe_own_ca.issue(APP)
    below = spiffe_own_ca.intermediate().issue(APP).chain[1].public_bytes(Encoding.PEM)
    leaf = svid.leaf.public_bytes(Encoding.PEM)
    judge._verdicts.update({(b"%d" % number, b""): None for number in range(MAX_VERDICTS)})
    for intermediates in (b"", below):
        assert str(judge.judge(Connection("ipv4:x", leaf, intermediates))) == APP
    assert len(judge._verdicts) <= MAX_VERDICTS


@pytest.mark.parametrize(
    ("leaf", "why"),
    [
        (b"", Untrusted.NO_CERTIFICATE),
        (b"nonsense", Untrusted.UNREADABLE),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", Untrusted.UNREADABLE),
    ],
)
def test_a_client_with_unreadable_certificates_is_refused(collector, leaf, why):
    judge = Judge(collector, authorize_any(), lambda: datetime.now(UTC))
    with pytest.raises(PeerUntrusted) as caught:
        judge.judge(Connection("ipv4:x", leaf, b""))
    assert caught.value.why is why


def _presented(port, app):
    """Return the SPIFFE ID that a gRPC server presents, as our own client sees it."""
    context = client_context(app, authorize=authorize_any())
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), WAIT) as sock, context.wrap_socket(sock) as connection:
        return str(connection.peer_id)


def test_each_handshake_presents_the_newest_svid_on_every_port(collector, spiffe_own_ca, changing_source):
    app = changing_source(spiffe_own_ca.identity(APP))
    credentials = server_credentials(collector)
    with _serving(collector, credentials=credentials) as one, _serving(collector, credentials=credentials) as two:
        assert [_presented(port, app) for port in (one, two)] == [COLLECTOR] * 2
        collector.put(spiffe_own_ca.identity(DB))
        assert [_presented(port, app) for port in (one, two, one)] == [DB] * 3


def test_asyncio_servers_may_share_credentials_too(collector, spiffe_own_ca, changing_source):
    app = changing_source(spiffe_own_ca.identity(APP))
    credentials = server_credentials(collector)

    async def serve():
        servers = [grpc.aio.server(), grpc.aio.server()]
        ports = [server.add_secure_port("127.0.0.1:0", credentials) for server in servers]
        for server in servers:
            await server.start()
        before = [await asyncio.to_thread(_presented, port, app) for port in ports]
        collector.put(spiffe_own_ca.identity(DB))
        after = [await asyncio.to_thread(_presented, port, app) for port in ports]
        for server in servers:
            await server.stop(0)
        return before, after

    assert asyncio.run(serve()) == ([COLLECTOR] * 2, [DB] * 2)


def test_grpc_gets_a_configuration_once(collector, spiffe_own_ca):
    fetcher = _Fetcher(collector)
    first = fetcher.first()
    assert [fetcher(), fetcher()] == [None, None]
    collector.put(spiffe_own_ca.identity(DB))
    second = fetcher()
    assert second not in (None, first)
    assert fetcher() is None
    collector.close()
    assert fetcher() is _sealed()
    assert fetcher() is None


def test_a_configuration_is_not_changed_before_each_handshake_has_gone_on(collector, spiffe_own_ca, caplog):
    fetcher = _Fetcher(collector)
    fetcher.first()
    answers = iter([False, False, True])
    fetcher._window.clear = lambda: next(answers)
    collector.put(spiffe_own_ca.identity(DB))
    assert [fetcher(), fetcher()] == [None, None]
    assert caplog.text.count("see that the machine is not starved of CPU") == 1
    assert fetcher() is not None


def test_a_source_that_breaks_ends_the_trust_in_what_it_gave_before(collector, caplog):
    fetcher = _Fetcher(_Breaking(collector))
    fetcher.first()
    assert fetcher() is None
    fetcher._source.broken = True
    assert fetcher() is _sealed()
    assert "gRPC handshakes are refused: the disk is full" in caplog.text


class _Breaking:
    def __init__(self, source):
        self._source = source
        self.broken = False

    def identity(self):
        if self.broken:
            raise OSError("the disk is full")
        return self._source.identity()


def test_a_tls_session_is_resumed_while_the_identity_lasts_and_its_client_verified_again(
    collector, spiffe_own_ca, roots
):
    now = [datetime.now(UTC)]
    svid = spiffe_own_ca.intermediate().issue(APP, lifetime=timedelta(minutes=5))
    interceptor = AuthorizationInterceptor(collector, authorize=authorize_any(), clock=lambda: now[0])
    options = [("grpc.ssl_session_cache", session_cache.ssl_session_cache_lru(8))]
    resumed = []

    def look(_, context):
        resumed.extend(context.auth_context()["ssl_session_reused"])
        return str(peer_id(context)).encode()

    def call():
        with _channel(svid, roots, port, options=options) as channel:
            return _call(channel, "UnaryUnary")

    with _serving(collector, interceptor, handler=_handler(look)) as port:
        assert [call(), call()] == [APP.encode()] * 2
        collector.put(_collector(spiffe_own_ca))
        assert call() == APP.encode()
        assert resumed == [b"false", b"true", b"false"]
        now[0] = svid.expires_at + timedelta(seconds=12)
        with pytest.raises(grpc.RpcError, match="it expired 12 s ago"):
            call()


def test_a_withdrawn_authority_is_refused_at_the_next_handshake(collector, spiffe_own_ca, changing_source):
    app = changing_source(spiffe_own_ca.identity(APP))
    both = app.identity().bundles
    with _serving(collector) as port:
        assert _presented(port, app) == COLLECTOR
        spiffe_own_ca.rotate()
        spiffe_own_ca.withdraw()
        collector.put(_collector(spiffe_own_ca))
        app.put(Identity(chosen=app.identity().svid, bundles=spiffe_own_ca.identity().bundles))
        assert both != app.identity().bundles
        context = client_context(app, authorize=authorize_any())
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", port), WAIT) as sock,
            context.wrap_socket(sock) as connection,
            pytest.raises(RefusedByPeer, match=f"{COLLECTOR} refused {APP}: "),
        ):
            connection.recv(100)


def test_a_server_starts_before_its_identity_and_refuses_after_its_end(spiffe_own_ca, changing_source, caplog):
    """gRPC itself would present the last certificate for ever."""
    now = [datetime.now(UTC) + timedelta(hours=2)]
    source = changing_source(_collector(spiffe_own_ca), clock=lambda: now[0])  # expired
    app = changing_source(spiffe_own_ca.identity(APP))
    with caplog.at_level("INFO", "otel_spiffe.credentials"), _serving(source) as port:
        for _ in range(2):
            with pytest.raises(ssl.SSLCertVerificationError, match="this server has no valid X509-SVID now"):
                _presented(port, app)
        now[0] -= timedelta(hours=2)
        assert _presented(port, app) == COLLECTOR
        now[0] += timedelta(hours=2)
        with pytest.raises(ssl.SSLCertVerificationError, match="this server has no valid X509-SVID now"):
            _presented(port, app)
    told = [record.message for record in caplog.records if record.name == "otel_spiffe.credentials"]
    assert [line.split(":")[0] for line in told] == [
        "gRPC handshakes are refused",
        "gRPC handshakes are accepted again",
        "gRPC handshakes are refused",
    ]


def test_a_server_without_authorities_refuses_every_handshake(spiffe_own_ca, changing_source):
    svid = spiffe_own_ca.issue(COLLECTOR)
    app = changing_source(spiffe_own_ca.identity(APP))
    with (
        StaticSource(Identity(chosen=svid, bundles={})) as source,
        _serving(source) as port,
        pytest.raises(ssl.SSLCertVerificationError, match="this server has no valid X509-SVID now"),
    ):
        _presented(port, app)


async def _aio_say(request, context):
    if hasattr(request, "__aiter__"):
        async for _ in request:
            pass
    return str(peer_id(context)).encode()


async def _aio_say_in_a_stream(_, context):
    yield str(peer_id(context)).encode()
    yield b"end"


async def _aio_write(_, context):
    await context.write(str(peer_id(context)).encode())
    await context.write(b"end")


AIO_HANDLERS = {
    "coroutines": _handler(_aio_say, _aio_say_in_a_stream),
    "writers": _handler(_aio_say, _aio_write),
    "functions": _handler(),
}


@contextlib.asynccontextmanager
async def _aio_serving(source, policy, handler):
    interceptor = AioAuthorizationInterceptor(source, authorize=policy)
    pool = ThreadPoolExecutor(4)
    server = grpc.aio.server(pool, interceptors=[interceptor])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(source))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)
        # Beside the loop: a plain handler that refuses waits on its thread for the loop.
        await asyncio.to_thread(pool.shutdown)


async def _calling(svid, roots, port, kind, method=None):
    def call():
        with _channel(svid, roots, port) as channel:
            return _call(channel, kind, method)

    return await asyncio.get_running_loop().run_in_executor(None, call)


STYLES = [(style, kind) for style in AIO_HANDLERS for kind in KINDS]


@pytest.mark.parametrize(("style", "kind"), STYLES)
def test_an_aio_handler_of_each_kind_knows_its_client(collector, spiffe_own_ca, roots, kind, style):
    async def main():
        async with _aio_serving(collector, authorize_id(APP), AIO_HANDLERS[style]) as port:
            return await _calling(spiffe_own_ca.issue(APP), roots, port, kind)

    assert asyncio.run(main()) == APP.encode()


@pytest.mark.parametrize(("style", "kind"), STYLES)
@pytest.mark.parametrize(
    ("fault", "method", "code"),
    [
        (None, None, grpc.StatusCode.PERMISSION_DENIED),
        (None, "NoSuchMethod", grpc.StatusCode.PERMISSION_DENIED),
        (Fault.FORGED_BY_FEDERATED, None, grpc.StatusCode.UNAUTHENTICATED),
    ],
    ids=["not_authorized", "unknown_method", "forged"],
)
def test_an_aio_server_refuses_in_words(
    collector, spiffe_own_ca, spiffe_federated_ca, roots, fault, method, code, kind, style
):
    svid = spiffe_own_ca.issue(APP) if fault is None else _faulty(spiffe_own_ca, spiffe_federated_ca, fault)

    async def main():
        async with _aio_serving(collector, authorize_id(DB), AIO_HANDLERS[style]) as port:
            await _calling(svid, roots, port, kind, method)

    with pytest.raises(grpc.RpcError) as caught:
        asyncio.run(main())
    assert caught.value.code() is code
    assert caught.value.details().startswith(f"peer {APP} is not ")
    assert calls._live == {}
