# SPDX-License-Identifier: Apache-2.0
"""Every error of this library, under one root.

.. code-block:: text

    OtelSpiffeError
    ├── InvalidConfiguration (ValueError)         a setting that is missing or makes no sense
    ├── InvalidIdentity (ValueError)              an ID, SVID or bundle that breaks its standard
    ├── SourceUnavailable (ConnectionError)       no identity can be had now
    │   └── IdentityExpired                       there is one, and it may not be used any more
    ├── PeerRejected (ssl.SSLCertVerificationError)   we refuse the peer
    │   ├── PeerUntrusted                         its X509-SVID does not verify; `why` says it
    │   └── PeerNotAuthorized                     it verifies, and the authorizer refuses it
    ├── RefusedByPeer (ssl.SSLError)              the peer refuses us; `alert` says why
    └── PeerUnreachable (ConnectionError)         no TLS handshake took place

The fields come first; the message is made from them. Those that occur while a connection is made are
also the standard library's `OSError`, so that urllib3, httpx, aiohttp and asyncio treat them as the
connection failures that they are, and keep their text.
"""

from __future__ import annotations

import enum
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from spiffe import SpiffeId

__all__ = [
    "IdentityExpired",
    "InvalidConfiguration",
    "InvalidIdentity",
    "OtelSpiffeError",
    "PeerNotAuthorized",
    "PeerRejected",
    "PeerUnreachable",
    "PeerUntrusted",
    "RefusedByPeer",
    "SourceUnavailable",
    "Untrusted",
]


