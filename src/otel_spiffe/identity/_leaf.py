# SPDX-License-Identifier: Apache-2.0
"""The rules of a leaf, once: our own X509-SVID and a peer's are held to the same (X509-SVID 2-4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from otel_spiffe.errors import InvalidIdentity, Untrusted
from otel_spiffe.identity._ids import parse_spiffe_id
from otel_spiffe.identity._keys import key_fault

if TYPE_CHECKING:
    from spiffe import SpiffeId

__all__ = [
    "MAX_CHAIN_CERTIFICATES",
    "UNREADABLE",
    "Fault",
    "find",
    "is_ca",
    "issuer_of",
    "leaf_fault",
    "leaf_id",
    "name_of",
    "no_path_fault",
    "uri_names",
]

MAX_CHAIN_CERTIFICATES = 10
"""The longest chain of a peer: a leaf, the 8 intermediates that pyca follows by default, and a root sent needlessly."""

UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,  # pyca 46: a name in a string type that it does not know
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    Warning,  # where the program makes errors of them: pyca warns of a serial number that is not positive
)
"""What pyca raises for a certificate or a revocation list that is none, or whose inside cannot be read."""

_E = TypeVar("_E", bound=x509.ExtensionType)


class Fault(NamedTuple):
    """Which rule a certificate breaks."""

    why: Untrusted
    detail: str


def name_of(certificate: x509.Certificate) -> str:
    """Return what to call a certificate in a sentence: its subject, or its serial number; to be shown by `repr`."""
    try:
        text = certificate.subject.rfc4514_string()
    except UNREADABLE:
        text = ""
    return _shortened(text) or f"serial number {certificate.serial_number:x}"


def issuer_of(certificate: x509.Certificate) -> str:
    """Return the name of a certificate's issuer, to be shown by `repr`; raises one of `UNREADABLE`."""
    return _shortened(certificate.issuer.rfc4514_string())


def _shortened(text: str) -> str:
    limit = 200  # a DN may be of any length
    return text if len(text) <= limit else f"{text[:limit]}..."


def uri_names(certificate: x509.Certificate) -> list[str]:
    """Return the URI SANs of a certificate; raises one of `UNREADABLE` where it cannot be read."""
    names = find(certificate, x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []


def leaf_id(leaf: x509.Certificate) -> SpiffeId | Fault:
    """Return the SPIFFE ID in the one URI SAN of a leaf; whether it has a path is `leaf_fault`'s to say."""
    try:
        uris = uri_names(leaf)
    except UNREADABLE as error:
        return Fault(Untrusted.UNREADABLE, f"its extensions cannot be read: {error}")
    if not uris:
        return Fault(Untrusted.NO_URI_SAN, "it has no URI SAN, so it is no X509-SVID (X509-SVID 2)")
    if len(uris) > 1:
        return Fault(Untrusted.SEVERAL_URI_SANS, f"it has {len(uris)} URI SANs, and must have one (X509-SVID 2)")
    try:
        return parse_spiffe_id(uris[0])
    except InvalidIdentity as error:
        return Fault(Untrusted.INVALID_ID, str(error))


def no_path_fault(spiffe_id: SpiffeId) -> Fault | None:
    """Return what is wrong with a leaf's ID that names a trust domain and no workload, or None."""
    if spiffe_id.path:
        return None
    return Fault(
        Untrusted.NO_PATH, "its SPIFFE ID has no path, so it names a trust domain and no workload (X509-SVID 3.1)"
    )


def leaf_fault(leaf: x509.Certificate, spiffe_id: SpiffeId) -> Fault | None:
    """Return the first rule that a leaf with this ID breaks, or None; never looks at dates or signatures."""
    try:
        return (
            no_path_fault(spiffe_id)
            or _ca_fault(leaf)
            or _usage_fault(leaf)
            or _extended_usage_fault(leaf)
            or _key_fault(leaf)
        )
    except UNREADABLE as error:
        return Fault(Untrusted.UNREADABLE, f"its key or extensions cannot be read: {error}")


def is_ca(certificate: x509.Certificate) -> bool:
    """Return whether basicConstraints says cA=true; raises one of `UNREADABLE` where it cannot be read."""
    constraints = find(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.value.ca


def _ca_fault(leaf: x509.Certificate) -> Fault | None:
    if is_ca(leaf):  # no basicConstraints at all is fine: X509-SVID 4.1 asks for cA=false alone
        return Fault(Untrusted.CA_AS_LEAF, "it is a CA certificate, which must never name a peer (X509-SVID 4.1)")
    return None


def _usage_fault(leaf: x509.Certificate) -> Fault | None:
    usage = find(leaf, x509.KeyUsage)
    if usage is None:
        broken = "it has no keyUsage extension"
    elif not usage.critical:
        broken = "its keyUsage extension is not critical"
    elif usage.value.key_cert_sign or usage.value.crl_sign:
        broken = "its keyUsage holds keyCertSign or cRLSign, which a leaf must not have"
    elif not usage.value.digital_signature:
        broken = "its keyUsage lacks digitalSignature"
    else:
        return None
    return Fault(Untrusted.WRONG_KEY_USAGE, f"{broken} (X509-SVID 4.3)")


def _extended_usage_fault(leaf: x509.Certificate) -> Fault | None:
    usage = find(leaf, x509.ExtendedKeyUsage)
    if usage is None:
        return None
    needed = {ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth", ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth"}
    missing = [word for oid, word in needed.items() if oid not in usage.value]
    if not missing:
        return None
    return Fault(
        Untrusted.WRONG_EXTENDED_KEY_USAGE, f"its extendedKeyUsage lacks {' and '.join(missing)} (X509-SVID 4.4)"
    )


def _key_fault(leaf: x509.Certificate) -> Fault | None:
    found = key_fault(leaf.public_key())
    return Fault(found[0], found[1]) if found is not None else None


def find(certificate: x509.Certificate, kind: type[_E]) -> x509.Extension[_E] | None:
    """Return an extension, or None where there is none; raises one of `UNREADABLE`."""
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
