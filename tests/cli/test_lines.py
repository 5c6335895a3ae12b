# SPDX-License-Identifier: Apache-2.0
"""The plain view."""

import io
from dataclasses import replace

from otel_spiffe.cli._lines import Lines, summary
from otel_spiffe.cli._story import Event


def test_each_event_is_written_once_and_progress_every_five_seconds(good_story):
    out = io.StringIO()
    story = replace(good_story, elapsed=1.0, events=good_story.events[:2])
    with Lines(out) as lines:
        lines.show(story)
        lines.show(story)
        assert out.getvalue().splitlines() == ["  0.0 s  app        event 0", "  1.0 s  app        event 1"]
        lines.show(replace(story, elapsed=5.1))
        lines.show(replace(story, elapsed=5.2))
        lines.show(replace(story, elapsed=5.3, events=(*story.events, Event(at=5.3, who="collector", text="done"))))
    assert out.getvalue().splitlines()[2:] == [
        "  5.1 s  ...        7,404 sent, 7,404 received, 6 renewals, 0 failed exports",
        "  5.3 s  collector  done",
    ]


def test_the_summary_of_a_good_story_ends_with_all_well(good_story):
    said = summary(good_story, ())
    assert said.splitlines()[-1] == "ALL WELL: 7,404 of 7,404 arrived, every impostor was refused."
    assert "traces             1,234     1,234         1,234     1,234" in said
    assert "app renewed 3 times, collector renewed 3 times; 4 different certificates of the app seen" in said
    assert "1 of 1 impostors' tries refused; 0 failed exports" in said


def test_the_summary_of_a_bad_one_names_each_problem(good_story):
    assert summary(good_story, ("a", "b")).splitlines()[-2:] == ["NOT WELL: a", "NOT WELL: b"]
