# SPDX-License-Identifier: Apache-2.0
"""What both transports do alike: three signals arrive, as the right sender, under every way of configuring them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import NoOpTracer

from otel_spiffe.ca import WorkloadApiServer
from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.exporters import _parties
from otel_spiffe.identity import authorize_id, bundle_to_pem

APP, COLLECTOR = "spiffe://prod.example/app", "spiffe://prod.example/collector"
CLASSES = {"traces": "OTLPSpanExporter", "metrics": "OTLPMetricExporter", "logs": "OTLPLogExporter"}
PATIENCE = 20.0


@pytest.fixture
def agent(authority):
    with WorkloadApiServer.open(identity=authority.identity(APP)) as agent:
        yield agent


@pytest.fixture(params=CLASSES)
def signal(request):
    return request.param


def spans(count=1):
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    assert not isinstance(tracer, NoOpTracer)
    made = [tracer.start_span(f"span {number}") for number in range(count)]
    for span in made:
        span.end()
    return made


def test_each_signal_arrives_from_our_spiffe_id(exporters, transport, endpoint, sink, source, send, signal):
    exporter = getattr(exporters, CLASSES[signal])(endpoint(signal), source=source, authorize=authorize_id(COLLECTOR))
    send[signal](exporter)
    (received,) = sink.received(signal=signal, transport=transport)
    assert str(received.peer) == APP


def test_the_environment_alone_is_enough(exporters, transport, sink, agent, send, signal, monkeypatch):
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", agent.endpoint)
    monkeypatch.setenv("OTEL_SPIFFE_AUTHORIZED_IDS", COLLECTOR)
    base = sink.grpc_endpoint if transport == "grpc" else sink.http_endpoint
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", base)
    send[signal](getattr(exporters, CLASSES[signal])())
    (received,) = sink.received(signal=signal, transport=transport)
    assert str(received.peer) == APP


def test_plain_data_is_enough(exporters, endpoint, sink, agent, send, signal):
    exporter = getattr(exporters, CLASSES[signal])(
        endpoint(signal),
        spiffe_endpoint_socket=agent.endpoint,
        authorized_ids=[COLLECTOR],
        compression="gzip",
        headers={"x-tenant": "a"},
        timeout=10,
    )
    send[signal](exporter)
    (received,) = sink.received(signal=signal)
    assert str(received.peer) == APP


@pytest.fixture
def svid_files(authority, tmp_path):
    identity = authority.identity(APP)
    certificates = [each.public_bytes(Encoding.PEM) for each in identity.svid.chain]
    key = identity.svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "svid.pem").write_bytes(b"".join(certificates))
    (tmp_path / "svid_key.pem").write_bytes(key)
    (tmp_path / "svid_bundle.pem").write_bytes(bundle_to_pem(authority.bundle))
    return tmp_path


def test_files_are_enough(exporters, endpoint, sink, svid_files, send, monkeypatch):
    send["traces"](exporters.OTLPSpanExporter(endpoint("traces"), svid_directory=svid_files, authorized_ids=COLLECTOR))
    monkeypatch.setenv("OTEL_SPIFFE_SVID_FILE", str(svid_files / "svid.pem"))
    monkeypatch.setenv("OTEL_SPIFFE_SVID_KEY_FILE", str(svid_files / "svid_key.pem"))
    monkeypatch.setenv("OTEL_SPIFFE_BUNDLE_FILE", str(svid_files / "svid_bundle.pem"))
    send["traces"](exporters.OTLPSpanExporter(endpoint("traces"), authorized_ids=COLLECTOR))
    assert [str(each.peer) for each in sink.received()] == [APP, APP]


def test_exporters_of_one_configuration_share_a_stream_and_the_last_one_ends_it(exporters, endpoint, agent):

    def make():
        return exporters.OTLPSpanExporter(
            endpoint("traces"), spiffe_endpoint_socket=agent.endpoint, authorized_ids=COLLECTOR
        )

    one, two = make(), make()
    assert one.export(spans()) is two.export(spans()) is SpanExportResult.SUCCESS
    assert agent.streams == 1
    one.shutdown()
    assert two.export(spans()) is SpanExportResult.SUCCESS
    two.shutdown()
    assert len(_parties._shared_sources) == 0


def test_a_source_that_was_given_is_not_closed(exporters, endpoint, source):
    exporter = exporters.OTLPSpanExporter(endpoint("traces"), source=source, authorized_ids=COLLECTOR)
    exporter.shutdown()
    assert source.identity().id == source.health().id


def test_shutdown_may_be_called_again_and_force_flush_says_that_nothing_waits(exporters, endpoint, source):
    exporter = exporters.OTLPSpanExporter(endpoint("traces"), source=source, authorized_ids=COLLECTOR)
    assert exporter.force_flush()
    exporter.shutdown()
    exporter.shutdown()
    assert exporter.export(spans()) is SpanExportResult.FAILURE


def test_an_exporter_that_cannot_be_made_gives_back_what_it_had(exporters, endpoint, agent):
    with pytest.raises(TypeError, match="certificat"):
        exporters.OTLPSpanExporter(
            endpoint("traces"), spiffe_endpoint_socket=agent.endpoint, authorized_ids=COLLECTOR, certificat="x"
        )
    assert len(_parties._shared_sources) == 0


def test_without_an_authorizer_or_a_source_nothing_is_made(exporters, endpoint, source, signal):
    exporter = getattr(exporters, CLASSES[signal])
    with pytest.raises(InvalidConfiguration, match="OTEL_SPIFFE_AUTHORIZED_IDS"):
        exporter(endpoint(signal), source=source)
    with pytest.raises(InvalidConfiguration, match="SPIFFE_ENDPOINT_SOCKET"):
        exporter(endpoint(signal), authorized_ids=COLLECTOR)


def test_plaintext_is_refused(exporters, source):
    with pytest.raises(InvalidConfiguration, match="never sends plaintext"):
        exporters.OTLPSpanExporter("http://127.0.0.1:4317", source=source, authorized_ids=COLLECTOR)


@pytest.mark.parametrize("compression", ["brotli", "GZIP"])
def test_an_unknown_compression_is_refused(exporters, source, compression):
    with pytest.raises(InvalidConfiguration, match="compression="):
        exporters.OTLPSpanExporter(source=source, authorized_ids=COLLECTOR, compression=compression)


@pytest.mark.parametrize("name", ["INSECURE", "CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"])
@pytest.mark.parametrize("middle", ["", "TRACES_"])
def test_tls_variables_of_the_stock_exporters_change_nothing_and_that_is_said_once(
    exporters, endpoint, sink, source, send, monkeypatch, caplog, name, middle
):
    variable = f"OTEL_EXPORTER_OTLP_{middle}{name}"
    monkeypatch.setenv(variable, "true" if name == "INSECURE" else "/there/is/no/such.pem")
    for _ in range(2):
        exporter = exporters.OTLPSpanExporter(endpoint("traces"), source=source, authorized_ids=COLLECTOR)
        send["traces"](exporter)
    assert [str(each.peer) for each in sink.received()] == [APP, APP]
    said = [record.getMessage() for record in caplog.records if record.name == "otel_spiffe.exporters"]
    assert len(said) == 1
    assert said[0].startswith(f"{variable} is set and has no effect")


def test_a_misspelt_variable_of_ours_is_named(exporters, source, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_SPIFFE_HINTS", "internal")
    exporters.OTLPSpanExporter(source=source, authorized_ids=COLLECTOR).shutdown()
    assert "OTEL_SPIFFE_HINTS is set and is no variable of otel-spiffe; it has no effect" in caplog.messages


def test_batches_of_metrics_can_be_limited(exporters, endpoint, sink, source, send):
    exporter = exporters.OTLPMetricExporter(
        endpoint("metrics"), source=source, authorized_ids=COLLECTOR, max_export_batch_size=1
    )
    send["metrics"](exporter)
    assert len(sink.received(signal="metrics")) == 1
