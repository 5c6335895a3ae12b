# SPDX-License-Identifier: Apache-2.0
"""What is logged of failures that repeat: each once until it is over, and never more lines than somebody can read."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Reports"]

_log = logging.getLogger("otel_spiffe.credentials")

PERIOD: Final = 600.0
"""Seconds in which no more than `LINES` sentences are logged: strangers choose what some of them say."""
LINES: Final = 128
_AGE: Final = re.compile(r"\d+ s (ago|from now)")


class Reports:
    """Logs the failures of `who`, from any thread; without a lock, so that a fork copies none that is held."""

    def __init__(
        self,
        who: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        warn: Callable[..., object] = _log.warning,
    ) -> None:
        self._who = who
        self._clock = clock
        self._warn = warn
        self._said: dict[str, str] = {}  # what it is about, oldest first
        self._since = clock()
        self._lines = 0
        self._unsaid = 0

    def say(self, sentence: str, *, about: str) -> None:
        """Log `sentence`, unless it was logged since `about` was last `over`; that time goes by makes it no news."""
        self._turn()
        gist = _AGE.sub("", sentence)
        if gist in self._said:
            return
        if self._lines >= LINES:
            self._unsaid += 1
            return
        self._lines += 1
        for oldest in list(self._said)[: max(0, len(self._said) - LINES + 1)]:
            self._said.pop(oldest, None)
        self._said[gist] = about
        self._warn("%s: %s", self._who, sentence)

    def over(self, about: str) -> bool:
        """Forget what was said about `about`, so that it would be news again; return whether there was any."""
        if not self._said:
            return False
        known = [gist for gist, of in list(self._said.items()) if of == about]
        for gist in known:
            self._said.pop(gist, None)
        return bool(known)

    def _turn(self) -> None:
        now = self._clock()
        if now - self._since < PERIOD:
            return
        unsaid, self._since, self._lines, self._unsaid = self._unsaid, now, 0, 0
        if unsaid:
            self._warn("%s: %d more failures were not logged one by one", self._who, unsaid)
