# SPDX-License-Identifier: Apache-2.0
"""Two ends of a TLS connection, and a listener, for the tests of contexts."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


APP, COLLECTOR = "spiffe://test.example/app", "spiffe://test.example/collector"


WAIT = 30.0


@dataclass
class End:
    """How one end of a meeting went."""

    peer_id: str | None = None
    data: bytes | None = None
    error: BaseException | None = None
    version: str | None = None


@dataclass
class Meeting:
    client: End = field(default_factory=End)
    server: End = field(default_factory=End)


def meet(client: ssl.SSLContext, server: ssl.SSLContext) -> Meeting:
    """Have two contexts shake hands over a socket pair and greet each other."""
    meeting = Meeting()
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=greet, args=(server, theirs, meeting.server, b"server"), daemon=True)
    thread.start()
    greet(client, ours, meeting.client, b"client")
    thread.join(WAIT)
    assert not thread.is_alive()
    return meeting


def greet(context, sock, end, word):
    sock.settimeout(WAIT)
    try:
        with context.wrap_socket(sock, server_side=word == b"server") as connection:
            end.version = connection.version()
            peer = getattr(connection, "peer_id", None)
            end.peer_id = str(peer) if peer is not None else None
            connection.sendall(word)
            end.data = connection.recv(100)
    except OSError as error:
        end.error = error
    finally:
        sock.close()


def capped(context, version):
    context.maximum_version = version
    return context


class Unchecked:
    """A source that gives out what a real one would refuse."""

    def __init__(self, identity):
        self._identity = identity

    def identity(self):
        return self._identity


@contextlib.contextmanager
def pair():
    a, b = socket.socketpair()
    a.settimeout(WAIT)
    b.settimeout(WAIT)
    with contextlib.closing(a), contextlib.closing(b):
        yield a, b


def descriptors():
    """Those of this process that are open, without the one that it takes to look."""
    return {each for each in [int(each.name) for each in Path("/dev/fd").iterdir()] if Path(f"/dev/fd/{each}").exists()}


def in_turns(*steps):
    results = {}
    for _ in range(10_000):
        for number, step in enumerate(steps):
            if number not in results:
                with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    results[number] = step()
        if len(results) == len(steps):
            return [results[number] for number in range(len(steps))]
    raise AssertionError(results)


class Listener:
    """Serves one greeting a connection over a context that wraps the listening socket, as `http.server` does."""

    def __init__(self, context):
        self.errors = queue.Queue()
        self.closing = False
        self.sock = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.address = self.sock.getsockname()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.sock.accept()
            except OSError as error:
                if self.closing:
                    return
                self.errors.put(error)
                continue
            with connection, contextlib.suppress(OSError):
                connection.settimeout(WAIT)
                connection.sendall(str(connection.peer_id).encode())
                connection.unwrap()  # or OpenSSL forgets the session

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closing = True
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join(WAIT)
        assert not self.thread.is_alive()


def ask(context, address):
    with socket.create_connection(address, WAIT) as sock, context.wrap_socket(sock) as connection:
        return connection.recv(200).decode(), connection
