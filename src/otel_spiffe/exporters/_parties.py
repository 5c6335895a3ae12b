# SPDX-License-Identifier: Apache-2.0
"""Both ends of an exporter's connection: a source for ours, an authorizer for the peer's."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otel_spiffe import environment
from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.exporters._choice import choose_authorizer, choose_source, refuse_beside_source, take_keywords
from otel_spiffe.exporters._shared import Shared
from otel_spiffe.sources import FileSource, WorkloadApiSource

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from otel_spiffe.exporters._choice import Given
    from otel_spiffe.identity import Authorizer, Source

__all__ = ["Parties", "choose_parties", "refuse_stock_keywords", "say_unused"]

_log = logging.getLogger("otel_spiffe.exporters")

_shared_sources: Shared[Source] = Shared()


@dataclass(frozen=True, slots=True)
class Parties:
    """Who speaks and who may answer.

    Attributes:
        source: who we are.
        authorize: who the peer may be.
    """

    source: Source
    authorize: Authorizer


def choose_parties(keywords: dict[str, Any], leases: ExitStack) -> Parties:
    """Return what `keywords` and the environment ask for, and leave the stock class's keywords in `keywords`.

    A source that is not given is shared by all exporters of the same configuration; `leases` gives it back.

    Raises:
        InvalidConfiguration: who we are or who the peer may be is not said, or not clearly.
    """
    environment.refuse_green_threads("SPIFFE exporters")
    ours, settings = take_keywords(keywords), environment.settings()
    authorize = choose_authorizer(ours, settings)
    for variable in settings.unknown:
        _say_unknown(variable)
    if (source := ours.get("source")) is not None:
        refuse_beside_source(ours)
        return Parties(source, authorize)
    given = choose_source(ours, settings)
    key = frozenset((name, one.value) for name, one in given.items())
    return Parties(leases.enter_context(_shared_sources.lease(key, lambda: _open(given))).value, authorize)


def refuse_stock_keywords(keywords: Mapping[str, Any], refused: Mapping[str, str]) -> None:
    """Refuse keywords of the stock class that would make a connection without SPIFFE, and say what to do instead."""
    for name, instead in refused.items():
        if keywords.get(name) not in {None, False}:
            raise InvalidConfiguration(f"{name}=", "a SPIFFE exporter does not take it", fix=instead)


def say_unused(signal: environment.Signal) -> None:
    """Log, once each, which of the stock exporters' TLS variables are set for `signal` and have no effect."""
    for variable in environment.otlp_tls_variables(signal):
        _say_unused(variable)


def _open(given: Mapping[str, Given]) -> Source:
    values = {name: one.value for name, one in given.items()}
    if "spiffe_endpoint_socket" in values:
        return WorkloadApiSource.open(values["spiffe_endpoint_socket"], hint=values.get("hint"))
    directory = values.pop("svid_directory", None)
    return FileSource.open(directory, **values)


@functools.cache
def _say_unused(variable: str) -> None:
    _log.warning(
        "%s is set and has no effect on SPIFFE exporters: key and trust come from the source, "
        "and there is no plaintext",
        variable,
    )


@functools.cache
def _say_unknown(variable: str) -> None:
    _log.warning("%s is set and is no variable of otel-spiffe; it has no effect", variable)
