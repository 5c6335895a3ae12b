# SPDX-License-Identifier: Apache-2.0
"""The one place where the process environment is read, and the names of our variables.

The SDK's `opentelemetry_environment_variables` entry point names this module: `opentelemetry-instrument`
makes a flag of each ``OTEL_*`` constant, ``--spiffe_authorized_ids`` for `OTEL_SPIFFE_AUTHORIZED_IDS`.
"""

from __future__ import annotations

import os
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SPIFFE_ENDPOINT_SOCKET", "https_proxy", "spiffe_endpoint_socket"]

SPIFFE_ENDPOINT_SOCKET = "SPIFFE_ENDPOINT_SOCKET"
"""Where the SPIFFE Workload API listens (SPIFFE Workload Endpoint 4)."""


def spiffe_endpoint_socket(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the address in `SPIFFE_ENDPOINT_SOCKET`, or None where it is not set or empty."""
    return environ.get(SPIFFE_ENDPOINT_SOCKET) or None


def https_proxy(host: str) -> str | None:
    """Return the URL of the proxy that `HTTPS_PROXY` and `NO_PROXY` name for `host`, or None for a direct way."""
    proxies = urllib.request.getproxies_environment()
    if urllib.request.proxy_bypass_environment(host, proxies):  # type: ignore[attr-defined]  # typeshed lacks it
        return None
    return proxies.get("https") or proxies.get("all")
