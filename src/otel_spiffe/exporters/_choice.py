# SPDX-License-Identifier: Apache-2.0
"""Who we are and whom we trust, from keywords or the environment: plain data in, a source and an authorizer out.

A group that a keyword speaks of is taken from the keywords alone: the environment can never widen whom
`authorized_ids=` names. There are two such groups, where the identity comes from and who the peer may be.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypedDict, cast

from otel_spiffe import environment
from otel_spiffe.errors import InvalidConfiguration, InvalidIdentity
from otel_spiffe.identity import any_of, authorize_any, authorize_id_prefix, authorize_member_of, authorize_one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from otel_spiffe.identity import Authorizer, Source

__all__ = ["Given", "SpiffeKeywords", "choose_authorizer", "choose_source", "take_keywords"]


class SpiffeKeywords(TypedDict, total=False):
    """What a SPIFFE exporter takes beyond its stock class. None and absent mean the same.

    Attributes:
        source: who we are; the exporter does not close it. Without it the exporters of one configuration share
            a source that the last one closes.
        spiffe_endpoint_socket: where the Workload API listens, instead of `SPIFFE_ENDPOINT_SOCKET`.
        hint: which of the Workload API's X509-SVIDs to present.
        svid_directory: a directory of X509-SVID, key and bundle, instead of the Workload API.
        svid_file: a PEM file with the X509-SVID, instead of the Workload API.
        svid_key_file: a PEM file with its key, where `svid_file` does not hold it.
        bundle_file: a PEM file with the authorities of its trust domain.
        authorize: who the collector may be.
        authorized_ids: its SPIFFE ID, or several, as a list or comma separated.
        authorized_id_prefixes: SPIFFE IDs at or below which its own may be.
        authorized_trust_domains: trust domains of which any member may be the collector.
        authorize_any_peer: True lets every SPIFFE ID that verifies be the collector.
    """

    source: Source | None
    spiffe_endpoint_socket: str | None
    hint: str | None
    svid_directory: str | None
    svid_file: str | None
    svid_key_file: str | None
    bundle_file: str | None
    authorize: Authorizer | None
    authorized_ids: Sequence[str] | str | None
    authorized_id_prefixes: Sequence[str] | str | None
    authorized_trust_domains: Sequence[str] | str | None
    authorize_any_peer: bool | None


_FILES: Final = ("svid_directory", "svid_file", "svid_key_file", "bundle_file")
_PLACES: Final = ("spiffe_endpoint_socket", *_FILES)
_PEERS: Final = ("authorized_ids", "authorized_id_prefixes", "authorized_trust_domains", "authorize_any_peer")


@dataclass(frozen=True, slots=True)
class Given:
    """A value and where it was given, for errors that name the place.

    Attributes:
        where: the keyword, for example ``hint=``, or the environment variable.
        value: what was given.
    """

    where: str
    value: Any


def take_keywords(keywords: dict[str, Any]) -> SpiffeKeywords:
    """Return our keywords, and leave those of the stock class in `keywords`; None counts as not given."""
    ours = {name: keywords.pop(name) for name in SpiffeKeywords.__annotations__ if name in keywords}
    return {name: value for name, value in ours.items() if value is not None}  # type: ignore[return-value]


def choose_authorizer(keywords: SpiffeKeywords, settings: environment.Settings) -> Authorizer:
    """Return who the peer may be.

    Raises:
        InvalidConfiguration: nobody is named, or what is named contradicts itself or cannot be read.
    """
    given = _group(_PEERS, keywords, settings) if "authorize" not in keywords else _from_keywords(_PEERS, keywords)
    if "authorize" in keywords:
        _refuse_beside("authorize=", given, "say it all in the authorizer, for example any_of(...)")
        return keywords["authorize"]  # type: ignore[return-value]  # take_keywords left no None
    policies = [policy for name, one in given.items() if (policy := _policy(name, one)) is not None]
    if not policies:
        raise InvalidConfiguration(
            "authorize",
            "nobody is named as the peer, and there is no default" + _unknown(settings),
            fix=f"set {environment.OTEL_SPIFFE_AUTHORIZED_IDS} (or {environment.OTEL_SPIFFE_AUTHORIZED_ID_PREFIXES}, "
            f"{environment.OTEL_SPIFFE_AUTHORIZED_TRUST_DOMAINS}, or pass authorize= or authorized_ids=) "
            "to the collector's SPIFFE ID, for example spiffe://prod.example/collector",
        )
    if "authorize_any_peer" in given and len(policies) > 1:
        beside = {name: one for name, one in given.items() if name != "authorize_any_peer"}
        _refuse_beside(given["authorize_any_peer"].where, beside, "it would allow everybody: leave one of them out")
    return policies[0] if len(policies) == 1 else any_of(*policies)


def choose_source(keywords: SpiffeKeywords, settings: environment.Settings) -> dict[str, Given]:
    """Return where the identity comes from: the Workload API's socket and the hint, or files.

    Raises:
        InvalidConfiguration: no place is named, or two are.
    """
    given = _group(_PLACES, keywords, settings)
    hint = _group(("hint",), keywords, settings)
    if not given:
        raise InvalidConfiguration(
            "source",
            "there is no place to have an identity from" + _unknown(settings),
            fix=f"set {environment.SPIFFE_ENDPOINT_SOCKET} to the agent's socket, for example "
            f"unix:///run/spire/agent/public/api.sock (or {environment.OTEL_SPIFFE_SVID_DIRECTORY}, "
            f"{environment.OTEL_SPIFFE_SVID_FILE}, or pass source= or spiffe_endpoint_socket=)",
        )
    files = {name: one for name, one in given.items() if name in _FILES}
    if files and "spiffe_endpoint_socket" in given:
        if given["spiffe_endpoint_socket"].where != environment.SPIFFE_ENDPOINT_SOCKET:
            _refuse_beside(given["spiffe_endpoint_socket"].where, files, "use the Workload API or files, not both")
        # Injected into a whole pod for whoever wants it; the files were named for us.
        del given["spiffe_endpoint_socket"]
    if files and hint:
        _refuse_beside(hint["hint"].where, files, "only the Workload API has hints: leave one of them out")
    return {name: _string(one) for name, one in (given | hint).items()}


def refuse_beside_source(keywords: SpiffeKeywords) -> None:
    """Refuse keywords that would make another source than the one that `source=` is."""
    _refuse_beside("source=", _from_keywords((*_PLACES, "hint"), keywords), "leave one of them out")


def _group(names: Sequence[str], keywords: SpiffeKeywords, settings: environment.Settings) -> dict[str, Given]:
    return _from_keywords(names, keywords) or {
        name: Given(_variable(name), value) for name in names if (value := getattr(settings, name))
    }


def _from_keywords(names: Sequence[str], keywords: SpiffeKeywords) -> dict[str, Given]:
    values: Mapping[str, Any] = keywords
    return {name: Given(f"{name}=", values[name]) for name in names if values.get(name, False) is not False}


def _variable(name: str) -> str:
    return name.upper() if name == "spiffe_endpoint_socket" else f"OTEL_SPIFFE_{name.upper()}"


def _refuse_beside(where: str, others: Mapping[str, Given], fix: str) -> None:
    if others:
        names = ", ".join(one.where for one in others.values())
        raise InvalidConfiguration(where, f"it is given beside {names}", fix=fix)


_POLICIES: Final[Mapping[str, Callable[..., Authorizer]]] = {
    "authorized_ids": authorize_one_of,
    "authorized_id_prefixes": lambda *prefixes: _any_of_these([authorize_id_prefix(prefix) for prefix in prefixes]),
    "authorized_trust_domains": authorize_member_of,
}


def _any_of_these(policies: Sequence[Authorizer]) -> Authorizer:
    return policies[0] if len(policies) == 1 else any_of(*policies)


def _policy(name: str, given: Given) -> Authorizer | None:
    if name == "authorize_any_peer":
        if not isinstance(given.value, bool):
            raise InvalidConfiguration(given.where, f"{given.value!r} is neither true nor false")
        return authorize_any() if given.value else None
    try:
        return _POLICIES[name](*_strings(given))
    except InvalidIdentity as error:
        raise InvalidConfiguration(given.where, str(error)) from error


def _string(given: Given) -> Given:
    value: object = given.value
    text = os.fsdecode(cast("os.PathLike[str]", value)) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text.strip():
        raise InvalidConfiguration(given.where, f"{text!r} is no text")
    return Given(given.where, text.strip())


def _strings(given: Given) -> list[str]:
    if isinstance(given.value, str):
        values: object = [item for item in given.value.split(",") if item.strip()]
    else:
        values = given.value
    if not isinstance(values, list | tuple | set | frozenset):
        raise InvalidConfiguration(given.where, f"{values!r} is no list of texts")
    if not values:
        raise InvalidConfiguration(given.where, "it names nobody")
    return [_string(Given(given.where, value)).value for value in cast("Iterable[object]", values)]


def _unknown(settings: environment.Settings) -> str:
    return f" ({', '.join(settings.unknown)} is no variable of ours)" if settings.unknown else ""
