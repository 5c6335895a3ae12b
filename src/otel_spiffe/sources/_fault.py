# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a source, as stable words: the attribute `error.type` of its metrics."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from otel_spiffe.errors import OtelSpiffeError

__all__ = ["BadUpdate", "Fault", "Problem"]


class Fault(enum.StrEnum):
    """The kind of a failure; the value is the word in metrics and logs."""

    UNREACHABLE = "unreachable"
    SILENT = "silent"
    ENDED = "ended"
    NO_IDENTITY_ISSUED = "no_identity_issued"
    REFUSED = "refused"
    INVALID_UPDATE = "invalid_update"
    FEDERATED_BUNDLE = "federated_bundle"
    LIMIT_EXCEEDED = "limit_exceeded"
    EXPIRED_UPDATE = "expired_update"
    PICKER = "picker"
    MISSING_FILE = "missing_file"
    UNREADABLE_FILE = "unreadable_file"
    INCONSISTENT_FILES = "inconsistent_files"
    ISSUANCE = "issuance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One failure, as data.

    Attributes:
        fault: its kind.
        reason: a sentence without the source's name.
        fix: what to do about it, or empty.
    """

    fault: Fault
    reason: str
    fix: str = ""

    def __str__(self) -> str:
        return self.reason + (f"; {self.fix}" if self.fix else "")


class BadUpdate(OtelSpiffeError):
    """Material that a source received and does not take; what it held before stays."""

    def __init__(self, fault: Fault, reason: str, *, fix: str = "") -> None:
        self.problem = Problem(fault=fault, reason=reason, fix=fix)
        super().__init__(str(self.problem))
