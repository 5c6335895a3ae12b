# SPDX-License-Identifier: Apache-2.0
"""What a user reads in the log when an export fails: our sentence with the SPIFFE IDs, whatever the transport."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from otel_spiffe.ca import CertificateAuthority, WorkloadApiServer
from otel_spiffe.credentials._keys import chain_pem, key_pem
from otel_spiffe.identity import authorize_any, authorize_id
from otel_spiffe.sources import StaticSource
from otel_spiffe.testing import OtlpSink

APP, COLLECTOR, DB = (f"spiffe://prod.example/{name}" for name in ("app", "collector", "db"))


def export(exporter):
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("a span")
    span.end()
    return exporter.export([span])


def stock_lines(caplog) -> str:
    """What the stock exporter logged; the line of a failure that may pass ("Transient error") names the reason, too."""
    return "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry.exporter.otlp")
    )


def our_lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("otel_spiffe.")]


@pytest.fixture
def try_to_export(exporters, endpoint, caplog):
    """Fails to export; returns what the stock exporter and what we logged."""

    def run(source, *, authorize=COLLECTOR, to=None, timeout=3.0):
        caplog.set_level(logging.INFO)
        exporter = exporters.OTLPSpanExporter(
            to or endpoint("traces"), source=source, authorize=authorize_id(authorize), timeout=timeout
        )
        try:
            assert export(exporter) is SpanExportResult.FAILURE
        finally:
            exporter.shutdown()
        return stock_lines(caplog), our_lines(caplog)

    return run


def test_a_wrong_peer(try_to_export, source):
    sentence = f"peer {COLLECTOR} is not in one_of({DB}) (we are {APP})"
    stock, ours = try_to_export(source, authorize=DB, timeout=3.0)
    assert sentence in stock
    assert any(sentence in line for line in ours)


def test_a_peer_of_an_authority_that_we_do_not_trust(try_to_export):
    stranger = CertificateAuthority.in_memory("prod.example")
    with StaticSource(stranger.identity(APP)) as source:
        stock, ours = try_to_export(source, timeout=3.0)
    assert f"peer {COLLECTOR} is not trusted: " in stock
    assert any(f"peer {COLLECTOR} is not trusted: " in line for line in ours)


def test_a_peer_that_refuses_us(authority, exporters, transport, source, caplog):
    """The collector trusts another authority: TLS 1.3 tells us after our own handshake is done."""
    caplog.set_level(logging.INFO)
    served = authority.identity(COLLECTOR)
    other = CertificateAuthority.in_memory("prod.example").bundle
    blind = type(served)(chosen=served.chosen, svids=served.svids, bundles={other.trust_domain: other})
    with StaticSource(blind) as theirs, OtlpSink.open(theirs, authorize=authorize_any()) as sink:
        to = sink.grpc_endpoint if transport == "grpc" else f"{sink.http_endpoint}/v1/traces"
        exporter = exporters.OTLPSpanExporter(to, source=source, authorized_ids=COLLECTOR, timeout=3.0)
        assert export(exporter) is SpanExportResult.FAILURE
        exporter.shutdown()
        assert sink.counts.spans == 0
    assert f"{COLLECTOR} refused {APP}: " in stock_lines(caplog)


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls1.2", "tls1.3"])
def openssl_server(request, authority, transport, tmp_path):
    """A server of the plain standard library, which sends the alerts of RFC 8446; its endpoint, and its context."""
    identity, path = authority.identity(COLLECTOR), tmp_path / "collector.pem"
    path.write_bytes(key_pem(identity.svid) + chain_pem(identity.svid))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = request.param
    context.load_cert_chain(path)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"] if transport == "grpc" else ["http/1.1"])

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connection.settimeout(10)
                tls = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                with tls, contextlib.suppress(OSError):
                    with contextlib.suppress(ssl.SSLError):
                        tls.do_handshake()
                    socket.socket.shutdown(tls, socket.SHUT_WR)
                    while socket.socket.recv(tls, 65536):  # or a reset might overtake the alert
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        path = "" if transport == "grpc" else "/v1/traces"
        yield "https://{}:{}".format(*listening.getsockname()) + path, context
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def trust(context, authority):
    context.load_verify_locations(
        cadata=b"".join(each.public_bytes(Encoding.DER) for each in authority.bundle.authorities)
    )


def test_an_openssl_server_with_another_id(try_to_export, authority, source, openssl_server):
    endpoint, context = openssl_server
    trust(context, authority)
    sentence = f"peer {COLLECTOR} is not in one_of({DB}) (we are {APP}); if it is the peer that is meant, "
    stock, ours = try_to_export(source, authorize=DB, to=endpoint, timeout=3.0)
    assert sentence in stock
    assert any(sentence in line for line in ours)


def test_an_openssl_server_that_refuses_us_is_quoted(try_to_export, source, openssl_server):
    endpoint, context = openssl_server
    trust(context, CertificateAuthority.in_memory("prod.example"))
    sentence = f"{COLLECTOR} refused {APP}: unknown_ca; see that it has the bundle of prod.example"
    stock, ours = try_to_export(source, to=endpoint, timeout=3.0)
    assert sentence in stock
    assert any(sentence in line for line in ours)


def test_an_expired_identity_is_not_used(authority, try_to_export, sink):
    clock = datetime.now(UTC)
    identity = authority.identity(APP, lifetime=timedelta(minutes=5))
    with StaticSource(identity, clock=lambda: clock + timedelta(minutes=6)) as source:
        stock, ours = try_to_export(source, timeout=4.0)
    assert f"the X509-SVID of {APP} expired " in stock
    assert any(f"the X509-SVID of {APP} expired " in line for line in ours)
    assert sink.counts.spans == 0


def test_an_identity_that_is_not_there(exporters, endpoint, caplog):
    caplog.set_level(logging.INFO)
    with WorkloadApiServer.open() as agent:  # it answers "no identity issued"
        exporter = exporters.OTLPSpanExporter(
            endpoint("traces"), spiffe_endpoint_socket=agent.endpoint, authorized_ids=COLLECTOR, timeout=4.0
        )
        assert export(exporter) is SpanExportResult.FAILURE
        exporter.shutdown()
        assert f"Workload API at {agent.endpoint}" in stock_lines(caplog)
        assert any(f"Workload API at {agent.endpoint}" in line for line in our_lines(caplog))


def test_a_collector_that_is_not_there(try_to_export, source, transport):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        target = "{}:{}".format(*taken.getsockname())
        path = "" if transport == "grpc" else "/v1/traces"
        stock, ours = try_to_export(source, to=f"https://{target}{path}", timeout=3.0)
    sentence = f"cannot reach {target} from {APP}: "
    assert sentence in stock
    assert any(sentence in line for line in ours)


def test_our_own_log_says_when_it_begins_to_fail_and_when_it_is_over_and_nothing_between(
    exporters, endpoint, sink, source, caplog
):
    caplog.set_level(logging.INFO)
    exporter = exporters.OTLPSpanExporter(endpoint("traces"), source=source, authorized_ids=COLLECTOR, timeout=3.0)
    assert export(exporter) is SpanExportResult.SUCCESS
    sink.go_away()
    assert [export(exporter), export(exporter)] == [SpanExportResult.FAILURE] * 2
    sink.come_back()
    while export(exporter) is not SpanExportResult.SUCCESS:
        pass
    exporter.shutdown()
    levels = [record.levelname for record in caplog.records if record.name.startswith("otel_spiffe.")]
    assert levels[-1] == "INFO"
    assert levels.count("INFO") == 1
    assert "WARNING" in levels


def test_the_key_is_in_no_line(try_to_export, authority, caplog):
    identity = authority.identity(APP)
    with StaticSource(identity) as source:
        try_to_export(source, authorize=DB, timeout=3.0)
    assert "PRIVATE KEY" not in caplog.text
