# SPDX-License-Identifier: Apache-2.0
"""The end of a connection's X509-SVIDs, also where the machine slept."""

import datetime as dt

import pytest

from otel_spiffe.credentials._relay_lifetime import MAX_NOTICE, Lifetime

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Watched:
    """A lifetime on a loop whose clock may fall behind that of the wall."""

    def __init__(self, loop, seconds):
        self.loop, self.asleep, self.heard = loop, dt.timedelta(), []
        self.lifetime = Lifetime(
            loop,
            START + dt.timedelta(seconds=seconds),
            notice=lambda: self.heard.append("notice"),
            over=lambda: self.heard.append("over"),
            clock=lambda: START + dt.timedelta(seconds=loop.time()) + self.asleep,
        )
        self.lifetime.start()


@pytest.mark.parametrize(("seconds", "notice"), [(3600, MAX_NOTICE), (100, 10)])
def test_notice_is_given_once_and_shortly_before_the_end(still_loop, seconds, notice):
    it = Watched(still_loop, seconds)
    heard = []
    while still_loop.now < seconds:
        before, still_loop.now = still_loop.now, still_loop.now + 1
        still_loop.turn()
        heard += [(word, before + 1) for word in it.heard[len(heard) :]]
    assert heard == [("notice", seconds - notice), ("over", seconds)]


def test_an_end_that_came_while_the_machine_slept_is_seen_within_a_minute(still_loop):
    it = Watched(still_loop, 3600)
    still_loop.turn(600)
    it.asleep = dt.timedelta(hours=8)  # a sleeping machine's timers stand still
    still_loop.turn(60)
    assert "over" in it.heard


def test_one_that_is_stopped_calls_nobody(still_loop):
    it = Watched(still_loop, 100)
    it.lifetime.stop()
    still_loop.turn(1000)
    assert it.heard == []


def test_what_has_ended_is_over_at_once(still_loop):
    assert Watched(still_loop, 0).heard == ["over"]
