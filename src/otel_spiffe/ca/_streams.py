# SPDX-License-Identifier: Apache-2.0
"""The open streams of a Workload API server, and what each of them is told next."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from otel_spiffe._proto import FETCH_X509_BUNDLES, FETCH_X509_SVID, SECURITY_HEADER
from otel_spiffe.ca._threads import is_spare

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from datetime import datetime

__all__ = ["NO_IDENTITY", "Answer", "Refusal", "Streams"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The end of a stream: a status, `OK` for a clean end."""

    code: grpc.StatusCode
    details: str = ""


Answer = bytes | Refusal | None
"""What a stream is told: a message, its end, or nothing at all."""

# What SPIRE says to a workload without an entry (SPIFFE Workload Endpoint 6: PermissionDenied).
NO_IDENTITY = Refusal(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")


class _Stream:
    """One open call: an event that says "look again", and its early end."""

    __slots__ = ("changed", "end")

    def __init__(self) -> None:
        self.changed = threading.Event()
        self.end: Refusal | None = None


class Streams:
    """Every stream gets the current answer at once and each later one as it comes; a slow one skips some."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._lock = threading.Condition()
        self._open: set[_Stream] = set()
        self._opened = 0
        self._version = 1
        self._answers: dict[str, Answer] = {FETCH_X509_SVID: NO_IDENTITY, FETCH_X509_BUNDLES: NO_IDENTITY}
        self._until: datetime | None = None

    def tell(self, *, svids: Answer, bundles: Answer, until: datetime | None = None) -> None:
        """Give each open stream, and every later one, this answer; later ones the SVIDs no more from `until` on."""
        with self._lock:
            self._until = until
            self._answers = {FETCH_X509_SVID: svids, FETCH_X509_BUNDLES: bundles}
            self._version += 1
            self._wake()

    def end(self, end: Refusal) -> None:
        """End the streams that are open now; later ones get the current answer."""
        with self._lock:
            for stream in self._open:
                stream.end = end
            self._wake()

    def wait_for(self, *, open: int, opened: int, timeout: float) -> bool:  # noqa: A002 -- streams are open
        """Wait until so many are open at once and so many were ever opened; return whether that came true."""
        with self._lock:
            return self._lock.wait_for(lambda: len(self._open) >= open and self._opened >= opened, timeout)

    @property
    def counts(self) -> tuple[int, int]:
        """How many are open, and how many were ever opened."""
        with self._lock:
            return len(self._open), self._opened

    def serve(self, method: str, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Yield what this stream is told until it ends."""
        _check_call(context)
        stream = _Stream()
        if not context.add_callback(stream.changed.set):
            return  # the client has gone already
        with self._registered(stream):
            told = 0
            while context.is_active():
                stream.changed.clear()
                version, answer = self._next(method, stream, told)
                if isinstance(answer, Refusal):
                    _end(context, answer)
                    return
                if version == told:
                    stream.changed.wait()
                elif answer is not None:
                    yield answer
                told = version

    def _next(self, method: str, stream: _Stream, told: int) -> tuple[int, Answer]:
        with self._lock:
            answer = stream.end or self._answers[method]
            # Who has the SVIDs already keeps its stream: the next ones come on it.
            ended = self._until is not None and self._clock() >= self._until and told != self._version
            return self._version, NO_IDENTITY if ended and method == FETCH_X509_SVID else answer

    @contextlib.contextmanager
    def _registered(self, stream: _Stream) -> Generator[None]:
        with self._lock:
            self._open.add(stream)
            self._opened += 1
            self._lock.notify_all()
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(stream)
                self._lock.notify_all()

    def _wake(self) -> None:
        for stream in self._open:
            stream.changed.set()


def _check_call(context: grpc.ServicerContext) -> None:
    """Refuse a call that has no thread, or not the security header, which keeps out SSRF (Workload Endpoint 3)."""
    if is_spare():
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "this Workload API can start no more threads")
    if SECURITY_HEADER not in ((key, value) for key, value in context.invocation_metadata()):
        name, value = SECURITY_HEADER
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"security header missing from request: {name}: {value}")


def _end(context: grpc.ServicerContext, end: Refusal) -> None:
    if end.code is not grpc.StatusCode.OK:
        context.abort(end.code, end.details)


def unimplemented(_request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:  # noqa: ANN401 -- bytes, as grpc says
    """Answer the JWT methods: we have none (SPIFFE Workload Endpoint 6)."""
    _check_call(context)
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "this Workload API serves X.509 only")
    yield b""  # pragma: no cover -- abort raises; this makes it a stream
