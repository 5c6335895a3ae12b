# SPDX-License-Identifier: Apache-2.0
"""OTLP exporters that speak SPIFFE mTLS: `otel_spiffe.exporters.grpc` and `otel_spiffe.exporters.http`.

keywords, ──┬─► source, shared by the exporters of one configuration ─┬─► Relay ──────► stock gRPC exporter
environment └─► authorizer ───────────────────────────────────────────┴─► session ────► stock HTTP exporter

Each transport is a module of its own, so that a program pays for the one that it uses.
"""

from __future__ import annotations

from otel_spiffe.exporters._choice import SpiffeKeywords
from otel_spiffe.exporters._keywords import MetricKeywords, StockKeywords

__all__ = ["MetricKeywords", "SpiffeKeywords", "StockKeywords"]
