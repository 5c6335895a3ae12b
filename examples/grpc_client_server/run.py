# SPDX-License-Identifier: Apache-2.0
"""A gRPC service that answers its caller's SPIFFE ID, a client that it serves, and an impostor that it does not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc

from otel_spiffe import AuthorizationInterceptor, authorize_id, peer_id, secure_channel, server_credentials
from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.sources import StaticSource

SERVER, CLIENT, IMPOSTOR = (f"spiffe://prod.example/{name}" for name in ("server", "client", "impostor"))
PATIENCE = 20.0  # seconds


def who_am_i(_request: bytes, context: grpc.ServicerContext) -> bytes:
    return str(peer_id(context)).encode()


def call(target: str, source: StaticSource) -> str:
    with secure_channel(target, source, authorize=authorize_id(SERVER)) as channel:
        answer: bytes = channel.unary_unary("/example.Service/WhoAmI")(b"", timeout=PATIENCE)
        return answer.decode()


def main() -> None:
    authority = CertificateAuthority.in_memory("prod.example")
    with (
        StaticSource(authority.identity(SERVER)) as server_source,
        StaticSource(authority.identity(CLIENT)) as client_source,
        StaticSource(authority.identity(IMPOSTOR)) as impostor_source,
    ):
        server = grpc.server(
            ThreadPoolExecutor(4),
            interceptors=[AuthorizationInterceptor(server_source, authorize=authorize_id(CLIENT))],
        )
        handlers = {"WhoAmI": grpc.unary_unary_rpc_method_handler(who_am_i)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("example.Service", handlers)])
        target = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', server_credentials(server_source))}"
        server.start()
        try:
            print("the server says that I am", call(target, client_source))
            try:
                call(target, impostor_source)
            except grpc.RpcError as refusal:
                print("the impostor hears:", refusal.code().name, refusal.details())
            else:
                raise SystemExit("the impostor was served")
        finally:
            server.stop(None).wait()


if __name__ == "__main__":
    main()
