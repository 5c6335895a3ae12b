# SPDX-License-Identifier: Apache-2.0
"""What sources have in common: all answer from their cell, and most have a thread that fills it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from otel_spiffe.sources._cell import Cell
from otel_spiffe.sources._fork import watch_forks
from otel_spiffe.sources._worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider

    from otel_spiffe.identity import Health, Identity

__all__ = ["CellSource", "WorkerSource"]


class CellSource:
    """A `Source` that reads its cell; what fills the cell is the subclass's."""

    def __init__(self, cell: Cell, *, uses_grpc: bool = False) -> None:
        self._cell = cell
        watch_forks(self, uses_grpc=uses_grpc)

    def identity(self) -> Identity:
        """Return the current identity at once, without waiting for one.

        Raises:
            SourceUnavailable: none has come yet, it was withdrawn, or the source is closed.
            IdentityExpired: the last one has expired.
        """
        return self._cell.identity()

    def wait(self, timeout: float | None = None) -> Identity:
        """Return the current identity, once there is one.

        Args:
            timeout: seconds to wait at the most; None waits without end.

        Raises:
            SourceUnavailable: none came in time, or none ever will (closed, or refused for good).
            IdentityExpired: as `identity`, when the time is over.
        """
        return self._cell.wait(timeout)

    def subscribe(self, callback: Callable[[Identity], object]) -> Callable[[], None]:
        """Have each new identity given to `callback`, beginning with the current one if there is one.

        Callbacks run on one thread of the source, one after another; a slow one misses intermediate
        generations and delays nobody's handshakes; one that raises is logged.

        Returns:
            A function that ends the subscription; a call that has begun may still be under way when it returns.
        """
        return self._cell.subscribe(callback)

    def health(self) -> Health:
        """Return how the source is; never raises."""
        return self._cell.health()

    def close(self) -> None:
        """End the source and its threads; may be called again, and from a subscriber."""
        self._cell.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def ask_before_fork(self) -> None:
        """Begin to reach a state in which a fork does no harm."""

    def before_fork(self, until: float) -> None:
        """Reach a state in which a fork does no harm, by that reading of `time.monotonic`."""

    def after_fork_in_parent(self) -> None:
        """Go on after a fork."""

    def after_fork_in_child(self) -> None:
        """Have locks and threads of this process."""
        self._cell.after_fork_in_child()


class WorkerSource(CellSource):
    """A source with a thread that calls `_turn` again and again."""

    def __init__(
        self,
        name: str,
        *,
        clock: Callable[[], datetime],
        meter_provider: MeterProvider | None,
        uses_grpc: bool = False,
    ) -> None:
        self._worker = Worker(f"otel-spiffe {name}", self._turn, self._interrupt)
        cell = Cell(name, clock=clock, meter_provider=meter_provider, alive=lambda: self._worker.alive)
        super().__init__(cell, uses_grpc=uses_grpc)

    def _turn(self) -> float | None:
        """Fill the cell; return the seconds until the next turn, or None for never."""
        raise NotImplementedError

    def _interrupt(self) -> None:
        """Have a turn that is under way end soon; called from other threads."""

    def close(self) -> None:
        """End the source and its threads; may be called again, and from a subscriber."""
        super().close()
        self._worker.stop()

    def ask_before_fork(self) -> None:
        """Have the turn under way end: its stream, its watcher, and no other begin."""
        self._worker.ask_to_park()

    def before_fork(self, until: float) -> None:
        """Wait for that, until that reading of `time.monotonic`: a fork would leave its threads behind."""
        self._worker.park(until)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._worker.unpark()

    def after_fork_in_child(self) -> None:
        """Go on with a thread of this process; the identity held at the fork stays meanwhile."""
        super().after_fork_in_child()
        self._worker.restart_after_fork()
