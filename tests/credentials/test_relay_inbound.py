# SPDX-License-Identifier: Apache-2.0
"""Inbound relays: SPIFFE mTLS in front of a plaintext server, what its clients hear, and how many there may be."""

import asyncio
import contextlib
import logging
import os
import re
import select
import socket
import ssl
import threading
import time
import types

import grpc
import pytest

from otel_spiffe.credentials import Relay, client_context, secure_channel
from otel_spiffe.credentials._h2 import GOAWAY
from otel_spiffe.credentials._relay_options import KEEP_IDLE
from otel_spiffe.credentials._relay_upstream import reach
from otel_spiffe.errors import InvalidConfiguration, PeerRejected, RefusedByPeer
from otel_spiffe.identity import authorize_any, authorize_id

COLLECTOR = "spiffe://prod.example/collector"
APP = "spiffe://prod.example/app"
SETTINGS = bytes.fromhex("000000040000000000")


def eventually(claim, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if claim():
            return True
        time.sleep(0.01)  # polled: what is waited for happens in the kernel's time
    return claim()


def our_threads():
    return [each.name for each in threading.enumerate() if each.name.startswith("otel-spiffe r")]


@pytest.fixture
def plain(servers, world):
    with servers.echo(world, credentials=False) as port:
        yield port


def test_an_inbound_relay_serves_grpc_over_spiffe(world, plain):
    with (
        Relay.inbound(
            "127.0.0.1:0",
            world.source(COLLECTOR),
            authorize=authorize_id(APP),
            upstream=f"127.0.0.1:{plain}",
        ) as relay,
        secure_channel("{}:{}".format(*relay.address), world.source(), authorize=authorize_id(COLLECTOR)) as channel,
    ):
        assert channel.unary_unary("/test/Echo")(b"x" * 3_000_000, timeout=60) == b"x" * 3_000_000
        assert sum(map(len, channel.unary_stream("/test/Slow")(b"100", timeout=60))) == 10_000_000


def inbound(world, upstream, **keywords):
    return Relay.inbound(
        "127.0.0.1:0", world.source(COLLECTOR), upstream=upstream, **{"authorize": authorize_any(), **keywords}
    )


def test_an_inbound_relay_serves_a_unix_socket_and_half_closed_clients(world, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    def serve():
        connection, _ = listener.accept()
        with connection:
            data = b""
            while piece := connection.recv(65536):
                data += piece
            connection.sendall(data[::-1])

    thread = threading.Thread(target=serve)
    thread.start()
    context = client_context(world.source(), authorize=authorize_id(COLLECTOR))
    context.set_alpn_protocols(["http/1.1"])
    with (
        inbound(world, f"unix:{tmp_path}/s") as relay,
        socket.create_connection(relay.address, timeout=30) as tcp,
        context.wrap_socket(tcp) as tls,
    ):
        assert tls.selected_alpn_protocol() == "http/1.1"
        tls.sendall(b"abc" * 100_000)
        with contextlib.suppress(ssl.SSLWantReadError, TimeoutError):
            tls.settimeout(0.0)
            tls.unwrap()  # close_notify; ours is still open
        tls.settimeout(30)
        data = b""
        with contextlib.suppress(ssl.SSLZeroReturnError):  # Python's word for the end, after our own close_notify
            while piece := tls.recv(65536):
                data += piece
    thread.join(30)
    listener.close()
    assert data == b"cba" * 100_000


def test_a_client_that_is_not_authorized_is_refused_and_logged_once(world, plain, caplog):
    caplog.set_level(logging.WARNING, "otel_spiffe.credentials")
    context = client_context(world.source(), authorize=authorize_any())
    with inbound(world, f"127.0.0.1:{plain}", authorize=authorize_id("spiffe://prod.example/other")) as relay:
        for _ in range(3):
            with (
                socket.create_connection(relay.address, timeout=30) as tcp,
                contextlib.suppress(RefusedByPeer, ConnectionError),  # TLS 1.3 refuses at the first read
                context.wrap_socket(tcp) as tls,
            ):
                assert tls.recv(1) == b""
    # A closed relay has written all its lines.
    refusals = [each for each in caplog.messages if f"{APP} is not in one_of(spiffe://prod.example/other)" in each]
    assert len(refusals) == 1
    assert "127.0.0.1: peer" in refusals[0]


def test_a_client_of_another_authority_is_refused_and_named(world, stranger_world, plain, caplog):
    caplog.set_level(logging.WARNING, "otel_spiffe.credentials")
    source = stranger_world.source("spiffe://evil.example/app", bundles=[world.ca.bundle])
    with (
        inbound(world, f"127.0.0.1:{plain}") as relay,
        secure_channel("{}:{}".format(*relay.address), source, authorize=authorize_any()) as channel,
        pytest.raises(grpc.RpcError, match=r"refused spiffe://evil\.example/app"),
    ):
        channel.unary_unary("/test/Echo")(b"hello", timeout=30)
    assert "peer spiffe://evil.example/app is not trusted" in caplog.text


def test_silent_clients_do_not_keep_others_out(world, plain):
    with inbound(world, f"127.0.0.1:{plain}", max_handshakes=4, handshake_timeout=60) as relay:
        silent = [socket.create_connection(relay.address, timeout=30) for _ in range(20)]
        with secure_channel("{}:{}".format(*relay.address), world.source(), authorize=authorize_any()) as channel:
            assert channel.unary_unary("/test/Echo")(b"hello", timeout=30) == b"hello"
        assert silent[0].recv(1) == b""  # the oldest had to go
        for each in silent:
            each.close()


def test_a_client_that_does_not_shake_hands_is_ended(world, plain):
    with (
        inbound(world, f"127.0.0.1:{plain}", handshake_timeout=0.1) as relay,
        socket.create_connection(relay.address, timeout=30) as silent,
    ):
        assert silent.recv(1) == b""


def test_clients_beyond_the_limit_wait_for_room(world, plain):
    with inbound(world, f"127.0.0.1:{plain}", max_connections=1) as relay:
        where = "{}:{}".format(*relay.address)
        first = secure_channel(where, world.source(), authorize=authorize_any())
        assert first.unary_unary("/test/Echo")(b"hello", timeout=30) == b"hello"
        with secure_channel(where, world.source(), authorize=authorize_any(), connect_timeout=60) as second:
            waiting = second.unary_unary("/test/Echo").future(b"hello", timeout=60)
            first.close()
            assert waiting.result(60) == b"hello"


def test_a_server_that_is_not_there_ends_its_clients_and_is_logged(world, caplog):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        inbound(world, f"127.0.0.1:{port}") as relay,
        secure_channel("{}:{}".format(*relay.address), world.source(), authorize=authorize_any()) as channel,
        pytest.raises(grpc.RpcError, match=r"refused|closed"),
    ):
        channel.unary_unary("/test/Echo")(b"hello", timeout=30)
    assert f"cannot reach the server behind this relay, 127.0.0.1:{port}: Connection refused" in caplog.text


def test_a_port_that_is_taken_is_named(world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InvalidConfiguration, match=re.escape(f"cannot listen on {where}")):
            Relay.inbound(where, world.source(COLLECTOR), authorize=authorize_any(), upstream="127.0.0.1:1")
    assert our_threads() == []


@pytest.mark.parametrize("upstream", ["", "unix:", "unix:relative", "http://127.0.0.1:1", "127.0.0.1"])
def test_an_upstream_that_cannot_be_read_is_named(world, upstream):
    with pytest.raises(InvalidConfiguration, match=r"^upstream: "):
        inbound(world, upstream)


def test_a_client_refuses_a_relay_with_another_id(world, plain):
    context = client_context(world.source(), authorize=authorize_id("spiffe://prod.example/other"))
    with (
        inbound(world, f"127.0.0.1:{plain}") as relay,
        socket.create_connection(relay.address, timeout=30) as tcp,
        pytest.raises(PeerRejected, match="is not in one_of"),
    ):
        context.wrap_socket(tcp)


def test_random_bytes_to_an_inbound_relay_end_nothing_but_themselves(world, plain):
    with inbound(world, f"127.0.0.1:{plain}") as relay:
        for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(5000), b"\x16\x03\x01\xff\xff" + bytes(70_000)):
            with socket.create_connection(relay.address, timeout=30) as tcp, contextlib.suppress(OSError):
                tcp.sendall(noise)
                tcp.shutdown(socket.SHUT_WR)
                tcp.recv(100)
        with secure_channel("{}:{}".format(*relay.address), world.source(), authorize=authorize_any()) as channel:
            assert channel.unary_unary("/test/Echo")(b"hello", timeout=30) == b"hello"


