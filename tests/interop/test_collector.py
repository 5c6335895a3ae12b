# SPDX-License-Identifier: Apache-2.0
"""The Collector behind our exporters, with SVIDs of SPIRE, files of spiffe-helper, restarts and reloads under load."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as StockExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from peerlib import Collector, PlainSink, Process, SpiffeHelper, Telemetrygen, start_spire, write_material
from peerlib.reports import ACCOUNT

from otel_spiffe.credentials import Relay
from otel_spiffe.exporters import grpc as over_grpc
from otel_spiffe.exporters import http as over_http
from otel_spiffe.identity import authorize_id
from otel_spiffe.sources import WorkloadApiSource

pytestmark = [pytest.mark.builds("collector", "spire")]
PEER = "Collector"

APP, COLLECTOR = "spiffe://prod.example/app", "spiffe://prod.example/collector"
RESOURCE = Resource({"service.name": "interop", "service.version": "1.2.3"})


@pytest.fixture(scope="module")
def site(short_folder):
    """A SPIRE whose agent serves the app and the Collector, by hints; X509-SVIDs live for 20 s."""
    spire = start_spire(short_folder(), "prod.example")
    try:
        spire.entry("/app", hint="app")
        spire.entry("/collector", hint="collector")
        yield spire
    finally:
        spire.stop()


@pytest.fixture(scope="module")
def helper(site, short_folder):
    """Spiffe-helper, which writes the Collector's files every 5 s or so."""
    with SpiffeHelper(site.agent.endpoint, short_folder(), hint="collector") as helper:
        helper.wait_for_updates(1)
        yield helper


@pytest.fixture(scope="module")
def app(site):
    """The app's source."""
    with WorkloadApiSource.open(site.agent.endpoint, hint="app") as source:
        source.wait(60)
        yield source


@pytest.fixture
def sink():
    with PlainSink() as sink:
        yield sink


@pytest.fixture
def collector(helper, sink, short_folder):
    with Collector.receiving(short_folder(), helper.folder, downstream=sink.address) as collector:
        yield collector


TRANSPORTS = {"grpc": over_grpc, "http": over_http}
_PATHS = {"OTLPSpanExporter": "/v1/traces", "OTLPMetricExporter": "/v1/metrics", "OTLPLogExporter": "/v1/logs"}


def _exporter(transport, name, collector, source, **more):
    more = {"authorize": authorize_id(COLLECTOR), "timeout": 10, **more}
    if transport == "grpc":
        return getattr(over_grpc, name)(collector.grpc_endpoint, source=source, **more)
    return getattr(over_http, name)(collector.http_endpoint + _PATHS[name], source=source, **more)


def _compression(transport, *, gzip):
    if transport == "grpc":
        return "gzip" if gzip else "none"
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415

    return Compression.Gzip if gzip else Compression.NoCompression


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_spans_arrive_field_by_field(collector, sink, app, row, transport, gzip):
    spans = _spans()
    exporter = _exporter(transport, "OTLPSpanExporter", collector, app, compression=_compression(transport, gzip=gzip))
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    exporter.shutdown()
    assert _received(sink, "resource_spans") == _plain(encode_spans(spans), "resource_spans")
    row(PEER, f"spans over {transport}, {'gzip' if gzip else 'no compression'}: equal in every field", "agree")


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_metrics_arrive_field_by_field(collector, sink, app, row, transport, gzip):
    metrics = _metrics()
    exporter = _exporter(
        transport, "OTLPMetricExporter", collector, app, compression=_compression(transport, gzip=gzip)
    )
    assert exporter.export(metrics) is MetricExportResult.SUCCESS
    exporter.shutdown()
    assert _received(sink, "resource_metrics") == _plain(encode_metrics(metrics), "resource_metrics")
    row(PEER, f"metrics over {transport}, {'gzip' if gzip else 'no compression'}: equal in every field", "agree")


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_log_records_arrive_field_by_field(collector, sink, app, row, transport, gzip):
    records = _log_records()
    exporter = _exporter(transport, "OTLPLogExporter", collector, app, compression=_compression(transport, gzip=gzip))
    assert exporter.export(records).name == "SUCCESS"
    exporter.shutdown()
    assert _received(sink, "resource_logs") == _plain(encode_logs(records), "resource_logs")
    row(PEER, f"log records over {transport}, {'gzip' if gzip else 'no compression'}: equal in every field", "agree")


