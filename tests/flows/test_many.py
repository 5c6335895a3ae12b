# SPDX-License-Identifier: Apache-2.0
"""Many exporters of one configuration cost one source, one loop and, over gRPC, one connection; and leave nothing."""

from __future__ import annotations

import json
import sys

import pytest

EXPORTERS = 1000

SCRIPT = """
import gc, importlib, json, os, sys, threading, time
from opentelemetry.sdk.trace import TracerProvider

exporters = importlib.import_module("otel_spiffe.exporters." + sys.argv[1])
span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("a span")
span.end()

def here():
    gc.collect()
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }

def settled(wanted=None):
    # What is here when two looks agree, or when it is what is wanted: gRPC closes its own a moment later.
    end, seen = time.monotonic() + 20, here()
    while time.monotonic() < end and seen != wanted:
        threading.Event().wait(0.2)
        before, seen = seen, here()
        if wanted is None and seen == before:
            break
    return seen

def use(count):
    opened = [exporters.OTLPSpanExporter() for _ in range(count)]
    assert all(exporter.export([span]).name == "SUCCESS" for exporter in opened)
    during = here()
    for exporter in opened:
        exporter.shutdown()
    return during

one = use(1)  # what grpc keeps for good is there now
before = settled()
many = use(int(sys.argv[2]))
print(json.dumps({"one": one, "before": before, "many": many, "after": settled(before)}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/fd")
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_thousand_exporters_share_one_stream_and_one_loop_and_leave_nothing(world, transport):
    done = world.run("-c", SCRIPT, transport, str(EXPORTERS), env=world.env(transport))
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert world.sink.counts.spans == 1 + EXPORTERS
    assert seen["many"]["threads"] == seen["one"]["threads"]
    assert seen["after"] == seen["before"]
    assert [name for name in seen["after"]["threads"] if name.startswith("otel-spiffe")] == []
    world.agent.wait_for_streams(0, opened=2, timeout=20)  # one for the first, one for the thousand
