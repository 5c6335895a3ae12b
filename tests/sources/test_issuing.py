# SPDX-License-Identifier: Apache-2.0
"""A source that has its identities issued by a callable."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import queue
import threading
from datetime import timedelta

import pytest

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.errors import IdentityExpired, SourceUnavailable
from otel_spiffe.rotation import Backoff
from otel_spiffe.sources import IssuingSource

APP = "spiffe://prod.example/app"
PATIENCE = 30
QUICK = Backoff(minimum=0.001, maximum=0.002)


class Issuer:
    """Issues for an hour of the clock's time, or does what it is told to."""

    def __init__(self, clock):
        self.ca = CertificateAuthority.in_memory("prod.example", lifetime=timedelta(days=365), clock=clock)
        self.calls = queue.SimpleQueue()
        self.error = None
        self.answer = None

    def __call__(self):
        self.calls.put(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        return self.answer or self.ca.identity(APP, lifetime=timedelta(hours=1))


@pytest.fixture
def issuer(clock):
    return Issuer(clock)


@pytest.fixture
def opened(issuer, clock):
    with IssuingSource.open(issuer, clock=clock, dice=lambda: 0.0, backoff=QUICK) as source:
        yield source


def generations(source):
    found = queue.SimpleQueue()
    source.subscribe(lambda identity: found.put(identity.generation))
    return found


def test_an_identity_is_issued_at_once_and_not_again(issuer, opened):
    assert str(opened.wait(PATIENCE).id) == APP
    assert opened.identity().generation == 1
    issuer.calls.get(timeout=PATIENCE)
    assert issuer.calls.empty()


def test_it_is_renewed_at_two_thirds_of_its_life(issuer, opened, clock):
    opened.wait(PATIENCE)
    seen = generations(opened)
    assert seen.get(timeout=PATIENCE) == 1
    issuer.calls.get(timeout=PATIENCE)
    clock.move(minutes=39)
    opened._worker.nudge()  # in place of the minute at which it looks at the clock
    clock.move(minutes=2)
    opened._worker.nudge()
    assert seen.get(timeout=PATIENCE) == 2
    issuer.calls.get(timeout=PATIENCE)
    assert issuer.calls.empty()


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, asyncio.CancelledError])
def test_what_the_issuer_raises_is_reported_and_it_is_asked_again(issuer, clock, error):
    issuer.error = error("the HSM is asleep")
    with IssuingSource.open(issuer, clock=clock, backoff=QUICK) as source:
        for _ in range(3):
            issuer.calls.get(timeout=PATIENCE)
        with pytest.raises(SourceUnavailable, match=f"{error.__name__}: the HSM is asleep"):
            source.identity()
        assert source.health().failures
        issuer.error = None
        assert str(source.wait(PATIENCE).id) == APP
        assert source.health().problem == ""


def test_the_last_identity_is_used_while_the_issuer_fails_and_not_after_its_end(issuer, opened, clock):
    first = opened.wait(PATIENCE)
    issuer.calls.get(timeout=PATIENCE)
    issuer.error = RuntimeError("no")
    clock.move(minutes=50)
    opened._worker.nudge()
    for _ in range(2):
        issuer.calls.get(timeout=PATIENCE)
    assert opened.identity() is first
    clock.move(minutes=11)
    with pytest.raises(IdentityExpired, match="RuntimeError: no"):
        opened.identity()


@pytest.mark.parametrize("answer", ["an identity", ("a", "tuple"), object()])
def test_an_issuer_that_returns_something_else_is_told_so(issuer, clock, answer):
    issuer.answer = answer
    with IssuingSource.open(issuer, clock=clock, backoff=QUICK) as source:
        for _ in range(2):
            issuer.calls.get(timeout=PATIENCE)
        with pytest.raises(SourceUnavailable, match=f"{type(answer).__name__}, which is no Identity"):
            source.identity()


def test_an_identity_that_has_expired_is_not_taken(issuer, clock):
    issuer.answer = issuer.ca.identity(APP, lifetime=timedelta(minutes=1))
    clock.move(minutes=2)
    with IssuingSource.open(issuer, clock=clock, backoff=QUICK) as source:
        for _ in range(2):
            issuer.calls.get(timeout=PATIENCE)
        with pytest.raises(SourceUnavailable, match="had expired"):
            source.identity()


