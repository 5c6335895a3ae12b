# SPDX-License-Identifier: Apache-2.0
"""The keywords that all exporters have, and those of the metric exporters; each transport adds its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from otel_spiffe.exporters._choice import SpiffeKeywords

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import AggregationTemporality
    from opentelemetry.sdk.metrics.view import Aggregation

__all__ = ["MetricKeywords", "StockKeywords"]


class StockKeywords(SpiffeKeywords, total=False):
    """Keywords of the stock exporters of both transports.

    Attributes:
        timeout: of one export with its retries, in seconds.
        meter_provider: where the exporter's own metrics go.
    """

    timeout: float | None
    meter_provider: MeterProvider | None


class MetricKeywords(TypedDict, total=False):
    """Keywords of the stock metric exporters.

    Attributes:
        preferred_temporality: by instrument class.
        preferred_aggregation: by instrument class.
        max_export_batch_size: data points in one request at the most.
    """

    preferred_temporality: dict[type, AggregationTemporality] | None
    preferred_aggregation: dict[type, Aggregation] | None
    max_export_batch_size: int | None
