# SPDX-License-Identifier: Apache-2.0
import threading

import grpc
import pytest

from otel_spiffe._proto import (
    EMPTY_REQUEST,
    FETCH_X509_BUNDLES,
    FETCH_X509_SVID,
    SECURITY_HEADER,
    decode_x509_svid_response,
)

_WAIT = 30.0


@pytest.fixture
def channel(spiffe_workload_api):
    with grpc.insecure_channel(spiffe_workload_api.endpoint, options=[("grpc.use_local_subchannel_pool", 1)]) as opened:
        yield opened


def call(channel, method=FETCH_X509_SVID, *, wait_for_ready=False):
    return channel.unary_stream(method)(
        EMPTY_REQUEST, metadata=[SECURITY_HEADER], timeout=_WAIT, wait_for_ready=wait_for_ready
    )


def served(message):
    return decode_x509_svid_response(message).svids[0].spiffe_id


def test_it_serves_the_id_of_the_fixture(channel, spiffe_id):
    assert served(next(call(channel))) == spiffe_id


def test_garbage_arrives_and_a_good_message_follows_on_the_same_stream(spiffe_workload_api, spiffe_identity, channel):
    stream, bundles = call(channel), call(channel, FETCH_X509_BUNDLES)
    next(stream), next(bundles)
    spiffe_workload_api.garble()
    for each in (stream, bundles):
        with pytest.raises(ValueError, match="no Workload API message"):
            decode_x509_svid_response(next(each))
    spiffe_workload_api.serve(spiffe_identity("/good"))
    assert served(next(stream)) == "spiffe://test.example/good"


def test_an_empty_message_arrives(spiffe_workload_api, channel):
    spiffe_workload_api.send_nothing()
    assert next(call(channel)) == b""


def test_any_bytes_arrive(spiffe_workload_api, channel):
    spiffe_workload_api.push_bytes(b"svids", b"bundles")
    assert next(call(channel)) == b"svids"
    assert next(call(channel, FETCH_X509_BUNDLES)) == b"bundles"


def test_a_stalled_server_takes_the_stream_and_says_nothing_until_it_serves(
    spiffe_workload_api, spiffe_identity, channel
):
    spiffe_workload_api.stall()
    stream = call(channel)
    spiffe_workload_api.wait_for_streams(1, timeout=_WAIT)
    assert stream.is_active()
    spiffe_workload_api.serve(spiffe_identity("/late"))
    assert served(next(stream)) == "spiffe://test.example/late"


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED]
)
def test_denial_ends_open_and_later_streams_until_it_serves_again(spiffe_workload_api, spiffe_identity, channel, code):
    stream = call(channel)
    next(stream)
    spiffe_workload_api.deny(code, "because")
    for each in (stream, call(channel)):
        with pytest.raises(grpc.RpcError) as refused:
            next(each)
        assert (refused.value.code(), refused.value.details()) == (code, "because")
    spiffe_workload_api.serve(spiffe_identity("/again"))
    assert served(next(call(channel))) == "spiffe://test.example/again"


def test_ended_streams_may_come_again(spiffe_workload_api, channel):
    stream = call(channel)
    next(stream)
    spiffe_workload_api.end_streams(grpc.StatusCode.UNAVAILABLE, "restarting")
    with pytest.raises(grpc.RpcError) as ended:
        next(stream)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert next(call(channel))


def test_it_goes_away_and_comes_back_at_the_same_path(spiffe_workload_api, spiffe_identity, channel):
    stream = call(channel)
    next(stream)
    spiffe_workload_api.go_away()
    assert not spiffe_workload_api.listening
    assert not spiffe_workload_api.path.exists()
    with pytest.raises(grpc.RpcError):
        next(stream)
    spiffe_workload_api.come_back(spiffe_identity("/new"))
    assert spiffe_workload_api.path.is_socket()
    assert served(next(call(channel, wait_for_ready=True))) == "spiffe://test.example/new"


def test_coming_back_when_it_is_there_changes_nothing(spiffe_workload_api, channel):
    stream = call(channel)
    next(stream)
    spiffe_workload_api.come_back()
    assert stream.is_active()


def test_a_replaced_socket_ends_streams_and_serves_at_the_same_path(spiffe_workload_api, channel):
    stream = call(channel)
    next(stream)
    before = spiffe_workload_api.path.stat().st_ino
    spiffe_workload_api.replace_socket()
    assert spiffe_workload_api.path.stat().st_ino != before
    with pytest.raises(grpc.RpcError):
        next(stream)
    assert next(call(channel, wait_for_ready=True))


def test_a_source_lives_through_all_of_it(spiffe_workload_api, spiffe_identity, spiffe_source):
    """The server's faults are real to a real client."""
    generation = spiffe_source.identity().generation
    for fault in (
        spiffe_workload_api.garble,
        spiffe_workload_api.send_nothing,
        spiffe_workload_api.end_streams,
        spiffe_workload_api.replace_socket,
    ):
        fault()
    spiffe_workload_api.serve(spiffe_identity("/after"))
    came = threading.Event()
    stop = spiffe_source.subscribe(lambda identity: identity.id.path == "/after" and came.set())
    assert came.wait(_WAIT)
    stop()
    assert spiffe_source.identity().generation > generation
