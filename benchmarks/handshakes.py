# SPDX-License-Identifier: Apache-2.0
"""Mutual TLS 1.3 handshakes a second, both ends in one thread: ours beside bare `ssl` with the same certificates."""

from __future__ import annotations

import ssl
import statistics
from typing import TYPE_CHECKING

from benchmarks._handshake import handshake
from benchmarks._table import Row, compare
from benchmarks._world import APP, COLLECTOR, world
from otel_spiffe import StaticSource, authorize_id, client_context, server_context

if TYPE_CHECKING:
    from pathlib import Path

TITLE = "Handshakes, mutual, both ends; ours also verify against one trust domain and authorize, on both ends"


def run(*, quick: bool) -> list[Row]:
    calls = 100 if quick else 1000
    with (
        world() as where,
        StaticSource(where.identity(where.app)) as app,
        StaticSource(where.identity(where.collector)) as collector,
    ):
        ours = (
            client_context(app, authorize=authorize_id(COLLECTOR)),
            server_context(collector, authorize=authorize_id(APP)),
        )
        bare = bare_context(where.folder, "app", server=False), bare_context(where.folder, "collector", server=True)
        result = compare(lambda: handshake(*ours), lambda: handshake(*bare), calls=calls)
    a_second = f"{1 / statistics.median(result.ours):,.0f} a second to {1 / statistics.median(result.others):,.0f}"
    return [Row(what="ours to bare ssl", figure=result.figure()), Row(what="handshakes", figure=a_second)]


def bare_context(folder: Path, name: str, *, server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    context.load_verify_locations(folder / "ca.pem")
    context.options |= ssl.OP_NO_TICKET
    if server:
        context.num_tickets = 0
    return context
