# SPDX-License-Identifier: Apache-2.0
"""The end of a connection's X509-SVIDs: the client is told to leave shortly before, and it is closed at the end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["Lifetime", "seconds_before"]

SHARE: Final = 0.1
"""Of what is left, as the notice given."""
MAX_NOTICE: Final = 30.0
"""Seconds of notice at the most."""
RECHECK: Final = 60.0
"""Seconds after which the clock is read again: it may be set while a timer runs, and timers stand still while the
machine sleeps."""


def seconds_before(left: float) -> float:
    """Return how long before the end notice is given, when `left` seconds remain at the beginning."""
    return min(left * SHARE, MAX_NOTICE)


class Lifetime:
    """Watches one moment.

    Args:
        loop: where it lives.
        end: the moment, aware.
        notice: called once, shortly before.
        over: called once, then.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        end: datetime,
        *,
        notice: Callable[[], object],
        over: Callable[[], object],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._loop = loop
        self._end = end
        self._notice: Callable[[], object] | None = notice
        self._over = over
        self._clock = clock
        self._notice_before = seconds_before(self._left())
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._look()

    def stop(self) -> None:
        """Call nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _left(self) -> float:
        return (self._end - self._clock()).total_seconds()

    def _look(self) -> None:
        left = self._left()
        if left <= 0:
            self._over()
            return
        if self._notice is not None and left <= self._notice_before:
            notice, self._notice = self._notice, None
            notice()
        wait = left if self._notice is None else left - self._notice_before
        self._timer = self._loop.call_later(min(wait, RECHECK), self._look)
