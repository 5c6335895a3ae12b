# SPDX-License-Identifier: Apache-2.0
"""Run app.py under `opentelemetry-instrument`; its spans reach the collector, as its SPIFFE ID."""

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


def main() -> None:
    authority = CertificateAuthority.in_memory("prod.example")
    with (
        WorkloadApiServer.open(identity=authority.identity(APP)) as agent,
        StaticSource(authority.identity(COLLECTOR)) as collector,
        OtlpSink.open(collector, authorize=authorize_id(APP)) as sink,
    ):
        environment = {
            "OTEL_TRACES_EXPORTER": "otlp_spiffe",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint,
            "OTEL_SPIFFE_AUTHORIZED_IDS": COLLECTOR,
            "SPIFFE_ENDPOINT_SOCKET": agent.endpoint,
        }
        for name, value in environment.items():
            print(f"{name}={value}")
        instrument = Path(sys.executable).with_name("opentelemetry-instrument")
        app = Path(__file__).with_name("app.py")
        subprocess.run([instrument, sys.executable, app], env=os.environ | environment, check=True, timeout=60)  # noqa: S603 -- ours
        for received in sink.wait_for(spans=1, timeout=10):
            print(f"{received.peer} sent {received.signal}")
        print("spans:", [span.name for span in sink.spans])


if __name__ == "__main__":
    main()
