# SPDX-License-Identifier: Apache-2.0
"""What is true at one moment of the demo, and whether it went well: values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["SIGNALS", "TRANSPORTS", "Actor", "Attempt", "Event", "Flow", "Story", "problems", "short_serial"]

SIGNALS = ("traces", "metrics", "logs")
TRANSPORTS = ("gRPC", "HTTP")
_SERIAL_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Somebody with an X509-SVID.

    Attributes:
        name: its word in the demo.
        id: its SPIFFE ID.
        serial: of its current certificate.
        renewals: how many times its source has renewed it.
        issued_at: when the current certificate came, aware.
        expires_at: when it ends, aware.
    """

    name: str
    id: str
    serial: int
    renewals: int
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One signal over one transport: what the app made, and what the collector took from the app's SPIFFE ID."""

    signal: str
    transport: str
    sent: int
    received: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An impostor's try.

    Attributes:
        who: what the impostor is.
        transport: how it tried.
        refused: it got nothing through and received nothing.
        reason: what the honest side, or it, was told.
    """

    who: str
    transport: str
    refused: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened `at` seconds after the beginning."""

    at: float
    who: str
    text: str
    bad: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All of it, at one moment.

    Attributes:
        elapsed: seconds since the beginning.
        seconds: how long the app runs.
        actors: the app and the collector.
        flows: each signal over each transport.
        serials: how many different certificates of the app the collector saw in handshakes.
        failures: exports that failed.
        attempts: the impostors' tries so far.
        events: everything that happened, oldest first.
        finished: the app has ended and everything is counted.
    """

    elapsed: float
    seconds: float
    actors: tuple[Actor, ...]
    flows: tuple[Flow, ...]
    serials: int
    failures: int
    attempts: tuple[Attempt, ...]
    events: tuple[Event, ...]
    finished: bool = False

    @property
    def sent(self) -> int:
        """Of all signals."""
        return sum(flow.sent for flow in self.flows)

    @property
    def received(self) -> int:
        """Of all signals."""
        return sum(flow.received for flow in self.flows)

    @property
    def renewals(self) -> int:
        """Of all actors."""
        return sum(actor.renewals for actor in self.actors)


def problems(story: Story, *, attempts: int) -> tuple[str, ...]:
    """Return what went wrong, as sentences; none means that the demo kept its promise.

    Args:
        story: the finished one.
        attempts: how many tries of impostors there should have been.
    """
    found = [
        f"{flow.signal} over {flow.transport}: {flow.sent:,} sent, {flow.received:,} received"
        for flow in story.flows
        if flow.sent != flow.received or not flow.sent
    ]
    if story.failures:
        found.append(f"{story.failures} exports failed")
    found += [f"{actor.name} was never renewed" for actor in story.actors if not actor.renewals]
    if story.serials <= 1:
        found.append(f"the collector saw {story.serials} certificates of the app, so no renewed one was used")
    found += [f"{a.who} got through over {a.transport}: {a.reason}" for a in story.attempts if not a.refused]
    if len(story.attempts) != attempts:
        found.append(f"{len(story.attempts)} of {attempts} impostors' tries took place")
    return tuple(found)


def short_serial(serial: int) -> str:
    """Return the first digits of a serial number, enough to tell two apart."""
    return f"{serial:x}"[:_SERIAL_DIGITS]