@pytest.mark.peer(PEER, "another SPIFFE ID than the authorized one: refused, and the log line says who and why")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_another_collector_is_refused(collector, sink, app, caplog, transport):
    other = authorize_id("spiffe://prod.example/another")
    exporter = _exporter(transport, "OTLPSpanExporter", collector, app, authorize=other, timeout=3)
    with caplog.at_level(logging.WARNING):
        assert exporter.export(_spans()) is SpanExportResult.FAILURE
    exporter.shutdown()
    assert f"peer {COLLECTOR} is not in one_of(spiffe://prod.example/another)" in caplog.text
    assert not sink.requests


@pytest.mark.peer(PEER, "an app whose trust domain it does not know: refused, and the log line says who and why")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_foreign_app_is_refused(collector, app, spiffe_ca, spiffe_source_of, caplog, transport):
    theirs = app.identity().bundles[app.identity().svid.id.trust_domain]
    stranger = spiffe_source_of(spiffe_ca.identity("spiffe://test.example/app", federated=[theirs]))
    exporter = _exporter(transport, "OTLPSpanExporter", collector, stranger, timeout=3)
    with caplog.at_level(logging.WARNING):
        assert exporter.export(_spans()) is SpanExportResult.FAILURE
    exporter.shutdown()
    assert f"{COLLECTOR} refused spiffe://test.example/app: " in caplog.text


# Beside what it exports it writes the same spans and records to files.
_SCRIPT = """
import logging
from opentelemetry import _logs, metrics, trace
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, records = InMemorySpanExporter(), InMemoryLogRecordExporter()
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))
_logs.get_logger_provider().add_log_record_processor(SimpleLogRecordProcessor(records))
with trace.get_tracer("script").start_as_current_span("from a script", attributes={"text": "ä€😀"}) as span:
    span.add_event("event", {"key": "value"})
    logging.getLogger("script").warning("it says %d", 7)
metrics.get_meter("script").create_counter("counted", "1", "a counter").add(3, {"key": "value"})
with open("spans", "wb") as file:
    file.write(encode_spans(spans.get_finished_spans()).SerializeToString())
with open("records", "wb") as file:
    file.write(encode_logs(records.get_finished_logs()).SerializeToString())
"""


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_zero_code(collector, sink, site, tmp_path, row, protocol, gzip):
    """`OTEL_TRACES_EXPORTER` and its two siblings, `OTEL_SPIFFE_AUTHORIZED_IDS`, and where things are."""
    instrument = shutil.which("opentelemetry-instrument", path=str(Path(sys.executable).parent))
    if instrument is None:
        pytest.skip("opentelemetry-distro is not installed")
    (tmp_path / "script.py").write_text(_SCRIPT)
    environ = {
        "OTEL_TRACES_EXPORTER": "otlp_spiffe",
        "OTEL_METRICS_EXPORTER": "otlp_spiffe",
        "OTEL_LOGS_EXPORTER": "otlp_spiffe",
        "OTEL_SPIFFE_AUTHORIZED_IDS": COLLECTOR,
        "OTEL_SPIFFE_HINT": "app",
        "SPIFFE_ENDPOINT_SOCKET": site.agent.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint,
        **({"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"} if gzip else {}),  # "none" the stock gRPC exporter does not know
    }
    command = [instrument, sys.executable, "script.py"]
    with Process(command, name="script", environ=environ, cwd=tmp_path) as script:
        assert script.wait(timeout=60) == 0, script.log
        sink.wait_for(spans=1, metrics=1, log_records=1)
    spans = ExportTraceServiceRequest.FromString((tmp_path / "spans").read_bytes())
    records = ExportLogsServiceRequest.FromString((tmp_path / "records").read_bytes())
    assert [span.name for each in spans.resource_spans for span in each.scope_spans[0].spans] == ["from a script"]
    assert _received(sink, "resource_spans") == _plain(spans, "resource_spans")
    assert _of_script(*sink.requests) == _of_script(records) != []
    (counted,) = [metric for metric in sink.metrics if metric.name == "counted"]
    (point,) = counted.sum.data_points
    assert (counted.unit, counted.description, counted.sum.is_monotonic, point.as_int) == ("1", "a counter", True, 3)
    assert [(each.key, each.value.string_value) for each in point.attributes] == [("key", "value")]
    what = f"zero-code: `opentelemetry-instrument` with two variables of ours, over {protocol}"
    row(PEER, f"{what}, {'gzip' if gzip else 'no compression'}: spans and log records equal, a metric", "agree")


