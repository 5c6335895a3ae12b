# SPDX-License-Identifier: Apache-2.0
"""One direction of a relayed connection: a bounded buffer between a read and a write."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from otel_spiffe.credentials._h2 import GOAWAY

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

__all__ = ["FLOW_BYTES", "Flow"]

FLOW_BYTES: Final = 131_072
"""Buffer of one direction: 2 to 3 reads for a 212 kB export; more measured no faster."""
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

    def drop(self) -> None:
        """Forget what is pending."""
        self._start = self._end = 0

    def discard(self) -> None:
        """Forget what is pending, and read no more."""
        self.drop()
        self.eof = True
