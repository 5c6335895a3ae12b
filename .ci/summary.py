# SPDX-License-Identifier: Apache-2.0
"""Sum up what the pytest runs of a nox log said, in two lines: the peers that took part, and pytest's own words."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

ANSI = re.compile(r"\x1b\[[0-9;]*m")
PYTEST = re.compile(r"^=+ (.*\d+ (?:passed|failed|skipped|errors?).*) in ([\d.]+)s.* =+$", re.MULTILINE)
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed|deselected)")
PEERS = re.compile(r"^.*peers: (.*)$", re.MULTILINE)
ORDER = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "error")


def main(log: Path, status: int) -> None:
    text = ANSI.sub("", log.read_text(encoding="utf-8", errors="replace"))
    counts: Counter[str] = Counter()
    seconds = 0.0
    runs = PYTEST.findall(text)
    for said, took in runs:
        seconds += float(took)
        for number, word in COUNT.findall(said):
            counts["error" if word == "errors" else word] += int(number)
    if status and not counts["failed"] and not counts["error"]:
        counts["failed"] = 1  # a session that is not pytest failed: never end in words that sound green
    peers = sorted({peer.strip() for line in PEERS.findall(text) for peer in line.split(",")})
    print(f"peers that ran: {', '.join(peers) or 'none'}")
    said = ", ".join(f"{counts[word]} {word}" for word in ORDER if counts[word])
    print(f"==== {said or 'no tests ran'} in {seconds:.2f}s ==== ({len(runs)} pytest runs, nox exit {status})")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
