# SPDX-License-Identifier: Apache-2.0
"""An authority, and how to ask a server what it serves."""

import tempfile
from pathlib import Path

import grpc
import pytest

from otel_spiffe._proto import EMPTY_REQUEST, FETCH_X509_SVID, SECURITY_HEADER
from otel_spiffe.ca import CertificateAuthority

_WAIT = 30.0


@pytest.fixture(scope="module")
def authority():
    return CertificateAuthority.in_memory("prod.example")


@pytest.fixture
def short_path():
    # pytest's tmp_path may be longer than a Unix socket's path may be.
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def channel_to():
    channels = []

    def channel(server):
        channels.append(grpc.insecure_channel(server.endpoint, options=[("grpc.use_local_subchannel_pool", 1)]))
        return channels[-1]

    yield channel
    for each in channels:
        each.close()


@pytest.fixture
def asked(channel_to):
    """Return the status that a new stream to a server ends with, or OK if it is told an SVID."""

    def ask(server, method=FETCH_X509_SVID):
        stream = channel_to(server).unary_stream(method)(EMPTY_REQUEST, metadata=[SECURITY_HEADER], timeout=_WAIT)
        try:
            next(stream)
        except grpc.RpcError as refused:
            return refused.code()
        stream.cancel()
        return grpc.StatusCode.OK

    return ask
