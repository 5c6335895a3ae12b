# SPDX-License-Identifier: Apache-2.0
"""When a gRPC server may be given a new configuration without harm to handshakes that have just begun.

C-core asks for the configuration under a lock, lets the lock go, and only then makes its handshaker of what the port
has, to which it holds no reference until that is done; a new configuration frees the old one at once. So a handshake
that begins beside a change uses freed memory (grpc/grpc#36693, open since 2024), and whoever can connect can end the
process. `tests/credentials/test_server_window.py` has the canary.

The way round it: C-core asks in the thread that goes on, and holds the lock while it asks. So whoever is about to hand
out something new knows which threads were here, that none can follow, and waits until each of them has gone on.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pace", "Window", "pace"]

_PATIENCE = 1.0  # s; a thread that has not run for so long is starved
_PAUSE = 0.002  # s, between two looks
_REST = 0.05  # s; a thread that sleeps so long after it left sleeps for something else
_BLIND = 0.2  # s, in which a thread has gone on where the system does not say
_WORK = 0.02  # s of CPU; what a thread does in the window is done in a hundredth of it
_ROUNDING = 0.02  # s; the kernel rounds both halves of a thread's CPU time down, to ticks of 10 ms as a rule
_MANY = 64  # threads; C-core has a few dozen at most, and ends them when it is idle


class Pace(NamedTuple):
    """What a thread has done, and whether it could be doing more."""

    spent: float
    """Seconds of CPU since it began, less what the kernel rounds off."""

    sleeps: bool
    """It waits, for something or somebody; not for a processor."""


def pace(thread: int) -> Pace | None:
    """Return the pace of a thread of this process, by its native ID; None if there is none, as proc_pid_stat(5) says.

    Raises:
        OSError: the system does not tell.
    """
    try:
        line = Path(f"/proc/self/task/{thread}/stat").read_text("ascii", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *numbers = line.rpartition(")")[2].split()
    return Pace(spent=(int(numbers[10]) + int(numbers[11])) / os.sysconf("SC_CLK_TCK"), sleeps=state == "S")


class Window:
    """The threads that have asked for a port's configuration and may not have used it yet.

    It is asked by one thread at a time: C-core holds the port's lock.
    """

    def __init__(self, pace: Callable[[int], Pace | None] = pace) -> None:
        self._pace = pace
        self._left: dict[int, tuple[float, float]] = {}  # native ID: when it left, and the CPU it had spent

    def enter(self) -> None:
        """Note that this thread is here again: it has used what it took before."""
        self._left.pop(threading.get_native_id(), None)

    def leave(self) -> None:
        """Note that this thread goes on to use what it takes now."""
        if len(self._left) >= _MANY:
            self._forget()
        self._left[threading.get_native_id()] = time.monotonic(), time.thread_time()

    def clear(self) -> bool:
        """Wait until all that left have gone on; False if one got no processor in a second."""
        deadline = time.monotonic() + _PATIENCE
        self._forget()
        while self._left and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            self._forget()
        return not self._left

    def _forget(self) -> None:
        gone_on = self._has_gone_on if self._is_told() else self._left_long_ago
        self._left = {thread: left for thread, left in self._left.items() if not gone_on(thread, left)}

    def _is_told(self) -> bool:
        try:
            return self._pace(threading.get_native_id()) is not None  # None: this /proc is not ours, or there is none
        except OSError:
            return False

    def _has_gone_on(self, thread: int, left: tuple[float, float]) -> bool:
        since, spent = left
        try:
            now = self._pace(thread)
        except OSError:
            return False
        if now is None or now.spent < spent - _ROUNDING:  # it has ended; less: another thread has its number
            return True
        rested = now.sleeps and time.monotonic() > since + _REST
        return rested or now.spent >= spent + _WORK

    @staticmethod
    def _left_long_ago(_: int, left: tuple[float, float]) -> bool:
        return time.monotonic() > left[0] + _BLIND
