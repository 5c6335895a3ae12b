# SPDX-License-Identifier: Apache-2.0
import threading

import grpc
import pytest

from otel_spiffe._proto import FETCH_JWT_SVID, FETCH_X509_SVID
from otel_spiffe.ca import WorkloadApiServer

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
