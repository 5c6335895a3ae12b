# SPDX-License-Identifier: Apache-2.0
"""Our own X509-SVID, checked before anybody is shown it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity._ids import parse_spiffe_id
from otel_spiffe.identity._keys import key_fault
from otel_spiffe.identity._leaf import MAX_CHAIN_CERTIFICATES, UNREADABLE, Fault, is_ca, leaf_fault, leaf_id, name_of
from otel_spiffe.identity._material import X509Svid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509
    from spiffe import SpiffeId

    from otel_spiffe.identity._material import PrivateKey

__all__ = ["x509_svid"]


def x509_svid(
    chain: Sequence[x509.Certificate],
    private_key: PrivateKey,
    *,
    hint: str = "",
    expected_id: str | SpiffeId | None = None,
) -> X509Svid:
    """Return our own X509-SVID, held to the rules that peers will hold it to; its dates are not looked at.

    A self-signed certificate at the end of `chain` is its root and is left out.

    Args:
        chain: the leaf, then its intermediates, each issued by the next.
        private_key: the leaf's.
        hint: the operator's word for what it is for (Workload API 5.2.1).
        expected_id: the ID that its deliverer declared, or None where none did.

    Raises:
        InvalidIdentity: the leaf, the key or the chain breaks X509-SVID 2-5, or the ID is another.
    """
    if not 0 < len(chain) <= MAX_CHAIN_CERTIFICATES:
        raise InvalidIdentity(
            "X509-SVID", f"its chain has {len(chain)} certificates, and may have 1 to {MAX_CHAIN_CERTIFICATES}"
        )
    leaf = chain[0]
    spiffe_id = leaf_id(leaf)
    if isinstance(spiffe_id, Fault):
        raise InvalidIdentity(f"X509-SVID {name_of(leaf)!r}", spiffe_id.detail)
    what = f"X509-SVID of {spiffe_id}"
    fault = leaf_fault(leaf, spiffe_id) or key_fault(private_key)
    if fault is not None:
        raise InvalidIdentity(what, fault[1])
    if private_key.public_key() != leaf.public_key():
        raise InvalidIdentity(what, "the private key is not the leaf's", fix="deliver key and certificate together")
    if expected_id is not None and parse_spiffe_id(str(expected_id)) != spiffe_id:
        raise InvalidIdentity(what, f"it was delivered as that of {expected_id}")
    return X509Svid(id=spiffe_id, chain=_linked(chain, what=what), private_key=private_key, hint=hint)


def _linked(chain: Sequence[x509.Certificate], *, what: str) -> tuple[x509.Certificate, ...]:
    is_root = False
    for below, above in itertools.pairwise(chain):
        try:
            below.verify_directly_issued_by(above)
            issues, is_root = is_ca(above), above.issuer == above.subject
        except (InvalidSignature, *UNREADABLE) as error:
            raise InvalidIdentity(
                what,
                f"in its chain {name_of(below)!r} is not issued by {name_of(above)!r}",
                fix="deliver the leaf first, then its intermediates, each followed by its issuer",
            ) from error
        if not issues:
            raise InvalidIdentity(what, f"in its chain {name_of(above)!r} is no CA certificate (X509-SVID 4.1)")
    return tuple(chain[:-1] if is_root else chain)
