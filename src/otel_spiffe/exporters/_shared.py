# SPDX-License-Identifier: Apache-2.0
"""One source per configuration and one relay per peer, however many exporters use them."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import TracebackType

__all__ = ["Lease", "Shared"]


class _Closable(Protocol):
    def close(self) -> None: ...


_T = TypeVar("_T", bound=_Closable)


class Lease(Generic[_T]):
    """A share in a value; the value is closed when its last lease is."""

    def __init__(self, value: _T, end: Callable[[], None]) -> None:
        self.value = value
        self._end = end
        self._closed = False

    def close(self) -> None:
        """Give the share back; may be called again."""
        closed, self._closed = self._closed, True
        if not closed:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Shared(Generic[_T]):
    """Values that are open, by key, each with the number of its leases."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Hashable, tuple[_T, int]] = {}
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def lease(self, key: Hashable, open_value: Callable[[], _T]) -> Lease[_T]:
        """Return a share in the value of `key`, which `open_value` makes if nobody has one."""
        with self._lock:
            value, leases = self._open[key] if key in self._open else (open_value(), 0)
            self._open[key] = (value, leases + 1)
        return Lease(value, lambda: self._give_back(key))

    def __len__(self) -> int:
        return len(self._open)

    def _give_back(self, key: Hashable) -> None:
        with self._lock:
            value, leases = self._open.pop(key)
            if leases > 1:
                self._open[key] = (value, leases - 1)
                return
        value.close()  # it joins threads; nobody who opens another one has to wait for that

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # a thread that does not exist in the child may have held it
