# SPDX-License-Identifier: Apache-2.0
import asyncio
import logging
import queue
import threading
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer, _rotation
from otel_spiffe.ca._rotation import pause_after
from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.identity import Identity

_WAIT = 30.0
_APP = "spiffe://prod.example/app"
_OK, _DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
_SOON = timedelta(milliseconds=10)


class Clock:
    """Stands still until it is set."""

    def __init__(self):
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self):
        return self.now


class Issuer:
    """Issues, and can be told to do something else at a call: 1 is the one of `open`."""

    def __init__(self, authority, **at):
        self._authority = authority
        self._at = {int(number[1:]): act for number, act in at.items()}
        self.calls = queue.SimpleQueue()
        self._count = 0

    def __call__(self):
        self._count += 1
        self.calls.put(self._count)
        self._at.get(self._count, lambda: None)()
        return self._authority.identity(_APP)

    def wait_for(self, number):
        while self.calls.get(timeout=_WAIT) < number:
            pass


def raising(error):
    def act():
        raise error

    return act


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(1), RuntimeError("away")], ids=repr)
def test_whatever_issue_raises_it_is_asked_again(authority, monkeypatch, caplog, error):
    monkeypatch.setattr(_rotation, "_RETRY", _SOON)
    issuer = Issuer(authority, n2=raising(error), n3=raising(error))
    with (
        caplog.at_level(logging.ERROR, "otel_spiffe.ca"),
        WorkloadApiServer.open(issue=issuer, every=_SOON),
    ):
        issuer.wait_for(5)
    assert [record.message for record in caplog.records] == ["issuing failed; the last identity stays served"]


def test_a_clock_that_is_set_forward_and_a_machine_that_slept_have_it_issue(monkeypatch):
    monkeypatch.setattr(_rotation, "_LOOK_SECONDS", 0.01)
    clock = Clock()
    issuer = Issuer(CertificateAuthority.in_memory("prod.example", clock=clock))
    with WorkloadApiServer.open(issue=issuer, clock=clock):
        issuer.wait_for(1)
        clock.now += timedelta(minutes=31)
        issuer.wait_for(2)


def test_a_clock_that_is_set_back_delays_nothing(authority):
    clock = Clock()
    issuer = Issuer(authority, n2=lambda: setattr(clock, "now", clock.now - timedelta(days=1)))
    with WorkloadApiServer.open(issue=issuer, every=_SOON, clock=clock):
        issuer.wait_for(4)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("svid", "lists", "pause"),
    [
        pytest.param(timedelta(hours=1), [], timedelta(minutes=30), id="half of the SVID's life"),
        pytest.param(timedelta(0), [], timedelta(milliseconds=100), id="an SVID that is issued expired"),
        pytest.param(timedelta(days=5), [timedelta(days=9), timedelta(days=1)], timedelta(hours=12), id="a list first"),
        pytest.param(timedelta(days=1), [timedelta(days=9)], timedelta(hours=12), id="the SVID first"),
        pytest.param(timedelta(days=5), [timedelta(0)], timedelta(minutes=5), id="an expired list"),
        pytest.param(None, [], timedelta(minutes=5), id="bundles alone"),
        pytest.param(None, [timedelta(minutes=2)], timedelta(minutes=1), id="bundles and a list"),
    ],
)
def test_it_is_issued_again_before_the_svid_or_a_list_ends(svid, lists, pause):
    class List:
        def __init__(self, life):
            self.next_update_utc = NOW + life

    authority = CertificateAuthority.in_memory("prod.example", lifetime=timedelta(days=30), clock=lambda: NOW)
    issued = authority.identity(*([_APP] if svid is not None else []), lifetime=svid or timedelta(0))
    identity = Identity(chosen=issued.chosen, bundles=issued.bundles, crls=tuple(map(List, lists)))
    assert pause_after(identity, now=NOW) == pause


def test_withdrawal_lasts_until_rotate(authority, asked):
    issuer = Issuer(authority)
    with WorkloadApiServer.open(issue=issuer, every=_SOON) as server:
        issuer.wait_for(2)
        server.withdraw()
        with server._rotation._issuing:  # no call is under way
            while not issuer.calls.empty():
                issuer.calls.get()
        with pytest.raises(queue.Empty):
            issuer.calls.get(timeout=0.2)
        assert asked(server) is _DENIED
        server.rotate()
        assert asked(server) is _OK


def test_withdrawal_lasts_until_serve_from_when_on_it_issues_again(authority, asked):
    issuer = Issuer(authority)
    with WorkloadApiServer.open(issue=issuer, every=timedelta(milliseconds=200)) as server:
        server.withdraw()
        assert asked(server) is _DENIED
        server.serve(authority.identity(_APP))
        assert asked(server) is _OK
        issuer.wait_for(2)


def test_what_is_issued_while_it_is_withdrawn_is_not_served(authority, asked):
    entered, go_on = threading.Event(), threading.Event()

    def hold():
        entered.set()
        go_on.wait(_WAIT)

    with WorkloadApiServer.open(issue=Issuer(authority, n2=hold)) as server:
        rotating = threading.Thread(target=server.rotate)
        rotating.start()
        assert entered.wait(_WAIT)
        server.withdraw()
        go_on.set()
        rotating.join(_WAIT)
        assert asked(server) is _DENIED


@pytest.mark.parametrize("every", [timedelta(0), timedelta(seconds=-1)])
def test_a_pace_that_is_none_is_refused(authority, every, short_path):
    with pytest.raises(InvalidConfiguration, match="every"):
        WorkloadApiServer.open(short_path / "api.sock", issue=Issuer(authority), every=every)


def test_issue_may_close_the_server(authority):
    servers, closed = queue.SimpleQueue(), threading.Event()

    def close():
        servers.get(timeout=_WAIT).close()
        closed.set()

    server = WorkloadApiServer.open(issue=Issuer(authority, n2=close), every=_SOON)
    servers.put(server)
    assert closed.wait(_WAIT)
    assert not server.listening
    assert not server.path.exists()
    server.close()


def test_an_issuer_that_hangs_holds_close_up_for_a_while_and_the_socket_not_at_all(authority, monkeypatch, caplog):
    entered, go_on, seen = threading.Event(), threading.Event(), []

    def hang():
        entered.set()
        go_on.wait(_WAIT)

    server = WorkloadApiServer.open(issue=Issuer(authority, n2=hang), every=_SOON)
    assert entered.wait(_WAIT)
    thread = server._rotation._thread
    monkeypatch.setattr(_rotation, "_JOIN_SECONDS", 0.01)
    monkeypatch.setattr(thread, "join", lambda timeout: seen.append((timeout, server.path.exists())))
    server.close()
    assert seen == [(0.01, False)]
    assert "the issuer did not return" in caplog.text
    monkeypatch.undo()
    go_on.set()
    thread.join(_WAIT)
    assert not thread.is_alive()
