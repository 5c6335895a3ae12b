# SPDX-License-Identifier: Apache-2.0
"""Connections that prove who we are and check who the peer is.

source ──► ssl.SSLContext (one inner context per generation) ──► asyncio, http.server, requests, httpx, ...
                                                               └──► Relay ──► gRPC channels (plaintext to the relay,
                                                                              which this process alone can reach)
"""

from __future__ import annotations

from otel_spiffe.credentials._channel import AioSpiffeChannel, SpiffeChannel, aio_secure_channel, secure_channel
from otel_spiffe.credentials._relay import OutboundRelay, Relay
from otel_spiffe.credentials._tls import SpiffeSSLContext, client_context, server_context
from otel_spiffe.credentials._tls_sockets import SpiffeSSLObject, SpiffeSSLSocket

__all__ = [
    "AioSpiffeChannel",
    "OutboundRelay",
    "Relay",
    "SpiffeChannel",
    "SpiffeSSLContext",
    "SpiffeSSLObject",
    "SpiffeSSLSocket",
    "aio_secure_channel",
    "client_context",
    "secure_channel",
    "server_context",
]
