# SPDX-License-Identifier: Apache-2.0
"""Which of several X509-SVIDs is presented."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.sources._fault import BadUpdate, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from otel_spiffe.identity import X509Svid

    Picker = Callable[[Sequence[X509Svid]], X509Svid | None]

__all__ = ["check_not_expired", "choose", "picker_for"]


def picker_for(picker: Picker | None, hint: str | None) -> Picker:
    """Return the picker that the two keywords ask for: the one given, the one by hint, or the first SVID.

    Raises:
        InvalidConfiguration: both are given.
    """
    if picker is not None and hint is not None:
        raise InvalidConfiguration(
            "picker, hint", "both are given, and each names an X509-SVID", fix="give one of them"
        )
    if hint is not None:
        return lambda svids: _by_hint(svids, hint)
    return picker if picker is not None else lambda svids: svids[0]  # Workload API 8: the first is the default


def choose(picker: Picker, svids: Sequence[X509Svid]) -> X509Svid:
    """Return the SVID that `picker` picks from `svids`, of which there is at least one.

    Raises:
        BadUpdate: it raises, picks none, or something that is not among them.
    """
    try:
        chosen = picker(svids)
    except BadUpdate:
        raise
    except BaseException as error:  # a picker is foreign code, and may exit or cancel
        raise BadUpdate(Fault.PICKER, f"the picker raised {type(error).__name__}: {error}") from error
    if not any(chosen is each for each in svids):
        what = "none" if chosen is None else f"{chosen!r}, which is not among them"
        offered = ", ".join(str(each.id) for each in svids)
        raise BadUpdate(Fault.PICKER, f"of the X509-SVIDs {offered} the picker picked {what}")
    return next(each for each in svids if each is chosen)


def check_not_expired(svid: X509Svid, now: datetime) -> None:
    """Return if `svid` may still be used at `now`.

    Raises:
        BadUpdate: it has expired.
    """
    if now > svid.expires_at:
        ago = int((now - svid.expires_at).total_seconds())
        raise BadUpdate(
            Fault.EXPIRED_UPDATE,
            f"the X509-SVID of {svid.id} that came had expired {ago} s before, at {svid.expires_at:%Y-%m-%dT%H:%M:%SZ}",
            fix=f"see that it is renewed and that this machine's clock is right: it says {now:%Y-%m-%dT%H:%M:%SZ}",
        )


def _by_hint(svids: Sequence[X509Svid], hint: str) -> X509Svid:
    for svid in svids:
        if svid.hint == hint:
            return svid
    hints = ", ".join(repr(each.hint) for each in svids)
    raise BadUpdate(
        Fault.PICKER, f"no X509-SVID has the hint {hint!r}; there are {hints}", fix="see the hint of the entry"
    )
