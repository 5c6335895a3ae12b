# SPDX-License-Identifier: Apache-2.0
"""OTLP over gRPC: the stock exporters, with a SPIFFE identity on the connection.

The stock class dials a `Relay` of this process, which speaks TLS with our X509-SVID and checks the peer's;
exporters of equal settings share one relay, and so one connection.
"""

from __future__ import annotations

import functools
import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import grpc
from opentelemetry.exporter.otlp.proto.grpc import _log_exporter as _stock_logs
from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as _stock_metrics
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as _stock_traces

from otel_spiffe.credentials import Relay
from otel_spiffe.environment import GRPC_ENABLE_FORK_SUPPORT, grpc_fork_support, otlp_compression, otlp_timeout
from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.exporters._endpoint import grpc_target
from otel_spiffe.exporters._keywords import MetricKeywords, StockKeywords
from otel_spiffe.exporters._parties import choose_parties, refuse_stock_keywords, say_unused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Unpack

    from otel_spiffe.credentials import OutboundRelay
    from otel_spiffe.environment import Signal

__all__ = ["GrpcKeywords", "GrpcMetricKeywords", "OTLPLogExporter", "OTLPMetricExporter", "OTLPSpanExporter"]

_log = logging.getLogger("otel_spiffe.exporters")


class GrpcKeywords(StockKeywords, total=False):
    """What the exporters of spans and logs take beside `endpoint`.

    Attributes:
        headers: metadata of each call, as pairs, a dict or ``k=v,k=v``.
        compression: `grpc.Compression`, or its name in small letters: ``none``, ``deflate``, ``gzip``.
        channel_options: of the channel to the relay, before ours.
        retryable_error_codes: `grpc.StatusCode` members, or their names.
    """

    headers: Sequence[tuple[str, str]] | Mapping[str, str] | str | None
    compression: grpc.Compression | str | None
    channel_options: Sequence[tuple[str, Any]] | None
    retryable_error_codes: Iterable[grpc.StatusCode | str] | None


class GrpcMetricKeywords(GrpcKeywords, MetricKeywords, total=False):
    """What the exporter of metrics takes beside `endpoint`."""


_STOCK_TIMEOUT: Final = 10.0
"""Seconds of an export where nothing else is said (OTLP Exporter Configuration)."""
_IDENTITY_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 4.0
_REFUSED: Final = {
    "insecure": "leave it out: there is no plaintext; use the stock exporter for a peer that has no SPIFFE ID",
    "credentials": "leave it out: the key comes from source=, the trust from its bundles and authorize=",
}
_COMPRESSIONS: Final = {
    "none": grpc.Compression.NoCompression,
    "deflate": grpc.Compression.Deflate,
    "gzip": grpc.Compression.Gzip,
}


class _GrpcExporter:
    """In front of a stock class: opens the relay that the stock channel dials, and closes it at the end."""

    _spiffe_signal: ClassVar[Signal]

    def __init__(self, endpoint: str | None = None, **keywords: Unpack[GrpcKeywords]) -> None:
        given = cast("dict[str, Any]", keywords)
        refuse_stock_keywords(given, _REFUSED)
        say_unused(self._spiffe_signal)
        _warn_of_fork()
        target = grpc_target(endpoint, self._spiffe_signal)
        with ExitStack() as leases:
            parties = choose_parties(given, leases)
            # Both waits end before the export does: gRPC would say "Deadline Exceeded" in place of the relay's reason.
            share = 0.4 * (given.get("timeout") or otlp_timeout(self._spiffe_signal) or _STOCK_TIMEOUT)
            relay = Relay.outbound(
                target,
                parties.source,
                authorize=parties.authorize,
                identity_timeout=min(_IDENTITY_SECONDS, share),
                connect_timeout=min(_CONNECT_SECONDS, share),
            )
            leases.enter_context(relay)
            super().__init__(**_stock_arguments(_with_compression(given, self._spiffe_signal), relay))
            self._spiffe_leases = leases.pop_all()

    def shutdown(self, timeout_millis: float = 30_000, **keywords: Any) -> None:  # noqa: ANN401 -- the stock signature
        """End as the stock exporter does, then close the connection and give a shared source back."""
        with self._spiffe_leases.pop_all():
            super().shutdown(timeout_millis=timeout_millis, **keywords)  # type: ignore[misc]  # the stock class


