# SPDX-License-Identifier: Apache-2.0
"""A story in which all went well, to be spoilt."""

from datetime import UTC, datetime, timedelta

import pytest

from otel_spiffe.cli._story import SIGNALS, TRANSPORTS, Actor, Attempt, Event, Flow, Story


def actor(name, **changes):
    now = datetime.now(UTC)
    given = {
        "name": name,
        "id": f"spiffe://demo.example/{name}",
        "serial": 0x3FE2AA9911223344,
        "renewals": 3,
        "issued_at": now,
        "expires_at": now + timedelta(seconds=10),
    }
    return Actor(**given | changes)


@pytest.fixture
def good_story():
    return Story(
        elapsed=9.3,
        seconds=20,
        actors=(actor("app"), actor("collector")),
        flows=tuple(Flow(signal=s, transport=t, sent=1234, received=1234) for s in SIGNALS for t in TRANSPORTS),
        serials=4,
        failures=0,
        attempts=(Attempt(who="a forged collector", transport="gRPC", refused=True, reason="unknown authority"),),
        events=tuple(Event(at=float(at), who="app", text=f"event {at}") for at in range(9)),
    )
