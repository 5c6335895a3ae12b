# SPDX-License-Identifier: Apache-2.0
"""From a push on the Workload API to the end of the first handshake that presents the new SVID."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from cryptography import x509

from benchmarks._handshake import handshake
from benchmarks._table import Row, percentile
from benchmarks._world import APP, COLLECTOR, world
from otel_spiffe import StaticSource, WorkloadApiSource, authorize_id, client_context, server_context
from otel_spiffe.ca import WorkloadApiServer

if TYPE_CHECKING:
    from otel_spiffe import Identity

TITLE = "From push to the first handshake with the new SVID, over a real Unix socket"
_LIMIT_MS = 50.0


def run(*, quick: bool) -> list[Row]:
    pushes = 100 if quick else 1000
    arrived = threading.Event()
    took: list[float] = []
    with (
        world() as where,
        WorkloadApiServer.open(identity=where.identity(where.app)) as agent,
        WorkloadApiSource.open(agent.endpoint) as source,
        StaticSource(where.identity(where.collector)) as collector,
    ):
        source.wait(20)
        ours = client_context(source, authorize=authorize_id(COLLECTOR))
        theirs = server_context(collector, authorize=authorize_id(APP))

        def note(_: Identity) -> None:
            arrived.set()

        source.subscribe(note)
        for _ in range(pushes):
            identity = where.identity()
            arrived.clear()
            start = time.perf_counter()
            agent.serve(identity)
            while True:
                if not arrived.wait(20):
                    raise TimeoutError("the push did not arrive")
                peer = handshake(ours, theirs).getpeercert(binary_form=True) or b""
                if x509.load_der_x509_certificate(peer) == identity.svid.chain[0]:
                    break
            took.append(1e3 * (time.perf_counter() - start))
    worst = percentile(took, 99)
    figure = f"p50 {percentile(took, 50):.1f} ms, p99 {worst:.1f} ms, longest {max(took):.1f} ms"
    return [Row(what=f"{pushes} pushes", figure=figure, target=f"p99 < {_LIMIT_MS:g} ms", reached=worst < _LIMIT_MS)]
