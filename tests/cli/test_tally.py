# SPDX-License-Identifier: Apache-2.0
"""What arrived is counted once, however much it is."""

from types import SimpleNamespace

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_spiffe.cli._app import COUNTER
from otel_spiffe.cli._tally import Tally
from otel_spiffe.testing._sink_record import Record

_APP = "spiffe://demo.example/app"


def a_span():
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="span")
    return request.SerializeToString()


def so_far(total):
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name=COUNTER)
    metric.sum.data_points.add(as_int=total)
    return request.SerializeToString()


def test_more_requests_than_the_sink_keeps_are_all_counted():
    record, tally = Record(keep=10), Tally(_APP)
    sink = SimpleNamespace(received=lambda: record.received)
    tally.take(sink)
    for number in range(1, 101):
        record.take("traces", "grpc", a_span(), peer=_APP, serial=number // 50, headers={})
        record.take("traces", "http", a_span(), peer="spiffe://demo.example/other", serial=9, headers={})
        record.take("metrics", "http", so_far(number), peer=_APP, serial=7, headers={})
        if number % 3 == 0:
            tally.take(sink)
    tally.take(sink)
    tally.take(sink)
    assert tally.received["traces", "gRPC"] == tally.received["metrics", "HTTP"] == 100
    assert tally.received["traces", "HTTP"] == 0
    assert tally.serials == {0, 1, 2, 7}
