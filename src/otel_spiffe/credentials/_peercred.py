# SPDX-License-Identifier: Apache-2.0
"""Which process is at the other end of a Unix socket, as the kernel recorded it at connect()."""

from __future__ import annotations

import socket
import struct
import sys

__all__ = ["peer_pid"]

_SOL_LOCAL = 0  # <sys/un.h> of macOS; Python's socket module has no names for these two
_LOCAL_PEERPID = 2


def peer_pid(connection: socket.socket) -> int:
    """Return the process ID of the peer of a Unix socket.

    Raises:
        OSError: the kernel does not know it.
    """
    if sys.platform == "darwin":
        return int.from_bytes(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4), sys.byteorder)
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", raw)[0]
    return pid
