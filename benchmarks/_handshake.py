# SPDX-License-Identifier: Apache-2.0
"""A TLS handshake through memory: no sockets, no threads, nothing but the two ends."""

from __future__ import annotations

import ssl

__all__ = ["handshake"]


def handshake(client_side: ssl.SSLContext, server_side: ssl.SSLContext, *, name: str | None = None) -> ssl.SSLObject:
    """Do one and return the server's end, after each end has read a byte of the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        for end in tuple(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    client.write(b"c")
    server.write(b"s")
    if (server.read(1), client.read(1)) != (b"c", b"s"):
        raise RuntimeError("the two ends do not understand each other")
    return server
