# SPDX-License-Identifier: Apache-2.0
"""A small certificate authority in memory: enough to issue, renew, rotate and revoke in one trust domain."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from otel_spiffe.ca._certificates import BACKDATE, KeyType, Signer, leaf_builder, new_ca, new_key, revocation_list, sign
from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity import Identity, X509Bundle, X509Svid, parse_spiffe_id, parse_trust_domain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cryptography import x509
    from spiffe import SpiffeId, TrustDomain

__all__ = ["CertificateAuthority"]

_CRL_LIFETIME = timedelta(days=1)


def utc_now() -> datetime:
    return datetime.now(UTC)


class CertificateAuthority:
    """Issues X509-SVIDs of one trust domain with a key that lives in this process alone.

    It keeps no record but of what was revoked, and forgets its keys when the process ends. Any thread may use it.
    """

    def __init__(
        self,
        trust_domain: TrustDomain,
        signer: Signer,
        *,
        lifetime: timedelta,
        key_type: KeyType,
        clock: Callable[[], datetime],
    ) -> None:
        self._trust_domain = trust_domain
        self._signers: tuple[Signer, ...] = (signer,)  # newest first; replaced whole, so reading takes no lock
        self._revoked: tuple[tuple[x509.Name, int, datetime], ...] = ()
        self._lists = 0
        self._lifetime = lifetime
        self._key_type: KeyType = key_type
        self._clock = clock
        self._lock = threading.Lock()

    @classmethod
    def in_memory(
        cls,
        trust_domain: TrustDomain | str,
        *,
        lifetime: timedelta = timedelta(days=7),
        key_type: KeyType = "ec-p256",
        clock: Callable[[], datetime] = utc_now,
    ) -> CertificateAuthority:
        """Make an authority with a new root.

        Args:
            trust_domain: whose SVIDs it issues.
            lifetime: of each of its roots.
            key_type: of its own keys, and of its SVIDs' where `issue` is not told another.
            clock: returns the time, aware.

        Raises:
            InvalidIdentity: `trust_domain` is none.
        """
        domain = parse_trust_domain(str(trust_domain))
        root = new_ca(domain, key_type, now=clock(), lifetime=lifetime)
        return cls(domain, root, lifetime=lifetime, key_type=key_type, clock=clock)

    @property
    def trust_domain(self) -> TrustDomain:
        """Whose SVIDs it issues."""
        return self._trust_domain

    @property
    def bundle(self) -> X509Bundle:
        """The roots that peers should trust now, newest first."""
        roots = dict.fromkeys(signer.anchor for signer in self._signers)
        return X509Bundle(trust_domain=self._trust_domain, authorities=tuple(roots))

    @property
    def crls(self) -> tuple[x509.CertificateRevocationList, ...]:
        """One fresh revocation list of each signing key, valid for a day (RFC 5280 5)."""
        return self._new_crls(_CRL_LIFETIME)

    def _new_crls(self, lifetime: timedelta) -> tuple[x509.CertificateRevocationList, ...]:
        with self._lock:
            self._lists += 1
            signers, revoked, number = self._signers, self._revoked, self._lists
        now = self._clock()
        return tuple(
            revocation_list(
                signer,
                [(serial, when) for issuer, serial, when in revoked if issuer == signer.certificate.subject],
                now=now,
                lifetime=lifetime,
                number=number,
            )
            for signer in signers
        )

    def issue(
        self,
        id: SpiffeId | str,  # noqa: A002 -- the standard's word
        *,
        lifetime: timedelta = timedelta(hours=1),
        dns_names: Sequence[str] = (),
        hint: str = "",
        key_type: KeyType | None = None,
    ) -> X509Svid:
        """Issue an X509-SVID with a new key.

        Args:
            id: a SPIFFE ID of this trust domain, with a path.
            lifetime: from now; never past the issuer's own end.
            dns_names: DNS SANs beside the URI SAN, for peers that look for one.
            hint: the operator's word for it (Workload API 5.2.1).
            key_type: of the SVID's key; None takes the authority's.

        Raises:
            InvalidIdentity: `id` is no SPIFFE ID, has no path or is of another trust domain; or the authority has
                come to its end.
        """
        spiffe_id = parse_spiffe_id(str(id))
        if spiffe_id.trust_domain != self._trust_domain or not spiffe_id.path:
            raise InvalidIdentity(
                f"SPIFFE ID '{spiffe_id}'",
                f"the authority of {self._trust_domain} issues spiffe://{self._trust_domain}/<path> alone",
            )
        signer, now = self._living_signer()
        key = new_key(key_type or self._key_type)
        builder = leaf_builder(spiffe_id, key, dns_names=dns_names)
        builder = builder.not_valid_before(now - BACKDATE).not_valid_after(min(now + lifetime, signer.end))
        return X509Svid(id=spiffe_id, chain=(sign(builder, signer), *signer.intermediates), private_key=key, hint=hint)

    def identity(
        self,
        *ids: SpiffeId | str,
        lifetime: timedelta = timedelta(hours=1),
        federated: Iterable[X509Bundle] = (),
    ) -> Identity:
        """Issue an X509-SVID for each ID and return them with the bundles, the first one chosen; no ID, no SVID.

        Args:
            ids: as for `issue`.
            lifetime: of each SVID.
            federated: bundles of other trust domains to put beside this one's.

        Raises:
            InvalidIdentity: as `issue`.
        """
        svids = tuple(self.issue(each, lifetime=lifetime) for each in ids)
        bundles = {bundle.trust_domain: bundle for bundle in (*federated, self.bundle)}
        # A list that ends before the SVID beside it would have every peer refused from then on.
        crls = self._new_crls(max(lifetime, _CRL_LIFETIME)) if self._revoked else ()
        return Identity(chosen=svids[0] if svids else None, svids=svids, bundles=bundles, crls=crls)

    def sign(self, builder: x509.CertificateBuilder) -> tuple[x509.Certificate, ...]:
        """Return the chain of whatever `builder` says, signed: not checked, for tests of what must be refused."""
        signer = self._signers[0]
        return sign(builder, signer), *signer.intermediates

    def intermediate(self, *, lifetime: timedelta | None = None) -> CertificateAuthority:
        """Return an authority below this one: its SVIDs carry its certificate, its bundle is this root.

        Raises:
            InvalidIdentity: this authority has come to its end.
        """
        signer, now = self._living_signer()
        lifetime = self._lifetime if lifetime is None else lifetime
        below = new_ca(self._trust_domain, self._key_type, now=now, lifetime=lifetime, issuer=signer)
        return CertificateAuthority(
            self._trust_domain, below, lifetime=lifetime, key_type=self._key_type, clock=self._clock
        )

    def rotate(self) -> None:
        """Sign with a new root from now on; the bundle keeps the old ones until `withdraw`."""
        root = new_ca(self._trust_domain, self._key_type, now=self._clock(), lifetime=self._lifetime)
        with self._lock:
            self._signers = (root, *self._signers)

    def withdraw(self) -> None:
        """Take every root but the newest out of the bundle."""
        with self._lock:
            self._signers = self._signers[:1]

    def revoke(self, svid: X509Svid) -> None:
        """Put the SVID's leaf on the revocation list of the key that signed it.

        Raises:
            InvalidIdentity: no key of this authority signed it.
        """
        issuer = svid.leaf.issuer
        with self._lock:
            if all(issuer != signer.certificate.subject for signer in self._signers):
                raise InvalidIdentity(f"X509-SVID {svid.id}", f"the authority of {self._trust_domain} did not issue it")
            self._revoked = (*self._revoked, (issuer, svid.leaf.serial_number, self._clock()))

    def _living_signer(self) -> tuple[Signer, datetime]:
        signer, now = self._signers[0], self._clock()
        if signer.end <= now:
            raise InvalidIdentity(
                f"authority of {self._trust_domain}", f"its certificate ended at {signer.end}", fix="rotate() it"
            )
        return signer, now
