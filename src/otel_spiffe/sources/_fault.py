# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a source, as stable words: the attribute `error.type` of its metrics."""

from __future__ import annotations

import contextlib
import enum
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_spiffe.errors import OtelSpiffeError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

__all__ = ["BadUpdate", "Fault", "Problem", "flaw_of", "nothing_unexpected"]

_log = logging.getLogger("otel_spiffe.sources")


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
    EXPIRED = "expired"
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


@contextlib.contextmanager
def nothing_unexpected() -> Generator[None]:
    """Make a `BadUpdate` of whatever else is raised inside, so that the health tells of a bug.

    Raises:
        BadUpdate: as it was raised inside, or in place of anything else.
    """
    try:
        yield
    except (BadUpdate, KeyboardInterrupt):
        raise
    except BaseException as error:  # a panic of pyca's Rust side is no Exception
        _log.debug("the update that could not be taken", exc_info=error)
        raise BadUpdate(
            Fault.INVALID_UPDATE,
            f"it could not be taken, which is a bug: {type(error).__name__}: {error}",
            fix="report it with the traceback in the log at level DEBUG",
        ) from error


def flaw_of(flaws: Sequence[str]) -> Problem | None:
    """Return what to report of the federated bundles that an update was taken without, or None for no flaws.

    Another domain's bundle is another domain's word, which must not be able to stop our own renewal: a broken one
    costs only itself.
    """
    if not flaws:
        return None
    more = f" (and {len(flaws) - 1} more)" if len(flaws) > 1 else ""
    return Problem(
        fault=Fault.FEDERATED_BUNDLE,
        reason=f"{flaws[0]}{more}; peers of that trust domain are refused",
        fix="see the bundle that its federation publishes",
    )
