# SPDX-License-Identifier: Apache-2.0
"""Subscribers of one source, and the one thread that calls them."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_spiffe.identity import Identity

__all__ = ["JOIN_TIMEOUT", "Subscribers"]

_log = logging.getLogger("otel_spiffe.sources")

JOIN_TIMEOUT = 10.0
"""Seconds that `close()` waits for a thread that runs foreign code (a callback, a picker, an issuer)."""


class _Subscriber:
    """One callback and the newest generation it was given."""

    __slots__ = ("callback", "seen")

    def __init__(self, callback: Callable[[Identity], object]) -> None:
        self.callback = callback
        self.seen = 0


class Subscribers:
    """Calls each subscriber with the newest identity; those that came and went while it was busy are left out.

    The thread exists only while there is a subscriber.
    """

    def __init__(self, name: str, current: Callable[[], Identity | None]) -> None:
        self._name = name
        self._current = current
        self._changed = threading.Condition()
        self._subscribers: tuple[_Subscriber, ...] = ()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, callback: Callable[[Identity], object]) -> Callable[[], None]:
        """Have `callback` called with the current identity and each later one, until the returned function is."""
        subscriber = _Subscriber(callback)
        with self._changed:
            if self._closed:
                return lambda: None
            self._subscribers = (*self._subscribers, subscriber)
            started = self._started()
            self._changed.notify_all()
        if not started:
            self._deliver(subscriber, self._current())
        return lambda: self._remove(subscriber)

    def wake(self) -> None:
        """Have the thread look for a newer identity."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Call nobody any more and end the thread, unless this is that thread."""
        with self._changed:
            self._closed = True
            self._subscribers = ()
            thread = self._thread
            self._changed.notify_all()
        if thread is None or thread is threading.current_thread():
            return
        thread.join(JOIN_TIMEOUT)
        if thread.is_alive():
            _log.warning(
                "%s: a subscriber has not returned for %g s, its thread is left behind", self._name, JOIN_TIMEOUT
            )

    def after_fork_in_child(self) -> None:
        """Have a lock and a thread of this process; who held the lock in the parent does not exist here."""
        self._changed = threading.Condition()
        with self._changed:
            self._thread = None
            if self._subscribers and not self._closed:
                self._started()

    def _remove(self, subscriber: _Subscriber) -> None:
        with self._changed:
            self._subscribers = tuple(each for each in self._subscribers if each is not subscriber)
            self._changed.notify_all()

    def _started(self) -> bool:
        if self._thread is not None:
            return True
        thread = threading.Thread(target=self._run, name=f"otel-spiffe subscribers of {self._name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # From Python 3.12 on no thread starts while the interpreter shuts down. There will be no rotation
            # either in what remains of it, so the one call with the current identity is all that is missing.
            return False
        self._thread = thread
        return True

    def _run(self) -> None:
        while (due := self._next()) is not None:
            self._deliver(*due)

    def _next(self) -> tuple[_Subscriber, Identity] | None:
        with self._changed:
            if self._thread is not threading.current_thread():
                return None  # a callback forked: the child has a thread of its own for its subscribers
            while self._subscribers:
                identity = self._current()
                if identity is not None:
                    for subscriber in self._subscribers:
                        if subscriber.seen != identity.generation:
                            return subscriber, identity
                self._changed.wait()
            self._thread = None
            return None

    def _deliver(self, subscriber: _Subscriber, identity: Identity | None) -> None:
        if identity is None:
            return
        subscriber.seen = identity.generation
        try:
            subscriber.callback(identity)
        except BaseException:  # noqa: BLE001 -- foreign code, in this thread's outermost frame; it may exit or cancel
            _log.exception(
                "%s: subscriber %r failed at generation %d", self._name, subscriber.callback, identity.generation
            )
