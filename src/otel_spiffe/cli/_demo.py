# SPDX-License-Identifier: Apache-2.0
"""Runs the demo: shows the stage's story until its time is over, then counts, sums up and judges."""

from __future__ import annotations

import codecs
import contextlib
import logging
import sys
import time
from typing import TYPE_CHECKING, Protocol

from otel_spiffe import environment
from otel_spiffe.cli._ends import INTERRUPTED, TERMINATED, Terminated, failed, sigterm_raises
from otel_spiffe.cli._lines import Lines, summary
from otel_spiffe.cli._stage import ATTEMPTS, Stage
from otel_spiffe.cli._story import problems
from otel_spiffe.errors import OtelSpiffeError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from otel_spiffe.cli._story import Story

__all__ = ["run"]

_FRAME_SECONDS = 0.1
_FOREIGN = ("OTEL_", "SPIFFE_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")  # nothing here leaves the machine
_HINT = "(for the live view: pip install 'otel-spiffe[cli]')"


class _View(Protocol):
    def show(self, story: Story) -> None: ...


def run(*, seconds: float, plain: bool) -> int:
    """Run the demo and return the program's exit code.

    Args:
        seconds: how long the app runs.
        plain: lines, even on a terminal.
    """
    environment.forget(*_FOREIGN)
    try:
        with sigterm_raises():
            story = _play(seconds, _view(plain=plain))
        found = problems(story, attempts=ATTEMPTS)
        sys.stdout.write(summary(story, found) + "\n")
        sys.stdout.flush()
    except Terminated:
        sys.stderr.write("\nterminated; everything is closed\n")
        return TERMINATED
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; everything is closed\n")
        return INTERRUPTED
    except (OSError, OtelSpiffeError) as error:
        return failed(error)
    return 1 if found else 0


def _play(seconds: float, view: AbstractContextManager[_View]) -> Story:
    with Stage.open(seconds) as stage, _overheard(stage), view as shown:
        while not stage.over:
            shown.show(stage.story())
            time.sleep(_FRAME_SECONDS)
        story = stage.finish()
        shown.show(story)
        return story


def _view(*, plain: bool) -> AbstractContextManager[_View]:
    reconfigure: Callable[..., None] | None = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:  # it is a real file, in whatever encoding
        reconfigure(errors="backslashreplace")
    if plain or not sys.stdout.isatty() or codecs.lookup(sys.stdout.encoding).name != "utf-8":
        return Lines(sys.stdout)
    try:
        from otel_spiffe.cli._screen import Screen  # noqa: PLC0415 -- rich comes with an extra
    except ImportError:
        sys.stderr.write(_HINT + "\n")
        return Lines(sys.stdout)
    screen = Screen()
    return screen if screen.can_move else Lines(sys.stdout)


class _Overhear(logging.Handler):
    def __init__(self, stage: Stage) -> None:
        super().__init__(logging.WARNING)
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if not self._stage.expects(message):
            self._stage.note("log", message, bad=record.levelno >= logging.ERROR)


@contextlib.contextmanager
def _overheard(stage: Stage) -> Generator[None]:
    """Put what the libraries log into the story, where it disturbs no picture; an error is a failed export."""
    handler = _Overhear(stage)
    loggers = [logging.getLogger(name) for name in ("otel_spiffe", "opentelemetry")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagated in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = propagated
