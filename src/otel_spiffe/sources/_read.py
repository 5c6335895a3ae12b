# SPDX-License-Identifier: Apache-2.0
"""Files read as one set: of one version of their directory, and none of them while it was written.

Kubernetes changes a volume at one stroke, by turning the link ``..data`` to another directory: its target is
opened once and all files are read from there. Elsewhere a set is written file by file, so it is taken only
once nothing has changed for a while.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from otel_spiffe.sources._fault import BadUpdate, Fault

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

__all__ = ["SETTLED", "TO_A_DIRECTORY", "Content", "directory", "read_file", "resting"]

SETTLED: Final = 0.1
"""Seconds for which no file of a set may have changed; spiffe-helper writes its three within a millisecond."""
TO_A_DIRECTORY: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags that open a directory; on Linux also one that may be entered and not listed, as /etc/ssl/private."""
_KUBERNETES: Final = "..data"
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a named pipe must not block


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of one file.

    Attributes:
        path: for sentences.
        data: left out of the repr; it may be a key.
        changed: when the file changed last, in seconds since the epoch.
        others_read: everybody on this machine can read it.
        version: inode, size and times, to tell whether it changed while it was read.
    """

    path: Path
    data: bytes = field(repr=False)
    changed: float
    others_read: bool
    version: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Directory:
    """An open directory.

    Attributes:
        path: for sentences.
        descriptor: all files are opened below it.
        atomic: its files change together.
    """

    path: Path
    descriptor: int
    atomic: bool

    def has(self, name: str) -> bool:
        """Say whether there is a file, or a link, of that name.

        Raises:
            BadUpdate: the directory may not be entered, or its file system fails.
        """
        try:
            with _named(self.path, missing=False):
                os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def names(self) -> Sequence[str]:
        """Return what is in it.

        Raises:
            BadUpdate: it may not be listed, or its file system fails.
        """
        with _named(self.path):
            descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.descriptor)
            try:
                return os.listdir(descriptor)  # noqa: PTH208 -- by descriptor
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def directory(path: Path) -> Generator[Directory]:
    """Open a directory, or the one that its ``..data`` points to now.

    Raises:
        BadUpdate: it is not there or cannot be opened.
    """
    with _named(path):
        descriptor = os.open(path, TO_A_DIRECTORY)
    try:
        atomic = False
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _named(path / _KUBERNETES, missing=False):
            inside = os.open(_KUBERNETES, TO_A_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor, atomic = inside, True
        yield Directory(path, descriptor, atomic)
    finally:
        os.close(descriptor)


def read_file(where: Directory, name: str, *, max_bytes: int) -> Content:
    """Return a file's bytes.

    Raises:
        BadUpdate: it is not there, is no regular file, is too large or changes while it is read.
    """
    path = where.path / name
    with _named(path):
        descriptor = os.open(name, _FLAGS, dir_fd=where.descriptor)
    try:
        with _named(path):
            before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise BadUpdate(Fault.UNREADABLE_FILE, f"{path} is no regular file")
        with _named(path), os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
            after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        raise BadUpdate(Fault.LIMIT_EXCEEDED, f"{path} is larger than {max_bytes} bytes", fix="raise limits=")
    if _version(before) != _version(after) or len(data) != after.st_size:
        raise BadUpdate(Fault.INCONSISTENT_FILES, f"{path} changed while it was read")
    return Content(
        path=path,
        data=data,
        changed=max(after.st_mtime, after.st_ctime),
        others_read=bool(after.st_mode & stat.S_IROTH),
        version=_version(after),
    )


def resting(contents: Sequence[Content]) -> bool:
    """Say whether the files have not changed for `SETTLED` seconds, or claim to have changed in the future."""
    now = time.time()
    return not any(0 <= now - each.changed < SETTLED for each in contents)


def _version(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@contextlib.contextmanager
def _named(path: Path, *, missing: bool = True) -> Generator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if not missing:
            raise
        raise BadUpdate(
            Fault.MISSING_FILE, f"{path} does not exist", fix="see that whoever writes it runs and that it is mounted"
        ) from error
    except OSError as error:
        if not missing and isinstance(error, NotADirectoryError):
            raise
        raise BadUpdate(
            Fault.UNREADABLE_FILE, f"{path} cannot be read: {error.strerror}", fix="see its owner and mode"
        ) from error
