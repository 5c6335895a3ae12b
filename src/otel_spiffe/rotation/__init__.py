# SPDX-License-Identifier: Apache-2.0
"""When to renew and how long to wait: pure, the clock's reading and the dice are arguments.

Identity + now + jitter ──► plan ──► Keep | Fetch | Expired
failures in a row + dice ──► Backoff.delay ──► seconds
"""

from __future__ import annotations

from otel_spiffe.rotation._backoff import NO_IDENTITY, ORDINARY, Backoff
from otel_spiffe.rotation._plan import REFRESH, RENEW_AT, Expired, Fetch, Keep, is_early, is_expired, plan, renewal_time

__all__ = [
    "NO_IDENTITY",
    "ORDINARY",
    "REFRESH",
    "RENEW_AT",
    "Backoff",
    "Expired",
    "Fetch",
    "Keep",
    "is_early",
    "is_expired",
    "plan",
    "renewal_time",
]
