# SPDX-License-Identifier: Apache-2.0
"""Which attributes of a context a program may set: none that widens what is trusted."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from otel_spiffe.credentials._tls_inner import FORCED_OPTIONS
from otel_spiffe.errors import InvalidConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["gate"]


def gate(name: str, value: Any) -> Any:  # noqa: ANN401 -- whatever the attribute holds
    """Return what to store for the attribute `name`.

    Raises:
        InvalidConfiguration: the value would weaken the checks.
    """
    return _RULES[name](value) if name in _RULES else value


def _refuse(name: str, reason: str) -> InvalidConfiguration:
    return InvalidConfiguration(f"SSLContext.{name}", reason, fix="leave it as it is")


def _verify_mode(value: int) -> int:
    if value != ssl.CERT_REQUIRED:
        raise _refuse("verify_mode", "a SPIFFE peer is always verified")
    return value


def _check_hostname(value: object) -> bool:
    if value:
        raise _refuse("check_hostname", "a SPIFFE peer is known by its SPIFFE ID and has no host name to check")
    return False


def _version(name: str) -> Callable[[int], int]:
    def rule(value: int) -> int:
        # MINIMUM_SUPPORTED and MAXIMUM_SUPPORTED are -2 and -1.
        if value < ssl.TLSVersion.TLSv1_2 and value != ssl.TLSVersion.MAXIMUM_SUPPORTED:
            raise _refuse(name, "TLS 1.2 is the oldest version allowed")
        return value

    return rule


def _num_tickets(value: int) -> int:
    if value:
        raise _refuse("num_tickets", "a resumed session would skip the certificates")
    return value


def _verify_flags(value: int) -> int:
    if value != _DEFAULT_FLAGS:
        raise _refuse("verify_flags", "the source's revocation lists count, and RFC 5280 and SPIFFE's rules always do")
    return value


def _never(name: str, reason: str) -> Callable[[Any], Any]:
    def rule(value: Any) -> Any:  # noqa: ANN401
        if value is not None:
            raise _refuse(name, reason)
        return value

    return rule


_DEFAULT_FLAGS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).verify_flags
_RULES: dict[str, Callable[[Any], Any]] = {
    "verify_flags": _verify_flags,
    "verify_mode": _verify_mode,
    "check_hostname": _check_hostname,
    "maximum_version": _version("maximum_version"),
    "minimum_version": _version("minimum_version"),
    "num_tickets": _num_tickets,
    "options": lambda value: ssl.Options(value) | FORCED_OPTIONS,
    "sni_callback": _never("sni_callback", "one X509-SVID serves every name"),
    "sslsocket_class": _never("sslsocket_class", "connections of another class would skip the checks"),
    "sslobject_class": _never("sslobject_class", "connections of another class would skip the checks"),
}
