# SPDX-License-Identifier: Apache-2.0
"""Bytes from one non-blocking socket to another and back, with bounded memory and without loss."""

from __future__ import annotations

import functools
import socket
import ssl
from typing import TYPE_CHECKING, Final

from otel_spiffe.credentials._h2 import GOAWAY, FrameBoundary
from otel_spiffe.credentials._relay_flow import Flow
from otel_spiffe.credentials._relay_goodbye import close_notify, hung_up, say_goodbye
from otel_spiffe.credentials._relay_watch import Watch

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["REPLAY_BYTES", "SETTLE", "Pump"]

REPLAY_BYTES: Final = 65_536
"""Of what the client said before the server's first byte; the client is not read beyond that. grpc-core says
about 100 bytes and waits."""
SETTLE: Final = 0.25
"""Seconds between the first frame for a client and a GOAWAY. grpcio 1.85.1 takes a GOAWAY that comes with the first
SETTINGS for nothing: it keeps the connection, retries the next call on it for ever, and ends in a failed CHECK
(memory_quota.cc) once that call's arena has 1 GiB."""
STALL: Final = 5.0
"""Seconds in which the server takes nothing until it is looked whether the client is still there: a client whose
bytes are not wanted is not read, so its end is not heard."""
_ROUNDS: Final = 16
"""Of reading and writing before other connections have their turn."""


class Pump:
    """Carries bytes between a client's socket and a server's until either ends.

    Args:
        loop: where it lives; every method is to be called there.
        near: the client's side, non-blocking; a TLS socket has its handshake done.
        far: the server's side, likewise.
        http2: both speak HTTP/2, so that `retire` can say GOAWAY.
        replay: keep what the client says until the server's first byte.
        half_close: the client may go on after the server has closed its side; otherwise that is the end.
        linger: seconds that one side has to finish after the other has closed its own.
        ended: called once, with the error that ended it or None, when neither socket is watched any more.
        answered: called once, at the server's first byte, with `replay`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        near: socket.socket,
        far: socket.socket,
        *,
        http2: bool,
        replay: bool,
        half_close: bool,
        linger: float,
        ended: Callable[[OSError | None], object],
        answered: Callable[[], object] = lambda: None,
    ) -> None:
        self._loop = loop
        self._near = near
        self._far = far
        self._half_close = half_close
        self._linger = linger
        self._ended = ended
        self._answered = answered
        self._send_near: Callable[[memoryview], int] = near.send
        self._out = Flow()
        self._back = Flow()
        self._watch = Watch(loop)
        self._boundary = FrameBoundary() if http2 else None
        self._retiring = self._settled = False
        self._closing = self._told_near = self._taken = self._done = False
        self._broken: OSError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self.replay: bytearray | None = bytearray() if replay else None
        self.client_left = False

    @property
    def done(self) -> bool:
        """It has ended, or was stopped."""
        return self._done

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
        for timer in (self._timer, self._settling, self._stalled):
            if timer is not None:
                timer.cancel()
        self._watch.drop(self._near)
        self._watch.drop(self._far)

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
            over = self._back.eof and self._back.empty and self._over()
        except OSError as error:
            self._end(error)
            return
        if over:
            self._end(self._broken)
        elif not self._done:
            self._watch_all()

    def _over(self) -> bool:
        """Pass the server's end on, and say whether it is the connection's."""
        if self.replay is not None:  # whoever is told may still answer the client
            return True
        if not self._told_near:
            self._told_near = True
            self._tell_near()
        if not self._half_close:
            return self._back.empty
        self._wait_for_the_end()
        return self._back.empty and self._out.eof and self._out.empty

    def _tell_near(self) -> None:
        if not isinstance(self._near, ssl.SSLSocket):
            say_goodbye(self._near)
            return
        self._watch.drop(self._near)  # its descriptor is another's for a moment
        self._back.insert(0, close_notify(self._near))
        self._send_near = functools.partial(socket.socket.send, self._near)  # it is a TLS record already
        self._back.drain(self._send_near)

    def _carry_back(self) -> bool:
        moved = False
        if self._back.empty and not self._back.eof:
            n = self._back.fill(self._far.recv_into)
            moved = n >= 0
            if n > 0:
                self._hear_far()
        if self._announcing and self._back.empty and self._boundary is not None and self._boundary.here:
            self._announce(0)
        if not self._back.empty:
            moved = self._back.drain(self._send_near) or moved
        return moved

    def _hear_far(self) -> None:
        if self.replay is not None:
            self.replay = None
            self._answered()
        self._follow()

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
        return self._retiring and self._settled and not self._back.eof

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
        if self._broken is not None:
            self._out.drop()
            return True
        try:
            taken = self._out.drain(self._far.send)
        except OSError as error:
            # The server's last words, an alert perhaps, may still be there to be read.
            self._broken = error
            self._closing = True
            if self._half_close:  # heard on to its end: bytes that nobody reads would reset what it is still to read
                self._out.drop()
            else:
                self._out.discard()
            self._wait_for_the_end()
            return True
        self._taken = self._taken or taken
        return taken

    def _close_out(self) -> None:
        """Pass the client's end on, and give the server a while to finish."""
        self.client_left = self._closing = True
        if say_goodbye(self._far):
            self._back.discard()
        self._wait_for_the_end()

    def _wait_for_the_end(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._linger, self._give_up)

    def _give_up(self) -> None:
        self._end(self._broken)

    def _end(self, error: OSError | None) -> None:
        if self._done:
            return
        self.stop()
        self._ended(error)

    def _watch_all(self) -> None:
        self._watch.reading(self._near, self._turn_near, wanted=self._wants_out())
        self._watch.writing(self._near, self._turn_far, wanted=not self._back.empty)
        self._watch.reading(self._far, self._turn_far, wanted=self._back.empty and not self._back.eof)
        self._watch.writing(self._far, self._turn_near, wanted=not self._out.empty)
        if self._stalled is None and not self._out.empty:
            self._taken = False
            self._stalled = self._loop.call_later(STALL, self._look_for_near)

    def _look_for_near(self) -> None:
        self._stalled = None
        if not self._out.empty and not self._taken and hung_up(self._near):
            self.client_left = True
            self._end(None)
        else:
            self._watch_all()
