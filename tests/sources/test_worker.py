# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import logging
import threading

import pytest
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, get_value

from otel_spiffe.sources import _worker
from otel_spiffe.sources._worker import Worker

LONG = 30


class Turns:
    """A worker whose turns block until they are interrupted, like a stream that stays open."""

    def __init__(self, delays=()):
        self.entered = threading.Semaphore(0)
        self.unblock = threading.Event()
        self.delays = list(delays)
        self.suppressed = []
        self.worker = Worker("otel-spiffe test", self.turn, self.unblock.set)

    def turn(self):
        self.entered.release()
        self.suppressed.append(get_value(_SUPPRESS_INSTRUMENTATION_KEY))
        if self.delays:
            delay = self.delays.pop(0)
            if isinstance(delay, BaseException):
                raise delay
            return delay
        if not self.worker.interrupted:
            assert self.unblock.wait(LONG)
        self.unblock.clear()
        return 0.0

    def wait_for_turn(self):
        assert self.entered.acquire(timeout=LONG)


@pytest.fixture
def turns():
    turns = Turns()
    yield turns
    turns.worker.stop()


def test_stopping_interrupts_a_turn_and_joins(turns):
    turns.worker.start()
    turns.wait_for_turn()
    assert turns.worker.alive
    turns.worker.stop()
    turns.worker.stop()
    assert not turns.worker.alive
    assert not [each for each in threading.enumerate() if each.name == "otel-spiffe test"]


def test_stopping_before_the_start_is_no_matter(turns):
    turns.worker.stop()


def test_stopping_ends_a_wait_between_turns(turns):
    turns.delays = [10**6]
    turns.worker.start()
    turns.wait_for_turn()
    turns.worker.stop()
    assert not turns.worker.alive


def test_a_nudge_ends_a_wait_between_turns(turns):
    turns.delays = [10**6]
    turns.worker.start()
    turns.wait_for_turn()
    turns.worker.nudge()
    turns.wait_for_turn()


def test_none_ends_the_thread(turns):
    turns.delays = [None]
    turns.worker.start()
    turns.worker._thread.join(LONG)
    assert not turns.worker.alive
    assert turns.worker.park()


def test_a_parked_worker_takes_no_turn_until_it_is_unparked(turns):
    turns.worker.start()
    turns.wait_for_turn()
    assert turns.worker.park()
    assert not turns.entered.acquire(blocking=False)
    assert turns.worker.alive
    turns.worker.unpark()
    turns.wait_for_turn()


def test_a_parked_worker_can_be_stopped(turns):
    turns.worker.start()
    turns.wait_for_turn()
    assert turns.worker.park()
    turns.worker.stop()
    assert not turns.worker.alive


def test_parking_is_bounded(turns, monkeypatch):
    monkeypatch.setattr(_worker, "PARK_TIMEOUT", 0.01)
    deaf = Worker("otel-spiffe test", turns.turn, lambda: None)
    deaf.start()
    turns.wait_for_turn()
    assert not deaf.park()
    deaf.unpark()
    turns.unblock.set()
    turns.delays = [None]
    turns.wait_for_turn()
    deaf.stop()


def test_a_worker_that_parks_itself_goes_on():
    """A picker that forks runs on the worker's own thread."""
    parked = []
    worker = Worker("otel-spiffe test", lambda: parked.append(worker.park()), lambda: None)
    worker.start()
    worker._thread.join(LONG)
    assert parked == [True]


@pytest.mark.parametrize("bug", [ZeroDivisionError, SystemExit, asyncio.CancelledError])
def test_a_bug_in_a_turn_is_logged_and_does_not_end_the_worker(turns, monkeypatch, caplog, bug):
    monkeypatch.setattr(_worker, "_AFTER_A_BUG", 0.0)
    caplog.set_level(logging.ERROR, logger="otel_spiffe.sources")
    turns.delays = [bug("bug")]
    turns.worker.start()
    turns.wait_for_turn()
    turns.wait_for_turn()
    assert "which is a bug" in caplog.records[0].getMessage()
    assert turns.worker.alive


def test_turns_run_with_instrumentation_suppressed(turns):
    turns.worker.start()
    turns.wait_for_turn()
    turns.worker.stop()
    assert turns.suppressed == [True]
    assert get_value(_SUPPRESS_INSTRUMENTATION_KEY) is None


def test_what_was_waited_for_in_vain_is_not_waited_for_again(turns, monkeypatch):
    """A fork of a process whose issuer hangs takes its time once, not each time."""
    monkeypatch.setattr(_worker, "PARK_TIMEOUT", 0.01)
    deaf = Worker("otel-spiffe test", turns.turn, lambda: None)
    deaf.start()
    turns.wait_for_turn()
    assert not deaf.park()
    deaf.unpark()
    monkeypatch.setattr(_worker, "PARK_TIMEOUT", 10**6)
    assert not deaf.park()
    deaf.unpark()
    turns.unblock.set()
    turns.delays = [None]
    turns.wait_for_turn()
    assert deaf.park()
    deaf.stop()


def test_a_turn_that_forks_leaves_the_child_with_one_thread(turns):
    turns.worker.start()
    turns.wait_for_turn()
    before = turns.worker._thread
    turns.worker.restart_after_fork()  # stands for a fork in the turn: its thread is the one that goes on in the child
    turns.wait_for_turn()
    turns.unblock.set()
    before.join(LONG)
    turns.unblock.set()
    turns.wait_for_turn()
    assert not before.is_alive()
    assert turns.worker.alive


def test_after_a_fork_there_is_a_new_thread(turns):
    turns.worker.start()
    turns.wait_for_turn()
    before = turns.worker._thread
    assert turns.worker.park()
    turns.worker.stop()  # stands for the fork, which takes the thread away
    turns.worker._stopping = turns.worker._ended = False
    turns.worker.restart_after_fork()
    turns.wait_for_turn()
    assert turns.worker._thread is not before


def test_after_a_fork_a_worker_that_had_ended_stays_ended(turns):
    turns.delays = [None]
    turns.worker.start()
    turns.worker._thread.join(LONG)
    turns.worker.restart_after_fork()
    assert not turns.worker.alive


def test_after_a_fork_a_stopped_worker_stays_stopped(turns):
    turns.worker.start()
    turns.worker.stop()
    turns.worker.restart_after_fork()
    assert not turns.worker.alive
