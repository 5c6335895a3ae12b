# SPDX-License-Identifier: Apache-2.0
"""What an identity is called in the log and in the health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_spiffe.rotation import is_early, is_expired

if TYPE_CHECKING:
    from datetime import datetime

    from otel_spiffe.identity import Identity

__all__ = ["who", "why_unfit"]

_ISO: Final = "%Y-%m-%dT%H:%M:%SZ"


def who(identity: Identity | None) -> str:
    """Return whose it is and which one, never more than a certificate says."""
    if identity is None or identity.chosen is None:
        domains = ", ".join(map(str, identity.bundles)) if identity is not None else ""
        return f"bundles of {domains or 'nobody'}"
    svid = identity.chosen
    return (
        f"{svid.id}, serial {svid.leaf.serial_number:x}, generation {identity.generation}, "
        f"expires {svid.expires_at:{_ISO}}"
    )


def why_unfit(identity: Identity, now: datetime) -> str:
    """Return why an identity may not be used at `now`, or nothing where it may."""
    if identity.chosen is None:
        return ""
    svid, says = identity.chosen, f"this machine's clock says {now:{_ISO}}"
    if is_expired(identity, now=now):
        return f"the X509-SVID of {svid.id} expired at {svid.expires_at:{_ISO}}, and no other came; {says}"
    if is_early(identity, now=now):
        return f"the X509-SVID of {svid.id} is not valid before {svid.not_before:{_ISO}}; {says}"
    return ""
