# SPDX-License-Identifier: Apache-2.0
"""OTLP/gRPC of the sink: the three Export methods over SPIFFE mTLS."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from otel_spiffe.errors import PeerRejected
from otel_spiffe.identity import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from spiffe import SpiffeId

    from otel_spiffe.identity import Authorizer, Source
    from otel_spiffe.testing._sink_record import Record, Signal

__all__ = ["GrpcReceiver"]

_WORKERS = 32
_METHODS: dict[str, Signal] = {
    "opentelemetry.proto.collector.trace.v1.TraceService": "traces",
    "opentelemetry.proto.collector.metrics.v1.MetricsService": "metrics",
    "opentelemetry.proto.collector.logs.v1.LogsService": "logs",
}


class GrpcReceiver:
    """One listening port; `close` ends its calls and joins its threads."""

    def __init__(
        self, source: Source, *, authorize: Authorizer, address: tuple[str, int], record: Record, max_body: int
    ) -> None:
        self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="otel-spiffe-sink-grpc")
        self._server = grpc.server(
            self._threads,
            options=[("grpc.max_receive_message_length", max_body), ("grpc.so_reuseport", 0)],
        )
        for service, signal in _METHODS.items():
            self._server.add_registered_method_handlers(
                service, {"Export": _handler(signal, record, source, _noting(authorize, record))}
            )
        host, port = address
        self.port = self._server.add_secure_port(f"{host}:{port}", _interim_credentials(source))
        self._server.start()

    def close(self) -> None:
        """Stop."""
        self._server.stop(None).wait()
        self._threads.shutdown()


# Interim, until credentials has its gRPC half: no rotation.
def _interim_credentials(source: Source) -> grpc.ServerCredentials:
    identity = source.identity()
    key = identity.svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in identity.svid.chain)
    roots = [root.public_bytes(Encoding.PEM) for bundle in identity.bundles.values() for root in bundle.authorities]
    return grpc.ssl_server_credentials([(key, chain)], b"".join(roots), require_client_auth=True)


def _interim_peer(context: grpc.ServicerContext, source: Source, authorize: Callable[[SpiffeId], None]) -> SpiffeId:
    known = context.auth_context()
    pem = b"".join((*known["x509_pem_cert"], *known.get("x509_pem_cert_chain", ())))
    try:
        peer = verify(x509.load_pem_x509_certificates(pem), source.identity(), now=datetime.now(UTC))
        authorize(peer)
    except PeerRejected as refusal:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, str(refusal))
    return peer


def _handler(
    signal: Signal, record: Record, source: Source, authorize: Callable[[SpiffeId], None]
) -> grpc.RpcMethodHandler[bytes, bytes]:
    def export(request: bytes, context: grpc.ServicerContext) -> bytes:
        headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        peer = _interim_peer(context, source, authorize)
        verdict = record.take(signal, "grpc", request, peer=peer, serial=_serial(context), headers=headers)
        if verdict.code is not grpc.StatusCode.OK:
            context.abort(verdict.code, verdict.details)
        return b""  # an empty Export*ServiceResponse

    return grpc.unary_unary_rpc_method_handler(export)


def _serial(context: grpc.ServicerContext) -> int:
    (leaf,) = context.auth_context()["x509_pem_cert"]
    return x509.load_pem_x509_certificate(leaf).serial_number


def _noting(authorize: Authorizer, record: Record) -> Callable[[SpiffeId], None]:
    def noted(peer: SpiffeId) -> None:
        try:
            authorize(peer)
        except PeerRejected as refusal:
            record.refused(str(refusal))
            raise

    return noted
