# SPDX-License-Identifier: Apache-2.0
"""OTLP exporters that speak SPIFFE mTLS: `otel_spiffe.exporters.grpc` and `otel_spiffe.exporters.http`.

keywords, environment ─► source (shared by all exporters of one configuration) ─┐
                    └──► authorizer ────────────────────────────────────────────┤
                                                                                ├─► Relay ─► stock gRPC exporter
                                                                                └─► requests session ─► stock HTTP exporter

Each transport is a module of its own, so that a program pays for the one that it uses.
"""

from __future__ import annotations

__all__: list[str] = []
