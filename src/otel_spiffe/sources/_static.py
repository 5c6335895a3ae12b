# SPDX-License-Identifier: Apache-2.0
"""A source of one identity that never changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_spiffe.sources._base import CellSource
from otel_spiffe.sources._cell import Cell, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from opentelemetry.metrics import MeterProvider

    from otel_spiffe.identity import Identity

__all__ = ["StaticSource"]


class StaticSource(CellSource):
    """Gives out one identity until it expires: for tests, and for material that something else renews."""

    def __init__(
        self,
        identity: Identity,
        *,
        clock: Callable[[], datetime] = utc_now,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        super().__init__(Cell("static source", clock=clock, meter_provider=meter_provider))
        self._cell.put(identity)

    def __repr__(self) -> str:
        return f"StaticSource({self._cell.health().id})"
