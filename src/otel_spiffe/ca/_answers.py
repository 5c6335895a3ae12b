# SPDX-License-Identifier: Apache-2.0
"""An `Identity` as the Workload API says it: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from otel_spiffe._proto import X509BundlesResponse, X509SvidMessage, X509SvidResponse
from otel_spiffe.errors import InvalidIdentity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography import x509

    from otel_spiffe.identity import Identity, X509Svid

__all__ = ["bundles_response", "svids_response"]


def svids_response(identity: Identity) -> X509SvidResponse:
    """Return what FetchX509SVID answers: the chosen SVID first, for the first one is the default (Workload API 8).

    Raises:
        InvalidIdentity: the identity has no bundle, or an empty one, for the trust domain of one of its SVIDs.
    """
    svids = _svids(identity)
    own = {svid.id.trust_domain for svid in svids}
    return X509SvidResponse(
        svids=tuple(_message(svid, identity) for svid in svids),
        crl=_crls(identity),
        federated_bundles={
            domain.as_spiffe_id(): _der(bundle.authorities)
            for domain, bundle in identity.bundles.items()
            if domain not in own
        },
    )


def bundles_response(identity: Identity) -> X509BundlesResponse:
    """Return what FetchX509Bundles answers: every bundle, of the own trust domain and of federated ones."""
    return X509BundlesResponse(
        crl=_crls(identity),
        bundles={domain.as_spiffe_id(): _der(bundle.authorities) for domain, bundle in identity.bundles.items()},
    )


def _svids(identity: Identity) -> tuple[X509Svid, ...]:
    first = () if identity.chosen is None else (identity.chosen,)
    return (*first, *(svid for svid in identity.svids if svid is not identity.chosen))


def _message(svid: X509Svid, identity: Identity) -> X509SvidMessage:
    bundle = identity.bundles.get(svid.id.trust_domain)
    if bundle is None or not bundle.authorities:
        raise InvalidIdentity(
            f"X509-SVID {svid.id}",
            f"there are no authorities of {svid.id.trust_domain} beside it, and a client must discard such an answer "
            "(Workload API 4.5)",
            fix="put the trust domain's bundle into the identity",
        )
    return X509SvidMessage(
        spiffe_id=str(svid.id),
        x509_svid=_der(svid.chain),
        x509_svid_key=svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        bundle=_der(bundle.authorities),
        hint=svid.hint,
    )


def _crls(identity: Identity) -> tuple[bytes, ...]:
    return tuple(crl.public_bytes(Encoding.DER) for crl in identity.crls)


def _der(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.DER) for certificate in certificates)
