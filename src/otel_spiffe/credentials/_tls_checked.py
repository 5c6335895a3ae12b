# SPDX-License-Identifier: Apache-2.0
"""What a blocking and a non-blocking connection of ours have in common: what they know of their peer, and when."""

from __future__ import annotations

import ssl
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from otel_spiffe.errors import PeerUntrusted, Untrusted

if TYPE_CHECKING:
    from datetime import datetime

    from spiffe import SpiffeId

    from otel_spiffe.credentials._tls_handshake import Handshake

__all__ = ["Checked", "peer_chain", "quieten", "raise_explained"]


def peer_chain(connection: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
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


def quieten(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
    # The public setter of SSLObject does the same; that of SSLSocket would change `socket.context` too.
    private: Any = connection
    private._sslobj.context = _QUIET  # noqa: SLF001


def raise_explained(explained: OSError, error: OSError) -> NoReturn:
    if explained is error:
        raise error
    raise explained from error


class Checked:
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
