# SPDX-License-Identifier: Apache-2.0
"""The `otel-spiffe` program.

arguments ──► main ──► demo: stage (real actors) ──► story (what is true now) ──► screen, or plain lines
"""

from __future__ import annotations

import argparse
import importlib.metadata
from typing import TYPE_CHECKING

from otel_spiffe import environment

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_DEMO_SECONDS = 22.0
_SHORTEST_SECONDS = 4.0
_LONGEST_SECONDS = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code: 0 all well, 1 not, 2 wrong arguments, 130 interrupted, 143 terminated.

    Args:
        argv: the arguments without the program's name; None takes those of the process.
    """
    arguments = _parser().parse_args(argv)
    environment.quieten_grpc()  # it would write each refused handshake across the picture
    from otel_spiffe.cli._demo import run  # noqa: PLC0415 -- `--help` needs no gRPC

    return run(seconds=arguments.seconds, plain=arguments.plain)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="otel-spiffe", description="SPIFFE identities for OpenTelemetry.")
    version = importlib.metadata.version("otel-spiffe")
    parser.add_argument("--version", action="version", version=f"otel-spiffe {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="watch an app, a collector and a changing identity work, and impostors fail",
        description="An authority, two SPIFFE agents, a collector, an instrumented app and three impostors, all real "
        "and all in this process: no root, no network. Exits 0 only if nothing was lost and every impostor refused.",
    )
    demo.add_argument("--seconds", type=_seconds, default=_DEMO_SECONDS, help="how long the app runs (%(default)s)")
    demo.add_argument("--plain", action="store_true", help="plain lines, also on a terminal")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not _SHORTEST_SECONDS <= seconds <= _LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from {_SHORTEST_SECONDS:g} to {_LONGEST_SECONDS:g}"
        )
    return seconds
