# SPDX-License-Identifier: Apache-2.0
"""The verdict: the demo's promise, sentence by sentence."""

from dataclasses import replace

import pytest

from otel_spiffe.cli._story import problems, short_serial


def test_a_good_story_has_no_problems_and_adds_up(good_story):
    assert problems(good_story, attempts=1) == ()
    assert good_story.sent == good_story.received == 6 * 1234
    assert good_story.renewals == 6


def with_flow(story, **changes):
    return replace(story, flows=(replace(story.flows[0], **changes), *story.flows[1:]))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: with_flow(s, received=1233), "traces over gRPC: 1,234 sent, 1,233 received"),
        (lambda s: with_flow(s, received=1235), "traces over gRPC: 1,234 sent, 1,235 received"),
        (lambda s: with_flow(s, sent=0, received=0), "traces over gRPC: 0 sent, 0 received"),
        (lambda s: replace(s, failures=2), "2 exports failed"),
        (lambda s: replace(s, actors=(s.actors[0], replace(s.actors[1], renewals=0))), "collector was never renewed"),
        (lambda s: replace(s, serials=1), "the collector saw 1 certificates of the app, so no renewed one was used"),
        (
            lambda s: replace(s, attempts=(replace(s.attempts[0], refused=False, reason="nobody said no"),)),
            "a forged collector got through over gRPC: nobody said no",
        ),
        (lambda s: replace(s, attempts=()), "0 of 1 impostors' tries took place"),
    ],
)
def test_each_broken_promise_is_a_sentence(good_story, spoil, said):
    assert problems(spoil(good_story), attempts=1) == (said,)


def test_a_serial_is_shown_by_its_first_digits():
    assert short_serial(0x3FE2AA9911223344) == "3fe2aa99"
    assert short_serial(7) == "7"
