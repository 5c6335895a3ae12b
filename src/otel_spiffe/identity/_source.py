# SPDX-License-Identifier: Apache-2.0
"""What every consumer asks of a source. It stands here, with the data, so that no arrow points at I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from types import TracebackType

    from spiffe import SpiffeId

    from otel_spiffe.identity._material import Identity

__all__ = ["Health", "Source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a source is: what a readiness probe, a metric and the doctor ask.

    Attributes:
        ready: there is an identity, it is valid already and has not expired, and its keeper is alive.
        source: what the source is, for example ``Workload API at unix:/run/spire/agent.sock``.
        id: the presented SPIFFE ID, or None.
        generation: the identity's generation; 0 before the first.
        expires_at: when the X509-SVID ends, aware, or None.
        bundles_expire_at: when the first authority of any bundle ends, aware, or None.
        updated_at: when the last update was taken, aware, or None.
        failures: failed tries since the last success.
        problem: why the newest try failed, or empty.
    """

    ready: bool
    source: str
    id: SpiffeId | None = None
    generation: int = 0
    expires_at: datetime | None = None
    bundles_expire_at: datetime | None = None
    updated_at: datetime | None = None
    failures: int = 0
    problem: str = ""


@runtime_checkable
class Source(Protocol):
    """A keeper of the current `Identity`; safe to use from any thread, and after a fork."""

    def identity(self) -> Identity:
        """Return the current identity at once, without waiting for one.

        Raises:
            SourceUnavailable: none has come yet, it was withdrawn, or the source is closed.
            IdentityExpired: the last one has expired.
        """
        ...

    def wait(self, timeout: float | None = None) -> Identity:
        """Return the current identity, once there is one.

        Args:
            timeout: seconds to wait at the most; None waits without end.

        Raises:
            SourceUnavailable: none came in time, or none ever will (closed, or refused for good).
            IdentityExpired: as `identity`, when the time is over.
        """
        ...

    def subscribe(self, callback: Callable[[Identity], object]) -> Callable[[], None]:
        """Have each new identity given to `callback`, beginning with the current one if there is one.

        Callbacks run on a thread of the source, one after another; a slow one misses intermediate
        generations and delays nobody's handshakes.

        Returns:
            A function that ends the subscription.
        """
        ...

    def health(self) -> Health:
        """Return how the source is; never raises."""
        ...

    def close(self) -> None:
        """End the source and its threads; may be called again."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
