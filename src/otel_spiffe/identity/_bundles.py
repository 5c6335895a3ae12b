# SPDX-License-Identifier: Apache-2.0
"""Bundles from and to PEM, DER, the SPIFFE JWKS bundle and the SPIFFE Bundle Map (Trust Domain and Bundle 4, 5)."""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity._ids import parse_trust_domain
from otel_spiffe.identity._leaf import UNREADABLE, is_ca, name_of
from otel_spiffe.identity._material import X509Bundle
from otel_spiffe.identity._parse import (
    MAX_CERTIFICATES,
    MAX_INPUT_BYTES,
    certificates_from_der,
    certificates_from_pem,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cryptography import x509
    from spiffe import TrustDomain

__all__ = [
    "bundle_from_der",
    "bundle_from_jwks",
    "bundle_from_pem",
    "bundle_to_der",
    "bundle_to_jwks",
    "bundle_to_pem",
    "bundles_from_map",
    "bundles_to_map",
]

_X509_SVID = "x509-svid"  # X509-SVID 6.1
_MAX_SEQUENCE = 2**64 - 1  # Trust Domain and Bundle 4.1.1
_PARAMETERS = {"EC": ("x", "y"), "RSA": ("n", "e")}  # RFC 7518 6.2.1, 6.3.1: unsigned integers
_PARTS: dict[str, Callable[[x509.Certificate], object]] = {
    "extensions": is_ca,
    "subject": lambda certificate: certificate.subject,
    "issuer": lambda certificate: certificate.issuer,
    "key": lambda certificate: certificate.public_key(),
    "notBefore": lambda certificate: certificate.not_valid_before_utc,
    "notAfter": lambda certificate: certificate.not_valid_after_utc,
}
_CURVES = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48), "secp521r1": ("P-521", 66)}  # RFC 7518 6.2.1


def bundle_from_pem(trust_domain: TrustDomain | str, data: bytes) -> X509Bundle:
    """Return the bundle of a PEM text: at least one authority, for an empty file is a file half written.

    Raises:
        InvalidIdentity: it cannot be read, or holds a certificate that is no authority.
    """
    domain = parse_trust_domain(str(trust_domain))
    return _bundle(domain, _certificates(certificates_from_pem, data, what=f"bundle of {domain}"))


def bundle_from_der(trust_domain: TrustDomain | str, data: bytes) -> X509Bundle:
    """Return the bundle of concatenated DER; no bytes are the legal empty bundle (Workload API 5.2.1).

    Raises:
        InvalidIdentity: it cannot be read, or holds a certificate that is no authority.
    """
    domain = parse_trust_domain(str(trust_domain))
    if not data:
        return _bundle(domain, ())
    return _bundle(domain, _certificates(certificates_from_der, data, what=f"bundle of {domain}"))


def bundle_from_jwks(trust_domain: TrustDomain | str, data: bytes, *, max_bytes: int = MAX_INPUT_BYTES) -> X509Bundle:
    """Return the X.509 authorities of a SPIFFE bundle; ``"keys": []`` is the legal empty one.

    Entries for other uses, of unknown key types or without a certificate are passed over, as the standard
    asks (Trust Domain and Bundle 4.2, X509-SVID 6.2).

    Raises:
        InvalidIdentity: it is no SPIFFE bundle, or holds a certificate that is no authority.
    """
    domain = parse_trust_domain(str(trust_domain))
    what = f"bundle of {domain}"
    return _from_document(domain, _json_object(data, max_bytes, what=what), what=what)


def bundles_from_map(
    data: bytes, *, max_bytes: int = MAX_INPUT_BYTES, leave_out: Callable[[str, InvalidIdentity], object] | None = None
) -> dict[TrustDomain, X509Bundle]:
    """Return the bundles of a SPIFFE Bundle Map by trust domain; their refresh hints do not count there.

    Args:
        data: its JSON.
        max_bytes: of `data`.
        leave_out: called with the name of each entry that is no bundle of a trust domain, and why; the others are
            returned then. Without it, such an entry refuses the whole map.

    Raises:
        InvalidIdentity: it is no SPIFFE Bundle Map, or one of its bundles is none.
    """
    what = "bundle map"
    domains = _json_object(data, max_bytes, what=what).get("trust_domains")
    if not isinstance(domains, dict):
        raise InvalidIdentity(what, "it has no 'trust_domains' object (Trust Domain and Bundle 5.1)")
    entries = cast("dict[str, object]", domains)
    names = Counter(map(str.lower, entries))
    bundles: dict[TrustDomain, X509Bundle] = {}
    for name, document in entries.items():
        try:
            bundle = _from_map_entry(name, document, alone=names[name.lower()] == 1)
            bundles[bundle.trust_domain] = bundle
        except InvalidIdentity as error:
            if leave_out is None:
                raise
            leave_out(name, error)
    return bundles


