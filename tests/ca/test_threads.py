# SPDX-License-Identifier: Apache-2.0
import threading

import grpc
import pytest

from otel_spiffe._proto import FETCH_JWT_SVID, FETCH_X509_SVID
from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.ca._threads import ThreadPerStream

_APP = "spiffe://prod.example/app"


@pytest.mark.parametrize("method", [FETCH_X509_SVID, FETCH_JWT_SVID])
def test_streams_for_which_no_thread_can_be_started_are_refused_and_later_ones_served(
    authority, asked, monkeypatch, method
):
    start = threading.Thread.start

    def exhausted(self):
        if self.name == "otel-spiffe-workload-api-stream":
            raise RuntimeError("can't start new thread")
        start(self)

    with WorkloadApiServer.open(identity=authority.identity(_APP)) as server:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", exhausted)
            assert [asked(server, method) for _ in range(3)] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 3
        assert asked(server) is grpc.StatusCode.OK
    assert [each for each in threading.enumerate() if each.name.startswith("otel-spiffe-workload-api")] == []


def test_shutdown_waits_for_the_last_moment_of_each_thread():
    last, released = threading.Event(), threading.Event()

    def profile(frame, event, _):
        if event == "return" and frame.f_code.co_qualname == "ThreadPerStream.submit.<locals>.run":
            last.set()
            released.wait(30)

    pool = ThreadPerStream()
    threading.setprofile(profile)
    try:
        pool.submit(int)
    finally:
        threading.setprofile(None)
    assert last.wait(30)
    ending = threading.Thread(target=pool.shutdown)
    ending.start()
    ending.join(0.2)
    waited = ending.is_alive()
    released.set()
    ending.join(30)
    assert waited
    assert not ending.is_alive()
