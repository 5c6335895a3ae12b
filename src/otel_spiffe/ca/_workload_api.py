# SPDX-License-Identifier: Apache-2.0
"""The server side of the SPIFFE Workload API, X.509 profile, over a Unix socket."""

from __future__ import annotations

import functools
import os
import threading
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
from otel_spiffe.ca._authority import utc_now
from otel_spiffe.ca._rotation import Rotation
from otel_spiffe.ca._socket import SocketPath
from otel_spiffe.ca._streams import NO_IDENTITY, Answer, Refusal, Streams, unimplemented
from otel_spiffe.ca._threads import ThreadPerStream
from otel_spiffe.errors import InvalidConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime, timedelta
    from pathlib import Path
    from types import TracebackType

    from otel_spiffe.identity import Identity

__all__ = ["MAX_STREAMS", "WorkloadApiServer"]

MAX_STREAMS = 1024
"""How many streams are open at once at the most; each takes a thread. More are RESOURCE_EXHAUSTED."""

_MAX_REQUEST_BYTES = 64 * 1024  # the requests that we serve are empty


class WorkloadApiServer:
    """Serves one `Identity` to everybody who may open its socket, and pushes each later one.

    It has no registration entries: grpcio does not show a server the peer's process (SO_PEERCRED), so there is
    nothing to attest. Who may open the socket gets the private keys; its directory and mode are the protection.
    A forked child has no server.
    """

    def __init__(self, socket: SocketPath, *, max_streams: int, clock: Callable[[], datetime] = utc_now) -> None:
        self._socket = socket
        self._max_streams = max_streams
        self._streams = Streams(clock)
        self._server: tuple[grpc.Server, ThreadPerStream] | None = None
        self._rotation: Rotation | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()

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
        clock: Callable[[], datetime] = utc_now,
    ) -> Self:
        """Listen, and serve `identity`, or what `issue` returns now and again as it ages.

        Args:
            path: of the socket; None makes one in a new directory with mode 0700.
            identity: what to serve; neither it nor `issue` answers "no identity issued" until `serve`.
            issue: returns an identity with fresh X509-SVIDs; called on a thread of ours, one call at a time.
            every: how often to call `issue`, more than zero; None does at half of what remains to the chosen SVID,
                or to a revocation list that ends before it.
            mode: of the socket; whoever may write to it gets the keys.
            max_streams: how many may be open at once.
            clock: returns the time, aware; looked at once a minute at least.

        Raises:
            InvalidConfiguration: the path is too long, taken or not writable; both `identity` and `issue` are given;
                or `every` is not more than zero.
            InvalidIdentity: an SVID has no bundle beside it.
        """
        if identity is not None and issue is not None:
            raise InvalidConfiguration("issue", "identity is given as well", fix="give one of the two")
        server = cls(SocketPath(path, mode=mode), max_streams=max_streams, clock=clock)
        try:
            if issue is not None:
                server._rotation = Rotation(issue, server._publish, every=every, clock=clock)
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
        """Push `identity` to every open stream; later ones begin with it, until its X509-SVID expires.

        Then they are answered "no identity issued"; streams that have it stay open for the next one.

        Raises:
            InvalidIdentity: an SVID has no bundle beside it; what was served before stays.
        """
        self._publish(identity)
        if self._rotation is not None:
            self._rotation.resume(identity)

    def _publish(self, identity: Identity) -> None:
        svids: Answer = NO_IDENTITY
        if identity.chosen is not None or identity.svids:
            svids = encode_x509_svid_response(svids_response(identity))
        bundles = encode_x509_bundles_response(bundles_response(identity))
        self._streams.tell(svids=svids, bundles=bundles, until=self._end_of(identity))

    def rotate(self) -> None:
        """Call `issue` now and push what it returns, unless `withdraw` is called meanwhile.

        Raises:
            InvalidConfiguration: the server was opened without `issue`.
        """
        if self._rotation is None:
            raise InvalidConfiguration("issue", "not given", fix="give it to open, or call serve(identity)")
        self._rotation.rotate()

    def withdraw(self) -> None:
        """Answer every stream, open or later, with PERMISSION_DENIED "no identity issued", until `serve` or `rotate`.

        `issue` is not called until then.
        """
        self._tell(svids=NO_IDENTITY, bundles=NO_IDENTITY)

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
        """End the streams, remove the socket, join the threads; may be called again, and does nothing after a fork.

        An `issue` that hangs keeps its thread, not the socket, and is waited for some seconds.
        """
        if self._forked:
            return
        try:
            self._unlisten()
        finally:
            if self._rotation is not None:
                self._rotation.close()
            self._socket.remove()

    @property
    def _forked(self) -> bool:
        # In a child the socket is the parent's, and gRPC's threads, which would be waited for, are not there.
        return os.getpid() != self._pid

    def _listen(self) -> None:
        with self._lock:
            before, self._server = self._server, self._new_server()
        _stop(before)

    def _unlisten(self) -> None:
        if self._forked:
            return
        before = None
        try:
            with self._lock:
                before, self._server = self._server, None
                self._socket.unpublish()
        finally:
            _stop(before)

    def _new_server(self) -> tuple[grpc.Server, ThreadPerStream]:
        threads = ThreadPerStream()
        server = grpc.server(
            threads,
            maximum_concurrent_rpcs=self._max_streams,
            options=[("grpc.max_receive_message_length", _MAX_REQUEST_BYTES), ("grpc.so_reuseport", 0)],
        )
        server.add_registered_method_handlers(WORKLOAD_API_SERVICE, self._handlers())
        try:
            self._socket.publish(lambda path: server.add_insecure_port(f"unix:{quote(path)}"))
            server.start()
        except BaseException:
            server.stop(None)
            threads.shutdown()
            raise
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
        if self._rotation is not None:
            self._rotation.pause()  # or the next rotation would undo it
        self._streams.tell(svids=svids, bundles=bundles)

    def _end_of(self, identity: Identity) -> datetime | None:
        """From when on new streams do not get it."""
        return identity.expires_at or max((svid.expires_at for svid in identity.svids), default=None)

    @staticmethod
    def _refusal(code: grpc.StatusCode, details: str) -> Answer:
        return Refusal(code, details)

    @property
    def listening(self) -> bool:
        """Whether new streams are taken."""
        return self._server is not None and not self._forked

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
