# SPDX-License-Identifier: Apache-2.0
"""The server side of the SPIFFE Workload API, X.509 profile, over a Unix socket."""

from __future__ import annotations

import functools
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import grpc

from otel_spiffe._proto import (
    FETCH_JWT_BUNDLES,
    FETCH_JWT_SVID,
    FETCH_X509_BUNDLES,
    FETCH_X509_SVID,
    VALIDATE_JWT_SVID,
    WORKLOAD_API_SERVICE,
    encode_x509_bundles_response,
    encode_x509_svid_response,
)
from otel_spiffe.ca._answers import bundles_response, svids_response
from otel_spiffe.ca._socket import SocketPath
from otel_spiffe.ca._streams import NO_IDENTITY, Answer, Refusal, Streams, ThreadPerStream, unimplemented
from otel_spiffe.errors import InvalidConfiguration

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from otel_spiffe.identity import Identity

__all__ = ["MAX_STREAMS", "WorkloadApiServer"]

MAX_STREAMS = 1024
"""How many streams are open at once at the most; each takes a thread. More are RESOURCE_EXHAUSTED."""

_MAX_REQUEST_BYTES = 64 * 1024  # the requests that we serve are empty
_RETRY = timedelta(seconds=1)  # after `issue` raised
_SHORTEST = timedelta(milliseconds=100)  # or an SVID that is issued expired would spin
_BUNDLES_ALONE = timedelta(minutes=5)  # SPIFFE Trust Domain and Bundle 4.1.2: refresh where nothing says more

_logger = logging.getLogger("otel_spiffe.ca")


