# SPDX-License-Identifier: Apache-2.0
"""Memory of a process whose identity was renewed ten thousand times, each used in a handshake."""

from __future__ import annotations

import gc
import threading

import psutil

from benchmarks._handshake import handshake
from benchmarks._table import Row
from benchmarks._world import APP, COLLECTOR, world
from otel_spiffe import StaticSource, WorkloadApiSource, authorize_id, client_context, server_context
from otel_spiffe.ca import WorkloadApiServer

TITLE = "Memory and open files after many rotations (one source, one context, a handshake with each generation)"
_FLAT = 1.05


def run(*, quick: bool) -> list[Row]:
    marks = (200, 1000) if quick else (1000, 10_000)
    seen: list[tuple[int, int, int]] = []
    with (
        world() as where,
        WorkloadApiServer.open(identity=where.identity(where.app)) as agent,
        WorkloadApiSource.open(agent.endpoint) as source,
        StaticSource(where.identity(where.collector)) as collector,
    ):
        first = source.wait(20).generation
        ours = client_context(source, authorize=authorize_id(COLLECTOR))
        theirs = server_context(collector, authorize=authorize_id(APP))
        newest = threading.Condition()

        def note(_: object) -> None:
            with newest:
                newest.notify_all()

        source.subscribe(note)
        for number in range(1, marks[-1] + 1):
            agent.serve(where.identity())
            with newest:
                if not newest.wait_for(lambda: source.identity().generation >= first + number, 20):  # noqa: B023 -- used at once
                    raise TimeoutError("a push did not arrive")
            handshake(ours, theirs)
            if number in marks:
                gc.collect()
                process = psutil.Process()
                seen.append((process.memory_info().rss, process.num_fds(), threading.active_count()))
    (early, early_fds, early_threads), (late, late_fds, late_threads) = seen
    ratio = late / early
    return [
        Row(
            what=f"resident memory after {marks[1]:,} to {marks[0]:,} rotations",
            figure=f"{ratio:.3f} ({late / 2**20:.1f} MiB to {early / 2**20:.1f} MiB)",
            target=f"<= {_FLAT}",
            reached=ratio <= _FLAT,
        ),
        Row(
            what="open files and threads, then and now",
            figure=f"{early_fds} and {late_fds}, {early_threads} and {late_threads}",
            target="the same",
            reached=(early_fds, early_threads) == (late_fds, late_threads),
        ),
    ]
