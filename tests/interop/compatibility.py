# SPDX-License-Identifier: Apache-2.0
"""The table of docs/compatibility.md from what the interop tests found: `--write` puts it there, `--check` compares.

OTEL_SPIFFE_COMPATIBILITY=found.json pytest tests/interop
python tests/interop/compatibility.py --check found.json
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from peerlib import version

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
BEGIN, END = "<!-- rows of the tests: begin -->", "<!-- rows of the tests: end -->"

_MODULES = {
    "SPIRE": ("spire", "github.com/spiffe/spire"),
    "spiffe-helper": ("spire", "github.com/spiffe/spiffe-helper"),
    "go-spiffe": ("gospiffe", "github.com/spiffe/go-spiffe/v2"),
    "Collector": ("collector", "go.opentelemetry.io/collector/otelcol"),
    "telemetrygen": ("telemetrygen", "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen"),
}
_COMMANDS = {
    "openssl": ("openssl", "version"),
    "GnuTLS": ("gnutls-cli", "--version"),
    "curl": ("curl", "--version"),
    "nginx": ("nginx", "-v"),
    "HAProxy": ("haproxy", "-v"),
    "spiffe (Python)": (sys.executable, "-c", "import importlib.metadata as m; print(m.version('spiffe'))"),
}


def version_of(peer: str) -> str:
    """Return the version of a peer that ran here."""
    if peer in _MODULES:
        return version(*_MODULES[peer])
    done = subprocess.run(_COMMANDS[peer], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = re.search(r"\d+(\.\d+)+\w*", done.stdout)
    return found[0] if found else "?"


def table(rows: list[tuple[str, str, str]]) -> str:
    """Return the rows as Markdown, one heading for each peer."""
    lines: list[str] = []
    for peer in sorted({peer for peer, *_ in rows}, key=str.lower):
        lines += [f"### {peer} {version_of(peer)}", "", "| what | result |", "|---|---|"]
        lines += [f"| {what} | {result} |" for each, what, result in sorted(rows) if each == peer]
        lines.append("")
    return "\n".join(lines)


def rows_of(page: str) -> set[tuple[str, str, str]]:
    """Return the rows that the page has."""
    rows, peer = set(), ""
    for line in page[page.index(BEGIN) : page.index(END)].splitlines():
        if line.startswith("### "):
            peer = line.removeprefix("### ").rpartition(" ")[0]
        elif line.startswith("| ") and line != "| what | result |":
            what, _, result = line.removeprefix("| ").removesuffix(" |").partition(" | ")
            rows.add((peer, what, result))
    return rows


def differences(found: list[tuple[str, str, str]], page: str) -> list[str]:
    """Return how the page differs from what was found; of peers that did not run here nothing is said."""
    ran, here = {peer for peer, *_ in found}, set(found)
    there = {row for row in rows_of(page) if row[0] in ran}
    missing = [f"not in {PAGE.name}: {' | '.join(row)}" for row in sorted(here - there)]
    return missing + [f"no test found: {' | '.join(row)}" for row in sorted(there - here)]


def main(mode: str, file: str) -> int:
    found = [(peer, what, result) for peer, what, result in json.loads(Path(file).read_text())]
    page = PAGE.read_text()
    if mode == "--write":
        before, after = page[: page.index(BEGIN)], page[page.index(END) :]
        PAGE.write_text(f"{before}{BEGIN}\n\n{table(found)}\n{after}")
        return 0
    wrong = differences(found, page)
    sys.stderr.writelines(f"{line}\n" for line in wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
