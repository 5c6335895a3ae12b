# SPDX-License-Identifier: Apache-2.0
"""An authority, an agent on a socket, a collector that records, and the environment of an app beside them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer
from otel_spiffe.identity import authorize_any
from otel_spiffe.sources import StaticSource
from otel_spiffe.testing import OtlpSink

if TYPE_CHECKING:
    from collections.abc import Iterator

APP, COLLECTOR = "spiffe://prod.example/app", "spiffe://prod.example/collector"
PATIENCE = 60.0  # seconds; for anything that should happen at once


@dataclass(slots=True)
class World:
    """What stands around an app."""

    authority: CertificateAuthority
    agent: WorkloadApiServer
    sink: OtlpSink

    def env(self, transport: str = "grpc", **more: str) -> dict[str, str]:
        """The environment of an app that exports by `transport`; nothing of ours leaks in."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "SPIFFE_", "GRPC_"))
        }
        return inherited | self.variables(transport) | more

    def variables(self, transport: str = "grpc") -> dict[str, str]:
        """The four lines that a user sets."""
        return {
            "SPIFFE_ENDPOINT_SOCKET": self.agent.endpoint,
            "OTEL_SPIFFE_AUTHORIZED_IDS": COLLECTOR,
            "OTEL_EXPORTER_OTLP_PROTOCOL": {"grpc": "grpc", "http": "http/protobuf"}[transport],
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint(transport),
        }

    def endpoint(self, transport: str) -> str:
        return self.sink.grpc_endpoint if transport == "grpc" else self.sink.http_endpoint

    def run(self, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run Python with `arguments` to its end."""
        return subprocess.run(
            [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )


@pytest.fixture
def world() -> Iterator[World]:
    authority = CertificateAuthority.in_memory("prod.example")
    with (
        tempfile.TemporaryDirectory(prefix="flow-") as folder,  # its path is short enough for a socket
        WorkloadApiServer.open(f"{folder}/api.sock", identity=authority.identity(APP)) as agent,
        StaticSource(authority.identity(COLLECTOR)) as collector,
        OtlpSink.open(collector, authorize=authorize_any()) as sink,
    ):
        yield World(authority, agent, sink)