def _of_script(*requests):
    """Return the script's log records with their resource; the instrumentation has words of its own."""
    logs = [each for request in requests for each in getattr(request, "resource_logs", ())]
    scopes = [(each, scope) for each in logs for scope in each.scope_logs if scope.scope.name == "script"]
    return [(_normal(each.resource), _normal(scope)) for each, scope in scopes]


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_nothing_acknowledged_is_lost_while_it_is_restarted(collector, sink, app, row, record_property, how):
    """Two restarts under the load of two exporters: what `export` called a success has arrived."""
    with _Load(collector, app) as load:
        for _ in range(2):
            load.wait_for_acknowledged(20)
            collector.kill() if how == "killed" else collector.stop()
            collector.start()
        load.wait_for_acknowledged(20)
    _account(load, sink, row, record_property, f"{how} and started again under load, twice")


def test_nothing_acknowledged_is_lost_while_its_files_are_replaced(
    collector, helper, sink, app, row, eventually, record_property
):
    """Spiffe-helper replaces key, certificate and bundle twice, and our side rotates as often."""
    serials, certificates = set(), set()

    def replaced():
        certificates.add((helper.folder / "svid.pem").read_bytes())
        return len(certificates) >= 4 and len(serials) >= 3  # one more: it may have been read while it was written

    unsubscribe = app.subscribe(lambda identity: serials.add(identity.svid.leaf.serial_number))
    with _Load(collector, app) as load:
        eventually(replaced)
        load.wait_for_acknowledged(20)
    unsubscribe()
    _account(load, sink, row, record_property, "its files replaced under load, twice and more")


def _account(load, sink, row, record_property, what):
    """Have the run print what was sent, acknowledged and received; claim that nothing acknowledged is missing."""
    received = {span.name for span in sink.spans}
    lost = load.acknowledged - received
    counts = f"{len(load.sent)} sent, {len(load.acknowledged)} acknowledged, {len(received)} received"
    record_property(ACCOUNT, f"{PEER}, {what}: {counts}, {len(lost)} acknowledged and missing")
    assert not lost
    row(PEER, what, "nothing acknowledged is missing")


class _Load:
    """Exports one span after another by each transport, and keeps the names of those that were acknowledged."""

    def __init__(self, collector, source):
        self.sent, self.acknowledged = set(), set()
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._exporters = {name: _exporter(name, "OTLPSpanExporter", collector, source) for name in TRANSPORTS}
        self._threads = [threading.Thread(target=self._run, args=each) for each in self._exporters.items()]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        for exporter in self._exporters.values():
            exporter.shutdown()

    def wait_for_acknowledged(self, more):
        """Wait until as many more are acknowledged, of each transport."""
        with self._changed:
            wanted = {name: self._count(name) + more for name in self._exporters}
            assert self._changed.wait_for(lambda: all(self._count(n) >= w for n, w in wanted.items()), 90)

    def _count(self, name):
        return sum(each.startswith(name) for each in self.acknowledged)

    def _run(self, name, exporter):
        number = 0
        while not self._over.is_set():
            number += 1
            span = _spans(f"{name}-{number}")
            self.sent.add(f"{name}-{number}")
            if exporter.export(span) is SpanExportResult.SUCCESS:
                with self._changed:
                    self.acknowledged.add(f"{name}-{number}")
                    self._changed.notify_all()
            self._over.wait(0.005)


