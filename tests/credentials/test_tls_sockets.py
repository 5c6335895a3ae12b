# SPDX-License-Identifier: Apache-2.0
"""The sockets of our contexts: however they are read, written or ended, no byte passes unchecked."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from tls_ends import (
    APP,
    COLLECTOR,
    VERSIONS,
    WAIT,
    End,
    Listener,
    ask,
    capped,
    greet,
    in_turns,
    meet,
    pair,
)

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.credentials import SpiffeSSLSocket, client_context, server_context
from otel_spiffe.errors import (
    PeerNotAuthorized,
    PeerUntrusted,
    RefusedByPeer,
)
from otel_spiffe.identity import Identity, authorize_any, authorize_id
from otel_spiffe.sources import StaticSource


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.recv(10),
        lambda s: s.read(10),
        lambda s: s.recv_into(bytearray(10)),
        lambda s: s.makefile("rb").read(1),
        lambda s: s.send(b"x"),
        lambda s: s.write(b"x"),
        lambda s: s.sendall(b"x"),
        lambda s: s.do_handshake(),
    ],
    ids=["recv", "read", "recv_into", "makefile", "send", "write", "sendall", "do_handshake"],
)
@pytest.mark.parametrize("side", ["client", "server"])
def test_no_way_of_reading_or_writing_goes_past_the_check(app, collector, raw_context, side, use, version):
    """OpenSSL would do the handshake inside any of them and pass the bytes on."""
    nobody = authorize_id("spiffe://test.example/db")
    if side == "client":
        ours = client_context(app, authorize=nobody)
        theirs = raw_context(ssl.PROTOCOL_TLS_SERVER, collector.identity().svid, version)
    else:
        ours = server_context(collector, authorize=nobody)
        theirs = raw_context(ssl.PROTOCOL_TLS_CLIENT, app.identity().svid, version)
    with pair() as (a, b):
        end = End()
        thread = threading.Thread(
            target=greet, args=(theirs, b, end, b"server" if side == "client" else b"other"), daemon=True
        )
        thread.start()
        connection = ours.wrap_socket(a, server_side=side == "server", do_handshake_on_connect=False)
        for _ in range(2):  # refused once, refused for good
            with pytest.raises(PeerNotAuthorized, match=r"is not in one_of\(spiffe://test.example/db\)"):
                use(connection)
        with pytest.raises(ValueError, match="handshake not done yet"):
            _ = connection.peer_id
        connection.close()
        thread.join(WAIT)
        assert end.data in (None, b"")


@pytest.mark.parametrize("version", VERSIONS)
def test_non_blocking_sockets_shake_hands_step_by_step(app, collector, version):
    with pair() as (a, b):
        a.setblocking(False)
        b.setblocking(False)
        client = capped(client_context(app, authorize=authorize_id(COLLECTOR)), version).wrap_socket(
            a, do_handshake_on_connect=False
        )
        server = server_context(collector, authorize=authorize_id(APP)).wrap_socket(
            b, server_side=True, do_handshake_on_connect=False
        )
        in_turns(client.do_handshake, server.do_handshake)
        assert (str(client.peer_id), str(server.peer_id)) == (COLLECTOR, APP)
        assert client.send(b"hello") == 5
        assert in_turns(lambda: server.recv(10)) == [b"hello"]
        with pytest.raises(ssl.SSLWantReadError):
            client.recv(10)
        client.close()
        server.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_memory_bios_shake_hands_and_read_nothing_before_the_check(app, collector, version):
    """What asyncio and uvloop do; here the first read does the client's handshake."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = capped(client_context(app, authorize=authorize_id("spiffe://test.example/db")), version).wrap_bio(
        to_client, to_server
    )
    server = server_context(collector, authorize=authorize_any()).wrap_bio(to_server, to_client, server_side=True)
    with pytest.raises(PeerNotAuthorized):
        in_turns(lambda: client.read(10), server.do_handshake)
    with pytest.raises(PeerNotAuthorized):
        client.write(b"x")


