# SPDX-License-Identifier: Apache-2.0
"""What a gRPC server presents, asked of the source at each handshake.

grpcio keeps the last certificate for ever when its fetcher fails, so this one never fails: without an identity it
gives out a certificate that no SPIFFE client accepts, and trusts nobody.
"""

from __future__ import annotations

import functools
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from otel_spiffe.credentials._keys import chain_pem, key_pem
from otel_spiffe.credentials._tls_inner import believable
from otel_spiffe.errors import InvalidIdentity, SourceUnavailable

if TYPE_CHECKING:
    from otel_spiffe.identity import Identity, Source

__all__ = ["server_credentials"]

_log = logging.getLogger("otel_spiffe.credentials")


def server_credentials(source: Source) -> grpc.ServerCredentials:
    """Return credentials that present the source's newest X509-SVID and ask each client for one.

    They are half of the protection: gRPC pools the authorities of all trust domains, so a federated one could name
    a workload of ours. Give the server an `AuthorizationInterceptor` with the same source too.

    The server may start before the source has an identity; until then, and after its SVID has expired, every
    handshake fails.
    """
    return grpc.dynamic_ssl_server_credentials(_sealed(), _Fetcher(source), require_client_authentication=True)


class _Fetcher:
    """Gives gRPC the configuration of the newest identity; it is called before each handshake."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._cached: tuple[Identity, grpc.ServerCertificateConfiguration] | None = None
        self._problem = ""

    def __call__(self) -> grpc.ServerCertificateConfiguration:
        try:
            identity = self._source.identity()
            configuration = self._configuration(identity)
        except (SourceUnavailable, InvalidIdentity) as error:
            self._changed(str(error))
            return _sealed()
        self._changed("")
        return configuration

    def _configuration(self, identity: Identity) -> grpc.ServerCertificateConfiguration:
        # Always the whole configuration, never None for "unchanged": several ports may share these credentials,
        # and this cannot know which of them has seen what.
        cached = self._cached
        if cached is None or cached[0] is not identity:
            cached = self._cached = (identity, _open(identity))
        return cached[1]

    def _changed(self, problem: str) -> None:
        if problem and not self._problem:
            _log.error("gRPC handshakes are refused: %s", problem)
        elif self._problem and not problem:
            _log.info("gRPC handshakes are accepted again")
        self._problem = problem


def _open(identity: Identity) -> grpc.ServerCertificateConfiguration:
    authorities = believable(identity)  # C-core may drop all for one that it cannot read
    if not authorities:
        raise InvalidIdentity("identity", "its bundles hold no authority, so no client can be verified")
    return grpc.ssl_server_certificate_configuration(
        [(key_pem(identity.svid), chain_pem(identity.svid))],
        b"".join(each.public_bytes(Encoding.PEM) for each in authorities),
    )


@functools.cache
def _sealed() -> grpc.ServerCertificateConfiguration:
    # A key that is thrown away, a certificate whose name is what a client's error shows, and itself as the only
    # authority: nobody can have been issued anything by it.
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "this server has no valid X509-SVID now")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return grpc.ssl_server_certificate_configuration([(pem, certificate)], certificate)
