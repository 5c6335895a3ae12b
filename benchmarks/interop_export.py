# SPDX-License-Identifier: Apache-2.0
"""`export()` of 512 spans to a real Collector: ours beside the stock exporter with static files and a DNS name."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks._interop import without_go
from benchmarks._table import Row, compare
from benchmarks._world import Ports, spans, world, write_pem
from benchmarks.export import exporters, once
from otel_spiffe import StaticSource

TITLE = "export() of 512 spans x 10 attributes to the Collector, as a ratio to the stock exporter with static files"


def run(*, quick: bool) -> list[Row]:
    if skipped := without_go():
        return skipped
    from peerlib import Collector, write_material  # noqa: PLC0415 -- tests/interop is on the path since _interop

    calls, rows = 40 if quick else 300, []
    with world() as where, StaticSource(where.identity(where.app)) as source, tempfile.TemporaryDirectory() as folder:
        write_pem(where.folder, "collector", where.collector)
        write_material(Path(folder), where.collector, where.authority.bundle)
        with Collector.receiving(Path(folder), Path(folder)) as collector:
            ports = Ports(grpc=collector.grpc_port, http=collector.http_port)
            batch = spans(512)
            for transport, pair in exporters(where, ports, source).items():
                result = compare(*(once(exporter, batch) for exporter in pair), calls=calls)
                for exporter in pair:
                    exporter.shutdown()
                rows.append(Row(what=f"{transport}, ours to stock", figure=result.figure()))
    return rows
