# SPDX-License-Identifier: Apache-2.0
"""How the program ends when it cannot go on: signals, and an output that takes no more."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType
    from typing import TextIO

__all__ = ["FAILED", "INTERRUPTED", "TERMINATED", "Terminated", "failed", "sigterm_raises"]

FAILED = 1
INTERRUPTED = 128 + signal.SIGINT  # as shells have it
TERMINATED = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM came: everything is closed as after Ctrl-C."""


@contextlib.contextmanager
def sigterm_raises() -> Generator[None]:
    """Have the first SIGTERM raise `Terminated` here, unless it is ignored; the next one does what it did before."""
    before = signal.getsignal(signal.SIGTERM)

    def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, before)
        raise Terminated

    ours = threading.current_thread() is threading.main_thread() and before not in {signal.SIG_IGN, None}
    if ours:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


def failed(error: Exception) -> int:
    """Say in one sentence why the demo could not go on, and return the program's exit code."""
    with contextlib.suppress(OSError):  # it may be stderr that takes no more
        sys.stderr.write(f"otel-spiffe demo: {error}\n")
    for stream in (sys.stdout, sys.stderr):
        _unburden(stream)
    return FAILED


def _unburden(stream: TextIO) -> None:
    """Have what `stream` cannot write go nowhere: Python would try again when it ends, and exit with 120."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
