# SPDX-License-Identifier: Apache-2.0
"""Run the benchmarks, or those named, and print their tables; exits 1 where a target was missed."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
import time

from benchmarks._table import show
from otel_spiffe import environment

# requests lets these overrule the stock exporter's certificate_file, and nothing here leaves the machine.
FOREIGN = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "OTEL_", "SPIFFE_")

INTEROP = ("interop_export", "interop_handshakes", "interop_push")  # each with a program of others; skipped without Go
BENCHMARKS = ("export", "handshakes", "push", "refusals", "scripts", "leaks", "memory", "rotation", *INTEROP)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a minute or two instead of ten")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    environment.forget(*FOREIGN)
    environment.quieten_grpc()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    version = importlib.metadata.version("grpcio")
    print(f"Python {platform.python_version()}, grpcio {version}, {os.cpu_count()} cores, load {load}")
    missed = 0
    for name in arguments.names or BENCHMARKS:
        module, start = importlib.import_module(f"benchmarks.{name}"), time.monotonic()
        rows = module.run(quick=arguments.quick)
        show(f"{module.TITLE}  [{name}, {time.monotonic() - start:.0f} s]", rows)
        missed += sum(row.reached is False for row in rows)
    print(f"\n{missed} targets missed" if missed else "\nall targets reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
