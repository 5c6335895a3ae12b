# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.rotation import NO_IDENTITY, ORDINARY, Backoff

DICE = st.floats(0, 1)
FAILURES = st.integers(0, 10**6)


@pytest.mark.parametrize(
    ("failures", "dice", "seconds"),
    [
        (1, 0.0, 0.1),
        (1, 1.0, 0.2),
        (2, 0.0, 0.2),
        (2, 1.0, 0.4),
        (5, 1.0, 3.2),
        (9, 1.0, 30.0),
        (9, 0.0, 15.0),
        (1025, 1.0, 30.0),  # where spiffe 0.3.2 overflows
        (10**6, 0.5, 22.5),
    ],
)
def test_the_wait_doubles_up_to_the_maximum(failures, dice, seconds):
    assert ORDINARY.delay(failures, dice=dice) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("failures", "dice", "seconds"), [(1, 0.0, 1.0), (1, 1.0, 2.0), (4, 1.0, 10.0), (99, 0.0, 5.0)]
)
def test_an_agent_without_an_identity_for_us_is_asked_slowly_and_never_very_slowly(failures, dice, seconds):
    assert NO_IDENTITY.delay(failures, dice=dice) == pytest.approx(seconds)


@given(failures=FAILURES, dice=DICE)
def test_every_wait_is_within_the_bounds(failures, dice):
    for backoff in (ORDINARY, NO_IDENTITY):
        assert backoff.minimum <= backoff.delay(failures, dice=dice) <= backoff.maximum


@given(failures=FAILURES, dice=DICE)
def test_one_more_failure_never_shortens_the_wait(failures, dice):
    assert ORDINARY.delay(failures, dice=dice) <= ORDINARY.delay(failures + 1, dice=dice)


@pytest.mark.parametrize(
    ("minimum", "maximum"), [(0, 1), (-1, 1), (2, 1), (1, math.inf), (math.nan, 1), (1, math.nan), (math.inf, math.inf)]
)
def test_bounds_that_make_no_sense_are_refused(minimum, maximum):
    with pytest.raises(InvalidConfiguration, match="0 < minimum <= maximum"):
        Backoff(minimum=minimum, maximum=maximum)
