# SPDX-License-Identifier: Apache-2.0
"""What to do about an X509-SVID now: keep it, fetch another, or stop using it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from otel_spiffe.identity import Identity

__all__ = ["REFRESH", "RENEW_AT", "Expired", "Fetch", "Keep", "is_early", "is_expired", "plan", "renewal_time"]

RENEW_AT = 2 / 3
"""The share of its life after which an X509-SVID is renewed: a third remains to try in."""

REFRESH = timedelta(minutes=5)
"""After which bundles without an X509-SVID are asked for again, where none of them hints at another time."""

_SOONEST, _LATEST = timedelta(minutes=1), timedelta(days=1)  # between which a hint or a revocation list is heeded
_CORRECTION = timedelta(seconds=5)  # by which clocks differ and are set back every day, for nothing to happen
_JITTER = 0.1  # of the life: a fleet that was issued together does not renew together


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Nothing to do before `until`."""

    until: datetime


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
        now: the clock's reading, aware. Where it is before `since`, the clock was wrong when the identity came: what
            was issued by it may begin hours from now.
        dice: between 0 and 1, drawn once for each identity; renewal comes up to a tenth of the life earlier by it.
    """
    if identity is None:
        return Fetch()
    if is_expired(identity, now=now) and identity.expires_at is not None:
        return Expired(at=identity.expires_at)
    if now + _CORRECTION < since or is_early(identity, now=now + _CORRECTION):
        return Fetch()
    due = min(_dues(identity, since, dice))
    return Keep(until=due) if now < due else Fetch()


def _dues(identity: Identity, since: datetime, dice: float) -> Iterator[datetime]:
    if identity.expires_at is not None:
        yield renewal_time(since, identity.expires_at, dice=dice)
    else:
        yield since + _refreshed_after(identity)
    for crl in identity.crls:
        end = crl.next_update_utc
        if end is not None and end > since:  # after it all peers of its authority are refused
            yield max(renewal_time(since, end, dice=dice), since + _SOONEST)
        elif end is not None:
            yield since + REFRESH


def _refreshed_after(identity: Identity) -> timedelta:
    hints = (bundle.refresh_hint or REFRESH for bundle in identity.bundles.values())
    return min(max(min(hints, default=REFRESH), _SOONEST), _LATEST)


def is_early(identity: Identity, *, now: datetime) -> bool:
    """Say whether its X509-SVID is not valid yet: by a clock that is right, peers refuse it."""
    return identity.chosen is not None and now < identity.chosen.not_before


def is_expired(identity: Identity, *, now: datetime) -> bool:
    """Say whether its X509-SVID has ended; notAfter itself is still within its life (RFC 5280 4.1.2.5)."""
    return identity.expires_at is not None and now > identity.expires_at


def renewal_time(since: datetime, expires_at: datetime, *, dice: float) -> datetime:
    """Return when an X509-SVID of that life is due for renewal: `RENEW_AT` of it, less some jitter."""
    return since + (expires_at - since) * (RENEW_AT - _JITTER * dice)
