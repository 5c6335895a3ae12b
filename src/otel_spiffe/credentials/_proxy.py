# SPDX-License-Identifier: Apache-2.0
"""The way through an HTTP proxy: a CONNECT request and its answer (RFC 9110 9.3.6), as values."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from otel_spiffe.credentials._resolve import HostPort
from otel_spiffe.errors import InvalidConfiguration, PeerUnreachable

__all__ = ["FROM_ENVIRONMENT", "Proxy", "connect_answer", "connect_request", "parse_proxy"]

FROM_ENVIRONMENT: Final = "environment"
"""As `proxy=`: the one that ``HTTPS_PROXY`` and ``NO_PROXY`` name for the target."""
MAX_ANSWER_BYTES: Final = 16_384
"""Of the proxy's answer."""
_MAX_REASON: Final = 80
_DEFAULT_PORT: Final = 80
_AUTHENTICATION_REQUIRED: Final = 407


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; its credentials are in no repr and no message."""

    where: HostPort
    authorization: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"proxy {self.where}"


def parse_proxy(url: str, *, setting: str = "proxy") -> Proxy:
    """Return the proxy of ``http://[user:password@]host[:port]``; the scheme may be left out.

    Raises:
        InvalidConfiguration: it is no such URL. The text does not repeat it, since it may hold a password.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = _DEFAULT_PORT if parts.port is None else parts.port
    except ValueError as error:
        raise InvalidConfiguration(setting, "the proxy's URL cannot be read", fix=_FIX) from error
    if parts.scheme != "http":
        raise InvalidConfiguration(setting, f"a proxy of scheme {parts.scheme!r} is not supported", fix=_FIX)
    if not parts.hostname or not port:
        raise InvalidConfiguration(setting, "the proxy's URL names no host", fix=_FIX)
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise InvalidConfiguration(setting, "the proxy's URL goes on after its host", fix=_ESCAPE)
    return Proxy(HostPort(parts.hostname, port), _basic(parts.username, parts.password))


_FIX: Final = "write it like http://proxy.example:3128"
_ESCAPE: Final = "write / ? and # in a user or password as %2F, %3F and %23"


def _basic(user: str | None, password: str | None) -> str | None:
    if not user and not password:
        return None
    pair = unquote_to_bytes(user or "") + b":" + unquote_to_bytes(password or "")
    return "Basic " + base64.b64encode(pair).decode()


def connect_request(target: HostPort, proxy: Proxy) -> bytes:
    """Return the request that asks `proxy` for a tunnel to `target`.

    Raises:
        PeerUnreachable: the target has no name that could be written in one.
    """
    try:
        host = target.host if target.host.isascii() else target.host.encode("idna").decode()
    except UnicodeError as error:
        raise PeerUnreachable(str(target), f"{target.host!r} is no host name: {error}", fix="mend the name") from error
    authority = HostPort(host, target.port)
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    return "\r\n".join([*lines, "", ""]).encode()


def connect_answer(received: bytes, target: HostPort, proxy: Proxy) -> bool:
    """Say whether the tunnel stands (True) or more of the answer must come (False).

    Raises:
        PeerUnreachable: the proxy refuses, or answers something else than HTTP.
    """
    head, end, rest = received.partition(b"\r\n\r\n")
    if not end:
        if len(received) > MAX_ANSWER_BYTES:
            raise PeerUnreachable(str(target), f"the {proxy} sent {len(received)} bytes and no end of its answer")
        return False
    code, reason = _status(head, target, proxy)
    if not 200 <= code < 300:  # noqa: PLR2004
        raise PeerUnreachable(str(target), f"the {proxy} answered {code} {reason}".rstrip(), fix=_fix(code, proxy))
    if rest:
        # The server speaks second in TLS, so these bytes are the proxy's own.
        raise PeerUnreachable(str(target), f"the {proxy} sent something after its answer")
    return True


def _status(head: bytes, target: HostPort, proxy: Proxy) -> tuple[int, str]:
    version, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit() and len(code) == 3):  # noqa: PLR2004
        raise PeerUnreachable(str(target), f"the {proxy} did not answer in HTTP/1.1")
    return int(code), "".join(character for character in reason if character.isprintable())[:_MAX_REASON]


def _fix(code: int, proxy: Proxy) -> str:
    if code != _AUTHENTICATION_REQUIRED:
        return "see the proxy's rules, or name the target in NO_PROXY"
    if proxy.authorization is None:
        return "put the proxy's user and password into its URL"
    return "see that user and password in the proxy's URL are right"