USES = {
    "sendall": lambda s: s.sendall(b"a secret word"),
    "send": lambda s: s.send(b"a secret word"),
    "write": lambda s: s.write(b"a secret word"),
    "sendto": lambda s: s.sendto(b"a secret word", ("127.0.0.1", 1)),
    "recv": lambda s: s.recv(10),
    "recv_into": lambda s: s.recv_into(bytearray(10)),
    "read": lambda s: s.read(10),
    "makefile": lambda s: s.makefile("rb").read(1),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("why", ["not authorized", "broken authorizer", "untrusted", "silent"])
@pytest.mark.parametrize("connect", [SpiffeSSLSocket.connect, SpiffeSSLSocket.connect_ex])
def test_a_socket_whose_connect_was_refused_is_closed(app, collector, why, use, connect):
    """An `ssl.SSLSocket` drops TLS and stays open: it would send plaintext to whom it has just refused."""

    def broken(_):
        raise RuntimeError("boom")

    policy = {"not authorized": authorize_id(APP), "broken authorizer": broken}.get(why, authorize_any())
    stranger = CertificateAuthority.in_memory("test.example").identity(COLLECTOR)
    heard = []

    def serve():
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(WAIT)
            if why != "silent":
                with contextlib.suppress(OSError):
                    context.wrap_socket(connection, server_side=True).detach()
            while data := connection.recv(1000):
                heard.append(data)

    with StaticSource(stranger) as strangers, socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = strangers if why == "untrusted" else collector
        context = server_context(theirs, authorize=authorize_any())
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        connection = client_context(app, authorize=policy).wrap_socket(socket.socket())
        connection.settimeout(0.3 if why == "silent" else WAIT)
        with pytest.raises(OSError, match=r"not in|not trusted|timed out"):
            connect(connection, listening.getsockname())
        with pytest.raises((OSError, ValueError)):
            use(connection)
        thread.join(WAIT)
    assert b"secret" not in b"".join(heard)


@pytest.mark.parametrize(
    "end", [lambda s: s.shutdown(socket.SHUT_RDWR), lambda s: s.close()], ids=["shutdown", "close"]
)
def test_a_connection_that_its_program_ends_during_the_handshake_fails_as_any_other(app, collector, end):
    """A server that stops does it from another thread; here the authorizer does, at the worst moment."""
    connections = queue.Queue()
    context = client_context(app, authorize=lambda _: end(connections.get_nowait()))
    with pair() as (a, b):
        thread = threading.Thread(
            target=greet, args=(server_context(collector, authorize=authorize_any()), b, End(), b"server"), daemon=True
        )
        thread.start()
        connection = context.wrap_socket(a, do_handshake_on_connect=False)
        connections.put(connection)
        with contextlib.closing(connection), pytest.raises(OSError, match=r"closed|Bad file descriptor|EOF|pipe"):
            connection.sendall(b"x")
        thread.join(WAIT)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR])
def test_the_direction_that_stays_open_is_still_tls(app, collector, version, how):
    """An `ssl.SSLSocket` forgets TLS in `shutdown`: what it sends or gives out then is what is on the wire."""
    client = capped(client_context(app, authorize=authorize_any()), version)
    with pair() as (a, b), ThreadPoolExecutor(1) as threads:
        server = server_context(collector, authorize=authorize_any())
        accepting = threads.submit(server.wrap_socket, b, server_side=True)
        with client.wrap_socket(a) as connection, accepting.result(WAIT) as other:
            other.sendall(b"hello")
            assert connection.recv(10) == b"hello"
            connection.shutdown(how)
            speaks, hears = (connection, other) if how == socket.SHUT_RD else (other, connection)
            speaks.sendall(b"a secret word")
            assert hears.recv(20) == b"a secret word"


