# SPDX-License-Identifier: Apache-2.0
"""Changes in directories, for as long as the directories are the ones that stand under their names."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from otel_spiffe.sources._read import TO_A_DIRECTORY

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    _Places = dict[Path, tuple[int, int]]

__all__ = ["Unwatchable", "changes"]

_STEP_MS: Final = 50  # how often the watcher looks whether it is to end, and how long it waits for further changes
_DEBOUNCE_MS: Final = 1000
_FULL: Final = (
    "each watcher takes one of the inotify instances of its user and an open file: raise the sysctl "
    "fs.inotify.max_user_instances, or the limit of open files, if they are used up"
)


class Unwatchable(Exception):
    """Changes will not be reported now.

    Attributes:
        missing: it is because none of the directories is there.
    """

    def __init__(self, reason: Exception) -> None:
        self.missing = isinstance(reason, FileNotFoundError)
        super().__init__(str(reason) if self.missing or isinstance(reason, PermissionError) else f"{reason}; {_FULL}")


def changes(
    watch: Callable[..., Iterable[object]], directories: tuple[Path, ...], *, stop: threading.Event, every: float
) -> Generator[None]:
    """Yield at each change, and when nothing changed for `every` seconds; end on `stop`, or as a directory is replaced.

    Raises:
        Unwatchable: the directories are not there, or the file system or the kernel does not report changes.
    """
    try:
        with _held(directories) as held:
            for _ in watch(
                *held,
                watch_filter=None,
                debounce=_DEBOUNCE_MS,
                step=_STEP_MS,
                stop_event=stop,
                rust_timeout=max(int(every * 1000), _STEP_MS),
                yield_on_timeout=True,
                raise_interrupt=False,
                recursive=False,
            ):
                yield
                if stop.is_set() or _places(directories) != held:
                    return  # a directory was replaced, or appeared: what is watched is the old one
    except (OSError, RuntimeError) as error:  # watchfiles' own error is a RuntimeError
        raise Unwatchable(error) from error


@contextlib.contextmanager
def _held(directories: tuple[Path, ...]) -> Generator[_Places]:
    """Keep open those of the directories that are there: the inode of one that is removed goes to no other one."""
    with contextlib.ExitStack() as stack:
        held: _Places = {}
        for path in directories:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                descriptor = os.open(path, TO_A_DIRECTORY)
                stack.callback(os.close, descriptor)
                held[path] = _place(os.fstat(descriptor))
        if not held:
            raise FileNotFoundError(f"none of {', '.join(map(str, directories))} is there")
        yield held


def _places(directories: tuple[Path, ...]) -> _Places:
    there: _Places = {}
    for path in directories:
        with contextlib.suppress(OSError):
            there[path] = _place(path.stat())
    return there


def _place(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
