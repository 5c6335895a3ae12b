# SPDX-License-Identifier: Apache-2.0
"""A small certificate authority in memory: enough to issue, renew and rotate X509-SVIDs of one trust domain."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity import X509Bundle, X509Svid, parse_spiffe_id, parse_trust_domain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spiffe import SpiffeId, TrustDomain

__all__ = ["CertificateAuthority"]

_BACKDATE = timedelta(seconds=30)  # clocks of a fleet differ a little


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Signer:
    """One generation of the authority: the signing key, its certificate, what stands between it and the root."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...] = ()
    root: x509.Certificate | None = None

    @property
    def anchor(self) -> x509.Certificate:
        return self.root if self.root is not None else self.certificate


class CertificateAuthority:
    """Issues X509-SVIDs of one trust domain from a P-256 key that lives in this process alone.

    It keeps no record and forgets its keys when the process ends.
    """

    def __init__(
        self,
        trust_domain: TrustDomain,
        signers: Sequence[_Signer],
        *,
        lifetime: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._trust_domain = trust_domain
        self._signers = tuple(signers)
        self._lifetime = lifetime
        self._clock = clock

    @classmethod
    def in_memory(
        cls,
        trust_domain: TrustDomain | str,
        *,
        lifetime: timedelta = timedelta(days=7),
        clock: Callable[[], datetime] = _utc_now,
    ) -> CertificateAuthority:
        """Make an authority with a new root.

        Args:
            trust_domain: whose SVIDs it issues.
            lifetime: of each of its roots.
            clock: returns the time, aware.

        Raises:
            InvalidIdentity: `trust_domain` is none.
        """
        domain = parse_trust_domain(str(trust_domain))
        return cls(domain, [_new_root(domain, clock(), lifetime)], lifetime=lifetime, clock=clock)

    @property
    def trust_domain(self) -> TrustDomain:
        """Whose SVIDs it issues."""
        return self._trust_domain

    @property
    def bundle(self) -> X509Bundle:
        """The roots that peers should trust now, newest first."""
        roots = dict.fromkeys(signer.anchor for signer in self._signers)
        return X509Bundle(trust_domain=self._trust_domain, authorities=tuple(roots))

    def issue(
        self,
        id: SpiffeId | str,  # noqa: A002 -- the standard's word
        *,
        lifetime: timedelta = timedelta(hours=1),
        dns_names: Sequence[str] = (),
        hint: str = "",
    ) -> X509Svid:
        """Issue an X509-SVID with a new P-256 key.

        Args:
            id: a SPIFFE ID of this trust domain, with a path.
            lifetime: from now; never past the issuer's own end.
            dns_names: DNS SANs beside the URI SAN, for peers that look for one.
            hint: the operator's word for it (Workload API 5.2.1).

        Raises:
            InvalidIdentity: `id` is no SPIFFE ID, has no path or is of another trust domain.
        """
        spiffe_id = parse_spiffe_id(str(id))
        if spiffe_id.trust_domain != self._trust_domain or not spiffe_id.path:
            raise InvalidIdentity(
                f"SPIFFE ID '{spiffe_id}'",
                f"the authority of {self._trust_domain} issues spiffe://{self._trust_domain}/<path> alone",
            )
        signer, now = self._signers[0], self._clock()
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(str(spiffe_id)), *map(x509.DNSName, dns_names)]
        leaf = (
            _builder(key, signer.certificate.subject, signer, now, min(now + lifetime, _end(signer)))
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "otel-spiffe")]))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(signer.key, hashes.SHA256())
        )
        return X509Svid(id=spiffe_id, chain=(leaf, *signer.intermediates), private_key=key, hint=hint)

    def intermediate(self, *, lifetime: timedelta | None = None) -> CertificateAuthority:
        """Return an authority below this one: its SVIDs carry its certificate, its bundle is this root."""
        signer, now = self._signers[0], self._clock()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _ca_certificate(
            self._trust_domain, key, issuer=signer, now=now, end=min(now + (lifetime or self._lifetime), _end(signer))
        )
        below = _Signer(key, certificate, (certificate, *signer.intermediates), signer.anchor)
        return CertificateAuthority(self._trust_domain, [below], lifetime=self._lifetime, clock=self._clock)

    def rotate(self) -> None:
        """Sign with a new root from now on; the bundle keeps the old ones until `withdraw`."""
        self._signers = (_new_root(self._trust_domain, self._clock(), self._lifetime), *self._signers)

    def withdraw(self) -> None:
        """Take every root but the newest out of the bundle."""
        self._signers = self._signers[:1]


def _new_root(trust_domain: TrustDomain, now: datetime, lifetime: timedelta) -> _Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    return _Signer(key, _ca_certificate(trust_domain, key, issuer=None, now=now, end=now + lifetime))


def _ca_certificate(
    trust_domain: TrustDomain, key: ec.EllipticCurvePrivateKey, *, issuer: _Signer | None, now: datetime, end: datetime
) -> x509.Certificate:
    serial = x509.random_serial_number()
    # A name of its own for each: verifiers try every authority of one name in turn.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "otel-spiffe"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{trust_domain}"[:40] + f" {serial:x}"[:17]),
        ]
    )
    uri = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    return (
        _builder(key, issuer.certificate.subject if issuer else name, issuer, now, end, serial=serial)
        .subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )


def _builder(
    key: ec.EllipticCurvePrivateKey,
    issuer_name: x509.Name,
    issuer: _Signer | None,
    now: datetime,
    end: datetime,
    *,
    serial: int | None = None,
) -> x509.CertificateBuilder:
    signing_key = issuer.key if issuer else key
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )


def _end(signer: _Signer) -> datetime:
    return signer.certificate.not_valid_after_utc


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