@pytest.mark.builds("telemetrygen")
@pytest.mark.peer("telemetrygen", "Relay.inbound before a plaintext server: spans, metrics and log records over gRPC")
@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_telemetrygen_through_an_inbound_relay(sink, generator, spiffe_source_of, signal):
    server, allowed, generate = generator
    source = spiffe_source_of(server)
    with Relay.inbound("127.0.0.1:0", source, authorize=allowed, upstream=sink.address) as relay:
        generate(signal, relay)
    assert _counts(sink) == {"traces": 0, "metrics": 0, "logs": 0, signal: _GENERATED[signal]}


@pytest.mark.builds("telemetrygen")
@pytest.mark.peer(
    "telemetrygen", "Relay.inbound before a plaintext Collector: spans, metrics and log records over HTTP"
)
@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_telemetrygen_over_http_through_an_inbound_relay(sink, generator, spiffe_source_of, short_folder, signal):
    server, allowed, generate = generator
    source = spiffe_source_of(server)
    with Collector.plain(short_folder(), downstream=sink.address) as behind:
        upstream = f"127.0.0.1:{behind.http_port}"
        with Relay.inbound("127.0.0.1:0", source, authorize=allowed, upstream=upstream, alpn=["http/1.1"]) as relay:
            generate(signal, relay, "--otlp-http")
    assert _counts(sink) == {"traces": 0, "metrics": 0, "logs": 0, signal: _GENERATED[signal]}


_GENERATED = {"traces": 12, "metrics": 6, "logs": 6}  # 3 of each of 2 workers; a trace is 2 spans


@pytest.fixture
def generator(spiffe_ca, tmp_path):
    """An X509-SVID for a relay, whom it is to let in, and how to run telemetrygen as that client."""
    write_material(tmp_path, spiffe_ca.issue("spiffe://test.example/generator"), spiffe_ca.bundle)

    def generate(signal, relay, *more):
        words = [signal, f"--{signal}=3", "--workers=2", "--otlp-endpoint", f"localhost:{relay.address[1]}", "--mtls"]
        words += ["--ca-cert", f"{tmp_path}/svid_bundle.pem", "--client-cert", f"{tmp_path}/svid.pem"]
        words += ["--client-key", f"{tmp_path}/svid_key.pem", *more]
        program = Telemetrygen(*words)
        assert program.wait() == 0, program.log

    server = spiffe_ca.issue("spiffe://test.example/relay", dns_names=["localhost"])
    return server, authorize_id("spiffe://test.example/generator"), generate


def _counts(sink):
    return {"traces": len(sink.spans), "metrics": len(sink.metrics), "logs": len(sink.log_records)}


@pytest.mark.peer(PEER, "as client of Relay.inbound before a plaintext server, over gRPC: equal in every field")
def test_a_collector_sends_through_an_inbound_relay(sink, spiffe_ca, spiffe_source_of, short_folder, tmp_path):
    server = spiffe_ca.issue("spiffe://test.example/relay", dns_names=["localhost"])
    allowed = authorize_id("spiffe://test.example/collector")
    write_material(tmp_path, spiffe_ca.issue("spiffe://test.example/collector"), spiffe_ca.bundle)
    with (
        Relay.inbound("127.0.0.1:0", spiffe_source_of(server), authorize=allowed, upstream=sink.address) as relay,
        Collector.sending(short_folder(), tmp_path, target=f"127.0.0.1:{relay.address[1]}") as collector,
    ):
        stock = StockExporter(endpoint=collector.grpc_endpoint, insecure=True, timeout=20)
        spans = _spans()
        assert stock.export(spans) is SpanExportResult.SUCCESS
        assert _received(sink, "resource_spans") == _plain(encode_spans(spans), "resource_spans")
        stock.shutdown()