class WorkloadApiServer:
    """Serves one `Identity` to everybody who may open its socket, and pushes each later one.

    It has no registration entries: grpcio does not show a server the peer's process (SO_PEERCRED), so there is
    nothing to attest. Who may open the socket gets the private keys; its directory and mode are the protection.
    A forked child has no server.
    """

    def __init__(self, socket: SocketPath, *, max_streams: int) -> None:
        self._socket = socket
        self._max_streams = max_streams
        self._streams = Streams()
        self._server: tuple[grpc.Server, ThreadPerStream] | None = None
        self._rotation: _Rotation | None = None
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        identity: Identity | None = None,
        issue: Callable[[], Identity] | None = None,
        every: timedelta | None = None,
        mode: int = 0o600,
        max_streams: int = MAX_STREAMS,
    ) -> Self:
        """Listen, and serve `identity`, or what `issue` returns now and again as it ages.

        Args:
            path: of the socket; None makes one in a new directory with mode 0700.
            identity: what to serve; neither it nor `issue` answers "no identity issued" until `serve`.
            issue: returns an identity with fresh X509-SVIDs; called on a thread of ours, one call at a time.
            every: how often to call `issue`; None does at half of the remaining life of the chosen SVID.
            mode: of the socket; whoever may write to it gets the keys.
            max_streams: how many may be open at once.

        Raises:
            InvalidConfiguration: the path is too long, taken or not writable; or both `identity` and `issue` are given.
            InvalidIdentity: an SVID has no bundle beside it.
        """
        if identity is not None and issue is not None:
            raise InvalidConfiguration("issue", "identity is given as well", fix="give one of the two")
        server = cls(SocketPath(path, mode=mode), max_streams=max_streams)
        try:
            if issue is not None:
                server._rotation = _Rotation(issue, server.serve, every=every)
                server._rotation.rotate()
            elif identity is not None:
                server.serve(identity)
            server._listen()
        except BaseException:
            server.close()
            raise
        if server._rotation is not None:
            server._rotation.start()
        return server

    @property
    def path(self) -> Path:
        """Of the socket."""
        return self._socket.path

    @property
    def endpoint(self) -> str:
        """The socket as clients name it, for `SPIFFE_ENDPOINT_SOCKET` (SPIFFE Workload Endpoint 4)."""
        return f"unix:{quote(str(self._socket.path))}"

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self._streams.counts[0]

    def serve(self, identity: Identity) -> None:
        """Push `identity` to every open stream; later ones begin with it.

        Raises:
            InvalidIdentity: an SVID has no bundle beside it; what was served before stays.
        """
        svids: Answer = NO_IDENTITY
        if identity.chosen is not None or identity.svids:
            svids = encode_x509_svid_response(svids_response(identity))
        self._streams.tell(svids=svids, bundles=encode_x509_bundles_response(bundles_response(identity)))

    def rotate(self) -> None:
        """Call `issue` now and push what it returns.

        Raises:
            InvalidConfiguration: the server was opened without `issue`.
        """
        if self._rotation is None:
            raise InvalidConfiguration("issue", "not given", fix="give it to open, or call serve(identity)")
        self._rotation.rotate()

    def withdraw(self) -> None:
        """Answer every stream, open or later, with PERMISSION_DENIED "no identity issued", until `serve`."""
        self._streams.tell(svids=NO_IDENTITY, bundles=NO_IDENTITY)

    def end_streams(self, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = "") -> None:
        """End the open streams, cleanly or with a status; clients that come again are served."""
        self._streams.end(Refusal(code, details))

    def wait_for_streams(self, count: int, *, opened: int = 0, timeout: float) -> None:
        """Wait until `count` streams are open at once, and `opened` were opened since the beginning.

        Args:
            count: 0 only waits for `opened`.
            opened: counts streams that have ended as well.
            timeout: seconds.

        Raises:
            TimeoutError: that did not come true in time; it says how many there are.
        """
        if not self._streams.wait_for(open=count, opened=opened, timeout=timeout):
            now, ever = self._streams.counts
            raise TimeoutError(
                f"Workload API at {self.endpoint}: waited {timeout} s for {count} open streams of {opened} opened, "
                f"there are {now} of {ever}"
            )

    def close(self) -> None:
        """End the streams, remove the socket, join the threads; may be called again."""
        if self._rotation is not None:
            self._rotation.close()
        self._unlisten()
        self._socket.remove()

    def _listen(self) -> None:
        with self._lock:
            before, self._server = self._server, self._new_server()
        _stop(before)

    def _unlisten(self) -> None:
        with self._lock:
            before, self._server = self._server, None
            self._socket.unpublish()
        _stop(before)

    def _new_server(self) -> tuple[grpc.Server, ThreadPerStream]:
        threads = ThreadPerStream()
        server = grpc.server(
            threads,
            maximum_concurrent_rpcs=self._max_streams,
            options=[("grpc.max_receive_message_length", _MAX_REQUEST_BYTES), ("grpc.so_reuseport", 0)],
        )
        server.add_registered_method_handlers(WORKLOAD_API_SERVICE, self._handlers())
        self._socket.publish(lambda path: server.add_insecure_port(f"unix:{quote(path)}"))
        server.start()
        return server, threads

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            method: grpc.unary_stream_rpc_method_handler(functools.partial(self._stream, method))
            for method in (FETCH_X509_SVID, FETCH_X509_BUNDLES)
        }
        for method in (FETCH_JWT_SVID, FETCH_JWT_BUNDLES, VALIDATE_JWT_SVID):
            handlers[method] = grpc.unary_stream_rpc_method_handler(unimplemented)
        return {method.rpartition("/")[2]: handler for method, handler in handlers.items()}

    def _stream(self, method: str, _request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        return self._streams.serve(method, context)

    # For subclasses that misbehave on order: they are in another room, and need no more than these and `_listen`.
    def _tell(self, *, svids: Answer, bundles: Answer) -> None:
        self._streams.tell(svids=svids, bundles=bundles)

    @staticmethod
    def _refusal(code: grpc.StatusCode, details: str) -> Answer:
        return Refusal(code, details)

    @property
    def listening(self) -> bool:
        """Whether new streams are taken."""
        return self._server is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _stop(server: tuple[grpc.Server, ThreadPerStream] | None) -> None:
    if server is not None:
        server[0].stop(None).wait()
        server[1].shutdown()


class _Rotation:
    """One thread that issues again and again; a failure keeps what is served and tries again."""

    def __init__(
        self, issue: Callable[[], Identity], publish: Callable[[Identity], None], *, every: timedelta | None
    ) -> None:
        self._issue = issue
        self._publish = publish
        self._every = every
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._due = _BUNDLES_ALONE
        self._thread = threading.Thread(target=self._run, name="otel-spiffe-workload-api-rotation", daemon=True)

    def rotate(self) -> None:
        with self._lock:
            identity = self._issue()
            self._publish(identity)
            self._due = self._every if self._every is not None else _half_life(identity)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        failed = False
        while not self._closed.wait((_RETRY if failed else self._due).total_seconds()):
            try:
                self.rotate()
            except Exception:
                if not failed:
                    _logger.exception("issuing failed; the last identity stays served")
                failed = True
            else:
                failed = False


def _half_life(identity: Identity) -> timedelta:
    if identity.expires_at is None:
        return _BUNDLES_ALONE
    return max((identity.expires_at - datetime.now(UTC)) / 2, _SHORTEST)
