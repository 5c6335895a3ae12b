# SPDX-License-Identifier: Apache-2.0
"""Two things that rotation must not let through: a withdrawn authority, and an identity that has expired."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

from benchmarks._handshake import handshake
from benchmarks._table import Row
from benchmarks._world import APP, COLLECTOR
from otel_spiffe import (
    CertificateAuthority,
    StaticSource,
    WorkloadApiSource,
    authorize_id,
    client_context,
    server_context,
)
from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.errors import IdentityExpired, PeerUntrusted

TITLE = "What must be refused"


def run(*, quick: bool) -> list[Row]:
    del quick
    return [withdrawn_authority(), expired_identity()]


def withdrawn_authority() -> Row:
    authority = CertificateAuthority.in_memory("bench.example")
    with (
        StaticSource(authority.identity(COLLECTOR)) as collector,
        WorkloadApiServer.open(identity=authority.identity(APP)) as agent,
        WorkloadApiSource.open(agent.endpoint) as app,
    ):
        first = app.wait(20).generation
        client, server = (
            client_context(app, authorize=authorize_id(COLLECTOR)),
            server_context(collector, authorize=authorize_id(APP)),
        )
        handshake(client, server)
        pushed = threading.Event()
        app.subscribe(lambda identity: pushed.set() if identity.generation > first else None)
        authority.rotate()
        authority.withdraw()
        agent.serve(authority.identity(APP))
        pushed.wait(20)
        try:
            handshake(client, server)
        except PeerUntrusted as refusal:
            return Row(what="authority withdrawn from the bundle, next handshake", figure=refusal.why, reached=True)
    return Row(what="authority withdrawn from the bundle, next handshake", figure="ACCEPTED", reached=False)


def expired_identity() -> Row:
    authority = CertificateAuthority.in_memory("bench.example")
    what = "SVID expired while the agent is down"
    agent = WorkloadApiServer.open(identity=authority.identity(APP, lifetime=timedelta(seconds=2)))
    with agent, WorkloadApiSource.open(agent.endpoint) as app:
        app.wait(20)
        agent.close()
        time.sleep(2.5)
        try:
            app.identity()
        except IdentityExpired:
            return Row(what=what, figure="IdentityExpired", reached=True)
    return Row(what=what, figure="USED", reached=False)
