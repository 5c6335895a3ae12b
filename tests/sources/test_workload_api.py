# SPDX-License-Identifier: Apache-2.0
"""A real gRPC server on a real Unix socket, and everything that an agent can do to a source."""

from __future__ import annotations

import threading
import time
from concurrent import futures
from dataclasses import replace
from datetime import timedelta

import grpc
import psutil
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_spiffe._proto import FETCH_X509_SVID, WORKLOAD_API_SERVICE, encode_x509_svid_response
from otel_spiffe.ca._answers import svids_response
from otel_spiffe.errors import IdentityExpired, InvalidConfiguration, SourceUnavailable
from otel_spiffe.identity import Source
from otel_spiffe.rotation import Backoff
from otel_spiffe.sources import Limits, WorkloadApiSource, _watchdog, _workload_api
from otel_spiffe.testing import FaultyWorkloadApi

LONG = 30  # seconds: more than any machine needs
FAST = Backoff(minimum=0.001, maximum=0.05)


@pytest.fixture
def open_source(spiffe_workload_api):
    """Open sources of the Workload API that retry fast; they are closed after the test."""
    sources = []

    def opened(endpoint=None, **how):
        how = {"backoff": FAST, "no_identity_backoff": FAST, **how}
        source = WorkloadApiSource.open(endpoint or spiffe_workload_api.endpoint, **how)
        sources.append(source)
        return source

    yield opened
    for source in sources:
        source.close()


