# SPDX-License-Identifier: Apache-2.0
import contextlib
import gzip
import http.client
import socket
import threading
import zlib

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_spiffe.credentials import client_context, secure_channel
from otel_spiffe.errors import OtelSpiffeError, RefusedByPeer
from otel_spiffe.identity import authorize_any, authorize_id
from otel_spiffe.sources import StaticSource
from otel_spiffe.testing import OtlpSink

_WAIT = 30.0
_PROTOBUF = "application/x-protobuf"
_COLLECTOR = "spiffe://test.example/collector"
_PATHS = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}


def traces(count=1):
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for number in range(count):
        spans.add(name=f"span {number}")
    return request


def metrics():
    request = ExportMetricsServiceRequest()
    request.resource_metrics.add().scope_metrics.add().metrics.add(name="metric")
    return request


def logs():
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add(severity_text="INFO")
    return request


_REQUESTS = {"traces": traces, "metrics": metrics, "logs": logs}


@pytest.fixture
def post(otlp_sink, spiffe_source_of):
    opened = []

    def post(path, body, *, who="/app", headers=()):
        context = client_context(spiffe_source_of(who), authorize=authorize_id(_COLLECTOR))
        host, _, port = otlp_sink.http_endpoint.removeprefix("https://").partition(":")
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=_WAIT)
        opened.append(connection)
        connection.request("POST", path, body, {"Content-Type": "application/x-protobuf", **dict(headers)})
        answer = connection.getresponse()
        answer.read()
        return answer

    yield post
    for connection in opened:
        connection.close()


@pytest.fixture
def export(otlp_sink, spiffe_source_of):
    opened = []

    def export(signal, body, *, who="/app", metadata=(), **options):
        channel = secure_channel(otlp_sink.grpc_target, spiffe_source_of(who), authorize=authorize_id(_COLLECTOR))
        opened.append(channel)
        return channel.unary_unary(_PATHS[signal])(body, timeout=_WAIT, metadata=metadata, **options)

    yield export
    for channel in opened:
        channel.close()


@pytest.mark.parametrize("signal", sorted(_REQUESTS))
def test_each_signal_over_http_is_recorded_with_its_sender(otlp_sink, post, signal):
    request = _REQUESTS[signal]()
    assert post(f"/v1/{signal}", request.SerializeToString(), headers={"X-Tenant": "a"}).status == 200
    (received,) = otlp_sink.wait_for(requests=1, timeout=_WAIT)
    assert (received.signal, received.transport, str(received.peer)) == (signal, "http", "spiffe://test.example/app")
    assert received.request == request
    assert received.headers["x-tenant"] == "a"


@pytest.mark.parametrize("signal", sorted(_REQUESTS))
def test_each_signal_over_grpc_is_recorded_with_its_sender(otlp_sink, export, signal):
    request = _REQUESTS[signal]()
    assert export(signal, request.SerializeToString(), metadata=[("x-tenant", "a")]) == b""
    (received,) = otlp_sink.wait_for(requests=1, timeout=_WAIT)
    assert (received.signal, received.transport, str(received.peer)) == (signal, "grpc", "spiffe://test.example/app")
    assert received.request == request
    assert received.headers["x-tenant"] == "a"


def test_the_certificate_of_the_sender_is_recorded_over_both(otlp_sink, post, export, spiffe_svid):
    svid = spiffe_svid("/app")
    post("/v1/traces", traces().SerializeToString(), who=svid)
    export("traces", traces().SerializeToString(), who=svid)
    assert [each.serial for each in otlp_sink.received()] == [svid.leaf.serial_number] * 2


