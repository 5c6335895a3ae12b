# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import weakref

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_spiffe.sources import StaticSource
from otel_spiffe.sources._cell import Cell
from otel_spiffe.sources._fault import Fault, Problem


@pytest.fixture
def reader():
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader):
    provider = MeterProvider([reader])
    yield provider
    provider.shutdown()


def points(reader):
    """Return {(name, attributes): value} of everything that the reader sees now."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        (metric.name.removeprefix("otel_spiffe.source."), tuple(sorted(point.attributes.items()))): point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def key(name, source="the source", **more):
    return name, tuple(
        sorted({"otel_spiffe.source": source, **{k.replace("_", "."): v for k, v in more.items()}}.items())
    )


def test_a_source_shows_when_its_material_ends_as_absolute_times(reader, provider, spiffe_identity):
    cell = Cell("the source", meter_provider=provider)
    identity = spiffe_identity("/app")
    cell.put(identity)
    seen = points(reader)
    who = {"spiffe_id": "spiffe://test.example/app"}
    assert seen[key("svid.expiry", **who)] == identity.expires_at.timestamp()
    assert seen[key("bundle.expiry", **who)] == cell.health().bundles_expire_at.timestamp()
    assert seen[key("generation", **who)] == 1
    assert seen[key("ready", **who)] == 1
    cell.close()


def test_events_are_counted_and_failures_by_kind(reader, provider, spiffe_identity):
    cell = Cell("the source", meter_provider=provider)
    identity = spiffe_identity("/app")
    cell.put(identity)
    cell.put(identity)
    cell.put(spiffe_identity("/app"))
    cell.fail(Problem(fault=Fault.UNREACHABLE, reason="down"))
    cell.fail(Problem(fault=Fault.UNREACHABLE, reason="down"))
    cell.withdraw(Problem(fault=Fault.NO_IDENTITY_ISSUED, reason="denied"))
    cell.end(Problem(fault=Fault.REFUSED, reason="refused"))
    cell.recorder.reconnected()
    seen = points(reader)
    assert seen[key("updates")] == 2
    assert seen[key("reconnects")] == 1
    assert seen[key("errors", error_type="unreachable")] == 2
    assert seen[key("errors", error_type="no_identity_issued")] == 1
    assert seen[key("errors", error_type="refused")] == 1
    assert seen[key("ready")] == 0
    assert key("svid.expiry") not in seen
    cell.close()


def test_two_sources_share_the_instruments_of_a_provider(reader, provider, spiffe_identity, caplog):
    one, other = Cell("one", meter_provider=provider), Cell("other", meter_provider=provider)
    other.put(spiffe_identity("/app"))
    seen = points(reader)
    assert seen[key("generation", "one")] == 0
    assert seen[key("generation", "other", spiffe_id="spiffe://test.example/app")] == 1
    assert caplog.records == []  # the SDK warns of instruments that are made twice
    one.close()
    other.close()


def test_a_closed_source_is_not_shown(reader, provider, spiffe_identity):
    with StaticSource(spiffe_identity("/app"), meter_provider=provider):
        assert {name for name, _ in points(reader)} >= {"ready", "generation"}
    assert {name for name, _ in points(reader)} == {"updates"}


def test_metrics_keep_no_source_alive(reader, provider, spiffe_identity):
    source = StaticSource(spiffe_identity("/app"), meter_provider=provider)
    gone = weakref.ref(source)
    del source
    gc.collect()
    assert gone() is None
    assert {name for name, _ in points(reader)} == {"updates"}


def test_no_key_and_no_certificate_is_in_a_metric(reader, provider, spiffe_identity):
    cell = Cell("the source", meter_provider=provider)
    cell.put(spiffe_identity("/app"))
    attributes = {name for _, pairs in points(reader) for name, _ in pairs}
    assert attributes == {"otel_spiffe.source", "spiffe.id"}
    cell.close()


def test_without_an_sdk_nothing_happens(spiffe_identity):
    with StaticSource(spiffe_identity("/app")) as source:
        assert source.identity().generation == 1
