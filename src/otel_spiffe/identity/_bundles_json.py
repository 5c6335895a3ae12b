# SPDX-License-Identifier: Apache-2.0
"""Bundles from and to the SPIFFE JWKS bundle and the SPIFFE Bundle Map (Trust Domain and Bundle 4, 5)."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity._bundles import checked_bundle
from otel_spiffe.identity._ids import parse_trust_domain
from otel_spiffe.identity._jwk import authority_of, entry_of
from otel_spiffe.identity._parse import (
    MAX_CERTIFICATES,
    MAX_INPUT_BYTES,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from spiffe import TrustDomain

    from otel_spiffe.identity._material import X509Bundle

__all__ = ["bundle_from_jwks", "bundle_to_jwks", "bundles_from_map", "bundles_to_map"]

_MAX_SEQUENCE = 2**64 - 1  # Trust Domain and Bundle 4.1.1


def bundle_from_jwks(trust_domain: TrustDomain | str, data: bytes, *, max_bytes: int = MAX_INPUT_BYTES) -> X509Bundle:
    """Return the X.509 authorities of a SPIFFE bundle; ``"keys": []`` is the legal empty one.

    Entries for other uses, of unknown key types or without a certificate are passed over, as the standard
    asks (Trust Domain and Bundle 4.2, X509-SVID 6.2).

    Raises:
        InvalidIdentity: it is no SPIFFE bundle, or holds a certificate that is no authority.
    """
    domain = parse_trust_domain(str(trust_domain))
    what = f"bundle of {domain}"
    return _from_document(domain, _json_object(data, max_bytes, what=what), what=what)


def bundles_from_map(
    data: bytes, *, max_bytes: int = MAX_INPUT_BYTES, leave_out: Callable[[str, InvalidIdentity], object] | None = None
) -> dict[TrustDomain, X509Bundle]:
    """Return the bundles of a SPIFFE Bundle Map by trust domain; their refresh hints do not count there.

    Args:
        data: its JSON.
        max_bytes: of `data`.
        leave_out: called with the name of each entry that is no bundle of a trust domain, and why; the others are
            returned then. Without it, such an entry refuses the whole map.

    Raises:
        InvalidIdentity: it is no SPIFFE Bundle Map, or one of its bundles is none.
    """
    what = "bundle map"
    domains = _json_object(data, max_bytes, what=what).get("trust_domains")
    if not isinstance(domains, dict):
        raise InvalidIdentity(what, "it has no 'trust_domains' object (Trust Domain and Bundle 5.1)")
    entries = cast("dict[str, object]", domains)
    names = Counter(map(str.lower, entries))
    bundles: dict[TrustDomain, X509Bundle] = {}
    for name, document in entries.items():
        try:
            bundle = _from_map_entry(name, document, alone=names[name.lower()] == 1)
            bundles[bundle.trust_domain] = bundle
        except InvalidIdentity as error:
            if leave_out is None:
                raise
            leave_out(name, error)
    return bundles


def _from_map_entry(name: str, document: object, *, alone: bool) -> X509Bundle:
    domain = parse_trust_domain(name)
    if not alone:
        raise InvalidIdentity("bundle map", f"it holds {domain} twice (Trust Domain and Bundle 6.3)")
    if not isinstance(document, dict):
        raise InvalidIdentity(f"bundle of {domain}", "it is no JSON object")
    unhinted = cast("dict[str, Any]", document) | {"spiffe_refresh_hint": None}
    return _from_document(domain, unhinted, what=f"bundle of {domain}")


def bundle_to_jwks(bundle: X509Bundle) -> bytes:
    """Return a SPIFFE bundle with one entry for each authority (X509-SVID 6.1).

    Raises:
        InvalidIdentity: an authority's key has no form in it.
    """
    return _dumped(_document(bundle))


def bundles_to_map(bundles: Iterable[X509Bundle]) -> bytes:
    """Return a SPIFFE Bundle Map (Trust Domain and Bundle 5).

    Raises:
        InvalidIdentity: an authority's key has no form in it, or two bundles are of one trust domain.
    """
    documents: dict[str, object] = {}
    for bundle in bundles:
        name = bundle.trust_domain.name
        if name in documents:
            raise InvalidIdentity("bundle map", f"it would hold {name} twice (Trust Domain and Bundle 6.3)")
        documents[name] = _document(bundle)
    return _dumped({"trust_domains": documents})


def _from_document(domain: TrustDomain, document: dict[str, Any], *, what: str) -> X509Bundle:
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise InvalidIdentity(what, "it has no 'keys' array (Trust Domain and Bundle 4.1)")
    entries = cast("list[object]", keys)
    if len(entries) > MAX_CERTIFICATES:
        raise InvalidIdentity(what, f"there are more than {MAX_CERTIFICATES} keys")
    found = [authority_of(entry, what=f"{what}, key {number}") for number, entry in enumerate(entries, start=1)]
    hint = _whole_number(document, "spiffe_refresh_hint", what=what)
    return checked_bundle(
        domain,
        [authority for authority in found if authority is not None],
        sequence=_whole_number(document, "spiffe_sequence", what=what),
        refresh_hint=_duration(hint, what=what),
    )


def _document(bundle: X509Bundle) -> dict[str, object]:
    what = f"bundle of {bundle.trust_domain}"
    document: dict[str, object] = {"keys": [entry_of(authority, what=what) for authority in bundle.authorities]}
    if bundle.sequence is not None:
        document["spiffe_sequence"] = bundle.sequence
    if bundle.refresh_hint is not None:
        document["spiffe_refresh_hint"] = int(bundle.refresh_hint.total_seconds())
    return document


def _json_object(data: bytes, max_bytes: int, *, what: str) -> dict[str, Any]:
    if len(data) > max_bytes:
        raise InvalidIdentity(what, f"{len(data)} bytes are more than the {max_bytes} allowed")
    try:
        document: object = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidIdentity(what, f"it is no JSON that can be read: {error}") from error
    if not isinstance(document, dict):
        raise InvalidIdentity(what, "it is no JSON object")
    return cast("dict[str, Any]", document)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            msg = f"the name {name[:200]!r} stands twice in one object (Trust Domain and Bundle 6.3)"
            raise ValueError(msg)
        found[name] = value
    return found


def _refuse_constant(text: str) -> object:
    msg = f"{text} is no JSON value"
    raise ValueError(msg)


def _whole_number(document: dict[str, Any], name: str, *, what: str) -> int | None:
    value: object = document.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_SEQUENCE:
        raise InvalidIdentity(what, f"its {name} is no whole number from 0 to 2^64-1 (Trust Domain and Bundle 4.1)")
    return value


def _duration(seconds: int | None, *, what: str) -> timedelta | None:
    try:
        return timedelta(seconds=seconds) if seconds is not None else None
    except OverflowError as error:
        raise InvalidIdentity(what, "its spiffe_refresh_hint is out of all proportion") from error


def _dumped(document: dict[str, object]) -> bytes:
    return json.dumps(document, indent=1).encode()
