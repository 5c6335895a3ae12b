# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: an authority, PEM files for the stock exporters, spans, and a collector's stub."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from otel_spiffe.ca import CertificateAuthority
from otel_spiffe.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_spiffe.identity import X509Svid

APP = "spiffe://bench.example/app"
COLLECTOR = "spiffe://bench.example/collector"


class World:
    """An authority and what it issued, in memory and as PEM files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = CertificateAuthority.in_memory("bench.example")
        self.app, self.collector = self.authority.issue(APP), self.authority.issue(COLLECTOR, dns_names=["localhost"])
        (folder / "ca.pem").write_bytes(
            b"".join(root.public_bytes(Encoding.PEM) for root in self.authority.bundle.authorities)
        )
        write_pem(folder, "app", self.app)
        write_pem(folder, "collector", self.collector)

    def identity(self, svid: X509Svid | None = None, *, generation: int = 1) -> Identity:
        """Return a snapshot with `svid`, or with a fresh one of the app."""
        svid = svid or self.authority.issue(APP)
        bundles = {self.authority.trust_domain: self.authority.bundle}
        return Identity(chosen=svid, svids=(svid,), bundles=bundles, generation=generation)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the collector's stub listens."""

    grpc: int
    http: int


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Give a world in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="otel-spiffe-bench-") as folder:
        yield World(Path(folder))


@contextlib.contextmanager
def collector(where: World) -> Iterator[Ports]:
    """Run the stub in a process of its own: OTLP over gRPC and HTTP, mTLS with static files, answers at once."""
    command = [sys.executable, "-m", "benchmarks._collector", str(where.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        if process.stdout is None or process.stdin is None:
            raise RuntimeError("no pipes")
        ports = json.loads(process.stdout.readline())
        try:
            yield Ports(**ports)
        finally:
            process.stdin.close()  # it ends when its input does
            process.wait(20)


class _Keep(SpanExporter):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


def spans(count: int, *, attributes: int = 10) -> list[ReadableSpan]:
    """Return ended spans, each attribute a key and a value of 20 characters (OpenTelemetry's benchmark profile)."""
    keep, provider = _Keep(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(keep))
    tracer = provider.get_tracer("benchmarks")
    for number in range(count):
        given = {f"attribute.key.{index:06}": f"value {number:06} {index:07}" for index in range(attributes)}
        tracer.start_span(f"span {number}", attributes=given).end()
    provider.shutdown()
    return keep.spans


def write_pem(folder: Path, name: str, svid: X509Svid) -> None:
    """Write ``name.pem`` and ``name.key``."""
    (folder / f"{name}.pem").write_bytes(b"".join(part.public_bytes(Encoding.PEM) for part in svid.chain))
    key = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / f"{name}.key"
    path.touch(mode=0o600)
    path.write_bytes(key)
