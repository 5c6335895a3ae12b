# SPDX-License-Identifier: Apache-2.0
"""Messages on the wire, in a descriptor pool of our own; nothing here judges what they say.

bytes ──► decode ──► frozen dataclasses ──► encode ──► bytes
"""

from __future__ import annotations

from otel_spiffe._proto._workload import (
    EMPTY_REQUEST,
    FETCH_JWT_BUNDLES,
    FETCH_JWT_SVID,
    FETCH_X509_BUNDLES,
    FETCH_X509_SVID,
    SECURITY_HEADER,
    VALIDATE_JWT_SVID,
    WORKLOAD_API_SERVICE,
    X509BundlesResponse,
    X509SvidMessage,
    X509SvidResponse,
    decode_x509_bundles_response,
    decode_x509_svid_response,
    encode_x509_bundles_response,
    encode_x509_svid_response,
)

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
