# SPDX-License-Identifier: Apache-2.0
"""Check that the wheel and the sdist in a folder hold what they should, and nothing that they should not."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

LIMIT_BYTES = 1_000_000  # of each; more means that something slipped in

WHEEL = ("otel_spiffe/__init__.py", "otel_spiffe/py.typed", "otel_spiffe/testing/plugin.py")
ENTRY_POINTS = (
    "[console_scripts]",
    "otel-spiffe = otel_spiffe.cli:main",
    "[pytest11]",
    "[opentelemetry_traces_exporter]",
    "[opentelemetry_metrics_exporter]",
    "[opentelemetry_logs_exporter]",
)
SDIST = ("src/otel_spiffe/py.typed", "tests/test_door.py", "noxfile.py", "LICENSE", "README.md", "CHANGELOG.md")
FOREIGN = (".pem", ".key", ".pyc", ".db", ".sock", ".log")


def check_wheel(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        entry_points = wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    problems = [f"{name} is missing" for name in WHEEL if name not in names]
    problems += [f"entry point {line} is missing" for line in ENTRY_POINTS if line not in entry_points]
    problems += [f"{n} is outside the package" for n in names if not n.startswith(("otel_spiffe/", "otel_spiffe-"))]
    if not any(name.endswith("licenses/LICENSE") for name in names):
        problems.append("LICENSE is missing")
    return problems + foreign(names)


def check_sdist(path: Path) -> list[str]:
    with tarfile.open(path) as sdist:
        names = [name.partition("/")[2] for name in sdist.getnames()]
    return [f"{name} is missing" for name in SDIST if name not in names] + foreign(names)


def foreign(names: list[str]) -> list[str]:
    return [f"{name} does not belong here" for name in names if name.endswith(FOREIGN)]


def main(folder: Path) -> int:
    wheels, sdists = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    problems = [] if len(wheels) == len(sdists) == 1 else [f"{folder} holds {len(wheels)} wheels, {len(sdists)} sdists"]
    for path in [*wheels, *sdists]:
        problems += check_wheel(path) if path.suffix == ".whl" else check_sdist(path)
        if path.stat().st_size > LIMIT_BYTES:
            problems.append(f"{path.name} has {path.stat().st_size} bytes, more than {LIMIT_BYTES}")
    print("\n".join(problems) or f"{', '.join(path.name for path in [*wheels, *sdists])}: all there")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
