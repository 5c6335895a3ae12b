# SPDX-License-Identifier: Apache-2.0
"""Where an identity comes from: each source keeps the newest one in a cell that any thread may read.

Workload API ─┐
files ────────┤                         ┌─► identity(), wait()
a callable ───┼─► parse, check ─► cell ─┼─► subscribers
spiffe ───────┤                         └─► health(), metrics
one value ────┘
"""

from __future__ import annotations

from otel_spiffe.sources._fault import Fault
from otel_spiffe.sources._limits import DEFAULT_LIMITS, Limits
from otel_spiffe.sources._static import StaticSource
from otel_spiffe.sources._workload_api import WorkloadApiSource

__all__ = ["DEFAULT_LIMITS", "Fault", "Limits", "StaticSource", "WorkloadApiSource"]
