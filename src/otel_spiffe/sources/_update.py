# SPDX-License-Identifier: Apache-2.0
"""A Workload API response as an `Identity`, or the reason why it is discarded: no I/O.

Each response is the whole state (SPIFFE Workload API 4.3): what it does not say is not so any more. One X509-SVID
of several that breaks its standard, the bundle of one, or a revocation list, discards all of it (4.5), so nobody
runs on half of an update. A federated bundle, and a revocation list that one of its authorities signed, is another
domain's word, which must not be able to stop our own renewal: a broken one costs only itself, and the peers of its
domain are trusted no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity import (
    Identity,
    X509Bundle,
    X509Svid,
    bundle_from_der,
    certificates_from_der,
    parse_spiffe_id,
    parse_trust_domain,
    private_key_from_der,
    x509_svid,
)
from otel_spiffe.sources._choose import check_not_expired, choose
from otel_spiffe.sources._crls import readable_lists
from otel_spiffe.sources._fault import BadUpdate, Fault, flaw_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from spiffe import TrustDomain

    from otel_spiffe._proto import X509SvidMessage, X509SvidResponse
    from otel_spiffe.sources._choose import Picker
    from otel_spiffe.sources._fault import Problem
    from otel_spiffe.sources._limits import Limits

__all__ = ["identity_from_response"]


def identity_from_response(
    response: X509SvidResponse, *, picker: Picker, limits: Limits, now: datetime
) -> tuple[Identity, Problem | None]:
    """Return what `response` says, once it is checked, and what is wrong with the federated bundles it left out.

    Raises:
        BadUpdate: it breaks a standard or a limit, or the SVID it would have us present has expired.
    """
    _check_limits(response, limits)
    if not response.svids:
        raise BadUpdate(Fault.INVALID_UPDATE, "the update holds no X509-SVID (SPIFFE Workload API 4.5)")
    svids, bundles = _svids(response.svids)
    chosen = choose(picker, svids)
    check_not_expired(chosen, now)
    federated, flaws = _federated(response.federated_bundles, limits)
    crls, unheld, more = readable_lists(response.crl, own=bundles, federated=federated)
    kept = {domain: bundle for domain, bundle in federated.items() if domain not in unheld}
    return Identity(chosen=chosen, svids=svids, bundles=kept | bundles, crls=crls), flaw_of([*flaws, *more])


def _check_limits(response: X509SvidResponse, limits: Limits) -> None:
    federated = response.federated_bundles
    sizes = [len(svid.bundle) for svid in response.svids]
    hints = [len(svid.hint.encode()) for svid in response.svids]
    for what, count, limit in (
        ("X509-SVIDs", len(response.svids), limits.svids),
        ("federated bundles", len(federated), limits.bundles),
        ("revocation lists", len(response.crl), limits.bundles),
        ("bytes in one bundle", max(sizes, default=0), limits.bundle_bytes),
        ("bytes in one hint", max(hints, default=0), limits.hint_bytes),
    ):
        if count > limit:
            raise BadUpdate(
                Fault.LIMIT_EXCEEDED,
                f"the update has {count} {what}, {limit} are taken",
                fix="raise limits= if it is right",
            )


def _svids(messages: Iterable[X509SvidMessage]) -> tuple[tuple[X509Svid, ...], dict[TrustDomain, X509Bundle]]:
    svids: list[X509Svid] = []
    bundles: dict[TrustDomain, X509Bundle] = {}
    for number, message in enumerate(messages):
        svid, bundle = _svid(number, message)
        known = bundles.setdefault(svid.id.trust_domain, bundle)
        if set(known.authorities) != set(bundle.authorities):
            raise BadUpdate(
                Fault.INVALID_UPDATE, f"the update has two different bundles of the trust domain {svid.id.trust_domain}"
            )
        # SPIFFE Workload API 5.2.1: of several with one hint the first counts.
        if not svid.hint or all(svid.hint != each.hint for each in svids):
            svids.append(svid)
    return tuple(svids), bundles


def _svid(number: int, message: X509SvidMessage) -> tuple[X509Svid, X509Bundle]:
    which = f"svids[{number}]" + (f" ({message.spiffe_id[:200]!r})" if message.spiffe_id else "")
    for name in ("spiffe_id", "x509_svid", "x509_svid_key", "bundle"):
        if not getattr(message, name):
            raise BadUpdate(Fault.INVALID_UPDATE, f"{which}: {name} is empty (SPIFFE Workload API 4.5)")
    try:
        svid = x509_svid(
            certificates_from_der(message.x509_svid),
            private_key_from_der(message.x509_svid_key),
            hint=message.hint,
            expected_id=message.spiffe_id,
        )
        return svid, bundle_from_der(svid.id.trust_domain, message.bundle)
    except InvalidIdentity as error:
        raise BadUpdate(Fault.INVALID_UPDATE, f"{which}: {error}") from error


def _federated(given: Mapping[str, bytes], limits: Limits) -> tuple[dict[TrustDomain, X509Bundle], list[str]]:
    bundles: dict[TrustDomain, X509Bundle] = {}
    named: set[TrustDomain] = set()
    flaws: list[str] = []
    for name in sorted(given):  # the order of a map on the wire is nobody's
        where = f"federated_bundles[{name[:200]!r}]"
        try:
            trust_domain = _trust_domain(name)
            if trust_domain in named:
                bundles.pop(trust_domain, None)
                flaws.append(f"{where}: {trust_domain} has two bundles, so neither counts")
                continue
            named.add(trust_domain)
            bundles[trust_domain] = _federated_bundle(trust_domain, given[name], limits)
        except InvalidIdentity as error:
            flaws.append(f"{where}: {error}")
    return bundles, flaws


def _federated_bundle(trust_domain: TrustDomain, data: bytes, limits: Limits) -> X509Bundle:
    if len(data) > limits.bundle_bytes:
        raise InvalidIdentity(
            f"bundle of {trust_domain}",
            f"it has {len(data)} bytes, {limits.bundle_bytes} are taken",
            fix="raise limits=",
        )
    return bundle_from_der(trust_domain, data)  # no bytes are the legal empty bundle, which trusts nobody


def _trust_domain(name: str) -> TrustDomain:
    if "://" not in name:
        return parse_trust_domain(name)
    spiffe_id = parse_spiffe_id(name)
    if spiffe_id.path:
        raise InvalidIdentity(f"trust domain ID {name[:200]!r}", "it has a path (SPIFFE-ID 2.2)")
    return spiffe_id.trust_domain
