# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import logging
import threading
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.errors import IdentityExpired, SourceUnavailable
from otel_spiffe.identity import Identity, X509Bundle
from otel_spiffe.sources._cell import Cell, utc_now
from otel_spiffe.sources._fault import Fault, Problem

DOWN = Problem(fault=Fault.UNREACHABLE, reason="the agent is down", fix="start it")
GARBLED = Problem(fault=Fault.INVALID_UPDATE, reason="garbled")
DENIED = Problem(fault=Fault.NO_IDENTITY_ISSUED, reason="no identity issued")
REFUSED = Problem(fault=Fault.REFUSED, reason="no Workload API")

LONG = 30  # seconds: more than any machine needs


@pytest.fixture
def cell(clock):
    cell = Cell("the source", clock=clock)
    yield cell
    cell.close()


@pytest.fixture
def identity(spiffe_identity):
    return spiffe_identity("/app")


def test_before_the_first_identity_there_is_none(cell):
    with pytest.raises(SourceUnavailable, match=r"^the source: no identity has come yet$"):
        cell.identity()
    assert (cell.health().ready, cell.health().generation) == (False, 0)


def test_what_is_put_is_read_back_with_generation_one(cell, identity, clock):
    assert cell.put(identity)
    assert cell.identity().chosen is identity.chosen
    assert cell.identity().generation == 1
    health = cell.health()
    assert health.ready
    assert (health.id, health.expires_at, health.updated_at) == (identity.id, identity.expires_at, clock.now)
    assert health.problem == ""


def test_the_health_knows_when_the_first_authority_ends(cell, identity):
    cell.put(identity)
    ends = [each.not_valid_after_utc for bundle in identity.bundles.values() for each in bundle.authorities]
    assert cell.health().bundles_expire_at == min(ends)


def test_a_repeated_delivery_is_no_new_generation(cell, identity):
    cell.put(identity)
    before = cell.identity()
    assert not cell.put(dataclasses.replace(identity, generation=99))
    assert cell.identity() is before


@pytest.mark.parametrize(
    "change",
    [
        lambda identity, other: dataclasses.replace(identity, chosen=other.chosen),
        lambda identity, other: dataclasses.replace(identity, svids=(*identity.svids, *other.svids)),
        lambda identity, _: dataclasses.replace(identity, chosen=dataclasses.replace(identity.chosen, hint="new")),
        lambda identity, _: dataclasses.replace(identity, bundles=dict(list(identity.bundles.items())[:1])),
        lambda identity, _: dataclasses.replace(identity, bundles={}),
        lambda identity, _: dataclasses.replace(
            identity, bundles={each: X509Bundle(trust_domain=each, authorities=()) for each in identity.bundles}
        ),
    ],
)
def test_any_change_is_a_new_generation(cell, identity, spiffe_identity, change):
    cell.put(identity)
    assert cell.put(change(identity, spiffe_identity("/app")))
    assert cell.identity().generation == 2


def test_the_order_of_authorities_is_no_change(cell, identity, spiffe_own_ca):
    spiffe_own_ca.rotate()
    one = spiffe_own_ca.bundle
    other = dataclasses.replace(one, authorities=one.authorities[::-1])
    assert other != one
    cell.put(dataclasses.replace(identity, bundles={one.trust_domain: one}))
    assert not cell.put(dataclasses.replace(identity, bundles={one.trust_domain: other}))


def test_new_revocation_lists_are_a_change(cell, identity, spiffe_own_ca):
    cell.put(identity)
    assert cell.put(dataclasses.replace(identity, crls=spiffe_own_ca.crls))


def test_a_failure_keeps_what_is_held_and_is_told(cell, identity):
    cell.put(identity)
    cell.fail(DOWN)
    cell.fail(DOWN)
    assert cell.identity().generation == 1
    health = cell.health()
    assert health.ready
    assert (health.failures, health.problem) == (2, "the agent is down; start it")
    cell.put(identity)
    assert (cell.health().failures, cell.health().problem) == (0, "")


def test_a_failure_before_the_first_identity_is_the_reason_that_there_is_none(cell):
    cell.fail(DOWN)
    with pytest.raises(SourceUnavailable, match=r"^the source: the agent is down; start it$"):
        cell.identity()


