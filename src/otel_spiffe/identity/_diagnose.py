# SPDX-License-Identifier: Apache-2.0
"""Why no path leads from a leaf to an authority, said so that the right side can mend it.

Path validation answers "all candidates exhausted" for a missing intermediate and a strange CA alike, so
the path is walked again, by names and signatures, after it has failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature

from otel_spiffe.errors import Untrusted
from otel_spiffe.identity._keys import key_fault
from otel_spiffe.identity._leaf import UNREADABLE, Fault, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta

    from cryptography import x509

    from otel_spiffe.identity._material import Identity, X509Bundle

__all__ = ["path_fault"]


def path_fault(
    chain: Sequence[x509.Certificate], bundle: X509Bundle, identity: Identity, *, now: datetime, error: Exception
) -> Fault:
    """Return why path validation, which said `error`, found no path from `chain` to `bundle`."""
    leaf = chain[0]
    path = [leaf]
    dated = _date_fault(leaf, now, "it")
    if dated is not None:
        return dated
    while True:
        end = path[-1]
        anchor = _issuer(end, bundle.authorities)
        if anchor is not None:
            return _complete_fault([*path, anchor], now, error)
        above = _issuer(end, [each for each in chain if each not in path])
        if above is None:
            return _broken_fault(chain, path, bundle, identity)
        path.append(above)


def _issuer(certificate: x509.Certificate, candidates: Iterable[x509.Certificate]) -> x509.Certificate | None:
    for candidate in candidates:
        if candidate.subject == certificate.issuer and _signed(certificate, candidate):
            return candidate
    return None


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _broken_fault(
    chain: Sequence[x509.Certificate], path: Sequence[x509.Certificate], bundle: X509Bundle, identity: Identity
) -> Fault:
    end, domain = path[-1], bundle.trust_domain
    which = "it is" if len(path) == 1 else f"its chain ends at {name_of(end)!r},"
    issuer = end.issuer.rfc4514_string()
    count = len(bundle.authorities)
    owner = next((each for each in identity.bundles.values() if _issuer(end, each.authorities) is not None), None)
    if owner is not None:
        return Fault(
            Untrusted.UNKNOWN_AUTHORITY,
            f"{which} issued by {issuer!r}, an authority of {owner.trust_domain}, which may not speak for {domain}",
        )
    known = [certificate for svid in identity.svids for certificate in svid.chain[1:]]
    beyond = [each for each in chain if each not in path and _issuer(each, bundle.authorities) is not None]
    if beyond or _issuer(end, known) is not None:
        return Fault(
            Untrusted.INCOMPLETE_CHAIN,
            f"{which} issued by {issuer!r}, whose certificate is missing: the peer must send its intermediates",
        )
    return Fault(
        Untrusted.UNKNOWN_AUTHORITY,
        f"{which} issued by {issuer!r}, which is not among the {count} authorities of {domain}"
        + ("" if len(path) > 1 else " (if that is an intermediate CA, the peer must send its certificate)"),
    )


def _complete_fault(path: Sequence[x509.Certificate], now: datetime, error: Exception) -> Fault:
    for certificate in path[1:]:
        fault = _date_fault(certificate, now, f"its issuer {name_of(certificate)!r}") or _key(certificate)
        if fault is not None:
            return fault
    return Fault(Untrusted.INVALID_CHAIN, f"its chain does not verify: {error}")


def _key(certificate: x509.Certificate) -> Fault | None:
    found = key_fault(certificate.public_key())
    return Fault(found[0], f"its issuer {name_of(certificate)!r} has an {found[1]}") if found is not None else None


def _date_fault(certificate: x509.Certificate, now: datetime, who: str) -> Fault | None:
    end, start = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if now > end:
        return Fault(Untrusted.EXPIRED, f"{who} expired {_span(now - end)} ago, at {_moment(end)}")
    if now < start:
        return Fault(
            Untrusted.NOT_YET_VALID,
            f"{who} is not valid before {_moment(start)}, in {_span(start - now)}: compare the clocks",
        )
    return None


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _span(span: timedelta) -> str:
    return f"{int(span.total_seconds())} s"