def _from_map_entry(name: str, document: object, *, alone: bool) -> X509Bundle:
    domain = parse_trust_domain(name)
    if not alone:
        raise InvalidIdentity("bundle map", f"it holds {domain} twice (Trust Domain and Bundle 6.3)")
    if not isinstance(document, dict):
        raise InvalidIdentity(f"bundle of {domain}", "it is no JSON object")
    unhinted = cast("dict[str, Any]", document) | {"spiffe_refresh_hint": None}
    return _from_document(domain, unhinted, what=f"bundle of {domain}")


def bundle_to_pem(bundle: X509Bundle) -> bytes:
    """Return a bundle's authorities as PEM; no bytes for an empty bundle, which no PEM reader accepts."""
    return b"".join(authority.public_bytes(Encoding.PEM) for authority in bundle.authorities)


def bundle_to_der(bundle: X509Bundle) -> bytes:
    """Return a bundle's authorities as concatenated DER."""
    return b"".join(authority.public_bytes(Encoding.DER) for authority in bundle.authorities)


def bundle_to_jwks(bundle: X509Bundle) -> bytes:
    """Return a SPIFFE bundle with one entry for each authority (X509-SVID 6.1).

    Raises:
        InvalidIdentity: an authority's key has no form in it.
    """
    return _dumped(_document(bundle))


def bundles_to_map(bundles: Iterable[X509Bundle]) -> bytes:
    """Return a SPIFFE Bundle Map (Trust Domain and Bundle 5).

    Raises:
        InvalidIdentity: an authority's key has no form in it, or two bundles are of one trust domain.
    """
    documents: dict[str, object] = {}
    for bundle in bundles:
        name = bundle.trust_domain.name
        if name in documents:
            raise InvalidIdentity("bundle map", f"it would hold {name} twice (Trust Domain and Bundle 6.3)")
        documents[name] = _document(bundle)
    return _dumped({"trust_domains": documents})


def _certificates(
    parse: Callable[[bytes], tuple[x509.Certificate, ...]], data: bytes, *, what: str
) -> tuple[x509.Certificate, ...]:
    try:
        return parse(data)
    except InvalidIdentity as error:
        raise InvalidIdentity(what, str(error)) from error


def _bundle(
    domain: TrustDomain,
    authorities: Sequence[x509.Certificate],
    *,
    sequence: int | None = None,
    refresh_hint: timedelta | None = None,
) -> X509Bundle:
    for certificate in authorities:
        _check_authority(certificate, what=f"bundle of {domain}")
    return X509Bundle(
        trust_domain=domain,
        authorities=tuple(dict.fromkeys(authorities)),
        sequence=sequence,
        refresh_hint=refresh_hint,
    )


def _check_authority(certificate: x509.Certificate, *, what: str) -> None:
    # pyca reads each part when it is first asked for. What it cannot read would fail later, where nobody expects it,
    # and OpenSSL then refuses all the authorities that it is given with this one: no handshake would succeed.
    for part, read in _PARTS.items():
        try:
            read(certificate)
        except UNREADABLE as error:
            raise InvalidIdentity(what, f"the {part} of {name_of(certificate)!r} cannot be read: {error}") from error
    # A leaf among the anchors would be a chain of length 1 that every path validation accepts.
    if not is_ca(certificate):
        raise InvalidIdentity(
            what,
            f"{name_of(certificate)!r} is no CA certificate: its basicConstraints lack cA=true (X509-SVID 4.1)",
            fix="put the certificate of its issuer into the bundle",
        )


def _from_document(domain: TrustDomain, document: dict[str, Any], *, what: str) -> X509Bundle:
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise InvalidIdentity(what, "it has no 'keys' array (Trust Domain and Bundle 4.1)")
    entries = cast("list[object]", keys)
    if len(entries) > MAX_CERTIFICATES:
        raise InvalidIdentity(what, f"there are more than {MAX_CERTIFICATES} keys")
    found = [_authority(entry, what=f"{what}, key {number}") for number, entry in enumerate(entries, start=1)]
    hint = _whole_number(document, "spiffe_refresh_hint", what=what)
    return _bundle(
        domain,
        [authority for authority in found if authority is not None],
        sequence=_whole_number(document, "spiffe_sequence", what=what),
        refresh_hint=_duration(hint, what=what),
    )


