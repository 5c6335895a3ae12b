# SPDX-License-Identifier: Apache-2.0
"""The one place where the process environment is read, and the names of our variables.

The SDK's `opentelemetry_environment_variables` entry point names this module: `opentelemetry-instrument`
makes a flag of each ``OTEL_*`` constant, ``--spiffe_authorized_ids`` for `OTEL_SPIFFE_AUTHORIZED_IDS`.

A variable that is set and empty counts as not set (OpenTelemetry Environment Variable Specification).
Lists are comma separated. A value that cannot be read is refused, with the variable's name.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from otel_spiffe.errors import InvalidConfiguration

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "GRPC_ENABLE_FORK_SUPPORT",
    "OTEL_SPIFFE_AUTHORIZED_IDS",
    "OTEL_SPIFFE_AUTHORIZED_ID_PREFIXES",
    "OTEL_SPIFFE_AUTHORIZED_TRUST_DOMAINS",
    "OTEL_SPIFFE_AUTHORIZE_ANY_PEER",
    "OTEL_SPIFFE_BUNDLE_FILE",
    "OTEL_SPIFFE_HINT",
    "OTEL_SPIFFE_SVID_DIRECTORY",
    "OTEL_SPIFFE_SVID_FILE",
    "OTEL_SPIFFE_SVID_KEY_FILE",
    "SPIFFE_ENDPOINT_SOCKET",
    "Setting",
    "Settings",
    "Signal",
    "forget",
    "grpc_fork_support",
    "https_proxy",
    "otlp_compression",
    "otlp_endpoint",
    "otlp_protocol",
    "otlp_timeout",
    "otlp_tls_variables",
    "quieten_grpc",
    "refuse_green_threads",
    "settings",
    "spiffe_endpoint_socket",
]

_GRPC_NO = frozenset({"0", "f", "false", "n", "no"})  # grpc_core::LoadConfig's words for false

Signal = Literal["traces", "metrics", "logs"]
"""What an exporter exports, in the word that the exporter groups and the OTLP paths use."""

SPIFFE_ENDPOINT_SOCKET = "SPIFFE_ENDPOINT_SOCKET"
"""Where the SPIFFE Workload API listens (SPIFFE Workload Endpoint 4)."""

GRPC_ENABLE_FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"
"""Whether grpcio survives a fork; it does unless this says no."""

OTEL_SPIFFE_AUTHORIZED_IDS = "OTEL_SPIFFE_AUTHORIZED_IDS"
"""The SPIFFE IDs that the collector may have: ``spiffe://prod.example/collector,spiffe://prod.example/gateway``."""

OTEL_SPIFFE_AUTHORIZED_ID_PREFIXES = "OTEL_SPIFFE_AUTHORIZED_ID_PREFIXES"
"""SPIFFE IDs at or below which the collector's may be, whole path segments: ``spiffe://prod.example/otel``."""

OTEL_SPIFFE_AUTHORIZED_TRUST_DOMAINS = "OTEL_SPIFFE_AUTHORIZED_TRUST_DOMAINS"
"""Trust domains of which every member may be the collector: ``prod.example``."""

OTEL_SPIFFE_AUTHORIZE_ANY_PEER = "OTEL_SPIFFE_AUTHORIZE_ANY_PEER"
"""``true`` lets every SPIFFE ID that verifies be the collector, any workload of any federated domain."""

OTEL_SPIFFE_HINT = "OTEL_SPIFFE_HINT"
"""Which X509-SVID of the Workload API to present, by the operator's hint (Workload API 5.2.1)."""

OTEL_SPIFFE_SVID_DIRECTORY = "OTEL_SPIFFE_SVID_DIRECTORY"
"""A directory in which X509-SVID, key and bundle stand under well-known names, instead of the Workload API."""

OTEL_SPIFFE_SVID_FILE = "OTEL_SPIFFE_SVID_FILE"
"""A PEM file with the X509-SVID, leaf first, instead of the Workload API."""