def test_a_rotated_identity_of_the_sink_is_presented_and_verified_with_at_once(
    spiffe_own_ca, spiffe_workload_api, spiffe_source
):
    """The sink follows its source over both transports: the old authority is withdrawn, the new one accepted."""
    with OtlpSink.open(spiffe_source, authorize=authorize_any()) as sink:
        renewed = threading.Event()
        spiffe_source.subscribe(lambda identity: identity.id.path == "/collector" and renewed.set())
        spiffe_own_ca.rotate()
        spiffe_workload_api.serve(spiffe_own_ca.identity("spiffe://test.example/collector"))
        assert renewed.wait(_WAIT)
        with StaticSource(spiffe_own_ca.identity("spiffe://test.example/app")) as client:
            with secure_channel(sink.grpc_target, client, authorize=authorize_id(_COLLECTOR)) as channel:
                channel.unary_unary(_PATHS["logs"])(logs().SerializeToString(), timeout=_WAIT)
            connection = http.client.HTTPSConnection(
                sink.http_endpoint.removeprefix("https://"),
                context=client_context(client, authorize=authorize_id(_COLLECTOR)),
                timeout=_WAIT,
            )
            connection.request("POST", "/v1/logs", logs().SerializeToString(), {"Content-Type": _PROTOBUF})
            assert connection.getresponse().status == 200
            connection.close()
        assert {each.transport for each in sink.received(signal="logs")} == {"grpc", "http"}


def test_what_is_in_the_requests_is_counted_and_listed(otlp_sink, post):
    for signal, request in (("traces", traces(3)), ("metrics", metrics()), ("logs", logs()), ("traces", traces(2))):
        post(f"/v1/{signal}", request.SerializeToString())
    otlp_sink.wait_for(spans=5, metrics=1, log_records=1, requests=4, timeout=_WAIT)
    counts = otlp_sink.counts
    assert (counts.requests, counts.spans, counts.metrics, counts.log_records) == (4, 5, 1, 1)
    assert [span.name for span in otlp_sink.spans] == ["span 0", "span 1", "span 2", "span 0", "span 1"]
    assert [metric.name for metric in otlp_sink.metrics] == ["metric"]
    assert [record.severity_text for record in otlp_sink.log_records] == ["INFO"]


def test_what_came_is_chosen_by_signal_transport_and_peer(otlp_sink, post):
    post("/v1/traces", traces().SerializeToString(), who="/a")
    post("/v1/logs", logs().SerializeToString(), who="/b")
    assert [each.signal for each in otlp_sink.received(peer="spiffe://test.example/b")] == ["logs"]
    assert [str(each.peer) for each in otlp_sink.received(signal="traces")] == ["spiffe://test.example/a"]
    assert otlp_sink.received(transport="grpc") == ()
    assert len(otlp_sink.received(transport="http")) == 2


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body_is_taken(otlp_sink, post, encoding, compress):
    body = compress(traces(7).SerializeToString())
    assert post("/v1/traces", body, headers={"Content-Encoding": encoding}).status == 200
    assert otlp_sink.counts.spans == 7


def test_gzip_over_grpc_is_taken(otlp_sink, export):
    export("traces", traces(7).SerializeToString(), compression=grpc.Compression.Gzip)
    assert otlp_sink.counts.spans == 7


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        pytest.param(b"{}", {"Content-Type": "application/json"}, 415, id="json"),
        pytest.param(b"", {"Content-Encoding": "br"}, 415, id="brotli"),
        pytest.param(b"no gzip", {"Content-Encoding": "gzip"}, 400, id="not gzip"),
        pytest.param(gzip.compress(bytes(400))[:-9], {"Content-Encoding": "gzip"}, 400, id="torn gzip"),
        pytest.param(b"\xff\xff", {}, 400, id="no protobuf"),
    ],
)
def test_a_wrong_http_request_is_refused_and_not_kept(otlp_sink, post, body, headers, status):
    assert post("/v1/traces", body, headers=headers).status == status
    assert post("/v1/other", b"").status == 404
    assert otlp_sink.counts.requests == 0


def test_wrong_bytes_over_grpc_are_an_invalid_argument(otlp_sink, export):
    with pytest.raises(grpc.RpcError) as refused:
        export("traces", b"\xff\xff")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert otlp_sink.counts.requests == 0


def test_a_body_that_is_too_large_once_unpacked_is_refused(spiffe_source_of):
    with OtlpSink.open(spiffe_source_of("/collector"), authorize=authorize_any(), max_body=10_000) as sink:
        context = client_context(spiffe_source_of(), authorize=authorize_any())
        port = int(sink.http_endpoint.rpartition(":")[2])
        for body, headers in ((bytes(10_001), {}), (gzip.compress(bytes(10_001)), {"Content-Encoding": "gzip"})):
            connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=_WAIT)
            headers["Content-Type"] = "application/x-protobuf"
            connection.request("POST", "/v1/traces", body, headers)
            assert connection.getresponse().status == 413
            connection.close()