def until(source, true):
    """Wait until `true` holds of the source's health, and return that."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        health = source.health()
        if true(health):
            return health
        threading.Event().wait(0.005)
    raise AssertionError(source.health())


def generation(source, number):
    until(source, lambda health: health.generation >= number and health.ready)
    return source.identity()


def test_the_first_identity_comes_and_each_pushed_one_after_it(open_source, spiffe_workload_api, spiffe_identity):
    source = open_source()
    assert str(source.wait(LONG).id) == "spiffe://test.example/app"
    for number in range(2, 6):
        pushed = spiffe_identity("/app")
        spiffe_workload_api.serve(pushed)
        assert generation(source, number).chosen.chain == pushed.svid.chain
    assert source.health().ready


def test_an_svid_comes_with_the_bundles_of_its_own_update(open_source, spiffe_workload_api, spiffe_own_ca):
    torn = []

    def look(identity):
        anchors = identity.bundles[identity.id.trust_domain].authorities
        if identity.svid.leaf.issuer != anchors[0].subject:
            torn.append(identity)

    spiffe_workload_api.serve(spiffe_own_ca.identity("spiffe://test.example/app"))
    source = open_source()
    source.subscribe(look)
    first = source.wait(LONG).generation
    for number in range(20):
        spiffe_own_ca.rotate()
        spiffe_own_ca.withdraw()
        spiffe_workload_api.serve(spiffe_own_ca.identity("spiffe://test.example/app"))
        if number % 5 == 0:
            generation(source, first + 1)
        look(source.identity())
    assert not torn


def test_it_opens_before_its_agent_does(open_source, spiffe_workload_api):
    spiffe_workload_api.go_away()
    source = open_source()
    with pytest.raises(SourceUnavailable, match=r"the agent cannot be asked.*see that the agent runs"):
        until(source, lambda health: health.failures > 0) and source.identity()
    spiffe_workload_api.come_back()
    assert source.wait(LONG).generation == 1


def test_it_opens_before_the_directory_of_the_socket_is_there(open_source, spiffe_identity, tmp_path):
    path = tmp_path / "later" / "agent.sock"
    source = open_source(f"unix://{path}")
    until(source, lambda health: health.failures > 2)
    path.parent.mkdir(mode=0o700)
    with FaultyWorkloadApi.open(path, identity=spiffe_identity("/app")):
        assert source.wait(LONG).generation == 1


def test_an_outage_keeps_the_last_identity_and_ends_by_itself(open_source, spiffe_workload_api, spiffe_identity):
    source = open_source()
    source.wait(LONG)
    spiffe_workload_api.go_away()
    until(source, lambda health: health.failures > 3)
    assert source.identity().generation == 1
    assert source.health().ready
    spiffe_workload_api.come_back(spiffe_identity("/app"))
    assert generation(source, 2)
    assert source.health().problem == ""


def test_an_identity_that_expires_in_an_outage_is_not_used(open_source, spiffe_workload_api, clock):
    source = open_source(clock=clock)
    expires_at = source.wait(LONG).expires_at
    spiffe_workload_api.go_away()
    until(source, lambda health: health.failures > 0)
    clock.now = expires_at
    clock.move(seconds=1)
    with pytest.raises(IdentityExpired, match=r"expired 1 s ago.*the agent cannot be asked"):
        source.identity()
    assert not source.health().ready


def test_a_socket_that_is_replaced_is_found(open_source, spiffe_workload_api, spiffe_identity):
    source = open_source()
    source.wait(LONG)
    spiffe_workload_api.replace_socket()
    spiffe_workload_api.serve(spiffe_identity("/app"))
    assert generation(source, 2)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
)
def test_a_stream_that_ends_is_opened_again(open_source, spiffe_workload_api, spiffe_identity, code):
    source = open_source()
    source.wait(LONG)
    for number in range(2, 5):
        spiffe_workload_api.end_streams(code, "for the test")
        spiffe_workload_api.wait_for_streams(1, opened=number, timeout=LONG)
    spiffe_workload_api.serve(spiffe_identity("/app"))
    assert generation(source, 2).generation == 2  # what was delivered again did not count


def test_an_agent_that_ends_every_stream_at_once_does_not_spin_us(open_source, spiffe_workload_api):
    spiffe_workload_api.deny(grpc.StatusCode.OK)
    source = open_source(backoff=Backoff(minimum=1000, maximum=1000))
    until(source, lambda health: health.failures > 0)
    assert source.health().failures == 1
    assert "ends the stream again and again" in source.health().problem


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda server: server.garble(), "no Workload API message"),
        (lambda server: server.send_nothing(), "holds no X509-SVID"),
    ],
)
def test_a_bad_update_is_reported_and_the_same_stream_goes_on(
    open_source, spiffe_workload_api, spiffe_identity, bad, words
):
    source = open_source()
    source.wait(LONG)
    spiffe_workload_api.wait_for_streams(1, timeout=LONG)
    bad(spiffe_workload_api)
    health = until(source, lambda health: health.failures > 0)
    assert words in health.problem
    assert health.ready
    assert source.identity().generation == 1
    spiffe_workload_api.serve(spiffe_identity("/app"))
    assert generation(source, 2)
    with pytest.raises(TimeoutError):
        spiffe_workload_api.wait_for_streams(1, opened=2, timeout=0)


@pytest.mark.parametrize("bug", [ZeroDivisionError, type("PanicException", (BaseException,), {})])
def test_a_bug_of_ours_is_told_by_the_health_and_the_same_stream_goes_on(
    open_source, spiffe_workload_api, spiffe_identity, monkeypatch, bug
):
    def broken(*_arguments, **_keywords):
        raise bug("oh")

    source = open_source()
    source.wait(LONG)
    with monkeypatch.context() as patch:
        patch.setattr(_workload_api, "identity_from_response", broken)
        spiffe_workload_api.serve(spiffe_identity("/app"))
        health = until(source, lambda health: health.failures > 0)
    assert f"which is a bug: {bug.__name__}: oh" in health.problem
    spiffe_workload_api.serve(spiffe_identity("/app"))
    assert generation(source, 2)
    assert spiffe_workload_api.streams == 1


def test_a_broken_federated_bundle_does_not_stop_our_own_renewal(open_source, spiffe_workload_api, spiffe_identity):
    def broken():
        response = svids_response(spiffe_identity("/app"))
        return encode_x509_svid_response(replace(response, federated_bundles={"federated.example": b"garbage"}))

    source = open_source()
    assert len(source.wait(LONG).bundles) == 2
    for number in (2, 3):
        spiffe_workload_api.push_bytes(broken())
        assert [each.name for each in generation(source, number).bundles] == ["test.example"]
    assert "federated_bundles['federated.example']" in source.health().problem
    spiffe_workload_api.serve(spiffe_identity("/app"))
    assert len(generation(source, 4).bundles) == 2
    assert source.health().problem == ""


def test_a_bad_first_update_is_the_reason_that_there_is_none(open_source, spiffe_workload_api):
    spiffe_workload_api.garble()
    source = open_source()
    until(source, lambda health: health.failures > 0)
    with pytest.raises(SourceUnavailable, match="no Workload API message"):
        source.wait(0)


def test_an_expired_update_keeps_the_last_good_one(open_source, spiffe_workload_api, spiffe_identity, clock):
    source = open_source(clock=clock)
    good = spiffe_identity("/app")
    source.wait(LONG)
    clock.move(minutes=1)
    spiffe_workload_api.serve(spiffe_identity("/app", lifetime=timedelta(seconds=10)))
    health = until(source, lambda health: health.failures > 0)
    assert "this machine's clock is right" in health.problem
    assert source.identity().generation == 1
    spiffe_workload_api.serve(good)
    assert generation(source, 2)


def test_an_update_that_a_wrong_clock_refused_is_asked_for_again(open_source, clock):
    """The agent has no reason to send it again on the stream that it keeps open."""
    clock.move(hours=2)
    source = open_source(clock=clock)
    until(source, lambda health: health.failures > 2)
    clock.move(hours=-2)
    assert source.wait(LONG).generation == 1
    assert source.health().problem == ""


def test_a_silent_stream_is_opened_again_once_what_it_brought_has_ended(
    open_source, spiffe_workload_api, clock, monkeypatch
):
    monkeypatch.setattr(_watchdog, "LOOK_EVERY", 0.01)
    source = open_source(clock=clock, backoff=Backoff(minimum=1000, maximum=1000))
    expires_at = source.wait(LONG).expires_at
    clock.now = expires_at
    clock.move(seconds=1)
    health = until(source, lambda health: health.failures > 0)
    assert not health.ready
    assert "the X509-SVID has expired, and the agent" in health.problem
    spiffe_workload_api.wait_for_streams(0, timeout=LONG)


def test_what_a_new_stream_brings_is_taken_after_the_end_of_the_old(
    open_source, spiffe_workload_api, spiffe_identity, clock, monkeypatch
):
    monkeypatch.setattr(_watchdog, "LOOK_EVERY", 0.01)
    source = open_source(clock=clock)
    expires_at = source.wait(LONG).expires_at
    clock.now = expires_at
    clock.move(seconds=1)
    until(source, lambda health: health.failures > 2)
    assert not source.health().ready
    spiffe_workload_api.serve(spiffe_identity("/app", lifetime=timedelta(hours=12)))
    assert generation(source, 2)
    assert source.health().problem == ""


def test_no_identity_issued_drops_what_is_held_and_waits_for_a_new_one(
    open_source, spiffe_workload_api, spiffe_identity
):
    source = open_source()
    source.wait(LONG)
    spiffe_workload_api.withdraw()
    until(source, lambda health: not health.ready)
    with pytest.raises(SourceUnavailable, match=r"no identity issued.*register this workload"):
        source.identity()
    spiffe_workload_api.serve(spiffe_identity("/app"))
    assert source.wait(LONG).generation == 2


def test_no_identity_issued_keeps_what_is_held_where_that_is_wanted(open_source, spiffe_workload_api):
    source = open_source(on_withdrawal="keep")
    source.wait(LONG)
    spiffe_workload_api.withdraw()
    assert "no identity issued" in until(source, lambda health: health.failures > 1).problem
    assert source.identity().generation == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED])
def test_a_refusal_for_good_is_reported_and_not_retried(open_source, spiffe_workload_api, code):
    spiffe_workload_api.deny(code, "go away")
    source = open_source()
    with pytest.raises(SourceUnavailable, match=rf"refuses the request for good: go away \({code.name}\)"):
        source.wait()  # without a timeout: it fails because nothing will ever come
    source._worker._thread.join(LONG)
    assert not source._worker.alive
    assert source.health().failures == 1


def test_a_silent_agent_is_reported_and_asked_again(open_source, spiffe_workload_api, spiffe_identity):
    spiffe_workload_api.stall()
    source = open_source(first_update_timeout=0.1)
    assert "sent no update within 0.1 s" in until(source, lambda health: health.failures > 1).problem
    spiffe_workload_api.serve(spiffe_identity("/app"))
    assert source.wait(LONG).generation == 1


def test_silence_after_the_first_update_is_no_fault(open_source, spiffe_workload_api, spiffe_identity):
    source = open_source(first_update_timeout=0.2)
    source.wait(LONG)
    threading.Event().wait(0.5)
    spiffe_workload_api.serve(spiffe_identity("/app"))
    assert generation(source, 2)
    with pytest.raises(TimeoutError):
        spiffe_workload_api.wait_for_streams(1, opened=2, timeout=0)


def test_a_message_over_the_limit_is_not_taken(open_source):
    source = open_source(limits=Limits(message_bytes=100))
    health = until(source, lambda health: health.failures > 0)
    assert "larger than max" in health.problem
    assert "raise limits=" in health.problem


def test_a_picker_chooses_and_one_that_fails_keeps_the_last_good(open_source, spiffe_workload_api, spiffe_identity):
    def pick(svids):
        return next(svid for svid in svids if svid.id.path == "/db")

    spiffe_workload_api.serve(spiffe_identity("/app", "/db"))
    source = open_source(picker=pick)
    assert source.wait(LONG).id.path == "/db"
    assert len(source.identity().svids) == 2
    spiffe_workload_api.serve(spiffe_identity("/app"))
    assert "the picker raised StopIteration" in until(source, lambda health: health.failures > 0).problem
    assert source.identity().id.path == "/db"


def test_a_hint_chooses(open_source, spiffe_workload_api, spiffe_identity, spiffe_svid):
    one, other = spiffe_svid("/app", hint="internal"), spiffe_svid("/db", hint="external")
    spiffe_workload_api.serve(replace(spiffe_identity("/app"), chosen=one, svids=(one, other)))
    assert open_source(hint="external").wait(LONG).id.path == "/db"


def test_every_call_carries_the_security_header(open_source):
    """SPIFFE Workload Endpoint 3."""
    asked = futures.Future()

    def answer(_request, context):
        asked.set_result(dict(context.invocation_metadata()))
        yield from ()

    handlers = {FETCH_X509_SVID.rpartition("/")[2]: grpc.unary_stream_rpc_method_handler(answer)}
    with futures.ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        server.add_registered_method_handlers(WORKLOAD_API_SERVICE, handlers)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        source = open_source(f"tcp://127.0.0.1:{port}", backoff=Backoff(minimum=1000, maximum=1000))
        assert asked.result(LONG)["workload.spiffe.io"] == "true"
        source.close()
        server.stop(None).wait(LONG)


def test_a_proxy_of_the_environment_is_never_used(open_source, monkeypatch):
    """An agent at a TCP address is on this machine or its network; HTTPS_PROXY is for the internet."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    source = open_source("tcp://127.0.0.2:1")
    assert "127.0.0.2:1" in until(source, lambda health: health.failures > 0).problem


