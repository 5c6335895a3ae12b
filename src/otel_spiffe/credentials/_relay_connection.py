# SPDX-License-Identifier: Apache-2.0
"""One client's connection, from its arrival to its end: dial, then carry bytes; or refuse with a sentence."""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from otel_spiffe.credentials._relay_answer import Refusal
from otel_spiffe.credentials._relay_dial import unreachable
from otel_spiffe.credentials._relay_pump import Pump
from otel_spiffe.errors import OtelSpiffeError, RefusedByPeer

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from otel_spiffe.credentials._relay_outbound import Outbound
    from otel_spiffe.credentials._tls_sockets import SpiffeSSLSocket

__all__ = ["Connection"]

_log = logging.getLogger("otel_spiffe.credentials")

RETIRE_SHARE: Final = 0.1
"""Of what remains of the X509-SVIDs: so long before their end the client is told to leave."""
MAX_RETIRE: Final = 30.0
"""Seconds of that at the most."""
RECHECK: Final = 3600.0
"""Seconds after which the clock is read again: it may be set while a timer runs."""


class Connection:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, home: Outbound, near: socket.socket, *, ended: Callable[[Connection], object]) -> None:
        self._home = home
        self._loop = home.loop.asyncio
        self._near = near
        self._ended = ended
        self._far: SpiffeSSLSocket | None = None
        self._pump: Pump | None = None
        self._refusal: Refusal | None = None
        self._task: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to dial."""
        self._task = self._loop.create_task(self._run())

    def retire(self, generation: int) -> None:
        """Have the client open a new connection for new calls, if this one is of an older generation."""
        if self._pump is not None and self._far is not None and self._far.generation < generation:
            self._pump.retire()

    def refuse(self, error: OtelSpiffeError, said: bytes | bytearray = b"") -> None:
        """Answer every call with `error`'s sentence."""
        self._home.report(error)
        self._refusal = Refusal(self._loop, self._near, str(error), ended=self.close)
        self._refusal.start(said)

    def close(self) -> None:
        """End it at once; may be called again."""
        if self._task is not None:
            self._task.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._pump is not None:
            self._pump.stop()
        if self._refusal is not None:
            self._refusal.stop()
        self.abandon()
        self._ended(self)

    def abandon(self) -> None:
        """Close the descriptors alone: in the child of a fork, all else is the parent's."""
        for connection in (self._near, self._far):
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.close()

    async def _run(self) -> None:
        try:
            self._far = await self._home.dial()
        except OtelSpiffeError as error:
            self.refuse(error)
        except Exception as error:  # noqa: BLE001 -- the task's outermost frame
            _log.exception("relay to %s", self._home.authority)
            self.refuse(OtelSpiffeError(f"relay to {self._home.authority}: {type(error).__name__}: {error}"))
        else:
            self._carry(self._far)

    def _carry(self, far: SpiffeSSLSocket) -> None:
        self._home.accepted(far)
        self._pump = Pump(self._loop, self._near, far, ended=self._on_end)
        self._pump.start()
        self._watch_expiry()
        if self._home.generation > far.generation:
            self._pump.retire()

    def _on_end(self, error: OSError | None) -> None:
        pump, far = self._pump, self._far
        if pump is None or far is None or pump.replay is None or pump.client_left:
            self.close()
            return
        # Not one byte came: with TLS 1.3 this is how a server refuses our certificate (RFC 8446 4.4.3, 6.2).
        with contextlib.suppress(OSError):
            far.close()
        if error is None or isinstance(error, ConnectionError):
            error = RefusedByPeer("", peer=far.peer_id, local=far.local_id, fix="see its log")
        self.refuse(unreachable(self._home.target, error, far.local_id), pump.replay)

    def _watch_expiry(self) -> None:
        """Retire shortly before the first of both ends' X509-SVIDs ends, and close when it does."""
        if self._pump is None or self._far is None or (end := self._far.expires_at) is None:
            return
        left = (end - datetime.now(UTC)).total_seconds()
        if left <= 0:
            _log.info("relay to %s: closing a connection of an X509-SVID that ended at %s", self._home.authority, end)
            self.close()
            return
        early = left - min(left * RETIRE_SHARE, MAX_RETIRE)
        if left <= MAX_RETIRE:
            self._pump.retire()
            early = left
        self._expiry = self._loop.call_later(min(early, RECHECK), self._watch_expiry)
