# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from otel_spiffe.rotation import Backoff
from otel_spiffe.sources._fault import Fault, Problem
from otel_spiffe.sources._retry import Again, Retry, Stop, StreamEnd

DOWN = StreamEnd(code="UNAVAILABLE", details="connection refused")


@pytest.fixture
def retry():
    return Retry(backoff=Backoff(minimum=1, maximum=64), no_identity=Backoff(minimum=100, maximum=300))


def delays(retry, *ends):
    return [retry.after(end, dice=1.0).delay for end in ends]


def test_failures_in_a_row_wait_longer_and_longer(retry):
    assert delays(retry, *[DOWN] * 8) == [2, 4, 8, 16, 32, 64, 64, 64]


def test_five_thousand_failed_reconnects_do_not_overflow(retry):
    assert delays(retry, *[DOWN] * 5000)[-1] == 64


def test_a_clean_end_after_an_update_reconnects_at_once_and_is_no_problem(retry):
    assert retry.after(StreamEnd(code="OK", updates=1, lived=3600), dice=1.0) == Again(delay=0.0)


def test_an_agent_that_ends_every_stream_at_once_is_not_asked_in_a_loop(retry):
    end = StreamEnd(code="OK", updates=1, lived=0.001)
    assert delays(retry, *[end] * 4) == [0, 4, 8, 16]
    assert retry.after(end, dice=1.0).problem.fault is Fault.ENDED


def test_a_clean_end_without_an_update_waits(retry):
    again = retry.after(StreamEnd(code="OK", updates=0, lived=3600), dice=1.0)
    assert (again.delay, again.problem.fault) == (2, Fault.ENDED)


def test_a_stream_that_lived_begins_the_count_anew(retry):
    delays(retry, *[DOWN] * 5)
    lived = StreamEnd(code="UNAVAILABLE", details="Socket closed", updates=3, lived=60)
    assert delays(retry, lived, DOWN) == [2, 4]


def test_a_stream_that_said_something_and_broke_soon_does_not(retry):
    soon = StreamEnd(code="UNAVAILABLE", details="Socket closed", updates=1, lived=0.1)
    assert delays(retry, DOWN, soon, soon) == [2, 4, 8]


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "UNIMPLEMENTED"])
def test_what_the_standard_forbids_to_retry_is_not_retried(retry, code):
    stop = retry.after(StreamEnd(code=code, details="no such method"), dice=1.0)
    assert isinstance(stop, Stop)
    assert stop.problem.fault is Fault.REFUSED
    assert f"no such method ({code})" in str(stop.problem)


@pytest.mark.parametrize(
    "code",
    ["CANCELLED", "UNAVAILABLE", "UNAUTHENTICATED", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION"],
)
def test_every_other_code_is_retried(retry, code):
    again = retry.after(StreamEnd(code=code, details="why"), dice=1.0)
    assert (again.delay, again.problem.fault, again.withdrawn) == (2, Fault.UNREACHABLE, False)
    assert f"why ({code})" in str(again.problem)


def test_no_identity_issued_waits_by_its_own_clock_and_is_a_withdrawal(retry):
    denied = StreamEnd(code="PERMISSION_DENIED", details="no identity issued", updates=0)
    again = retry.after(denied, dice=1.0)
    assert (again.delay, again.problem.fault, again.withdrawn) == (200, Fault.NO_IDENTITY_ISSUED, True)
    assert "no identity issued" in str(again.problem)
    assert "register this workload" in str(again.problem)
    assert delays(retry, denied, DOWN) == [300, 2]


def test_an_update_between_two_denials_begins_their_count_anew(retry):
    denied = StreamEnd(code="PERMISSION_DENIED", updates=0)
    mid_life = StreamEnd(code="PERMISSION_DENIED", updates=1, lived=60)
    assert delays(retry, denied, denied, mid_life) == [200, 300, 200]


def test_a_silent_agent_is_called_silent(retry):
    again = retry.after(StreamEnd(code="CANCELLED", silent=10), dice=1.0)
    assert (again.delay, again.problem.fault) == (2, Fault.SILENT)
    assert "sent no update within 10 s" in str(again.problem)


def test_a_stream_that_brought_something_expired_is_opened_again_after_a_while(retry):
    problem = Problem(fault=Fault.EXPIRED_UPDATE, reason="it had expired")
    end = StreamEnd(code="CANCELLED", updates=1, lived=0.1, problem=problem)
    assert retry.after(end, dice=1.0) == Again(delay=2, problem=problem)
    assert delays(retry, end, end) == [4, 8]


def test_a_stream_that_was_outlived_by_what_it_brought_is_opened_again_and_called_that(retry):
    again = retry.after(StreamEnd(code="CANCELLED", updates=1, lived=3600, outlived=True), dice=1.0)
    assert (again.delay, again.problem.fault) == (2, Fault.EXPIRED)
    assert "the X509-SVID has expired" in str(again.problem)


def test_a_message_over_the_limit_is_called_that(retry):
    details = "CLIENT: Received message larger than max (5 vs. 4)"
    again = retry.after(StreamEnd(code="RESOURCE_EXHAUSTED", details=details), dice=1.0)
    assert again.problem.fault is Fault.LIMIT_EXCEEDED
    assert details in str(again.problem)