OTEL_SPIFFE_SVID_KEY_FILE = "OTEL_SPIFFE_SVID_KEY_FILE"
"""A PEM file with the X509-SVID's private key; not needed where `OTEL_SPIFFE_SVID_FILE` holds it, too."""

OTEL_SPIFFE_BUNDLE_FILE = "OTEL_SPIFFE_BUNDLE_FILE"
"""A PEM file with the authorities of the X509-SVID's trust domain."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A value of the environment and the variable that holds it, for errors that name it."""

    variable: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What our own variables say; each field is named as the exporters' keyword is.

    Attributes:
        unknown: variables that begin with ``OTEL_SPIFFE_`` and are none of ours.
    """

    spiffe_endpoint_socket: str | None = None
    hint: str | None = None
    svid_directory: str | None = None
    svid_file: str | None = None
    svid_key_file: str | None = None
    bundle_file: str | None = None
    authorized_ids: tuple[str, ...] = ()
    authorized_id_prefixes: tuple[str, ...] = ()
    authorized_trust_domains: tuple[str, ...] = ()
    authorize_any_peer: bool = False
    unknown: tuple[str, ...] = ()


def settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Return what our variables say now.

    Raises:
        InvalidConfiguration: a value cannot be read.
    """
    return Settings(
        spiffe_endpoint_socket=spiffe_endpoint_socket(environ),
        hint=_text(environ, OTEL_SPIFFE_HINT),
        svid_directory=_text(environ, OTEL_SPIFFE_SVID_DIRECTORY),
        svid_file=_text(environ, OTEL_SPIFFE_SVID_FILE),
        svid_key_file=_text(environ, OTEL_SPIFFE_SVID_KEY_FILE),
        bundle_file=_text(environ, OTEL_SPIFFE_BUNDLE_FILE),
        authorized_ids=_list(environ, OTEL_SPIFFE_AUTHORIZED_IDS),
        authorized_id_prefixes=_list(environ, OTEL_SPIFFE_AUTHORIZED_ID_PREFIXES),
        authorized_trust_domains=_list(environ, OTEL_SPIFFE_AUTHORIZED_TRUST_DOMAINS),
        authorize_any_peer=_flag(environ, OTEL_SPIFFE_AUTHORIZE_ANY_PEER),
        unknown=tuple(sorted(name for name in environ if name.startswith("OTEL_SPIFFE_") and name not in __all__)),
    )


