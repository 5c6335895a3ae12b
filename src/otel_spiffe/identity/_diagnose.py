# SPDX-License-Identifier: Apache-2.0
"""Why no path leads from a leaf to an authority, said so that the right side can mend it.

Path validation answers "all candidates exhausted" for a missing intermediate and for a strange CA alike, so
the path is walked again, by names and signatures, after it has failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from otel_spiffe.errors import Untrusted
from otel_spiffe.identity._keys import key_fault
from otel_spiffe.identity._leaf import UNREADABLE, Fault, find, is_ca, issuer_of, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta

    from otel_spiffe.identity._material import Identity, X509Bundle

__all__ = ["path_fault"]

_MAX_SIGNATURE_CHECKS = 32  # for one name: with that many authorities of one DN the diagnosis may be vague


def path_fault(
    chain: Sequence[x509.Certificate], bundle: X509Bundle, identity: Identity, *, now: datetime, error: Exception
) -> Fault:
    """Return why path validation, which said `error`, found no path from `chain` to `bundle`."""
    try:
        return _walked(chain, bundle, identity, now, error)
    except UNREADABLE as unreadable:
        return Fault(Untrusted.UNREADABLE, f"one of its certificates cannot be read: {unreadable}")


def _walked(
    chain: Sequence[x509.Certificate], bundle: X509Bundle, identity: Identity, now: datetime, error: Exception
) -> Fault:
    path = [chain[0]]
    while (anchor := _issuer(path[-1], bundle.authorities)) is None:
        above = _issuer(path[-1], [each for each in chain if each not in path])
        if above is None:
            return _end_fault(path, chain, bundle, identity)
        path.append(above)
    return _whole_fault([*path, anchor], now, error)


def _issuer(certificate: x509.Certificate, candidates: Iterable[x509.Certificate]) -> x509.Certificate | None:
    named = [candidate for candidate in candidates if candidate.subject == certificate.issuer]
    return next((each for each in named[:_MAX_SIGNATURE_CHECKS] if _issued(certificate, each)), None)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _end_fault(
    path: Sequence[x509.Certificate], chain: Sequence[x509.Certificate], bundle: X509Bundle, identity: Identity
) -> Fault:
    """Say what is known of the issuer of the last certificate of a path that leads nowhere."""
    end = path[-1]
    who = "it is" if len(path) == 1 else f"its chain ends at {name_of(end)!r},"
    foreign = [each for each in identity.bundles.values() if each.trust_domain != bundle.trust_domain]
    owner = next((each.trust_domain for each in foreign if _issuer(end, each.authorities) is not None), None)
    if owner is not None:
        return Fault(
            Untrusted.UNKNOWN_AUTHORITY,
            f"{who} issued by {issuer_of(end)!r}: that is an authority of {owner}, which may not speak for "
            f"{bundle.trust_domain} (X509-SVID 5): treat it as a forgery, and ask {owner}",
        )
    namesakes = [each for each in (*chain, *bundle.authorities) if each not in path and each.subject == end.issuer]
    if _is_ours(end, identity) or (not namesakes and _is_gap(end, path, chain, bundle)):
        return Fault(
            Untrusted.INCOMPLETE_CHAIN,
            f"{who} issued by {issuer_of(end)!r}, an intermediate CA whose certificate is missing: "
            "the peer must send its intermediates",
        )
    if namesakes:
        return Fault(
            Untrusted.UNKNOWN_AUTHORITY,
            f"{who} issued by {issuer_of(end)!r}, and by another key than the certificate of that name has: "
            "if that CA has a new key, the bundle here is old; if not, it is a forgery",
        )
    return Fault(Untrusted.UNKNOWN_AUTHORITY, _unknown(end, who, bundle))


def _is_ours(end: x509.Certificate, identity: Identity) -> bool:
    return _issuer(end, (each for svid in identity.svids for each in svid.chain[1:])) is not None


def _is_gap(
    end: x509.Certificate, path: Sequence[x509.Certificate], chain: Sequence[x509.Certificate], bundle: X509Bundle
) -> bool:
    """Return whether anything shows that the missing issuer stands between `end` and the bundle.

    A leaf alone looks the same whether its unknown issuer is an intermediate or a root. Two things tell:
    the peer sent what stands above it, or the AKI names the issuer's issuer.
    """
    if any(each not in path and _issuer(each, bundle.authorities) is not None for each in chain):
        return True
    key = find(end, x509.AuthorityKeyIdentifier)
    names = (key.value.authority_cert_issuer or ()) if key is not None else ()
    above = [name.value for name in names if isinstance(name, x509.DirectoryName)]
    return any(authority.subject in above for authority in bundle.authorities)


def _unknown(end: x509.Certificate, who: str, bundle: X509Bundle) -> str:
    count = len(bundle.authorities)
    none_of = "not the one authority" if count == 1 else f"not among the {count} authorities"
    if end.issuer == end.subject:
        return f"{who} self-signed and {none_of} of {bundle.trust_domain}: have an authority of that one issue it"
    return (
        f"{who} issued by {issuer_of(end)!r}, which is {none_of} of {bundle.trust_domain}: "
        "if that CA is new, the bundle here is old; if it is an intermediate, the peer must send its certificate"
    )


def _whole_fault(path: Sequence[x509.Certificate], now: datetime, error: Exception) -> Fault:
    """Say what keeps a path from counting whose every signature is right."""
    fault = _date_fault(path[0], now, "it")
    for issuer in path[1:]:
        who = f"its issuer {name_of(issuer)!r}"
        fault = fault or _date_fault(issuer, now, who) or _issuer_fault(issuer, who)
    return fault or Fault(Untrusted.INVALID_CHAIN, f"its chain breaks RFC 5280 6: {error}")


def _issuer_fault(issuer: x509.Certificate, who: str) -> Fault | None:
    if not is_ca(issuer):
        return Fault(Untrusted.INVALID_CHAIN, f"{who} is no CA certificate (X509-SVID 4.1)")
    weak = key_fault(issuer.public_key())
    if weak is not None:
        return Fault(weak[0], f"{who} has an {weak[1]}" if weak[1][0] in "aeiou" else f"{who} has a {weak[1]}")
    usage = find(issuer, x509.KeyUsage)
    if usage is None or not usage.value.key_cert_sign:
        return Fault(Untrusted.WRONG_KEY_USAGE, f"{who} lacks the key usage keyCertSign (X509-SVID 4.3)")
    purposes = find(issuer, x509.ExtendedKeyUsage)
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes.value:
        return Fault(Untrusted.WRONG_EXTENDED_KEY_USAGE, f"{who} has an extendedKeyUsage without clientAuth")
    if find(issuer, x509.NameConstraints) is not None:
        return Fault(
            Untrusted.INVALID_CHAIN,
            f"{who} has name constraints, which pyca/cryptography does not apply to URIs and so refuses",
        )
    return None


def _date_fault(certificate: x509.Certificate, now: datetime, who: str) -> Fault | None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        return Fault(Untrusted.EXPIRED, f"{who} expired {_seconds(now - end)} s ago, at {_moment(end)}")
    if now < start:
        return Fault(
            Untrusted.NOT_YET_VALID,
            f"{who} is not valid before {_moment(start)}, {_seconds(start - now)} s from now: compare the clocks",
        )
    return None


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())
