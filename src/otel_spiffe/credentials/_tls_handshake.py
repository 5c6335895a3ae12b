# SPDX-License-Identifier: Apache-2.0
"""One handshake: what OpenSSL saw goes in, the peer's authorized SPIFFE ID or a sentence comes out."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography import x509

from otel_spiffe.credentials._alerts import alert_of, certificates_of_message
from otel_spiffe.errors import OtelSpiffeError, PeerUntrusted, RefusedByPeer, Untrusted
from otel_spiffe.identity import Authorizer, Identity, authorize, peer_spiffe_id, verify, verify_peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spiffe import SpiffeId

__all__ = ["HUNG_UP", "Handshake", "as_ssl_error"]

HUNG_UP = (ssl.SSLEOFError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


def _reduced(error: OtelSpiffeError) -> tuple[Any, ...]:
    # To pickle the class that it is made of: the one made here has no name that could be imported.
    rebuild, (kind, *rest) = OtelSpiffeError.__reduce__(error)
    return rebuild, (kind.__mro__[1], *rest)  # type: ignore[attr-defined]


_PICKLED = {"__reduce__": _reduced}
_also_ssl_errors: dict[type[OtelSpiffeError], type[OtelSpiffeError]] = {}


def as_ssl_error(error: OtelSpiffeError) -> OtelSpiffeError:
    """Return `error` as an `ssl.SSLError` too: of any other, asyncio's handshake hangs until its timeout."""
    if isinstance(error, ssl.SSLError):
        return error
    kind = type(error)
    both = _also_ssl_errors.setdefault(kind, type(kind.__name__, (kind, ssl.SSLError), _PICKLED))
    same = ssl.SSLError.__new__(both, error.message)  # a ValueError's own would refuse
    same.__dict__.update(error.__dict__)
    return same