def spiffe_endpoint_socket(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the address in `SPIFFE_ENDPOINT_SOCKET`, or None where it is not set or empty."""
    return environ.get(SPIFFE_ENDPOINT_SOCKET) or None


def otlp_endpoint(signal: Signal, environ: Mapping[str, str] = os.environ) -> Setting | None:
    """Return where `signal` goes: the signal's own variable, else the general one, else None."""
    return _otlp(signal, "ENDPOINT", environ)


def otlp_protocol(signal: Signal, environ: Mapping[str, str] = os.environ) -> Setting | None:
    """Return how `signal` goes: the signal's own variable, else the general one, else None."""
    return _otlp(signal, "PROTOCOL", environ)


def otlp_compression(signal: Signal, environ: Mapping[str, str] = os.environ) -> Setting | None:
    """Return how `signal` is compressed: the signal's own variable, else the general one, else None."""
    return _otlp(signal, "COMPRESSION", environ)


def otlp_timeout(signal: Signal, environ: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds that an export of `signal` may take: its own variable, else the general one, else None.

    Raises:
        InvalidConfiguration: it is no number.
    """
    setting = _otlp(signal, "TIMEOUT", environ)
    if setting is None:
        return None
    try:
        return float(setting.value)
    except ValueError:
        raise InvalidConfiguration(setting.variable, f"{setting.value!r} is no number of seconds") from None


def otlp_tls_variables(signal: Signal, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return those of the stock exporters' TLS variables that are set and that a SPIFFE exporter has no use for."""
    names = ("INSECURE", "CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
    return tuple(setting.variable for name in names if (setting := _otlp(signal, name, environ)) is not None)


def grpc_fork_support(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether grpcio is left as it is, or told to, survive a fork."""
    return environ.get(GRPC_ENABLE_FORK_SUPPORT, "1").strip().lower() not in _GRPC_NO


def forget(*prefixes: str) -> None:
    """Remove the variables whose names begin so, in any case: for a program that nothing set around it may change."""
    for name in tuple(os.environ):
        if name.upper().startswith(prefixes):
            del os.environ[name]


def quieten_grpc() -> None:
    """Keep gRPC's own core from writing to standard error; only before gRPC is loaded, and not against the user."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def https_proxy(host: str, port: int) -> str | None:
    """Return the URL of the proxy that `HTTPS_PROXY` and `NO_PROXY` name for `host`, or None for a direct way.

    An entry of `NO_PROXY` is ``*``, a name and with it all below, an address, a network such as ``10.0.0.0/8``, or one
    of the first three with a port: ``collector:4317``, ``[::1]:4317``.
    """
    proxy = _either_case("https_proxy") or _either_case("all_proxy")
    excepted = (_either_case("no_proxy") or "").split(",")
    return None if any(_excepts(entry.strip(), host, port) for entry in excepted) else proxy


def _either_case(variable: str) -> str | None:
    return os.environ.get(variable, os.environ.get(variable.upper(), "")).strip() or None


def _excepts(entry: str, host: str, port: int) -> bool:
    if entry in {"", "*"}:
        return entry == "*"
    name, of_port = _without_port(entry)
    if of_port not in {"", str(port)}:
        return False
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
        with contextlib.suppress(ValueError):
            return address in ipaddress.ip_network(name, strict=False)
        return False
    name, host = name.lower().removeprefix("*").strip("."), host.lower().rstrip(".")
    return host == name or host.endswith(f".{name}")


def _without_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    name, _, port = entry.partition(":")
    return (name, port) if port.isdigit() else (entry, "")  # else an IPv6 address or network


def refuse_green_threads(what: str) -> None:
    """Return, unless gevent or eventlet has replaced this process's threads or TLS.

    Measured with gevent 26.9: the Workload API's stream, watchfiles and a relay's calls block the one thread that there
    is, and gevent's TLS sockets know no peer check.

    Raises:
        InvalidConfiguration: `what` cannot work here.
    """
    for name, module, is_patched in (
        ("gevent", "gevent.monkey", "is_module_patched"),
        ("eventlet", "eventlet.patcher", "is_monkey_patched"),
    ):
        patcher = sys.modules.get(module)
        if patcher is not None and any(getattr(patcher, is_patched)(each) for each in ("threading", "thread", "ssl")):
            raise InvalidConfiguration(
                f"{what} under {name}",
                f"{name} has replaced this process's threads and TLS sockets, and identities could neither be "
                "renewed nor peers be checked",
                fix="use real threads, for example gunicorn's gthread workers",
            )


def _otlp(signal: Signal, name: str, environ: Mapping[str, str]) -> Setting | None:
    for variable in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
        if value := _text(environ, variable):
            return Setting(variable, value)
    return None


def _text(environ: Mapping[str, str], variable: str) -> str | None:
    return environ.get(variable, "").strip() or None


def _list(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    value = _text(environ, variable)
    items = tuple(stripped for item in (value or "").split(",") if (stripped := item.strip()))
    if value and not items:
        raise InvalidConfiguration(variable, f"{value!r} holds no value", fix="set a comma separated list, or unset it")
    return items


def _flag(environ: Mapping[str, str], variable: str) -> bool:
    match (_text(environ, variable) or "false").lower():
        case "true":
            return True
        case "false":
            return False
        case other:
            raise InvalidConfiguration(variable, f"{other!r} is neither true nor false")
