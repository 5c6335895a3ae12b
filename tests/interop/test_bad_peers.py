# SPDX-License-Identifier: Apache-2.0
"""A peer that is away, hangs, hangs up, talks plaintext or nonsense: named in time; then go-spiffe takes its port."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time

import grpc
import pytest
import requests
from peerlib import free_port, identity_fields

from otel_spiffe.credentials import http_session, secure_channel
from otel_spiffe.identity import authorize_id

pytestmark = [pytest.mark.builds("gospiffe")]
US, GO = "spiffe://test.example/us", "spiffe://test.example/go"

LIMITS = {"grpc": 2, "https": 3}  # seconds for a connection; a call as such may take longer
# What a thread may wait for its turn on two cores that build and test other things; without it all of these but the
# silent peer end in milliseconds. With the limits it stays below the call's own deadline.
MARGIN = 6
DEADLINE = 12

NOBODY, SILENT = "is not there yet", "never says a word"
# What the peer does once connected, by name; and our sentence.
PEERS = {
    NOBODY: (None, "Connection refused"),
    "hangs up at once": (b"", "it closed the connection during the TLS handshake"),
    SILENT: (None, "did not end within 2 s|did not answer within 3 s"),
    "talks plaintext HTTP": (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "does not speak TLS"),
    "talks plaintext gRPC": (b"\0\0\0\4\0\0\0\0\0", "does not speak TLS"),
    "sends random bytes": (bytes(range(100, 250)), "does not speak TLS"),
    "breaks off its first record": (
        b"\x16\x03\x03\x00\x7a\x02\x00",
        "it closed the connection during the TLS handshake",
    ),
}


@pytest.fixture
def source(spiffe_source_of):
    return spiffe_source_of("/us")


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("transport", ["grpc", "https"])
def test_bad_peers_are_named_and_recovery_is_noticed(go_spiffe, source, spiffe_identity, row, transport, peer):
    port = free_port()
    does, words = PEERS[peer]
    with _client(transport, source, port) as say:
        with contextlib.nullcontext() if peer == NOBODY else _BadPeer(port, does):
            begin = time.monotonic()
            with pytest.raises((grpc.RpcError, requests.RequestException)) as caught:
                say()
            took = time.monotonic() - begin
        text = str(caught.value)
        assert f"127.0.0.1:{port}" in text
        assert re.search(words, text), text
        waits = LIMITS[transport] if peer == SILENT else 0
        assert waits <= took < waits + MARGIN
        theirs = identity_fields(spiffe_identity("/go"))
        with go_spiffe.serve(identity=theirs, authorize={"id": US}, transport=transport, address=f"127.0.0.1:{port}"):
            assert _sooner_or_later(say) == f"{US} hello"
    row(
        "go-spiffe",
        f"a peer on its port {peer}: named within the time limit, and go-spiffe in its place is found",
        "agree",
    )


def _sooner_or_later(say):
    end = time.monotonic() + 60
    while True:
        try:
            return say()
        except (grpc.RpcError, requests.RequestException):
            if time.monotonic() > end:
                raise


@contextlib.contextmanager
def _client(transport, source, port):
    if transport == "grpc":
        target = f"127.0.0.1:{port}"
        with secure_channel(
            target, source, authorize=authorize_id(GO), proxy=None, connect_timeout=LIMITS[transport]
        ) as channel:
            say = channel.unary_unary("/interop.Echo/Say")
            yield lambda: say(b"hello", timeout=DEADLINE).decode()
    else:
        with http_session(source, authorize=authorize_id(GO)) as session:
            yield lambda: session.post(f"https://127.0.0.1:{port}/", data=b"hello", timeout=LIMITS[transport]).text


class _BadPeer:
    """Takes connections on a port and says the same to each; None says nothing and keeps them."""

    def __init__(self, port, words):
        self._words = words
        self._listener = socket.create_server(("127.0.0.1", port))
        self._kept = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for connection in self._kept:
            connection.close()

    def _run(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._words is None:
                self._kept.append(connection)
                continue
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(self._words)
