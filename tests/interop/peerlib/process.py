# SPDX-License-Identifier: Apache-2.0
"""A program of somebody else, started, watched until it is ready, and stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

__all__ = ["Process", "free_port", "started"]

READY = 60.0
"""Seconds until a peer must say that it is ready; a busy machine is slow."""

_KEEP = 200

started: deque[Process] = deque(maxlen=16)
"""The programs that were started last, for a failure's report: also those that nothing else holds any more."""


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """Runs a program and keeps what it says."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        name: str,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str | None = None,
    ) -> None:
        self.name = name
        self.lines: list[str] = []
        self._heard = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environ or {})},
            cwd=cwd,
            text=True,
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C is for pytest, which then stops it
        )
        if stdin is not None and self._process.stdin is not None:
            self._process.stdin.write(stdin)
            self._process.stdin.flush()  # and stays open
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()
        started.append(self)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """The end of what it said, for a failure's report."""
        return f"---- {self.name}, pid {self.pid}\n" + "\n".join(self.lines[-_KEEP:])

    def wait_for_line(self, pattern: str, *, timeout: float = READY, since: int = 0) -> re.Match[str]:
        """Wait until a line matches and return the match.

        Args:
            pattern: a regular expression, searched.
            timeout: seconds.
            since: how many lines to leave out from the beginning.
        """
        wanted = re.compile(pattern)
        position, match = since, None
        with self._heard:

            def found() -> bool:
                nonlocal position, match
                while match is None and position < len(self.lines):
                    match = wanted.search(self.lines[position])
                    position += 1
                return match is not None or self._ended

            self._heard.wait_for(found, timeout)
        if match is None:
            state = "ended" if self._ended else f"did not within {timeout} s"
            raise TimeoutError(f"{self.name}: waited for {pattern!r}, it {state}\n{self.log}")
        return match

    def wait(self, *, timeout: float) -> int:
        """Wait until it ends and return its exit code."""
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def pause(self) -> None:
        """Stop every thread of it (SIGSTOP), and return when the kernel has; Linux."""
        self.signal(signal.SIGSTOP)
        while any(") T " not in task.read_text() for task in Path(f"/proc/{self.pid}/task").glob("*/stat")):
            threading.Event().wait(0.005)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self.stop()

    def stop(self) -> None:
        """Ask it to end, and end it where it does not; may be called again."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.wait(timeout=READY)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _read(self) -> None:
        with contextlib.suppress(ValueError):  # closed under the reader
            for line in self._process.stdout or ():
                with self._heard:
                    self.lines.append(line.rstrip("\n"))
                    self._heard.notify_all()
        with self._heard:
            self._ended = True
            self._heard.notify_all()
