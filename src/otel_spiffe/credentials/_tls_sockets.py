# SPDX-License-Identifier: Apache-2.0
"""The sockets of our contexts: no application byte passes before the peer is verified and authorized.

OpenSSL ends a handshake inside any read or write, so each of them first goes through `do_handshake`, the only
place where a connection becomes usable.
"""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from otel_spiffe.credentials._alerts import alert_of
from otel_spiffe.credentials._tls_handshake import HUNG_UP
from otel_spiffe.errors import PeerUntrusted, Untrusted

if TYPE_CHECKING:
    from datetime import datetime

    from spiffe import SpiffeId

    from otel_spiffe.credentials._tls_handshake import Handshake

__all__ = ["SpiffeSSLObject", "SpiffeSSLSocket"]

_AGAIN = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
_ALERT_SECONDS = 1.0  # that a write which failed waits for the alert that says why: it was on its way before


def _peer_chain(connection: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
    # Public from Python 3.13 on; before that the same method stands on the private `_sslobj` alone.
    if sys.version_info >= (3, 13):
        return connection.get_unverified_chain()
    private: Any = connection
    certificates: list[Any] = private._sslobj.get_unverified_chain() or []  # noqa: SLF001
    return [each.public_bytes(_DER) for each in certificates]


_DER = 2  # _ssl.ENCODING_DER


# After the handshake a connection is moved to this context, which watches nothing: with the callback that `_tls_inner`
# sets, every record called into Python, and bulk data went at half the speed.
_QUIET = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _quieten(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
    # The public setter of SSLObject does the same; that of SSLSocket would change `socket.context` too.
    private: Any = connection
    private._sslobj.context = _QUIET  # noqa: SLF001


def _raise(explained: OSError, error: OSError) -> NoReturn:
    if explained is error:
        raise error
    raise explained from error


class _Checked:
    """What both kinds of connection know of their peer once the handshake is over."""

    _spiffe: Handshake | None = None
    _spiffe_context: ssl.SSLContext | None = None
    _established = False  # verified, and the peer has answered: from there on nothing stands before OpenSSL

    def begin(self, handshake: Handshake, context: ssl.SSLContext) -> None:
        """Check this connection of `context` with `handshake`; each connection is begun once.

        Raises:
            PeerUntrusted: it was begun before.
        """
        if self._spiffe is not None and self._spiffe.peer_id is not None:
            raise PeerUntrusted(Untrusted.NO_CERTIFICATE, "a connection is begun once", peer=None)
        self._spiffe, self._spiffe_context = handshake, context

    @property
    def handshake(self) -> Handshake:
        """The checks of this connection.

        Raises:
            PeerUntrusted: it was not made by a context of this library.
        """
        if self._spiffe is None:
            raise PeerUntrusted(Untrusted.NO_CERTIFICATE, "no SPIFFE context made this connection", peer=None)
        return self._spiffe

    @property
    def peer_id(self) -> SpiffeId:
        """The peer's verified and authorized SPIFFE ID.

        Raises:
            ValueError: the handshake is not done yet.
        """
        peer = self.handshake.peer_id
        if peer is None:
            msg = "handshake not done yet"
            raise ValueError(msg)
        return peer

    @property
    def local_id(self) -> SpiffeId | None:
        """The SPIFFE ID that this end presents, or None."""
        return self.handshake.local

    @property
    def generation(self) -> int:
        """The generation of the identity that this connection was begun with."""
        return self.handshake.identity.generation

    @property
    def expires_at(self) -> datetime | None:
        """When the first of both ends' X509-SVIDs ends, aware; None before the handshake."""
        handshake = self.handshake
        if handshake.peer_expires_at is None:
            return None
        own = handshake.identity.expires_at if handshake.local is not None else None
        return min(handshake.peer_expires_at, own) if own is not None else handshake.peer_expires_at

    def _answered(self, data: object) -> None:
        if data:
            self.handshake.answered = self._established = True

    def _usable(self) -> bool:
        handshake = self.handshake
        if handshake.refusal is not None:
            raise handshake.refusal
        return handshake.peer_id is not None


class SpiffeSSLSocket(_Checked, ssl.SSLSocket):
    """An `ssl.SSLSocket` whose handshake ends with a verified and authorized `peer_id`."""

    _sslobj: Any  # None before `connect` and after `unwrap` and `close`
    suppress_ragged_eofs: bool
    _early: bytes = b""  # read by `_write_failed`, not yet by the program
    _sends = True  # until `shutdown` ends that

    @property
    def context(self) -> ssl.SSLContext:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """The context that made this connection; it cannot be changed."""
        return self._spiffe_context or super().context

    def connect(self, addr: Any) -> None:  # noqa: ANN401
        """Connect and do the handshake, as `ssl.SSLSocket.connect`; a socket for which this fails is closed.

        The standard library's drops TLS and leaves the connection open: `sendall` would then send plaintext to a peer
        that was just refused.
        """
        try:
            super().connect(addr)
        except BaseException:
            self.close()
            raise

    def connect_ex(self, addr: Any) -> int:  # noqa: ANN401
        """Connect, as `ssl.SSLSocket.connect_ex`; a socket whose handshake fails is closed."""
        try:
            return super().connect_ex(addr)
        except BaseException:
            self.close()
            raise

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 -- the standard library's signature
        """Do the handshake, then verify and authorize the peer.

        Raises:
            PeerUntrusted: its X509-SVID does not verify.
            PeerNotAuthorized: the authorizer refuses it.
            RefusedByPeer: it refuses us.
        """
        if self._usable():
            return
        try:
            self._shake(block)
        except AttributeError as error:  # how `ssl` says that the connection was closed in the middle
            if self._sslobj is not None:
                raise
            raise ConnectionAbortedError(errno.ECONNABORTED, "closed by this program during the handshake") from error

    def _shake(self, block: bool) -> None:  # noqa: FBT001
        try:
            super().do_handshake(block)
        except _AGAIN:
            raise
        except OSError as error:
            _raise(self.handshake.failed(error), error)
        self.handshake.finish(_peer_chain(self), resumed=bool(self.session_reused))
        _quieten(self)

    def shutdown(self, how: int) -> None:
        """Shut down the connection, as `ssl.SSLSocket.shutdown`; what stays open in one direction stays TLS there.

        The standard library's forgets TLS here: after ``SHUT_RD`` it would send plaintext, and after ``SHUT_WR`` give
        out as application data what anybody on the way wrote.
        """
        self._sends = self._sends and how == socket.SHUT_RD
        socket.socket.shutdown(self, how)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002, ANN401 -- the standard library's signature
        """Read application data, as `ssl.SSLSocket.read`; RefusedByPeer when the peer refuses us here."""
        if self._established:
            return super().read(len, buffer)  # pyright: ignore[reportDeprecated]
        self._ready()
        if self._early:
            return self._take_early(len, buffer)
        wanted = self.suppress_ragged_eofs
        # Until the server's first byte, its hanging up without a word is how gRPC C-core refuses a client.
        self.suppress_ragged_eofs = wanted and (self.server_side or self.handshake.answered)
        try:
            data = super().read(len, buffer)  # pyright: ignore[reportDeprecated]
        except _AGAIN:
            raise
        except OSError as error:
            _raise(self.handshake.read_failed(error), error)
        finally:
            self.suppress_ragged_eofs = wanted
        self._answered(data)
        return data

    def _take_early(self, len: int, buffer: Any) -> Any:  # noqa: A002, ANN401
        early = self._early
        if not (len or buffer):
            return 0 if buffer is not None else b""
        self._early = b""
        self._answered(early)
        if buffer is None:
            return early
        memoryview(buffer).cast("B")[:1] = early
        return 1

    def write(self, data: Any) -> int:  # noqa: ANN401
        """Write application data, as `ssl.SSLSocket.write`; RefusedByPeer when the peer refuses us here."""
        if self._established:
            return super().write(data)  # pyright: ignore[reportDeprecated]
        self._ready()
        try:
            return super().write(data)  # pyright: ignore[reportDeprecated]
        except _AGAIN:
            raise
        except OSError as error:
            _raise(self._write_failed(error), error)

    def send(self, data: Any, flags: int = 0) -> int:  # noqa: ANN401
        """Send application data, as `ssl.SSLSocket.send`; RefusedByPeer when the peer refuses us here."""
        if self._established:
            return super().send(data, flags)
        self._ready()
        try:
            return super().send(data, flags)
        except _AGAIN:
            raise
        except OSError as error:
            _raise(self._write_failed(error), error)

    def _write_failed(self, error: OSError) -> OSError:
        # The alert that explains a broken pipe is still to be read; so may be an answer, which is kept for `read`.
        if not self._sends:
            return error
        if isinstance(error, HUNG_UP) and not self.server_side and not self._early:
            wait = self.gettimeout()
            self.settimeout(_ALERT_SECONDS if wait is None else min(wait, _ALERT_SECONDS))
            try:
                self._early = super().read(1)  # pyright: ignore[reportDeprecated]
            except OSError as found:
                error = found if alert_of(found) else error
            finally:
                self.settimeout(wait)
        return error if self._early else self.handshake.read_failed(error)

    def _ready(self) -> None:
        if not self._usable():
            self.do_handshake()


class SpiffeSSLObject(_Checked, ssl.SSLObject):
    """An `ssl.SSLObject` whose handshake ends with a verified and authorized `peer_id`."""

    @property
    def context(self) -> ssl.SSLContext:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """The context that made this connection; it cannot be changed."""
        return self._spiffe_context or super().context

    def do_handshake(self) -> None:
        """Do the handshake, then verify and authorize the peer; raises as `SpiffeSSLSocket.do_handshake`."""
        if self._usable():
            return
        try:
            super().do_handshake()
        except _AGAIN:
            raise
        except OSError as error:
            _raise(self.handshake.failed(error), error)
        self.handshake.finish(_peer_chain(self), resumed=bool(self.session_reused))
        _quieten(self)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002, ANN401 -- the standard library's signature
        """Read application data, as `ssl.SSLObject.read`; RefusedByPeer when the peer refuses us here."""
        if self._established:
            return super().read(len, buffer)
        if not self._usable():
            self.do_handshake()
        try:
            data = super().read(len, buffer)
        except _AGAIN:
            raise
        except OSError as error:
            _raise(self.handshake.read_failed(error), error)
        self._answered(data)
        return data

    def write(self, data: Any) -> int:  # noqa: ANN401
        """Write application data, as `ssl.SSLObject.write`."""
        if self._established:
            return super().write(data)
        if not self._usable():
            self.do_handshake()
        return super().write(data)
