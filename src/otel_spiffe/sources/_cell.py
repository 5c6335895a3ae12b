# SPDX-License-Identifier: Apache-2.0
"""The cell that every source keeps its identity in: one writer, any number of readers, one immutable state."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from otel_spiffe.errors import IdentityExpired, SourceUnavailable
from otel_spiffe.identity import Health, Identity
from otel_spiffe.rotation import is_early, is_expired
from otel_spiffe.sources._metrics import Recorder
from otel_spiffe.sources._same import same
from otel_spiffe.sources._subscribers import Subscribers
from otel_spiffe.sources._words import who, why_unfit

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider

    from otel_spiffe.sources._fault import Fault, Problem

__all__ = ["Cell", "utc_now"]

_log = logging.getLogger("otel_spiffe.sources")


def utc_now() -> datetime:
    """Return the time, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    identity: Identity | None = None
    generation: int = 0
    updated_at: datetime | None = None
    bundles_expire_at: datetime | None = None
    failures: int = 0
    problem: Problem | None = None
    ended: bool = False
    closed: bool = False


class Cell:
    """Holds the newest identity of a source and what is wrong with the source now.

    All that can be read stands in one object that is replaced whole, so a reader takes no lock, and a fork in
    the middle of a write leaves the child with the state before or the state after it.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Callable[[], datetime] = utc_now,
        meter_provider: MeterProvider | None = None,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self._name = name
        self._clock = clock
        self._alive = alive
        self._state = _State()
        self._changed = threading.Condition()
        self._subscribers = Subscribers(name, self._current)
        self._reported: set[Fault] = set()
        self._expiry_reported = 0
        self.recorder = Recorder(name, self.health, meter_provider=meter_provider)

    # What the keeper of the source writes.

    def put(self, identity: Identity, *, flaw: Problem | None = None) -> bool:
        """Take `identity` as the newest one and say whether it differs from the one before.

        Its generation is set here: one more than the last, unless nothing changed.

        Args:
            identity: the newest one.
            flaw: what was left out of the update that it came with, or None.
        """
        with self._changed:
            before = self._state
            if before.closed:
                return False  # it came while the source was being closed; nobody is to hold its key any more
            changed = before.identity is None or not same(before.identity, identity)
            self._state = dataclasses.replace(
                before,
                identity=_numbered(identity, before.generation + 1) if changed else before.identity,
                generation=before.generation + changed,
                bundles_expire_at=_first_end(identity),
                updated_at=self._clock(),
                failures=0,
                problem=flaw,
            )
            self._changed.notify_all()
        self._log_put(before, changed=changed)
        if flaw is not None and flaw != before.problem:
            self._report(flaw)
        if changed:
            self.recorder.updated()
            self._subscribers.wake()
        return changed

    def fail(self, problem: Problem) -> None:
        """Report a failed try; the identity that is held stays."""
        with self._changed:
            self._state = dataclasses.replace(self._state, failures=self._state.failures + 1, problem=problem)
        self._report(problem)

    def withdraw(self, problem: Problem) -> None:
        """Report a failed try after which the identity that was held may not be used any more."""
        with self._changed:
            before = self._state
            self._state = dataclasses.replace(
                before, identity=None, bundles_expire_at=None, failures=before.failures + 1, problem=problem
            )
        if before.identity is not None:
            _log.warning("%s: %s was withdrawn: %s", self._name, who(before.identity), problem)
        self._report(problem)

    def end(self, problem: Problem) -> None:
        """Report a failure after which nothing will come any more; what is held stays until it expires."""
        with self._changed:
            self._state = dataclasses.replace(
                self._state, ended=True, failures=self._state.failures + 1, problem=problem
            )
            self._changed.notify_all()
        self.recorder.failed(problem.fault)
        _log.error("%s: %s; it does not try again", self._name, problem)

    # What consumers read.

    def identity(self) -> Identity:
        """Return the identity that is held, as `Source.identity`."""
        state = self._state
        if state.closed:
            raise SourceUnavailable(self._name, "it is closed", fix="open a new one")
        if state.identity is None:
            raise self._unavailable(state)
        now = self._clock()
        if is_expired(state.identity, now=now):
            self._report_expiry(state)
            raise self._expired(state.identity, state, now)
        return state.identity

    def wait(self, timeout: float | None = None) -> Identity:
        """Return the identity once there is one, as `Source.wait`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                try:
                    return self.identity()
                except IdentityExpired:
                    left = self._left(deadline)
                    if left is not None and left <= 0:
                        raise
                except SourceUnavailable:
                    left = self._left(deadline)
                    if left is not None and left <= 0:
                        raise self._unavailable(self._state, waited=timeout) from None
                self._changed.wait(left)

    def subscribe(self, callback: Callable[[Identity], object]) -> Callable[[], None]:
        """Have each new identity given to `callback`, as `Source.subscribe`."""
        return self._subscribers.add(callback)

    def health(self) -> Health:
        """Return how the source is, as `Source.health`."""
        state = self._state
        identity = self._current()
        held = state.identity
        return Health(
            ready=identity is not None
            and not is_early(identity, now=self._clock())
            and not state.ended
            and self._alive(),
            source=self._name,
            id=held.chosen.id if held is not None and held.chosen is not None else None,
            generation=state.generation,
            expires_at=held.expires_at if held is not None else None,
            bundles_expire_at=state.bundles_expire_at,
            updated_at=state.updated_at,
            failures=state.failures,
            problem=self._why(state),
        )

    def close(self) -> None:
        """Hold nothing any more, wake everybody who waits and end the subscribers' thread."""
        with self._changed:
            self._state = dataclasses.replace(self._state, closed=True, identity=None)
            self._changed.notify_all()
        self.recorder.close()
        self._subscribers.close()

    def after_fork_in_child(self) -> None:
        """Have locks of this process; who held them in the parent does not exist here."""
        self._changed = threading.Condition()
        self._subscribers.after_fork_in_child()

    def _current(self) -> Identity | None:
        state = self._state
        if state.closed or state.identity is None or is_expired(state.identity, now=self._clock()):
            return None
        return state.identity

    def _why(self, state: _State) -> str:
        if state.closed:
            return "it is closed"
        unfit = "" if state.identity is None or state.failures else why_unfit(state.identity, self._clock())
        return "; ".join(filter(None, (unfit, str(state.problem or ""))))

    def _left(self, deadline: float | None) -> float | None:
        if self._state.closed or self._state.ended:
            return 0.0
        return None if deadline is None else deadline - time.monotonic()

    def _unavailable(self, state: _State, *, waited: float | None = None) -> SourceUnavailable:
        if state.closed:
            return SourceUnavailable(self._name, "it is closed", fix="open a new one")
        problem = state.problem
        reason = problem.reason if problem is not None else "no identity has come yet"
        if waited is not None and not state.ended:
            reason = f"no identity came in {waited:g} s" + (f": {problem.reason}" if problem is not None else "")
        return SourceUnavailable(self._name, reason, fix=problem.fix if problem is not None else "")

    def _expired(self, identity: Identity, state: _State, now: datetime) -> IdentityExpired:
        svid = identity.svid
        cause = str(state.problem or "")
        return IdentityExpired(self._name, id=svid.id, expired_at=svid.expires_at, now=now, cause=cause)

    # State changes in the log, each once.

    def _log_put(self, before: _State, *, changed: bool) -> None:
        if before.failures or (before.problem is not None and self._state.problem is None):
            _log.info("%s: recovered after %d failed tries", self._name, before.failures)
            self._reported.clear()
        if changed and self._state.identity is not None:
            _log.info("%s: %s", self._name, who(self._state.identity))

    def _report(self, problem: Problem) -> None:
        self.recorder.failed(problem.fault)
        first = problem.fault not in self._reported
        self._reported.add(problem.fault)
        _log.log(logging.WARNING if first else logging.DEBUG, "%s: %s", self._name, problem)

    def _report_expiry(self, state: _State) -> None:
        if self._expiry_reported != state.generation:
            self._expiry_reported = state.generation
            _log.warning("%s: expired: %s", self._name, who(state.identity))


def _numbered(identity: Identity, generation: int) -> Identity:
    return dataclasses.replace(identity, generation=generation)


def _first_end(identity: Identity) -> datetime | None:
    ends = (each.not_valid_after_utc for bundle in identity.bundles.values() for each in bundle.authorities)
    return min(ends, default=None)
