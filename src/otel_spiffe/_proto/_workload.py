# SPDX-License-Identifier: Apache-2.0
"""The X.509 messages and the method names of the SPIFFE Workload API (SPIFFE Workload API 5, Appendix A)."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from google.protobuf.message import DecodeError

from otel_spiffe._proto._descriptor import message_class

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from google.protobuf.message import Message

__all__ = [
    "EMPTY_REQUEST",
    "FETCH_JWT_BUNDLES",
    "FETCH_JWT_SVID",
    "FETCH_X509_BUNDLES",
    "FETCH_X509_SVID",
    "SECURITY_HEADER",
    "VALIDATE_JWT_SVID",
    "WORKLOAD_API_SERVICE",
    "X509BundlesResponse",
    "X509SvidMessage",
    "X509SvidResponse",
    "decode_x509_bundles_response",
    "decode_x509_svid_response",
    "encode_x509_bundles_response",
    "encode_x509_svid_response",
]

WORKLOAD_API_SERVICE = "SpiffeWorkloadAPI"
FETCH_X509_SVID = f"/{WORKLOAD_API_SERVICE}/FetchX509SVID"
FETCH_X509_BUNDLES = f"/{WORKLOAD_API_SERVICE}/FetchX509Bundles"
FETCH_JWT_SVID = f"/{WORKLOAD_API_SERVICE}/FetchJWTSVID"
FETCH_JWT_BUNDLES = f"/{WORKLOAD_API_SERVICE}/FetchJWTBundles"
VALIDATE_JWT_SVID = f"/{WORKLOAD_API_SERVICE}/ValidateJWTSVID"

SECURITY_HEADER = ("workload.spiffe.io", "true")
"""The metadata that every call carries (SPIFFE Workload Endpoint 3)."""

EMPTY_REQUEST = b""
"""X509SVIDRequest and X509BundlesRequest on the wire: they have no fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class X509SvidMessage:
    """One X509SVID message, unjudged.

    Attributes:
        spiffe_id: the SPIFFE ID as the server declares it.
        x509_svid: the chain, leaf first, concatenated DER.
        x509_svid_key: the key, unencrypted PKCS#8 DER; left out of the repr.
        bundle: the authorities of the SVID's trust domain, concatenated DER.
        hint: the operator's word for it, or empty.
    """

    spiffe_id: str
    x509_svid: bytes
    x509_svid_key: bytes = field(repr=False)
    bundle: bytes
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class X509SvidResponse:
    """One X509SVIDResponse message: the whole state, not a difference (SPIFFE Workload API 4.3).

    Attributes:
        svids: the first one is the default identity (SPIFFE Workload API 8).
        crl: revocation lists, DER each.
        federated_bundles: concatenated DER by the SPIFFE ID of the foreign trust domain; may be empty bytes.
    """

    svids: tuple[X509SvidMessage, ...] = ()
    crl: tuple[bytes, ...] = ()
    federated_bundles: Mapping[str, bytes] = field(default_factory=dict[str, bytes])

    def __post_init__(self) -> None:
        object.__setattr__(self, "federated_bundles", MappingProxyType(dict(self.federated_bundles)))


@dataclass(frozen=True, slots=True, kw_only=True)
class X509BundlesResponse:
    """One X509BundlesResponse message.

    Attributes:
        crl: revocation lists, DER each.
        bundles: concatenated DER by the SPIFFE ID of the trust domain.
    """

    crl: tuple[bytes, ...] = ()
    bundles: Mapping[str, bytes] = field(default_factory=dict[str, bytes])

    def __post_init__(self) -> None:
        object.__setattr__(self, "bundles", MappingProxyType(dict(self.bundles)))


class _SvidWire(Protocol):
    spiffe_id: str
    x509_svid: bytes
    x509_svid_key: bytes
    bundle: bytes
    hint: str


class _SvidsWire(Protocol):
    svids: Iterable[_SvidWire]
    crl: Iterable[bytes]
    federated_bundles: Mapping[str, bytes]


class _BundlesWire(Protocol):
    crl: Iterable[bytes]
    bundles: Mapping[str, bytes]


_SVID = message_class("X509SVID")
_SVIDS = message_class("X509SVIDResponse")
_BUNDLES = message_class("X509BundlesResponse")


def decode_x509_svid_response(data: bytes) -> X509SvidResponse:
    """Return the X509SVIDResponse in `data`; absent fields are empty, unknown ones ignored.

    Raises:
        ValueError: the bytes are no such message.
    """
    wire = cast("_SvidsWire", _parse(_SVIDS.FromString, data))
    return X509SvidResponse(
        svids=tuple(
            X509SvidMessage(
                spiffe_id=svid.spiffe_id,
                x509_svid=svid.x509_svid,
                x509_svid_key=svid.x509_svid_key,
                bundle=svid.bundle,
                hint=svid.hint,
            )
            for svid in wire.svids
        ),
        crl=tuple(wire.crl),
        federated_bundles=wire.federated_bundles,
    )


def encode_x509_svid_response(response: X509SvidResponse) -> bytes:
    """Return `response` as bytes; equal responses give equal bytes."""
    svids = [
        _SVID(
            spiffe_id=svid.spiffe_id,
            x509_svid=svid.x509_svid,
            x509_svid_key=svid.x509_svid_key,
            bundle=svid.bundle,
            hint=svid.hint,
        )
        for svid in response.svids
    ]
    message = _SVIDS(svids=svids, crl=response.crl, federated_bundles=dict(response.federated_bundles))
    return message.SerializeToString(deterministic=True)


def decode_x509_bundles_response(data: bytes) -> X509BundlesResponse:
    """Return the X509BundlesResponse in `data`; absent fields are empty, unknown ones ignored.

    Raises:
        ValueError: the bytes are no such message.
    """
    wire = cast("_BundlesWire", _parse(_BUNDLES.FromString, data))
    return X509BundlesResponse(crl=tuple(wire.crl), bundles=wire.bundles)


def encode_x509_bundles_response(response: X509BundlesResponse) -> bytes:
    """Return `response` as bytes; equal responses give equal bytes."""
    message = _BUNDLES(crl=response.crl, bundles=dict(response.bundles))
    return message.SerializeToString(deterministic=True)


def _parse(from_string: Callable[[bytes], Message], data: bytes) -> Message:
    try:
        return from_string(data)
    except DecodeError as error:
        raise ValueError(f"{len(data)} bytes that are no Workload API message: {error}") from error
