# SPDX-License-Identifier: Apache-2.0
"""The revocation lists of an update: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cryptography import x509

from otel_spiffe.identity import UNREADABLE
from otel_spiffe.sources._fault import BadUpdate, Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
    from spiffe import TrustDomain

    from otel_spiffe.identity import X509Bundle

__all__ = ["readable_lists"]


def readable_lists(
    given: Iterable[bytes], *, own: Mapping[TrustDomain, X509Bundle], federated: Mapping[TrustDomain, X509Bundle]
) -> tuple[tuple[x509.CertificateRevocationList, ...], set[TrustDomain], list[str]]:
    """Return the lists, the federated domains that cannot be held to theirs, and what is wrong with those.

    Raises:
        BadUpdate: what was given is no list, or the list of one of our own authorities cannot be read: without it
            a revoked peer would be let in, so the update before it is the safer one.
    """
    found: list[x509.CertificateRevocationList] = []
    unheld: set[TrustDomain] = set()
    flaws: list[str] = []
    for data in given:
        crl = _loaded(data)
        fault = _fault(crl)
        if fault is None:
            found.append(crl)
            continue
        if any(_has_signed(bundle, crl) for bundle in own.values()):
            raise BadUpdate(Fault.INVALID_UPDATE, f"our own trust domain's revocation list cannot be read: {fault}")
        signers = {domain for domain, bundle in federated.items() if _has_signed(bundle, crl)}
        unheld |= signers
        if signers:  # one that nobody whom we trust has signed binds nobody
            flaws.append(f"the revocation list of {', '.join(sorted(map(str, signers)))} cannot be read: {fault}")
    return tuple(found), unheld, flaws


def _loaded(data: bytes) -> x509.CertificateRevocationList:
    try:
        return x509.load_der_x509_crl(data)
    except UNREADABLE as error:
        raise BadUpdate(Fault.INVALID_UPDATE, f"a revocation list cannot be read: {error}") from error


def _fault(crl: x509.CertificateRevocationList) -> Exception | None:
    try:
        _ = (crl.issuer, crl.last_update_utc, crl.next_update_utc)
    except UNREADABLE as error:
        return error
    return None


def _has_signed(bundle: X509Bundle, crl: x509.CertificateRevocationList) -> bool:
    # By the signature: a list whose issuer cannot be read has no other sign of whose it is.
    return any(_is_signature_valid(crl, authority) for authority in bundle.authorities)


def _is_signature_valid(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(cast("CertificateIssuerPublicKeyTypes", authority.public_key()))
    except UNREADABLE:
        return False
