# SPDX-License-Identifier: Apache-2.0
"""OTLP over HTTP: the stock exporters, with a SPIFFE identity on the connection.

The stock class sends through a `requests.Session` that presents our X509-SVID and checks the peer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http import _log_exporter as _stock_logs
from opentelemetry.exporter.otlp.proto.http import metric_exporter as _stock_metrics
from opentelemetry.exporter.otlp.proto.http import trace_exporter as _stock_traces

from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.exporters._endpoint import http_url
from otel_spiffe.exporters._keywords import MetricKeywords, StockKeywords
from otel_spiffe.exporters._parties import refuse_stock_keywords, say_unused
from otel_spiffe.exporters._session import open_session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    import requests

    from otel_spiffe.environment import Signal

__all__ = ["HttpKeywords", "HttpMetricKeywords", "OTLPLogExporter", "OTLPMetricExporter", "OTLPSpanExporter"]


class HttpKeywords(StockKeywords, total=False):
    """What the exporters of spans and logs take beside `endpoint`.

    Attributes:
        headers: of each request.
        compression: the stock `Compression`, or its value: ``none``, ``deflate``, ``gzip``.
        max_request_size: bytes before compression; a larger batch is dropped. 64 MiB by default.
    """

    headers: Mapping[str, str] | None
    compression: Compression | str | None
    max_request_size: int | None


class HttpMetricKeywords(HttpKeywords, MetricKeywords, total=False):
    """What the exporter of metrics takes beside `endpoint`."""


_OURS: Final = "leave it out: the key comes from source=, the trust from its bundles and authorize="
_REFUSED: Final = {
    "certificate_file": _OURS,
    "client_key_file": _OURS,
    "client_certificate_file": _OURS,
    "session": "leave it out, or give otel_spiffe.http_session(source, authorize=...) to the stock exporter",
    "_transport": "leave it out: the request goes through a session that checks the peer",
}


class _HttpExporter:
    """In front of a stock class: gives it a session that presents our X509-SVID, and nothing else of TLS."""

    _spiffe_signal: ClassVar[Signal]

    def __init__(self, endpoint: str | None = None, **keywords: Unpack[HttpKeywords]) -> None:
        given = cast("dict[str, Any]", keywords)
        refuse_stock_keywords(given, _REFUSED)
        say_unused(self._spiffe_signal)
        url = http_url(endpoint, self._spiffe_signal)
        session = open_session(given)
        try:
            super().__init__(**_stock_arguments(given, url, session))
        except BaseException:
            session.close()
            raise


class OTLPSpanExporter(_HttpExporter, _stock_traces.OTLPSpanExporter):
    """Exports spans over HTTP as the SPIFFE ID of `source`, to a collector whose SPIFFE ID `authorize` allows.

    Args:
        endpoint: the whole URL, ``https://host:port/v1/traces``; `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` by default,
            else `OTEL_EXPORTER_OTLP_ENDPOINT` or ``https://localhost:4318`` with ``/v1/traces`` behind it.
        keywords: `SpiffeKeywords`, and those of the stock exporter that make sense beside them, see `HttpKeywords`.

    Raises:
        InvalidConfiguration: who we are, who the collector may be or where it is is not said, or contradictorily.
    """

    _spiffe_signal = "traces"


class OTLPMetricExporter(_HttpExporter, _stock_metrics.OTLPMetricExporter):
    """Exports metrics over HTTP as the SPIFFE ID of `source`, to a collector whose SPIFFE ID `authorize` allows.

    Args:
        endpoint: as `OTLPSpanExporter`, with ``METRICS`` and ``/v1/metrics``.
        keywords: as `OTLPSpanExporter` has, and `MetricKeywords`.

    Raises:
        InvalidConfiguration: as `OTLPSpanExporter`.
    """

    _spiffe_signal = "metrics"

    if TYPE_CHECKING:

        def __init__(self, endpoint: str | None = None, **keywords: Unpack[HttpMetricKeywords]) -> None: ...


class OTLPLogExporter(_HttpExporter, _stock_logs.OTLPLogExporter):
    """Exports log records over HTTP as the SPIFFE ID of `source`, to a collector whose SPIFFE ID `authorize` allows.

    Args:
        endpoint: as `OTLPSpanExporter`, with ``LOGS`` and ``/v1/logs``.
        keywords: as `OTLPSpanExporter` has.

    Raises:
        InvalidConfiguration: as `OTLPSpanExporter`.
    """

    _spiffe_signal = "logs"


def _stock_arguments(given: Mapping[str, Any], url: str, session: requests.Session) -> dict[str, Any]:
    arguments = {name: value for name, value in given.items() if name not in _REFUSED}
    if isinstance(compression := arguments.get("compression"), str):
        arguments["compression"] = _compression(compression)
    return {**arguments, "endpoint": url, "session": session}


def _compression(given: str) -> Compression:
    try:
        return Compression(given)
    except ValueError:
        values = ", ".join(one.value for one in Compression)
        raise InvalidConfiguration("compression=", f"{given!r} is not one of {values}") from None
