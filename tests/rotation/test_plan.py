# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.identity import Identity
from otel_spiffe.rotation import Expired, Fetch, Keep, is_expired, plan, renewal_time

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
LIFE = timedelta(hours=1)
END = START + LIFE


@pytest.fixture(scope="module")
def identity():
    authority = CertificateAuthority.in_memory("test.example", clock=lambda: START)
    svid = authority.issue("spiffe://test.example/app", lifetime=LIFE)
    return Identity(chosen=svid, svids=(svid,), bundles={authority.trust_domain: authority.bundle})


def test_without_an_identity_one_is_fetched():
    assert plan(None, since=START, now=START, dice=0) == Fetch()


def test_bundles_alone_are_kept_without_end(identity):
    assert plan(Identity(chosen=None, bundles=identity.bundles), since=START, now=END, dice=0) == Keep(until=None)


@pytest.mark.parametrize(
    ("minutes", "dice", "decision"),
    [
        (0, 0, Keep(until=START + LIFE * 2 / 3)),
        (39.9, 0, Keep(until=START + LIFE * 2 / 3)),
        (40, 0, Fetch()),
        (33.9, 1, Keep(until=START + timedelta(minutes=34))),
        (34, 1, Fetch()),
        (60, 0, Fetch()),
        (60.01, 0, Expired(at=END)),
        (10**6, 1, Expired(at=END)),
    ],
)
def test_an_svid_is_renewed_after_two_thirds_of_its_life_less_jitter(identity, minutes, dice, decision):
    assert plan(identity, since=START, now=START + timedelta(minutes=minutes), dice=dice) == decision


def test_the_life_counts_from_when_it_came_not_from_a_backdated_beginning(identity):
    late = END - timedelta(seconds=30)
    assert plan(identity, since=late, now=late, dice=0) == Keep(until=late + timedelta(seconds=20))


def test_the_last_moment_still_counts(identity):
    assert not is_expired(identity, now=END)
    assert is_expired(identity, now=END + timedelta(microseconds=1))


@given(life=st.timedeltas(timedelta(seconds=1), timedelta(days=3650)), dice=st.floats(0, 1))
def test_renewal_leaves_at_least_a_third_of_the_life_to_try_in(life, dice):
    due = renewal_time(START, START + life, dice=dice)
    assert due > START
    assert START + life - due >= life / 3 - timedelta(microseconds=2)
