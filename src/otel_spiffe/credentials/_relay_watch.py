# SPDX-License-Identifier: Apache-2.0
"""Which sockets of a connection the loop watches, and for what."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

__all__ = ["Watch"]


class Watch:
    """Has the loop call somebody when a socket can be read or written; asking again for the same costs nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._readers: set[socket.socket] = set()
        self._writers: set[socket.socket] = set()

    def reading(self, connection: socket.socket, turn: Callable[[], object], *, wanted: bool) -> None:
        """Call `turn` whenever there is something to read, or no longer."""
        if wanted == (connection in self._readers):
            return
        if wanted:
            self._readers.add(connection)
            self._loop.add_reader(connection, turn)
        else:
            self._readers.discard(connection)
            self._loop.remove_reader(connection)

    def writing(self, connection: socket.socket, turn: Callable[[], object], *, wanted: bool) -> None:
        """Call `turn` whenever something can be written, or no longer."""
        if wanted == (connection in self._writers):
            return
        if wanted:
            self._writers.add(connection)
            self._loop.add_writer(connection, turn)
        else:
            self._writers.discard(connection)
            self._loop.remove_writer(connection)

    def drop(self, connection: socket.socket) -> None:
        """Watch `connection` no more."""
        if connection in self._readers:
            self._readers.discard(connection)
            self._loop.remove_reader(connection)
        if connection in self._writers:
            self._writers.discard(connection)
            self._loop.remove_writer(connection)
