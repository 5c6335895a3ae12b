# SPDX-License-Identifier: Apache-2.0
"""Bytes from one non-blocking socket to another and back, with bounded memory and without loss."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Final

from otel_spiffe.credentials._h2 import GOAWAY, FrameBoundary

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

__all__ = ["FLOW_BYTES", "REPLAY_BYTES", "SETTLE", "Flow", "Pump"]

FLOW_BYTES: Final = 131_072
"""Buffer of one direction: 2 to 3 reads for a 212 kB export; more measured no faster."""
REPLAY_BYTES: Final = 65_536
"""Of what the client said before the server's first byte; the client is not read beyond that. grpc-core says
about 100 bytes and waits."""
SETTLE: Final = 0.25
"""Seconds between the first frame for a client and a GOAWAY. grpcio 1.85.1 takes a GOAWAY that comes with the first
SETTINGS for nothing: it keeps the connection, retries the next call on it for ever, and ends in a failed CHECK
(memory_quota.cc) once that call's arena has 1 GiB."""
_ROUNDS: Final = 16
"""Of reading and writing before other connections have their turn."""
_AGAIN = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Flow:
    """One direction: what was read and is not yet written."""

    def __init__(self, capacity: int = FLOW_BYTES) -> None:
        self._capacity = capacity
        self._view = memoryview(bytearray(capacity + len(GOAWAY)))
        self._start = self._end = 0
        self.eof = False

    @property
    def empty(self) -> bool:
        """Everything that was read is written."""
        return self._start == self._end

    @property
    def pending(self) -> memoryview:
        """What is read and not written."""
        return self._view[self._start : self._end]

    def fill(self, receive: Callable[[WriteableBuffer], int]) -> int:
        """Read once into the empty buffer and return the number of bytes; 0 sets `eof`, -1 says nothing is there."""
        try:
            n = receive(self._view[: self._capacity])
        except _AGAIN:
            return -1
        except ssl.SSLZeroReturnError:  # what Python makes of the peer's close_notify after our own
            n = 0
        self._start, self._end = 0, n
        self.eof = n == 0
        return n

    def drain(self, send: Callable[[memoryview], int]) -> bool:
        """Write once and say whether anything was taken."""
        try:
            n = send(self.pending)
        except _AGAIN:
            return False
        self._start += n
        return n > 0

    def insert(self, offset: int, frame: bytes) -> None:
        """Put `frame` after the first `offset` bytes of what is pending; once in a buffer's life."""
        at = self._start + offset
        rest = bytes(self._view[at : self._end])
        if self.empty:
            self._start = self._end = at = 0
        self._view[at : at + len(frame)] = frame
        self._end = at + len(frame) + len(rest)
        self._view[at + len(frame) : self._end] = rest

    def discard(self) -> None:
        """Forget what is pending, and read no more."""
        self._start = self._end = 0
        self.eof = True


