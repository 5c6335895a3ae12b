# SPDX-License-Identifier: Apache-2.0
"""One call of FetchX509SVID on a channel of its own."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol, cast

import grpc
from grpc.experimental import ChannelOptions  # pyright: ignore[reportMissingTypeStubs]  # types-grpcio lacks it

from otel_spiffe._proto import EMPTY_REQUEST, FETCH_X509_SVID, SECURITY_HEADER
from otel_spiffe.sources._retry import StreamEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_spiffe.sources._endpoint import Endpoint

__all__ = ["Stream"]

_KEEPALIVE_MS = 30_000
_KEEPALIVE_TIMEOUT_MS = 10_000


class _Call(Protocol):
    def __iter__(self) -> Iterator[bytes]: ...
    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str: ...


class Stream:
    """A call whose responses `read` hands on, one by one, on the calling thread.

    The channel is new for each call: the back-off inside a channel that failed would hide for seconds that
    the agent's socket has appeared, and one that stuck with a dead address was known to stay dead
    (spiffe-helper issue 221).

    Args:
        endpoint: where the agent listens.
        max_message_bytes: of one response.
        silent_after: seconds within which the first response must come.
    """

    def __init__(self, endpoint: Endpoint, *, max_message_bytes: int, silent_after: float) -> None:
        self._silent_after = silent_after
        self._silent = False
        self._updates = 0
        self._began = time.monotonic()
        self._channel = grpc.insecure_channel(endpoint.target, options=_options(endpoint, max_message_bytes))
        method = cast("Callable[..., _Call]", self._channel.unary_stream(FETCH_X509_SVID))
        self._call = method(EMPTY_REQUEST, metadata=(SECURITY_HEADER,))

    def cancel(self) -> None:
        """End the call, from any thread."""
        # Not by the call's cancel(): in grpcio 1.85.1 a single-threaded call that was cancelled never takes its last
        # event, so its completion queue, and with it the connection, stays open for good: two files for each stream.
        self._channel.close()

    def read(self, take: Callable[[bytes], None]) -> StreamEnd:
        """Give each response to `take` until the call ends; then close the channel and return how it ended."""
        deadline = _Deadline(self._silent_after, self._give_up)
        try:
            for response in self._call:
                deadline.disarm()
                self._updates += 1
                take(response)
            return self._end(grpc.StatusCode.OK, "")
        except grpc.RpcError:
            return self._end(self._call.code(), self._call.details())
        finally:
            deadline.disarm()
            self._channel.close()

    def _give_up(self) -> None:
        self._silent = True
        self.cancel()

    def _end(self, code: grpc.StatusCode, details: str) -> StreamEnd:
        return StreamEnd(
            code=code.name,
            details=details,
            updates=self._updates,
            lived=time.monotonic() - self._began,
            silent=self._silent_after if self._silent and not self._updates else None,
        )


class _Deadline:
    """Calls `late` from a thread of its own, unless it is disarmed in time.

    gRPC's deadline is that of the whole stream, which is to stay open for ever. Where no thread starts any
    more, at the interpreter's end, there is no deadline; who waits then has one of its own.
    """

    def __init__(self, seconds: float, late: Callable[[], None]) -> None:
        self._timer: threading.Timer | None = threading.Timer(seconds, late)
        self._timer.daemon = True
        self._timer.name = "otel-spiffe first update"
        try:
            self._timer.start()
        except RuntimeError:
            self._timer = None

    def disarm(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            timer.join()


def _options(endpoint: Endpoint, max_message_bytes: int) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        # Without it grpcio starts a "channel spin" thread for the stream, which it cannot at the interpreter's end.
        (ChannelOptions.SingleThreadedUnaryStream, 1),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.use_local_subchannel_pool", 1),  # or a new channel takes over the old one's dead connection
        ("grpc.enable_http_proxy", 0),  # an agent is never behind HTTPS_PROXY
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.default_authority", "localhost"),
    ]
    if endpoint.path is None:
        # A Unix socket's peer cannot vanish without an end of file; a TCP one can.
        options += [
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    return options
