# SPDX-License-Identifier: Apache-2.0
"""A gRPC channel and its callables, made anew in the child of a fork.

A channel of grpcio 1.85.1 that a child inherits may hold a connection whose descriptor grpcio has closed: the first
call ends with UNAVAILABLE, "Stream removed (sendmsg: Wrong file descriptor generation)". A stock channel of a busy
parent does so at nearly every fork; `tests/credentials/test_channel_forks.py` has the canary.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ManyResponses", "OneResponse", "PerProcess", "forks"]

_T = TypeVar("_T")


class _Forks:
    """How many forks lie between the process that imported this and the one that asks."""

    def __init__(self) -> None:
        self.count = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._one_more)

    def _one_more(self) -> None:
        self.count += 1


_forks = _Forks()


def forks() -> int:
    """Return how many forks lie between the first process and this one; 0 in the first."""
    return _forks.count


class PerProcess(Generic[_T]):
    """What `make` returns, and what it returns anew in each child of a fork that asks; without a lock."""

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._made = {forks(): make()}

    def __call__(self) -> _T:
        """Return this process's own."""
        made, count = self._made, forks()
        if count not in made:
            # What was the parent's goes. Of two threads the first to be done is right for both.
            made = self._made = {count: made.setdefault(count, self._make())}
        return made[count]


class ManyResponses(grpc.UnaryStreamMultiCallable, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """Calls a method that answers with a stream."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._own = PerProcess(make)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401 -- as gRPC's own
        """Call the method."""
        return self._own()(*arguments, **keywords)


class OneResponse(grpc.UnaryUnaryMultiCallable, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """Calls a method that answers once."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._own = PerProcess(make)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Call the method and return its answer."""
        return self._own()(*arguments, **keywords)

    def with_call(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Call the method and return its answer and the call."""
        return self._own().with_call(*arguments, **keywords)

    def future(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Begin to call the method."""
        return self._own().future(*arguments, **keywords)
