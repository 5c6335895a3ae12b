# SPDX-License-Identifier: Apache-2.0
"""The address of a SPIFFE Workload API, to the letter of SPIFFE Workload Endpoint 4."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote, urlsplit

from otel_spiffe.errors import InvalidConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable

    _Refusal = Callable[[str], InvalidConfiguration]

__all__ = ["Endpoint", "parse_endpoint"]

_MAX_UNIX_PATH_BYTES = 107  # sun_path of unix(7), less its final NUL; 103 on macOS
_MAX_PORT = 65535
_FORMS = "give unix:///path/to/agent.sock or tcp://<IP address>:<port>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the agent listens.

    Attributes:
        text: as the user gave it.
        target: as gRPC wants it.
        path: the socket's path, None for TCP.
    """

    text: str
    target: str
    path: str | None = None

    def __str__(self) -> str:
        return self.text


def parse_endpoint(text: str, *, setting: str = "endpoint") -> Endpoint:
    """Return the endpoint that a URI names: `unix:/path`, `unix:///path` or `tcp://ip:port`, and nothing else.

    Args:
        text: the URI.
        setting: the keyword or variable it came from, for the error.

    Raises:
        InvalidConfiguration: it is no such URI.
    """

    def refuse(reason: str) -> InvalidConfiguration:
        return InvalidConfiguration(setting, f"{text!r} {reason} (SPIFFE Workload Endpoint 4)", fix=_FORMS)

    if not text.isprintable() or text != text.strip():
        raise refuse("holds white space at an end or a character that cannot be printed")
    try:
        uri = urlsplit(text)
    except ValueError as error:
        raise refuse(f"is no URI: {error}") from error
    if uri.query or uri.fragment or "?" in text or "#" in text:
        raise refuse("has a query or a fragment")
    match uri.scheme:
        case "unix":
            return _unix(text, uri, refuse)
        case "tcp":
            return _tcp(text, uri, refuse)
        case "":
            raise refuse("has no scheme")
        case other:
            raise refuse(f"has the scheme {other!r}")


def _unix(text: str, uri: SplitResult, refuse: _Refusal) -> Endpoint:
    if uri.netloc:
        raise refuse(f"has an authority, {uri.netloc!r}, where a path begins with a slash")
    path = unquote(uri.path)
    if not path.startswith("/") or "\0" in path:
        raise refuse("has no absolute path")
    if len(path.encode()) > _MAX_UNIX_PATH_BYTES:
        raise refuse(f"has a path of more than the {_MAX_UNIX_PATH_BYTES} bytes that a Unix socket can have")
    return Endpoint(text=text, target=f"unix:{quote(path)}", path=path)


def _tcp(text: str, uri: SplitResult, refuse: _Refusal) -> Endpoint:
    if uri.path or "@" in uri.netloc:
        raise refuse("has a path or a user")
    try:
        host, port = ipaddress.ip_address(uri.hostname or ""), uri.port
    except ValueError as error:
        raise refuse(f"has no IP address or no valid port: {error}") from error
    if "%" in uri.netloc:
        raise refuse("has an IP address with a zone")
    if port is None or not 0 < port <= _MAX_PORT:
        raise refuse("has no port")
    if host.version == 6:  # noqa: PLR2004 -- IPv6 needs its brackets
        return Endpoint(text=text, target=f"ipv6:[{host}]:{port}")
    return Endpoint(text=text, target=f"ipv4:{host}:{port}")
