# SPDX-License-Identifier: Apache-2.0
"""Outbound relays: who may use them, what they leave behind, rotation, forks, and the end of the interpreter."""

import contextlib
import datetime as dt
import functools
import os
import socket
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from own_interpreter import python, python_with_world

from otel_spiffe.credentials import Relay, secure_channel
from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.identity import authorize_any, authorize_id
from otel_spiffe.sources import StaticSource

COLLECTOR = "spiffe://prod.example/collector"
APP = "spiffe://prod.example/app"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="names sockets by descriptors in /proc")


def eventually(claim, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if claim():
            return True
        time.sleep(0.01)  # polled: what is waited for happens in grpc's or the kernel's time
    return claim()


def echo_of(relay):
    return grpc.insecure_channel(relay.target, options=[("grpc.default_authority", relay.authority)])


def refused(echo, words):
    try:
        echo(b"hello", timeout=30)
    except grpc.RpcError as error:
        return words in error.details()
    return False


def our_threads():
    return [each.name for each in threading.enumerate() if each.name.startswith("otel-spiffe r")]


# What a relay leaves behind.


def test_close_leaves_no_thread_no_descriptor_and_no_file(world, servers):
    source = world.source()
    with servers.echo(world) as port:

        def use():
            with secure_channel(f"127.0.0.1:{port}", source, authorize=authorize_any()) as channel:
                channel.unary_unary("/test/Echo")(b"hello", timeout=30)

        use()  # what gRPC itself keeps for good
        before = psutil.Process().num_fds()
        for _ in range(10):
            use()
        assert our_threads() == []
        assert source.subscribers == 0
        assert eventually(lambda: psutil.Process().num_fds() <= before + 1)
    assert not list(Path(tempfile.gettempdir()).glob(f"otel-spiffe-relay-{os.getpid()}-*"))


def test_relays_of_equal_settings_are_one(world, servers):
    source = world.source()
    with servers.echo(world) as port:
        open_relay = functools.partial(
            Relay.outbound, f"127.0.0.1:{port}", source, authorize=authorize_id(COLLECTOR), proxy=None
        )
        relays = [open_relay() for _ in range(1000)]
        assert {relay.target for relay in relays} == {relays[0].target}
        assert [each for each in our_threads() if not each.startswith("otel-spiffe resolver")] == ["otel-spiffe relay"]
        assert source.subscribers == 1
        with open_relay(present_svid=False) as other:
            assert other.target != relays[0].target
        for relay in relays[1:]:
            relay.close()
            relay.close()
        with echo_of(relays[0]) as channel:
            assert channel.unary_unary("/test/Echo")(b"hello", timeout=30) == b"hello"
        relays[0].close()
    assert our_threads() == []


def test_an_authorizer_that_cannot_be_compared_has_a_relay_of_its_own(world):
    class Unhashable:
        __hash__ = None

        def __call__(self, peer):
            pass

    policy = Unhashable()
    with (
        Relay.outbound("a:1", world.source(), authorize=policy) as one,
        Relay.outbound("a:1", world.source(), authorize=policy) as two,
    ):
        assert one.target != two.target


# Who may use it.


@LINUX
def test_another_process_is_refused_with_the_reason(world, servers):
    script = """
        import sys, grpc
        try:
            grpc.insecure_channel(sys.argv[1]).unary_unary("/test/Echo")(b"hello", timeout=30)
        except grpc.RpcError as error:
            print(error.details())
    """
    with (
        servers.echo(world) as port,
        Relay.outbound(f"127.0.0.1:{port}", world.source(), authorize=authorize_any()) as it,
    ):
        foreign = it.target.replace("/self/", f"/{os.getpid()}/")
        done = python(script, foreign)
    assert f"this relay serves process {os.getpid()} alone" in done.stdout


def test_connections_beyond_the_limit_are_refused_with_the_reason(world, servers):
    with (
        servers.echo(world) as port,
        Relay.outbound(f"127.0.0.1:{port}", world.source(), authorize=authorize_any(), max_connections=1) as relay,
        echo_of(relay) as first,
        grpc.insecure_channel(relay.target, options=[("grpc.use_local_subchannel_pool", 1)]) as second,
    ):
        assert first.unary_unary("/test/Echo")(b"hello", timeout=30) == b"hello"
        with pytest.raises(grpc.RpcError, match="has 1 connections, its limit"):
            second.unary_unary("/test/Echo")(b"hello", timeout=30)


@pytest.mark.parametrize("module", ["gevent", "eventlet"])
def test_greenlets_are_refused_with_the_reason(module):
    pytest.importorskip(module)
    script = f"""
        import sys
        if {module!r} == "gevent":
            from gevent import monkey; monkey.patch_all()
        else:
            import eventlet; eventlet.monkey_patch()
        from otel_spiffe.credentials import secure_channel
        from otel_spiffe.errors import InvalidConfiguration
        from otel_spiffe.identity import authorize_any
        try:
            secure_channel("a:1", None, authorize=authorize_any())
        except InvalidConfiguration as error:
            print(error)
    """
    done = python(script)
    assert f"{module} has replaced this process's threads" in done.stdout
    assert "use real threads" in done.stdout


def test_windows_is_refused_with_the_reason(monkeypatch, world):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(InvalidConfiguration, match="Unix sockets"):
        Relay.outbound("a:1", world.source(), authorize=authorize_any())


# Rotation.


def test_a_hundred_rotations_under_load_lose_no_call(world, servers):
    source, stop, outcomes = world.source(), threading.Event(), []

    def send(echo):
        sent = 0
        while not stop.is_set():
            assert echo(b"x" * 50_000, timeout=60) == b"x" * 50_000
            sent += 1
        return sent

    with (
        servers.echo(world) as port,
        secure_channel(f"127.0.0.1:{port}", source, authorize=authorize_id(COLLECTOR)) as channel,
        ThreadPoolExecutor(4) as pool,
    ):
        echo = channel.unary_unary("/test/Echo")
        outcomes = [pool.submit(send, echo) for _ in range(4)]
        try:
            for _ in range(100):
                source.put(world.identity())
                echo(b"next", timeout=60)
        finally:
            stop.set()
        assert all(outcome.result(60) > 0 for outcome in outcomes)


def test_a_rotation_leaves_a_stream_alone_and_moves_new_calls(world, servers):
    source, presented = world.source(), []

    def serve(connection):
        tls = context.wrap_socket(connection, server_side=True)
        presented.append(tls.getpeercert(binary_form=True))
        with tls, socket.create_connection(("127.0.0.1", plain)) as behind:
            carry(tls, behind)

    context = servers.tls_context(world)
    with (
        servers.echo(world, credentials=False) as plain,
        servers.raw(serve) as port,
        secure_channel(f"127.0.0.1:{port}", source, authorize=authorize_any()) as channel,
    ):
        gate = threading.Event()

        def requests():
            yield b"one"
            gate.wait(60)
            yield b"two"

        stream = channel.stream_stream("/test/Stream")(requests(), timeout=120)
        assert next(stream) == b"one"
        source.put(world.identity())
        echo = channel.unary_unary("/test/Echo")
        assert eventually(lambda: echo(b"hello", timeout=60) == b"hello" and len(presented) == 2)
        gate.set()
        assert list(stream) == [b"two"]
    assert len(set(presented)) == 2


def carry(tls, behind):
    """A small TLS terminator for one connection."""

    def back():
        with contextlib.suppress(OSError):
            while data := behind.recv(65536):
                tls.sendall(data)

    thread = threading.Thread(target=back, daemon=True)
    thread.start()
    with contextlib.suppress(OSError):
        while data := tls.recv(65536):
            behind.sendall(data)
    with contextlib.suppress(OSError):
        behind.shutdown(socket.SHUT_RDWR)
    thread.join(20)


def test_an_authority_that_is_withdrawn_refuses_the_next_call(world, stranger_world, servers):
    source = world.source()
    with (
        servers.echo(world) as port,
        secure_channel(f"127.0.0.1:{port}", source, authorize=authorize_any()) as channel,
    ):
        echo = channel.unary_unary("/test/Echo")
        assert echo(b"hello", timeout=30) == b"hello"
        source.put(world.identity(bundles=[stranger_world.ca.bundle]))
        assert eventually(lambda: refused(echo, "is not trusted"))


def test_a_connection_ends_with_the_svid_that_it_was_made_with(world, servers):
    """Both ends' count: here the server's ends first."""
    svid = world.ca.issue(COLLECTOR, lifetime=dt.timedelta(seconds=3))
    with (
        servers.echo(world, svid=svid) as port,
        secure_channel(f"127.0.0.1:{port}", world.source(), authorize=authorize_any()) as channel,
    ):
        hold = threading.Event()

        def requests():
            yield b"one"
            hold.wait(60)

        stream = channel.stream_stream("/test/Stream")(requests(), timeout=60)
        assert next(stream) == b"one"
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        hold.set()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert eventually(lambda: refused(channel.unary_unary("/test/Echo"), "expired"))  # a second is inclusive


# Forks, and the end of the interpreter: each in an interpreter of its own.

FORKS = """
    import subprocess
    serving = os.fork()  # before gRPC is used: the server has a process of its own
    if serving == 0:
        os.close(port_in)
        with conftest.echo_server(world) as port:
            os.write(port_out, str(port).encode())
            threading.Event().wait(60)
        os._exit(0)
    port = int(os.read(port_in, 10))
    channel = secure_channel(f"127.0.0.1:{port}", world.source(), authorize=authorize_id(conftest.COLLECTOR))
    echo = channel.unary_unary("/test/Echo")
    if sys.argv[2] == "used":
        assert echo(b"before", timeout=30) == b"before"
    children = []
    for n in range(3):
        child = os.fork()
        if child == 0:
            try:
                assert echo(b"child", timeout=30) == b"child"
                again = secure_channel(f"127.0.0.1:{port}", world.source(), authorize=authorize_any())
                assert again.unary_unary("/test/Echo")(b"new", timeout=30) == b"new"
                grandchild = os.fork()
                if grandchild == 0:
                    assert echo(b"grandchild", timeout=30) == b"grandchild"
                    os._exit(0)
                assert os.waitpid(grandchild, 0)[1] == 0
                again.close()
                channel.close()
                names = [each.name for each in threading.enumerate() if each.name.startswith("otel-spiffe r")]
                assert names == [], names
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        children.append(child)
        assert echo(b"parent", timeout=30) == b"parent"
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert echo(b"after", timeout=30) == b"after"
    channel.close()
    os.kill(serving, 9)
    os.waitpid(serving, 0)
    print("done")
"""


@LINUX
@pytest.mark.parametrize("support", ["", "1"])
@pytest.mark.parametrize("before", ["used", "unused"])
def test_a_channel_works_in_forked_children_and_goes_on_in_the_parent(before, support):
    environ = {"GRPC_ENABLE_FORK_SUPPORT": support} if support else {}
    done = python_with_world("    port_in, port_out = os.pipe()\n" + FORKS, before, **environ)
    assert done.stdout.endswith("done\n")


ENDS = """
    import atexit
    from concurrent.futures import ThreadPoolExecutor
    import conftest
    channel = secure_channel(sys.argv[2], world.source(), authorize=authorize_any())
    def last():
        try:
            channel.unary_unary("/test/Echo")(b"last", timeout=30)
        except grpc.RpcError as error:
            print(error.details(), flush=True)
    atexit.register(last)
"""


def interpreters():
    """This one, and those with the package in them that OTEL_SPIFFE_TEST_PYTHONS names (a list like PATH)."""
    others = os.environ.get("OTEL_SPIFFE_TEST_PYTHONS", "").split(os.pathsep)
    return [sys.executable, *filter(None, others)]


@pytest.mark.parametrize("executable", interpreters())
def test_a_call_at_exit_still_resolves_connects_and_shakes_hands(world, servers, executable):
    """Neither an executor nor a new thread can be had then; the server's alert shows that the handshake was made."""
    with servers.raw(servers.tls(servers.tls_context(world))) as port:
        done = python_with_world(ENDS, f"localhost:{port}", executable=executable)
    assert "spiffe://prod.example/collector is not trusted" in done.stdout
    assert "Fatal" not in done.stderr


FORKS_IN_THE_MIDDLE = """
    heard, ended = threading.Event(), threading.Event()
    def serve(connection):
        connection.recv(1)
        heard.set()
        while connection.recv(65536):
            pass
        ended.set()
    with conftest.raw_server(serve) as port:
        channel = secure_channel(f"127.0.0.1:{port}", world.source(), authorize=authorize_any(), connect_timeout=60)
        call = channel.unary_unary("/test/Echo").future(b"x", timeout=60)
        assert heard.wait(30)  # so it is in its handshake, and stays there
        hold_out, hold_in = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(hold_in)
            os.read(hold_out, 1)
            os._exit(0)
        channel.close()
        assert ended.wait(30), "the child holds the connection"
        os.close(hold_in)
        os.waitpid(child, 0)
    print("done")
"""


@LINUX
def test_a_connection_that_is_being_made_does_not_live_on_in_a_forked_child():
    assert python_with_world(FORKS_IN_THE_MIDDLE).stdout.endswith("done\n")


class Unwilling(StaticSource):
    """A source that gives an identity and takes no subscriber."""

    def subscribe(self, callback):  # noqa: ARG002 -- the protocol's
        raise RuntimeError("no more subscribers")


def test_a_source_that_takes_no_subscriber_leaves_no_relay_behind(world):
    source = Unwilling(world.identity())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no more subscribers"):
            Relay.outbound("a:1", source, authorize=authorize_any())
        assert our_threads() == []
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = f"127.0.0.1:{free.getsockname()[1]}"
    for _ in range(2):  # the second would find the port taken
        with pytest.raises(RuntimeError, match="no more subscribers"):
            Relay.inbound(where, source, authorize=authorize_any(), upstream="127.0.0.1:1")
        assert our_threads() == []


def test_the_far_end_of_a_connection_is_kept_alive(world, servers):
    with (
        servers.echo(world) as port,
        Relay.outbound(f"127.0.0.1:{port}", world.source(), authorize=authorize_any()) as relay,
        echo_of(relay) as channel,
    ):
        assert channel.unary_unary("/test/Echo")(b"hello", timeout=30) == b"hello"
        (connection,) = relay._core._connections
        assert connection._far.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert connection._far.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
