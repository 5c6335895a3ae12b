# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import timedelta

import pytest

from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.sources._choose import check_not_expired, choose, picker_for
from otel_spiffe.sources._fault import BadUpdate, Fault


@pytest.fixture
def svids(spiffe_svid):
    return (spiffe_svid("/a", hint="internal"), spiffe_svid("/b", hint="external"), spiffe_svid("/c"))


def test_the_first_one_is_the_default(svids):
    assert choose(picker_for(None, None), svids) is svids[0]


def test_a_hint_chooses_the_one_that_has_it(svids):
    assert choose(picker_for(None, "external"), svids) is svids[1]


def test_a_hint_that_nobody_has_is_refused_with_those_there_are(svids):
    with pytest.raises(BadUpdate, match="no X509-SVID has the hint 'other'; there are 'internal', 'external', ''"):
        choose(picker_for(None, "other"), svids)


def test_a_picker_chooses(svids):
    assert choose(picker_for(lambda offered: offered[-1], None), svids) is svids[2]


def fails(_svids):
    raise KeyError("nothing fits")


@pytest.mark.parametrize(
    ("picker", "reason"),
    [
        (lambda _svids: None, "the picker picked none"),
        (fails, "the picker raised KeyError: 'nothing fits'"),
        (lambda _svids: "spiffe://test.example/a", "which is not among them"),
    ],
)
def test_a_picker_that_picks_nothing_of_them_makes_a_bad_update(svids, picker, reason):
    with pytest.raises(BadUpdate, match=reason) as refused:
        choose(picker_for(picker, None), svids)
    assert refused.value.problem.fault is Fault.PICKER


def test_an_svid_that_was_not_offered_is_not_taken(svids, spiffe_svid):
    with pytest.raises(BadUpdate, match="which is not among them"):
        choose(picker_for(lambda _svids: spiffe_svid("/a"), None), svids)


def test_a_picker_and_a_hint_contradict_each_other():
    with pytest.raises(InvalidConfiguration, match="picker, hint: both are given"):
        picker_for(lambda svids: svids[0], "internal")


def test_an_expired_svid_is_refused_with_a_word_on_the_clock(svids):
    end = svids[0].expires_at
    check_not_expired(svids[0], end)
    with pytest.raises(BadUpdate, match=r"had expired 90 s before.*this machine's clock is right: it says") as refused:
        check_not_expired(svids[0], end + timedelta(seconds=90))
    assert refused.value.problem.fault is Fault.EXPIRED_UPDATE
