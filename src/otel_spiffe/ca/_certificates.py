# SPDX-License-Identifier: Apache-2.0
"""Certificates and revocation lists as an authority signs them: pure, the time comes in.

The profile is SPIRE's, which every SPIFFE implementation reads: critical basicConstraints and keyUsage, key
identifiers for path building, both extended key usages on a leaf, the trust domain's own ID in a CA's URI SAN.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spiffe import SpiffeId, TrustDomain

    from otel_spiffe.identity import PrivateKey

__all__ = ["BACKDATE", "KeyType", "Signer", "key_usage", "leaf_builder", "new_ca", "new_key", "revocation_list", "sign"]

KeyType = Literal["ec-p256", "ec-p384", "rsa-2048", "rsa-4096"]
"""A key's algorithm and size, in SPIRE's words (`ca_key_type`, `workload_x509_svid_key_type`)."""

BACKDATE = timedelta(seconds=30)
"""How long before its issuance a certificate begins to be valid: the clocks of a fleet differ a little."""

_B = TypeVar("_B", x509.CertificateBuilder, x509.CertificateRevocationListBuilder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """One generation of an authority.

    Attributes:
        key: what it signs with; left out of the repr.
        certificate: of that key.
        intermediates: what an SVID carries behind its leaf, up to the root and without it.
        anchor: the root, which peers have in their bundle.
    """

    key: PrivateKey = field(repr=False)
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...] = ()
    anchor: x509.Certificate

    @property
    def end(self) -> datetime:
        """When it must stop to sign, aware."""
        return self.certificate.not_valid_after_utc


def new_key(kind: KeyType) -> PrivateKey:
    """Make a private key."""
    if kind == "rsa-2048" or kind == "rsa-4096":  # noqa: PLR1714 -- mypy narrows these, a set it does not
        return rsa.generate_private_key(65537, int(kind[4:]))
    return ec.generate_private_key(ec.SECP256R1() if kind == "ec-p256" else ec.SECP384R1())


def sign(builder: x509.CertificateBuilder, signer: Signer) -> x509.Certificate:
    """Return the certificate of `builder`, issued by `signer`; its key identifier is added."""
    named = _with_authority_key(builder.issuer_name(signer.certificate.subject), signer.key)
    return named.sign(signer.key, _digest(signer.key))


def new_ca(
    trust_domain: TrustDomain, kind: KeyType, *, now: datetime, lifetime: timedelta, issuer: Signer | None = None
) -> Signer:
    """Make a root, or an authority below `issuer` that ends with it at the latest."""
    key, serial = new_key(kind), x509.random_serial_number()
    end = now + lifetime if issuer is None else min(now + lifetime, issuer.end)
    builder = _ca_builder(trust_domain, key, serial).not_valid_before(now - BACKDATE).not_valid_after(end)
    if issuer is not None:
        certificate = sign(builder, issuer)
        return Signer(
            key=key,
            certificate=certificate,
            intermediates=(certificate, *issuer.intermediates),
            anchor=issuer.anchor,
        )
    named = _with_authority_key(builder.issuer_name(_ca_name(trust_domain, serial)), key)
    certificate = named.sign(key, _digest(key))
    return Signer(key=key, certificate=certificate, anchor=certificate)


def leaf_builder(spiffe_id: SpiffeId, key: PrivateKey, *, dns_names: Sequence[str] = ()) -> x509.CertificateBuilder:
    """Return what an X509-SVID says, its dates and issuer left open (X509-SVID 2-4)."""
    names = [x509.UniformResourceIdentifier(str(spiffe_id)), *map(x509.DNSName, dns_names)]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "otel-spiffe")]))
        .serial_number(x509.random_serial_number())
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )


def revocation_list(
    signer: Signer, revoked: Iterable[tuple[int, datetime]], *, now: datetime, lifetime: timedelta, number: int
) -> x509.CertificateRevocationList:
    """Return the list of `signer`, of serial numbers and when each was revoked (RFC 5280 5)."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.certificate.subject)
        .last_update(now - BACKDATE)
        .next_update(now + lifetime)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial, when in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
        builder = builder.add_revoked_certificate(entry)
    return _with_authority_key(builder, signer.key).sign(signer.key, _digest(signer.key))


def key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    """Return a keyUsage with these bits."""
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


def _ca_builder(trust_domain: TrustDomain, key: PrivateKey, serial: int) -> x509.CertificateBuilder:
    uri = x509.UniformResourceIdentifier(trust_domain.as_spiffe_id())
    return (
        x509.CertificateBuilder()
        .subject_name(_ca_name(trust_domain, serial))
        .serial_number(serial)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    )


def _ca_name(trust_domain: TrustDomain, serial: int) -> x509.Name:
    # A name of its own for each: verifiers try every authority of one name in turn. At most 64 characters.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "otel-spiffe"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{trust_domain.name[:46]} {serial:016x}"[:63]),
        ]
    )


def _with_authority_key(builder: _B, key: PrivateKey) -> _B:
    return builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)


def _digest(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    is_p384 = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp384r1"
    return hashes.SHA384() if is_p384 else hashes.SHA256()