def test_only_the_newest_requests_are_kept_and_all_are_counted(spiffe_source_of):
    with OtlpSink.open(spiffe_source_of("/collector"), authorize=authorize_any(), keep=2) as sink:
        context = client_context(spiffe_source_of(), authorize=authorize_any())
        port = int(sink.http_endpoint.rpartition(":")[2])
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=_WAIT)
        for count in (1, 2, 3):
            connection.request(
                "POST", "/v1/traces", traces(count).SerializeToString(), {"Content-Type": "application/x-protobuf"}
            )
            connection.getresponse().read()
        connection.close()
        assert sink.counts.spans == 6
        assert len(sink.spans) == 5
        sink.clear()
        assert sink.counts.requests == 0
        assert sink.received() == ()


@pytest.fixture
def strangers(spiffe_federated_ca):
    return spiffe_federated_ca.issue("spiffe://federated.example/app")


def test_a_member_of_another_trust_domain_is_refused_with_the_reason_over_http(otlp_sink, post, strangers):
    with pytest.raises((OtelSpiffeError, ConnectionError)):
        post("/v1/traces", traces().SerializeToString(), who=strangers)
    otlp_sink.wait_for(refusals=1, timeout=_WAIT)
    assert "spiffe://federated.example/app is not in member_of(test.example)" in otlp_sink.refusals[0]
    assert otlp_sink.counts.requests == 0


def test_a_member_of_another_trust_domain_is_refused_with_the_reason_over_grpc(otlp_sink, export, strangers):
    with pytest.raises(grpc.RpcError) as refused:
        export("traces", traces().SerializeToString(), who=strangers)
    assert "spiffe://federated.example/app" in refused.value.details()
    assert "spiffe://federated.example/app is not in member_of(test.example)" in otlp_sink.refusals[0]
    assert otlp_sink.counts.requests == 0


def test_a_forgery_is_refused_over_both(otlp_sink, post, export, spiffe_faulty_svid):
    forged = spiffe_faulty_svid("forged_by_federated", "/app")
    with pytest.raises((OtelSpiffeError, ConnectionError)):
        post("/v1/traces", traces().SerializeToString(), who=forged)
    with pytest.raises(grpc.RpcError):
        export("traces", traces().SerializeToString(), who=forged)
    assert otlp_sink.counts.requests == 0


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (grpc.StatusCode.INVALID_ARGUMENT, 400),
        (grpc.StatusCode.INTERNAL, 500),
    ],
)
def test_an_ordered_answer_is_given_as_often_as_ordered(otlp_sink, post, export, code, status):
    otlp_sink.answer(code, times=2, details="busy", retry_after=1)
    answer = post("/v1/traces", traces().SerializeToString())
    assert (answer.status, answer.headers["Retry-After"]) == (status, "1")
    with pytest.raises(grpc.RpcError) as refused:
        export("traces", traces().SerializeToString())
    assert (refused.value.code(), refused.value.details()) == (code, "busy")
    assert otlp_sink.counts.requests == 0
    assert post("/v1/traces", traces().SerializeToString()).status == 200


def test_an_order_without_end_is_ended_by_ok(otlp_sink, post):
    otlp_sink.answer(grpc.StatusCode.UNAVAILABLE)
    for _ in range(3):
        assert post("/v1/traces", b"").status == 503
    otlp_sink.answer(grpc.StatusCode.OK)
    assert post("/v1/traces", b"").status == 200


def test_a_stalled_sink_answers_once_it_is_resumed(otlp_sink, post):
    otlp_sink.stall()
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(post("/v1/traces", traces().SerializeToString()).status))
    thread.start()
    with pytest.raises(TimeoutError, match=r"requests=0"):
        otlp_sink.wait_for(requests=1, timeout=0.2)
    otlp_sink.resume()
    thread.join(_WAIT)
    assert statuses == [200]


