# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime, timedelta

import grpc

from otel_spiffe._proto import EMPTY_REQUEST, FETCH_X509_BUNDLES, FETCH_X509_SVID, SECURITY_HEADER
from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.testing import FaultyWorkloadApi

_WAIT = 30.0
_APP = "spiffe://prod.example/app"


def test_an_expired_identity_is_given_to_nobody_who_comes(authority, asked, channel_to):
    """Its bundles are, and who has it keeps the stream on which the next one comes."""
    now = datetime.now(UTC)
    with WorkloadApiServer.open(identity=authority.identity(_APP), clock=lambda: now) as server:
        stream = channel_to(server).unary_stream(FETCH_X509_SVID)(
            EMPTY_REQUEST, metadata=[SECURITY_HEADER], timeout=_WAIT
        )
        next(stream)
        now += timedelta(hours=2)
        assert asked(server) is grpc.StatusCode.PERMISSION_DENIED
        assert asked(server, FETCH_X509_BUNDLES) is grpc.StatusCode.OK
        server.serve(authority.identity(_APP, lifetime=timedelta(hours=3)))
        assert next(stream)
        assert asked(server) is grpc.StatusCode.OK


def test_a_faulty_api_serves_an_expired_identity(authority, asked):
    with FaultyWorkloadApi.open(identity=authority.identity(_APP, lifetime=-timedelta(seconds=5))) as server:
        assert asked(server) is grpc.StatusCode.OK


def test_who_has_an_identity_is_not_refused_because_it_expired(authority, channel_to):
    now = datetime.now(UTC)
    with WorkloadApiServer.open(identity=authority.identity(_APP), clock=lambda: now) as server:
        stream = channel_to(server).unary_stream(FETCH_X509_SVID)(
            EMPTY_REQUEST, metadata=[SECURITY_HEADER], timeout=_WAIT
        )
        next(stream)
        now += timedelta(hours=2)
        server.end_streams()
        assert list(stream) == []
        assert stream.code() is grpc.StatusCode.OK
