# SPDX-License-Identifier: Apache-2.0
"""Certificates with any fault, made here from nothing but pyca, so that this room's tests lean on no other room."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from otel_spiffe.identity import Identity, X509Bundle, X509Svid, parse_trust_domain

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_KEYS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA-1024": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 -- made to be refused
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


@dataclass(frozen=True)
class Issued:
    certificate: x509.Certificate
    key: object


def usage(**set_bits):
    bits = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: set_bits.get(name, False) for name in bits})


class Mint:
    """Makes certificates around one fixed moment, `now`."""

    now = NOW
    usage = staticmethod(usage)
    both = BOTH

    @staticmethod
    @cache
    def old_key(kind):
        """A key of a kind that is slow to make, shared."""
        return _KEYS[kind]()

    def key(self, kind="P-256"):
        return self.old_key(kind) if kind.startswith("RSA") else _KEYS[kind]()

    def certificate(
        self,
        subject,
        *,
        issuer=None,
        key=None,
        ca=None,
        path_length=None,
        uris=(),
        names=(),
        san_critical=False,
        key_usage=None,
        usage_critical=True,
        purposes=None,
        purposes_critical=False,
        ski=True,
        aki=True,
        start=NOW - HOUR,
        end=NOW + HOUR,
        extra=(),
        issuer_name=None,
    ):
        key = key if key is not None else self.key()
        signer = issuer.key if issuer is not None else key
        own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
        builder = (
            x509.CertificateBuilder()
            .subject_name(own)
            .issuer_name(issuer_name or (issuer.certificate.subject if issuer is not None else own))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        extensions = list(extra)
        if ca is not None:
            extensions.append((x509.BasicConstraints(ca=ca, path_length=path_length), True))
        if uris or names:
            both = [*map(x509.UniformResourceIdentifier, uris), *names]
            extensions.append((x509.SubjectAlternativeName(both), san_critical))
        if key_usage is not None:
            extensions.append((key_usage, usage_critical))
        if purposes is not None:
            extensions.append((x509.ExtendedKeyUsage(list(purposes)), purposes_critical))
        if ski:
            extensions.append((x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False))
        if aki:
            extensions.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False))
        for value, critical in extensions:
            builder = builder.add_extension(value, critical)
        digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return Issued(builder.sign(signer, digest), key)

    def ca(self, subject="root", issuer=None, **given):
        defaults = {
            "ca": True,
            "uris": ("spiffe://prod.example",),
            "key_usage": usage(key_cert_sign=True, crl_sign=True),
        }
        return self.certificate(subject, issuer=issuer, **{**defaults, **given})

    def leaf(self, issuer, uri="spiffe://prod.example/db", **given):
        defaults = {
            "uris": (uri,),
            "ca": False,
            "key_usage": usage(digital_signature=True),
            "purposes": BOTH,
        }
        return self.certificate(given.pop("subject", "db"), issuer=issuer, **{**defaults, **given})

    def bundle(self, *authorities, of="prod.example"):
        return X509Bundle(
            trust_domain=parse_trust_domain(of), authorities=tuple(each.certificate for each in authorities)
        )

    def identity(self, *bundles, chosen=None, crls=()):
        return Identity(chosen=chosen, bundles={each.trust_domain: each for each in bundles}, crls=tuple(crls))

    def svid(self, leaf, *above, id):  # noqa: A002 -- the standard's word
        chain = tuple(each.certificate for each in (leaf, *above))
        return X509Svid(id=id, chain=chain, private_key=leaf.key)

    def crl(
        self,
        issuer,
        *,
        revoked=(),
        start=NOW - HOUR,
        end=NOW + HOUR,
        extra=(),
        entry_extra=(),
        aki=True,
        key=None,
    ):
        builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject).last_update(start)
        builder = builder.next_update(end)
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
            entry = entry.revocation_date(NOW - HOUR)
            for value, critical in entry_extra:
                entry = entry.add_extension(value, critical)
            builder = builder.add_revoked_certificate(entry.build())
        extensions = [(x509.CRLNumber(1), False), *extra]
        if aki:
            own = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
            extensions.append((own, False))
        for value, critical in extensions:
            builder = builder.add_extension(value, critical)
        return builder.sign(key or issuer.key, hashes.SHA256())


@pytest.fixture(scope="session")
def mint():
    return Mint()


@pytest.fixture(scope="session")
def root(mint):
    return mint.ca()
