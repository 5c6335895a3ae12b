# SPDX-License-Identifier: Apache-2.0
"""The thread that writes the relays' log lines: a handler that blocks must not stop what all relays run on.

OpenTelemetry's own `LoggingHandler` may be such a one: with a processor that exports at once, a line about a relay
waits for an export that goes through a relay.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Teller"]

STOP_TIMEOUT: Final = 2.0
"""Seconds that the end waits for lines that are not written yet."""
MAX_LINES: Final = 256
"""Lines that wait to be written; those that come when there are so many are lost."""


class Teller:
    """Calls what it is given, one after another, on a thread of its own."""

    def __init__(self) -> None:
        self._lines: queue.Queue[Callable[[], object] | None] = queue.Queue(MAX_LINES)
        self._thread = threading.Thread(target=self._run, name="otel-spiffe log", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def tell(self, line: Callable[[], object]) -> None:
        """Have `line` called soon."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(line)

    def stop(self) -> None:
        """Call what waits, and end."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=STOP_TIMEOUT)
            if self._thread.ident is not None and threading.current_thread() is not self._thread:
                self._thread.join(STOP_TIMEOUT)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(Exception):  # a handler's; logging has its own way of telling
                line()
