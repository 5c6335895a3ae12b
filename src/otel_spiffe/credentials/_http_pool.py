# SPDX-License-Identifier: Apache-2.0
"""urllib3's connections and pools over our contexts: a pooled connection never outlives its identity."""

from __future__ import annotations

import os
import queue
import weakref
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPSConnectionPool
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError

from otel_spiffe.credentials._alerts import unreachable_reason
from otel_spiffe.credentials._tls import SpiffeSSLContext
from otel_spiffe.errors import OtelSpiffeError, PeerUnreachable

if TYPE_CHECKING:
    import ssl

    from spiffe import SpiffeId

__all__ = ["SpiffeConnectionPool"]


class _Connection(HTTPSConnection):
    """One HTTPS connection to a peer with a SPIFFE ID."""

    ssl_context: ssl.SSLContext | None

    def connect(self) -> None:
        """Connect, do the handshake and check the peer.

        Raises:
            PeerUnreachable: there is nobody to do a handshake with.
            OtelSpiffeError: as `SpiffeSSLSocket.do_handshake` and `Source.identity`.
        """
        _connections.add(self)
        target = self._target()  # a tunnel that fails forgets it
        try:
            super().connect()
        except OtelSpiffeError:
            raise
        except (OSError, HTTPError) as error:
            reason = unreachable_reason(error, timeout=self.timeout)
            raise PeerUnreachable(target, reason, local=self._local()) from error

    def _target(self) -> str:
        # Only hosts and ports: a proxy's credentials are in no attribute that is read here.
        tunnel: Any = getattr(self, "_tunnel_host", None)
        if tunnel is None:
            return _host_port(self.host, self.port)
        port: Any = getattr(self, "_tunnel_port", None)
        return f"{_host_port(tunnel, port)} through the proxy {_host_port(self.host, self.port)}"

    def _local(self) -> SpiffeId | None:
        return self.ssl_context.local_id if isinstance(self.ssl_context, SpiffeSSLContext) else None

    @property
    def is_connected(self) -> bool:
        """Whether it may carry one more request: open, of the newest generation, and no SVID has expired."""
        context = self.ssl_context
        return super().is_connected and isinstance(context, SpiffeSSLContext) and context.is_current(self.sock)


def _host_port(host: str, port: int | None) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


class _Stack:
    """The connections that wait in a pool; without a lock, which a fork would copy while it is held."""

    def __init__(self, maxsize: int = 0) -> None:
        self._maxsize = maxsize
        self._items: list[Any] = []

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ANN401, FBT001, FBT002 -- queue.Queue's signature
        del block, timeout
        if 0 < self._maxsize <= len(self._items):
            raise queue.Full
        self._items.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ANN401, FBT001, FBT002
        del block, timeout
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        return len(self._items)


class SpiffeConnectionPool(HTTPSConnectionPool):
    """The connections to one host; never blocks, so more of them than it keeps may be open at a time."""

    ConnectionCls: Any = _Connection
    QueueCls: Any = _Stack


# A child process shares its parent's sockets, and two writers on one TLS connection break both.
_connections: weakref.WeakSet[_Connection] = weakref.WeakSet()


def _close_in_child() -> None:
    for connection in list(_connections):
        connection.close()  # this process's descriptor alone; nothing is sent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
