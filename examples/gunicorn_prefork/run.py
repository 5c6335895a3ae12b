# SPDX-License-Identifier: Apache-2.0
"""Serve app.py by gunicorn with two workers, ask until both have answered, and see spans of both arrive."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer
from otel_spiffe.identity import authorize_id
from otel_spiffe.sources import StaticSource
from otel_spiffe.testing import OtlpSink

APP, COLLECTOR = "spiffe://prod.example/app", "spiffe://prod.example/collector"
WORKERS = 2
PATIENCE = 60.0


def main() -> None:
    authority = CertificateAuthority.in_memory("prod.example")
    with (
        WorkloadApiServer.open(identity=authority.identity(APP)) as agent,
        StaticSource(authority.identity(COLLECTOR)) as collector,
        OtlpSink.open(collector, authorize=authorize_id(APP)) as sink,
    ):
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint,
            "OTEL_SPIFFE_AUTHORIZED_IDS": COLLECTOR,
            "SPIFFE_ENDPOINT_SOCKET": agent.endpoint,
        }
        pids = serve_and_ask(os.environ | environment)
        seen = {
            attribute.value.int_value for span in sink.spans for attribute in span.attributes if attribute.key == "pid"
        }
        print(f"workers {sorted(pids)} answered, spans came from {sorted(seen)}")
        if not pids <= seen:
            sys.exit("a worker's spans are missing")


def serve_and_ask(environment: dict[str, str]) -> set[int]:
    url = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS), "--bind", url, "app:app"]
    with subprocess.Popen(command, env=environment, cwd=Path(__file__).parent) as gunicorn:  # noqa: S603 -- ours
        try:
            return ask_until_all_answered(f"http://{url}/")
        finally:
            gunicorn.terminate()  # the workers send what they have, and end


def ask_until_all_answered(url: str) -> set[int]:
    pids: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while len(pids) < WORKERS and time.monotonic() < deadline:
        try:
            pids.add(int(requests.get(url, timeout=10).text))
        except requests.ConnectionError:
            time.sleep(0.1)  # it is starting
    return pids


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
