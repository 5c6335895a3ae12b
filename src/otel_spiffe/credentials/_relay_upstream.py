# SPDX-License-Identifier: Apache-2.0
"""The way from an inbound relay to the server behind it."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from otel_spiffe.credentials._relay_options import tune
from otel_spiffe.credentials._resolve import HostPort, connect

if TYPE_CHECKING:
    from otel_spiffe.credentials._loop import BackgroundLoop

__all__ = ["reach"]

RETRY: Final = 0.02
"""Seconds until a Unix socket whose backlog is full is tried again: its connect() fails at once, where TCP's waits."""


async def reach(loop: BackgroundLoop, upstream: HostPort | str) -> socket.socket:
    """Return a connection to the server, a host and port or the path of a Unix socket.

    Raises:
        OSError: there is none to be had.
    """
    if not isinstance(upstream, HostPort):
        return await _reach_path(upstream)
    connection = await connect(loop.asyncio, await loop.resolver.resolve(upstream))
    tune(connection)
    return connection


async def _reach_path(path: str) -> socket.socket:
    while True:
        try:
            return _connected(path)
        except BlockingIOError:
            await asyncio.sleep(RETRY)


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection
