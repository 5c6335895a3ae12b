# SPDX-License-Identifier: Apache-2.0
"""What a pump does between two sockets, on a loop whose clock stands still until the test moves it."""

import contextlib
import socket

import pytest

from otel_spiffe.credentials._h2 import GOAWAY
from otel_spiffe.credentials._relay_pump import SETTLE, STALL, Pump

SETTINGS = bytes.fromhex("000000040000000000")
PING = bytes.fromhex("000008060000000000") + b"12345678"


class Pair:
    """A pump, and what stands at its two ends."""

    def __init__(self, loop, **keywords):
        self.client, near = socket.socketpair()
        self.server, far = socket.socketpair()
        self.sockets = (self.client, self.server, near, far)
        for each in self.sockets:
            each.setblocking(False)
        self.ended = []
        settings = {"http2": True, "replay": False, "half_close": False, "linger": 10.0, **keywords}
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
def pair(still_loop):
    with contextlib.ExitStack() as closed:

        def make(**keywords):
            made = Pair(still_loop, **keywords)
            closed.callback(made.close)
            return made

        yield make


# Retiring: gRPC takes a GOAWAY right behind the first SETTINGS for nothing, and retries its call until memory ends.


@pytest.mark.parametrize("replay", [True, False], ids=["outbound", "inbound"])
def test_a_goaway_follows_the_first_frame_by_a_while_however_late_that_comes(still_loop, pair, replay):
    it = pair(replay=replay)
    it.pump.retire()
    still_loop.turn(100.0)
    it.server.send(SETTINGS[:4])
    still_loop.turn(100.0)
    it.server.send(SETTINGS[4:])
    still_loop.turn()
    it.server.send(PING)
    still_loop.turn(SETTLE / 2)
    assert said(it.client) == SETTINGS + PING
    still_loop.turn(SETTLE / 2)
    assert said(it.client) == GOAWAY


def test_a_goaway_waits_for_the_end_of_a_frame_and_is_said_once(still_loop, pair):
    it = pair()
    it.server.send(SETTINGS + PING[:10])
    still_loop.turn(2 * SETTLE)
    still_loop.turn(2 * SETTLE)
    it.pump.retire()
    it.pump.retire()
    still_loop.turn()
    assert said(it.client) == SETTINGS + PING[:10]
    it.server.send(PING[10:] + PING[:1])
    still_loop.turn()
    it.pump.retire()
    still_loop.turn()
    assert said(it.client) == PING[10:] + GOAWAY + PING[:1]


def test_a_client_of_another_protocol_hears_of_no_retirement(still_loop, pair):
    it = pair(http2=False)
    it.server.send(SETTINGS)
    it.pump.retire()
    still_loop.turn(2 * SETTLE)
    assert said(it.client) == SETTINGS


def test_no_goaway_follows_the_servers_end(still_loop, pair):
    it = pair(half_close=True)
    it.server.send(SETTINGS)
    still_loop.turn(SETTLE)
    it.server.shutdown(socket.SHUT_WR)
    still_loop.turn(SETTLE)
    it.pump.retire()
    still_loop.turn()
    assert said(it.client) == SETTINGS
    assert not it.ended


# The end of one side.


def test_a_server_that_has_said_all_hears_the_client_to_its_end(still_loop, pair):
    it = pair(http2=False, half_close=True)
    it.server.send(b"too large")
    it.server.shutdown(socket.SHUT_WR)
    for _ in range(3):
        it.client.send(b"more")
        still_loop.turn()
    assert said(it.client) == b"too large"
    assert it.client.recv(1) == b""
    assert said(it.server) == b"more" * 3
    it.client.close()
    still_loop.turn()
    assert it.ended == [None]


def test_a_client_that_does_not_leave_after_the_server_has_a_while(still_loop, pair):
    it = pair(http2=False, half_close=True, linger=10.0)
    it.server.shutdown(socket.SHUT_WR)
    still_loop.turn()
    still_loop.turn(9.0)
    assert not it.ended
    still_loop.turn(1.0)
    assert it.ended == [None]


def test_a_client_is_heard_to_its_end_though_the_server_has_gone(still_loop, pair):
    """Closed with bytes that nobody read, its socket would be reset, and with it what is on its way to the client."""
    it = pair(http2=False, half_close=True)
    it.server.send(b"too large")
    it.server.close()
    for _ in range(3):
        it.client.send(b"more")
        still_loop.turn()
    assert said(it.client) == b"too large"
    assert not it.ended
    assert said(it.near) == b""
    it.client.shutdown(socket.SHUT_WR)
    still_loop.turn()
    assert len(it.ended) == 1


def test_without_a_half_close_the_servers_end_is_the_end(still_loop, pair):
    it = pair()
    it.server.send(SETTINGS)
    it.server.shutdown(socket.SHUT_WR)
    still_loop.turn()
    assert said(it.client) == SETTINGS
    assert it.ended == [None]


def test_the_first_byte_is_told_once(still_loop, pair):
    answers = []
    it = pair(replay=True, answered=lambda: answers.append(it.pump.replay))
    still_loop.turn()
    assert answers == []
    for _ in range(2):
        it.server.send(b"x")
        still_loop.turn()
    assert answers == [None]


# A server that takes nothing: then the client is not read, and its end is not heard.


def stuff(loop, it):
    """Send until nothing more is taken anywhere, and return how much was."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += it.client.send(b"x" * 65536)
            loop.turn()
    loop.turn()
    return sent


def test_a_client_that_leaves_a_server_that_takes_nothing_is_missed(still_loop, pair):
    it = pair()
    stuff(still_loop, it)
    it.client.close()
    for _ in range(2):
        still_loop.turn(STALL)
    assert it.ended == [None]
    assert it.pump.client_left


def test_a_client_that_waits_for_a_server_that_takes_nothing_is_left_alone(still_loop, pair):
    it = pair()
    stuff(still_loop, it)
    it.client.shutdown(socket.SHUT_WR)
    for _ in range(10):
        still_loop.turn(STALL)
    assert not it.ended


def test_what_a_client_left_behind_goes_to_a_server_that_takes_it(still_loop, pair):
    it = pair(linger=1000.0)
    left = stuff(still_loop, it)
    it.client.close()
    while left > 0:
        data = said(it.server)
        assert data
        left -= len(data)
        still_loop.turn()
        still_loop.turn(STALL)
    assert left == 0
    assert not it.ended
