# SPDX-License-Identifier: Apache-2.0
"""The demo's actors, all real: an authority, two SPIFFE agents, a collector, an app on two transports, impostors."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer
from otel_spiffe.cli._app import App, exporters
from otel_spiffe.cli._cast import IMPOSTORS, cast
from otel_spiffe.cli._story import SIGNALS, TRANSPORTS, Actor, Attempt, Event, Flow, Story, short_serial
from otel_spiffe.cli._tally import Tally
from otel_spiffe.identity import authorize_id
from otel_spiffe.sources import WorkloadApiSource
from otel_spiffe.testing import OtlpSink

if TYPE_CHECKING:
    from types import TracebackType

    from otel_spiffe.cli._impostors import Impostor
    from otel_spiffe.identity import Identity

__all__ = ["ATTEMPTS", "Stage"]

_DOMAIN = "demo.example"
_APP = f"spiffe://{_DOMAIN}/app"
_COLLECTOR = f"spiffe://{_DOMAIN}/collector"
ATTEMPTS = IMPOSTORS * len(TRANSPORTS)
"""How many tries of impostors there are."""

_RENEWALS = 7  # of each, while the app runs
_SHORTEST_INTERVAL = 0.8
_LIFE_IN_INTERVALS = 4  # so long does an SVID live: one missed renewal must not end the demo
_SHORTEST_LIFE = timedelta(seconds=15)
_READY_SECONDS = 20.0
_DRAIN_SECONDS = 20.0


class Stage:
    """Everybody, on loopback and Unix sockets of this process alone; `close` ends them all."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._attempts: list[Attempt] = []
        self._actors: dict[str, Actor] = {}
        self._apps: dict[str, App] = {}
        self._sink: OtlpSink | None = None
        self._impostors: list[Impostor] = []
        self._tally = Tally(_APP)
        self._failures = 0
        self._stopped = threading.Event()
        self._trying = threading.Thread(target=self._try_impostors, name="demo impostors", daemon=True)

    @classmethod
    def open(cls, seconds: float) -> Self:
        """Set everybody up and let the app run."""
        stage = cls(seconds)
        try:
            stage._set_up()
        except BaseException:
            stage.close()
            raise
        return stage

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def over(self) -> bool:
        """The app has run for its time, and every impostor has tried."""
        return self.elapsed >= self._seconds and not self._trying.is_alive()

    def note(self, who: str, text: str, *, bad: bool = False) -> None:
        """Put an event into the story."""
        with self._lock:
            self._events.append(Event(at=self.elapsed, who=who, text=text, bad=bad))
            self._failures += bad

    def expects(self, message: str) -> bool:
        """Whether a log line is about an impostor, who is meant to fail."""
        return any(address in message for impostor in self._impostors for address in impostor.addresses)

    def story(self, *, finished: bool = False) -> Story:
        """Return what is true now."""
        if self._sink is not None:
            self._tally.take(self._sink)
        flows = tuple(
            Flow(
                signal=signal,
                transport=way,
                sent=self._apps[way].sent(signal),
                received=self._tally.received[signal, way],
            )
            for signal in SIGNALS
            for way in TRANSPORTS
        )
        with self._lock:
            return Story(
                elapsed=self.elapsed,
                seconds=self._seconds,
                actors=tuple(self._actors.values()),
                flows=flows,
                serials=len(self._tally.serials),
                failures=self._failures,
                attempts=tuple(self._attempts),
                events=tuple(self._events),
                finished=finished,
            )

    def finish(self) -> Story:
        """Have the app send what it still holds, and return the whole story."""
        for app in self._apps.values():
            app.close()
        deadline = time.monotonic() + _DRAIN_SECONDS
        while (story := self.story(finished=True)).sent != story.received and time.monotonic() < deadline:
            self._stopped.wait(0.1)
        return story

    def close(self) -> None:
        """End everybody; may be called again."""
        self._stopped.set()
        if self._trying.ident is not None:
            self._trying.join()
        self._stack.close()

    def _set_up(self) -> None:
        authority = CertificateAuthority.in_memory(_DOMAIN)
        self.note("authority", f"issues for the trust domain {_DOMAIN}")
        app, collector = self._agent("app", authority, _APP), self._agent("collector", authority, _COLLECTOR)
        sink = self._sink = self._stack.enter_context(OtlpSink.open(collector, authorize=authorize_id(_APP)))
        self.note("collector", f"listens on {sink.grpc_endpoint} (gRPC) and {sink.http_endpoint}, admits {_APP}")
        for transport in TRANSPORTS:
            way = exporters(transport, sink, app, authorize_id(_COLLECTOR))
            self._apps[transport] = self._stack.enter_context(App(transport, way))
        self._impostors = cast(self._stack, authority, app=app, collector=sink, collector_id=_COLLECTOR)
        for worker in self._apps.values():
            worker.start()
        self.note("app", f"sends traces, metrics and logs over gRPC and HTTP, to {_COLLECTOR} alone")
        self._trying.start()

    def _agent(self, name: str, authority: CertificateAuthority, spiffe_id: str) -> WorkloadApiSource:
        interval = timedelta(seconds=max(self._seconds / _RENEWALS, _SHORTEST_INTERVAL))
        lifetime = max(interval * _LIFE_IN_INTERVALS, _SHORTEST_LIFE)
        agent = self._stack.enter_context(
            WorkloadApiServer.open(issue=lambda: authority.identity(spiffe_id, lifetime=lifetime), every=interval)
        )
        source = self._stack.enter_context(WorkloadApiSource.open(agent.endpoint))
        source.wait(_READY_SECONDS)
        source.subscribe(lambda identity: self._renewed(name, identity))
        return source

    def _renewed(self, name: str, identity: Identity) -> None:
        svid = identity.svid
        with self._lock:
            before = self._actors.get(name)
            actor = self._actors[name] = Actor(
                name=name,
                id=str(svid.id),
                serial=svid.leaf.serial_number,
                renewals=before.renewals + 1 if before else 0,
                issued_at=datetime.now(UTC),
                expires_at=svid.expires_at,
            )
        said = "has a new X509-SVID" if before else f"is {svid.id}, X509-SVID"
        left = (svid.expires_at - datetime.now(UTC)).total_seconds()
        self.note(name, f"{said} {short_serial(actor.serial)}, good for {left:.0f} s")

    def _try_impostors(self) -> None:
        for number, impostor in enumerate(self._impostors, 1):
            due = self._seconds * (number + 0.5) / (IMPOSTORS + 2)
            if self._stopped.wait(max(due - self.elapsed, 0)):
                return
            for attempt in impostor.attempts():
                with self._lock:
                    self._attempts.append(attempt)
                verdict = "refused" if attempt.refused else "GOT THROUGH"
                self.note("impostor", f"{attempt.who}, {attempt.transport}: {verdict}: {attempt.reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
