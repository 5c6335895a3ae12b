# SPDX-License-Identifier: Apache-2.0
"""What a gRPC server presents, asked of the source at each handshake.

grpcio keeps the last certificate for ever when its fetcher fails, so this one never fails: without an identity it
gives out a certificate that no SPIFFE client accepts, and trusts nobody. It gives out a configuration once, and then
only when the identity has changed and no handshake can be harmed by that: see `_server_window`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from otel_spiffe.credentials._keys import chain_pem, key_pem
from otel_spiffe.credentials._reports import Reports
from otel_spiffe.credentials._server_window import Window
from otel_spiffe.credentials._tls_inner import believable
from otel_spiffe.errors import InvalidIdentity

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
    return _CredentialsPerPort(source)


class _CredentialsPerPort(grpc.ServerCredentials):
    """Makes C-core's credentials when a server asks for them, once for each port.

    Several ports may share one object of ours, and a fetcher can only say "unchanged" if it knows who asks. grpcio has
    no public way to tell: `add_secure_port` reads this private attribute. `tests/credentials/test_server.py` has the
    canary.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def _credentials(self) -> Any:  # noqa: ANN401 -- an object of Cython's, without a public type
        fetcher: Any = _Fetcher(self._source)  # the stubs do not know that it may return None, grpcio's documents do
        made: Any = grpc.dynamic_ssl_server_credentials(fetcher.first(), fetcher, require_client_authentication=True)
        return made._credentials  # noqa: SLF001 -- see above


class _Fetcher:
    """Gives gRPC the configuration of the newest identity; one port calls it before each handshake."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._cached: tuple[Identity, grpc.ServerCertificateConfiguration] | None = None
        self._given = _sealed()  # what the port has
        self._window = Window()
        self._problem = ""
        self._reports = Reports("gRPC server")

    def first(self) -> grpc.ServerCertificateConfiguration:
        """Return what the port begins with."""
        with contextlib.suppress(Exception):  # the first handshake says so in the log
            self._given = self._configuration(self._source.identity())
        return self._given

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        self._window.enter()
        try:
            return self._new(self._wanted())
        finally:
            self._window.leave()

    def _wanted(self) -> grpc.ServerCertificateConfiguration:
        try:
            configuration = self._configuration(self._source.identity())
        except Exception as error:  # noqa: BLE001 -- a source may be anybody's, and grpcio would keep what it has
            self._changed(str(error) or type(error).__name__)
            return _sealed()
        self._changed("")
        return configuration

    def _new(self, wanted: grpc.ServerCertificateConfiguration) -> grpc.ServerCertificateConfiguration | None:
        if wanted is self._given:
            return None  # unchanged
        if not self._window.clear():
            self._reports.say(
                "handshakes go on with the last X509-SVID: a thread of gRPC had no processor for a second, and to "
                "change it now could end the process; see that the machine is not starved of CPU",
                about="the change",
            )
            return None
        self._reports.over("the change")
        self._given = wanted
        return wanted

    def _configuration(self, identity: Identity) -> grpc.ServerCertificateConfiguration:
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