def test_renew_has_another_issued_before_its_time(opened):
    opened.wait(PATIENCE)
    seen = generations(opened)
    assert seen.get(timeout=PATIENCE) == 1
    opened.renew()
    assert seen.get(timeout=PATIENCE) == 2


def test_renew_while_one_is_being_issued_has_another_issued(issuer, clock):
    issuing, go_on = threading.Event(), threading.Event()

    def issue():
        issuing.set()
        assert go_on.wait(PATIENCE)
        return issuer()

    with IssuingSource.open(issue, clock=clock, backoff=QUICK) as source:
        assert issuing.wait(PATIENCE)
        source.renew()
        go_on.set()
        for _ in range(2):
            issuer.calls.get(timeout=PATIENCE)
        assert source.wait(PATIENCE)
    assert issuer.calls.empty()


def test_what_was_issued_by_a_clock_that_was_ahead_is_issued_again_once_that_is_right(opened, clock):
    opened.wait(PATIENCE)
    seen = generations(opened)
    assert seen.get(timeout=PATIENCE) == 1
    clock.move(hours=-10)
    assert not opened.health().ready
    opened._worker.nudge()
    assert seen.get(timeout=PATIENCE) == 2
    assert opened.health().ready


def test_an_issuer_whose_clock_is_ahead_is_asked_again_with_back_off_until_ours_is_there(issuer, clock):
    issuer.answer = issuer.ca.identity(APP, lifetime=timedelta(days=1))
    clock.now = issuer.answer.svid.not_before - timedelta(minutes=1)
    with IssuingSource.open(issuer, clock=clock, backoff=Backoff(minimum=1000, maximum=1000)) as source:
        source.wait(PATIENCE)
        assert "is not valid before" in source.health().problem
        issuer.calls.get(timeout=PATIENCE)
        source._worker.nudge()
        issuer.calls.get(timeout=PATIENCE)
        assert issuer.calls.empty()
        clock.move(minutes=1)
        assert source.health().ready


def test_an_identity_that_cannot_be_read_is_reported_and_another_one_asked_for(issuer, clock):
    class Broken:
        signature = b""

        @property
        def next_update_utc(self):
            raise ValueError("year 0 is out of range")

    issuer.answer = dataclasses.replace(issuer.ca.identity(APP), crls=(Broken(),))
    with IssuingSource.open(issuer, clock=clock, backoff=QUICK) as source:
        for _ in range(2):
            issuer.calls.get(timeout=PATIENCE)
        assert "ValueError: year 0 is out of range" in source.health().problem
        issuer.answer = None
        assert source.wait(PATIENCE).crls == ()


def test_bundles_alone_are_asked_for_again(issuer, clock):
    issuer.answer = issuer.ca.identity()
    with IssuingSource.open(issuer, clock=clock, backoff=QUICK) as source:
        seen = generations(source)
        assert seen.get(timeout=PATIENCE) == 1
        issuer.ca.rotate()
        issuer.answer = issuer.ca.identity()
        clock.move(minutes=5)
        source._worker.nudge()
        assert seen.get(timeout=PATIENCE) == 2


def test_a_child_process_has_an_identity_of_its_own_issued(opened):
    parent = opened.wait(PATIENCE).svid.leaf.serial_number
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            renewed = threading.Event()
            opened.subscribe(lambda identity: identity.svid.leaf.serial_number != parent and renewed.set())
            os.write(writing, b"y" if renewed.wait(PATIENCE) else b"n")
        finally:
            os._exit(0)
    os.close(writing)
    answer = os.read(reading, 1)
    os.close(reading)
    os.waitpid(child, 0)
    assert answer == b"y"
    assert opened.identity().svid.leaf.serial_number == parent


def test_close_ends_its_thread(opened):
    opened.wait(PATIENCE)
    opened.close()
    opened.close()
    assert not [thread for thread in threading.enumerate() if "issuer" in thread.name]