def test_a_thousand_consumers_share_one_stream(open_source, spiffe_workload_api, spiffe_identity):
    source = open_source()
    heard = threading.Semaphore(0)
    for _ in range(1000):
        source.subscribe(lambda identity: identity.generation == 2 and heard.release())
        source.wait(LONG)
    spiffe_workload_api.serve(spiffe_identity("/app"))
    for _ in range(1000):
        assert heard.acquire(timeout=LONG)
    assert spiffe_workload_api.streams == 1
    spiffe_workload_api.wait_for_streams(1, opened=1, timeout=LONG)
    assert (
        len([each for each in threading.enumerate() if each.name.startswith("otel-spiffe ") and "unix" in each.name])
        == 2
    )


def test_no_thread_and_no_file_is_left_after_close(open_source, spiffe_workload_api):
    def left():
        mine = [
            each.name for each in threading.enumerate() if each.name.startswith("otel-spiffe") and "unix" in each.name
        ]
        sockets = [
            each for each in psutil.Process().net_connections("unix") if each.raddr == str(spiffe_workload_api.path)
        ]
        return mine, len(sockets)

    for _ in range(20):
        with open_source() as source:
            source.subscribe(lambda _identity: None)
            source.wait(LONG)
    spiffe_workload_api.wait_for_streams(0, opened=20, timeout=LONG)
    assert left() == ([], 0)
    fds = psutil.Process().num_fds()
    for _ in range(20):
        with open_source() as source:
            source.wait(LONG)
    spiffe_workload_api.wait_for_streams(0, opened=40, timeout=LONG)
    end = time.monotonic() + LONG
    while psutil.Process().num_fds() > fds + 5 and time.monotonic() < end:  # gRPC closes its own a moment later
        threading.Event().wait(0.01)
    assert psutil.Process().num_fds() <= fds + 5


