# SPDX-License-Identifier: Apache-2.0
"""The relay in front of a plaintext server: SPIFFE mTLS from clients ──► a local TCP or Unix socket."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_spiffe.credentials import _loop
from otel_spiffe.credentials._relay_accept import Acceptor
from otel_spiffe.credentials._relay_client import Client
from otel_spiffe.credentials._reports import Reports
from otel_spiffe.credentials._resolve import HostPort
from otel_spiffe.credentials._tls import server_context
from otel_spiffe.errors import InvalidConfiguration, PeerRejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_spiffe.credentials._loop import BackgroundLoop
    from otel_spiffe.credentials._tls_sockets import SpiffeSSLSocket
    from otel_spiffe.identity import Authorizer, Identity, Source

__all__ = ["Inbound", "InboundPlan"]

_log = logging.getLogger("otel_spiffe.credentials")

BACKLOG: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundPlan:
    """Everything that decides how an inbound relay behaves."""

    listen: HostPort
    source: Source
    authorize: Authorizer
    upstream: HostPort | str
    alpn: tuple[str, ...]
    handshake_timeout: float
    connect_timeout: float
    max_connections: int
    max_handshakes: int


class Inbound:
    """Accepts clients over SPIFFE mTLS and relays each to the server behind it."""

    def __init__(self, plan: InboundPlan) -> None:
        self.plan = plan
        self.loop: BackgroundLoop
        self._listener = _listen(plan.listen)
        host, port = self._listener.getsockname()[:2]
        self.address: tuple[str, int] = (host, port)
        self.name = HostPort(host, port)
        self._context = server_context(plan.source, authorize=plan.authorize)
        self._context.set_alpn_protocols(plan.alpn)
        self._greeting: dict[Client, None] = {}  # oldest first
        self._placed: set[Client] = set()  # being connected to the server, or connected
        self._places = asyncio.Semaphore(plan.max_connections)
        self.generation = 0
        self._reports = Reports(f"relay on {self.name}", warn=self._warn)
        self._closed = False
        self._acceptor: Acceptor
        self._unsubscribe: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Begin to accept."""
        try:
            self.loop = _loop.enter(self)
        except BaseException:
            self._listener.close()
            raise
        self._acceptor = Acceptor(self.loop.asyncio, self._listener, self._accept)
        self.loop.call(self._admit)
        try:
            self._unsubscribe = self.plan.source.subscribe(self._on_identity)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End every connection, and listen no more."""
        self._unsubscribe()
        self.loop.run(self._tear_down)
        _loop.leave(self)
        self._listener.close()

    def after_fork_in_child(self, loop: BackgroundLoop) -> None:
        """Let everything go: the listening address and its clients are the parent's."""
        self.loop = loop
        self._listener.close()
        self._acceptor = Acceptor(loop.asyncio, self._listener, self._accept)
        for client in (*self._greeting, *self._placed):
            client.abandon()
        self._greeting.clear()
        self._placed.clear()

    def _tear_down(self) -> None:
        self._acceptor.stop()
        self._closed = True
        for client in (*self._greeting, *self._placed):
            client.close()

    def _admit(self) -> None:
        self._acceptor.set(wanted=not self._places.locked())

    def _accept(self, near: socket.socket, origin: tuple[str, int]) -> None:
        if len(self._greeting) >= self.plan.max_handshakes:
            # The oldest has had the most time. Refusing the newest would let silent clients keep all others out.
            next(iter(self._greeting)).close()
        client = Client(self, near, origin[0])
        self._greeting[client] = None
        client.start()

    async def take_place(self, client: Client) -> None:
        """Return when `client`, who is authorized, is one of `max_connections`; strangers take no places."""
        await self._places.acquire()
        self._greeting.pop(client, None)
        self._placed.add(client)
        self._admit()

    def served(self, origin: str, peer: str) -> None:
        """Take note that a client is connected to the server."""
        self._reports.over(origin)
        self._reports.over(peer)

    def gone(self, client: Client) -> None:
        """Take note that a client's connection has ended."""
        self._greeting.pop(client, None)
        if client in self._placed:
            self._placed.discard(client)
            self._places.release()
        if not self._closed:
            self._admit()

    def report(self, origin: str, error: OSError) -> None:
        """Log why a client was not served, unless it was logged since that peer last got in."""
        peer = error.peer if isinstance(error, PeerRejected) else None
        self._reports.say(f"{origin}: {error}", about=str(peer or origin))

    def _warn(self, *words: object) -> None:
        self.loop.tell(_log.warning, *words)

    def _on_identity(self, identity: Identity) -> None:
        self.loop.call(self._renew, identity.generation)

    def _renew(self, generation: int) -> None:
        self.generation = max(self.generation, generation)
        for client in tuple(self._placed):
            client.retire(generation)

    def wrap(self, near: socket.socket) -> SpiffeSSLSocket:
        """Return `near` as a TLS socket of the present identity.

        Raises:
            SourceUnavailable: there is none.
        """
        return self._context.wrap_socket(  # type: ignore[return-value]  # the context's sslsocket_class
            near, server_side=True, do_handshake_on_connect=False
        )


def _listen(where: HostPort) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise InvalidConfiguration("listen", f"cannot listen on {where}: {error.strerror or error}") from error
    listener.setblocking(False)  # noqa: FBT003 -- the standard library's signature
    return listener
