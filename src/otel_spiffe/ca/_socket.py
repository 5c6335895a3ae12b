# SPDX-License-Identifier: Apache-2.0
"""A Unix socket's name in the file system: appears at once, with its mode, and goes with its owner alone."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from otel_spiffe.errors import InvalidConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_SOCKET_PATH_BYTES", "SocketPath"]

# sockaddr_un.sun_path holds the path and a NUL: 108 bytes on Linux (unix(7)), 104 on macOS and the BSDs.
MAX_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103

_LONGEST_NAME = "/.12345678/s"  # of the socket in its directory, while it is bound: tempfile adds eight characters
_SHORT_DIRECTORY = "/tmp"  # noqa: S108 -- only for a directory that mkdtemp makes in it
_PREFIX = "otel-spiffe-"
_PROBE_SECONDS = 1.0


class SocketPath:
    """Where a server listens: a path of the caller's, or a name in a new directory that only we may enter."""

    def __init__(self, path: str | os.PathLike[str] | None, *, mode: int) -> None:
        self._own_directory = None if path is not None else _new_directory()
        self.path = Path(os.path.abspath(path)) if path is not None else self._directory() / "api.sock"  # noqa: PTH100 -- resolve() would follow symlinks
        self._mode = mode
        self._inode: tuple[int, int] | None = None

    def publish(self, bind: Callable[[str], object]) -> None:
        """Have `bind` bind a socket, then give it its mode and its name in one step.

        It is bound in a directory that only we may enter and renamed: there is no moment at which it stands at
        its path with the process's umask, and a path that is renamed over never vanishes.

        Raises:
            InvalidConfiguration: the path is too long, is taken, or its directory cannot be written.
        """
        self._check_free()
        try:
            staging = Path(tempfile.mkdtemp(prefix=".", dir=self.path.parent))
        except OSError as error:
            raise self._refused(f"its directory cannot be written: {error}") from error
        try:
            bound = staging / "s"
            self._check_length(bound)
            bind(str(bound))
            bound.chmod(self._mode)
            bound.rename(self.path)
            status = self.path.lstat()
            self._inode = status.st_dev, status.st_ino
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def unpublish(self) -> None:
        """Remove the name, if what stands there is still the socket that we published."""
        inode, self._inode = self._inode, None
        with contextlib.suppress(OSError):  # whatever became of its directory, the socket is not there
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == inode:
                self.path.unlink()

    def remove(self) -> None:
        """Remove the name, and the directory if it is ours."""
        self.unpublish()
        if self._own_directory is not None:
            shutil.rmtree(self._own_directory, ignore_errors=True)

    def _directory(self) -> Path:
        return self._own_directory if self._own_directory is not None else self.path.parent

    def _check_length(self, bound: Path) -> None:
        longest = max(len(os.fsencode(self.path)), len(os.fsencode(bound)))
        if longest > MAX_SOCKET_PATH_BYTES:
            raise self._refused(
                f"it takes {longest} bytes, and a Unix socket's path has at most {MAX_SOCKET_PATH_BYTES} (unix(7))",
                fix="choose a directory with a shorter name",
            )

    def _check_free(self) -> None:
        self._check_length(self.path)
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refused(str(error)) from error
        if not stat.S_ISSOCK(status.st_mode):
            raise self._refused("something that is no socket stands there", fix="choose another path")
        if (status.st_dev, status.st_ino) != self._inode and _answers(self.path):
            raise self._refused("a server listens there already", fix="end it, or choose another path")

    def _refused(self, reason: str, *, fix: str = "") -> InvalidConfiguration:
        return InvalidConfiguration(f"Unix socket {self.path}", reason, fix=fix)


def _new_directory() -> Path:
    """Return a new directory that only we may enter, in /tmp where TMPDIR is too long for a socket.

    Raises:
        InvalidConfiguration: there is nowhere to put one.
    """
    try:
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
        if len(os.fsencode(directory)) + len(_LONGEST_NAME) <= MAX_SOCKET_PATH_BYTES:
            return directory
        directory.rmdir()
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_SHORT_DIRECTORY))  # mode 0700, and ours, or it raises
    except OSError as error:
        raise InvalidConfiguration(
            "Unix socket", f"no directory can be made for it: {error}", fix="give a path, or set TMPDIR"
        ) from error


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)  # a full backlog is EAGAIN then, and a server
        return probe.connect_ex(str(path)) not in {errno.ECONNREFUSED, errno.ENOENT}
