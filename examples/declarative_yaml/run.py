# SPDX-License-Identifier: Apache-2.0
"""Run app.py with otel.yaml as its only configuration; traces go over gRPC, metrics over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer
from otel_spiffe.identity import authorize_id
from otel_spiffe.sources import StaticSource
from otel_spiffe.testing import OtlpSink

APP, COLLECTOR = "spiffe://prod.example/app", "spiffe://prod.example/collector"
HERE = Path(__file__).parent


def main() -> None:
    authority = CertificateAuthority.in_memory("prod.example")
    with (
        WorkloadApiServer.open(identity=authority.identity(APP)) as agent,
        StaticSource(authority.identity(COLLECTOR)) as collector,
        OtlpSink.open(collector, authorize=authorize_id(APP)) as sink,
    ):
        environment = {
            "OTEL_CONFIG_FILE": str(HERE / "otel.yaml"),
            "COLLECTOR_GRPC": sink.grpc_endpoint,
            "COLLECTOR_HTTP": sink.http_endpoint,
            "SPIFFE_ENDPOINT_SOCKET": agent.endpoint,
        }
        instrument = Path(sys.executable).with_name("opentelemetry-instrument")
        command = [instrument, sys.executable, HERE / "app.py"]
        subprocess.run(command, env=os.environ | environment, check=True, timeout=60)  # noqa: S603 -- ours
        for received in sink.wait_for(spans=1, metrics=1, timeout=10):
            print(f"{received.peer} sent {received.signal} over {received.transport}")


if __name__ == "__main__":
    main()