@pytest.mark.parametrize("state", ["down", "denied", "silent", "served"])
def test_closing_returns_in_every_state(open_source, spiffe_workload_api, state):
    match state:
        case "down":
            spiffe_workload_api.go_away()
        case "denied":
            spiffe_workload_api.withdraw()
        case "silent":
            spiffe_workload_api.stall()
    slow = Backoff(minimum=1000, maximum=1000)
    source = open_source(backoff=slow, no_identity_backoff=slow, first_update_timeout=1000)
    if state == "served":
        source.wait(LONG)
    elif state == "silent":
        spiffe_workload_api.wait_for_streams(1, timeout=LONG)
    else:
        until(source, lambda health: health.failures > 0)
    source.close()
    source.close()
    assert not source._worker.alive
    with pytest.raises(SourceUnavailable, match="it is closed"):
        source.identity()


def test_a_source_closed_at_once_leaves_nothing(open_source):
    for _ in range(20):
        source = open_source()
        source.close()
        assert not source._worker.alive


@pytest.mark.usefixtures("spiffe_environment")
def test_the_environment_names_the_socket():
    with WorkloadApiSource.open() as source:
        assert source.wait(LONG).generation == 1


def test_no_socket_named_anywhere_is_refused_with_the_variable(monkeypatch):
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET", raising=False)
    with pytest.raises(InvalidConfiguration, match=r"^SPIFFE_ENDPOINT_SOCKET: it is not set"):
        WorkloadApiSource.open()


