# SPDX-License-Identifier: Apache-2.0
"""One client's connection, from its arrival to its end: dial, then carry bytes; or refuse with a sentence."""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from otel_spiffe.credentials._relay_answer import Refusal
from otel_spiffe.credentials._relay_dial import unreachable
from otel_spiffe.credentials._relay_lifetime import Lifetime
from otel_spiffe.credentials._relay_pump import SETTLE, Pump
from otel_spiffe.errors import OtelSpiffeError, PeerUnreachable, RefusedByPeer

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from otel_spiffe.credentials._relay_outbound import Outbound
    from otel_spiffe.credentials._tls_sockets import SpiffeSSLSocket

__all__ = ["Connection"]

_log = logging.getLogger("otel_spiffe.credentials")

LINGER: Final = 1.0
"""Seconds that the server has to end the connection after the client has: gRPC's has nothing more to say."""


class Connection:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, home: Outbound, near: socket.socket, *, ended: Callable[[Connection], object]) -> None:
        self._home = home
        self._loop = home.loop.asyncio
        self._near = near
        self._ended = ended
        self._dialled: socket.socket | None = None
        self._far: SpiffeSSLSocket | None = None
        self._pump: Pump | None = None
        self._refusal: Refusal | None = None
        self._task: asyncio.Task[None] | None = None
        self._lifetime: Lifetime | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._refused_at = 0.0
        self._refused_with = 0

    def start(self) -> None:
        """Begin to dial."""
        self._task = self._loop.create_task(self._run())

    def retire(self, generation: int) -> None:
        """Have the client open a new connection for new calls, if this one is of an older generation."""
        if self._pump is not None and self._far is not None and self._far.generation < generation:
            self._pump.retire()
        if self._refusal is not None and self._refused_with < generation:
            # What was refused may succeed with this identity.
            self._loop.call_at(self._refused_at + SETTLE, self._refusal.leave)

    def refuse(self, error: OtelSpiffeError, said: bytes | bytearray = b"") -> None:
        """Answer every call with `error`'s sentence."""
        self._stop_watching()
        self._home.report(error)
        self._refused_with = self._home.current_generation()
        self._refused_at = self._loop.time()
        self._refusal = Refusal(self._loop, self._near, str(error), ended=self.close)
        self._refusal.start(said)

    def close(self) -> None:
        """End it at once; may be called again."""
        if self._task is not None:
            self._task.cancel()
        self._stop_watching()
        if self._refusal is not None:
            self._refusal.stop()
        _close(self._near)  # not what is being dialled: the task watches its descriptor until it has ended
        _close(self._far)
        self._ended(self)

    def _stop_watching(self) -> None:
        for each in (self._lifetime, self._pump):
            if each is not None:
                each.stop()
        if self._silence is not None:
            self._silence.cancel()

    def abandon(self) -> None:
        """Close the descriptors alone: in the child of a fork, all else is the parent's."""
        for connection in (self._near, self._dialled, self._far):
            _close(connection)

    def _hold(self, connection: socket.socket) -> None:
        self._dialled = connection

    async def _run(self) -> None:
        try:
            self._far = await self._home.dial(self._hold)
        except OtelSpiffeError as error:
            self.refuse(error)
        except Exception as error:  # noqa: BLE001 -- the task's outermost frame
            self._home.loop.tell(partial(_log.error, exc_info=error), "relay to %s", self._home.authority)
            self.refuse(OtelSpiffeError(f"relay to {self._home.authority}: {type(error).__name__}: {error}"))
        else:
            self._carry(self._far)

    def _carry(self, far: SpiffeSSLSocket) -> None:
        self._pump = pump = Pump(
            self._loop,
            self._near,
            far,
            http2=True,
            replay=True,
            half_close=False,
            linger=LINGER,
            ended=self._on_end,
            answered=self._on_answer,
        )
        self._silence = self._loop.call_later(self._home.plan.connect_timeout, self._on_silence)
        pump.start()
        if pump.done:
            return
        if far.expires_at is not None:
            self._lifetime = Lifetime(self._loop, far.expires_at, notice=pump.retire, over=self._on_expiry)
            self._lifetime.start()
        self.retire(self._home.generation)

    def _on_answer(self) -> None:
        # Not at the end of our handshake: with TLS 1.3 the server may still refuse us (RFC 8446 4.4.3).
        if self._silence is not None:
            self._silence.cancel()
        if self._far is not None:
            self._home.accepted(self._far)

    def _on_silence(self) -> None:
        """Refuse calls to a server that has not spoken: HTTP/2 has it speak first (RFC 9113 3.4)."""
        if self._pump is None or self._far is None or (said := self._pump.replay) is None:
            return
        self._pump.stop()
        far, timeout = self._far, self._home.plan.connect_timeout
        far.close()
        reason = f"{far.peer_id} accepted the connection and said nothing within {timeout:g} s"
        self.refuse(PeerUnreachable(self._home.authority, reason, local=far.local_id), said)

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

    def _on_expiry(self) -> None:
        words = "relay to %s: closing a connection whose X509-SVIDs have ended"
        self._home.loop.tell(_log.info, words, self._home.authority)
        self.close()


def _close(connection: socket.socket | None) -> None:
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.close()
