# SPDX-License-Identifier: Apache-2.0
"""What all sources have in common: they answer from their cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from otel_spiffe.sources._fork import watch_forks

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from otel_spiffe.identity import Health, Identity
    from otel_spiffe.sources._cell import Cell

__all__ = ["CellSource"]


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
