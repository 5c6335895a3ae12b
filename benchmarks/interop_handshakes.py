# SPDX-License-Identifier: Apache-2.0
"""Connections a second over loopback, a line there and back: ours, bare `ssl` and go-spiffe, as client and as server.

Ours and go-spiffe verify and authorize the peer by its trust domain; bare `ssl` checks the chain alone. The other end
is in each case the same program, in another process or, for a Python server, in this one.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from benchmarks._interop import without_go
from benchmarks._table import Row
from benchmarks._world import APP, COLLECTOR, world
from benchmarks.handshakes import bare_context
from otel_spiffe import StaticSource, authorize_id, client_context, server_context

if TYPE_CHECKING:
    from collections.abc import Callable

TITLE = "Connections with mutual TLS 1.3 over loopback, ours to others (more than 1 is slower)"


def run(*, quick: bool) -> list[Row]:
    if skipped := without_go():
        return skipped
    from peerlib import GoSpiffe, identity_fields  # noqa: PLC0415 -- tests/interop is on the path since _interop
    from peerlib.echo import EchoServer, dial  # noqa: PLC0415

    count, rounds = (20, 5) if quick else (100, 11)
    go = GoSpiffe()
    try:
        with (
            world() as where,
            StaticSource(where.identity(where.app)) as app,
            StaticSource(where.identity(where.collector)) as collector,
        ):
            theirs = identity_fields(where.identity(where.app))
            far = identity_fields(where.identity(where.collector))

            def go_dials(address: str) -> float:
                return float(
                    go.call("bench", identity=theirs, authorize={"id": COLLECTOR}, address=address, count=count)[
                        "seconds"
                    ]
                )

            ours, bare = (
                client_context(app, authorize=authorize_id(COLLECTOR)),
                bare_context(where.folder, "app", server=False),
            )
            with go.serve(identity=far, authorize={"id": APP}) as server:
                clients = _rounds(
                    {
                        "ours": lambda: _timed(lambda: dial(ours, server.address), count),
                        "bare ssl": lambda: _timed(lambda: dial(bare, server.address), count),
                        "go-spiffe": lambda: go_dials(server.address),
                    },
                    rounds,
                )
            with (
                go.serve(identity=far, authorize={"id": APP}) as go_server,
                EchoServer(server_context(collector, authorize=authorize_id(APP))) as our_server,
                EchoServer(bare_context(where.folder, "collector", server=True)) as bare_server,
            ):
                servers = _rounds(
                    {
                        "ours": lambda: go_dials(our_server.address),
                        "bare ssl": lambda: go_dials(bare_server.address),
                        "go-spiffe": lambda: go_dials(go_server.address),
                    },
                    rounds,
                )
    finally:
        go.close()
    return [*_rows("client, go-spiffe serves", clients, count), *_rows("server, go-spiffe dials", servers, count)]


def _timed(what: Callable[[], object], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        what()
    return time.perf_counter() - begin


def _rounds(runners: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(rounds + 1):
        for name, runner in runners.items():
            seconds = runner()
            if turn:  # the first warms up
                took[name].append(seconds)
    return took


def _rows(role: str, took: dict[str, list[float]], count: int) -> list[Row]:
    rows = []
    for other in ("bare ssl", "go-spiffe"):
        ratio = statistics.median(a / b for a, b in zip(took["ours"], took[other], strict=True))
        ours, others = (count / statistics.median(took[name]) for name in ("ours", other))
        figure = f"{ratio:.2f} ({ours:,.0f} a second to {others:,.0f})"
        rows.append(Row(what=f"as {role}: ours to {other}", figure=figure))
    return rows