class Pump:
    """Carries bytes between a client's socket and a server's until either ends.

    Args:
        loop: where it lives; every method is to be called there.
        near: the client's side, non-blocking; a TLS socket has its handshake done.
        far: the server's side, likewise.
        http2: both speak HTTP/2, so that `retire` can say GOAWAY.
        replay: keep what the client says until the server's first byte.
        linger: seconds that the server has to finish after the client has closed its side.
        ended: called once, with the error that ended it or None, when neither socket is watched any more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        near: socket.socket,
        far: socket.socket,
        *,
        http2: bool,
        replay: bool,
        linger: float,
        ended: Callable[[OSError | None], object],
    ) -> None:
        self._loop = loop
        self._near = near
        self._far = far
        self._linger = linger
        self._ended = ended
        self._out = Flow()
        self._back = Flow()
        self._readers: set[socket.socket] = set()
        self._writers: set[socket.socket] = set()
        self._boundary = FrameBoundary() if http2 else None
        self._retiring = self._settled = False
        self._closing = self._done = False
        self._broken: OSError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._settling: asyncio.TimerHandle | None = None
        self.replay: bytearray | None = bytearray() if replay else None
        self.client_left = False

    def start(self) -> None:
        """Begin to carry."""
        self._turn()

    def retire(self) -> None:
        """Tell an HTTP/2 client by GOAWAY to open a new connection for new calls; calls under way go on.

        It is told `SETTLE` after the server's first frame at the soonest, however late that comes.
        """
        self._retiring = self._boundary is not None
        self._turn()

    def stop(self) -> None:
        """Watch neither socket any more; `ended` is not called."""
        self._done = True
        for timer in (self._timer, self._settling):
            if timer is not None:
                timer.cancel()
        for connection in tuple(self._readers):
            self._watch(connection, self._readers, self._turn, wanted=False)
        for connection in tuple(self._writers):
            self._watch(connection, self._writers, self._turn, wanted=False)

    def _turn(self) -> None:
        self._carry(back=True, out=True)

    def _turn_near(self) -> None:
        # Until the server's first byte what it has to say comes first: an alert explains why a write would fail.
        self._carry(back=self.replay is not None, out=True)

    def _turn_far(self) -> None:
        self._carry(back=True, out=self.replay is not None)

    def _carry(self, *, back: bool, out: bool) -> None:
        if self._done:
            return
        try:
            for _ in range(_ROUNDS):
                moved = back and self._carry_back()
                moved = (out and self._carry_out()) or moved
                if not moved:
                    break
            else:
                self._loop.call_soon(self._turn)
        except OSError as error:
            self._end(error)
            return
        if self._back.eof and self._back.empty:
            if self.replay is None:  # else whoever is told may still answer the client
                _say_goodbye(self._near)
            self._end(self._broken)
        elif not self._done:
            self._watch_all()

    def _carry_back(self) -> bool:
        moved = False
        if self._back.empty and not self._back.eof:
            n = self._back.fill(self._far.recv_into)
            moved = n >= 0
            if n > 0:
                self.replay = None
                self._follow()
        if self._announcing and self._back.empty and self._boundary is not None and self._boundary.here:
            self._announce(0)
        if not self._back.empty:
            moved = self._back.drain(self._near.send) or moved
        return moved

    def _follow(self) -> None:
        if self._boundary is None:
            return
        place = self._boundary.feed(self._back.pending)
        if place < 0:
            return
        if self._settling is None:
            self._settling = self._loop.call_later(SETTLE, self._settle)
        if self._announcing:
            self._announce(place)

    def _settle(self) -> None:
        self._settled = True
        if self._retiring:
            self._turn()

    @property
    def _announcing(self) -> bool:
        return self._retiring and self._settled

    def _announce(self, offset: int) -> None:
        self._back.insert(offset, GOAWAY)
        self._boundary, self._retiring = None, False  # said once

    def _carry_out(self) -> bool:
        moved = False
        if self._wants_out():
            n = self._hear()
            moved = n >= 0
            if n > 0 and self.replay is not None:
                self.replay += self._out.pending
        if not self._out.empty:
            moved = self._send() or moved
        elif self._out.eof and not self._closing:
            self._close_out()
        return moved

    def _hear(self) -> int:
        try:
            return self._out.fill(self._near.recv_into)
        except OSError:
            self.client_left = True
            raise

    def _wants_out(self) -> bool:
        room = self.replay is None or len(self.replay) < REPLAY_BYTES
        return self._out.empty and not self._out.eof and room

    def _send(self) -> bool:
        try:
            return self._out.drain(self._far.send)
        except OSError as error:
            # The server's last words, an alert perhaps, may still be there to be read.
            self._broken = error
            self._out.discard()
            self._wait_for_the_end()
            return True

    def _close_out(self) -> None:
        """Pass the client's end on, and give the server a while to finish."""
        self.client_left = True
        if _say_goodbye(self._far):
            self._back.discard()
        self._wait_for_the_end()

    def _wait_for_the_end(self) -> None:
        self._closing = True
        self._timer = self._loop.call_later(self._linger, self._end, self._broken)

    def _end(self, error: OSError | None) -> None:
        if self._done:
            return
        self.stop()
        self._ended(error)

    def _watch_all(self) -> None:
        self._watch(self._near, self._readers, self._turn_near, wanted=self._wants_out())
        self._watch(self._near, self._writers, self._turn_far, wanted=not self._back.empty)
        self._watch(self._far, self._readers, self._turn_far, wanted=self._back.empty and not self._back.eof)
        self._watch(self._far, self._writers, self._turn_near, wanted=not self._out.empty)

    def _watch(
        self, connection: socket.socket, watched: set[socket.socket], turn: Callable[[], object], *, wanted: bool
    ) -> None:
        if wanted == (connection in watched):
            return
        reading = watched is self._readers
        if wanted:
            watched.add(connection)
            (self._loop.add_reader if reading else self._loop.add_writer)(connection, turn)
        else:
            watched.discard(connection)
            (self._loop.remove_reader if reading else self._loop.remove_writer)(connection)


def _say_goodbye(connection: socket.socket) -> bool:
    """Say that nothing more will be written, and return whether the peer had said so before."""
    with contextlib.suppress(OSError):
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()  # sends close_notify; SSLWantReadError until the peer's is here
            return True  # and now it is a bare socket, which must not be read
        connection.shutdown(socket.SHUT_WR)
    return False
