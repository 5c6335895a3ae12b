# SPDX-License-Identifier: Apache-2.0
"""Bundles from and to PEM and DER, and what every bundle is held to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity._ids import parse_trust_domain
from otel_spiffe.identity._leaf import UNREADABLE, is_ca, name_of
from otel_spiffe.identity._material import X509Bundle
from otel_spiffe.identity._parse import (
    certificates_from_der,
    certificates_from_pem,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from cryptography import x509
    from spiffe import TrustDomain

__all__ = ["bundle_from_der", "bundle_from_pem", "bundle_to_der", "bundle_to_pem", "checked_bundle"]

_PARTS: dict[str, Callable[[x509.Certificate], object]] = {
    "extensions": is_ca,
    "subject": lambda certificate: certificate.subject,
    "issuer": lambda certificate: certificate.issuer,
    "key": lambda certificate: certificate.public_key(),
    "notBefore": lambda certificate: certificate.not_valid_before_utc,
    "notAfter": lambda certificate: certificate.not_valid_after_utc,
}


def bundle_from_pem(trust_domain: TrustDomain | str, data: bytes) -> X509Bundle:
    """Return the bundle of a PEM text: at least one authority, for an empty file is a file half written.

    Raises:
        InvalidIdentity: it cannot be read, or holds a certificate that is no authority.
    """
    domain = parse_trust_domain(str(trust_domain))
    return checked_bundle(domain, _certificates(certificates_from_pem, data, what=f"bundle of {domain}"))


def bundle_from_der(trust_domain: TrustDomain | str, data: bytes) -> X509Bundle:
    """Return the bundle of concatenated DER; no bytes are the legal empty bundle (Workload API 5.2.1).

    Raises:
        InvalidIdentity: it cannot be read, or holds a certificate that is no authority.
    """
    domain = parse_trust_domain(str(trust_domain))
    if not data:
        return checked_bundle(domain, ())
    return checked_bundle(domain, _certificates(certificates_from_der, data, what=f"bundle of {domain}"))


def bundle_to_pem(bundle: X509Bundle) -> bytes:
    """Return a bundle's authorities as PEM; no bytes for an empty bundle, which no PEM reader accepts."""
    return b"".join(authority.public_bytes(Encoding.PEM) for authority in bundle.authorities)


def bundle_to_der(bundle: X509Bundle) -> bytes:
    """Return a bundle's authorities as concatenated DER."""
    return b"".join(authority.public_bytes(Encoding.DER) for authority in bundle.authorities)


def _certificates(
    parse: Callable[[bytes], tuple[x509.Certificate, ...]], data: bytes, *, what: str
) -> tuple[x509.Certificate, ...]:
    try:
        return parse(data)
    except InvalidIdentity as error:
        raise InvalidIdentity(what, str(error)) from error


def checked_bundle(
    domain: TrustDomain,
    authorities: Sequence[x509.Certificate],
    *,
    sequence: int | None = None,
    refresh_hint: timedelta | None = None,
) -> X509Bundle:
    """Return a bundle whose every certificate may be an authority.

    Raises:
        InvalidIdentity: one may not, or cannot be read.
    """
    for certificate in authorities:
        _check_authority(certificate, what=f"bundle of {domain}")
    return X509Bundle(
        trust_domain=domain,
        authorities=tuple(dict.fromkeys(authorities)),
        sequence=sequence,
        refresh_hint=refresh_hint,
    )


def _check_authority(certificate: x509.Certificate, *, what: str) -> None:
    # pyca reads each part when it is first asked for. What it cannot read would fail later, where nobody expects it,
    # and OpenSSL then refuses all the authorities that it is given with this one: no handshake would succeed.
    for part, read in _PARTS.items():
        try:
            read(certificate)
        except UNREADABLE as error:
            raise InvalidIdentity(what, f"the {part} of {name_of(certificate)!r} cannot be read: {error}") from error
    # A leaf among the anchors would be a chain of length 1 that every path validation accepts.
    if not is_ca(certificate):
        raise InvalidIdentity(
            what,
            f"{name_of(certificate)!r} is no CA certificate: its basicConstraints lack cA=true (X509-SVID 4.1)",
            fix="put the certificate of its issuer into the bundle",
        )
