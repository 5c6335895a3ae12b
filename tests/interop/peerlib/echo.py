# SPDX-License-Identifier: Apache-2.0
"""Raw TLS from Python, with our contexts or the standard library's: a line there, the peer's ID and the line back."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import ssl
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

if TYPE_CHECKING:
    from types import TracebackType

    from otel_spiffe.identity import X509Svid

__all__ = ["EchoServer", "HttpServer", "bare_context", "dial"]

TIMEOUT = 30.0


class EchoServer:
    """Accepts TLS on a free port of the loopback interface and keeps what came of each handshake."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept, name="echo", daemon=True)]
        self._threads[0].start()

    def outcome(self) -> Any:
        """Return the next handshake's outcome: the client's SPIFFE ID, or the error."""
        return self._outcomes.get(timeout=TIMEOUT)

    def close(self) -> None:
        """Listen no more, and wait for the connections to end."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        for thread in self._threads:
            thread.join(TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="echo", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(TIMEOUT)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                secured = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except OSError as error:
                self._outcomes.put(error)
                return
            with secured:
                try:
                    secured.do_handshake()
                except OSError as error:
                    self._outcomes.put(error)
                    _linger(secured)
                    return
                peer = getattr(secured, "peer_id", None)
                self._outcomes.put(peer)
                with contextlib.suppress(OSError):
                    answer(secured, peer)


def _linger(refused: ssl.SSLSocket) -> None:
    # What the client has sent meanwhile would make the kernel reset the connection, and a reset may overtake the alert.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(refused, socket.SHUT_WR)
        while socket.socket.recv(refused, 65536):
            pass


def answer(secured: ssl.SSLSocket, peer: object) -> None:
    """Answer each line with the client's SPIFFE ID and the line."""
    with secured.makefile("rb") as lines:
        for line in lines:
            secured.sendall(f"{peer} ".encode() + line)


def dial(context: ssl.SSLContext, address: str, payload: str = "hello") -> tuple[Any, str]:
    """Return the server's SPIFFE ID, where the context knows it, and its answer to one line."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as Go does by itself: 40 ms else
        secured.sendall(payload.encode() + b"\n")
        with secured.makefile("rb") as lines:
            line = lines.readline()
        return getattr(secured, "peer_id", None), line.decode().rstrip("\n")


def bare_context(svid: X509Svid | None, *, server_side: bool) -> ssl.SSLContext:
    """Return a context of the standard library that presents `svid`, faults and all, and believes everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    if svid is not None:
        text = b"".join(each.public_bytes(Encoding.PEM) for each in svid.chain)
        text += svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        handle, path = tempfile.mkstemp()
        try:
            os.write(handle, text)
            os.close(handle)
            context.load_cert_chain(path)
        finally:
            Path(path).unlink()
    return context


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = f"{getattr(self.connection, 'peer_id', 'nobody')} ".encode() + body
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the client tells


class HttpServer:
    """Answers each POST with the client's SPIFFE ID and the body; entering it returns its address."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._server = _Server(("127.0.0.1", 0), _Echo)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return f"127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
