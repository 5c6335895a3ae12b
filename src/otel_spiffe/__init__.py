# SPDX-License-Identifier: Apache-2.0
"""SPIFFE identities for OpenTelemetry, and for any TLS or gRPC program beside it.

This is the door: the names that most programs need, each from its room and loaded when it is first used, so
`import otel_spiffe` loads neither gRPC nor OpenTelemetry. The exporters of both transports have the same names and
are imported from `otel_spiffe.exporters.grpc` and `otel_spiffe.exporters.http`, errors beyond the three below from
`otel_spiffe.errors`.

.. code-block:: text

    source ──► Identity ──► client_context, server_context, http_session ──► any TLS program
                       └──► secure_channel, server_credentials, Relay ────► any gRPC program
    peer's SPIFFE ID ──► authorize_* ──► None, or PeerRejected
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_spiffe.ca import CertificateAuthority
    from otel_spiffe.credentials import (
        AioAuthorizationInterceptor,
        AuthorizationInterceptor,
        Relay,
        aio_secure_channel,
        client_context,
        http_session,
        peer_id,
        secure_channel,
        server_context,
        server_credentials,
    )
    from otel_spiffe.errors import OtelSpiffeError, PeerRejected, SourceUnavailable
    from otel_spiffe.identity import (
        Identity,
        Source,
        all_of,
        any_of,
        authorize_any,
        authorize_id,
        authorize_id_prefix,
        authorize_member_of,
        authorize_one_of,
        not_,
    )
    from otel_spiffe.sources import FileSource, IssuingSource, StaticSource, WorkloadApiSource, from_spiffe

__all__ = [
    "AioAuthorizationInterceptor",
    "AuthorizationInterceptor",
    "CertificateAuthority",
    "FileSource",
    "Identity",
    "IssuingSource",
    "OtelSpiffeError",
    "PeerRejected",
    "Relay",
    "Source",
    "SourceUnavailable",
    "StaticSource",
    "WorkloadApiSource",
    "aio_secure_channel",
    "all_of",
    "any_of",
    "authorize_any",
    "authorize_id",
    "authorize_id_prefix",
    "authorize_member_of",
    "authorize_one_of",
    "client_context",
    "from_spiffe",
    "http_session",
    "not_",
    "peer_id",
    "secure_channel",
    "server_context",
    "server_credentials",
]

_ROOMS = {
    "ca": ("CertificateAuthority",),
    "credentials": (
        "AioAuthorizationInterceptor",
        "AuthorizationInterceptor",
        "Relay",
        "aio_secure_channel",
        "client_context",
        "http_session",
        "peer_id",
        "secure_channel",
        "server_context",
        "server_credentials",
    ),
    "errors": (
        "OtelSpiffeError",
        "PeerRejected",
        "SourceUnavailable",
    ),
    "identity": (
        "Identity",
        "Source",
        "all_of",
        "any_of",
        "authorize_any",
        "authorize_id",
        "authorize_id_prefix",
        "authorize_member_of",
        "authorize_one_of",
        "not_",
    ),
    "sources": (
        "FileSource",
        "IssuingSource",
        "StaticSource",
        "WorkloadApiSource",
        "from_spiffe",
    ),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _ROOM_OF:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value: object = getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