# The end of one side.


@pytest.fixture
def speak(world):
    """Make TLS connections that speak HTTP/1.1 to a relay."""
    context = client_context(world.source(), authorize=authorize_any())
    context.set_alpn_protocols(["http/1.1"])
    with contextlib.ExitStack() as closed:

        def make(relay, tcp=None):
            tcp = closed.enter_context(tcp or socket.create_connection(relay.address, timeout=30))
            return closed.enter_context(context.wrap_socket(tcp, suppress_ragged_eofs=False))

        yield make


def test_a_server_that_answers_early_is_heard_and_hears_the_client_to_its_end(world, servers, speak):
    """As nginx refuses what is too large: it answers, ends its side, and reads what is still coming."""
    answer, body, heard = b"413" * 100_000, b"y" * 4_000_000, []

    def serve(connection):
        connection.recv(1, socket.MSG_PEEK)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            heard.append(len(piece))

    with servers.raw(serve) as port:
        with inbound(world, f"127.0.0.1:{port}") as relay:
            tls = speak(relay)
            tls.sendall(body)
            received = b""
            while piece := tls.recv(65536):  # until close_notify
                received += piece
            tls.close()
            assert received == answer
            assert eventually(lambda: sum(heard) == len(body))
        assert relay._core._placed == set()


# What is asked of the kernel.


