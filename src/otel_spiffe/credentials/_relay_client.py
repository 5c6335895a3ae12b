# SPDX-License-Identifier: Apache-2.0
"""One client's connection to an inbound relay, from its arrival to its end: handshake, a place, the server, bytes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from otel_spiffe.credentials._relay_dial import shake_hands
from otel_spiffe.credentials._relay_lifetime import Lifetime
from otel_spiffe.credentials._relay_pump import Pump
from otel_spiffe.credentials._relay_upstream import reach
from otel_spiffe.errors import OtelSpiffeError

if TYPE_CHECKING:
    import socket

    from otel_spiffe.credentials._relay_inbound import Inbound
    from otel_spiffe.credentials._tls_sockets import SpiffeSSLSocket

__all__ = ["Client"]

_log = logging.getLogger("otel_spiffe.credentials")

LINGER: Final = 30.0
"""Seconds that the server or the client has to finish after the other has closed its side."""


class Client:
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
            await self._take_place()
            far = await self._reach()
        except OSError as error:
            self._home.report(self._origin, error)
            self.close()
        except Exception as error:  # noqa: BLE001 -- the task's outermost frame
            self._home.loop.tell(partial(_log.error, exc_info=error), "relay on %s: %s", self._home.name, self._origin)
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

    async def _take_place(self) -> None:
        limit = self._home.plan.connect_timeout
        try:
            async with asyncio.timeout(limit):
                await self._home.take_place(self)
        except TimeoutError as error:
            most = f"this relay has {self._home.plan.max_connections} connections, its limit"
            raise OSError(f"{most}, and none ended within {limit:g} s; raise max_connections") from error

    async def _reach(self) -> socket.socket:
        limit = self._home.plan.connect_timeout
        try:
            async with asyncio.timeout(limit):
                self._far = far = await reach(self._home.loop, self._home.plan.upstream)
        except OSError as error:
            reason = f"no answer within {limit:g} s" if isinstance(error, TimeoutError) else error.strerror or error
            raise OSError(f"cannot reach the server behind this relay, {self._home.plan.upstream}: {reason}") from error
        return far

    def _carry(self, tls: SpiffeSSLSocket, far: socket.socket) -> None:
        self._home.served(self._origin, str(tls.peer_id))
        self._pump = pump = Pump(
            self._loop,
            tls,
            far,
            http2=tls.selected_alpn_protocol() == "h2",
            replay=False,
            half_close=True,
            linger=LINGER,
            ended=lambda _error: self.close(),
        )
        pump.start()
        if pump.done:
            return
        if tls.expires_at is not None:
            self._lifetime = Lifetime(self._loop, tls.expires_at, notice=pump.retire, over=self._on_expiry)
            self._lifetime.start()
        self.retire(self._home.generation)  # what came during the handshake

    def _on_expiry(self) -> None:
        who = self._tls.peer_id if self._tls is not None else self._origin
        words = "relay on %s: closing a connection of %s: an X509-SVID has ended"
        self._home.loop.tell(_log.info, words, self._home.name, who)
        self.close()