def test_an_expired_identity_is_never_given_out_and_the_newest_failure_is_named(cell, identity, clock):
    cell.put(identity)
    clock.now = identity.expires_at
    assert cell.identity().generation == 1
    clock.move(seconds=1)
    cell.fail(DOWN)
    with pytest.raises(IdentityExpired, match=r"/app expired 1 s ago.*\(the agent is down; start it\)") as expired:
        cell.identity()
    assert (expired.value.id, expired.value.expired_at) == (identity.id, identity.expires_at)
    assert not cell.health().ready
    with pytest.raises(IdentityExpired):
        cell.wait(0)


def test_the_health_says_why_an_identity_without_a_problem_may_not_be_used(cell, identity, clock):
    cell.put(identity)
    clock.now = identity.svid.not_before - timedelta(seconds=1)
    health = cell.health()
    assert not health.ready
    assert "/app is not valid before" in health.problem
    assert "this machine's clock" in health.problem
    assert cell.identity().generation == 1  # a peer whose clock is right may take it
    clock.now = identity.svid.not_before
    assert (cell.health().ready, cell.health().problem) == (True, "")
    clock.now = identity.expires_at + timedelta(seconds=1)
    assert not cell.health().ready
    assert "/app expired at" in cell.health().problem
    cell.put(identity, flaw=GARBLED)
    assert cell.health().problem.endswith("; garbled")
    assert "/app expired at" in cell.health().problem
    cell.fail(DOWN)
    assert cell.health().problem == str(DOWN)


def test_bundles_alone_do_not_expire(cell, identity, clock):
    cell.put(Identity(chosen=None, bundles=identity.bundles))
    clock.move(days=10000)
    assert cell.identity().chosen is None
    assert cell.health().id is None


def test_a_withdrawn_identity_is_gone(cell, identity):
    cell.put(identity)
    cell.withdraw(DENIED)
    with pytest.raises(SourceUnavailable, match="no identity issued"):
        cell.identity()
    assert not cell.health().ready


def test_the_same_identity_after_a_withdrawal_is_a_new_generation(cell, identity):
    cell.put(identity)
    cell.withdraw(DENIED)
    assert cell.put(identity)
    assert cell.identity().generation == 2


def test_waiting_returns_what_comes(cell, identity):
    came = []
    waiter = threading.Thread(target=lambda: came.append(cell.wait(LONG)))
    waiter.start()
    cell.put(identity)
    waiter.join(LONG)
    assert came[0].chosen is identity.chosen


def test_waiting_ends_when_the_time_is_over_and_says_why_nothing_came(cell):
    with pytest.raises(SourceUnavailable, match=r"no identity came in 0.01 s$"):
        cell.wait(0.01)
    cell.fail(DOWN)
    with pytest.raises(SourceUnavailable, match=r"no identity came in 0 s: the agent is down; start it"):
        cell.wait(0)


@pytest.mark.parametrize("end", [lambda cell: cell.end(REFUSED), lambda cell: cell.close()])
def test_waiting_without_end_fails_once_nothing_will_ever_come(cell, end):
    errors = []

    def wait():
        try:
            cell.wait()
        except SourceUnavailable as error:
            errors.append(str(error))

    waiter = threading.Thread(target=wait)
    waiter.start()
    end(cell)
    waiter.join(LONG)
    assert errors[0] in {"the source: no Workload API", "the source: it is closed; open a new one"}


def test_a_source_that_ended_gives_out_what_it_holds_until_that_expires(cell, identity, clock):
    cell.put(identity)
    cell.end(REFUSED)
    assert cell.wait().generation == 1
    assert not cell.health().ready
    clock.move(days=1)
    with pytest.raises(IdentityExpired, match="no Workload API"):
        cell.wait()


def test_a_closed_cell_gives_out_nothing_and_may_be_closed_again(cell, identity):
    cell.put(identity)
    cell.close()
    cell.close()
    for ask in (cell.identity, cell.wait):
        with pytest.raises(SourceUnavailable, match="it is closed"):
            ask()
    assert cell.health().problem == "it is closed"
    cell.subscribe(pytest.fail)


