# SPDX-License-Identifier: Apache-2.0
"""The immutable context behind one generation: OpenSSL's view of an identity."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.hazmat.primitives.serialization import Encoding

from otel_spiffe.credentials._keys import load_svid

if TYPE_CHECKING:
    from spiffe import SpiffeId

    from otel_spiffe.identity import Identity

__all__ = ["FORCED_OPTIONS", "Inner", "Settings", "build"]

FORCED_OPTIONS = ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
"""No resumption by ticket (a resumed session shows no chain), no CRIME, no renegotiation."""

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
    """One identity as OpenSSL has it; never changed after it is built, because contexts only ever add CAs."""

    identity: Identity
    local: SpiffeId | None
    context: ssl.SSLContext


class _Owner(Protocol):
    _spiffe: Any


def build(settings: Settings, identity: Identity, *, present_svid: bool) -> Inner:
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
    return Inner(identity=identity, local=svid.id if svid is not None else None, context=context)


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
    authorities = {each for bundle in identity.bundles.values() for each in bundle.authorities}
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
