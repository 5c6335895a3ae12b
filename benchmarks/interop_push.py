# SPDX-License-Identifier: Apache-2.0
"""From a push on the Workload API to the first handshake with the new SVID: our source beside go-spiffe's.

Either client is a process of its own that connects as soon as its source has something new; the time runs from the
push to the moment at which this process, which serves both the Workload API and the TLS, has seen the certificate.
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks._interop import without_go
from benchmarks._table import Row, percentile
from benchmarks._world import COLLECTOR, World, world
from benchmarks.handshakes import bare_context
from otel_spiffe.ca import WorkloadApiServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

TITLE = "From push to the first handshake with the new SVID, ours and go-spiffe's, each in a process of its own"

_OURS = """
import socket, sys
from otel_spiffe import WorkloadApiSource, authorize_id, client_context
with WorkloadApiSource.open(sys.argv[1]) as source:
    context = client_context(source, authorize=authorize_id(sys.argv[2]))
    first = source.wait(30).generation
    def connect(identity):
        if identity.generation == first:
            return
        plain = socket.create_connection(("127.0.0.1", int(sys.argv[3])))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as Go does by itself
        with plain, context.wrap_socket(plain) as secured:
            secured.sendall(b"x\\n")
            secured.recv(100)
    source.subscribe(connect)
    print("ready", flush=True)
    sys.stdin.read()
"""


def run(*, quick: bool) -> list[Row]:
    if skipped := without_go():
        return skipped
    from peerlib import GoSpiffe  # noqa: PLC0415 -- tests/interop is on the path since _interop

    pushes, rows = 50 if quick else 300, []
    go = GoSpiffe()
    try:
        with (
            world() as where,
            WorkloadApiServer.open(identity=where.identity(where.app)) as agent,
            _Seen(bare_context(where.folder, "collector", server=True)) as seen,
        ):

            def measure() -> list[float]:
                return _push(where, agent, seen, pushes)

            def with_go() -> list[float]:
                go.call("source", name="bench", address=agent.endpoint)
                identity = {"source": "bench"}
                address, wait = f"127.0.0.1:{seen.port}", 3600.0
                go.ask(
                    "react", identity=identity, authorize={"id": COLLECTOR}, address=address, count=pushes, seconds=wait
                )
                go.call("svid", name="bench")  # it has begun to wait
                took = measure()
                go.call("close", name="bench")
                return took

            results = {"ours": _with_ours(agent, seen, measure), "go-spiffe": with_go()}
    finally:
        go.close()
    for name, took in results.items():
        figure = f"p50 {percentile(took, 50):.1f} ms, p99 {percentile(took, 99):.1f} ms, longest {max(took):.1f} ms"
        rows.append(Row(what=f"{name}, {pushes} pushes", figure=figure))
    ratio = percentile(results["ours"], 50) / percentile(results["go-spiffe"], 50)
    return [*rows, Row(what="ours to go-spiffe, p50", figure=f"{ratio:.2f}")]


def _with_ours(agent: WorkloadApiServer, seen: _Seen, measure: Callable[[], list[float]]) -> list[float]:
    command = [sys.executable, "-c", _OURS, agent.endpoint, COLLECTOR, str(seen.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("no pipes")
        process.stdout.readline()
        took = measure()
        process.stdin.close()
        process.wait(30)
    return took


def _push(where: World, agent: WorkloadApiServer, seen: _Seen, pushes: int) -> list[float]:
    took = []
    for _ in range(pushes):
        identity = where.identity()
        leaf = identity.svid.leaf.public_bytes(Encoding.DER)
        begin = time.perf_counter()
        agent.serve(identity)
        while True:
            at, certificate = seen.get()
            if certificate == leaf:
                break
        took.append(1e3 * (at - begin))
    return took


class _Seen:
    """A TLS server that notes when it saw which certificate."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._seen: queue.SimpleQueue[tuple[float, bytes | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port: int = self._listener.getsockname()[1]

    def get(self) -> tuple[float, bytes | None]:
        return self._seen.get(timeout=30)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with plain, self._context.wrap_socket(plain, server_side=True) as secured:
                self._seen.put((time.perf_counter(), secured.getpeercert(binary_form=True)))
                secured.recv(100)
                secured.sendall(b"x\n")