@dataclass(slots=True, kw_only=True)
class Handshake:
    """The checks of one connection, and what is known of it.

    Attributes:
        identity: the snapshot that the connection was begun with.
        local: the SPIFFE ID that it presents, or None.
        authorizer: whom it accepts.
        server_side: whether this end accepts the connection.
        peer_id: the peer's verified and authorized SPIFFE ID; None until then.
        peer_expires_at: when the first certificate of the peer's verified path ends, aware; None until then.
        refusal: why the connection may not be used; None while nothing was refused.
        answered: a byte of application data has come from the peer.
    """

    identity: Identity
    local: SpiffeId | None
    authorizer: Authorizer
    server_side: bool
    peer_id: SpiffeId | None = None
    peer_expires_at: datetime | None = None
    refusal: OtelSpiffeError | None = None
    answered: bool = False
    _message: bytes = field(default=b"", repr=False)
    _version: int = 0

    def saw_certificate(self, message: bytes, version: int) -> None:
        """Keep the peer's Certificate message, for the sentence in case that OpenSSL refuses it."""
        self._message, self._version = message, version

    def finish(self, chain_der: Sequence[bytes], *, resumed: bool) -> None:
        """Verify and authorize the peer after OpenSSL has finished.

        Raises:
            PeerUntrusted: its chain does not verify, or the session was resumed and shows none.
            PeerNotAuthorized: the authorizer refuses it.
        """
        try:
            self._check(chain_der, resumed=resumed)
        except OtelSpiffeError as refusal:
            self.refusal = refusal
            raise
        except Exception as error:  # a stranger chose these bytes: whatever they do to a parser is a refusal
            self.refusal = self._unreadable(error)
            raise self.refusal from error
        finally:
            self._message = b""

    def _check(self, chain_der: Sequence[bytes], *, resumed: bool) -> None:
        if resumed and not self.server_side:
            detail = "the TLS session was resumed, and that skips the certificates"
            raise PeerUntrusted(Untrusted.NO_CERTIFICATE, detail, peer=None, local=self.local)
        chain = self._parse(chain_der)
        peer = verify_peer(chain, self.identity, now=datetime.now(UTC))
        authorize(self.authorizer, peer.id, local=self.local)
        self.peer_expires_at, self.peer_id = peer.expires_at, peer.id

    def _parse(self, chain_der: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
        if not chain_der:
            detail = "it presented no X509-SVID"
            raise PeerUntrusted(Untrusted.NO_CERTIFICATE, detail, peer=None, local=self.local)
        try:
            return tuple(map(x509.load_der_x509_certificate, chain_der))
        except Exception as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> PeerUntrusted:
        # Not ValueError alone: InvalidVersion is none, and under `-W error` a negative serial number is a Warning.
        detail = f"what it sent as certificates cannot be read: {type(error).__name__}: {error}"
        return PeerUntrusted(Untrusted.UNREADABLE, detail, peer=None, local=self.local)

    def failed(self, error: OSError) -> OSError:
        """Return what to raise in place of `error`, which ended the handshake; the connection is dead after it."""
        explained = self._explain(error)
        if isinstance(explained, OtelSpiffeError):
            self.refusal = explained
        return explained

    def _explain(self, error: OSError) -> OSError:
        if getattr(error, "reason", None) == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            detail = "it presented no X509-SVID, and this server asks for one"
            return PeerUntrusted(Untrusted.NO_CERTIFICATE, detail, peer=None, local=self.local)
        if isinstance(error, ssl.SSLError) and not alert_of(error) and not isinstance(error, ssl.SSLEOFError):
            return self._untrusted(error)
        return self._refused(error, hung_up=bool(self._message) and not self.server_side)

    def _untrusted(self, error: ssl.SSLError) -> OSError:
        # OpenSSL drops a chain that it refuses, and its words are "certificate verify failed" or "wrong curve". The
        # Certificate message went past before that, so our own verification can say who it was and what is wrong.
        peer: SpiffeId | None = None
        try:
            chain = self._parse(certificates_of_message(self._message, self._version))
            peer = verify(chain, self.identity, now=datetime.now(UTC))
        except PeerUntrusted as refusal:
            return refusal
        except Exception:  # noqa: BLE001, S110 -- no Certificate message, or none that can be read
            pass
        if not isinstance(error, ssl.SSLCertVerificationError):
            return error
        detail = f"OpenSSL refuses its chain: {error.verify_message}"
        return PeerUntrusted(Untrusted.INVALID_CHAIN, detail, peer=peer, local=self.local)

    def read_failed(self, error: OSError) -> OSError:
        """Return what to raise in place of `error`, which ended a read or a write after the handshake.

        With TLS 1.3 a server judges our certificate after our handshake is over: its alert, or its hanging up,
        meets the first read. Every later use raises the same: httpcore ignores a failed write and reads on.
        """
        explained = error if self.answered else self._refused(error, hung_up=not self.server_side)
        if isinstance(explained, OtelSpiffeError):
            self.refusal = explained
        return explained

    def _refused(self, error: OSError, *, hung_up: bool) -> OSError:
        alert = alert_of(error)
        if not alert and not (hung_up and isinstance(error, HUNG_UP)):
            return error
        return RefusedByPeer(alert, peer=self.peer_id or self._claimed(), local=self.local, fix=self._fix(alert))

    def _claimed(self) -> SpiffeId | None:
        # The ID in a certificate that has not been verified: for the sentence alone.
        try:
            return peer_spiffe_id(self._parse(certificates_of_message(self._message, self._version))[0])
        except Exception:  # noqa: BLE001 -- as above
            return None

    def _fix(self, alert: str) -> str:
        if alert == "unknown_ca" and self.local is not None:
            return f"see that it has the bundle of {self.local.trust_domain}"
        if alert == "certificate_required":
            return "present an X509-SVID: leave present_svid at True"
        if not alert:
            return "see its log; it may lack our bundle or not authorize us"
        return ""
