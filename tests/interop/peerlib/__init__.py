# SPDX-License-Identifier: Apache-2.0
"""The programs that others wrote, built once per machine and driven from Python; for the tests and the benchmarks.

go.mod, go.sum, our sources ──► build ──► cache folder ──► Process (log, readiness) ──► Spire, Collector, GoSpiffe, ...
"""

from __future__ import annotations

from peerlib.build import PEERS, PeerMissing, binary, build, missing, version
from peerlib.collector import Collector, PlainSink, Telemetrygen, write_material
from peerlib.gospiffe import GoSpiffe, GoSpiffeError, identity_fields
from peerlib.process import Process, free_port
from peerlib.spire import Agent, Server, SpiffeHelper, Spire, start_spire

__all__ = [
    "PEERS",
    "Agent",
    "Collector",
    "GoSpiffe",
    "GoSpiffeError",
    "PeerMissing",
    "PlainSink",
    "Process",
    "Server",
    "SpiffeHelper",
    "Spire",
    "Telemetrygen",
    "binary",
    "build",
    "free_port",
    "identity_fields",
    "missing",
    "start_spire",
    "version",
    "write_material",
]