def test_small_writes_go_out_at_once_and_vanished_peers_are_noticed(world, servers, speak):
    with servers.raw(hold) as port, inbound(world, f"127.0.0.1:{port}") as relay:
        speak(relay)
        assert eventually(lambda: any(each._far is not None for each in relay._core._placed))
        (client,) = relay._core._placed
        for each in (client._tls, client._far):
            assert each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            idle = getattr(socket, "TCP_KEEPIDLE", None) or socket.TCP_KEEPALIVE
            assert each.getsockopt(socket.IPPROTO_TCP, idle) == KEEP_IDLE


def hold(connection):
    while connection.recv(65536):
        pass


# How many there may be.


def accepted(relay, count):
    """Connect so many clients that do not shake hands yet."""
    made = [socket.create_connection(relay.address, timeout=30) for _ in range(count)]
    assert eventually(lambda: len(relay._core._greeting) == count)
    return made


def test_no_more_are_served_than_may_be_however_many_shake_hands_at_once(world, servers, speak, caplog):
    caplog.set_level(logging.WARNING, "otel_spiffe.credentials")
    reached = []

    def serve(connection):
        reached.append(connection)
        connection.sendall(b"served")
        hold(connection)

    with (
        servers.raw(serve) as port,
        inbound(world, f"127.0.0.1:{port}", max_connections=2, connect_timeout=0.2) as relay,
    ):
        clients = [speak(relay, tcp) for tcp in accepted(relay, 5)]
        outcomes = []
        for each in clients:
            try:
                outcomes.append(each.recv(100))
            except OSError:  # closed without a close_notify
                outcomes.append(b"")
        assert sorted(outcomes) == [b""] * 3 + [b"served"] * 2
        assert len(reached) == 2
    assert "this relay has 2 connections, its limit, and none ended within 0.2 s" in caplog.text


def test_one_that_waits_is_served_when_another_leaves(world, servers, speak):
    def serve(connection):
        connection.sendall(b"served")
        hold(connection)

    with (
        servers.raw(serve) as port,
        inbound(world, f"127.0.0.1:{port}", max_connections=1, connect_timeout=60) as relay,
    ):
        first, second = (speak(relay, tcp) for tcp in accepted(relay, 2))
        assert first.recv(100) == b"served"
        first.close()
        assert second.recv(100) == b"served"


def test_strangers_take_no_places(world, plain):
    with inbound(world, f"127.0.0.1:{plain}", max_connections=1, handshake_timeout=60) as relay:
        silent = accepted(relay, 10)
        with secure_channel("{}:{}".format(*relay.address), world.source(), authorize=authorize_any()) as channel:
            assert channel.unary_unary("/test/Echo")(b"hello", timeout=30) == b"hello"
        for each in silent:
            each.close()


# Rotation.


def test_a_rotation_during_a_handshake_is_not_missed(world, servers):
    source = world.source(COLLECTOR)
    context = client_context(world.source(), authorize=authorize_any())
    context.set_alpn_protocols(["h2"])

    def serve(connection):
        connection.sendall(SETTINGS)
        hold(connection)

    with (
        servers.raw(serve) as port,
        Relay.inbound("127.0.0.1:0", source, authorize=authorize_any(), upstream=f"127.0.0.1:{port}") as relay,
        socket.create_connection(relay.address, timeout=30) as tcp,
    ):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        tcp.sendall(outgoing.read())
        assert select.select([tcp], [], [], 30)[0]  # its answer, with the identity of that moment
        source.put(world.identity(COLLECTOR))
        relay._core.loop.run(lambda: None)  # the relay has heard of it

        def done(act):
            while True:
                try:
                    return act()
                except ssl.SSLWantReadError:
                    tcp.sendall(outgoing.read())
                    incoming.write(tcp.recv(65536))

        done(tls.do_handshake)
        tcp.sendall(outgoing.read())
        received = b""
        while len(received) < len(SETTINGS + GOAWAY):
            received += done(lambda: tls.read(100))
        assert received == SETTINGS + GOAWAY


# The way to the server.


def test_a_unix_socket_whose_backlog_is_full_is_tried_again(tmp_path):
    path = str(tmp_path / "s")
    with contextlib.ExitStack() as closed:
        listener = closed.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = closed.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(path)

        async def use():
            reaching = asyncio.ensure_future(reach(types.SimpleNamespace(), path))
            await asyncio.sleep(0)  # the first try
            assert not reaching.done()
            while not reaching.done():
                listener.accept()[0].close()
                await asyncio.wait([reaching], timeout=0.1)
            (await reaching).close()

        asyncio.run(use())


def test_a_unix_socket_that_is_not_there_is_named(world, tmp_path, speak, caplog):
    caplog.set_level(logging.WARNING, "otel_spiffe.credentials")
    with inbound(world, f"unix:{tmp_path}/s") as relay:
        tls = speak(relay)
        with contextlib.suppress(OSError):
            tls.recv(1)
    assert f"cannot reach the server behind this relay, {tmp_path}/s: No such file or directory" in caplog.text
