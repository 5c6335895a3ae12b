# SPDX-License-Identifier: Apache-2.0
"""Names to addresses to a socket, on one loop and one thread."""

import asyncio
import contextlib
import socket
import threading

import pytest

from otel_spiffe.credentials import _resolve
from otel_spiffe.credentials._resolve import HostPort, Resolver, connect, parse_host_port
from otel_spiffe.errors import InvalidConfiguration


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("collector:4317", "collector", 4317),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:65535", "::1", 65535),
        ("[fe80::1%lo]:4317", "fe80::1%lo", 4317),
    ],
)
def test_a_target_is_a_host_and_a_port(text, host, port):
    assert parse_host_port(text, setting="target") == HostPort(host, port)
    assert str(parse_host_port(text, setting="target")) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "collector",
        ":4317",
        "collector:",
        "::1:4317",
        "[collector]:4317",
        "https://collector:4317",
        "collector:4317/v1",
        "collector:0",
        "collector:65536",
        "collector:+1",
        "collector:\u0661",
        "col lector:1",
        "user@collector:1",
        "unix:/run/collector.sock",
    ],
)
def test_anything_else_is_refused_with_the_setting_named(text):
    with pytest.raises(InvalidConfiguration, match=r"^target: "):
        parse_host_port(text, setting="target")


@contextlib.contextmanager
def resolver(loop):
    it = Resolver(loop)
    it.start()
    try:
        yield it
    finally:
        it.stop()


def test_a_name_resolves_on_one_thread_however_many_ask(monkeypatch):
    asked, hold = [], threading.Event()

    def look_up(host, port, **_):
        asked.append((host, threading.current_thread().name))
        assert hold.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(_resolve.socket, "getaddrinfo", look_up)

    async def run():
        with resolver(asyncio.get_running_loop()) as it:
            questions = [asyncio.ensure_future(it.resolve(HostPort("collector", 1))) for _ in range(50)]
            await asyncio.sleep(0)
            hold.set()
            return await asyncio.gather(*questions)

    assert asyncio.run(run()) == [[(socket.AF_INET, ("127.0.0.1", 1))]] * 50
    assert [host for host, _ in asked] == ["collector"]
    assert asked[0][1].startswith("otel-spiffe resolver ")


def test_a_name_whose_server_is_silent_delays_no_other(monkeypatch):
    hold = threading.Event()

    def look_up(host, port, **_):
        assert host != "black.hole" or hold.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(_resolve.socket, "getaddrinfo", look_up)

    async def run():
        with resolver(asyncio.get_running_loop()) as it:
            silent = asyncio.ensure_future(it.resolve(HostPort("black.hole", 1)))
            await asyncio.sleep(0)
            found = await it.resolve(HostPort("collector", 2))
            assert not silent.done()
            hold.set()
            await silent
            return found

    assert asyncio.run(run()) == [(socket.AF_INET, ("127.0.0.1", 2))]


def test_numeric_addresses_need_no_thread():
    async def run():
        it = Resolver(asyncio.get_running_loop())  # not started
        return await it.resolve(HostPort("127.0.0.1", 1)), await it.resolve(HostPort("::1", 2))

    assert asyncio.run(run()) == (
        [(socket.AF_INET, ("127.0.0.1", 1))],
        [(socket.AF_INET6, ("::1", 2, 0, 0))],
    )


@pytest.mark.parametrize("host", ["collector.invalid", "a" * 64 + ".example", "a..b"])
def test_a_name_without_addresses_is_an_os_error(host):
    async def run():
        with resolver(asyncio.get_running_loop()) as it:
            return await it.resolve(HostPort(host, 1))

    with pytest.raises(OSError, match=r"\w"):
        asyncio.run(run())


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def v4(port, host="127.0.0.1"):
    return socket.AF_INET, (host, port)


def test_the_first_address_that_answers_is_taken():
    async def run():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with await connect(asyncio.get_running_loop(), [v4(closed_port()), v4(port)]) as connection:
                return connection.getpeername()[1] == port, connection.gettimeout()

    assert asyncio.run(run()) == (True, 0.0)


def test_no_addresss_reason_hides_anothers():
    async def run():
        addresses = [v4(closed_port()), v4(closed_port(), "127.0.0.2"), (socket.AF_UNIX, "/nonexistent/socket")]
        await connect(asyncio.get_running_loop(), addresses)

    with pytest.raises(OSError, match="refused") as caught:
        asyncio.run(run())
    assert str(caught.value) == (
        "Connection refused (127.0.0.1, 127.0.0.2), No such file or directory (/nonexistent/socket)"
    )


def test_no_address_at_all_is_said():
    async def run():
        await connect(asyncio.get_running_loop(), [])

    with pytest.raises(OSError, match="it has no address"):
        asyncio.run(run())


def test_an_attempt_that_is_given_up_leaves_no_descriptor():
    """A full backlog answers nobody, which is as silent as a black hole."""

    async def run():
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            where = v4(listener.getsockname()[1])
            fillers = [socket.socket() for _ in range(8)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(where[1])
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await connect(asyncio.get_running_loop(), [where])
            for filler in fillers:
                filler.close()

    asyncio.run(run())
