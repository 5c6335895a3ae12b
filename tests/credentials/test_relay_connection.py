# SPDX-License-Identifier: Apache-2.0
"""One connection of an outbound relay: what is said of a server that refuses it, is silent, or answers."""

import datetime as dt
import socket
import types

import pytest

from otel_spiffe.credentials._relay_answer import HOLD
from otel_spiffe.credentials._relay_connection import Connection
from otel_spiffe.credentials._resolve import HostPort

SETTINGS = bytes.fromhex("000000040000000000")
TIMEOUT = 0.5


class Far(socket.socket):
    """Stands for a TLS socket whose handshake is done."""

    peer_id, local_id, generation = "spiffe://prod.example/collector", None, 1
    expires_at = dt.datetime.max.replace(tzinfo=dt.UTC)


class Home:
    """Stands for the relay: its server is the other end of a socket pair."""

    authority, target, generation = "collector:4317", HostPort("collector", 4317), 1

    def __init__(self, loop):
        self.loop = types.SimpleNamespace(asyncio=loop)
        self.plan = types.SimpleNamespace(connect_timeout=TIMEOUT)
        self.server, far = socket.socketpair()
        self.far = Far(fileno=far.detach())
        self.client, self.near = socket.socketpair()
        for each in (self.far, self.near, self.client):
            each.setblocking(False)
        self.reported, self.stood = [], []

    async def dial(self, *_):
        return self.far

    def current_generation(self):
        return self.generation

    def report(self, error):
        self.reported.append(str(error))

    def accepted(self, far):
        self.stood.append(far)


@pytest.fixture
def home(still_loop):
    home = Home(still_loop)
    yield home
    home.server.close()
    home.client.close()


@pytest.fixture
def connection(home):
    connection = Connection(home, home.near, ended=lambda _: None)
    yield connection
    connection.close()


def test_a_server_that_leaves_without_a_word_is_reported_once(still_loop, home, connection):
    """Also where the time for its first byte ends while the refusal stands."""
    home.server.close()
    connection.start()
    still_loop.turn()
    assert "refused us" in home.reported[0]
    assert connection._lifetime is None  # it is not the refusal's
    assert TIMEOUT < HOLD
    still_loop.turn(TIMEOUT)
    assert len(home.reported) == 1
    assert home.stood == []


def test_a_server_that_stays_silent_is_reported_and_has_not_stood(still_loop, home, connection):
    connection.start()
    still_loop.turn()
    still_loop.turn(TIMEOUT)
    assert "said nothing within 0.5 s" in home.reported[0]
    assert home.stood == []


def test_a_connection_stands_from_the_servers_first_byte_on(still_loop, home, connection):
    connection.start()
    still_loop.turn()
    assert home.stood == []
    home.server.send(SETTINGS)
    still_loop.turn()
    still_loop.turn(TIMEOUT)
    assert home.stood == [home.far]
    assert home.reported == []
