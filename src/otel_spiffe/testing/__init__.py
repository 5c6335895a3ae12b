# SPDX-License-Identifier: Apache-2.0
"""For tests and demos: what may go wrong with SPIFFE and OTLP, on order, and a pytest plugin that hands it out.

CertificateAuthority ──► FaultyWorkloadApi ──► source ──► your code ──► OtlpSink (what came, and from whom)
                    └──► faulty_svid (certificates that must be refused)
"""

from __future__ import annotations

from otel_spiffe.testing._sink import KEEP_REQUESTS, MAX_BODY_BYTES, OtlpSink
from otel_spiffe.testing._sink_record import Counts, Received, Signal, Transport

__all__ = ["KEEP_REQUESTS", "MAX_BODY_BYTES", "Counts", "OtlpSink", "Received", "Signal", "Transport"]
