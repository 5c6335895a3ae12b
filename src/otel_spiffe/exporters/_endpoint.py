# SPDX-License-Identifier: Apache-2.0
"""Where an exporter sends to: the OTLP endpoint rules, without the plaintext that they allow."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from otel_spiffe.environment import otlp_endpoint
from otel_spiffe.errors import InvalidConfiguration

if TYPE_CHECKING:
    from otel_spiffe.environment import Signal

__all__ = ["grpc_target", "http_url"]

DEFAULT_GRPC_ENDPOINT = "https://localhost:4317"  # OTLP Exporter Configuration; https, because there is no plaintext
DEFAULT_HTTP_ENDPOINT = "https://localhost:4318"
_HTTPS_PORT = 443


def grpc_target(endpoint: str | None, signal: Signal) -> str:
    """Return ``host:port`` of `endpoint`, or of the environment's, or of the default.

    As with the stock exporter a path is ignored, ``host:port`` without a scheme will do, and a URL without a
    port means 443.

    Raises:
        InvalidConfiguration: it is plaintext, or no address of a TLS server.
    """
    where, value = _given(endpoint, signal, DEFAULT_GRPC_ENDPOINT)
    url = _https(where, value if "://" in value else f"https://{value}", example="https://collector:4317")
    if "://" not in value and url.port is None:
        raise InvalidConfiguration(where, f"{value!r} names no port", fix="write it as https://collector:4317")
    host = f"[{url.hostname}]" if url.hostname and ":" in url.hostname else url.hostname
    return f"{host}:{url.port or _HTTPS_PORT}"


def http_url(endpoint: str | None, signal: Signal) -> str:
    """Return the URL to POST `signal` to: `endpoint` as it is, or the environment's, or the default's.

    The general variable and the default get ``/v1/<signal>`` appended; `endpoint` and the signal's own variable
    are taken as they are (OTLP Exporter Configuration, "Endpoint URLs for OTLP/HTTP").

    Raises:
        InvalidConfiguration: it is plaintext, or no URL.
    """
    where, value = _given(endpoint, signal, DEFAULT_HTTP_ENDPOINT)
    _https(where, value, example=f"https://collector:4318/v1/{signal}")
    is_base = where in {"OTEL_EXPORTER_OTLP_ENDPOINT", "endpoint"} and endpoint is None
    return f"{value.rstrip('/')}/v1/{signal}" if is_base else value


def _given(endpoint: str | None, signal: Signal, default: str) -> tuple[str, str]:
    if endpoint:
        return "endpoint", endpoint
    setting = otlp_endpoint(signal)
    return (setting.variable, setting.value) if setting else ("endpoint", default)


def _https(where: str, value: str, *, example: str) -> SplitResult:
    try:
        url = urlsplit(value)
        _ = url.port  # it is read, and refused, when it is asked for
    except ValueError as error:
        raise InvalidConfiguration(where, f"{_redacted(value)!r} is no URL: {error}") from error
    if url.scheme != "https":
        reason = f"{_redacted(value)!r} is not https; a SPIFFE exporter never sends plaintext"
        raise InvalidConfiguration(where, reason, fix=f"write it as {example}")
    if url.username is not None or url.password is not None:
        reason = f"{_redacted(value)!r} holds credentials"
        raise InvalidConfiguration(where, reason, fix="send them with headers= or OTEL_EXPORTER_OTLP_HEADERS")
    if not url.hostname:
        raise InvalidConfiguration(where, f"{value!r} names no host", fix=f"write it as {example}")
    return url


def _redacted(value: str) -> str:
    scheme, separator, rest = value.rpartition("://")
    authority, slash, path = rest.partition("/")
    return (
        scheme
        + separator
        + ("..." + authority[authority.rindex("@") :] if "@" in authority else authority)
        + slash
        + path
    )
