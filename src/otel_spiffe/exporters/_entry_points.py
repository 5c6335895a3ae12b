# SPDX-License-Identifier: Apache-2.0
"""What `otlp_spiffe` means: the gRPC or the HTTP exporter, as `OTEL_EXPORTER_OTLP_PROTOCOL` says.

The SDK loads a class and asks `issubclass`, so the choice falls when the entry point is loaded: `traces`,
`metrics` and `logs` are attributes of this module that are looked up then.

There is no `spiffe_grpc_credentials`: `grpc.ChannelCredentials` of Python know no peer check, so they could not refuse
a wrong collector.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, get_args

from otel_spiffe.environment import Signal, otlp_protocol
from otel_spiffe.errors import InvalidConfiguration

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

__all__ = ["http_credentials"]

_ROOMS: Final[Mapping[str, str]] = {"grpc": "otel_spiffe.exporters.grpc", "http/protobuf": "otel_spiffe.exporters.http"}
_CLASSES: Final[Mapping[Signal, str]] = {
    "traces": "OTLPSpanExporter",
    "metrics": "OTLPMetricExporter",
    "logs": "OTLPLogExporter",
}
_DEFAULT_PROTOCOL = "grpc"  # as the stock `otlp` of Python


def http_credentials() -> requests.Session:
    """Return the session for `spiffe_http_credentials`: what a stock HTTP exporter needs, from the environment.

    Raises:
        InvalidConfiguration: who we are or who the peer may be is not said, or not clearly.
    """
    from otel_spiffe.exporters._session import open_session  # noqa: PLC0415 -- the gRPC exporters need no requests

    return open_session({})


def __getattr__(name: str) -> type:
    for signal in get_args(Signal):
        if name == signal:
            return _exporter(signal)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def _exporter(signal: Signal) -> type:
    setting = otlp_protocol(signal)
    if setting is not None and setting.value not in _ROOMS:
        raise InvalidConfiguration(setting.variable, f"{setting.value!r} is not one of {', '.join(_ROOMS)}")
    room = _ROOMS[setting.value if setting is not None else _DEFAULT_PROTOCOL]
    exporter: type = getattr(importlib.import_module(room), _CLASSES[signal])
    return exporter
