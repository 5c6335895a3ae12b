# SPDX-License-Identifier: Apache-2.0
"""For tests and demos: what may go wrong with SPIFFE and OTLP, on order, and a pytest plugin that hands it out.

CertificateAuthority ──► FaultyWorkloadApi ──► source ──► your code ──► OtlpSink (what came, and from whom)
                    └──► faulty_svid (certificates that must be refused)

The names are imported when they are first used: pytest loads the plugin, and with it this module, in every run
of every project on the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_spiffe.testing._faults import Fault, faulty_svid
    from otel_spiffe.testing._sink import KEEP_REQUESTS, MAX_BODY_BYTES, OtlpSink
    from otel_spiffe.testing._sink_record import Counts, Received, Signal, Transport
    from otel_spiffe.testing._workload_api import FaultyWorkloadApi

__all__ = [
    "KEEP_REQUESTS",
    "MAX_BODY_BYTES",
    "Counts",
    "Fault",
    "FaultyWorkloadApi",
    "OtlpSink",
    "Received",
    "Signal",
    "Transport",
    "faulty_svid",
]

_HOMES = {
    "KEEP_REQUESTS": "_sink",
    "MAX_BODY_BYTES": "_sink",
    "Counts": "_sink_record",
    "Fault": "_faults",
    "FaultyWorkloadApi": "_workload_api",
    "OtlpSink": "_sink",
    "Received": "_sink_record",
    "Signal": "_sink_record",
    "Transport": "_sink_record",
    "faulty_svid": "_faults",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 -- see above

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
