# SPDX-License-Identifier: Apache-2.0
"""SPIFFE IDs and trust domains, parsed to the letter of SPIFFE-ID 2.

`spiffe.SpiffeId` accepts a trailing newline and any length, so nothing is handed to it unchecked.
"""

from __future__ import annotations

import re

from spiffe import SpiffeId, TrustDomain

from otel_spiffe.errors import InvalidIdentity

__all__ = ["MAX_ID_BYTES", "MAX_TRUST_DOMAIN_BYTES", "parse_spiffe_id", "parse_trust_domain"]

MAX_ID_BYTES = 2048
"""The longest SPIFFE ID (SPIFFE-ID 2.3)."""

MAX_TRUST_DOMAIN_BYTES = 255
"""The longest name of a trust domain (SPIFFE-ID 2.3)."""

_SCHEME = "spiffe://"
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")


def parse_trust_domain(name: str, /) -> TrustDomain:
    """Return the trust domain of a bare name such as ``prod.example``, in lowercase (SPIFFE-ID 2.1).

    Raises:
        InvalidIdentity: it is no trust domain name; a full SPIFFE ID is none either.
    """
    what = f"trust domain {_shown(name)}"
    _check_text(name, what=what)
    return TrustDomain(_trust_domain_name(name, what=what))


def parse_spiffe_id(uri: str, /) -> SpiffeId:
    """Return the SPIFFE ID of a URI, its scheme and trust domain in lowercase (SPIFFE-ID 2).

    Raises:
        InvalidIdentity: it is no SPIFFE ID.
    """
    what = f"SPIFFE ID {_shown(uri)}"
    _check_text(uri, what=what)
    if uri[: len(_SCHEME)].lower() != _SCHEME:
        raise InvalidIdentity(what, "it does not begin with spiffe:// (SPIFFE-ID 2)")
    if len(uri.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise InvalidIdentity(what, f"it is longer than {MAX_ID_BYTES} bytes (SPIFFE-ID 2.3)")
    name, slash, path = uri[len(_SCHEME) :].partition("/")
    name = _trust_domain_name(name, what=what)
    if slash:
        _check_path(path, what=what)
    return SpiffeId(f"{_SCHEME}{name}{slash}{path}")


def _check_text(text: object, *, what: str) -> None:
    # Values from JSON, YAML and callables reach this without a type checker between.
    if not isinstance(text, str):
        raise InvalidIdentity(what, f"it is {type(text).__name__}, and must be str")


def _trust_domain_name(name: str, *, what: str) -> str:
    if not name:
        raise InvalidIdentity(what, "its trust domain is empty (SPIFFE-ID 2.1)")
    if not name.isascii() or not _TRUST_DOMAIN.fullmatch(name.lower()):
        raise InvalidIdentity(
            what,
            "its trust domain holds something other than letters, digits, '.', '-' and '_': "
            "no user, port, query, fragment or percent-encoding (SPIFFE-ID 2.1)",
        )
    if len(name) > MAX_TRUST_DOMAIN_BYTES:
        raise InvalidIdentity(what, f"its trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes (SPIFFE-ID 2.3)")
    return name.lower()


def _check_path(path: str, *, what: str) -> None:
    for segment in path.split("/"):
        if not segment:
            raise InvalidIdentity(what, "its path has an empty segment or a trailing slash (SPIFFE-ID 2.2)")
        if segment in {".", ".."}:
            raise InvalidIdentity(what, "its path has a '.' or '..' segment (SPIFFE-ID 2.2)")
        if not _SEGMENT.fullmatch(segment):
            raise InvalidIdentity(
                what,
                "its path holds something other than letters, digits, '.', '-' and '_': "
                "no query, fragment or percent-encoding (SPIFFE-ID 2.2)",
            )


def _shown(text: object) -> str:
    limit = 200
    shown = repr(text[: limit + 1] if isinstance(text, str) else text)
    return shown if len(shown) <= limit else f"{shown[:limit]}..."
