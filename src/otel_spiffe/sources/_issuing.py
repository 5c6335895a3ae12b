# SPDX-License-Identifier: Apache-2.0
"""A source that asks a callable for each new identity: an application with a CA of its own."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, cast

from otel_spiffe.environment import refuse_green_threads
from otel_spiffe.identity import Identity
from otel_spiffe.rotation import ORDINARY, Backoff, Keep, plan
from otel_spiffe.sources._base import WorkerSource
from otel_spiffe.sources._cell import utc_now
from otel_spiffe.sources._choose import check_not_expired
from otel_spiffe.sources._fault import BadUpdate, Fault, nothing_unexpected

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import Self

    from opentelemetry.metrics import MeterProvider

__all__ = ["IssuingSource"]

MAX_WAIT: Final = 60.0
"""Seconds between two looks at the clock, which may be set meanwhile."""


class IssuingSource(WorkerSource):
    """Keeps the identity that a callable issues, and asks for the next one in time; made by `open`."""

    def __init__(
        self,
        issue: Callable[[], Identity],
        *,
        backoff: Backoff,
        clock: Callable[[], datetime],
        dice: Callable[[], float],
        meter_provider: MeterProvider | None,
    ) -> None:
        name = f"issuer {getattr(issue, '__qualname__', None) or type(issue).__qualname__}"
        self._issue = issue
        self._backoff = backoff
        self._clock = clock
        self._dice = dice
        self._held: Identity | None = None
        self._drawn = 0.0
        self._came = clock()
        self._failures = 0
        self._wanted = 0
        super().__init__(name, clock=clock, meter_provider=meter_provider)

    @classmethod
    def open(
        cls,
        issue: Callable[[], Identity],
        *,
        backoff: Backoff = ORDINARY,
        clock: Callable[[], datetime] = utc_now,
        dice: Callable[[], float] = random.random,
        meter_provider: MeterProvider | None = None,
    ) -> Self:
        """Ask `issue` for an identity, on a thread of the source, and again at 2/3 of the life of each.

        What ends first counts, the X509-SVID or a revocation list. Bundles alone are asked for again after 5 minutes,
        or after their refresh hint.

        Args:
            issue: returns a new identity; whatever it raises is reported, and it is asked again after a while.
            backoff: between tries that fail.
            clock: returns the time, aware.
            dice: returns a number between 0 and 1, uniformly random.
            meter_provider: where the source's metrics go; the global one by default.

        Raises:
            InvalidConfiguration: gevent or eventlet has replaced the threads.
        """
        refuse_green_threads("IssuingSource")
        source = cls(issue, backoff=backoff, clock=clock, dice=dice, meter_provider=meter_provider)
        source._worker.start()
        return source

    def __repr__(self) -> str:
        return f"IssuingSource({self._issue!r})"

    def renew(self) -> None:
        """Have a new identity issued soon, whatever the present one's age: its key may be known to others."""
        self._forget()
        self._worker.nudge()

    def after_fork_in_child(self) -> None:
        """Renew with a thread of this process; a child has an identity and a key of its own."""
        self._forget()
        super().after_fork_in_child()

    def _turn(self) -> float:
        now = self._clock()
        decision = plan(self._held, since=self._came, now=now, dice=self._drawn)
        if isinstance(decision, Keep):
            return min((decision.until - now).total_seconds(), MAX_WAIT)
        try:
            with nothing_unexpected():
                return self._renewed()
        except BadUpdate as bad:
            self._cell.fail(bad.problem)
            return self._pause()

    def _renewed(self) -> float:
        wanted = self._wanted
        identity, now, drawn = self._issued(), self._clock(), self._dice()
        lasting = isinstance(plan(identity, since=now, now=now, dice=drawn), Keep)
        self._cell.put(identity)
        self._held, self._came, self._drawn = identity, now, drawn
        if self._wanted != wanted:
            self._held = None  # `renew` came while this one was being issued
        if not lasting:  # it is not valid yet: the issuer's clock is ahead of ours, and may be so the next time
            return self._pause()
        self._failures = 0
        return 0.0

    def _pause(self) -> float:
        self._failures += 1
        return self._backoff.delay(self._failures, dice=self._dice())

    def _forget(self) -> None:
        self._wanted += 1  # before the other, or a call under way could put back what it was issued
        self._held = None

    def _issued(self) -> Identity:
        try:
            issued = cast("object", self._issue())  # the issuer is foreign code
        except BaseException as error:  # sys.exit and asyncio's CancelledError too, or nobody would ask it again
            raise BadUpdate(Fault.ISSUANCE, f"it raised {type(error).__name__}: {error}") from error
        if not isinstance(issued, Identity):
            raise BadUpdate(Fault.ISSUANCE, f"it returned {type(issued).__name__}, which is no Identity")
        if issued.chosen is not None:
            check_not_expired(issued.chosen, self._clock())
        return issued
