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
from otel_spiffe.identity._ids import MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, parse_spiffe_id, parse_trust_domain
from otel_spiffe.identity._material import Identity, PrivateKey, X509Bundle, X509Svid
from otel_spiffe.identity._source import Health, Source

__all__ = [
    "MAX_ID_BYTES",
    "MAX_TRUST_DOMAIN_BYTES",
    "Authorizer",
    "Health",
    "Identity",
    "PrivateKey",
    "Source",
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
    "not_",
    "parse_spiffe_id",
    "parse_trust_domain",
]
