# SPDX-License-Identifier: Apache-2.0
"""What to do about an X509-SVID now: keep it, fetch another, or stop using it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from otel_spiffe.identity import Identity

__all__ = ["RENEW_AT", "Expired", "Fetch", "Keep", "is_expired", "plan", "renewal_time"]

RENEW_AT = 2 / 3
"""The share of its life after which an X509-SVID is renewed: a third remains to try in."""

_JITTER = 0.1  # of the life: a fleet that was issued together does not renew together


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Nothing to do before `until`; None where nothing in it ends."""

    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Get another one; what is there may be used meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """Get another one; what is there ended `at` that time and may not be used any more."""

    at: datetime


def plan(identity: Identity | None, *, since: datetime, now: datetime, dice: float) -> Keep | Fetch | Expired:
    """Decide what to do about `identity` at `now`.

    Args:
        identity: the one that is held, or None.
        since: when it came, aware. Its life is counted from then: authorities backdate notBefore, and of an SVID
            of a minute that was backdated by two, two thirds would be over before it came.
        now: the clock's reading, aware.
        dice: between 0 and 1, drawn once for each identity; renewal comes up to a tenth of the life earlier by it.
    """
    if identity is None:
        return Fetch()
    if identity.chosen is None or identity.expires_at is None:
        return Keep(until=None)
    if is_expired(identity, now=now):
        return Expired(at=identity.expires_at)
    due = renewal_time(since, identity.expires_at, dice=dice)
    return Keep(until=due) if now < due else Fetch()


def is_expired(identity: Identity, *, now: datetime) -> bool:
    """Say whether its X509-SVID has ended; notAfter itself is still within its life (RFC 5280 4.1.2.5)."""
    return identity.expires_at is not None and now > identity.expires_at


def renewal_time(since: datetime, expires_at: datetime, *, dice: float) -> datetime:
    """Return when an X509-SVID of that life is due for renewal: `RENEW_AT` of it, less some jitter."""
    return since + (expires_at - since) * (RENEW_AT - _JITTER * dice)
