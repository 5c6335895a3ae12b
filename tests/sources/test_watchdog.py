# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import threading

import pytest

from otel_spiffe.sources import _watchdog
from otel_spiffe.sources._watchdog import Watchdog

LONG = 30


class Late(threading.Event):
    def __call__(self):
        self.set()


@pytest.fixture
def late():
    return Late()


def forever():
    return math.inf


def test_without_a_first_message_in_time_it_is_late(late):
    with Watchdog(0.01, forever, late):
        assert late.wait(LONG)


def test_after_a_message_it_waits_for_as_long_as_that_may_be_used(late):
    left = [1000.0]
    with Watchdog(0.2, lambda: left[0], late) as watchdog:
        watchdog.taking()
        watchdog.taken()
        assert not late.wait(0.5)
        left[0] = 0.0
        watchdog.taking()
        watchdog.taken()
        assert late.wait(LONG)


def test_it_looks_again_as_the_clock_may_be_set(late, monkeypatch):
    monkeypatch.setattr(_watchdog, "LOOK_EVERY", 0.01)
    left = [1000.0]
    with Watchdog(LONG, lambda: left[0], late) as watchdog:
        watchdog.taking()
        watchdog.taken()
        left[0] = -1.0
        assert late.wait(LONG)


def test_while_a_message_is_being_taken_nothing_is_late(late):
    """What is held has ended, and what takes its place is here: a slow picker must not cost it."""
    with Watchdog(LONG, lambda: -1.0, late) as watchdog:
        watchdog.taking()
        assert not late.wait(0.2)
    assert not late.is_set()


def test_no_thread_is_left(late):
    with Watchdog(LONG, forever, late):
        assert [each for each in threading.enumerate() if each.name == "otel-spiffe watchdog"]
    assert not [each for each in threading.enumerate() if each.name == "otel-spiffe watchdog"]


def test_where_no_thread_starts_any_more_there_is_no_deadline(late, monkeypatch):
    def refuse(_self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Watchdog(0.0, forever, late) as watchdog:
        watchdog.taking()
    assert not late.is_set()
