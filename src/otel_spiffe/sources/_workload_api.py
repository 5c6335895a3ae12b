# SPDX-License-Identifier: Apache-2.0
"""A source that a SPIFFE agent feeds through the Workload API."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Literal

from otel_spiffe._proto import decode_x509_svid_response
from otel_spiffe.environment import SPIFFE_ENDPOINT_SOCKET, refuse_green_threads, spiffe_endpoint_socket
from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.rotation import NO_IDENTITY, ORDINARY, Backoff
from otel_spiffe.sources._base import WorkerSource
from otel_spiffe.sources._cell import utc_now
from otel_spiffe.sources._choose import picker_for
from otel_spiffe.sources._endpoint import Endpoint, parse_endpoint
from otel_spiffe.sources._fault import BadUpdate, Fault, nothing_unexpected
from otel_spiffe.sources._limits import DEFAULT_LIMITS, Limits
from otel_spiffe.sources._retry import Retry, Stop, StreamEnd
from otel_spiffe.sources._stream import Stream
from otel_spiffe.sources._update import identity_from_response

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import Self

    from opentelemetry.metrics import MeterProvider

    from otel_spiffe.identity import Identity
    from otel_spiffe.sources._choose import Picker
    from otel_spiffe.sources._fault import Problem

__all__ = ["WorkloadApiSource"]

FIRST_UPDATE_TIMEOUT = 10.0
"""Seconds within which an agent that was asked must send something."""


class WorkloadApiSource(WorkerSource):
    """Keeps the identity that a SPIFFE agent streams; made by `open`."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        picker: Picker,
        on_withdrawal: Literal["drop", "keep"],
        limits: Limits,
        first_update_timeout: float,
        retry: Retry,
        clock: Callable[[], datetime],
        dice: Callable[[], float],
        meter_provider: MeterProvider | None,
    ) -> None:
        name = f"Workload API at {endpoint}"
        self._endpoint = endpoint
        self._picker = picker
        self._keeps = on_withdrawal == "keep"
        self._limits = limits
        self._first_update_timeout = first_update_timeout
        self._retry = retry
        self._clock = clock
        self._dice = dice
        self._stream: Stream | None = None
        self._stands = self._stood = False  # this connection, any connection: an update came on it
        super().__init__(name, clock=clock, meter_provider=meter_provider, uses_grpc=True)

    @classmethod
    def open(
        cls,
        endpoint: str | None = None,
        *,
        picker: Picker | None = None,
        hint: str | None = None,
        on_withdrawal: Literal["drop", "keep"] = "drop",
        limits: Limits = DEFAULT_LIMITS,
        first_update_timeout: float = FIRST_UPDATE_TIMEOUT,
        backoff: Backoff = ORDINARY,
        no_identity_backoff: Backoff = NO_IDENTITY,
        clock: Callable[[], datetime] = utc_now,
        dice: Callable[[], float] = random.random,
        meter_provider: MeterProvider | None = None,
    ) -> Self:
        """Start asking the agent, and return at once, whether or not the agent runs yet.

        Args:
            endpoint: `unix:/path`, `unix:///path` or `tcp://ip:port`; `SPIFFE_ENDPOINT_SOCKET` by default.
            picker: chooses the X509-SVID to present among those that came; the first one by default.
            hint: chooses the one with this hint instead.
            on_withdrawal: what to do with the identity once the agent answers PermissionDenied: `drop` it, as
                SPIFFE Workload API 5.2.1 says one should, or `keep` it until it expires.
            limits: how much of an update is taken.
            first_update_timeout: seconds within which an agent must send something, once asked.
            backoff: between tries of an agent that cannot be reached.
            no_identity_backoff: between tries of an agent that has no identity for this process.
            clock: returns the time, aware.
            dice: returns a number between 0 and 1, uniformly random.
            meter_provider: where the source's metrics go; the global one by default.

        Raises:
            InvalidConfiguration: there is no endpoint, it is none, both `picker` and `hint` are given, or gevent or
                eventlet has replaced the threads.
        """
        refuse_green_threads("WorkloadApiSource")
        if on_withdrawal not in {"drop", "keep"}:
            raise InvalidConfiguration("on_withdrawal", f"{on_withdrawal!r} is neither 'drop' nor 'keep'")
        source = cls(
            _endpoint(endpoint),
            picker=picker_for(picker, hint),
            on_withdrawal=on_withdrawal,
            limits=limits,
            first_update_timeout=first_update_timeout,
            retry=Retry(backoff=backoff, no_identity=no_identity_backoff),
            clock=clock,
            dice=dice,
            meter_provider=meter_provider,
        )
        source._worker.start()
        return source

    def __repr__(self) -> str:
        return f"WorkloadApiSource({self._endpoint})"

    def after_fork_in_child(self) -> None:
        """Connect with a thread and a channel of this process; the identity held at the fork stays meanwhile."""
        if self._stream is not None:
            _abandoned.append(self._stream)  # not parked in time; destroying it would call into the parent's gRPC
            self._stream = None
        super().after_fork_in_child()

    def _turn(self) -> float | None:
        end = self._consume()
        if self._worker.interrupted:
            return 0.0
        decision = self._retry.after(end, dice=self._dice())
        if isinstance(decision, Stop):
            self._cell.end(decision.problem)
            return None
        if decision.problem is not None and decision.withdrawn and not self._keeps:
            self._cell.withdraw(decision.problem)
        elif decision.problem is not None:
            self._cell.fail(decision.problem)
        return decision.delay

    def _consume(self) -> StreamEnd:
        self._stands = False
        self._stream = stream = Stream(
            self._endpoint,
            max_message_bytes=self._limits.message_bytes,
            silent_after=self._first_update_timeout,
            left=self._left,
        )
        try:
            if self._worker.interrupted:
                stream.cancel()
            return stream.read(self._take)
        finally:
            self._stream = None

    def _take(self, data: bytes) -> Problem | None:
        """Take an update, and return why to ask for another one on a new stream, or None."""
        self._count()
        try:
            with nothing_unexpected():
                identity, flaw = self._identity(data)
                self._cell.put(identity, flaw=flaw)
        except BadUpdate as bad:
            if bad.problem.fault is Fault.EXPIRED_UPDATE:
                return bad.problem  # by our clock; once that is set right nobody would look at this update again
            self._cell.fail(bad.problem)  # what it held stays, and so does the stream
        return None

    def _count(self) -> None:
        """Count a connection that stands: its first update came."""
        if not self._stands and self._stood:
            self._cell.recorder.reconnected()
        self._stands = self._stood = True

    def _left(self) -> float:
        """Return the seconds for which what is held may be used: with nothing held, there is nothing to outlive."""
        ends = self._cell.health().expires_at
        return (ends - self._clock()).total_seconds() if ends is not None else math.inf

    def _identity(self, data: bytes) -> tuple[Identity, Problem | None]:
        try:
            response = decode_x509_svid_response(data)
        except ValueError as error:
            raise BadUpdate(Fault.INVALID_UPDATE, str(error)) from error
        return identity_from_response(response, picker=self._picker, limits=self._limits, now=self._clock())

    def _interrupt(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.cancel()


_abandoned: list[Stream] = []


def _endpoint(given: str | None) -> Endpoint:
    if given is not None:
        return parse_endpoint(given)
    found = spiffe_endpoint_socket()
    if found is None:
        raise InvalidConfiguration(
            SPIFFE_ENDPOINT_SOCKET,
            "it is not set and no endpoint is given (SPIFFE Workload Endpoint 4)",
            fix="set it to the agent's socket, for example unix:///run/spire/agent.sock",
        )
    return parse_endpoint(found, setting=SPIFFE_ENDPOINT_SOCKET)
