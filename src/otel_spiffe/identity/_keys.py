# SPDX-License-Identifier: Apache-2.0
"""Which keys an X509-SVID may have: EC P-256, P-384 and P-521, and RSA from 2048 bits."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from otel_spiffe.errors import Untrusted

__all__ = ["MIN_RSA_BITS", "key_fault"]

MIN_RSA_BITS = 2048  # CABF BR 6.1.5; OpenSSL's security level 2 draws the same line

_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})


def key_fault(key: object) -> tuple[Untrusted, str] | None:
    """Return why a public or private key may not be used, or None.

    Ed25519 is refused because OpenSSL's and pyca's path validation refuse authorities that have one.
    """
    if isinstance(key, (ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey)):
        if key.curve.name in _CURVES:
            return None
        return Untrusted.UNSUPPORTED_KEY, f"unsupported key: curve {key.curve.name}; use P-256, P-384 or P-521"
    if isinstance(key, (rsa.RSAPublicKey, rsa.RSAPrivateKey)):
        if key.key_size >= MIN_RSA_BITS:
            return None
        return Untrusted.WEAK_KEY, f"weak key: RSA of {key.key_size} bits; use {MIN_RSA_BITS} or more, or EC P-256"
    kind = type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey")
    return Untrusted.UNSUPPORTED_KEY, f"unsupported key: {kind}; use EC P-256, P-384, P-521 or RSA"
