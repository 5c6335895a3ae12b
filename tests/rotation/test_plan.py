# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.identity import Identity
from otel_spiffe.rotation import REFRESH, Expired, Fetch, Keep, is_early, is_expired, plan, renewal_time

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


@pytest.mark.parametrize(
    ("hint", "due"),
    [
        (None, timedelta(minutes=5)),
        (timedelta(minutes=2), timedelta(minutes=2)),
        (timedelta(hours=2), timedelta(hours=2)),
        (timedelta(0), timedelta(minutes=5)),
        (timedelta(seconds=1), timedelta(minutes=1)),
        (timedelta.max, timedelta(days=1)),
    ],
)
def test_bundles_alone_are_refreshed_after_five_minutes_or_their_hint(identity, hint, due):
    (bundle,) = identity.bundles.values()
    alone = Identity(chosen=None, bundles={bundle.trust_domain: dataclasses.replace(bundle, refresh_hint=hint)})
    assert plan(alone, since=START, now=START, dice=0) == Keep(until=START + due)
    assert plan(alone, since=START, now=START + due, dice=0) == Fetch()


def test_no_bundles_at_all_are_refreshed_too():
    nothing = Identity(chosen=None, bundles={})
    assert plan(nothing, since=START, now=START, dice=0) == Keep(until=START + REFRESH)


@pytest.mark.parametrize(
    ("ends", "due"),
    [
        (timedelta(minutes=30), timedelta(minutes=20)),  # before the SVID of an hour
        (timedelta(days=1), timedelta(minutes=40)),
        (timedelta(seconds=9), timedelta(minutes=1)),
        (timedelta(days=-1), timedelta(minutes=5)),  # it had ended when it came: so may the next one have
        (None, timedelta(minutes=40)),
    ],
)
def test_a_revocation_list_that_ends_sooner_than_the_svid_is_renewed_with_it_in_time(identity, ends, due):
    class List:
        next_update_utc = START + ends if ends is not None else None

    held = dataclasses.replace(identity, crls=(List(),))
    assert plan(held, since=START, now=START, dice=0) == Keep(until=START + due)
    assert plan(held, since=START, now=START + due, dice=0) == Fetch()


@pytest.mark.parametrize(
    ("now", "decision"),
    [
        (START - timedelta(seconds=5), Keep(until=START + LIFE * 2 / 3)),
        (START - timedelta(seconds=6), Fetch()),
        (START - timedelta(hours=10), Fetch()),
    ],
)
def test_what_came_by_a_clock_that_was_ahead_is_fetched_again(identity, now, decision):
    assert plan(identity, since=START, now=now, dice=0) == decision


def test_an_svid_that_is_not_valid_yet_is_fetched_again(identity):
    begin = identity.svid.not_before
    assert is_early(identity, now=begin - timedelta(seconds=1))
    assert not is_early(identity, now=begin)
    assert not is_early(Identity(chosen=None, bundles={}), now=begin - timedelta(days=1))
    skewed, early = begin - timedelta(seconds=5), begin - timedelta(seconds=6)
    assert isinstance(plan(identity, since=skewed, now=skewed, dice=0), Keep)
    assert plan(identity, since=early, now=early, dice=0) == Fetch()


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
