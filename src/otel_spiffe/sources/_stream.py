# SPDX-License-Identifier: Apache-2.0
"""One call of FetchX509SVID on a channel of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, cast

import grpc
from grpc.experimental import ChannelOptions  # pyright: ignore[reportMissingTypeStubs]  # types-grpcio lacks it

from otel_spiffe._proto import EMPTY_REQUEST, FETCH_X509_SVID, SECURITY_HEADER
from otel_spiffe.sources._retry import StreamEnd
from otel_spiffe.sources._watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_spiffe.sources._endpoint import Endpoint
    from otel_spiffe.sources._fault import Problem

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
        left: returns the seconds for which what the last response said may be used; then the call is given up.
    """

    def __init__(
        self, endpoint: Endpoint, *, max_message_bytes: int, silent_after: float, left: Callable[[], float]
    ) -> None:
        self._silent_after = silent_after
        self._left = left
        self._given_up = False
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

    def read(self, take: Callable[[bytes], Problem | None]) -> StreamEnd:
        """Give each response to `take` until the call ends, or `take` returns why to end it; return how it ended.

        The channel is closed then.
        """
        try:
            with Watchdog(self._silent_after, self._left, self._give_up) as watchdog:
                for response in self._call:
                    watchdog.taking()
                    self._updates += 1
                    problem = take(response)
                    watchdog.taken()
                    if problem is not None:
                        return self._end(grpc.StatusCode.CANCELLED, "", problem)
            return self._end(grpc.StatusCode.OK, "")
        except grpc.RpcError:
            return self._end(self._call.code(), self._call.details())
        finally:
            self._channel.close()

    def _give_up(self) -> None:
        self._given_up = True
        self.cancel()

    def _end(self, code: grpc.StatusCode, details: str, problem: Problem | None = None) -> StreamEnd:
        return StreamEnd(
            code=code.name,
            details=details,
            updates=self._updates,
            lived=time.monotonic() - self._began,
            silent=self._silent_after if self._given_up and not self._updates else None,
            outlived=self._given_up and self._updates > 0,
            problem=problem,
        )


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
