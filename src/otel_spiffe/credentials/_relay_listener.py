# SPDX-License-Identifier: Apache-2.0
"""A listening Unix socket that this process alone is meant to reach, under a name that survives a fork."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Final

from otel_spiffe.credentials._relay_slots import Slots

__all__ = ["PrivateListener"]

_log = logging.getLogger("otel_spiffe.credentials")

PREFIX: Final = "otel-spiffe-relay-"
"""Directories of this name, followed by the process ID, are ours."""
BACKLOG: Final = 128
_MAX_PATH: Final = 100
"""Of a socket's path in bytes: 104 on macOS and 108 on Linux with the NUL."""
_SHORT_DIRECTORIES: Final = ("/tmp", "/dev/shm")  # noqa: S108 -- a directory of mode 0700 is made in there
_slots = Slots()


class PrivateListener:
    """A listening socket and its gRPC target.

    On Linux nothing stays in the file system: the socket's inode is held by an O_PATH descriptor ``N``, its name
    and directory are removed at once, and the target is ``unix:/proc/self/fd/N``. Each process resolves that name
    for itself, so in the child of a fork, once `reopen` has put a socket of its own under the same number, gRPC
    channels that were made in the parent reach the child's relay. Elsewhere the socket stays in a directory of
    mode 0700 until `close`.
    """

    def __init__(self) -> None:
        self._slot: int | None = None
        self._directory: str | None = None
        self.socket = self._open()
        self.pid = os.getpid()

    @property
    def target(self) -> str:
        """What a gRPC channel is to dial."""
        return f"unix:/proc/self/fd/{self._slot}" if self._slot is not None else f"unix:{self._directory}/s"

    @property
    def survives_fork(self) -> bool:
        """A channel made before a fork reaches this listener in the parent, and the child's own in the child."""
        return self._slot is not None

    def reopen(self) -> None:
        """In the child of a fork: let go of the parent's socket and listen under the same target, if that can be."""
        self.socket.close()
        if self._slot is None:
            return
        before, self._slot = self._slot, None
        self.socket = self._open()
        if self._slot is None:
            return
        os.dup2(self._slot, before, inheritable=False)
        os.close(self._slot)
        self._slot = before
        self.pid = os.getpid()

    def close(self) -> None:
        """Listen no more and leave nothing behind; may be called again."""
        self.socket.close()
        if self._slot is not None:
            slot, self._slot = self._slot, None
            os.close(slot)
        if self._directory is not None and self.pid == os.getpid():
            shutil.rmtree(self._directory, ignore_errors=True)

    def _open(self) -> socket.socket:
        directory = _make_directory()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)  # noqa: FBT003 -- the standard library's signature
            if not (sys.platform == "linux" and self._bind_unnamed(listener, directory)):
                listener.bind(f"{directory}/s")
                self._directory = directory
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return listener

    def _bind_unnamed(self, listener: socket.socket, directory: str) -> bool:
        """Bind, keep the inode, remove the name; False where /proc is not mounted."""
        inside = os.open(directory, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # By the descriptor, so that a long TMPDIR does not meet the limit on a socket's path.
            listener.bind(f"/proc/self/fd/{inside}/s")
            self._slot = _slots.move(os.open("s", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside))
            # connect() asks for the right to write, also after this process has given up root. Through the descriptor:
            # this is the inode that was opened, whoever stands under its name by now.
            Path(f"/proc/self/fd/{self._slot}").chmod(0o666)  # no name leads there, and `peer_pid` guards it
        except FileNotFoundError:
            return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink("s", dir_fd=inside)
            os.close(inside)
        Path(directory).rmdir()
        return True


def _make_directory() -> str:
    """Return a new directory of mode 0700, where a socket's path is short enough and one can be written."""
    error: OSError | None = None
    for parent in (None, *_SHORT_DIRECTORIES):
        try:
            directory = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent)
        except OSError as refused:
            error = refused
            continue
        if sys.platform == "linux" or len(os.fsencode(directory)) + len("/s") <= _MAX_PATH:
            return directory
        Path(directory).rmdir()
    raise error or OSError("every directory for temporary files has too long a name")
