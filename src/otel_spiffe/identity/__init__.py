# SPDX-License-Identifier: Apache-2.0
"""Who somebody is, and whether to believe it: pure, no I/O, no clock of its own.

bytes ──► parse ──► X509Svid, X509Bundle ──► Identity (one frozen snapshot)
peer chain + Identity + now ──► verify ──► SPIFFE ID ──► authorize ──► None, or PeerRejected
"""

from __future__ import annotations

from otel_spiffe.identity._authorize import (
    Authorizer,
    all_of,
    any_of,
    authorize,
    authorize_any,
    authorize_id,
    authorize_id_prefix,
    authorize_member_of,
    authorize_one_of,
    not_,
)
from otel_spiffe.identity._bundles import bundle_from_der, bundle_from_pem, bundle_to_der, bundle_to_pem
from otel_spiffe.identity._bundles_json import bundle_from_jwks, bundle_to_jwks, bundles_from_map, bundles_to_map
from otel_spiffe.identity._ids import MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, parse_spiffe_id, parse_trust_domain
from otel_spiffe.identity._leaf import MAX_CHAIN_CERTIFICATES, UNREADABLE
from otel_spiffe.identity._material import Identity, PrivateKey, X509Bundle, X509Svid
from otel_spiffe.identity._parse import (
    MAX_CERTIFICATES,
    MAX_INPUT_BYTES,
    certificates_from_der,
    certificates_from_pem,
    private_key_from_der,
    private_key_from_pem,
)
from otel_spiffe.identity._source import Health, Source
from otel_spiffe.identity._svid import x509_svid
from otel_spiffe.identity._verify import VerifiedPeer, peer_spiffe_id, verify, verify_peer

__all__ = [
    "MAX_CERTIFICATES",
    "MAX_CHAIN_CERTIFICATES",
    "MAX_ID_BYTES",
    "MAX_INPUT_BYTES",
    "MAX_TRUST_DOMAIN_BYTES",
    "UNREADABLE",
    "Authorizer",
    "Health",
    "Identity",
    "PrivateKey",
    "Source",
    "VerifiedPeer",
    "X509Bundle",
    "X509Svid",
    "all_of",
    "any_of",
    "authorize",
    "authorize_any",
    "authorize_id",
    "authorize_id_prefix",
    "authorize_member_of",
    "authorize_one_of",
    "bundle_from_der",
    "bundle_from_jwks",
    "bundle_from_pem",
    "bundle_to_der",
    "bundle_to_jwks",
    "bundle_to_pem",
    "bundles_from_map",
    "bundles_to_map",
    "certificates_from_der",
    "certificates_from_pem",
    "not_",
    "parse_spiffe_id",
    "parse_trust_domain",
    "peer_spiffe_id",
    "private_key_from_der",
    "private_key_from_pem",
    "verify",
    "verify_peer",
    "x509_svid",
]
