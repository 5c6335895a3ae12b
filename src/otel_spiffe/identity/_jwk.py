# SPDX-License-Identifier: Apache-2.0
"""An authority as an entry of a SPIFFE JWKS bundle, and back (X509-SVID 6, RFC 7517, RFC 7518 6)."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity._leaf import UNREADABLE, name_of
from otel_spiffe.identity._parse import (
    certificates_from_der,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography import x509

__all__ = ["authority_of", "entry_of"]

_X509_SVID = "x509-svid"  # X509-SVID 6.1
_PARAMETERS = {"EC": ("x", "y"), "RSA": ("n", "e")}  # RFC 7518 6.2.1, 6.3.1: unsigned integers
_CURVES = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48), "secp521r1": ("P-521", 66)}  # RFC 7518 6.2.1


def authority_of(entry: object, *, what: str) -> x509.Certificate | None:
    """Return the certificate of an entry, or None for one that is to be passed over.

    Raises:
        InvalidIdentity: it is meant as an X.509 authority and is none.
    """
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
    try:
        return certificates_from_der(der, max_certificates=1)[0]
    except InvalidIdentity as error:
        raise InvalidIdentity(what, str(error)) from error


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


def entry_of(authority: x509.Certificate, *, what: str) -> dict[str, object]:
    """Return the entry of an authority.

    Raises:
        InvalidIdentity: a JWK has no form for its key.
    """
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
