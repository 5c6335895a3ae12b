# SPDX-License-Identifier: Apache-2.0
"""identity ──► addresses ──► TCP ──► CONNECT ──► TLS: the way to a connection, each step with its own sentence."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_spiffe.credentials._proxy import Proxy, connect_answer, connect_request
from otel_spiffe.credentials._relay_options import tune
from otel_spiffe.credentials._resolve import HostPort, Resolver, connect
from otel_spiffe.errors import OtelSpiffeError, PeerUnreachable

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from spiffe import SpiffeId

    from otel_spiffe.credentials._tls import SpiffeSSLContext
    from otel_spiffe.credentials._tls_sockets import SpiffeSSLSocket
    from otel_spiffe.identity import Identity

__all__ = ["Dialer", "readable", "shake_hands", "unreachable", "writable"]

_PLAINTEXT: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
)
_ANSWER_CHUNK: Final = 4096
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE})
_SEE_LOG: Final = "see its log"


async def readable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    """Return when there is something to read."""
    ready, descriptor = asyncio.Event(), connection.fileno()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def writable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    """Return when something can be written."""
    ready, descriptor = asyncio.Event(), connection.fileno()
    loop.add_writer(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(descriptor)


async def shake_hands(loop: asyncio.AbstractEventLoop, connection: ssl.SSLSocket) -> None:
    """Do the handshake of a non-blocking TLS socket."""
    while True:
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            await readable(loop, connection)
        except ssl.SSLWantWriteError:
            await writable(loop, connection)
        else:
            return


def unreachable(target: HostPort, error: OSError, local: SpiffeId | None) -> OtelSpiffeError:
    """Return `error` as one of ours: a TLS connection that could not be made or did not last."""
    if isinstance(error, OtelSpiffeError):
        return error
    if isinstance(error, ssl.SSLError) and (error.reason or "") in _PLAINTEXT:
        fix = "point it at the server's TLS port, or have the server serve TLS there"
        return PeerUnreachable(str(target), f"it does not speak TLS ({error.reason})", local=local, fix=fix)
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        failure = f"the TLS handshake failed: {error.reason or error}"
        return PeerUnreachable(str(target), failure, local=local, fix=_SEE_LOG)
    if not isinstance(error, (ConnectionError, ssl.SSLError)):
        failure = f"the TLS handshake failed: {error.strerror or error}"
        if error.errno in _EXHAUSTED:
            return PeerUnreachable(str(target), failure, local=local, fix="raise the limit on open files")
        return PeerUnreachable(str(target), failure, local=local)
    reason = f"it closed the connection during the TLS handshake ({error.strerror or error})"
    return PeerUnreachable(str(target), reason, local=local, fix=_SEE_LOG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialer:
    """How a server is reached.

    Attributes:
        target: the server.
        proxy: the proxy on the way there, or None.
        timeout: seconds for all steps together.
    """

    target: HostPort
    proxy: Proxy | None
    timeout: float

    async def dial(
        self,
        loop: asyncio.AbstractEventLoop,
        resolver: Resolver,
        context: SpiffeSSLContext,
        identity: Identity,
        hold: Callable[[socket.socket], object],
    ) -> SpiffeSSLSocket:
        """Return a TLS socket whose peer is verified and authorized, and speaks HTTP/2.

        On the way there `hold` is called with each socket that this is about, as soon as it is connected.

        Raises:
            OtelSpiffeError: the sentence for whoever made the call.
        """
        local = identity.chosen.id if identity.chosen is not None else None
        step = ["it did not resolve"]
        try:
            async with asyncio.timeout(self.timeout):
                plain = await self._reach(loop, resolver, step, local, hold)
                step[0] = "the TLS handshake did not end"
                return await self._secure(loop, plain, context, local, hold)
        except TimeoutError as error:
            reason = f"{step[0]} within {self.timeout:g} s"
            raise PeerUnreachable(str(self.target), reason, local=local) from error

    async def _reach(
        self,
        loop: asyncio.AbstractEventLoop,
        resolver: Resolver,
        step: list[str],
        local: SpiffeId | None,
        hold: Callable[[socket.socket], object],
    ) -> socket.socket:
        via = self.proxy.where if self.proxy is not None else self.target
        on_the_way = f"the {self.proxy}: " if self.proxy is not None else ""
        try:
            addresses = await resolver.resolve(via)
        except OSError as error:
            reason = f"{on_the_way}{via.host!r} does not resolve: {error.strerror or error}"
            raise PeerUnreachable(str(self.target), reason, local=local, fix="mend the name, or DNS") from error
        step[0] = f"{on_the_way}no TCP connection came about"
        try:
            plain = await connect(loop, addresses)
        except OSError as error:
            raise PeerUnreachable(str(self.target), f"{on_the_way}{error}", local=local) from error
        hold(plain)
        tune(plain)
        if self.proxy is not None:
            step[0] = f"the {self.proxy} did not answer"
            await _closing(plain, self._tunnel(loop, plain, self.proxy))
        return plain

    async def _tunnel(self, loop: asyncio.AbstractEventLoop, plain: socket.socket, proxy: Proxy) -> None:
        request, received = connect_request(self.target, proxy), b""
        try:
            await loop.sock_sendall(plain, request)
            while not connect_answer(received, self.target, proxy):
                if not (data := await loop.sock_recv(plain, _ANSWER_CHUNK)):
                    raise PeerUnreachable(str(self.target), f"the {proxy} closed the connection without an answer")
                received += data
        except OtelSpiffeError:
            raise
        except OSError as error:
            raise PeerUnreachable(str(self.target), f"the {proxy}: {error.strerror or error}") from error

    async def _secure(
        self,
        loop: asyncio.AbstractEventLoop,
        plain: socket.socket,
        context: SpiffeSSLContext,
        local: SpiffeId | None,
        hold: Callable[[socket.socket], object],
    ) -> SpiffeSSLSocket:
        try:
            wrapped = context.wrap_socket(plain, server_hostname=self.target.host, do_handshake_on_connect=False)
        except OSError as error:
            plain.close()
            raise unreachable(self.target, error, local) from error
        except BaseException:
            plain.close()
            raise
        hold(wrapped)
        await _closing(wrapped, self._checked(loop, wrapped, local))
        return wrapped  # type: ignore[return-value]  # the context's sslsocket_class

    async def _checked(self, loop: asyncio.AbstractEventLoop, wrapped: ssl.SSLSocket, local: SpiffeId | None) -> None:
        try:
            await shake_hands(loop, wrapped)
        except OSError as error:
            raise unreachable(self.target, error, local) from error
        if wrapped.selected_alpn_protocol() != "h2":
            reason = "it speaks TLS, but did not choose HTTP/2 by ALPN (h2), which gRPC needs"
            raise PeerUnreachable(str(self.target), reason, local=local, fix="point it at the server's gRPC port")


async def _closing(connection: socket.socket, work: Awaitable[object]) -> None:
    """Await `work`, and close `connection` unless that succeeds."""
    try:
        await work
    except BaseException:
        with contextlib.suppress(OSError):
            connection.close()
        raise
