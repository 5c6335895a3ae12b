# SPDX-License-Identifier: Apache-2.0
"""Whether to believe a peer's X509-SVID: by the authorities of its own trust domain and by no others.

Pooled authorities would let a federated domain's CA name a workload of ours, so the anchors are those of
the trust domain that the leaf itself claims (X509-SVID 5, Federation 7.3).
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 -- the fields of a NamedTuple
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from otel_spiffe.errors import InvalidConfiguration, PeerUntrusted, Untrusted
from otel_spiffe.identity._diagnose import path_fault
from otel_spiffe.identity._leaf import (
    MAX_CHAIN_CERTIFICATES,
    UNREADABLE,
    Fault,
    leaf_fault,
    leaf_id,
    name_of,
    no_path_fault,
    uri_names,
)
from otel_spiffe.identity._revocation import revocation_fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spiffe import SpiffeId

    from otel_spiffe.identity._material import Identity, X509Bundle

__all__ = ["VerifiedPeer", "peer_spiffe_id", "verify", "verify_peer"]

# What the Web PKI demands and SPIFFE does not: SANs critical or not as the subject bids, an AKI. What is
# overridden here loses its built-in check, and `leaf_fault` has made it before.
_LEAF = (
    ExtensionPolicy.webpki_defaults_ee()
    .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
    .require_present(x509.KeyUsage, Criticality.AGNOSTIC, None)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, None)
    .may_be_present(x509.AuthorityKeyIdentifier, Criticality.NON_CRITICAL, None)
)
_AUTHORITY = ExtensionPolicy.webpki_defaults_ca()


class VerifiedPeer(NamedTuple):
    """A peer whose chain verifies.

    Attributes:
        id: its SPIFFE ID.
        expires_at: when the first certificate of its verified path ends, aware; the anchor, and what the peer sent
            beside that path, do not count.
    """

    id: SpiffeId
    expires_at: datetime


def peer_spiffe_id(leaf: x509.Certificate, *, local: SpiffeId | None = None) -> SpiffeId:
    """Return the SPIFFE ID that a leaf claims; nothing else about it has been checked.

    Args:
        leaf: the first certificate that the peer sent.
        local: our own SPIFFE ID, for the error to name.

    Raises:
        PeerUntrusted: it has no URI SAN or several, or its URI is no SPIFFE ID with a path.
    """
    claimed = leaf_id(leaf)
    if isinstance(claimed, Fault):
        raise PeerUntrusted(claimed.why, claimed.detail, peer=None, local=local, subject=name_of(leaf))
    fault = no_path_fault(claimed)
    if fault is not None:
        raise PeerUntrusted(fault.why, fault.detail, peer=claimed, local=local)
    return claimed


def verify(
    chain: Sequence[x509.Certificate],
    identity: Identity,
    *,
    now: datetime,
    max_chain: int = MAX_CHAIN_CERTIFICATES,
) -> SpiffeId:
    """Return the SPIFFE ID of a peer, proved by its chain and the bundle of its own trust domain.

    Args:
        chain: what the peer sent: its leaf, then its intermediates in any order.
        identity: the bundles to verify with, and the revocation lists.
        now: the time, aware.
        max_chain: certificates that a peer may send.

    Raises:
        PeerUntrusted: it does not verify; `why` and `detail` say the reason.
        InvalidConfiguration: `now` is naive.
    """
    return verify_peer(chain, identity, now=now, max_chain=max_chain).id


def verify_peer(
    chain: Sequence[x509.Certificate],
    identity: Identity,
    *,
    now: datetime,
    max_chain: int = MAX_CHAIN_CERTIFICATES,
) -> VerifiedPeer:
    """Return what `verify` does, and until when it holds.

    Args:
        chain: as `verify`.
        identity: as `verify`.
        now: as `verify`.
        max_chain: as `verify`.

    Raises:
        PeerUntrusted: as `verify`.
        InvalidConfiguration: as `verify`.
    """
    if now.tzinfo is None:
        raise InvalidConfiguration("now", "it is a naive datetime", fix="use datetime.now(UTC)")
    local = identity.chosen.id if identity.chosen is not None else None
    if not chain:
        raise PeerUntrusted(Untrusted.NO_CERTIFICATE, "it sent no certificate", peer=None, local=local)
    claimed = peer_spiffe_id(chain[0], local=local)
    found = _checked(chain, claimed, identity, now, max_chain)
    if isinstance(found, Fault):
        raise PeerUntrusted(found.why, found.detail, peer=claimed, local=local)
    return VerifiedPeer(claimed, found)


def _checked(
    chain: Sequence[x509.Certificate], claimed: SpiffeId, identity: Identity, now: datetime, max_chain: int
) -> Fault | datetime:
    fault = leaf_fault(chain[0], claimed) or _length_fault(chain, max_chain)
    if fault is not None:
        return fault
    bundle = identity.bundles.get(claimed.trust_domain)
    if bundle is None:
        return _no_bundle(claimed, identity)
    if not bundle.authorities:
        return _empty_bundle(claimed)
    try:
        path = _path(chain, bundle, now, max_chain)
    except (VerificationError, *UNREADABLE) as error:
        return path_fault(chain, bundle, identity, now=now, error=error)
    try:
        fault = _issuers_fault(path, claimed) or revocation_fault(path, identity, now=now)
        return fault or min(each.not_valid_after_utc for each in path[:-1])
    except UNREADABLE as error:
        return Fault(
            Untrusted.UNREADABLE, f"one of its issuers, or a revocation list of theirs, cannot be read: {error}"
        )


def _path(
    chain: Sequence[x509.Certificate], bundle: X509Bundle, now: datetime, max_chain: int
) -> Sequence[x509.Certificate]:
    # Built for each call, in 3 microseconds: a verifier keeps the time of its making for ever.
    verifier = (
        PolicyBuilder()
        .store(Store(list(bundle.authorities)))
        .time(now)
        .max_chain_depth(max_chain - 1)
        .extension_policies(ca_policy=_AUTHORITY, ee_policy=_LEAF)
        .build_client_verifier()
    )
    return verifier.verify(chain[0], list(chain[1:])).chain


def _length_fault(chain: Sequence[x509.Certificate], max_chain: int) -> Fault | None:
    if len(chain) <= max_chain:
        return None
    return Fault(Untrusted.INVALID_CHAIN, f"it sent {len(chain)} certificates, and may send {max_chain}")


def _no_bundle(claimed: SpiffeId, identity: Identity) -> Fault:
    shown = 5
    names = sorted(domain.name for domain in identity.bundles)
    known = ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
    return Fault(
        Untrusted.NO_BUNDLE,
        f"we have no bundle of {claimed.trust_domain}, only of {known or 'nobody'}: federate with that trust domain, "
        "or give the peer an identity of ours",
    )


def _empty_bundle(claimed: SpiffeId) -> Fault:
    return Fault(
        Untrusted.EMPTY_BUNDLE,
        f"the bundle of {claimed.trust_domain} is empty, which revokes every SVID of that trust domain "
        "(Trust Domain and Bundle 4.1.3)",
    )


def _issuers_fault(path: Sequence[x509.Certificate], claimed: SpiffeId) -> Fault | None:
    if len(path) == 1:  # pyca accepts a leaf that is itself in the store
        return Fault(Untrusted.INVALID_CHAIN, "its leaf stands among the authorities, and a leaf is none")
    return next(filter(None, (_foreign_fault(issuer, claimed) for issuer in path[1:-1])), None)


def _foreign_fault(issuer: x509.Certificate, claimed: SpiffeId) -> Fault | None:
    own = f"spiffe://{claimed.trust_domain}/"
    for name in uri_names(issuer):
        if name.lower().startswith("spiffe:") and not f"{name.lower()}/".startswith(own):
            return Fault(
                Untrusted.INVALID_CHAIN,
                f"its intermediate {name_of(issuer)!r} is {name[:200]!r}, an authority of another trust domain",
            )
    return None
