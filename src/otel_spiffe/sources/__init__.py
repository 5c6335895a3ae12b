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
from otel_spiffe.sources._files import FileSource
from otel_spiffe.sources._issuing import IssuingSource
from otel_spiffe.sources._layout import (
    CREDENTIAL_BUNDLE,
    KUBERNETES_TLS,
    LAYOUTS,
    SPIFFE_ENABLE,
    SPIFFE_HELPER,
    Layout,
)
from otel_spiffe.sources._limits import DEFAULT_LIMITS, Limits
from otel_spiffe.sources._spiffe import SpiffeSource, from_spiffe
from otel_spiffe.sources._static import StaticSource
from otel_spiffe.sources._workload_api import WorkloadApiSource

__all__ = [
    "CREDENTIAL_BUNDLE",
    "DEFAULT_LIMITS",
    "KUBERNETES_TLS",
    "LAYOUTS",
    "SPIFFE_ENABLE",
    "SPIFFE_HELPER",
    "Fault",
    "FileSource",
    "IssuingSource",
    "Layout",
    "Limits",
    "SpiffeSource",
    "StaticSource",
    "WorkloadApiSource",
    "from_spiffe",
]
