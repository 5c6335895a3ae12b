# SPDX-License-Identifier: Apache-2.0
"""Scripts that emit spans and end at once: what arrives, and how long the end takes beside the stock exporter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks._table import Row
from benchmarks._world import APP, COLLECTOR, world
from otel_spiffe import StaticSource, authorize_id
from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.testing import OtlpSink

if TYPE_CHECKING:
    from benchmarks._world import World

TITLE = f"Scripts that end at once, on Python {sys.version_info.major}.{sys.version_info.minor}"

_SCRIPT = """
import time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
{exporter}
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=20_000))
tracer = provider.get_tracer("script")
for number in range({count}):
    tracer.start_span("span").end()
print(time.monotonic_ns(), flush=True)
"""
_OURS = """
from otel_spiffe.exporters.{transport} import OTLPSpanExporter
exporter = OTLPSpanExporter({endpoint!r}, spiffe_endpoint_socket={socket!r}, authorized_ids=[{collector!r}])
"""
_STOCK = {
    "grpc": """
import grpc, pathlib
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
files = [(pathlib.Path({folder!r}) / name).read_bytes() for name in ("ca.pem", "app.key", "app.pem")]
exporter = OTLPSpanExporter({endpoint!r}, credentials=grpc.ssl_channel_credentials(*files))
""",
    "http": """
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
exporter = OTLPSpanExporter({endpoint!r}, certificate_file={folder!r} + "/ca.pem",
    client_key_file={folder!r} + "/app.key", client_certificate_file={folder!r} + "/app.pem")
""",
}


def run(*, quick: bool) -> list[Row]:
    rounds = 3 if quick else 10
    with (
        world() as where,
        WorkloadApiServer.open(identity=where.identity(where.app)) as agent,
        StaticSource(where.identity(where.collector)) as collector,
        OtlpSink.open(collector, authorize=authorize_id(APP)) as sink,
    ):
        return [
            row(sink, _names(sink, where, agent.endpoint, transport), count, rounds)
            for transport in ("grpc", "http")
            for count in (1, 100, 10_000)
        ]


def _names(sink: OtlpSink, where: World, socket: str, transport: str) -> dict[str, str]:
    target = sink.grpc_endpoint if transport == "grpc" else f"{sink.http_endpoint}/v1/traces"
    return {
        "endpoint": target.replace("127.0.0.1", "localhost"),  # the name in the certificate, for the stock exporter
        "socket": socket,
        "collector": COLLECTOR,
        "folder": str(where.folder),
        "transport": transport,
    }


def row(sink: OtlpSink, names: dict[str, str], count: int, rounds: int) -> Row:
    transport = names["transport"]
    ours, stock = (_SCRIPT.format(exporter=text.format(**names), count=count) for text in (_OURS, _STOCK[transport]))
    arrived, took = 0, []
    for _ in range(rounds):
        seconds, spans = end_of(ours, sink)
        arrived += spans
        took.append((seconds, end_of(stock, sink)[0]))
    median = [1e3 * statistics.median(column) for column in zip(*took, strict=True)]
    return Row(
        what=f"{transport}, {count:,} spans, {rounds} runs",
        figure=f"{arrived:,} arrived; end {median[0] / median[1]:.2f} ({median[0]:.0f} ms to {median[1]:.0f} ms)",
        target=f"{rounds * count:,}",
        reached=arrived == rounds * count,
    )


def end_of(script: str, sink: OtlpSink) -> tuple[float, int]:
    """Run a script; return the seconds from its last line to its end, and how many spans arrived."""
    sink.clear()
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.readline() if process.stdout else ""
        process.wait()
        ended = time.monotonic_ns()
    if process.returncode or not said:
        raise RuntimeError(f"a script failed with {process.returncode}")
    return (ended - int(said)) / 1e9, sink.counts.spans
