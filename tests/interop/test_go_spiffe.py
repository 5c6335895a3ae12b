# SPDX-License-Identifier: Apache-2.0
"""Go-spiffe v2 agrees with us: mTLS both ways over raw TLS, HTTPS and gRPC, and through relays."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from peerlib import GoSpiffeError, identity_fields
from peerlib.echo import EchoServer, HttpServer, dial

from otel_spiffe.credentials import (
    AioAuthorizationInterceptor,
    AuthorizationInterceptor,
    Relay,
    aio_secure_channel,
    client_context,
    http_session,
    peer_id,
    secure_channel,
    server_context,
    server_credentials,
)
from otel_spiffe.errors import PeerNotAuthorized, PeerUntrusted, RefusedByPeer, Untrusted
from otel_spiffe.identity import authorize_any, authorize_id, authorize_member_of, authorize_one_of

pytestmark = [pytest.mark.builds("gospiffe")]
PEER = "go-spiffe"

US, GO = "spiffe://test.example/us", "spiffe://test.example/go"


@pytest.fixture
def source(spiffe_source_of):
    return spiffe_source_of("/us")


@pytest.fixture
def theirs(spiffe_identity):
    return identity_fields(spiffe_identity("/go"))


@pytest.mark.peer(PEER, "raw TLS, our client to its server, TLS 1.2 and 1.3")
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_our_client_and_its_server_know_each_other(go_spiffe, source, theirs, version):
    with go_spiffe.serve(identity=theirs, authorize={"id": US}, max_tls=version) as server:
        server_id, answer = dial(client_context(source, authorize=authorize_id(GO)), server.address)
        outcome = server.handshake()
    assert (str(server_id), answer) == (GO, f"{US} hello")
    assert (outcome["peer"], outcome["tls"], outcome["sni"]) == (US, f"TLS {version}", "localhost")


@pytest.mark.peer(PEER, "raw TLS, its client to our server, TLS 1.2 and 1.3")
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_its_client_and_our_server_know_each_other(go_spiffe, source, theirs, version):
    with EchoServer(server_context(source, authorize=authorize_id(GO))) as server:
        answer = go_spiffe.call(
            "dial", identity=theirs, authorize={"id": US}, address=server.address, payload="hello", max_tls=version
        )
        assert str(server.outcome()) == GO
    assert (answer["peer"], answer["answer"], answer["tls"]) == (US, f"{GO} hello", f"TLS {version}")


@pytest.mark.peer(PEER, "ALPN, both ways: one protocol in common, none in common")
def test_alpn_is_agreed(go_spiffe, source, theirs):
    """Where the two have none in common a Go server ends the handshake (RFC 7301 3.2), a Python server does not."""

    def ours(make, protocols):
        context = make(source, authorize=authorize_any())
        context.set_alpn_protocols(protocols)
        return context

    dials = {"identity": theirs, "authorize": {"any": True}}
    with EchoServer(ours(server_context, ["b", "c"])) as server:
        assert go_spiffe.call("dial", address=server.address, alpn=["a", "b"], **dials)["alpn"] == "b"
        assert not go_spiffe.call("dial", address=server.address, alpn=["a"], **dials)["alpn"]
    with go_spiffe.serve(alpn=["b", "c"], **dials) as server:
        assert _alpn(ours(client_context, ["a", "b"]), server.address) == "b"
        assert server.handshake()["peer"] == US
        with pytest.raises(OSError, match=r"(?i)no_application_protocol|no application protocol"):
            _alpn(ours(client_context, ["a"]), server.address)
        assert "client requested unsupported application protocols" in server.handshake()["error"]


def _alpn(context, address):
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return secured.selected_alpn_protocol()


@pytest.mark.peer(PEER, "intermediate authorities in the chain, both ways")
def test_chains_with_intermediates_verify(go_spiffe, spiffe_ca, spiffe_source_of):
    below = spiffe_ca.intermediate().intermediate()
    ours = spiffe_source_of(below.identity(US))
    theirs = identity_fields(below.identity(GO))
    with go_spiffe.serve(identity=theirs, authorize={"id": US}) as server:
        dial(client_context(ours, authorize=authorize_id(GO)), server.address)
        assert server.handshake()["peer"] == US
    with EchoServer(server_context(ours, authorize=authorize_id(GO))) as server:
        go_spiffe.call("dial", identity=theirs, authorize={"id": US}, address=server.address)


@pytest.mark.peer(PEER, "keys of each type, both ways")
@pytest.mark.parametrize("key_type", ["ec-p256", "ec-p384", "rsa-2048", "rsa-4096"])
def test_keys_of_each_type(go_spiffe, spiffe_ca, spiffe_source_of, key_type):
    from otel_spiffe.identity import Identity  # noqa: PLC0415

    def identity(name):
        svid = spiffe_ca.issue(name, key_type=key_type)
        return Identity(chosen=svid, svids=(svid,), bundles={spiffe_ca.trust_domain: spiffe_ca.bundle})

    ours, theirs = spiffe_source_of(identity(US)), identity_fields(identity(GO))
    with go_spiffe.serve(identity=theirs, authorize={"id": US}) as server:
        dial(client_context(ours, authorize=authorize_id(GO)), server.address)
    with EchoServer(server_context(ours, authorize=authorize_id(GO))) as server:
        go_spiffe.call("dial", identity=theirs, authorize={"id": US}, address=server.address)


@pytest.mark.peer(PEER, "HTTPS, our requests session to its server")
def test_our_http_session_and_its_server(go_spiffe, source, theirs):
    with (
        go_spiffe.serve(identity=theirs, authorize={"id": US}, transport="https") as server,
        http_session(source, authorize=authorize_id(GO)) as session,
    ):
        answers = [session.post(f"https://{server.address}/", data=b"hello", timeout=30) for _ in range(3)]
    assert [each.text for each in answers] == [f"{US} hello"] * 3


@pytest.mark.peer(PEER, "HTTPS, its client to our http.server")
def test_its_http_client_and_our_server(go_spiffe, source, theirs):
    with HttpServer(server_context(source, authorize=authorize_id(GO))) as address:
        answer = go_spiffe.call(
            "dial", identity=theirs, authorize={"id": US}, transport="https", address=address, payload="hello"
        )
    assert (answer["peer"], answer["answer"]) == (US, f"{GO} hello")


@pytest.mark.peer(PEER, "gRPC, our secure_channel to its server")
def test_our_channel_and_its_server(go_spiffe, source, theirs):
    with (
        go_spiffe.serve(identity=theirs, authorize={"id": US}, transport="grpc") as server,
        secure_channel(server.address, source, authorize=authorize_id(GO), proxy=None) as channel,
    ):
        say = channel.unary_unary("/interop.Echo/Say")
        assert [say(b"hello", timeout=30) for _ in range(3)] == [f"{US} hello".encode()] * 3


@pytest.mark.peer(PEER, "gRPC, its client to our server credentials")
def test_its_grpc_client_and_our_server(go_spiffe, source, theirs):
    interceptor = AuthorizationInterceptor(source, authorize=authorize_id(GO))
    with _grpc_server(server_credentials(source), interceptor) as address:
        answer = go_spiffe.call(
            "dial", identity=theirs, authorize={"id": US}, transport="grpc", address=address, payload="hello"
        )
    assert (answer["peer"], answer["answer"]) == (US, f"{GO} hello")


@pytest.mark.peer(PEER, "gRPC, our aio_secure_channel to its server, its client to our grpc.aio server")
def test_asyncio_over_grpc(go_spiffe, source, theirs):
    async def both():
        with go_spiffe.serve(identity=theirs, authorize={"id": US}, transport="grpc") as server:
            async with aio_secure_channel(server.address, source, authorize=authorize_id(GO), proxy=None) as channel:
                said = await channel.unary_unary("/interop.Echo/Say")(b"hello", timeout=30)
        interceptor = AioAuthorizationInterceptor(source, authorize=authorize_id(GO))
        ours = grpc.aio.server(interceptors=[interceptor])

        async def say(request, context):
            return f"{peer_id(context)} ".encode() + request

        handler = grpc.unary_unary_rpc_method_handler(say)
        ours.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("interop.Echo", {"Say": handler}),))
        port = ours.add_secure_port("127.0.0.1:0", server_credentials(source))
        await ours.start()
        request = {"identity": theirs, "authorize": {"id": US}, "transport": "grpc", "payload": "hello"}
        answer = await asyncio.to_thread(go_spiffe.call, "dial", address=f"127.0.0.1:{port}", **request)
        await ours.stop(None)
        return said, answer

    said, answer = asyncio.run(both())
    assert said == f"{US} hello".encode()
    assert (answer["peer"], answer["answer"]) == (US, f"{GO} hello")


@pytest.mark.peer(PEER, "asyncio streams, both ways")
def test_asyncio_streams(go_spiffe, source, theirs):
    async def echo(reader, writer):
        peer = writer.get_extra_info("ssl_object").peer_id
        writer.write(f"{peer} ".encode() + await reader.readline())
        await writer.drain()
        writer.close()

    async def both():
        with go_spiffe.serve(identity=theirs, authorize={"id": US}) as server:
            context = client_context(source, authorize=authorize_id(GO))
            host, _, port = server.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost")
            writer.write(b"hello\n")
            said = await reader.readline()
            writer.close()
            await writer.wait_closed()
        context = server_context(source, authorize=authorize_id(GO))
        async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context) as ours:
            address = f"127.0.0.1:{ours.sockets[0].getsockname()[1]}"
            request = {"identity": theirs, "authorize": {"id": US}, "address": address, "payload": "hello"}
            return said, await asyncio.to_thread(go_spiffe.call, "dial", **request)

    said, answer = asyncio.run(both())
    assert said == f"{US} hello\n".encode()
    assert (answer["peer"], answer["answer"]) == (US, f"{GO} hello")


@pytest.mark.peer(PEER, "gRPC, its client refused by our interceptor")
def test_our_interceptor_refuses_its_client(go_spiffe, source, theirs):
    interceptor = AuthorizationInterceptor(source, authorize=authorize_id("spiffe://test.example/other"))
    with (
        _grpc_server(server_credentials(source), interceptor) as address,
        pytest.raises(GoSpiffeError, match=rf"code = PermissionDenied desc = peer {GO} is not authorized here"),
    ):
        go_spiffe.call("dial", identity=theirs, authorize={"id": US}, transport="grpc", address=address)


@pytest.mark.peer(PEER, "gRPC, its server refused by our secure_channel: the reason is in the status")
def test_our_channel_refuses_its_server(go_spiffe, source, theirs):
    with (
        go_spiffe.serve(identity=theirs, authorize={"id": US}, transport="grpc") as server,
        secure_channel(
            server.address, source, authorize=authorize_id("spiffe://test.example/other"), proxy=None
        ) as channel,
        pytest.raises(grpc.RpcError, match=rf"peer {GO} is not in id\(|peer {GO} is not in"),
    ):
        channel.unary_unary("/interop.Echo/Say")(b"hello", timeout=30)


@pytest.mark.peer(PEER, "gRPC, our secure_channel refused by its server: the alert is in the status")
def test_its_server_refuses_our_channel(go_spiffe, source, theirs):
    with (
        go_spiffe.serve(identity=theirs, authorize={"id": "spiffe://test.example/other"}, transport="grpc") as server,
        secure_channel(server.address, source, authorize=authorize_id(GO), proxy=None) as channel,
        pytest.raises(grpc.RpcError, match=rf"{GO} refused {US}: bad_certificate"),
    ):
        channel.unary_unary("/interop.Echo/Say")(b"hello", timeout=30)


@pytest.mark.peer(PEER, "Relay.inbound before a plaintext server, its client over gRPC")
def test_its_grpc_client_through_an_inbound_relay(go_spiffe, source, theirs):
    with (
        _grpc_server(None) as plain,
        Relay.inbound("127.0.0.1:0", source, authorize=authorize_id(GO), upstream=plain) as relay,
    ):
        answer = go_spiffe.call(
            "dial",
            identity=theirs,
            authorize={"id": US},
            transport="grpc",
            address=f"127.0.0.1:{relay.address[1]}",
            payload="hello",
        )
    assert (answer["peer"], answer["answer"]) == (US, "nobody hello")


@pytest.mark.peer(PEER, "Relay.inbound before a plaintext server, its client over HTTPS")
def test_its_https_client_through_an_inbound_relay(go_spiffe, source, theirs):
    with (
        HttpServer(None) as plain,
        Relay.inbound("127.0.0.1:0", source, authorize=authorize_id(GO), upstream=plain, alpn=["http/1.1"]) as relay,
    ):
        answer = go_spiffe.call(
            "dial",
            identity=theirs,
            authorize={"id": US},
            transport="https",
            address=f"127.0.0.1:{relay.address[1]}",
            payload="hello",
        )
    assert (answer["peer"], answer["answer"]) == (US, "nobody hello")


@pytest.mark.peer(PEER, "Relay.inbound refuses its client")
def test_an_inbound_relay_refuses_its_client(go_spiffe, source, theirs):
    nobody = authorize_one_of("spiffe://test.example/other")
    with (
        _grpc_server(None) as plain,
        Relay.inbound("127.0.0.1:0", source, authorize=nobody, upstream=plain) as relay,
        pytest.raises(GoSpiffeError),
    ):
        go_spiffe.call("dial", identity=theirs, authorize={"id": US}, address=f"127.0.0.1:{relay.address[1]}")


@pytest.mark.peer(PEER, "authorizers: id, one of, member of, any")
@pytest.mark.parametrize(
    ("ours", "their", "allowed"),
    [
        (authorize_id(GO), {"id": US}, True),
        (authorize_one_of(GO, "spiffe://test.example/x"), {"one_of": [US, "spiffe://test.example/x"]}, True),
        (authorize_member_of("test.example"), {"member_of": "test.example"}, True),
        (authorize_any(), {"any": True}, True),
        (authorize_id("spiffe://test.example/GO"), {"id": "spiffe://test.example/US"}, False),
        (authorize_one_of("spiffe://test.example/x"), {"one_of": ["spiffe://test.example/x"]}, False),
        (authorize_member_of("other.example"), {"member_of": "other.example"}, False),
    ],
)
def test_authorizers_decide_alike(go_spiffe, source, theirs, ours, their, allowed):
    with go_spiffe.serve(identity=theirs, authorize=their) as server:
        if allowed:
            dial(client_context(source, authorize=ours), server.address)
            assert server.handshake()["peer"] == US
            return
        with pytest.raises(PeerNotAuthorized):
            dial(client_context(source, authorize=ours), server.address)
        server.handshake()  # it may have seen our certificate before we refused its own (TLS 1.3)
        with pytest.raises(RefusedByPeer, match=rf"{GO} refused {US}: bad_certificate"):
            dial(client_context(source, authorize=authorize_id(GO)), server.address)
        assert "unexpected" in server.handshake()["error"]


def test_who_presents_nothing_is_refused_by_both(go_spiffe, source, theirs, row):
    with go_spiffe.serve(identity=theirs, authorize={"any": True}) as server:
        with pytest.raises(RefusedByPeer, match="who presented no X509-SVID: certificate_required"):
            dial(client_context(source, authorize=authorize_any(), present_svid=False), server.address)
        assert "client didn't provide a certificate" in server.handshake()["error"]
    with EchoServer(server_context(source, authorize=authorize_any())) as server:
        with pytest.raises(GoSpiffeError, match="certificate required"):
            go_spiffe.call("dial", identity=theirs, authorize={"any": True}, address=server.address, present=False)
        refusal = server.outcome()
        assert (type(refusal), refusal.why, refusal.peer) == (PeerUntrusted, Untrusted.NO_CERTIFICATE, None)
    row(PEER, "a client without an X509-SVID", f"both refuse, we for `{refusal.why}`")


@pytest.mark.peer(PEER, "trust domains: a federated one, and one without a bundle")
def test_each_trust_domain_has_its_own_authorities(go_spiffe, spiffe_ca, spiffe_federated_ca, spiffe_source_of):
    far = "spiffe://federated.example/go"
    ours = spiffe_source_of(spiffe_ca.identity(US, federated=[spiffe_federated_ca.bundle]))
    alone = spiffe_source_of(spiffe_ca.identity(US))
    theirs = identity_fields(spiffe_federated_ca.identity(far, federated=[spiffe_ca.bundle]))
    with go_spiffe.serve(identity=theirs, authorize={"id": US}) as server:
        assert str(dial(client_context(ours, authorize=authorize_id(far)), server.address)[0]) == far
        assert server.handshake()["peer"] == US
        with pytest.raises(PeerUntrusted, match=r"federated\.example"):
            dial(client_context(alone, authorize=authorize_any()), server.address)
        assert "error" in server.handshake()
    with EchoServer(server_context(ours, authorize=authorize_id(far))) as server:
        assert go_spiffe.call("dial", identity=theirs, authorize={"id": US}, address=server.address)["peer"] == US


class _grpc_server:  # noqa: N801 -- used as a function
    def __init__(self, credentials, *interceptors):
        self._server = grpc.server(ThreadPoolExecutor(4), interceptors=interceptors)
        self._secure = credentials is not None
        handler = grpc.method_handlers_generic_handler(
            "interop.Echo", {"Say": grpc.unary_unary_rpc_method_handler(self._say)}
        )
        self._server.add_generic_rpc_handlers((handler,))
        self._port = (
            self._server.add_secure_port("127.0.0.1:0", credentials)
            if credentials is not None
            else self._server.add_insecure_port("127.0.0.1:0")
        )

    def _say(self, request, context):
        return f"{peer_id(context) if self._secure else 'nobody'} ".encode() + request

    def __enter__(self):
        self._server.start()
        return f"127.0.0.1:{self._port}"

    def __exit__(self, *_):
        self._server.stop(None).wait()
