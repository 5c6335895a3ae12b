# SPDX-License-Identifier: Apache-2.0
"""Connections that prove who we are and check who the peer is.

.. code-block:: text

    source ──► ssl.SSLContext (one inner context per generation) ──► asyncio, http.server, httpx, aiohttp, ...
                   ├──► requests.Session
                   └──► Relay ──► gRPC channels (plaintext to the relay, which this process alone can reach)
    source ──► grpc.ServerCredentials, AuthorizationInterceptor ──► peer_id(context)

What needs gRPC or requests is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from otel_spiffe.credentials._tls import SpiffeSSLContext, client_context, server_context
from otel_spiffe.credentials._tls_sockets import SpiffeSSLObject, SpiffeSSLSocket

if TYPE_CHECKING:
    from otel_spiffe.credentials._channel import AioSpiffeChannel, SpiffeChannel, aio_secure_channel, secure_channel
    from otel_spiffe.credentials._http import http_session
    from otel_spiffe.credentials._interceptor import AioAuthorizationInterceptor, AuthorizationInterceptor
    from otel_spiffe.credentials._interceptor_verdict import peer_id
    from otel_spiffe.credentials._relay import InboundRelay, OutboundRelay, Relay
    from otel_spiffe.credentials._server import server_credentials

__all__ = [
    "AioAuthorizationInterceptor",
    "AioSpiffeChannel",
    "AuthorizationInterceptor",
    "InboundRelay",
    "OutboundRelay",
    "Relay",
    "SpiffeChannel",
    "SpiffeSSLContext",
    "SpiffeSSLObject",
    "SpiffeSSLSocket",
    "aio_secure_channel",
    "client_context",
    "http_session",
    "peer_id",
    "secure_channel",
    "server_context",
    "server_credentials",
]

_LATER = {
    "_channel": ("AioSpiffeChannel", "SpiffeChannel", "aio_secure_channel", "secure_channel"),
    "_http": ("http_session",),
    "_interceptor": ("AioAuthorizationInterceptor", "AuthorizationInterceptor"),
    "_interceptor_verdict": ("peer_id",),
    "_relay": ("InboundRelay", "OutboundRelay", "Relay"),
    "_server": ("server_credentials",),
}
_FILE_OF = {name: file for file, names in _LATER.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _FILE_OF:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value: object = getattr(importlib.import_module(f"{__name__}.{_FILE_OF[name]}"), name)
    globals()[name] = value  # the next use does not come here
    return value
