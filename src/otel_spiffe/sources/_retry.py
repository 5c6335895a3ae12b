# SPDX-License-Identifier: Apache-2.0
"""What to do when a stream of the Workload API has ended: no I/O, the dice are an argument."""

from __future__ import annotations

from dataclasses import dataclass

from otel_spiffe.rotation import NO_IDENTITY, ORDINARY, Backoff
from otel_spiffe.sources._fault import Fault, Problem

__all__ = ["Again", "Retry", "Stop", "StreamEnd"]

STEADY = 5.0
"""Seconds: a stream that lived longer was a good one, and the count of failures begins anew after it."""

_FOR_GOOD = frozenset({"INVALID_ARGUMENT", "UNIMPLEMENTED"})  # SPIFFE Workload Endpoint 6: report, do not retry


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnd:
    """How a stream ended.

    Attributes:
        code: the gRPC status code's name; ``OK`` for a clean end.
        details: what the agent or gRPC said.
        updates: messages that came.
        lived: seconds from the call to its end.
        silent: seconds without a first message after which we gave it up, or None.
        outlived: we gave it up because what it had brought has ended, and no other came.
        problem: what was wrong with its last message, that we ended it for.
    """

    code: str
    details: str = ""
    updates: int = 0
    lived: float = 0.0
    silent: float | None = None
    outlived: bool = False
    problem: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Connect again after `delay` seconds.

    Attributes:
        delay: seconds; 0 for at once.
        problem: what to report, or None where nothing is wrong.
        withdrawn: the agent says that this process has no identity any more.
    """

    delay: float
    problem: Problem | None = None
    withdrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Do not connect again."""

    problem: Problem


class Retry:
    """Counts failures in a row and answers each with the time to wait."""

    def __init__(self, *, backoff: Backoff = ORDINARY, no_identity: Backoff = NO_IDENTITY) -> None:
        self._backoff = backoff
        self._no_identity = no_identity
        self._failures = 0
        self._denials = 0

    def after(self, end: StreamEnd, *, dice: float) -> Again | Stop:
        """Return what to do after that end.

        Args:
            end: how the newest stream ended.
            dice: between 0 and 1, uniformly random.
        """
        if end.updates:
            self._denials = 0
            self._failures = 0 if end.lived >= STEADY else self._failures
        if end.code in _FOR_GOOD:
            return Stop(problem=_refused(end))
        if end.code == "PERMISSION_DENIED":
            self._denials += 1
            delay = self._no_identity.delay(self._denials, dice=dice)
            return Again(delay=delay, problem=_denied(end), withdrawn=True)
        self._failures += 1
        if end.code == "OK" and end.updates and self._failures == 1:
            return Again(delay=0.0)  # SPIFFE Workload API 4.2: on a stream's end reconnect at once
        return Again(delay=self._backoff.delay(self._failures, dice=dice), problem=_failed(end))


def _refused(end: StreamEnd) -> Problem:
    return Problem(
        fault=Fault.REFUSED,
        reason=f"the agent refuses the request for good: {_said(end)}",
        fix="see that a SPIFFE Workload API listens at this address",
    )


def _denied(end: StreamEnd) -> Problem:
    return Problem(
        fault=Fault.NO_IDENTITY_ISSUED,
        reason=f"the agent has no identity for this process: {_said(end)}",
        fix="register this workload with the SPIFFE server, and see that its selectors match this process",
    )


def _failed(end: StreamEnd) -> Problem:
    if end.problem is not None:
        return end.problem
    if end.outlived:
        reason = "the X509-SVID has expired, and the agent, whose stream is open, has sent no other"
        fix = "see the agent's log, and that this machine's clock is right"
        return Problem(fault=Fault.EXPIRED, reason=reason, fix=fix)
    if end.silent is not None:
        reason, fix = f"the agent sent no update within {end.silent:g} s", "see that the agent is well"
        return Problem(fault=Fault.SILENT, reason=reason, fix=fix)
    if end.code == "OK":
        return Problem(fault=Fault.ENDED, reason="the agent ends the stream again and again", fix="see the agent's log")
    if end.code == "RESOURCE_EXHAUSTED" and "larger than max" in end.details:
        return Problem(fault=Fault.LIMIT_EXCEEDED, reason=_said(end), fix="raise limits= if such updates are right")
    fix = "see that the agent runs and that its socket can be reached from here" if end.code == "UNAVAILABLE" else ""
    return Problem(fault=Fault.UNREACHABLE, reason=f"the agent cannot be asked: {_said(end)}", fix=fix)


def _said(end: StreamEnd) -> str:
    return f"{end.details or 'no details'} ({end.code})"
