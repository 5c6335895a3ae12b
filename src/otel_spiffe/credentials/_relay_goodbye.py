# SPDX-License-Identifier: Apache-2.0
"""The end of a connection: saying it, and seeing that the other end has gone."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl

__all__ = ["close_notify", "hung_up", "say_goodbye"]

_MAX_RECORD = 4096


def close_notify(connection: ssl.SSLSocket) -> bytes:
    """Return the TLS record that says that nothing more will be written, for the caller to send past TLS.

    What the peer says can be read on. `ssl.SSLSocket.unwrap` would write the record itself, but it reads after that,
    and fails for good where application data comes instead of the peer's own close_notify (OpenSSL's SSL_shutdown,
    APPLICATION_DATA_AFTER_CLOSE_NOTIFY). So for that moment a socket on which nothing comes has its descriptor.

    Raises:
        OSError: no descriptor is to be had, or OpenSSL has given up the connection.
    """
    descriptor = connection.fileno()
    inside, outside = socket.socketpair()
    with inside, outside:
        inside.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        outside.setblocking(False)  # noqa: FBT003
        aside = os.dup(descriptor)
        try:
            os.dup2(inside.fileno(), descriptor, inheritable=False)
            with contextlib.suppress(ssl.SSLWantReadError):
                connection.unwrap()
        finally:
            os.dup2(aside, descriptor, inheritable=False)
            os.close(aside)
        return outside.recv(_MAX_RECORD)


def say_goodbye(connection: socket.socket) -> bool:
    """Say that nothing more will be written, and return whether the peer had said so before."""
    with contextlib.suppress(OSError):
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()  # sends close_notify; SSLWantReadError until the peer's is here
            return True  # and now it is a bare socket, which must not be read
        connection.shutdown(socket.SHUT_WR)
    return False


def hung_up(connection: socket.socket) -> bool:
    """Say whether both directions have ended, without a read."""
    poll = select.poll()
    poll.register(connection, 0)  # POLLHUP and POLLERR come unasked
    return bool(poll.poll(0))
