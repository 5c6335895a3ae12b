# SPDX-License-Identifier: Apache-2.0
"""What a pump does between two sockets, on a loop whose clock stands still until the test moves it."""

import asyncio
import contextlib
import socket

import pytest

from otel_spiffe.credentials._h2 import GOAWAY
from otel_spiffe.credentials._relay_pump import SETTLE, Pump

SETTINGS = bytes.fromhex("000000040000000000")
PING = bytes.fromhex("000008060000000000") + b"12345678"


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop that the test turns by hand."""

    now = 0.0

    def time(self):
        return self.now

    def turn(self, seconds=0.0):
        """Let `seconds` pass, and do all that is to be done by then."""
        self.now += seconds
        for _ in range(5):
            self.call_soon(self.stop)
            self.run_forever()


class Pair:
    """A pump, and what stands at its two ends."""

    def __init__(self, loop, **keywords):
        self.client, near = socket.socketpair()
        self.server, far = socket.socketpair()
        self.sockets = (self.client, self.server, near, far)
        for each in self.sockets:
            each.setblocking(False)
        self.ended = []
        settings = {"http2": True, "replay": False, "linger": 10.0, **keywords}
        self.pump = Pump(loop, near, far, ended=self._on_end, **settings)
        self.near, self.far = near, far
        self.pump.start()

    def _on_end(self, error):
        self.ended.append(error)

    def close(self):
        self.pump.stop()
        for each in self.sockets:
            each.close()


def said(connection):
    """All that is there to be read now."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while piece := connection.recv(65536):
            data += piece
    return data


@pytest.fixture
def loop():
    loop = StillLoop()
    yield loop
    loop.close()


@pytest.fixture
def pair(loop):
    with contextlib.ExitStack() as closed:

        def make(**keywords):
            made = Pair(loop, **keywords)
            closed.callback(made.close)
            return made

        yield make


# Retiring: gRPC takes a GOAWAY right behind the first SETTINGS for nothing, and retries its call until memory ends.


@pytest.mark.parametrize("replay", [True, False], ids=["outbound", "inbound"])
def test_a_goaway_follows_the_first_frame_by_a_while_however_late_that_comes(loop, pair, replay):
    it = pair(replay=replay)
    it.pump.retire()
    loop.turn(100.0)
    it.server.send(SETTINGS[:4])
    loop.turn(100.0)
    it.server.send(SETTINGS[4:])
    loop.turn()
    it.server.send(PING)
    loop.turn(SETTLE / 2)
    assert said(it.client) == SETTINGS + PING
    loop.turn(SETTLE / 2)
    assert said(it.client) == GOAWAY


def test_a_goaway_waits_for_the_end_of_a_frame_and_is_said_once(loop, pair):
    it = pair()
    it.server.send(SETTINGS + PING[:10])
    loop.turn(2 * SETTLE)
    loop.turn(2 * SETTLE)
    it.pump.retire()
    it.pump.retire()
    loop.turn()
    assert said(it.client) == SETTINGS + PING[:10]
    it.server.send(PING[10:] + PING[:1])
    loop.turn()
    it.pump.retire()
    loop.turn()
    assert said(it.client) == PING[10:] + GOAWAY + PING[:1]


def test_a_client_of_another_protocol_hears_of_no_retirement(loop, pair):
    it = pair(http2=False)
    it.server.send(SETTINGS)
    it.pump.retire()
    loop.turn(2 * SETTLE)
    assert said(it.client) == SETTINGS
