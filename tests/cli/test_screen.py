# SPDX-License-Identifier: Apache-2.0
"""The view on a terminal."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from otel_spiffe.cli._screen import Screen, draw


def drawn(story, width, height=45):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(draw(story, width=width, height=height))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 90, 100])
def test_the_picture_fits_and_says_who_talks_to_whom(good_story, width):
    text = drawn(good_story, width)
    assert all(len(line) <= width for line in text.splitlines())
    for said in ("SPIFFE agent", "spiffe://demo.example/collector", "3fe2aa99", "1,234", "refused", "event 8"):
        assert said in text


@pytest.mark.parametrize("height", [24, 30, 45])
def test_the_picture_fits_in_height_and_shows_the_newest(good_story, height):
    attempts = tuple(replace(good_story.attempts[0], who=f"impostor {n}", transport=t) for n in range(3) for t in "ab")
    text = drawn(replace(good_story, attempts=attempts), 100, height)
    assert len(text.splitlines()) <= height
    assert "impostor 2 (a and b)" in text
    assert ("impostor 0" in text) == (height == 45)


@pytest.mark.parametrize("count", range(10))
def test_the_newest_events_are_shown_however_few_there_are(good_story, count):
    text = drawn(replace(good_story, events=good_story.events[:count]), 100)
    assert [f"event {n}" in text for n in range(count)] == [n >= count - 6 for n in range(count)]


def test_what_got_through_is_not_called_refused(good_story):
    story = replace(good_story, attempts=(replace(good_story.attempts[0], refused=False, reason="nobody said no"),))
    assert "GOT THROUGH" in drawn(story, 80)


def test_what_is_whole_at_the_end_is_ticked_and_what_is_not_is_not(good_story):
    story = replace(good_story, finished=True, flows=(replace(good_story.flows[0], received=1), *good_story.flows[1:]))
    assert drawn(story, 80).count("✔") == 5


def test_the_screen_draws_in_place_and_restores_the_cursor(good_story):
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with Screen(console) as screen:
        screen.show(good_story)
        screen.show(replace(good_story, elapsed=10.0))
    text = console.file.getvalue()
    assert "\x1b[?25l" in text
    assert text.rstrip().endswith("\x1b[?25h")
