# SPDX-License-Identifier: Apache-2.0
"""The immutable context behind one generation: OpenSSL's view of an identity."""

from __future__ import annotations

import contextlib
import logging
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.hazmat.primitives.serialization import Encoding

from otel_spiffe.credentials._keys import load_svid

if TYPE_CHECKING:
    from collections.abc import Collection

    from cryptography import x509
    from spiffe import SpiffeId

    from otel_spiffe.identity import Identity, X509Bundle

__all__ = ["FORCED_OPTIONS", "Inner", "Settings", "believable", "build", "is_full"]

FORCED_OPTIONS = ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
"""No resumption by ticket (a resumed session shows no chain), no CRIME, no renegotiation."""

MAX_SESSIONS = 500
"""TLS 1.2 sessions that OpenSSL may keep for one context of ours."""

_log = logging.getLogger("otel_spiffe.credentials")
_CERTIFICATE = 11  # the handshake message's type (RFC 8446 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a program may choose about the protocol."""

    protocol: int
    options: int
    minimum_version: int
    maximum_version: int
    alpn: tuple[str, ...] = ()
    ciphers: str | None = None
    curve: str | None = None
    keylog_filename: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """One identity as OpenSSL has it; never changed after it is built, because contexts only ever add CAs.

    Attributes:
        identity: the one.
        local: the SPIFFE ID that is presented, or None.
        context: OpenSSL's.
        settled: which settings it was built by.
    """

    identity: Identity
    local: SpiffeId | None
    context: ssl.SSLContext
    settled: object


class _Owner(Protocol):
    _spiffe: Any


def is_full(inner: Inner) -> bool:
    """Return whether so many sessions are kept that a new context should take its place.

    OpenSSL keeps the session, chain included, of each TLS 1.2 client: 20,480 of them, and Python cannot tell it not to.
    """
    return inner.context.session_stats()["number"] > MAX_SESSIONS


def build(settings: Settings, identity: Identity, *, present_svid: bool, settled: object = None) -> Inner:
    """Return the context of one identity, in about a millisecond.

    Raises:
        InvalidIdentity: it is to present an X509-SVID and the identity holds bundles alone.
    """
    context = ssl.SSLContext(settings.protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # An intermediate may be a trust domain's only authority.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _apply(context, settings)
    _trust(context, identity)
    svid = identity.svid if present_svid else None
    if svid is not None:
        load_svid(context, svid)
    _watch(context)
    local = svid.id if svid is not None else None
    return Inner(identity=identity, local=local, context=context, settled=settled)


def _apply(context: ssl.SSLContext, settings: Settings) -> None:
    context.options = ssl.Options(settings.options) | FORCED_OPTIONS
    context.minimum_version = ssl.TLSVersion(settings.minimum_version)
    context.maximum_version = ssl.TLSVersion(settings.maximum_version)
    if settings.protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    if settings.alpn:
        context.set_alpn_protocols(list(settings.alpn))
    if settings.ciphers is not None:
        context.set_ciphers(settings.ciphers)
    if settings.curve is not None:
        context.set_ecdh_curve(settings.curve)
    if settings.keylog_filename is not None:
        context.keylog_filename = settings.keylog_filename


def _trust(context: ssl.SSLContext, identity: Identity) -> None:
    # The union of all bundles, for the first look alone: `identity.verify` then asks the one bundle that counts.
    try:
        _load(context, _authorities(identity))
    except ssl.SSLError:
        _load(context, believable(identity))


def believable(identity: Identity) -> list[x509.Certificate]:
    """Return the authorities that OpenSSL takes, and log which it does not.

    One that it cannot read makes it refuse all that are loaded together, those of other trust domains included.
    """
    authorities = _authorities(identity)
    try:
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), authorities)
    except ssl.SSLError:
        bundles = identity.bundles.values()
        return [each for bundle in bundles for each in bundle.authorities if _is_taken(each, bundle)]
    return authorities


def _authorities(identity: Identity) -> list[x509.Certificate]:
    return list(dict.fromkeys(each for bundle in identity.bundles.values() for each in bundle.authorities))


def _is_taken(authority: x509.Certificate, bundle: X509Bundle) -> bool:
    try:
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), [authority])
    except ssl.SSLError as error:
        _log.warning(
            "bundle of %s: OpenSSL cannot read the authority with serial number %x (%s); whom it issued is refused",
            bundle.trust_domain,
            authority.serial_number,
            error.reason or error,
        )
        return False
    return True


def _load(context: ssl.SSLContext, authorities: Collection[x509.Certificate]) -> None:
    if authorities:
        context.load_verify_locations(cadata=b"".join(each.public_bytes(Encoding.DER) for each in authorities))


def _watch(context: ssl.SSLContext) -> None:
    # OpenSSL drops the chain that it refuses, and Python shows no other way to see it: without this a refusal
    # could not name the peer. Private, used for sentences and for no decision; a canary test looks after it.
    with contextlib.suppress(AttributeError, TypeError):
        context._msg_callback = _saw  # type: ignore[attr-defined]  # noqa: SLF001


def _saw(owner: _Owner, direction: str, version: int, _content: int, kind: int, data: bytes) -> None:
    if kind == _CERTIFICATE and direction == "read":
        handshake = getattr(owner, "_spiffe", None)
        if handshake is not None:
            handshake.saw_certificate(data, version)