def test_a_bad_socket_in_the_environment_is_refused_with_the_variable(monkeypatch):
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", "/run/agent.sock")
    with pytest.raises(InvalidConfiguration, match=r"^SPIFFE_ENDPOINT_SOCKET: '/run/agent.sock' has no scheme"):
        WorkloadApiSource.open()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"on_withdrawal": "ignore"}, "neither 'drop' nor 'keep'"),
        ({"hint": "a", "picker": lambda svids: svids[0]}, "both are given"),
    ],
)
def test_settings_that_make_no_sense_are_refused(spiffe_workload_api, how, words):
    with pytest.raises(InvalidConfiguration, match=words):
        WorkloadApiSource.open(spiffe_workload_api.endpoint, **how)


def test_connections_that_stood_are_counted_after_the_first(open_source, spiffe_workload_api, spiffe_identity):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    source = open_source(meter_provider=provider)
    source.wait(LONG)
    spiffe_workload_api.go_away()
    until(source, lambda health: health.failures > 3)  # none of these tries was a connection
    spiffe_workload_api.come_back(spiffe_identity("/app"))
    assert generation(source, 2)
    names = {
        metric.name: metric.data.data_points[0].value
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert names["otel_spiffe.source.reconnects"] == 1
    provider.shutdown()


def test_the_repr_names_the_socket(open_source, spiffe_workload_api):
    assert repr(open_source()) == f"WorkloadApiSource({spiffe_workload_api.endpoint})"


def test_it_is_a_source(open_source):
    assert isinstance(open_source(), Source)
