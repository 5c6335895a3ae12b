# SPDX-License-Identifier: Apache-2.0
"""The values that cross the house: X509-SVIDs, bundles and the snapshot of both, frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from otel_spiffe.errors import InvalidIdentity

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from cryptography import x509
    from spiffe import SpiffeId, TrustDomain

__all__ = ["Identity", "PrivateKey", "X509Bundle", "X509Svid"]

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""The kinds of key that an X509-SVID may have here."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class X509Svid:
    """One X509-SVID: a chain, leaf first, and the leaf's private key (X509-SVID 2).

    Attributes:
        id: the SPIFFE ID in the leaf's URI SAN.
        chain: the leaf, then its intermediates; never the root.
        private_key: the leaf's key; left out of the repr.
        hint: the operator's word for what this SVID is for (Workload API 5.2.1), or empty.
    """

    id: SpiffeId
    chain: tuple[x509.Certificate, ...]
    private_key: PrivateKey = field(repr=False)
    hint: str = ""

    def __repr__(self) -> str:
        end = f"{self.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        return f"X509Svid({self.id}, serial={self.leaf.serial_number:x}, expires_at={end}, hint={self.hint!r})"

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate that names the workload."""
        return self.chain[0]

    @property
    def not_before(self) -> datetime:
        """The first moment at which the whole chain is valid, aware."""
        return max(certificate.not_valid_before_utc for certificate in self.chain)

    @property
    def expires_at(self) -> datetime:
        """The last moment at which the whole chain is valid, aware."""
        return min(certificate.not_valid_after_utc for certificate in self.chain)


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Bundle:
    """The X.509 authorities of one trust domain (SPIFFE Trust Domain and Bundle 4).

    Attributes:
        trust_domain: whose authorities these are.
        authorities: the CA certificates; none means that every SVID of the domain is refused.
        sequence: the bundle's `spiffe_sequence`, or None where its format has none.
        refresh_hint: how often its publisher asks to be polled, or None.
    """

    trust_domain: TrustDomain
    authorities: tuple[x509.Certificate, ...]
    sequence: int | None = None
    refresh_hint: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Identity:
    """One update of a source, whole: an SVID is never seen with the bundles of another update.

    Raises:
        InvalidIdentity: a bundle is filed under another trust domain than its own.

    Attributes:
        chosen: the X509-SVID to present, or None for a source of bundles alone.
        svids: every X509-SVID of the update, in its order; `chosen` among them.
        bundles: the authorities to verify peers with, by trust domain.
        crls: revocation lists of any of those authorities.
        generation: counts the updates of its source that changed something, from 1.
    """

    chosen: X509Svid | None
    svids: tuple[X509Svid, ...] = ()
    bundles: Mapping[TrustDomain, X509Bundle]
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    generation: int = 1

    def __post_init__(self) -> None:
        for trust_domain, bundle in self.bundles.items():
            if bundle.trust_domain != trust_domain:  # it would let one trust domain's CAs speak for another
                raise InvalidIdentity(f"bundle of {bundle.trust_domain}", f"it is filed under {trust_domain}")
        object.__setattr__(
            self, "bundles", MappingProxyType({each.trust_domain: each for each in self.bundles.values()})
        )
        if self.chosen is not None and self.chosen not in self.svids:
            object.__setattr__(self, "svids", (self.chosen, *self.svids))

    @property
    def svid(self) -> X509Svid:
        """The X509-SVID to present.

        Raises:
            InvalidIdentity: the source delivers bundles alone.
        """
        if self.chosen is None:
            raise InvalidIdentity(
                "identity",
                "it holds bundles and no X509-SVID",
                fix="use a source that has one, or present_svid=False on a client that presents none",
            )
        return self.chosen

    @property
    def id(self) -> SpiffeId:
        """The SPIFFE ID that is presented; raises as `svid` does."""
        return self.svid.id

    @property
    def expires_at(self) -> datetime | None:
        """When `svid` ends, aware; None for bundles alone."""
        return self.chosen.expires_at if self.chosen is not None else None