class OTLPSpanExporter(_GrpcExporter, _stock_traces.OTLPSpanExporter):
    """Exports spans over gRPC as the SPIFFE ID of `source`, to a collector whose SPIFFE ID `authorize` allows.

    Args:
        endpoint: ``https://host:port``; `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT` or
            ``https://localhost:4317`` by default.
        keywords: `SpiffeKeywords`, and those of the stock exporter that make sense beside them, see `GrpcKeywords`.

    Raises:
        InvalidConfiguration: who we are, who the collector may be or where it is is not said, or contradictorily.
    """

    _spiffe_signal = "traces"


class OTLPMetricExporter(_GrpcExporter, _stock_metrics.OTLPMetricExporter):
    """Exports metrics over gRPC as the SPIFFE ID of `source`, to a collector whose SPIFFE ID `authorize` allows.

    Args:
        endpoint: ``https://host:port``; `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT` or
            ``https://localhost:4317`` by default.
        keywords: as `OTLPSpanExporter` has, and `MetricKeywords`.

    Raises:
        InvalidConfiguration: as `OTLPSpanExporter`.
    """

    _spiffe_signal = "metrics"

    if TYPE_CHECKING:

        def __init__(self, endpoint: str | None = None, **keywords: Unpack[GrpcMetricKeywords]) -> None: ...


class OTLPLogExporter(_GrpcExporter, _stock_logs.OTLPLogExporter):
    """Exports log records over gRPC as the SPIFFE ID of `source`, to a collector whose SPIFFE ID `authorize` allows.

    Args:
        endpoint: ``https://host:port``; `OTEL_EXPORTER_OTLP_LOGS_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT` or
            ``https://localhost:4317`` by default.
        keywords: as `OTLPSpanExporter` has.

    Raises:
        InvalidConfiguration: as `OTLPSpanExporter`.
    """

    _spiffe_signal = "logs"


def _stock_arguments(given: Mapping[str, Any], relay: OutboundRelay) -> dict[str, Any]:
    arguments = {name: value for name, value in given.items() if name not in _REFUSED}
    options = tuple(tuple(option) for option in arguments.pop("channel_options", None) or ())
    if "grpc.default_authority" not in {name for name, _ in options}:
        options = (("grpc.default_authority", relay.authority), *options)
    if (compression := arguments.get("compression")) is not None:
        arguments["compression"] = _compression(compression)
    if (codes := arguments.get("retryable_error_codes")) is not None:
        arguments["retryable_error_codes"] = [_code(code) for code in codes]
    # Plaintext as far as the relay, in this process.
    return {**arguments, "endpoint": relay.target, "insecure": True, "channel_options": options}


def _with_compression(given: dict[str, Any], signal: Signal) -> dict[str, Any]:
    # The stock exporter of 1.45 raises InvalidCompressionValueException for the value "none" of the variable, which the
    # OTLP Exporter Configuration names beside "gzip".
    said = otlp_compression(signal)
    if given.get("compression") is None and said is not None and said.value.lower() == "none":
        return {**given, "compression": grpc.Compression.NoCompression}
    return given


def _compression(given: grpc.Compression | str) -> grpc.Compression:
    if isinstance(given, str):
        if given not in _COMPRESSIONS:
            raise InvalidConfiguration("compression=", f"{given!r} is not one of {', '.join(_COMPRESSIONS)}")
        return _COMPRESSIONS[given]
    return given


def _code(given: grpc.StatusCode | str) -> grpc.StatusCode:
    if isinstance(given, str):
        try:
            return grpc.StatusCode[given.strip().upper()]
        except KeyError:
            raise InvalidConfiguration("retryable_error_codes=", f"{given!r} is no gRPC status code") from None
    return given


@functools.cache
def _warn_of_fork() -> None:
    # grpcio 1.85.1: with 0 every call in a forked child hangs, past its deadline, stock exporters alike.
    if not grpc_fork_support():
        _log.warning(
            "%s is off: after a fork no gRPC call ends, so under a server that forks, use otlp_spiffe_http or unset it",
            GRPC_ENABLE_FORK_SUPPORT,
        )