class OtelSpiffeError(Exception):
    """The root: `except OtelSpiffeError` catches all that this library raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"

    def __reduce__(self) -> tuple[Callable[..., OtelSpiffeError], tuple[object, ...]]:
        # Process pools and `copy` would call the class with the message alone; the fields are keyword-only.
        return _restored, (type(self), self.args, self.__dict__.copy())


def _restored(kind: type[OtelSpiffeError], arguments: tuple[object, ...], fields: dict[str, object]) -> OtelSpiffeError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(fields)
    return error


class InvalidConfiguration(OtelSpiffeError, ValueError):
    """A setting is missing, contradicts another or cannot be read.

    Attributes:
        setting: the keyword, environment variable or file at fault.
        reason: what is wrong with it.
        fix: what to do about it; empty where `reason` says it already.
    """

    def __init__(self, setting: str, reason: str, *, fix: str = "") -> None:
        super().__init__(f"{setting}: {reason}" + (f"; {fix}" if fix else ""))
        self.setting = setting
        self.reason = reason
        self.fix = fix


class InvalidIdentity(OtelSpiffeError, ValueError):
    """An ID, X509-SVID, key or bundle breaks its standard.

    Attributes:
        what: the thing, for example ``SPIFFE ID 'spiffe://a//b'`` or ``bundle of prod.example``.
        reason: the rule that it breaks.
        fix: what to do about it; empty where `reason` says it already.
    """

    def __init__(self, what: str, reason: str, *, fix: str = "") -> None:
        super().__init__(f"{what}: {reason}" + (f"; {fix}" if fix else ""))
        self.what = what
        self.reason = reason
        self.fix = fix


class SourceUnavailable(OtelSpiffeError, ConnectionError):
    """A source has no identity to give now.

    Attributes:
        source: the source, for example ``Workload API at unix:/run/spire/agent.sock``.
        reason: what keeps it from having one.
        fix: what to do about it; empty where `reason` says it already.
    """

    def __init__(self, source: str, reason: str, *, fix: str = "") -> None:
        super().__init__(f"{source}: {reason}" + (f"; {fix}" if fix else ""))
        self.source = source
        self.reason = reason
        self.fix = fix


class IdentityExpired(SourceUnavailable):
    """The last identity of a source has expired and no newer one came.

    Attributes:
        id: the SPIFFE ID of the expired X509-SVID.
        expired_at: its notAfter, aware.
        now: the clock's reading when it was refused, aware.
    """

    def __init__(self, source: str, *, id: SpiffeId, expired_at: datetime, now: datetime, cause: str = "") -> None:  # noqa: A002 -- the standard's word
        ago = int((now - expired_at).total_seconds())
        super().__init__(
            source,
            f"the X509-SVID of {id} expired {ago} s ago, at {expired_at:%Y-%m-%dT%H:%M:%SZ}, and no newer one came"
            + (f" ({cause})" if cause else ""),
            fix="see that the SPIFFE agent or the files are renewed, and that this machine's clock is right",
        )
        self.id = id
        self.expired_at = expired_at
        self.now = now
        self.cause = cause


class PeerRejected(OtelSpiffeError, ssl.SSLCertVerificationError):
    """We refuse the peer of a handshake.

    Attributes:
        peer: its SPIFFE ID, or None where its certificate holds no single valid one.
        local: our own SPIFFE ID, or None where we presented no X509-SVID.
        fix: what to do about it; empty where the sentence says it already.
    """

    peer: SpiffeId | None
    local: SpiffeId | None

    def __init__(self, message: str, *, peer: SpiffeId | None, local: SpiffeId | None, fix: str = "") -> None:
        super().__init__(message + (f" (we are {local})" if local is not None else "") + (f"; {fix}" if fix else ""))
        self.peer = peer
        self.local = local
        self.fix = fix
        # What OpenSSL's own errors carry, for programs that look at it.
        self.library, self.reason = "SPIFFE", "CERTIFICATE_VERIFY_FAILED"
        self.verify_code, self.verify_message = 0, message


class Untrusted(enum.StrEnum):
    """Why an X509-SVID does not verify; the value is a stable word for metrics."""

    NO_CERTIFICATE = "no_certificate"
    UNREADABLE = "unreadable"
    NO_URI_SAN = "no_uri_san"
    SEVERAL_URI_SANS = "several_uri_sans"
    INVALID_ID = "invalid_id"
    NO_PATH = "no_path"
    CA_AS_LEAF = "ca_as_leaf"
    WRONG_KEY_USAGE = "wrong_key_usage"
    WRONG_EXTENDED_KEY_USAGE = "wrong_extended_key_usage"
    WEAK_KEY = "weak_key"
    UNSUPPORTED_KEY = "unsupported_key"
    NO_BUNDLE = "no_bundle"
    EMPTY_BUNDLE = "empty_bundle"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    INCOMPLETE_CHAIN = "incomplete_chain"
    UNKNOWN_AUTHORITY = "unknown_authority"
    REVOKED = "revoked"
    REVOCATION_UNKNOWN = "revocation_unknown"
    INVALID_CHAIN = "invalid_chain"


# Of those that are not here the detail says it, for it depends on the case.
_FIXES = {
    Untrusted.NO_CERTIFICATE: "have the peer speak mutual TLS with an X509-SVID",
    Untrusted.UNREADABLE: "have a new X509-SVID issued to it",
    Untrusted.NO_URI_SAN: "have it present an X509-SVID of its SPIFFE agent, not another certificate",
    Untrusted.SEVERAL_URI_SANS: "have its authority issue one certificate for each SPIFFE ID",
    Untrusted.INVALID_ID: "mend the ID where the peer is registered with its authority",
    Untrusted.NO_PATH: "have it present the X509-SVID of a workload",
    Untrusted.CA_AS_LEAF: "have it present an X509-SVID that this CA issued",
    Untrusted.WRONG_KEY_USAGE: "mend the profile by which its authority issues",
    Untrusted.WRONG_EXTENDED_KEY_USAGE: "mend the profile by which its authority issues",
    Untrusted.WEAK_KEY: "issue it for a key of EC P-256 or more, or RSA of 2048 bits or more",
    Untrusted.UNSUPPORTED_KEY: "issue it for a key of EC P-256, P-384 or P-521, or RSA",
    Untrusted.EMPTY_BUNDLE: "if that was not meant, see who publishes it",
    Untrusted.EXPIRED: "see that its SPIFFE agent renews it, and that the clocks of both ends agree",
    Untrusted.REVOKED: "if it may still be trusted, have a new X509-SVID issued to it",
    Untrusted.INVALID_CHAIN: "mend the chain that its authority issues",
}


class PeerUntrusted(PeerRejected):
    """The peer's X509-SVID does not verify.

    Attributes:
        why: the reason as data.
        detail: the reason as a sentence, with the standard's section.
    """

    def __init__(
        self,
        why: Untrusted,
        detail: str,
        *,
        peer: SpiffeId | None,
        local: SpiffeId | None = None,
        subject: str = "",
    ) -> None:
        who = f"peer {peer}" if peer is not None else f"peer certificate {subject!r}" if subject else "peer"
        super().__init__(f"{who} is not trusted: {detail}", peer=peer, local=local, fix=_FIXES.get(why, ""))
        self.why = why
        self.detail = detail
        self.subject = subject


class PeerNotAuthorized(PeerRejected):
    """The peer's X509-SVID verifies, and the authorizer refuses it.

    Attributes:
        policy: the authorizer's repr, for example ``one_of(spiffe://prod.example/collector)``.
        detail: what the authorizer said beyond that, or empty.
    """

    peer: SpiffeId  # pyright: ignore[reportIncompatibleVariableOverride] -- set once, when it is made

    def __init__(self, peer: SpiffeId, policy: str, *, detail: str = "", local: SpiffeId | None = None) -> None:
        super().__init__(
            f"peer {peer} is not in {policy}" + (f": {detail}" if detail else ""),
            peer=peer,
            local=local,
            fix="if it is the peer that is meant, authorize its ID",
        )
        self.policy = policy
        self.detail = detail


class RefusedByPeer(OtelSpiffeError, ssl.SSLError):
    """The peer ended the handshake, or the connection right after it, because of our certificate.

    Attributes:
        alert: the TLS alert's name (RFC 8446 6), for example ``unknown_ca``; empty where it just hung up.
        peer: its SPIFFE ID, None where it refused before it showed one.
        local: our SPIFFE ID, None where we presented no X509-SVID.
    """

    def __init__(self, alert: str, *, peer: SpiffeId | None, local: SpiffeId | None, fix: str = "") -> None:
        us = str(local) if local is not None else "us, who presented no X509-SVID"
        super().__init__(
            f"{peer or 'the peer'} refused {us}: {alert or 'it closed the connection'}" + (f"; {fix}" if fix else "")
        )
        self.alert = alert
        self.peer = peer
        self.local = local
        self.fix = fix
        self.library, self.reason = "SPIFFE", alert.upper()  # what OpenSSL's own errors carry


class PeerUnreachable(OtelSpiffeError, ConnectionError):
    """There was no connection on which a handshake could have begun, or it did not end in time.

    Attributes:
        target: host and port, as the user gave them; credentials of a proxy left out.
        reason: what the operating system, the resolver or the proxy said.
        local: our SPIFFE ID, None where we presented no X509-SVID.
        fix: what to do about it.
    """

    def __init__(
        self,
        target: str,
        reason: str,
        *,
        local: SpiffeId | None = None,
        fix: str = "see that it runs and listens there",
    ) -> None:
        us = f" from {local}" if local is not None else ""
        super().__init__(f"cannot reach {target}{us}: {reason}" + (f"; {fix}" if fix else ""))
        self.target = target
        self.reason = reason
        self.local = local
        self.fix = fix
