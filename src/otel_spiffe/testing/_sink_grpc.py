# SPDX-License-Identifier: Apache-2.0
"""OTLP/gRPC of the sink: the three Export methods over SPIFFE mTLS."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509

from otel_spiffe.credentials import AuthorizationInterceptor, peer_id, server_credentials
from otel_spiffe.errors import PeerRejected

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
            interceptors=[AuthorizationInterceptor(source, authorize=_noting(authorize, record))],
            options=[("grpc.max_receive_message_length", max_body), ("grpc.so_reuseport", 0)],
        )
        for service, signal in _METHODS.items():
            self._server.add_registered_method_handlers(service, {"Export": _handler(signal, record)})
        host, port = address
        self.port = self._server.add_secure_port(f"{host}:{port}", server_credentials(source))
        self._server.start()

    def close(self) -> None:
        """Stop."""
        self._server.stop(None).wait()
        self._threads.shutdown()


def _handler(signal: Signal, record: Record) -> grpc.RpcMethodHandler[bytes, bytes]:
    def export(request: bytes, context: grpc.ServicerContext) -> bytes:
        headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        peer = peer_id(context)
        verdict = record.take(signal, "grpc", request, peer=peer, serial=_serial(context), headers=headers)
        if verdict.code is not grpc.StatusCode.OK:
            context.abort(verdict.code, verdict.details)
        return b""  # an empty Export*ServiceResponse

    return grpc.unary_unary_rpc_method_handler(export)


def _serial(context: grpc.ServicerContext) -> int:
    known: Any = context.auth_context()  # types-grpcio says bytes, grpcio gives tuples of them
    (leaf,) = known["x509_pem_cert"]
    return x509.load_pem_x509_certificate(leaf).serial_number


def _noting(authorize: Authorizer, record: Record) -> Callable[[SpiffeId], None]:
    def noted(peer: SpiffeId) -> None:
        try:
            authorize(peer)
        except PeerRejected as refusal:
            record.refused(str(refusal))
            raise

    return noted
