# SPDX-License-Identifier: Apache-2.0
"""Builds the peers with Go, once per machine and per set of sources."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["PEERS", "PeerMissing", "binary", "build", "missing", "version"]

_SOURCES = Path(__file__).parent.parent / "peers"

# Each is a Go module of its own: SPIRE 1.13, the Collector 0.155 and telemetrygen 0.160 want different versions of
# gRPC, of OpenTelemetry and of each other's libraries, and one module has one version of each.
PEERS = {
    "gospiffe": ("./cmd/gospiffe",),
    "spire": ("tool",),
    "collector": (".",),
    "telemetrygen": ("tool",),
}
"""Folder of the Go module, and the packages in it to build."""


class PeerMissing(Exception):
    """This machine cannot have the peer."""


def missing() -> str:
    """Return why no peer can be built here, or nothing."""
    if shutil.which("go") is None:
        return "Go is not installed, and SPIRE, go-spiffe, the Collector and telemetrygen are built with it"
    return ""


@functools.cache
def build(peer: str) -> Path:
    """Return the folder with the peer's binaries, built now unless they stand there; one process builds at a time.

    Raises:
        PeerMissing: there is no Go.
        RuntimeError: the build failed; with the end of what Go said.
    """
    if reason := missing():
        raise PeerMissing(reason)
    folder = _cache() / f"{peer}-{_key(peer)}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".built").exists():
            _run_go(peer, folder)
            (folder / ".built").touch()
    return folder


def binary(peer: str, name: str) -> Path:
    """Return the path of one of the peer's programs."""
    return build(peer) / name


def version(peer: str, module: str) -> str:
    """Return the version of a module as the peer's go.mod has it, without the `v`."""
    for line in (_SOURCES / peer / "go.mod").read_text().splitlines():
        words = line.removeprefix("require").split()
        if len(words) >= 2 and words[0] == module:
            return words[1].removeprefix("v")
    raise LookupError(f"{module} is not in the go.mod of {peer}")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "otel-spiffe-peers"


def _key(peer: str) -> str:
    digest = hashlib.sha256(_go("version", cwd=_SOURCES).encode())
    root = _SOURCES / peer
    for path in sorted(root.rglob("*")):
        if path.is_file() and (path.suffix == ".go" or path.name in {"go.mod", "go.sum"}):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _go(*arguments: str, cwd: Path) -> str:
    return subprocess.run(["go", *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


def _run_go(peer: str, folder: Path) -> None:
    # -mod=readonly: what go.sum does not name is not built.
    command = ["go", "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", f"{folder}{os.sep}"]
    done = subprocess.run(
        [*command, *PEERS[peer]],
        cwd=_SOURCES / peer,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    (folder / "build.log").write_text(done.stdout)
    if done.returncode:
        raise RuntimeError(f"go build of {peer} ended with {done.returncode}:\n{done.stdout[-4000:]}")
