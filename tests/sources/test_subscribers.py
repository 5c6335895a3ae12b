# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import threading

import pytest

from otel_spiffe.sources import StaticSource
from otel_spiffe.sources._cell import Cell

LONG = 30


class Heard:
    """A subscriber that remembers, and can be waited for."""

    def __init__(self):
        self.generations = []
        self.threads = set()
        self.changed = threading.Condition()

    def __call__(self, identity):
        with self.changed:
            self.generations.append(identity.generation)
            self.threads.add(threading.current_thread())
            self.changed.notify_all()

    def wait_for(self, generation):
        with self.changed:
            assert self.changed.wait_for(lambda: generation in self.generations, LONG), self.generations


@pytest.fixture
def cell():
    cell = Cell("the source")
    yield cell
    cell.close()


def threads():
    return [each for each in threading.enumerate() if each.name.startswith("otel-spiffe subscribers")]


def test_a_subscriber_hears_the_current_identity_and_each_later_one(cell, spiffe_identity):
    cell.put(spiffe_identity("/app"))
    heard = Heard()
    cell.subscribe(heard)
    heard.wait_for(1)
    cell.put(spiffe_identity("/app"))
    heard.wait_for(2)
    assert heard.generations == [1, 2]
    assert threading.current_thread() not in heard.threads


def test_a_subscriber_before_the_first_identity_hears_it_when_it_comes(cell, spiffe_identity):
    heard = Heard()
    cell.subscribe(heard)
    cell.put(spiffe_identity("/app"))
    heard.wait_for(1)


def test_a_repeated_delivery_is_not_heard(cell, spiffe_identity):
    identity = spiffe_identity("/app")
    heard = Heard()
    cell.subscribe(heard)
    for _ in range(5):
        cell.put(identity)
    cell.put(spiffe_identity("/app"))
    heard.wait_for(2)
    assert heard.generations in ([1, 2], [2])


def test_a_slow_subscriber_misses_intermediate_generations_and_delays_nobody(cell, spiffe_identity):
    entered, leave = threading.Event(), threading.Event()
    slow = Heard()

    def linger(identity):
        entered.set()
        assert leave.wait(LONG)
        slow(identity)

    cell.put(spiffe_identity("/app"))
    cell.subscribe(linger)
    assert entered.wait(LONG)
    for _ in range(5):
        cell.put(spiffe_identity("/app"))
    assert cell.identity().generation == 6  # while the subscriber sleeps
    leave.set()
    slow.wait_for(6)
    assert slow.generations == [1, 6]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_subscriber_that_raises_is_logged_and_heard_again_and_stops_nobody(cell, spiffe_identity, caplog, error):
    caplog.set_level(logging.ERROR, logger="otel_spiffe.sources")
    bad, good = Heard(), Heard()

    def broken(identity):
        bad(identity)
        raise error("broken")

    cell.subscribe(broken)
    cell.subscribe(good)
    for generation in (1, 2):
        cell.put(spiffe_identity("/app"))
        good.wait_for(generation)
        bad.wait_for(generation)
    cell.close()
    assert [record.exc_info[1].args for record in caplog.records] == [("broken",)] * 2


def test_an_ended_subscription_hears_nothing_more(cell, spiffe_identity):
    ended, other = Heard(), Heard()
    end = cell.subscribe(ended)
    cell.subscribe(other)
    cell.put(spiffe_identity("/app"))
    ended.wait_for(1)
    end()
    end()
    cell.put(spiffe_identity("/app"))
    other.wait_for(2)
    assert ended.generations == [1]


def test_there_is_a_thread_only_while_there_is_a_subscriber(cell, spiffe_identity):
    assert threads() == []
    heard = Heard()
    end = cell.subscribe(heard)
    (thread,) = threads()
    end()
    thread.join(LONG)
    assert threads() == []
    cell.subscribe(heard)
    cell.put(spiffe_identity("/app"))
    heard.wait_for(1)
    cell.close()
    assert threads() == []


def test_a_thousand_subscribers_share_one_thread(cell, spiffe_identity):
    everybody = [Heard() for _ in range(1000)]
    for heard in everybody:
        cell.subscribe(heard)
    cell.put(spiffe_identity("/app"))
    for heard in everybody:
        heard.wait_for(1)
    assert len(set().union(*(heard.threads for heard in everybody))) == 1


def test_a_callback_that_forks_leaves_the_child_with_one_thread(cell, spiffe_identity):
    heard, before, forked = Heard(), [], threading.Event()

    def fork(_identity):
        if not before:
            before.extend(threads())
            cell.after_fork_in_child()  # stands for a fork here: this thread is the one that goes on in the child
            forked.set()

    cell.put(spiffe_identity("/app"))
    cell.subscribe(fork)
    assert forked.wait(LONG)
    before[0].join(LONG)
    assert not before[0].is_alive()
    cell.subscribe(heard)
    heard.wait_for(1)
    assert len(threads()) == 1
    cell.put(spiffe_identity("/app"))
    heard.wait_for(2)


def test_a_subscriber_may_close_the_source(spiffe_identity):
    closed = threading.Event()
    source = StaticSource(spiffe_identity("/app"))

    def close(_identity):
        source.close()
        closed.set()

    source.subscribe(close)
    assert closed.wait(LONG)
    assert not source.health().ready


def test_a_subscriber_may_subscribe_another_and_end_itself(cell, spiffe_identity):
    inner = Heard()
    ends = []

    def outer(_identity):
        ends[0]()
        cell.subscribe(inner)

    ends.append(cell.subscribe(outer))
    cell.put(spiffe_identity("/app"))
    inner.wait_for(1)
    cell.put(spiffe_identity("/app"))
    inner.wait_for(2)
    assert inner.generations == [1, 2]


def test_where_no_thread_starts_any_more_the_current_identity_is_heard_at_once(cell, spiffe_identity, monkeypatch):
    """From Python 3.12 on that is so while the interpreter shuts down."""

    def refuse(_self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    cell.put(spiffe_identity("/app"))
    heard = Heard()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        cell.subscribe(heard)
    assert heard.generations == [1]
