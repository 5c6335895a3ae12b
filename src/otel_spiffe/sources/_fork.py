# SPDX-License-Identifier: Apache-2.0
"""One set of fork handlers for every source of the process.

Threads do not survive a fork, and gRPC's own handlers give up ("Other threads are currently calling into gRPC,
skipping fork() handlers") while one of ours is inside a call. So before a fork each source leaves gRPC, after it
the parent's goes on and the child's begins anew with the identity that it inherits. `subprocess` does not come
here: it forks without running Python in the child.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Protocol

from otel_spiffe.sources._worker import PARK_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

__all__ = ["ForkAware", "watch_forks"]


class ForkAware(Protocol):
    """Whoever has threads or locks that a fork would leave behind."""

    def ask_before_fork(self) -> None:
        """Begin to reach a state in which a fork does no harm; must return at once."""
        ...

    def before_fork(self, until: float) -> None:
        """Reach a state in which a fork does no harm; must return by that reading of `time.monotonic`."""
        ...

    def after_fork_in_parent(self) -> None:
        """Go on."""
        ...

    def after_fork_in_child(self) -> None:
        """Begin anew: no thread but the calling one exists, and any lock may be held by one that does not."""
        ...


class _Registry:
    """The living sources of one kind; hooked into the process with the first of them.

    Args:
        prepare: called before that, and in a child before its sources are.
    """

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self._lock = threading.RLock()
        self._open: weakref.WeakSet[ForkAware] = weakref.WeakSet()
        self._forking: list[ForkAware] = []
        self._hooked = False

    def add(self, source: ForkAware) -> None:
        with self._lock:
            self._open.add(source)
            if not self._hooked:
                self._hooked = True
                self._prepare()
                os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def _before(self) -> None:
        self._lock.acquire()  # until after the fork: no source may open in between
        self._forking = list(self._open)
        for source in self._forking:
            source.ask_before_fork()
        until = time.monotonic() + PARK_TIMEOUT  # for all of them together: each got ready at the same time
        for source in self._forking:
            source.before_fork(until)

    def _in_parent(self) -> None:
        forking, self._forking = self._forking, []
        for source in forking:
            source.after_fork_in_parent()
        self._lock.release()

    def _in_child(self) -> None:
        self._lock = threading.RLock()
        forking, self._forking = self._forking, []
        self._prepare()
        for source in forking:
            source.after_fork_in_child()


_kept: list[grpc.Channel] = []


def _keep_grpc_up() -> None:
    """Have one idle channel, never connected, as long as the process lives.

    First, gRPC's own handlers are registered with a process's first channel, and must be before ours: `before`
    handlers run last registered first, the others first registered first. Its child handler waits for calls to
    end, and ended up waiting for the one that ours had just begun.
    Second, closing the last channel starts a thread, grpc_shutdown, and a fork while that runs waits for ever in
    gRPC's prefork handler: 25 forks of a process whose source was its only user of gRPC were enough.
    """
    import grpc  # noqa: PLC0415 -- sources without gRPC do not load it

    _kept[:] = [grpc.insecure_channel("unix:/nonexistent")]


_plain = _Registry(lambda: None)
_with_grpc = _Registry(_keep_grpc_up)


def watch_forks(source: ForkAware, *, uses_grpc: bool = False) -> None:
    """Have the methods of `source` called around each fork, as long as it lives.

    Args:
        source: whose methods.
        uses_grpc: it is to leave gRPC before gRPC's own fork handlers run, and to come back after them.
    """
    (_with_grpc if uses_grpc else _plain).add(source)
