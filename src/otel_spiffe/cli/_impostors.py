# SPDX-License-Identifier: Apache-2.0
"""Who tries to get telemetry that is not theirs, or to send some in somebody's name, and what they are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from otel_spiffe.cli._story import TRANSPORTS, Attempt
from otel_spiffe.credentials import http_session, secure_channel
from otel_spiffe.errors import OtelSpiffeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_spiffe.identity import Authorizer, Source
    from otel_spiffe.testing import OtlpSink

__all__ = ["Impostor"]

_SECONDS = 10.0
_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_SECRET = ExportTraceServiceRequest(
    resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[Span(name="nobody else may see this")])])]
).SerializeToString()


@dataclass(frozen=True, slots=True, kw_only=True)
class Impostor:
    """One end of a connection that must not come about.

    Attributes:
        who: what is wrong with it, in words.
        sink: the collector that is dialled.
        source: the identity of who dials.
        authorize: whom the dialler accepts.
        got_through: how many requests arrived where they must not.
        local_id: its SPIFFE ID where it is the one who dials; empty where it listens.
    """

    who: str
    sink: OtlpSink
    source: Source = field(repr=False)
    authorize: Authorizer
    got_through: Callable[[], int]
    local_id: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """By which a log line may name it: its SPIFFE ID, or where it listens."""
        if self.local_id:
            return (self.local_id,)
        return self.sink.grpc_target, self.sink.http_endpoint.removeprefix("https://")

    def attempts(self) -> list[Attempt]:
        """Try each transport and return what came of it."""
        ways = (self._grpc, self._http)
        return [self._attempt(transport, way) for transport, way in zip(TRANSPORTS, ways, strict=True)]

    def _attempt(self, transport: str, way: Callable[[], str]) -> Attempt:
        reason = way()
        refused = bool(reason) and not self.got_through()
        return Attempt(who=self.who, transport=transport, refused=refused, reason=reason or "nobody said no")

    def _grpc(self) -> str:
        with secure_channel(self.sink.grpc_target, self.source, authorize=self.authorize) as channel:
            try:
                channel.unary_unary(_EXPORT)(_SECRET, timeout=_SECONDS)
            except grpc.RpcError as error:
                return str(error.details())
        return ""

    def _http(self) -> str:
        with http_session(self.source, authorize=self.authorize) as session:
            headers = {"content-type": "application/x-protobuf"}
            try:
                session.post(f"{self.sink.http_endpoint}/v1/traces", _SECRET, headers=headers, timeout=_SECONDS)
            except requests.RequestException as error:
                return why(error)
        return ""


def why(error: BaseException) -> str:
    """Return our own sentence from within what an HTTP library wrapped around it."""
    seen: list[BaseException] = [error]
    for each in seen:  # grows while it is walked
        if isinstance(each, OtelSpiffeError):
            return str(each)
        inner = (each.__cause__, each.__context__, getattr(each, "reason", None), *each.args)
        seen += [one for one in inner if isinstance(one, BaseException) and one not in seen]
    return str(error)