@pytest.mark.peer(PEER, "as client of Relay.inbound before another Collector's plaintext port, over HTTP")
def test_a_collector_sends_over_http_through_an_inbound_relay(
    sink, spiffe_ca, spiffe_source_of, short_folder, tmp_path
):
    server = spiffe_source_of(spiffe_ca.issue("spiffe://test.example/relay", dns_names=["localhost"]))
    allowed = authorize_id("spiffe://test.example/collector")
    write_material(tmp_path, spiffe_ca.issue("spiffe://test.example/collector"), spiffe_ca.bundle)
    with (
        Collector.plain(short_folder(), downstream=sink.address) as behind,
        Relay.inbound(
            "127.0.0.1:0", server, authorize=allowed, upstream=f"127.0.0.1:{behind.http_port}", alpn=["http/1.1"]
        ) as relay,
        Collector.sending(short_folder(), tmp_path, target=f"127.0.0.1:{relay.address[1]}", http=True) as collector,
    ):
        stock = StockExporter(endpoint=collector.grpc_endpoint, insecure=True, timeout=20)
        spans = _spans()
        assert stock.export(spans) is SpanExportResult.SUCCESS
        stock.shutdown()
    assert _received(sink, "resource_spans") == _plain(encode_spans(spans), "resource_spans")


@pytest.mark.peer(PEER, "its plaintext ports behind Relay.inbound, our exporters before it; another SPIFFE ID refused")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_our_exporter_and_a_plaintext_collector_behind_our_relay(sink, spiffe_source_of, short_folder, transport):
    def sends(name, port):
        where = _At(port)
        allowed = authorize_id("spiffe://test.example/relay")
        exporter = _exporter(transport, "OTLPSpanExporter", where, spiffe_source_of(name), authorize=allowed, timeout=3)
        result = exporter.export(_spans())
        exporter.shutdown()
        return result

    server, allowed = spiffe_source_of("/relay"), authorize_id("spiffe://test.example/app")
    with Collector.plain(short_folder(), downstream=sink.address) as behind:
        upstream = f"127.0.0.1:{behind.grpc_port if transport == 'grpc' else behind.http_port}"
        with Relay.inbound("127.0.0.1:0", server, authorize=allowed, upstream=upstream) as relay:
            assert sends("/other", relay.address[1]) is SpanExportResult.FAILURE
            assert not sink.requests
            assert sends("/app", relay.address[1]) is SpanExportResult.SUCCESS
    assert len(sink.spans) == 2


class _At:
    """Where an exporter is to connect."""

    def __init__(self, port):
        self.grpc_endpoint = self.http_endpoint = f"https://127.0.0.1:{port}"


def _spans(name="operation"):
    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("interop", "1.0", schema_url="https://opentelemetry.io/schemas/1.30.0")
    with tracer.start_as_current_span("parent" if name == "operation" else name) as parent:
        if name == "operation":
            link = trace.Link(parent.get_span_context(), {"why": "link"})
            attributes = {"text": "ä€😀", "number": 2**53 + 1, "half": 0.5, "yes": True, "list": ["a", "b"], "none": []}
            child = tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes, links=[link])
            child.add_event("event", {"key": "value"})
            child.set_status(trace.Status(trace.StatusCode.ERROR, "it failed"))
            child.end()
    provider.shutdown()
    return kept.get_finished_spans()


def _metrics():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], resource=RESOURCE)
    meter = provider.get_meter("interop", "1.0")
    meter.create_counter("counter", "1", "a counter").add(3, {"key": "value"})
    meter.create_up_down_counter("up_down").add(-2)
    meter.create_histogram("histogram", "s").record(0.25, {"key": "value"})
    meter.create_gauge("gauge").set(0.5)
    data = reader.get_metrics_data()
    provider.shutdown()
    return data


def _log_records():
    kept = InMemoryLogRecordExporter()
    provider = LoggerProvider(resource=RESOURCE)
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    logger = provider.get_logger("interop", "1.0")
    for body in ("text", {"a": [1, 2.5, None, True]}, 7):
        logger.emit(
            LogRecord(
                timestamp=time.time_ns(),
                body=body,
                severity_text="WARN",
                severity_number=SeverityNumber.WARN,
                attributes={"key": "value"},
                event_name="happened",
            )
        )
    provider.shutdown()
    return kept.get_finished_logs()


def _received(sink, field):
    return [_normal(each) for request in sink.requests for each in getattr(request, field, ())]


def _plain(request, field):
    return [_normal(each) for each in getattr(request, field)]


def _normal(message):
    # Attributes are a map: their order says nothing.
    return message.SerializeToString(deterministic=True)
