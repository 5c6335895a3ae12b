# SPDX-License-Identifier: Apache-2.0
"""The threads of a Workload API server: one for each open stream, and one for those that get none."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ThreadPerStream", "is_spare"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Spare(threading.Thread):
    """Runs, one after another, the calls for which no thread could be started, so that they can be refused.

    An exception out of `submit` would end gRPC's own thread, and with it the server; a future that has failed would
    leave the call without an answer.
    """

    def __init__(self) -> None:
        super().__init__(name="otel-spiffe-workload-api-spare", daemon=True)
        self.calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def run(self) -> None:
        while (call := self.calls.get()) is not None:
            call()


def is_spare() -> bool:
    """Whether this call has no thread of its own: others wait for it to end."""
    return isinstance(threading.current_thread(), _Spare)


class ThreadPerStream(ThreadPoolExecutor):
    """A daemon thread for each call, joined by `shutdown`.

    A stream takes a thread for as long as it is open. `ThreadPoolExecutor`'s own are joined when the interpreter
    ends: a program that forgot to close its server would never end.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._running: set[threading.Thread] = set()
        self._spare = _Spare()
        self._spare.start()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Start `fn` on a thread of its own, or on the spare one if the machine has no more."""
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 -- the outermost frame of a thread
                future.set_exception(error)

        thread = threading.Thread(target=run, name="otel-spiffe-workload-api-stream", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # "can't start new thread"
            self._spare.calls.put(run)
        else:
            # gRPC submits from one thread. Threads do not take themselves out: `shutdown` would miss the last moment.
            self._running = {each for each in self._running if each.is_alive()} | {thread}
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 -- the standard library's signature
        """Join the threads."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._spare.calls.put(None)
        for thread in (*self._running, self._spare) if wait else ():
            thread.join()
