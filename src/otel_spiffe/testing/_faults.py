# SPDX-License-Identifier: Apache-2.0
"""X509-SVIDs that must be refused: each has one fault and is otherwise as good as the authority's own."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.identity import MAX_ID_BYTES, PrivateKey, X509Svid, parse_spiffe_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from spiffe import SpiffeId

__all__ = ["Fault", "faulty_svid"]

_Key = PrivateKey | ed25519.Ed25519PrivateKey
_BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_HOUR = timedelta(hours=1)


class Fault(enum.StrEnum):
    """What is wrong with an X509-SVID."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    NO_SAN = "no_san"
    DNS_ALONE = "dns_alone"
    TWO_URI_SANS = "two_uri_sans"
    NO_PATH = "no_path"
    ID_OTHER_SCHEME = "id_other_scheme"
    ID_WITH_QUERY = "id_with_query"
    ID_WITH_FRAGMENT = "id_with_fragment"
    ID_WITH_PORT = "id_with_port"
    ID_WITH_USER = "id_with_user"
    ID_PERCENT_ENCODED = "id_percent_encoded"
    ID_TRAILING_NEWLINE = "id_trailing_newline"
    ID_TRAILING_SLASH = "id_trailing_slash"
    ID_EMPTY_SEGMENT = "id_empty_segment"
    ID_DOT_SEGMENT = "id_dot_segment"
    ID_TOO_LONG = "id_too_long"
    CA_AS_LEAF = "ca_as_leaf"
    NO_KEY_USAGE = "no_key_usage"
    KEY_USAGE_NOT_CRITICAL = "key_usage_not_critical"
    NO_DIGITAL_SIGNATURE = "no_digital_signature"
    WITH_CERT_SIGN = "with_cert_sign"
    WITH_CRL_SIGN = "with_crl_sign"
    SERVER_AUTH_ALONE = "server_auth_alone"
    CLIENT_AUTH_ALONE = "client_auth_alone"
    OTHER_EXTENDED_KEY_USAGE = "other_extended_key_usage"
    UNKNOWN_CRITICAL_EXTENSION = "unknown_critical_extension"
    RSA_1024 = "rsa_1024"
    ED25519 = "ed25519"
    SECP256K1 = "secp256k1"
    KEY_MISMATCH = "key_mismatch"
    FOREIGN_AUTHORITY = "foreign_authority"
    SELF_SIGNED = "self_signed"
    WRONG_SIGNATURE = "wrong_signature"
    FORGED_BY_FEDERATED = "forged_by_federated"
    ISSUED_BY_LEAF = "issued_by_leaf"
    MISSING_INTERMEDIATE = "missing_intermediate"
    EXPIRED_INTERMEDIATE = "expired_intermediate"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaf:
    """What a certificate says, right unless told otherwise."""

    uris: tuple[str, ...]
    now: datetime
    name: str = "faulty"
    dns_names: tuple[str, ...] = ()
    begins: timedelta = -timedelta(seconds=30)
    ends: timedelta = _HOUR
    ca: bool = False
    usage: tuple[str, ...] | None = ("digital_signature",)
    usage_critical: bool = True
    extended: tuple[ObjectIdentifier, ...] = _BOTH
    unknown_critical: bool = False
    key: _Key = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def subject(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])

    def signed_by(self, name: x509.Name, key: _Key) -> x509.Certificate:
        return self.builder().issuer_name(name).sign(cast("PrivateKey", key), hashes.SHA256())

    def builder(self) -> x509.CertificateBuilder:
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .serial_number(x509.random_serial_number())
            .public_key(self.key.public_key())
            .not_valid_before(self.now + self.begins)
            .not_valid_after(self.now + self.ends)
            .add_extension(x509.BasicConstraints(ca=self.ca, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(self.extended), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        )
        names = [*map(x509.UniformResourceIdentifier, self.uris), *map(x509.DNSName, self.dns_names)]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if self.usage is not None:
            builder = builder.add_extension(_usage(self.usage), critical=self.usage_critical)
        if self.unknown_critical:
            unknown = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
            builder = builder.add_extension(unknown, critical=True)
        return builder


def faulty_svid(
    authority: CertificateAuthority,
    fault: Fault | str,
    *,
    id: SpiffeId | str | None = None,  # noqa: A002 -- the standard's word
    forger: CertificateAuthority | None = None,
    now: datetime | None = None,
) -> X509Svid:
    """Issue an X509-SVID with one fault.

    Its `id` is what it should say, its chain and key are what a client presents; nothing checks them here.

    Args:
        authority: whom the verifier trusts.
        fault: what is wrong, as `Fault` or its value.
        id: whom it names; ``spiffe://<trust domain>/faulty`` by default.
        forger: who signs `FORGED_BY_FEDERATED`: an authority that the verifier trusts for its own trust domain.
        now: the verifier's time; this machine's by default.

    Raises:
        InvalidConfiguration: `FORGED_BY_FEDERATED` without a forger.
        ValueError: there is no such fault.
    """
    fault = Fault(fault)
    spiffe_id = parse_spiffe_id(str(id) if id is not None else f"spiffe://{authority.trust_domain}/faulty")
    good = _Leaf(uris=(str(spiffe_id),), now=now or datetime.now(UTC))
    if fault is Fault.FORGED_BY_FEDERATED and forger is None:
        raise InvalidConfiguration("forger", "missing", fix="give the authority of another trust domain")
    key = good.key
    if fault in _BAD_LEAVES:
        bad = _BAD_LEAVES[fault](good)
        key, chain = bad.key, authority.sign(bad.builder())
    elif fault is Fault.KEY_MISMATCH:
        key, chain = ec.generate_private_key(ec.SECP256R1()), authority.sign(good.builder())
    else:
        chain = _BAD_CHAINS[fault](good, authority, forger or authority)
    return X509Svid(id=spiffe_id, chain=chain, private_key=cast("PrivateKey", key))


_Chain = tuple[x509.Certificate, ...]


def _self_signed(leaf: _Leaf, _authority: CertificateAuthority, _forger: CertificateAuthority) -> _Chain:
    return (leaf.signed_by(leaf.subject, leaf.key),)


def _wrong_signature(leaf: _Leaf, authority: CertificateAuthority, _forger: CertificateAuthority) -> _Chain:
    issuer = authority.sign(leaf.builder())[0].issuer
    return (leaf.signed_by(issuer, ec.generate_private_key(ec.SECP256R1())),)


def _foreign(leaf: _Leaf, authority: CertificateAuthority, _forger: CertificateAuthority) -> _Chain:
    return CertificateAuthority.in_memory(authority.trust_domain).sign(leaf.builder())


def _forged(leaf: _Leaf, _authority: CertificateAuthority, forger: CertificateAuthority) -> _Chain:
    return forger.sign(leaf.builder())


def _missing_intermediate(leaf: _Leaf, authority: CertificateAuthority, _forger: CertificateAuthority) -> _Chain:
    return authority.intermediate().sign(leaf.builder())[:1]


def _issued_by_leaf(leaf: _Leaf, authority: CertificateAuthority, _forger: CertificateAuthority) -> _Chain:
    issuer = replace(leaf, name="leaf as issuer", key=ec.generate_private_key(ec.SECP256R1()))
    return leaf.signed_by(issuer.subject, issuer.key), *authority.sign(issuer.builder())


def _expired_intermediate(leaf: _Leaf, authority: CertificateAuthority, _forger: CertificateAuthority) -> _Chain:
    issuer = replace(
        leaf,
        name="expired intermediate",
        uris=(f"spiffe://{authority.trust_domain}",),
        key=ec.generate_private_key(ec.SECP256R1()),
        begins=-2 * _HOUR,
        ends=-_HOUR,
        ca=True,
        usage=("key_cert_sign", "crl_sign"),
    )
    return leaf.signed_by(issuer.subject, issuer.key), *authority.sign(issuer.builder())


_BAD_LEAVES: dict[Fault, Callable[[_Leaf], _Leaf]] = {
    Fault.EXPIRED: lambda leaf: replace(leaf, begins=-2 * _HOUR, ends=-_HOUR),
    Fault.NOT_YET_VALID: lambda leaf: replace(leaf, begins=_HOUR, ends=2 * _HOUR),
    Fault.NO_SAN: lambda leaf: replace(leaf, uris=()),
    Fault.DNS_ALONE: lambda leaf: replace(leaf, uris=(), dns_names=("localhost",)),
    Fault.TWO_URI_SANS: lambda leaf: replace(leaf, uris=(*leaf.uris, f"{leaf.uris[0]}-too")),
    Fault.NO_PATH: lambda leaf: replace(leaf, uris=("/".join(leaf.uris[0].split("/")[:3]),)),
    Fault.ID_OTHER_SCHEME: lambda leaf: replace(leaf, uris=(leaf.uris[0].replace("spiffe:", "https:"),)),
    Fault.ID_WITH_QUERY: lambda leaf: replace(leaf, uris=(f"{leaf.uris[0]}?a=b",)),
    Fault.ID_WITH_FRAGMENT: lambda leaf: replace(leaf, uris=(f"{leaf.uris[0]}#a",)),
    Fault.ID_WITH_PORT: lambda leaf: replace(leaf, uris=(_with_authority(leaf.uris[0], "{}:443"),)),
    Fault.ID_WITH_USER: lambda leaf: replace(leaf, uris=(_with_authority(leaf.uris[0], "root@{}"),)),
    Fault.ID_PERCENT_ENCODED: lambda leaf: replace(leaf, uris=(f"{leaf.uris[0]}%41",)),
    Fault.ID_TRAILING_NEWLINE: lambda leaf: replace(leaf, uris=(f"{leaf.uris[0]}\n",)),
    Fault.ID_TRAILING_SLASH: lambda leaf: replace(leaf, uris=(f"{leaf.uris[0]}/",)),
    Fault.ID_EMPTY_SEGMENT: lambda leaf: replace(leaf, uris=(f"{leaf.uris[0]}//a",)),
    Fault.ID_DOT_SEGMENT: lambda leaf: replace(leaf, uris=(f"{leaf.uris[0]}/../admin",)),
    Fault.ID_TOO_LONG: lambda leaf: replace(leaf, uris=(f"{leaf.uris[0]}/".ljust(MAX_ID_BYTES + 1, "x"),)),
    Fault.CA_AS_LEAF: lambda leaf: replace(leaf, ca=True, usage=("digital_signature", "key_cert_sign")),
    Fault.NO_KEY_USAGE: lambda leaf: replace(leaf, usage=None),
    Fault.KEY_USAGE_NOT_CRITICAL: lambda leaf: replace(leaf, usage_critical=False),
    Fault.NO_DIGITAL_SIGNATURE: lambda leaf: replace(leaf, usage=("key_agreement",)),
    Fault.WITH_CERT_SIGN: lambda leaf: replace(leaf, usage=("digital_signature", "key_cert_sign")),
    Fault.WITH_CRL_SIGN: lambda leaf: replace(leaf, usage=("digital_signature", "crl_sign")),
    Fault.SERVER_AUTH_ALONE: lambda leaf: replace(leaf, extended=_BOTH[:1]),
    Fault.CLIENT_AUTH_ALONE: lambda leaf: replace(leaf, extended=_BOTH[1:]),
    Fault.OTHER_EXTENDED_KEY_USAGE: lambda leaf: replace(leaf, extended=(ExtendedKeyUsageOID.CODE_SIGNING,)),
    Fault.UNKNOWN_CRITICAL_EXTENSION: lambda leaf: replace(leaf, unknown_critical=True),
    # The weak key is the point.
    Fault.RSA_1024: lambda leaf: replace(leaf, key=rsa.generate_private_key(65537, 1024)),  # noqa: S505
    Fault.ED25519: lambda leaf: replace(leaf, key=ed25519.Ed25519PrivateKey.generate()),
    Fault.SECP256K1: lambda leaf: replace(leaf, key=ec.generate_private_key(ec.SECP256K1())),
}

_BAD_CHAINS: dict[Fault, Callable[[_Leaf, CertificateAuthority, CertificateAuthority], _Chain]] = {
    Fault.FOREIGN_AUTHORITY: _foreign,
    Fault.SELF_SIGNED: _self_signed,
    Fault.WRONG_SIGNATURE: _wrong_signature,
    Fault.FORGED_BY_FEDERATED: _forged,
    Fault.ISSUED_BY_LEAF: _issued_by_leaf,
    Fault.MISSING_INTERMEDIATE: _missing_intermediate,
    Fault.EXPIRED_INTERMEDIATE: _expired_intermediate,
}


def _with_authority(uri: str, form: str) -> str:
    scheme, _, name, *path = uri.split("/")
    return "/".join((scheme, "", form.format(name), *path))


def _usage(bits: tuple[str, ...]) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
    )
    return x509.KeyUsage(**{name: name in bits for name in names}, encipher_only=False, decipher_only=False)