def _authority(entry: object, *, what: str) -> x509.Certificate | None:
    if not isinstance(entry, dict):
        raise InvalidIdentity(what, "it is no JSON object (RFC 7517 5.1)")
    jwk = cast("dict[str, object]", entry)
    # Case matters in both, and what is unknown is to be passed over (Trust Domain and Bundle 4.2.1, 4.2.2).
    if jwk.get("use") != _X509_SVID or jwk.get("kty") not in list(_PARAMETERS):
        return None
    chain = jwk.get("x5c")
    if chain is None or chain == []:
        return None  # X509-SVID 6.2
    first = cast("list[object]", chain)[0] if isinstance(chain, list) else None
    if not isinstance(first, str):
        raise InvalidIdentity(what, "its x5c is no array of strings (RFC 7517 4.7)")
    certificate = _decoded(first, what=what)
    expected = _public_jwk(certificate, what=what)
    if expected is None:
        return None  # a curve "out of the supported ranges" (RFC 7517 5)
    if not _same_key(jwk, expected):
        raise InvalidIdentity(what, "its parameters are not the key of its x5c certificate (RFC 7517 4.7)")
    return certificate


def _decoded(text: str, *, what: str) -> x509.Certificate:
    try:
        der = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidIdentity(what, f"its x5c is no base64 (RFC 7517 4.7): {error}") from error
    return _certificates(partial(certificates_from_der, max_certificates=1), der, what=what)[0]


def _same_key(jwk: Mapping[str, object], expected: Mapping[str, str]) -> bool:
    # By number, not by text: publishers differ in leading zeros and padding.
    names = _PARAMETERS[expected["kty"]]
    return all(jwk.get(name) == expected.get(name) for name in ("kty", "crv")) and all(
        _number(jwk.get(name)) == _number(expected[name]) for name in names
    )


def _number(text: object) -> int | None:
    if not isinstance(text, str):
        return None
    try:
        octets = base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars="-_", validate=True)
    except ValueError:
        return None
    return int.from_bytes(octets, "big")


def _document(bundle: X509Bundle) -> dict[str, object]:
    what = f"bundle of {bundle.trust_domain}"
    document: dict[str, object] = {"keys": [_entry(authority, what=what) for authority in bundle.authorities]}
    if bundle.sequence is not None:
        document["spiffe_sequence"] = bundle.sequence
    if bundle.refresh_hint is not None:
        document["spiffe_refresh_hint"] = int(bundle.refresh_hint.total_seconds())
    return document


def _entry(authority: x509.Certificate, *, what: str) -> dict[str, object]:
    jwk = _public_jwk(authority, what=what)
    if jwk is None:
        raise InvalidIdentity(what, f"the key of {name_of(authority)!r} has no form in a SPIFFE bundle")
    x5c = base64.b64encode(authority.public_bytes(Encoding.DER)).decode()
    return {"use": _X509_SVID, **jwk, "x5c": [x5c]}


def _public_jwk(certificate: x509.Certificate, *, what: str) -> dict[str, str] | None:
    """Return the key of a certificate in the terms of RFC 7518 6.2.1 and 6.3.1, or None where they have none."""
    try:
        key = certificate.public_key()
    except UNREADABLE as error:
        raise InvalidIdentity(what, f"the key of {name_of(certificate)!r} cannot be read: {error}") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        curve, size = _CURVES[key.curve.name]
        point = key.public_numbers()
        return {"kty": "EC", "crv": curve, "x": _base64url(point.x, size), "y": _base64url(point.y, size)}
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", "n": _base64url(numbers.n), "e": _base64url(numbers.e)}
    return None


def _base64url(number: int, size: int | None = None) -> str:
    octets = number.to_bytes(size or (number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _json_object(data: bytes, max_bytes: int, *, what: str) -> dict[str, Any]:
    if len(data) > max_bytes:
        raise InvalidIdentity(what, f"{len(data)} bytes are more than the {max_bytes} allowed")
    try:
        document: object = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidIdentity(what, f"it is no JSON that can be read: {error}") from error
    if not isinstance(document, dict):
        raise InvalidIdentity(what, "it is no JSON object")
    return cast("dict[str, Any]", document)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            msg = f"the name {name[:200]!r} stands twice in one object (Trust Domain and Bundle 6.3)"
            raise ValueError(msg)
        found[name] = value
    return found


def _refuse_constant(text: str) -> object:
    msg = f"{text} is no JSON value"
    raise ValueError(msg)


def _whole_number(document: dict[str, Any], name: str, *, what: str) -> int | None:
    value: object = document.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_SEQUENCE:
        raise InvalidIdentity(what, f"its {name} is no whole number from 0 to 2^64-1 (Trust Domain and Bundle 4.1)")
    return value


def _duration(seconds: int | None, *, what: str) -> timedelta | None:
    try:
        return timedelta(seconds=seconds) if seconds is not None else None
    except OverflowError as error:
        raise InvalidIdentity(what, "its spiffe_refresh_hint is out of all proportion") from error


def _dumped(document: dict[str, object]) -> bytes:
    return json.dumps(document, indent=1).encode()
