# SPDX-License-Identifier: Apache-2.0
"""A WSGI app whose telemetry is set up once, in gunicorn's master: the workers inherit it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_spiffe.exporters.grpc import OTLPSpanExporter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("gunicorn_prefork")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    with tracer.start_as_current_span(environ["PATH_INFO"], attributes={"pid": os.getpid()}):
        start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
        return [str(os.getpid()).encode()]