def test_what_comes_after_the_close_is_not_kept(cell, identity):
    cell.close()
    assert not cell.put(identity)
    assert cell._state.identity is None
    assert cell.health().generation == 0


def test_a_dead_keeper_is_not_ready(clock, identity):
    cell = Cell("the source", clock=clock, alive=lambda: False)
    cell.put(identity)
    assert not cell.health().ready
    cell.close()


def test_the_log_tells_changes_of_state_once(cell, identity, clock, caplog):
    caplog.set_level(logging.DEBUG, logger="otel_spiffe.sources")
    cell.put(identity)
    cell.put(identity)
    for _ in range(3):
        cell.fail(DOWN)
    cell.fail(GARBLED)
    cell.put(identity)
    cell.fail(DOWN)
    clock.move(days=1)
    for _ in range(3):
        with pytest.raises(IdentityExpired):
            cell.identity()
    loud = [(record.levelname, record.getMessage()) for record in caplog.records if record.levelno > logging.DEBUG]
    serial = f"{identity.svid.leaf.serial_number:x}"
    assert [(level, text.split(", expires")[0]) for level, text in loud] == [
        ("INFO", f"the source: spiffe://test.example/app, serial {serial}, generation 1"),
        ("WARNING", "the source: the agent is down; start it"),
        ("WARNING", "the source: garbled"),
        ("INFO", "the source: recovered after 4 failed tries"),
        ("WARNING", "the source: the agent is down; start it"),
        ("WARNING", f"the source: expired: spiffe://test.example/app, serial {serial}, generation 1"),
    ]


def test_what_was_left_out_of_an_update_is_told_and_is_no_failure(cell, identity, spiffe_identity, caplog):
    caplog.set_level(logging.INFO, logger="otel_spiffe.sources")
    flaw = Problem(fault=Fault.FEDERATED_BUNDLE, reason="no bundle of federated.example")
    cell.put(identity, flaw=flaw)
    cell.put(spiffe_identity("/app"), flaw=flaw)
    health = cell.health()
    assert (health.ready, health.failures, health.problem) == (True, 0, "no bundle of federated.example")
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING] == [
        "the source: no bundle of federated.example"
    ]
    cell.put(spiffe_identity("/app"))
    assert cell.health().problem == ""
    assert "recovered" in caplog.text


class CellMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: nothing expired or withdrawn is read, and generations only grow."""

    def __init__(self):
        super().__init__()
        self.now = utc_now()
        self.authority = CertificateAuthority.in_memory("test.example", clock=lambda: self.now)
        self.cell = Cell("machine", clock=lambda: self.now)
        self.held = None
        self.generation = 0

    @initialize()
    def start(self):
        self.pool = [self.issued(lifetime) for lifetime in (1, 5, 60)]

    def issued(self, minutes):
        svid = self.authority.issue("spiffe://test.example/app", lifetime=timedelta(minutes=minutes))
        return Identity(chosen=svid, svids=(svid,), bundles={self.authority.trust_domain: self.authority.bundle})

    @rule(which=st.integers(0, 2))
    def put(self, which):
        identity = self.pool[which]
        changed = self.held is not identity
        assert self.cell.put(identity) is changed
        self.generation += changed
        self.held = identity

    @rule()
    def fail(self):
        self.cell.fail(DOWN)

    @rule()
    def withdraw(self):
        self.cell.withdraw(DENIED)
        self.held = None

    @rule(seconds=st.integers(1, 100))
    def pass_time(self, seconds):
        self.now += timedelta(seconds=seconds)

    @rule()
    @precondition(lambda self: self.generation)
    def fork(self):
        self.cell.after_fork_in_child()

    @invariant()
    def reads_agree(self):
        try:
            identity = self.cell.identity()
        except IdentityExpired:
            assert self.now > self.held.expires_at
        except SourceUnavailable:
            assert self.held is None
        else:
            assert identity.chosen is self.held.chosen
            assert self.now <= self.held.expires_at
            assert identity.generation == self.generation
        assert self.cell.health().generation == self.generation

    def teardown(self):
        self.cell.close()


TestCellMachine = CellMachine.TestCase
TestCellMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
