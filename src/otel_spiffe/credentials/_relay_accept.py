# SPDX-License-Identifier: Apache-2.0
"""Accepting connections on the relay's loop, and not accepting them."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Any, Final

from otel_spiffe.credentials._relay_options import tune

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

__all__ = ["Acceptor"]

_log = logging.getLogger("otel_spiffe.credentials")

PAUSE: Final = 1.0
"""Seconds without accepting after the process ran out of descriptors: the listener stays readable all the while,
and the loop would do nothing else."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Hands each connection of a listening socket, non-blocking, to `accepted` with its peer's address."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        accepted: Callable[[socket.socket, Any], object],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._accepted = accepted
        self._watching = False
        self._wanted = False
        self._exhausted: asyncio.TimerHandle | None = None

    def set(self, *, wanted: bool) -> None:
        """Accept from now on, or leave whoever comes in the backlog."""
        self._wanted = wanted
        watching = wanted and self._exhausted is None and self._listener.fileno() >= 0
        if watching and not self._watching:
            self._loop.add_reader(self._listener, self._accept)
        elif self._watching and not watching:
            self._loop.remove_reader(self._listener)
        self._watching = watching

    def stop(self) -> None:
        """Accept no more."""
        self.set(wanted=False)
        if self._exhausted is not None:
            self._exhausted.cancel()

    def _accept(self) -> None:
        try:
            connection, origin = self._listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._pause(error)
            return
        connection.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        tune(connection)
        self._accepted(connection, origin)

    def _pause(self, error: OSError) -> None:
        _log.warning("a relay accepts no connection for %g s: %s; raise the limit on open files", PAUSE, error.strerror)
        self._exhausted = self._loop.call_later(PAUSE, self._resume)
        self.set(wanted=self._wanted)

    def _resume(self) -> None:
        self._exhausted = None
        self.set(wanted=self._wanted)
