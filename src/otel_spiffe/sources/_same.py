# SPDX-License-Identifier: Apache-2.0
"""Whether two updates say the same: agents repeat themselves, and that is no rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_spiffe.identity import Identity, X509Bundle, X509Svid

__all__ = ["same"]


def same(one: Identity, other: Identity) -> bool:
    """Say whether both hold the same SVIDs, choice, authorities and revocation lists; generations do not count."""
    return _material(one) == _material(other)


def _material(identity: Identity) -> tuple[object, ...]:
    return (
        _svid(identity.chosen) if identity.chosen is not None else None,
        tuple(map(_svid, identity.svids)),
        frozenset(map(_bundle, identity.bundles.values())),
        frozenset(crl.signature for crl in identity.crls),
    )


def _svid(svid: X509Svid) -> tuple[object, ...]:
    return (svid.id, svid.chain, svid.hint)  # the chain holds the public key, so the private key needs no look


def _bundle(bundle: X509Bundle) -> tuple[object, ...]:
    return (bundle.trust_domain, frozenset(bundle.authorities), bundle.sequence, bundle.refresh_hint)
