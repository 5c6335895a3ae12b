# SPDX-License-Identifier: Apache-2.0
"""An app whose telemetry is otel.yaml's business; `opentelemetry-instrument` loads that from OTEL_CONFIG_FILE."""

from __future__ import annotations

from opentelemetry import metrics, trace

with trace.get_tracer("declarative").start_as_current_span("work"):
    metrics.get_meter("declarative").create_counter("work.done").add(1)
print("worked")
