# SPDX-License-Identifier: Apache-2.0
"""Revocation lists: an authority that publishes one is held to it (RFC 5280 6.3)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from otel_spiffe.errors import Untrusted
from otel_spiffe.identity._leaf import UNREADABLE, Fault, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cryptography import x509

    from otel_spiffe.identity._material import Identity

__all__ = ["revocation_fault"]


@dataclass(frozen=True, slots=True)
class _List:
    """One revocation list; asking pyca's for a serial walks it (13 ms at 100,000 entries), this does not."""

    crl: x509.CertificateRevocationList
    revoked: frozenset[int]


_indexed: WeakKeyDictionary[Identity, tuple[_List, ...]] = WeakKeyDictionary()


def revocation_fault(path: Sequence[x509.Certificate], identity: Identity, *, now: datetime) -> Fault | None:
    """Return which certificate of a verified path is revoked, or may be, or None; leaf first, anchor last."""
    if not identity.crls:
        return None
    lists = _indexed.get(identity)
    if lists is None:
        lists = _indexed[identity] = tuple(_List(crl, frozenset(r.serial_number for r in crl)) for crl in identity.crls)
    for certificate, issuer in itertools.pairwise(path):
        fault = _fault(certificate, issuer, lists, now)
        if fault is not None:
            return fault
    return None


def _fault(
    certificate: x509.Certificate, issuer: x509.Certificate, lists: Sequence[_List], now: datetime
) -> Fault | None:
    own = [each for each in lists if each.crl.issuer == issuer.subject and _signed(each.crl, issuer)]
    if any(certificate.serial_number in each.revoked for each in own):
        return Fault(
            Untrusted.REVOKED,
            f"{name_of(issuer)!r} revoked the certificate with serial number {certificate.serial_number:x}",
        )
    if own and not any(_current(each.crl, now) for each in own):
        return Fault(Untrusted.REVOCATION_UNKNOWN, f"the revocation list of {name_of(issuer)!r} has expired: renew it")
    return None


def _current(crl: x509.CertificateRevocationList, now: datetime) -> bool:
    end = crl.next_update_utc
    return end is not None and crl.last_update_utc <= now <= end


def _signed(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except UNREADABLE:
        return False
