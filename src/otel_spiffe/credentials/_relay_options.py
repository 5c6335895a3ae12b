# SPDX-License-Identifier: Apache-2.0
"""What is asked of the kernel for every TCP connection of a relay."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

__all__ = ["tune"]

KEEP_IDLE: Final = 60
"""Seconds without a byte after which the kernel asks whether the other end is still there."""
KEEP_INTERVAL: Final = 15
"""Seconds between two questions."""
KEEP_COUNT: Final = 4
"""Questions without an answer that end a connection: one whose other end has vanished would hold its place for good."""

_ASKED: Final = (
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),  # Nagle added 40 ms to small writes
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", KEEP_IDLE),
    (socket.IPPROTO_TCP, "TCP_KEEPALIVE", KEEP_IDLE),  # what macOS calls it
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", KEEP_INTERVAL),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", KEEP_COUNT),
)


def tune(connection: socket.socket) -> None:
    """Have small writes go out at once and a vanished peer be noticed; other sockets than TCP's are left alone."""
    if connection.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    for level, name, value in _ASKED:
        if (option := getattr(socket, name, None)) is not None:
            with contextlib.suppress(OSError):  # the connection may have ended already
                connection.setsockopt(level, option, value)
