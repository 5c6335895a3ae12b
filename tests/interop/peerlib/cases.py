# SPDX-License-Identifier: Apache-2.0
"""What must be refused and why: each `Fault` of the library, and what takes another verifier than the usual one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.identity import MAX_CHAIN_CERTIFICATES, Identity, X509Bundle, X509Svid, parse_spiffe_id
from otel_spiffe.testing import Fault, faulty_svid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CASES", "Case", "make_case"]

_US, _PEER = "spiffe://test.example/us", "spiffe://test.example/peer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Who verifies, whom it must refuse, and whom it must let in right afterwards.

    Attributes:
        svid: the X509-SVID to refuse.
        good: one to accept.
        identity: whose verifier refuses and accepts.
        bundles: what a peer needs in order to trust that verifier.
    """

    svid: X509Svid
    good: X509Svid
    identity: Identity
    bundles: tuple[X509Bundle, ...]


class _World:
    """Two authorities of their own for each case."""

    def __init__(self) -> None:
        self.begin = datetime.now(UTC)
        self.now = self.begin
        self.ca = CertificateAuthority.in_memory("test.example", clock=lambda: self.now)
        self.federated = CertificateAuthority.in_memory("federated.example")

    def case(
        self,
        svid: X509Svid,
        *,
        good: X509Svid | None = None,
        bundles: Iterable[X509Bundle] | None = None,
        crls: tuple[x509.CertificateRevocationList, ...] = (),
    ) -> Case:
        both = (self.ca.bundle, self.federated.bundle)
        trusted = both if bundles is None else tuple(bundles)
        identity = Identity(chosen=self.ca.issue(_US), bundles={each.trust_domain: each for each in trusted}, crls=crls)
        return Case(svid=svid, good=good or self.ca.issue(_PEER), identity=identity, bundles=both)

    def stranger(self) -> X509Svid:
        return self.federated.issue("spiffe://federated.example/peer")

    def chain(self, name_constraints: x509.NameConstraints) -> X509Svid:
        """Return an X509-SVID below an intermediate with name constraints."""
        issuer_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        issuer_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "constrained")])
        issuer = _certificate(issuer_key, issuer_name, self.begin, ca=True)
        issuer = issuer.add_extension(name_constraints, critical=True)
        leaf = _certificate(key, x509.Name([]), self.begin, ca=False)
        leaf = leaf.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_PEER)]), critical=True)
        signed = leaf.issuer_name(issuer_name).sign(issuer_key, hashes.SHA256())
        return X509Svid(id=parse_spiffe_id(_PEER), chain=(signed, *self.ca.sign(issuer)), private_key=key)


def _certificate(
    key: ec.EllipticCurvePrivateKey, name: x509.Name, now: datetime, *, ca: bool
) -> x509.CertificateBuilder:
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .serial_number(x509.random_serial_number())
        .public_key(key.public_key())
        .not_valid_before(now - timedelta(seconds=30))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, decipher_only=False, **usage),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _fault(fault: Fault) -> Callable[[_World], Case]:
    return lambda world: world.case(faulty_svid(world.ca, fault, id=_PEER, forger=world.federated))


def _no_bundle(world: _World) -> Case:
    return world.case(world.stranger(), bundles=[world.ca.bundle])


def _empty_bundle(world: _World) -> Case:
    empty = replace(world.ca.bundle, authorities=())
    return world.case(world.ca.issue(_PEER), good=world.stranger(), bundles=[empty, world.federated.bundle])


def _revoked(world: _World) -> Case:
    svid = world.ca.issue(_PEER)
    world.ca.revoke(svid)
    return world.case(svid, crls=world.ca.crls)


def _revocation_unknown(world: _World) -> Case:
    world.now -= timedelta(days=2)
    lists = world.ca.crls  # for a day
    world.now = world.begin
    return world.case(world.ca.issue(_PEER), good=world.stranger(), crls=lists)


def _unreadable(world: _World) -> Case:
    key = ec.generate_private_key(ec.SECP256R1())
    garbage = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"garbage")
    leaf = _certificate(key, x509.Name([]), world.begin, ca=False).add_extension(garbage, critical=False)
    return world.case(X509Svid(id=parse_spiffe_id(_PEER), chain=world.ca.sign(leaf), private_key=key))


def _chain_too_long(world: _World) -> Case:
    below = world.ca
    for _ in range(MAX_CHAIN_CERTIFICATES):
        below = below.intermediate()
    return world.case(below.issue(_PEER))


def _gap_in_chain(world: _World) -> Case:
    below = world.ca.intermediate().intermediate().issue(_PEER)
    leaf, _missing, upper = below.chain
    return world.case(replace(below, chain=(leaf, upper)))


def _constraints(domain: str) -> Callable[[_World], Case]:
    permitted = x509.NameConstraints([x509.UniformResourceIdentifier(domain)], None)
    return lambda world: world.case(world.chain(permitted))


_CASES: dict[str, Callable[[_World], Case]] = {
    **{str(fault): _fault(fault) for fault in Fault},
    "no_bundle": _no_bundle,
    "empty_bundle": _empty_bundle,
    "revoked": _revoked,
    "revocation_unknown": _revocation_unknown,
    "unreadable": _unreadable,
    "gap_in_chain": _gap_in_chain,
    "chain_too_long": _chain_too_long,
    "uri_name_constraints": _constraints("test.example"),
    "uri_name_constraints_broken": _constraints("other.example"),
}

CASES = tuple(_CASES)
"""Their names: a fault's, or one of the others."""


def make_case(name: str) -> Case:
    """Return a case with authorities of its own."""
    return _CASES[name](_World())
