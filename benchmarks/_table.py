# SPDX-License-Identifier: Apache-2.0
"""Rows of results and how they are printed, and fair timing of two things beside each other."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Comparison", "Row", "compare", "percentile", "show"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: what was measured, what came out, what should, and whether it does (None: no target)."""

    what: str
    figure: str
    target: str = ""
    reached: bool | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of each call of ours and of the other, taken in turn."""

    ours: Sequence[float]
    others: Sequence[float]

    @property
    def ratio(self) -> float:
        """Ours to the other, by their medians."""
        return statistics.median(self.ours) / statistics.median(self.others)

    @property
    def best_ratio(self) -> float:
        """Ours to the other, by their fastest tenths: what is left when the machine does nothing else."""
        return percentile(self.ours, 10) / percentile(self.others, 10)

    def figure(self) -> str:
        """Say it in one line."""
        ours, others = statistics.median(self.ours), statistics.median(self.others)
        return f"{self.ratio:.3f} (fastest tenth {self.best_ratio:.3f}; {1e3 * ours:.2f} ms to {1e3 * others:.2f} ms)"


def compare(ours: Callable[[], object], other: Callable[[], object], *, calls: int) -> Comparison:
    """Time `calls` calls of each, in turn; who goes first alternates, so that a busy moment hits both alike."""
    took: dict[Callable[[], object], list[float]] = {ours: [], other: []}
    for what in (ours, other):
        what()
    for turn in range(calls):
        for what in (ours, other) if turn % 2 else (other, ours):
            start = time.perf_counter()
            what()
            took[what].append(time.perf_counter() - start)
    return Comparison(took[ours], took[other])


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, round(percent / 100 * len(ordered)) - 1))]


def show(title: str, rows: Sequence[Row]) -> None:
    """Print `rows` under `title`."""
    print(f"\n{title}")
    wide, figures = max(len(row.what) for row in rows), max(len(row.figure) for row in rows)
    for row in rows:
        mark = {True: "ok", False: "MISSED", None: ""}[row.reached]
        print(f"  {row.what:<{wide}}  {row.figure:<{figures}}  {row.target:<10} {mark}".rstrip(), flush=True)
