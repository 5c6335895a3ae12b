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
import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ForkAware", "watch_forks"]


class ForkAware(Protocol):
    """Whoever has threads or locks that a fork would leave behind."""

    def before_fork(self) -> None:
        """Reach a state in which a fork does no harm; must return soon."""
        ...

    def after_fork_in_parent(self) -> None:
        """Go on."""
        ...

    def after_fork_in_child(self) -> None:
        """Begin anew: no thread but the calling one exists, and any lock may be held by one that does not."""
        ...


class _Registry:
    """The living sources of one kind; hooked into the process with the first of them."""

    def __init__(self, before_hooking: Callable[[], None]) -> None:
        self._before_hooking = before_hooking
        self._lock = threading.RLock()
        self._open: weakref.WeakSet[ForkAware] = weakref.WeakSet()
        self._forking: list[ForkAware] = []
        self._hooked = False

    def add(self, source: ForkAware) -> None:
        with self._lock:
            self._open.add(source)
            if not self._hooked:
                self._hooked = True
                self._before_hooking()
                os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def _before(self) -> None:
        self._lock.acquire()  # until after the fork: no source may open in between
        self._forking = list(self._open)
        for source in self._forking:
            source.before_fork()

    def _in_parent(self) -> None:
        forking, self._forking = self._forking, []
        for source in forking:
            source.after_fork_in_parent()
        self._lock.release()

    def _in_child(self) -> None:
        self._lock = threading.RLock()
        forking, self._forking = self._forking, []
        for source in forking:
            source.after_fork_in_child()


def _let_grpc_hook_first() -> None:
    # `before` handlers run last registered first, the others first registered first. With
    # GRPC_ENABLE_FORK_SUPPORT grpcio registers its own with the first channel, and its child handler cancels the
    # calls of every channel there is: run after ours it waits for ever for the one that we had just opened.
    import grpc  # noqa: PLC0415 -- sources without gRPC do not load it

    grpc.insecure_channel("unix:/nonexistent").close()


_plain = _Registry(lambda: None)
_with_grpc = _Registry(_let_grpc_hook_first)


def watch_forks(source: ForkAware, *, uses_grpc: bool = False) -> None:
    """Have the methods of `source` called around each fork, as long as it lives.

    Args:
        source: whose methods.
        uses_grpc: it is to leave gRPC before gRPC's own fork handlers run, and to come back after them.
    """
    (_with_grpc if uses_grpc else _plain).add(source)
