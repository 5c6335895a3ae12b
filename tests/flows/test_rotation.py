# SPDX-License-Identifier: Apache-2.0
"""Identities change under exporters that never pause, and nothing is lost; and what must be refused is."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer
from otel_spiffe.credentials._relay_connection import SETTLE
from otel_spiffe.identity import authorize_id
from otel_spiffe.sources import WorkloadApiSource
from otel_spiffe.testing import OtlpSink

APP, COLLECTOR = "spiffe://prod.example/app", "spiffe://prod.example/collector"
PATIENCE = 60.0
ROTATIONS = 100


class Party:
    """One side: an agent, and the source that follows it."""

    def __init__(self, stack, authority, spiffe_id, **issue):
        self.authority, self.spiffe_id = authority, spiffe_id
        self.served = authority.identity(spiffe_id, **issue)
        self.agent = stack.enter_context(WorkloadApiServer.open(identity=self.served))
        self._changed = threading.Condition()
        self.source = stack.enter_context(WorkloadApiSource.open(self.agent.endpoint))
        self.source.subscribe(self._notice)
        self.taken()

    def push(self, identity):
        self.served = identity
        self.agent.serve(identity)
        self.taken()

    def taken(self):
        """Wait until the source has what the agent serves."""
        with self._changed:
            assert self._changed.wait_for(self._is_taken, PATIENCE)

    def _is_taken(self):
        health = self.source.health()
        if not health.ready:
            return False
        got = self.source.identity()
        return (got.svid.chain, dict(got.bundles)) == (self.served.svid.chain, dict(self.served.bundles))

    def _notice(self, _identity):
        with self._changed:
            self._changed.notify_all()


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def authority():
    return CertificateAuthority.in_memory("prod.example")


def open_exporter(transport, source, sink, **keywords):
    exporters = importlib.import_module(f"otel_spiffe.exporters.{transport}")
    endpoint = sink.grpc_endpoint if transport == "grpc" else f"{sink.http_endpoint}/v1/traces"
    return exporters.OTLPSpanExporter(endpoint, source=source, authorize=authorize_id(COLLECTOR), **keywords)


def span():
    made = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("a span")
    made.end()
    return made


class Sender(threading.Thread):
    """Exports without a pause."""

    def __init__(self, exporter):
        super().__init__()
        self.exporter = exporter
        self.results = []
        self.enough = threading.Event()
        self._progress = threading.Condition()

    def run(self):
        spans = [span()]
        while not self.enough.is_set():
            result = self.exporter.export(spans)
            with self._progress:
                self.results.append(result)
                self._progress.notify_all()

    def end(self):
        self.enough.set()
        self.join(PATIENCE)
        self.exporter.shutdown()

    def go_on_for(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.wait_for_another()

    def wait_for_another(self):
        before = len(self.results)
        with self._progress:
            assert self._progress.wait_for(lambda: len(self.results) > before, PATIENCE)


def rotate_once(number, authority, parties):
    """Renew both SVIDs, now and then under a new authority that everybody trusts before anybody is signed by it."""
    if number % 20 == 10:
        authority.rotate()
        share_bundles(authority, parties)
    for party in parties:
        party.push(authority.identity(party.spiffe_id))


def share_bundles(authority, parties):
    for party in parties:
        party.push(replace(party.served, bundles=authority.identity(party.spiffe_id).bundles))


def test_a_hundred_rotations_lose_nothing(authority, stack):
    collector, app = Party(stack, authority, COLLECTOR), Party(stack, authority, APP)
    sink = stack.enter_context(OtlpSink.open(collector.source, authorize=authorize_id(APP)))
    senders = [Sender(open_exporter(transport, app.source, sink)) for transport in ("grpc", "http")]
    for sender in senders:
        stack.callback(sender.end)
        sender.start()
    for number in range(ROTATIONS):
        rotate_once(number, authority, (collector, app))
        senders[number % 2].wait_for_another()
        if number % 20 == 15:  # the old authority goes, once no connection is left from before the rotations above
            senders[0].go_on_for(4 * SETTLE)
            authority.withdraw()
            share_bundles(authority, (collector, app))
    for sender in senders:
        sender.end()
    results = [result for sender in senders for result in sender.results]
    assert set(results) == {SpanExportResult.SUCCESS}
    assert len(results) >= ROTATIONS
    assert sink.counts.spans == len(results)


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_a_withdrawn_authority_is_refused_at_the_next_handshake(authority, stack, transport, caplog):
    app, collector = Party(stack, authority, APP), Party(stack, authority, COLLECTOR)
    sink = stack.enter_context(OtlpSink.open(collector.source, authorize=authorize_id(APP)))
    exporter = open_exporter(transport, app.source, sink, timeout=3.0)
    assert exporter.export([span()]) is SpanExportResult.SUCCESS
    authority.rotate()
    authority.withdraw()
    app.push(authority.identity(APP))  # its bundle does not hold the collector's authority any more
    sent = 1
    while exporter.export([span()]) is SpanExportResult.SUCCESS:
        sent += 1  # on the connection from before, which is on its way out
    assert f"peer {COLLECTOR} is not trusted" in caplog.text
    assert sink.counts.spans == sent
    collector.push(authority.identity(COLLECTOR))
    while exporter.export([span()]) is not SpanExportResult.SUCCESS:
        pass
    exporter.shutdown()


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_an_svid_that_expires_while_the_agent_is_down_is_not_used(authority, stack, transport, caplog):
    caplog.set_level(logging.INFO)
    collector = Party(stack, authority, COLLECTOR)
    sink = stack.enter_context(OtlpSink.open(collector.source, authorize=authorize_id(APP)))
    app = Party(stack, authority, APP, lifetime=timedelta(seconds=4))
    exporter = open_exporter(transport, app.source, sink, timeout=6.5)
    assert exporter.export([span()]) is SpanExportResult.SUCCESS
    app.agent.close()
    left = app.served.expires_at - datetime.now(UTC)
    threading.Event().wait(left.total_seconds() + 0.1)  # nobody can hurry the time
    assert exporter.export([span()]) is SpanExportResult.FAILURE
    exporter.shutdown()
    assert f"the X509-SVID of {APP} expired " in caplog.text
    assert sink.counts.spans == 1
