# SPDX-License-Identifier: Apache-2.0
"""How long to wait after the n-th failure in a row."""

from __future__ import annotations

import math
from dataclasses import dataclass

from otel_spiffe.errors import InvalidConfiguration

__all__ = ["NO_IDENTITY", "ORDINARY", "Backoff"]

_MAX_DOUBLINGS = 64  # 2.0 ** 1024 overflows; that ended the watcher of spiffe 0.3.2 after 85 minutes of outage


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits that double from `minimum` to `maximum`, each shortened at random by up to a half.

    Attributes:
        minimum: seconds; no wait is shorter.
        maximum: seconds; no wait is longer.
    """

    minimum: float
    maximum: float

    def __post_init__(self) -> None:
        if not 0 < self.minimum <= self.maximum < math.inf:
            raise InvalidConfiguration(
                "Backoff", f"minimum={self.minimum:g} and maximum={self.maximum:g} are not 0 < minimum <= maximum"
            )

    def delay(self, failures: int, *, dice: float) -> float:
        """Return the seconds to wait after `failures` failures in a row.

        Args:
            failures: from 1; any number, 10**6 too.
            dice: between 0 and 1, uniformly random.
        """
        doublings = min(max(failures, 1), _MAX_DOUBLINGS)
        ceiling = min(self.maximum, self.minimum * 2.0**doublings)
        return max(self.minimum, ceiling * (0.5 + 0.5 * dice))


ORDINARY = Backoff(minimum=0.1, maximum=30.0)
"""For an agent that cannot be reached."""

NO_IDENTITY = Backoff(minimum=1.0, maximum=10.0)
"""For an agent that answers and has no identity for us: slow from the start, as asking costs it an attestation,
and never very slow, as somebody is about to register the workload."""