def test_a_sink_that_goes_away_refuses_connections_and_comes_back_at_the_same_ports(otlp_sink, post):
    endpoints = otlp_sink.grpc_endpoint, otlp_sink.http_endpoint
    otlp_sink.go_away()
    for endpoint in endpoints:
        host, _, port = endpoint.removeprefix("https://").partition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=_WAIT)
    otlp_sink.come_back()
    assert (otlp_sink.grpc_endpoint, otlp_sink.http_endpoint) == endpoints
    assert post("/v1/traces", traces().SerializeToString()).status == 200


def test_a_peer_that_never_begins_its_handshake_delays_nobody(otlp_sink, post):
    host, _, port = otlp_sink.http_endpoint.removeprefix("https://").partition(":")
    with socket.create_connection((host, int(port)), timeout=_WAIT):
        assert post("/v1/traces", traces().SerializeToString()).status == 200


def test_waiting_in_vain_says_what_arrived_and_who_was_refused(otlp_sink, post):
    post("/v1/traces", traces(3).SerializeToString())
    with pytest.raises(TimeoutError, match=r"spans=100.*spans=3"):
        otlp_sink.wait_for(spans=100, timeout=0.05)


def test_close_leaves_no_thread_and_no_open_connection(spiffe_source_of):
    before = set(threading.enumerate())
    sink = OtlpSink.open(spiffe_source_of("/collector"), authorize=authorize_any())
    port = int(sink.http_endpoint.rpartition(":")[2])
    context = client_context(spiffe_source_of(), authorize=authorize_any())
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=_WAIT)) as idle:
        with socket.create_connection(("127.0.0.1", port), timeout=_WAIT):
            sink.close()
        with pytest.raises(RefusedByPeer):  # hung up before its first byte
            idle.recv(1)
    sink.close()
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("otel-spiffe-sink")]
    assert left == []


@pytest.fixture
def raw(otlp_sink, spiffe_source_of):
    """Connections over TLS to the HTTP port, to say anything on."""
    context = client_context(spiffe_source_of(), authorize=authorize_id(_COLLECTOR))
    host, _, port = otlp_sink.http_endpoint.removeprefix("https://").partition(":")
    opened = []

    def connect():
        opened.append(context.wrap_socket(socket.create_connection((host, int(port)), timeout=_WAIT)))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def half(length):
    return b"POST /v1/traces HTTP/1.1\r\nContent-Type: application/x-protobuf\r\nContent-Length: %s\r\n\r\n" % length


@pytest.fixture
def escaped(monkeypatch, caplog):
    """What came out of a thread, or was logged as if it had."""
    escaped = []
    monkeypatch.setattr(threading, "excepthook", escaped.append)
    yield escaped
    assert [record for record in caplog.records if record.name == "otel_spiffe.testing"] == []


def test_a_client_that_leaves_in_the_middle_of_its_body_disturbs_nobody(otlp_sink, raw, escaped):
    body = traces().SerializeToString()
    raw().sendall(half(b"%d" % (2 * len(body))) + body)  # no close: the sink sees it go at `shutdown`
    broken = raw()
    broken.sendall(half(b"%d" % (2 * len(body))) + body)
    broken.shutdown(socket.SHUT_WR)
    with contextlib.suppress(OSError):  # or nothing, where the sink was quicker than its alert
        assert broken.recv(1) == b""
    otlp_sink.go_away()  # joins the threads
    assert escaped == []
    assert otlp_sink.counts.requests == 0


def test_a_length_of_thousands_of_digits_is_too_large(otlp_sink, raw, escaped):
    connection = raw()
    connection.sendall(half(b"9" * 5000))
    assert connection.recv(64).startswith(b"HTTP/1.1 413 ")
    otlp_sink.go_away()
    assert escaped == []


def test_a_connection_for_which_no_thread_can_be_started_is_closed_and_the_sink_goes_on(
    otlp_sink, post, raw, monkeypatch, caplog
):
    start = threading.Thread.start

    def exhausted(self):
        if self.name == "otel-spiffe-sink-http":
            raise RuntimeError("can't start new thread")
        start(self)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", exhausted)
        with pytest.raises((OSError, OtelSpiffeError)):
            raw()
    assert post("/v1/traces", traces().SerializeToString()).status == 200
    otlp_sink.go_away()
    assert "can't start new thread" in caplog.text
