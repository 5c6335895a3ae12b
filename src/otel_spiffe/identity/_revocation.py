# SPDX-License-Identifier: Apache-2.0
"""Revocation lists: an authority that publishes one is held to it (RFC 5280 6.3); one that does not, is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

from cryptography import x509

from otel_spiffe.errors import Untrusted
from otel_spiffe.identity._keys import key_fault
from otel_spiffe.identity._leaf import UNREADABLE, Fault, find, is_ca, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    from otel_spiffe.identity._material import Identity

__all__ = ["revocation_fault"]

_LEAVES, _AUTHORITIES = "leaves", "authorities"
_MAX_SIGNERS = 64


@dataclass(frozen=True, slots=True, eq=False)
class _List:
    """A revocation list, read once: pyca looks a serial number up by walking all of it (13 ms in 100,000).

    Attributes:
        crl: the list itself.
        issuer: whose it is; None where it cannot be read, and then it is nobody's.
        revoked: the serial numbers in it.
        covers: what it is complete for; nothing for a delta, an indirect or an unreadable list.
        key: the key identifier of its signer (RFC 5280 5.2.1), or None.
        signers: for each certificate that may have signed it, whether it has: remembered.
    """

    crl: x509.CertificateRevocationList
    issuer: x509.Name | None = None
    revoked: frozenset[int] = frozenset()
    covers: frozenset[str] = frozenset()
    key: bytes | None = None
    signers: dict[x509.Certificate, bool] = field(default_factory=dict[x509.Certificate, bool])


# By identity, which is frozen: its lists are read at its first handshake and forgotten with it.
_read_lists: WeakKeyDictionary[Identity, tuple[_List, ...]] = WeakKeyDictionary()


def revocation_fault(path: Sequence[x509.Certificate], identity: Identity, *, now: datetime) -> Fault | None:
    """Return which certificate of a verified path is revoked, or may be, or None; leaf first, anchor last."""
    if not identity.crls:
        return None
    lists = _read_lists.get(identity)
    if lists is None:
        lists = _read_lists[identity] = tuple(map(_read, identity.crls))
    faults = (_fault(certificate, issuer, lists, now) for certificate, issuer in pairwise(path))
    return next(filter(None, faults), None)


def _fault(
    certificate: x509.Certificate, issuer: x509.Certificate, lists: Sequence[_List], now: datetime
) -> Fault | None:
    named = [each for each in lists if _may_be_of(each, issuer)]
    signed = [each for each in named if _is_signed(each, issuer)]
    for each in signed:
        if certificate.serial_number in each.revoked:
            return _revoked(certificate, issuer)
    kind = _AUTHORITIES if is_ca(certificate) else _LEAVES
    problems = [_problem(each, kind, now) if each in signed else "is not signed by its key" for each in named]
    if not problems or "" in problems:
        return None
    return Fault(
        Untrusted.REVOCATION_UNKNOWN,
        f"nobody knows whether {name_of(issuer)!r} revoked it: the revocation list {problems[0]}; "
        "the authority must publish a new one, and the source must deliver it",
    )


def _revoked(certificate: x509.Certificate, issuer: x509.Certificate) -> Fault:
    which = "it" if not is_ca(certificate) else f"its issuer {name_of(certificate)!r}"
    return Fault(
        Untrusted.REVOKED,
        f"{which}, with serial number {certificate.serial_number:x}, is in the revocation list of {name_of(issuer)!r}",
    )


def _problem(each: _List, kind: str, now: datetime) -> str:
    """Return why a list cannot show that a certificate is not revoked, or empty where it can."""
    start, end = each.crl.last_update_utc, each.crl.next_update_utc
    if kind not in each.covers:
        return f"is not complete for {kind}"
    if end is None:
        return "has no nextUpdate (RFC 5280 5.1.2.5)"
    if now > end:
        return f"expired {int((now - end).total_seconds())} s ago, at {end:%Y-%m-%dT%H:%M:%SZ}"
    if now < start:
        return f"is not valid before {start:%Y-%m-%dT%H:%M:%SZ}"
    return ""


def _may_be_of(each: _List, issuer: x509.Certificate) -> bool:
    # Two authorities may share a name; then the key identifier tells whose list it is. One key may have two of them,
    # by two methods, in two certificates: what it signed is its own by either.
    if each.issuer is None or each.issuer != issuer.subject:
        return False
    subject_key = find(issuer, x509.SubjectKeyIdentifier)
    alike = each.key is None or subject_key is None or each.key == subject_key.value.digest
    return alike or _is_signed(each, issuer)


def _is_signed(each: _List, issuer: x509.Certificate) -> bool:
    known = each.signers.get(issuer)
    if known is None:
        if len(each.signers) >= _MAX_SIGNERS:  # a federated authority may make ever new ones
            each.signers.clear()
        known = each.signers[issuer] = _signature_is_valid(each.crl, issuer)
    return known


def _signature_is_valid(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    usage, key = find(issuer, x509.KeyUsage), issuer.public_key()
    if key_fault(key) is not None or (usage is not None and not usage.value.crl_sign):
        return False
    return crl.is_signature_valid(cast("ec.EllipticCurvePublicKey | rsa.RSAPublicKey", key))


def _read(crl: x509.CertificateRevocationList) -> _List:
    try:
        covers, indirect = _coverage(crl.extensions)
        delta = any(isinstance(each.value, x509.DeltaCRLIndicator) for each in crl.extensions)
        key = next(
            (
                each.value.key_identifier
                for each in crl.extensions
                if isinstance(each.value, x509.AuthorityKeyIdentifier)
            ),
            None,
        )
        # An indirect list's entries may be of other issuers, and a delta's may take back a revocation.
        entries = () if indirect else (each for each in crl if not (delta and _is_taken_back(each)))
        return _List(crl, _issuer(crl), frozenset(each.serial_number for each in entries), covers, key)
    except UNREADABLE:
        return _List(crl, _issuer(crl))


def _issuer(crl: x509.CertificateRevocationList) -> x509.Name | None:
    try:
        return crl.issuer
    except UNREADABLE:
        return None


def _coverage(extensions: x509.Extensions) -> tuple[frozenset[str], bool]:
    """Return what a list is complete for, and whether it is indirect (RFC 5280 5.2.5)."""
    covers, indirect = frozenset({_LEAVES, _AUTHORITIES}), False
    nothing: frozenset[str] = frozenset()
    for extension in extensions:
        if isinstance(extension.value, x509.IssuingDistributionPoint):
            scope = extension.value
            indirect = scope.indirect_crl
            if scope.only_contains_user_certs:
                covers -= {_AUTHORITIES}
            if scope.only_contains_ca_certs:
                covers -= {_LEAVES}
            if indirect or scope.only_some_reasons or scope.only_contains_attribute_certs:
                covers = nothing
        elif extension.critical:  # a delta indicator, or what nobody here knows
            covers = nothing
    return covers, indirect


def _is_taken_back(entry: x509.RevokedCertificate) -> bool:
    return any(
        isinstance(each.value, x509.CRLReason) and each.value.reason is x509.ReasonFlags.remove_from_crl
        for each in entry.extensions
    )
