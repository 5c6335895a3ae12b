# SPDX-License-Identifier: Apache-2.0
"""OTLP/HTTP of the sink: POST /v1/traces, /v1/metrics and /v1/logs, protobuf, gzip or not, over SPIFFE mTLS."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import zlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, cast

import grpc
from cryptography import x509

from otel_spiffe.credentials import SpiffeSSLSocket, server_context

if TYPE_CHECKING:
    import ssl

    from otel_spiffe.identity import Authorizer, Source
    from otel_spiffe.testing._sink_record import Record, Signal, Verdict

__all__ = ["HttpReceiver"]

_HANDSHAKE_SECONDS = 30.0
_JOIN_SECONDS = 30.0
_LENGTH_DIGITS = 19  # of Content-Length; int() refuses thousands of them with an error

# OTLP 1.11 "Failures": which of these a client may retry is the same on both transports.
_HTTP_STATUS = {
    grpc.StatusCode.OK: HTTPStatus.OK,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_FOUND,
}

_logger = logging.getLogger("otel_spiffe.testing")


class HttpReceiver:
    """One listening port; `close` ends its connections and joins its threads."""

    def __init__(
        self, source: Source, *, authorize: Authorizer, address: tuple[str, int], record: Record, max_body: int
    ) -> None:
        self._server = _Server(address, record, max_body, server_context(source, authorize=authorize))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="otel-spiffe-sink-http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.end_connections()


class _Server(ThreadingHTTPServer):
    """A daemon thread for each connection; a handshake that stalls delays nobody else's."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], record: Record, max_body: int, context: ssl.SSLContext) -> None:
        self.record = record
        self.max_body = max_body
        self._context = context
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        self._closed = False
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 -- the standard library's
        thread = threading.Thread(
            target=self._connection, args=(request, client_address), name="otel-spiffe-sink-http", daemon=True
        )
        with self._lock:
            # Threads do not take themselves out: `end_connections` would miss the last moment.
            self._connections = {each: held for each, held in self._connections.items() if each.is_alive()}
            thread.start()  # raises where there are no more threads, and is joined later where it does not
            self._connections[thread] = request

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        _logger.exception("a connection to the OTLP sink failed")  # noqa: LOG004 -- called in a handler

    def _connection(self, request: socket.socket, client_address: Any) -> None:  # noqa: ANN401
        try:
            self._talk(request, client_address)
        except Exception:  # noqa: BLE001 -- a thread's outermost frame: it would fail the test of whoever uses the sink
            self.handle_error(request, client_address)

    def _talk(self, request: socket.socket, client_address: Any) -> None:  # noqa: ANN401
        try:
            # wrap_socket takes the descriptor away from `request`: whoever ends connections must know the new one
            # before the handshake, which may never end.
            tls = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        except OSError as error:  # the source has no identity, or the peer has gone
            self.record.refused(str(error))
            request.close()
            return
        with self._lock:
            self._connections[threading.current_thread()] = tls
            closed = self._closed
        try:
            if not closed and self._shaken(tls):
                with contextlib.suppress(OSError):  # the client went away in the middle
                    self.finish_request(tls, client_address)
        finally:
            self.shutdown_request(tls)

    def _shaken(self, tls: ssl.SSLSocket) -> bool:
        try:
            tls.settimeout(_HANDSHAKE_SECONDS)
            tls.do_handshake()
            tls.settimeout(None)
        except OSError as error:
            self.record.refused(str(error))
            return False
        return True

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        # Without the close_notify that unwrap would wait for; urllib3 does not send one either.
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)
        request.close()

    def end_connections(self) -> None:
        with self._lock:
            self._closed = True
            connections = dict(self._connections)
        for connection in connections.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections:
            thread.join(_JOIN_SECONDS)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "otel-spiffe-sink"
    disable_nagle_algorithm = True
    _SIGNALS: ClassVar[dict[str, Signal]] = {"/v1/traces": "traces", "/v1/metrics": "metrics", "/v1/logs": "logs"}

    def setup(self) -> None:
        super().setup()
        # Now: once the client has broken off, OpenSSL no longer gives its certificate out.
        tls = cast("SpiffeSSLSocket", self.connection)
        self._peer = tls.peer_id
        self._serial = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"").serial_number

    def do_POST(self) -> None:
        server = cast("_Server", self.server)
        signal = self._SIGNALS.get(self.path)
        if signal is None:
            self._answer(HTTPStatus.NOT_FOUND)
        elif self.headers.get_content_type() != "application/x-protobuf":
            self._answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        else:
            body = self._body(server.max_body)
            if isinstance(body, HTTPStatus):
                self._answer(body)
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._answer_verdict(
                server.record.take(signal, "http", body, peer=self._peer, serial=self._serial, headers=headers)
            )

    def _answer_verdict(self, verdict: Verdict) -> None:
        self._answer(_HTTP_STATUS.get(verdict.code, HTTPStatus.INTERNAL_SERVER_ERROR), retry_after=verdict.retry_after)

    def _body(self, limit: int) -> bytes | HTTPStatus:
        """Return the body, decompressed, or the status to refuse it with."""
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            return HTTPStatus.LENGTH_REQUIRED
        if len(length) > _LENGTH_DIGITS or int(length) > limit:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionResetError(errno.ECONNRESET, "the client left in the middle of its body")
        encoding = self.headers.get("content-encoding", "identity").lower()
        if encoding == "identity":
            return body
        return _decompressed(body, limit) if encoding in {"gzip", "deflate"} else HTTPStatus.UNSUPPORTED_MEDIA_TYPE

    def _answer(self, status: HTTPStatus, *, retry_after: int | None = None) -> None:
        # The body of a refused request may be unread: the connection cannot be used again.
        self.close_connection = self.close_connection or status is not HTTPStatus.OK
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")  # an empty message, in protobuf
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 -- the standard library's signature
        """Be silent: a request's line holds nothing that `Received` does not."""


def _decompressed(body: bytes, limit: int) -> bytes | HTTPStatus:
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, by its header
    try:
        data = inflate.decompress(body, limit + 1)
    except zlib.error:
        return HTTPStatus.BAD_REQUEST
    if len(data) > limit:
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return data if inflate.eof else HTTPStatus.BAD_REQUEST
