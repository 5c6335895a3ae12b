# SPDX-License-Identifier: Apache-2.0
"""The relay in front of a plaintext server: SPIFFE mTLS from clients ──► a local TCP or Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_spiffe.credentials import _loop
from otel_spiffe.credentials._relay_accept import Acceptor
from otel_spiffe.credentials._relay_dial import shake_hands
from otel_spiffe.credentials._relay_lifetime import Lifetime
from otel_spiffe.credentials._relay_pump import Pump
from otel_spiffe.credentials._reports import Reports
from otel_spiffe.credentials._resolve import HostPort, connect
from otel_spiffe.credentials._tls import server_context
from otel_spiffe.errors import InvalidConfiguration, OtelSpiffeError, PeerRejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_spiffe.credentials._loop import BackgroundLoop
    from otel_spiffe.credentials._tls_sockets import SpiffeSSLSocket
    from otel_spiffe.identity import Authorizer, Identity, Source

__all__ = ["Inbound", "InboundPlan"]

_log = logging.getLogger("otel_spiffe.credentials")

BACKLOG: Final = 512
LINGER: Final = 30.0
"""Seconds that the server has to finish after a client has closed its side."""


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
        self._greeting: dict[_Client, None] = {}  # oldest first
        self._served: set[_Client] = set()
        self._reports = Reports(f"relay on {self.name}")
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
        self._unsubscribe = self.plan.source.subscribe(self._on_identity)

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
        for client in (*self._greeting, *self._served):
            client.abandon()
        self._greeting.clear()
        self._served.clear()

    def _tear_down(self) -> None:
        self._acceptor.stop()
        self._closed = True
        for client in (*self._greeting, *self._served):
            client.close()

    def _admit(self) -> None:
        self._acceptor.set(wanted=len(self._served) < self.plan.max_connections)

    def _accept(self, near: socket.socket, origin: tuple[str, int]) -> None:
        if len(self._greeting) >= self.plan.max_handshakes:
            # The oldest has had the most time. Refusing the newest would let silent clients keep all others out.
            next(iter(self._greeting)).close()
        client = _Client(self, near, origin[0])
        self._greeting[client] = None
        client.start()

    def greeted(self, client: _Client, origin: str, peer: str) -> None:
        """Take note that a client was authorized and is connected to the server."""
        self._greeting.pop(client, None)
        self._served.add(client)
        self._reports.over(origin)
        self._reports.over(peer)
        self._admit()

    def gone(self, client: _Client) -> None:
        """Take note that a client's connection has ended."""
        self._greeting.pop(client, None)
        self._served.discard(client)
        if not self._closed:
            self._admit()

    def report(self, origin: str, error: OSError) -> None:
        """Log why a client was not served, unless it was logged since that peer last got in."""
        peer = error.peer if isinstance(error, PeerRejected) else None
        self._reports.say(f"{origin}: {error}", about=str(peer or origin))

    def _on_identity(self, identity: Identity) -> None:
        self.loop.call(self._renew, identity.generation)

    def _renew(self, generation: int) -> None:
        for client in tuple(self._served):
            client.retire(generation)

    def wrap(self, near: socket.socket) -> SpiffeSSLSocket:
        """Return `near` as a TLS socket of the present identity.

        Raises:
            SourceUnavailable: there is none.
        """
        return self._context.wrap_socket(  # type: ignore[return-value]  # the context's sslsocket_class
            near, server_side=True, do_handshake_on_connect=False
        )

    async def reach(self) -> socket.socket:
        """Return a connection to the server.

        Raises:
            OSError: there is none to be had.
        """
        upstream = self.plan.upstream
        if isinstance(upstream, HostPort):
            return await connect(self.loop.asyncio, await self.loop.resolver.resolve(upstream))
        return await connect(self.loop.asyncio, [(socket.AF_UNIX, upstream)])


class _Client:
    """One client's connection, from its arrival to its end."""

    def __init__(self, home: Inbound, near: socket.socket, origin: str) -> None:
        self._home = home
        self._loop = home.loop.asyncio
        self._near = near
        self._origin = origin
        self._tls: SpiffeSSLSocket | None = None
        self._far: socket.socket | None = None
        self._pump: Pump | None = None
        self._task: asyncio.Task[None] | None = None
        self._lifetime: Lifetime | None = None

    def start(self) -> None:
        """Begin the handshake."""
        self._task = self._loop.create_task(self._run())
        # The descriptor of a cancelled handshake is watched until its task has ended; closed before that, its
        # number could belong to the next client already.
        self._task.add_done_callback(self._on_handshake_end)

    def _on_handshake_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.abandon()

    def retire(self, generation: int) -> None:
        """Have an HTTP/2 client open a new connection for new calls, if this one is of an older generation."""
        if self._pump is not None and self._tls is not None and self._tls.generation < generation:
            self._pump.retire()

    def close(self) -> None:
        """End it at once; may be called again."""
        shaking_hands = self._task is not None and self._task.cancel() and self._task is not asyncio.current_task()
        if self._lifetime is not None:
            self._lifetime.stop()
        if self._pump is not None:
            self._pump.stop()
        if not shaking_hands:
            self.abandon()
        self._home.gone(self)

    def abandon(self) -> None:
        """Close the descriptors alone: in the child of a fork, all else is the parent's."""
        for connection in (self._tls, self._near, self._far):
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.close()

    async def _run(self) -> None:
        try:
            tls = await self._greet()
            far = await self._reach()
        except OSError as error:
            self._home.report(self._origin, error)
            self.close()
        except Exception:  # noqa: BLE001 -- the task's outermost frame
            _log.exception("relay on %s: %s", self._home.name, self._origin)
            self.close()
        else:
            self._carry(tls, far)

    async def _greet(self) -> SpiffeSSLSocket:
        self._tls = tls = self._home.wrap(self._near)
        limit = self._home.plan.handshake_timeout
        try:
            async with asyncio.timeout(limit):
                await shake_hands(self._loop, tls)
        except TimeoutError as error:
            raise OSError(f"the TLS handshake did not end within {limit:g} s") from error
        except OtelSpiffeError:
            raise
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or error
            raise OSError(f"the TLS handshake failed: {reason}") from error
        return tls

    async def _reach(self) -> socket.socket:
        limit = self._home.plan.connect_timeout
        try:
            async with asyncio.timeout(limit):
                self._far = far = await self._home.reach()
        except OSError as error:
            reason = f"no answer within {limit:g} s" if isinstance(error, TimeoutError) else error
            raise OSError(f"cannot reach the server behind this relay, {self._home.plan.upstream}: {reason}") from error
        return far

    def _carry(self, tls: SpiffeSSLSocket, far: socket.socket) -> None:
        self._home.greeted(self, self._origin, str(tls.peer_id))
        http2 = tls.selected_alpn_protocol() == "h2"
        self._pump = Pump(
            self._loop, tls, far, http2=http2, replay=False, linger=LINGER, ended=lambda _error: self.close()
        )
        self._pump.start()
        if tls.expires_at is not None:
            self._lifetime = Lifetime(self._loop, tls.expires_at, notice=self._pump.retire, over=self._on_expiry)
            self._lifetime.start()

    def _on_expiry(self) -> None:
        who = self._tls.peer_id if self._tls is not None else self._origin
        _log.info("relay on %s: closing a connection of %s: an X509-SVID has ended", self._home.name, who)
        self.close()


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
