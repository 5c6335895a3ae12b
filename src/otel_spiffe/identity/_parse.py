# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys from DER and PEM: all that the input holds, or an error; nothing is skipped in silence."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity._keys import key_fault
from otel_spiffe.identity._leaf import UNREADABLE

if TYPE_CHECKING:
    from otel_spiffe.identity._material import PrivateKey

__all__ = [
    "MAX_CERTIFICATES",
    "MAX_INPUT_BYTES",
    "certificates_from_der",
    "certificates_from_pem",
    "private_key_from_der",
    "private_key_from_pem",
]

MAX_INPUT_BYTES = 4 * 1024 * 1024
"""The largest chain, key or bundle that is read; rust-spiffe draws the same line."""

MAX_CERTIFICATES = 2000
"""The most certificates in one chain or bundle."""

_SEQUENCE = 0x30
_LONG_FORM = 0x80
_MAX_LENGTH_OCTETS = 4

_BEGIN_CERTIFICATE = re.compile(rb"^-----BEGIN (?:[A-Z0-9]+ )?CERTIFICATE-----", re.MULTILINE)
_BEGIN_PRIVATE_KEY = re.compile(rb"^-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----", re.MULTILINE)
_PRIVATE_KEY = re.compile(
    rb"^-----BEGIN (?P<label>(?:[A-Z0-9]+ )*PRIVATE KEY)-----.*?^-----END (?P=label)-----", re.MULTILINE | re.DOTALL
)


def certificates_from_der(
    data: bytes, *, max_bytes: int = MAX_INPUT_BYTES, max_certificates: int = MAX_CERTIFICATES
) -> tuple[x509.Certificate, ...]:
    """Return the certificates of concatenated DER, in their order: at least one.

    Args:
        data: DER, without anything between or after the certificates (Workload API 5.2.1).
        max_bytes: of `data`.
        max_certificates: in `data`.

    Raises:
        InvalidIdentity: it is empty, over a limit, cut short, or holds something else too.
    """
    _check_size(data, max_bytes, what="DER certificates")
    found: list[x509.Certificate] = []
    rest = memoryview(data)
    while rest:
        what = f"DER certificate {len(found) + 1}"
        if len(found) == max_certificates:
            raise InvalidIdentity("DER certificates", f"there are more than {max_certificates}")
        size = _der_size(rest, what=what)
        found.append(_certificate(bytes(rest[:size]), what=what))
        rest = rest[size:]
    return tuple(found)


def certificates_from_pem(
    data: bytes, *, max_bytes: int = MAX_INPUT_BYTES, max_certificates: int = MAX_CERTIFICATES
) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a PEM text, in their order: at least one; keys and prose are passed over.

    Raises:
        InvalidIdentity: it holds no certificate, is over a limit, or one of its blocks is cut short or broken.
    """
    what = "PEM certificates"
    _check_size(data, max_bytes, what=what)
    begun = len(_BEGIN_CERTIFICATE.findall(data))
    if not begun:
        raise InvalidIdentity(what, "it holds no -----BEGIN CERTIFICATE----- line")
    if begun > max_certificates:
        raise InvalidIdentity(what, f"there are more than {max_certificates}")
    try:
        found = tuple(x509.load_pem_x509_certificates(data))
    except UNREADABLE as error:
        raise InvalidIdentity(what, f"one cannot be read: {error}") from error
    if len(found) != begun:  # pyca passes over a block without its END line, as of a file half written
        raise InvalidIdentity(what, f"{begun} begin and {len(found)} are whole: the text is cut short")
    return found


def private_key_from_der(data: bytes, *, max_bytes: int = MAX_INPUT_BYTES) -> PrivateKey:
    """Return the private key of an unencrypted DER: PKCS#8 (Workload API 5.2.1), or the older forms of EC and RSA.

    Raises:
        InvalidIdentity: it is none, is encrypted, or is of a kind that an X509-SVID may not have.
    """
    what = "DER private key"
    _check_size(data, max_bytes, what=what)
    if _der_size(memoryview(data), what=what) != len(data):
        raise InvalidIdentity(what, "something follows it")
    try:
        key = serialization.load_der_private_key(data, password=None)
    except TypeError as error:
        raise InvalidIdentity(what, "it is encrypted", fix="decrypt it") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidIdentity(what, f"it cannot be read: {error}") from error
    return _allowed(key, what=what)


def private_key_from_pem(data: bytes, *, max_bytes: int = MAX_INPUT_BYTES) -> PrivateKey:
    """Return the one private key of a PEM text, which may hold certificates too.

    Raises:
        InvalidIdentity: it holds none or several, or one that is encrypted or of a kind that an
            X509-SVID may not have.
    """
    what = "PEM private key"
    _check_size(data, max_bytes, what=what)
    begun = len(_BEGIN_PRIVATE_KEY.findall(data))
    if begun != 1:
        raise InvalidIdentity(what, f"there are {begun} -----BEGIN ... PRIVATE KEY----- lines, and must be one")
    block = _PRIVATE_KEY.search(data)
    if block is None:
        raise InvalidIdentity(what, "it has no -----END ... PRIVATE KEY----- line: the text is cut short")
    try:
        key = serialization.load_pem_private_key(block.group(), password=None)
    except TypeError as error:
        raise InvalidIdentity(what, "it is encrypted", fix="decrypt it") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidIdentity(what, f"it cannot be read: {error}") from error
    return _allowed(key, what=what)


def _check_size(data: bytes, max_bytes: int, *, what: str) -> None:
    if not data:
        raise InvalidIdentity(what, "there are no bytes")
    if len(data) > max_bytes:
        raise InvalidIdentity(what, f"{len(data)} bytes are more than the {max_bytes} allowed")


def _certificate(der: bytes, *, what: str) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except UNREADABLE as error:
        raise InvalidIdentity(what, f"it cannot be read: {error}") from error


def _der_size(data: memoryview, *, what: str) -> int:
    """Return the length of the DER SEQUENCE that `data` begins with, header included (X.690 8.1)."""
    header = 2
    if len(data) < header or data[0] != _SEQUENCE:
        raise InvalidIdentity(what, "it does not begin with a DER SEQUENCE")
    size = data[1]
    if size >= _LONG_FORM:
        octets = size - _LONG_FORM
        if not 0 < octets <= _MAX_LENGTH_OCTETS:  # 0: the indefinite length of BER
            raise InvalidIdentity(what, "its DER length is malformed")
        header += octets
        size = int.from_bytes(data[2:header], "big")
    if header + size > len(data):
        raise InvalidIdentity(what, f"it is cut short: {header + size} bytes announced, {len(data)} there")
    return header + size


def _allowed(key: object, *, what: str) -> PrivateKey:
    fault = key_fault(key)
    if fault is not None:
        raise InvalidIdentity(what, fault[1])
    return cast("PrivateKey", key)
