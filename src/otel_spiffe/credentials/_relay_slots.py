# SPDX-License-Identifier: Apache-2.0
"""Numbers of descriptors that are not soon used again."""

from __future__ import annotations

import os
import sys
from typing import Final

__all__ = ["Slots"]

if sys.platform != "win32":
    import fcntl
    import resource

CEILING: Final = 4096
"""Slots stay below it: the kernel keeps 8 bytes for each number up to the highest in use."""


class Slots:
    """Moves descriptors to numbers in the upper half of what the process may have, each in its turn.

    A channel that outlives its relay goes on to dial the relay's descriptor by its number. The kernel gives out the
    lowest free one, so the next relay would have the same, and calls meant for one server went to another.
    """

    def __init__(self) -> None:
        self._next = 0

    def move(self, descriptor: int) -> int:
        """Return another number for `descriptor`, which is closed; the same where no other is to be had."""
        if sys.platform == "win32":
            return descriptor
        end = _end()
        start = max(self._next, end // 2)
        for lowest in (start if start < end else end // 2, end // 2):
            try:
                slot = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
            except OSError:  # EMFILE: all from there on are in use; EINVAL: the limit was lowered
                continue
            os.close(descriptor)
            self._next = slot + 1
            return slot
        return descriptor


def _end() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CEILING if soft == resource.RLIM_INFINITY else min(soft, CEILING)
