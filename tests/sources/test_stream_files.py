# SPDX-License-Identifier: Apache-2.0
"""A closed source leaves no open file behind."""

import threading

import psutil

from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer
from otel_spiffe.sources import WorkloadApiSource

WAIT = 30


def test_sources_opened_and_closed_again_and_again_hold_nothing():
    identity = CertificateAuthority.in_memory("prod.example").identity("spiffe://prod.example/app")
    with WorkloadApiServer.open(identity=identity) as agent:

        def one_life():
            with WorkloadApiSource.open(agent.endpoint) as source:
                source.wait(WAIT)
            agent.wait_for_streams(0, timeout=WAIT)
            return len(psutil.Process().net_connections(kind="unix")), threading.active_count()

        one_life()
        lives = [one_life() for _ in range(20)]
    # gRPC closes a socket a moment after its channel: single ones may linger, twenty may not.
    assert min(life[0] for life in lives[-5:]) < lives[0][0] + 10
    assert lives[-1][1] <= lives[0][1] + 1
