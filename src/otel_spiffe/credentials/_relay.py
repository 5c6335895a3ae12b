# SPDX-License-Identifier: Apache-2.0
"""Relays: SPIFFE mTLS for programs that cannot speak it themselves, gRPC channels first of all."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Self

from otel_spiffe import environment
from otel_spiffe.credentials._proxy import FROM_ENVIRONMENT, Proxy, parse_proxy
from otel_spiffe.credentials._relay_inbound import Inbound, InboundPlan
from otel_spiffe.credentials._relay_outbound import Plan, lease
from otel_spiffe.credentials._resolve import HostPort, parse_host_port
from otel_spiffe.errors import InvalidConfiguration

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from otel_spiffe.identity import Authorizer, Source

__all__ = ["InboundRelay", "OutboundRelay", "Relay"]

IDENTITY_TIMEOUT: Final = 5.0
"""Seconds that a connection waits for the source's first identity."""
CONNECT_TIMEOUT: Final = 4.0
"""Seconds to resolve, connect and shake hands: with the above still below the 10 s deadline of an export, which
would otherwise end as DEADLINE_EXCEEDED and say nothing."""
MAX_CONNECTIONS: Final = 256
"""Of one relay; gRPC has one for each different channel."""

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds that a client of an inbound relay has to shake hands."""
MAX_CLIENTS: Final = 256
"""Of an inbound relay, at two descriptors each: half of the usual limit of 1,024 for a process."""
MAX_HANDSHAKES: Final = 256
"""Of an inbound relay at one time."""


class Relay:
    """What both directions have in common: `close`, and the context manager that calls it."""

    def close(self) -> None:
        """End it and every connection through it; may be called again."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def outbound(
        target: str,
        source: Source,
        *,
        authorize: Authorizer,
        present_svid: bool = True,
        proxy: str | None = FROM_ENVIRONMENT,
        identity_timeout: float = IDENTITY_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        max_connections: int = MAX_CONNECTIONS,
    ) -> OutboundRelay:
        """Open a relay from a Unix socket, which this process alone may use, to a server over SPIFFE mTLS.

        Args:
            target: the server's ``host:port``; its host is sent as SNI and is not otherwise checked.
            source: of the X509-SVID to present and of the bundles; asked at every handshake.
            authorize: which servers to accept.
            present_svid: False presents no certificate.
            proxy: ``http://[user:password@]host:port`` to go through by CONNECT; None for none; by default what
                ``HTTPS_PROXY`` and ``NO_PROXY`` say.
            identity_timeout: seconds that a connection waits for the source's first identity.
            connect_timeout: seconds to resolve, connect and shake hands.
            max_connections: at one time; calls on further ones are refused.

        Raises:
            InvalidConfiguration: `target` or `proxy` cannot be read, or this platform cannot have a relay.
            OSError: no Unix socket can be had.
        """
        refuse_where_it_cannot_work()
        where = parse_host_port(target, setting="target")
        plan = Plan(
            target=where,
            source=source,
            authorize=authorize,
            present_svid=present_svid,
            proxy=_proxy_for(where, proxy),
            identity_timeout=identity_timeout,
            connect_timeout=connect_timeout,
            max_connections=max_connections,
        )
        return OutboundRelay(plan)

    @staticmethod
    def inbound(
        listen: str,
        source: Source,
        *,
        authorize: Authorizer,
        upstream: str,
        alpn: Sequence[str] = ("h2", "http/1.1"),
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        max_connections: int = MAX_CLIENTS,
        max_handshakes: int = MAX_HANDSHAKES,
    ) -> InboundRelay:
        """Open a relay that serves SPIFFE mTLS in front of a plaintext server.

        The server behind it learns neither the client's address nor its SPIFFE ID; what it serves is open to
        everybody whom `authorize` accepts.

        Args:
            listen: ``host:port`` to listen on; port 0 takes a free one.
            source: of the X509-SVID to present and of the bundles; asked at every handshake.
            authorize: which clients to accept.
            upstream: the server behind it, ``host:port`` or ``unix:/path``.
            alpn: the protocols that it speaks, the preferred one first; ``("http/1.1",)`` for a server that knows
                no HTTP/2 without TLS.
            handshake_timeout: seconds that a client has to shake hands.
            connect_timeout: seconds that a client waits for a place, and then that the server behind has to accept.
            max_connections: at one time; further clients wait.
            max_handshakes: at one time; further ones end the oldest.

        Raises:
            InvalidConfiguration: `listen` or `upstream` cannot be read, or `listen` is not to be had.
        """
        return InboundRelay(
            InboundPlan(
                listen=parse_host_port(listen, setting="listen", lowest_port=0),
                source=source,
                authorize=authorize,
                upstream=_upstream(upstream),
                alpn=tuple(alpn),
                handshake_timeout=handshake_timeout,
                connect_timeout=connect_timeout,
                max_connections=max_connections,
                max_handshakes=max_handshakes,
            )
        )


class InboundRelay(Relay):
    """A relay in front of a server; `Relay.inbound` opens it. It stays with its process at a fork."""

    def __init__(self, plan: InboundPlan) -> None:
        self._core = Inbound(plan)
        self._core.open()
        self._closed = False

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, host and port."""
        return self._core.address

    def close(self) -> None:
        """End every connection and listen no more; may be called again."""
        if not self._closed:
            self._closed = True
            self._core.close()

    def __repr__(self) -> str:
        return f"<Relay on {self._core.name}{' closed' if self._closed else ''}>"


class OutboundRelay(Relay):
    """A relay to one server; `Relay.outbound` opens it. Those of equal settings in one process share their sockets."""

    def __init__(self, plan: Plan) -> None:
        self._authority = str(plan.target)
        self._core, self._give_back = lease(plan)
        self._closed = False

    @property
    def target(self) -> str:
        """What a gRPC channel is to dial, ``unix:...``, in this process and in its forked children."""
        return self._core.address

    @property
    def authority(self) -> str:
        """The server's ``host:port``, for the channel option ``grpc.default_authority``."""
        return self._authority

    def close(self) -> None:
        """Give it back; the last of equal settings ends every connection. May be called again."""
        if not self._closed:
            self._closed = True
            self._give_back()

    def __repr__(self) -> str:
        return f"<Relay to {self._authority}{' closed' if self._closed else ''}>"


def refuse_where_it_cannot_work() -> None:
    """Return, or say why gRPC over SPIFFE cannot work in this process.

    Raises:
        InvalidConfiguration: on Windows, and where gevent or eventlet has replaced the threads.
    """
    if sys.platform == "win32":
        raise InvalidConfiguration(
            "gRPC over SPIFFE",
            "it needs Unix sockets, which Python does not have on Windows",
            fix="use OTLP over HTTP (OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf)",
        )
    environment.refuse_green_threads("gRPC over SPIFFE")


def _upstream(text: str) -> HostPort | str:
    if not text.startswith("unix:"):
        return parse_host_port(text, setting="upstream")
    path = "/" + text.removeprefix("unix:").lstrip("/")
    if not text.startswith("unix:/") or path == "/":
        raise InvalidConfiguration("upstream", f"{text!r} names no socket", fix="write it like unix:/run/app.sock")
    return path


def _proxy_for(target: HostPort, proxy: str | None) -> Proxy | None:
    if proxy == FROM_ENVIRONMENT:
        url = environment.https_proxy(target.host, target.port)
        return parse_proxy(url, setting="HTTPS_PROXY") if url else None
    return parse_proxy(proxy) if proxy else None
