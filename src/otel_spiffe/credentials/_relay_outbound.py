# SPDX-License-Identifier: Apache-2.0
"""The relay behind a gRPC channel: a Unix socket of this process alone ──► SPIFFE mTLS to one server."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_spiffe.credentials import _loop
from otel_spiffe.credentials._peercred import peer_pid
from otel_spiffe.credentials._relay_accept import Acceptor
from otel_spiffe.credentials._relay_connection import Connection
from otel_spiffe.credentials._relay_dial import Dialer
from otel_spiffe.credentials._relay_listener import PrivateListener
from otel_spiffe.credentials._reports import Reports
from otel_spiffe.credentials._tls import client_context
from otel_spiffe.errors import OtelSpiffeError, SourceUnavailable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from otel_spiffe.credentials._loop import BackgroundLoop
    from otel_spiffe.credentials._proxy import Proxy
    from otel_spiffe.credentials._resolve import HostPort
    from otel_spiffe.credentials._tls_sockets import SpiffeSSLSocket
    from otel_spiffe.identity import Authorizer, Identity, Source

__all__ = ["Outbound", "Plan", "lease"]

_log = logging.getLogger("otel_spiffe.credentials")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides how an outbound relay behaves; relays of equal plans are one."""

    target: HostPort
    source: Source
    authorize: Authorizer
    present_svid: bool
    proxy: Proxy | None
    identity_timeout: float
    connect_timeout: float
    max_connections: int


class Outbound:
    """Accepts this process's connections and relays each over a TLS connection of its own."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.target = plan.target
        self.authority = str(plan.target)
        self.generation = 0
        self._dialer = Dialer(target=plan.target, proxy=plan.proxy, timeout=plan.connect_timeout)
        self._connections: set[Connection] = set()
        self._renewed: asyncio.Event
        self._reports = Reports(f"relay to {self.authority}", warn=self._warn)
        self._unsubscribe: Callable[[], None] = lambda: None
        self._listener = PrivateListener()
        self.loop: BackgroundLoop

    @property
    def address(self) -> str:
        """What a gRPC channel dials."""
        return self._listener.target

    def open(self) -> None:
        """Begin to accept."""
        try:
            loop = _loop.enter(self)
        except BaseException:
            self._listener.close()
            raise
        self._settle(loop)
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
        """Let the parent's connections go and accept this process's own under the same target."""
        connections, self._connections = self._connections, set()
        for connection in connections:
            connection.abandon()
        self._reports.over(self.authority)
        self._listener.reopen()
        self._settle(loop)

    def _settle(self, loop: BackgroundLoop) -> None:
        self.loop = loop
        self._renewed = asyncio.Event()
        # A context of its own: the parent's may have been in use at the moment of a fork.
        self._context = client_context(
            self.plan.source, authorize=self.plan.authorize, present_svid=self.plan.present_svid
        )
        self._context.set_alpn_protocols(["h2"])
        self._acceptor = Acceptor(loop.asyncio, self._listener.socket, self._accept)
        loop.call(lambda: self._acceptor.set(wanted=True))

    def _tear_down(self) -> None:
        self._acceptor.stop()
        for connection in tuple(self._connections):
            connection.close()

    def _on_identity(self, identity: Identity) -> None:
        self.loop.call(self._renew, identity.generation)

    def _renew(self, generation: int) -> None:
        self.generation = max(self.generation, generation)
        self._renewed.set()
        self._renewed = asyncio.Event()
        for connection in tuple(self._connections):
            connection.retire(generation)

    def _accept(self, near: socket.socket, _origin: object) -> None:
        connection = Connection(self, near, ended=self._connections.discard)
        stranger = _stranger(near)
        crowded = len(self._connections) >= self.plan.max_connections
        if len(self._connections) >= 2 * self.plan.max_connections:
            near.close()
            return
        self._connections.add(connection)
        if stranger is not None:
            connection.refuse(stranger)
        elif crowded:
            text = f"the relay to {self.authority} has {self.plan.max_connections} connections, its limit"
            connection.refuse(OtelSpiffeError(f"{text}; close channels that are done, or raise max_connections"))
        else:
            connection.start()

    def current_generation(self) -> int:
        """Return the source's generation, 0 while it has no identity."""
        try:
            return self.plan.source.identity().generation
        except SourceUnavailable:
            return 0

    async def dial(self, hold: Callable[[socket.socket], object]) -> SpiffeSSLSocket:
        """Return a connection to the server; `hold` is called with its socket as soon as there is one.

        Raises:
            OtelSpiffeError: the sentence for whoever made the call.
        """
        identity = await self._identity()
        return await self._dialer.dial(self.loop.asyncio, self.loop.resolver, self._context, identity, hold)

    async def _identity(self) -> Identity:
        try:
            async with asyncio.timeout(self.plan.identity_timeout):
                while True:
                    renewed = self._renewed
                    try:
                        return self.plan.source.identity()
                    except SourceUnavailable:
                        await renewed.wait()
        except TimeoutError:
            return self.plan.source.identity()

    def report(self, error: OtelSpiffeError) -> None:
        """Log `error`, unless it was logged since a connection last stood."""
        self._reports.say(str(error), about=self.authority)

    def accepted(self, far: SpiffeSSLSocket) -> None:
        """Take note that a connection to the server stands."""
        if self._reports.over(self.authority):
            self.loop.tell(_log.info, "relay to %s: recovered, connected to %s", self.authority, far.peer_id)

    def _warn(self, *words: object) -> None:
        self.loop.tell(_log.warning, *words)


def _stranger(near: socket.socket) -> OtelSpiffeError | None:
    try:
        pid = peer_pid(near)
    except OSError as error:
        return OtelSpiffeError(f"the relay cannot tell which process connects to it: {error}")
    if pid == os.getpid():
        return None
    return OtelSpiffeError(
        f"this relay serves process {os.getpid()} alone, and process {pid} connected to it; "
        "after a fork, open the channel or exporter in the child"
    )


class _Registry:
    """The relays that are open, by plan, with how many handles each has."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open: dict[Plan, tuple[Outbound, int]] = {}
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork_in_child)

    def lease(self, plan: Plan) -> tuple[Outbound, Callable[[], None]]:
        try:
            hash(plan)
        except TypeError:  # an authorizer or a source that cannot be compared
            relay = Outbound(plan)
            relay.open()
            return relay, relay.close
        with self._lock:
            relay, handles = self._open.get(plan) or (self._opened(plan), 0)
            self._open[plan] = (relay, handles + 1)
        return relay, lambda: self._give_back(plan)

    @staticmethod
    def _opened(plan: Plan) -> Outbound:
        relay = Outbound(plan)
        relay.open()
        return relay

    def _give_back(self, plan: Plan) -> None:
        with self._lock:
            relay, handles = self._open[plan]
            if handles > 1:
                self._open[plan] = (relay, handles - 1)
                return
            del self._open[plan]
            relay.close()

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()


lease = _Registry().lease
"""Return the relay of a plan, opened if it was not, and a function that gives it back; the last one closes it."""
