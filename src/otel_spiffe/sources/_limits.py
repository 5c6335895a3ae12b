# SPDX-License-Identifier: Apache-2.0
"""How much a source takes from whoever feeds it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from otel_spiffe.errors import InvalidConfiguration

__all__ = ["DEFAULT_LIMITS", "Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds on one update; what is over a bound is reported and not taken.

    Attributes:
        svids: X509-SVIDs in one update.
        bundles: federated bundles in one update.
        bundle_bytes: of one bundle.
        message_bytes: of one update as a whole.
        file_bytes: of one file.
        hint_bytes: of one hint (Workload API 5.2.1 says 1024).
    """

    svids: int = 100
    bundles: int = 200
    bundle_bytes: int = 4 * 1024 * 1024
    message_bytes: int = 32 * 1024 * 1024
    file_bytes: int = 4 * 1024 * 1024
    hint_bytes: int = 1024

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) < 1:
                raise InvalidConfiguration(f"Limits({each.name}=...)", "it is less than 1, so nothing would be taken")


DEFAULT_LIMITS = Limits()
"""What a source takes where nothing else is said."""
