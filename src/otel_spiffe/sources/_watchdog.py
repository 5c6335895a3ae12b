# SPDX-License-Identifier: Apache-2.0
"""Ends a call in which nothing comes although something should have."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["LOOK_EVERY", "Watchdog"]

LOOK_EVERY: Final = 60.0
"""Seconds between two looks at the clock, which may be set meanwhile."""


class Watchdog:
    """Calls `late` once, from a thread of its own: without a first message in time, or when the last one has run out.

    gRPC's deadline is that of the whole stream, which is to stay open for ever. Where no thread starts any
    more, at the interpreter's end, there is no deadline; who waits then has one of its own.

    Args:
        silent_after: seconds within which the first message must come.
        left: returns the seconds for which what came may be used.
        late: ends the call; may be called while a message is being taken.
    """

    def __init__(self, silent_after: float, left: Callable[[], float], late: Callable[[], None]) -> None:
        self._until = time.monotonic() + silent_after
        self._left = left
        self._late = late
        self._changed = threading.Condition()
        self._came = False
        self._taking = False
        self._ended = False
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="otel-spiffe watchdog", daemon=True
        )

    def __enter__(self) -> Self:
        try:
            if self._thread is not None:
                self._thread.start()
        except RuntimeError:
            self._thread = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._set(taking=False, ended=True)
        if self._thread is not None:
            self._thread.join()

    def taking(self) -> None:
        """Know that a message came; how long what came before may be used counts no more."""
        self._set(taking=True)

    def taken(self) -> None:
        """Know that it was taken, or refused."""
        self._set(taking=False)

    def _set(self, *, taking: bool, ended: bool = False) -> None:
        with self._changed:
            self._came, self._taking, self._ended = self._came or taking, taking, ended
            self._changed.notify_all()

    def _run(self) -> None:
        with self._changed:
            while not self._ended:
                seconds = self._wait_for()
                if seconds is not None and seconds <= 0:
                    break
                self._changed.wait(seconds)
            else:
                return
        self._late()

    def _wait_for(self) -> float | None:
        if self._taking:
            return None
        return min(self._left(), LOOK_EVERY) if self._came else self._until - time.monotonic()
