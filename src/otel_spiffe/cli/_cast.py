# SPDX-License-Identifier: Apache-2.0
"""The demo's impostors: who they are and what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.cli._impostors import Impostor
from otel_spiffe.identity import Identity, authorize_any, authorize_id
from otel_spiffe.sources import StaticSource
from otel_spiffe.testing import OtlpSink

if TYPE_CHECKING:
    from contextlib import ExitStack

    from otel_spiffe.identity import Source

__all__ = ["IMPOSTORS", "cast"]

IMPOSTORS = 3
"""How many there are."""


def cast(
    stack: ExitStack, authority: CertificateAuthority, *, app: Source, collector: OtlpSink, collector_id: str
) -> list[Impostor]:
    """Return the impostors; what they listen on is closed with `stack`.

    Args:
        stack: takes what must be closed.
        authority: the honest one.
        app: the honest app's identity.
        collector: the honest one.
        collector_id: its SPIFFE ID.
    """
    forger = CertificateAuthority.in_memory(authority.trust_domain)  # the same name, another key
    forged = forger.issue(collector_id)
    bundles = {authority.trust_domain: authority.bundle}
    database = authority.identity(f"spiffe://{authority.trust_domain}/database")
    stranger = stack.enter_context(StaticSource(database))
    right_id = _listen(stack, Identity(chosen=forged, svids=(forged,), bundles=bundles))
    wrong_id = _listen(stack, database)
    to_collector = authorize_id(collector_id)
    return [
        Impostor(
            who="a collector with the right SPIFFE ID, forged by another CA",
            sink=right_id,
            source=app,
            authorize=to_collector,
            got_through=lambda: right_id.counts.requests,
        ),
        Impostor(
            who="a database with a valid SVID, posing as the collector",
            sink=wrong_id,
            source=app,
            authorize=to_collector,
            got_through=lambda: wrong_id.counts.requests,
        ),
        Impostor(
            who="a database that sends telemetry to the collector",
            sink=collector,
            source=stranger,
            authorize=to_collector,
            got_through=lambda: len(collector.received(peer=database.id)),
            local_id=str(database.id),
        ),
    ]


def _listen(stack: ExitStack, identity: Identity) -> OtlpSink:
    return stack.enter_context(
        OtlpSink.open(stack.enter_context(StaticSource(identity)), authorize=authorize_any())  # it takes whoever comes
    )
