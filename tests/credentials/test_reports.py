# SPDX-License-Identifier: Apache-2.0
"""What a log holds after an hour of the same trouble, and after an hour of a stranger's inventions."""

import logging

import pytest

from otel_spiffe.credentials import _reports
from otel_spiffe.credentials._reports import Reports

APP = "spiffe://prod.example/app"


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def reports(clock, caplog):
    caplog.set_level(logging.INFO, "otel_spiffe")
    return Reports("relay on [::1]:4317", clock=lambda: clock[0])


def test_a_failure_is_logged_once_until_it_is_over(reports, caplog):
    for _ in range(3):
        reports.say("10.0.0.1: no", about=APP)
    assert caplog.messages == ["relay on [::1]:4317: 10.0.0.1: no"]
    assert reports.over(APP)
    assert not reports.over(APP)
    reports.say("10.0.0.1: no", about=APP)
    assert len(caplog.messages) == 2


def test_what_is_over_for_one_is_not_for_another_whose_name_begins_alike(reports, caplog):
    reports.say("no", about=APP + "lication")
    assert not reports.over(APP)
    reports.say("no", about=APP + "lication")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("text", ["it expired {} s ago, at noon", "it is not valid before noon, {} s from now"])
def test_time_that_goes_by_is_no_news(reports, caplog, text):
    for seconds in (1, 2, 300):
        reports.say(text.format(seconds), about=APP)
    assert len(caplog.messages) == 1


def test_strangers_who_invent_names_fill_neither_log_nor_memory(reports, caplog, clock):
    for number in range(10 * _reports.LINES):
        reports.say(f"peer spiffe://evil.example/{number} is not trusted", about=f"spiffe://evil.example/{number}")
    assert len(caplog.messages) == len(reports._said) == _reports.LINES
    clock[0] += _reports.PERIOD
    reports.say("peer spiffe://evil.example/new is not trusted", about="spiffe://evil.example/new")
    assert caplog.messages[-2:] == [
        f"relay on [::1]:4317: {9 * _reports.LINES} more failures were not logged one by one",
        "relay on [::1]:4317: peer spiffe://evil.example/new is not trusted",
    ]
    assert len(reports._said) == _reports.LINES