def test_connecting_late_uses_the_identity_of_that_moment(spiffe_own_ca, changing_source):
    source = changing_source(spiffe_own_ca.identity(APP))
    context = client_context(source, authorize=authorize_any())
    with Listener(server_context(source, authorize=authorize_any())) as listener:
        connection = context.wrap_socket(socket.socket())
        source.put(spiffe_own_ca.identity("spiffe://test.example/later"))
        connection.settimeout(WAIT)
        connection.connect(listener.address)
        with connection:
            assert connection.recv(100) == b"spiffe://test.example/later"
            assert str(connection.local_id) == "spiffe://test.example/later"
            assert connection.context is context


def test_a_connection_says_when_the_first_of_both_svids_ends(spiffe_source_of, spiffe_identity):
    short = spiffe_source_of(spiffe_identity("/collector", lifetime=timedelta(minutes=7)))
    with Listener(server_context(short, authorize=authorize_any())) as listener:
        _, connection = ask(client_context(spiffe_source_of("/app"), authorize=authorize_any()), listener.address)
    assert connection.expires_at == short.identity().expires_at


@pytest.mark.parametrize("version", VERSIONS)
def test_an_early_answer_is_still_read_when_the_pipe_breaks(app, collector, version):
    """A server may answer 413 and hang up while the body is on its way."""

    def answer(sock):
        connection = server_context(collector, authorize=authorize_any()).wrap_socket(sock, server_side=True)
        connection.sendall(b"413")
        connection.close()

    with pair() as (a, b):
        thread = threading.Thread(target=answer, args=(b,), daemon=True)
        thread.start()
        with capped(client_context(app, authorize=authorize_any()), version).wrap_socket(a) as connection:
            thread.join(WAIT)
            with pytest.raises(OSError, match=r"EOF|pipe|reset") as caught:
                connection.sendall(b"x" * 50_000_000)
            assert not isinstance(caught.value, RefusedByPeer)
            target = bytearray(10)
            assert connection.recv_into(target) == 1
            assert target[:1] + connection.recv(10) == b"413"


def test_a_large_write_that_meets_a_closed_pipe_says_the_alert(spiffe_own_ca, changing_source):
    """TLS 1.3: our handshake is over when the server refuses us, and the first thing we do is write."""
    stranger = CertificateAuthority.in_memory("test.example").identity(APP)
    source = changing_source(Identity(chosen=stranger.svid, bundles=spiffe_own_ca.identity().bundles))
    server = server_context(changing_source(spiffe_own_ca.identity(COLLECTOR)), authorize=authorize_any())
    with (
        Listener(server) as listener,
        socket.create_connection(listener.address, WAIT) as sock,
        client_context(source, authorize=authorize_any()).wrap_socket(sock) as connection,
        pytest.raises(RefusedByPeer, match=f"{COLLECTOR} refused {APP}: unknown_ca"),
    ):
        connection.sendall(b"x" * 50_000_000)


def test_canary_a_socket_of_another_context_is_refused(raw_context, collector):
    context = raw_context(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = SpiffeSSLSocket
    meeting = meet(context, server_context(collector, authorize=authorize_any()))
    assert isinstance(meeting.client.error, PeerUntrusted)
    assert "no SPIFFE context made this connection" in str(meeting.client.error)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="get_unverified_chain is public from 3.13 on")
def test_canary_the_peer_chain_stands_on_the_private_object(app, collector):
    context = client_context(app, authorize=authorize_any())
    with (
        Listener(server_context(collector, authorize=authorize_any())) as listener,
        socket.create_connection(listener.address, WAIT) as sock,
        context.wrap_socket(sock) as connection,
    ):
        chain = connection._sslobj.get_unverified_chain()
        assert chain[0].public_bytes(2) == connection.getpeercert(binary_form=True)


def test_canary_records_after_the_handshake_do_not_call_into_python(app, collector):
    """The callback that watches for certificates halved the throughput: 550 instead of 1100 MB/s."""
    context = client_context(app, authorize=authorize_any())
    with (
        Listener(server_context(collector, authorize=authorize_any())) as listener,
        socket.create_connection(listener.address, WAIT) as sock,
        context.wrap_socket(sock) as connection,
    ):
        assert connection._sslobj.context._msg_callback is None
        assert connection.context is context
        with pytest.raises(AttributeError):
            connection.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
