# SPDX-License-Identifier: Apache-2.0
"""Connections that prove who we are and check who the peer is.

source ──► ssl.SSLContext (one inner context per generation) ──► asyncio, http.server, requests, httpx, ...
"""

from __future__ import annotations

from otel_spiffe.credentials._tls import SpiffeSSLContext, client_context, server_context
from otel_spiffe.credentials._tls_sockets import SpiffeSSLObject, SpiffeSSLSocket

__all__ = ["SpiffeSSLContext", "SpiffeSSLObject", "SpiffeSSLSocket", "client_context", "server_context"]
