# SPDX-License-Identifier: Apache-2.0
"""When to issue again, and the thread that does."""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.rotation import REFRESH

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from otel_spiffe.identity import Identity

__all__ = ["Rotation", "pause_after"]

_RETRY = timedelta(seconds=1)  # after `issue` raised
_SHORTEST = timedelta(milliseconds=100)  # or an SVID that is issued expired would spin
_LOOK_SECONDS = 60.0  # a wait does not count the time that the machine sleeps, or that its clock is set forward by
_JOIN_SECONDS = 5.0  # for an issuer that hangs: its thread is a daemon

_logger = logging.getLogger("otel_spiffe.ca")


def pause_after(identity: Identity, *, now: datetime) -> timedelta:
    """Return how long `identity` may be served until it is issued again.

    That is half of what remains to its X509-SVID or to one of its revocation lists, whichever ends first: peers
    refuse an SVID beside a list that has expired. An expired list, which `issue` may not be able to renew, has it
    issued as often as bundles alone.
    """
    ends = [identity.expires_at, *(crl.next_update_utc for crl in identity.crls)]
    pauses = [max((end - now) / 2, _SHORTEST) for end in ends if end is not None and end > now]
    if identity.expires_at is not None and identity.expires_at <= now:
        pauses.append(_SHORTEST)
    if identity.expires_at is None or any(end <= now for end in ends[1:] if end is not None):
        pauses.append(REFRESH)
    return min(pauses)


class Rotation:
    """One thread that issues again and again; a failure keeps what is served and tries again."""

    def __init__(
        self,
        issue: Callable[[], Identity],
        publish: Callable[[Identity], None],
        *,
        every: timedelta | None,
        clock: Callable[[], datetime],
    ) -> None:
        if every is not None and every <= timedelta(0):
            raise InvalidConfiguration("every", f"{every} is no time to wait", fix="give more than zero, or None")
        self._issue = issue
        self._publish = publish
        self._every = every
        self._clock = clock
        self._issuing = threading.Lock()
        self._changed = threading.Condition()
        self._paused = self._closed = False
        self._pauses = 0
        self._plan(REFRESH)
        self._thread = threading.Thread(target=self._run, name="otel-spiffe-workload-api-rotation", daemon=True)

    def rotate(self) -> None:
        """Issue and publish now; ends a pause."""
        with self._changed:
            self._paused = False
        self._once()

    def pause(self) -> None:
        """Issue no more until `rotate` or `resume`, and publish nothing of a call that is under way."""
        with self._changed:
            self._paused = True
            self._pauses += 1

    def resume(self, identity: Identity) -> None:
        """Go on, as if `identity` had just been issued."""
        with self._changed:
            self._paused = False
            self._plan_after(identity)
            self._changed.notify_all()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Issue no more, and join the thread, unless it is the caller's or hangs in `issue`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)
            if self._thread.is_alive():
                _logger.warning("the issuer did not return in %s s after close; its thread is left", _JOIN_SECONDS)

    def _run(self) -> None:
        failed = False
        while self._wait():
            try:
                self._once()
            except BaseException:  # CancelledError or SystemExit, too: what is served would end with this thread
                if not failed:
                    _logger.exception("issuing failed; the last identity stays served")
                failed = True
                with self._changed:
                    self._plan(_RETRY)
            else:
                failed = False

    def _wait(self) -> bool:
        """Wait until it is time to issue; return whether it is, and not closed."""
        with self._changed:
            while not self._closed and (self._paused or self._left() > 0):
                self._changed.wait(_LOOK_SECONDS if self._paused else min(self._left(), _LOOK_SECONDS))
            return not self._closed

    def _once(self) -> None:
        with self._issuing:
            with self._changed:
                pauses = self._pauses
            identity = self._issue()
            with self._changed:
                if self._pauses == pauses and not self._closed:
                    self._publish(identity)
                    self._plan_after(identity)

    def _plan_after(self, identity: Identity) -> None:
        self._plan(self._every if self._every is not None else pause_after(identity, now=self._clock()))

    def _plan(self, pause: timedelta) -> None:
        # By both clocks: a wall clock that is set back must not delay it, nor a sleep of the machine.
        self._due_at = self._clock() + pause
        self._due_by = time.monotonic() + pause.total_seconds()

    def _left(self) -> float:
        return min((self._due_at - self._clock()).total_seconds(), self._due_by - time.monotonic())
