# SPDX-License-Identifier: Apache-2.0
"""The sockets of our contexts: no application byte passes before the peer is verified and authorized.

OpenSSL ends a handshake inside any read or write, so each of them first goes through `do_handshake`, the only
place where a connection becomes usable.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any

from otel_spiffe.credentials._alerts import alert_of
from otel_spiffe.credentials._tls_checked import Checked, peer_chain, quieten, raise_explained
from otel_spiffe.credentials._tls_handshake import HUNG_UP

__all__ = ["SpiffeSSLObject", "SpiffeSSLSocket"]

_AGAIN = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
_ALERT_SECONDS = 1.0  # that a write which failed waits for the alert that says why: it was on its way before


class SpiffeSSLSocket(Checked, ssl.SSLSocket):
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
            raise_explained(self.handshake.failed(error), error)
        self.handshake.finish(peer_chain(self), resumed=bool(self.session_reused))
        quieten(self)

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
            raise_explained(self.handshake.read_failed(error), error)
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
            raise_explained(self._write_failed(error), error)

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
            raise_explained(self._write_failed(error), error)

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


class SpiffeSSLObject(Checked, ssl.SSLObject):
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
            raise_explained(self.handshake.failed(error), error)
        self.handshake.finish(peer_chain(self), resumed=bool(self.session_reused))
        quieten(self)

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
            raise_explained(self.handshake.read_failed(error), error)
        self._answered(data)
        return data

    def write(self, data: Any) -> int:  # noqa: ANN401
        """Write application data, as `ssl.SSLObject.write`."""
        if self._established:
            return super().write(data)
        if not self._usable():
            self.do_handshake()
        return super().write(data)
