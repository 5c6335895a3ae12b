# SPDX-License-Identifier: Apache-2.0
"""The way from the benchmarks to the peers that the interop tests build."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "interop"))

from benchmarks._table import Row

__all__ = ["without_go"]


def without_go() -> list[Row]:
    """Return a row that says why nothing can be measured here, or none."""
    from peerlib import missing  # noqa: PLC0415 -- from the folder above

    reason = missing()
    return [Row(what="skipped", figure=reason)] if reason else []
