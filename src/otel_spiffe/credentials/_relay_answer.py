# SPDX-License-Identifier: Apache-2.0
"""A client's connection on which every call is refused with a sentence, for about a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_spiffe.credentials._h2 import GOAWAY, Answerer

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

__all__ = ["HOLD", "Refusal"]

HOLD: Final = 1.0
"""Seconds that a refusal stands before a call may cause a new handshake: the back-off."""
GRACE: Final = 1.0
"""Seconds that a client has to leave after the GOAWAY; calls of that moment are still answered."""
UNAVAILABLE: Final = 14
"""The grpc-status of every refusal: identities rotate and collectors come back, so a later try may succeed."""
_CHUNK: Final = 65_536
_MAX_PENDING: Final = 65_536
"""Of answers that the client has not read; it is not read either beyond that."""


class Refusal:
    """Answers the calls on one connection.

    Args:
        loop: where it lives.
        near: the client's socket, non-blocking.
        message: the sentence.
        ended: called once, when the socket is not watched any more.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, near: socket.socket, message: str, *, ended: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._near = near
        self._ended = ended
        self._answerer = Answerer(status=UNAVAILABLE, message=message)
        self._outbox = bytearray()
        self._reading = self._writing = self._last = self._leaving = self._done = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self, said: bytes | bytearray = b"") -> None:
        """Begin with what the client has said already."""
        self._timer = self._loop.call_later(HOLD, self.leave)
        self._outbox += self._answerer.start() + self._answerer.feed(said)
        self._last = self._answerer.closed
        self._turn()

    def stop(self) -> None:
        """Watch the socket no more; `ended` is not called."""
        self._done = True
        if self._timer is not None:
            self._timer.cancel()
        self._watch(reading=False, writing=False)

    def leave(self) -> None:
        """Tell the client to open a new connection for its next call."""
        if self._leaving or self._done:
            return
        self._leaving = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(GRACE, self._end)
        self._outbox += GOAWAY
        self._turn()

    def _turn(self) -> None:
        if self._done:
            return
        try:
            self._receive()
            self._send()
        except OSError:
            self._end()
            return
        if self._last and not self._outbox:
            self._end()
        elif not self._done:
            self._watch(reading=not self._last and len(self._outbox) < _MAX_PENDING, writing=bool(self._outbox))

    def _receive(self) -> None:
        if self._last or len(self._outbox) >= _MAX_PENDING:
            return
        try:
            data = self._near.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        self._outbox += self._answerer.feed(data)
        self._last = not data or self._answerer.closed

    def _send(self) -> None:
        if not self._outbox:
            return
        try:
            n = self._near.send(self._outbox)
        except (BlockingIOError, InterruptedError):
            return
        del self._outbox[:n]

    def _end(self) -> None:
        if not self._done:
            self.stop()
            self._ended()

    def _watch(self, *, reading: bool, writing: bool) -> None:
        if reading != self._reading:
            self._reading = reading
            if reading:
                self._loop.add_reader(self._near, self._turn)
            else:
                self._loop.remove_reader(self._near)
        if writing != self._writing:
            self._writing = writing
            if writing:
                self._loop.add_writer(self._near, self._turn)
            else:
                self._loop.remove_writer(self._near)
