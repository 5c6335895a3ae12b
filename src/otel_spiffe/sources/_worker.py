# SPDX-License-Identifier: Apache-2.0
"""The one thread of a source: it takes turns, waits in between, can be parked for a fork, and ends."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,  # pyright: ignore[reportPrivateUsage]  # every instrumentation imports it so
    attach,
    set_value,
)

from otel_spiffe.sources._subscribers import JOIN_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Worker"]

_log = logging.getLogger("otel_spiffe.sources")

_AFTER_A_BUG = 10.0  # seconds
PARK_TIMEOUT = 5.0
"""Seconds that a fork waits for the thread to leave what it is doing."""


class Worker:
    """Runs `turn` on a daemon thread again and again.

    Args:
        name: of the thread.
        turn: one turn; returns the seconds to wait before the next one, or None to end.
        interrupt: makes a turn that is under way return soon; may be called when none is.
    """

    def __init__(self, name: str, turn: Callable[[], float | None], interrupt: Callable[[], None]) -> None:
        self._name = name
        self._turn = turn
        self._interrupt = interrupt
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._parking = False
        self._parked = False
        self._nudged = False
        self._ended = False
        self._turns = 0
        self._deaf_in = -1  # no turn

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def interrupted(self) -> bool:
        """Whether a turn should return: look at it after what `interrupt` interrupts has been set up."""
        return self._stopping or self._parking

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def nudge(self) -> None:
        """End the wait between two turns."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def stop(self) -> None:
        """End the thread and wait until it has, unless this is that thread."""
        with self._changed:
            self._stopping = True
            thread = self._thread
            self._changed.notify_all()
        self._interrupt()
        if thread is None or thread is threading.current_thread():
            return
        thread.join(JOIN_TIMEOUT)
        if thread.is_alive():
            _log.warning("%s has not ended for %g s and is left behind", self._name, JOIN_TIMEOUT)

    def ask_to_park(self) -> None:
        """Have the thread do nothing, soon, until `unpark`."""
        if not self.alive or self._is_current():
            return
        with self._changed:
            self._parking = True
            self._changed.notify_all()
        self._interrupt()

    def park(self, until: float | None = None) -> bool:
        """Have the thread do nothing until `unpark`; say whether it got there in time.

        A turn that was waited for in vain is not waited for again.

        Args:
            until: when to wait no longer, by `time.monotonic`; None for `PARK_TIMEOUT` from now.
        """
        if not self.alive or self._is_current():
            return True
        self.ask_to_park()
        seconds = until - time.monotonic() if until is not None else PARK_TIMEOUT
        with self._changed:
            deaf = self._turns == self._deaf_in
            parked = self._changed.wait_for(lambda: self._parked or self._ended, 0.0 if deaf else max(seconds, 0.0))
            self._deaf_in = -1 if parked else self._turns
            return parked

    def unpark(self) -> None:
        """Have the thread go on, with a turn at once."""
        with self._changed:
            self._parking = False
            self._changed.notify_all()

    def restart_after_fork(self) -> None:
        """Have a thread of this process, if there was one before the fork."""
        was_alive = self._thread is not None and not self._stopping and not self._ended
        self._changed = threading.Condition()
        self._thread, self._parking, self._parked = None, False, False
        if was_alive:
            self.start()

    def _run(self) -> None:
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, value=True))  # or telemetry about telemetry would loop
        while self._may_go_on():
            delay = self._guarded_turn()
            if delay is None:
                break
            self._wait(delay)
        with self._changed:
            if self._is_current():
                self._ended = True
                self._changed.notify_all()

    def _is_current(self) -> bool:
        return self._thread is threading.current_thread()

    def _may_go_on(self) -> bool:
        with self._changed:
            if not self._is_current():
                return False  # foreign code forked in a turn: the child's source has a thread of its own
            while self._parking and not self._stopping:
                self._parked = True
                self._changed.notify_all()
                self._changed.wait()
            self._parked = False
            self._turns += 1
            return not self._stopping

    def _guarded_turn(self) -> float | None:
        try:
            return self._turn()
        except BaseException:  # noqa: BLE001 -- the thread's outermost frame: a source must not die of a bug
            _log.exception("%s failed, which is a bug; it goes on in %g s", self._name, _AFTER_A_BUG)
            return _AFTER_A_BUG

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._changed:
            while not self._nudged and not self.interrupted and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            self._nudged = False
