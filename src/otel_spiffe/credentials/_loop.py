# SPDX-License-Identifier: Apache-2.0
"""The one event loop of this process's relays, in a daemon thread, with threads beside it that resolve names and log.

All of them are started when the first relay opens and end when the last one closes. Nothing on the way to a
connection starts another thread or uses an executor: while the interpreter shuts down, when exporters send what
they still hold, neither is possible any more (`cannot schedule new futures after interpreter shutdown`, and from
Python 3.12 on `can't create new thread at interpreter shutdown`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import selectors
import threading
from typing import TYPE_CHECKING, Protocol

from otel_spiffe.credentials._resolve import Resolver
from otel_spiffe.credentials._teller import Teller

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BackgroundLoop", "Tenant", "enter", "leave"]

_log = logging.getLogger("otel_spiffe.credentials")

JOIN_TIMEOUT = 10.0
"""Seconds that the last relay's close() waits for the loop to end."""
PARK_TIMEOUT = 5.0
"""Seconds that a fork waits for the loop to come to rest."""


class Tenant(Protocol):
    """Whoever lives on the loop, and must be set up anew in the child of a fork."""

    def after_fork_in_child(self, loop: BackgroundLoop) -> None:
        """Give up what belongs to the parent and begin anew on `loop`; no thread but the calling one exists."""
        ...


class BackgroundLoop:
    """An asyncio event loop in its own thread."""

    def __init__(self) -> None:
        # Our own selector: after a fork the child must let go of the epoll instance that it shares with the
        # parent, without taking anything out of it, and asyncio has no public way to do that.
        self._selector = selectors.DefaultSelector()
        self.asyncio = asyncio.SelectorEventLoop(self._selector)
        self.resolver = Resolver(self.asyncio)
        self._teller = Teller()
        self._thread = threading.Thread(target=self._run, name="otel-spiffe relay", daemon=True)
        self._parked = threading.Event()
        self._go_on = threading.Event()

    def start(self) -> None:
        """Start the threads.

        Raises:
            RuntimeError: the interpreter is shutting down, so that no thread can be started.
        """
        self._thread.start()
        self.resolver.start()
        self._teller.start()

    def tell(self, log: Callable[..., object], *arguments: object) -> None:
        """Have a log line written soon, by a thread that may wait for its handlers."""
        self._teller.tell(functools.partial(log, *arguments))

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Have `function` called on the loop, soon; nothing happens once the loop has ended."""
        try:
            self.asyncio.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            if not self.asyncio.is_closed():
                raise

    def run(self, function: Callable[[], object]) -> None:
        """Call `function` on the loop and return when it has returned, at once when called there."""
        if threading.current_thread() is self._thread:
            function()
            return
        done = threading.Event()

        def call() -> None:
            try:
                function()
            finally:
                done.set()

        self.call(call)
        if not done.wait(JOIN_TIMEOUT):
            _log.warning("the relay's loop has not answered for %g s", JOIN_TIMEOUT)

    def stop(self) -> None:
        """End the threads and close the loop."""
        self.call(self.asyncio.stop)
        self.resolver.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join(JOIN_TIMEOUT)
        self._teller.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self.asyncio)
        try:
            self.asyncio.run_forever()
            self.asyncio.run_until_complete(_wind_up())
        finally:
            self.asyncio.close()

    def park(self) -> None:
        """Have the loop's thread wait outside OpenSSL and outside every lock, so that a fork copies none held."""
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            return
        self._parked.clear()
        self._go_on.clear()
        self.call(self._park)
        if not self._parked.wait(PARK_TIMEOUT):
            _log.warning("the relay's loop has not come to rest for %g s; forking all the same", PARK_TIMEOUT)

    def _park(self) -> None:
        self._parked.set()
        self._go_on.wait(PARK_TIMEOUT)

    def unpark(self) -> None:
        """Have the loop go on."""
        self._go_on.set()

    def abandon(self) -> None:
        """Let go, in the child, of what the parent's loop holds, without a change to what both share."""
        self._selector.close()  # this process's descriptor of the epoll instance; the parent's stays as it is
        # Not `self.asyncio.close()`: it would take descriptors out of the shared epoll instance. What is left
        # behind are the two ends of its wake-up socket pair.
        _abandoned.append(self)


_abandoned: list[BackgroundLoop] = []


async def _wind_up() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # what tasks that had ended before have left to do


class _House:
    """The loop, and who lives on it. Forks are watched from the first tenant on."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._loop: BackgroundLoop | None = None
        self._tenants: dict[Tenant, None] = {}
        self._watching = False

    def enter(self, tenant: Tenant) -> BackgroundLoop:
        with self._lock:
            if self._loop is None:
                loop = BackgroundLoop()
                loop.start()
                self._loop = loop
            self._watch_forks()
            self._tenants[tenant] = None
            return self._loop

    def leave(self, tenant: Tenant) -> None:
        with self._lock:
            self._tenants.pop(tenant, None)
            loop = self._loop
            if self._tenants or loop is None:
                return
            self._loop = None
        loop.stop()

    def _watch_forks(self) -> None:
        if not self._watching and hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before_fork,
                after_in_parent=self._after_fork_in_parent,
                after_in_child=self._after_fork_in_child,
            )
        self._watching = True

    def _before_fork(self) -> None:
        self._lock.acquire()  # until after the fork: nobody moves in or out in between
        if self._loop is not None:
            self._loop.park()

    def _after_fork_in_parent(self) -> None:
        if self._loop is not None:
            self._loop.unpark()
        self._lock.release()

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        before, self._loop = self._loop, None
        if before is not None:
            before.abandon()
        if not self._tenants:
            return
        loop = BackgroundLoop()
        self._loop = loop
        for tenant in tuple(self._tenants):
            try:
                tenant.after_fork_in_child(loop)
            except Exception:  # noqa: BLE001 -- outermost frame: the interpreter would print it and go on
                _log.exception("%r could not begin anew after a fork", tenant)
        loop.start()


_house = _House()
enter = _house.enter
leave = _house.leave
