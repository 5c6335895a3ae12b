# SPDX-License-Identifier: Apache-2.0
"""The bytes of a set of files as an `Identity`, or the reason why the set is not taken: no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_spiffe.errors import InvalidIdentity, PeerUntrusted
from otel_spiffe.identity import (
    Identity,
    X509Bundle,
    X509Svid,
    bundle_from_der,
    bundle_from_jwks,
    bundle_from_pem,
    bundles_from_map,
    certificates_from_der,
    certificates_from_pem,
    private_key_from_der,
    private_key_from_pem,
    verify,
    x509_svid,
)
from otel_spiffe.sources._choose import check_not_expired
from otel_spiffe.sources._fault import BadUpdate, Fault, flaw_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from spiffe import TrustDomain

    from otel_spiffe.sources._fault import Problem
    from otel_spiffe.sources._read import Content

__all__ = ["FileSet", "identity_from_files"]

_HALF = "see that the set is written whole; a set that is half written is read again"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """What was read.

    Attributes:
        svid: the X509-SVID's chain, and its key where `key` is None; None for bundles alone.
        key: its private key.
        bundle: the bundle of our own trust domain, or a SPIFFE Bundle Map.
        bundles: bundles by trust domain.
        unread: why the bundles of further trust domains could not be read.
    """

    svid: Content | None = None
    key: Content | None = None
    bundle: Content | None = None
    bundles: Mapping[TrustDomain, Content] = field(default_factory=dict["TrustDomain", "Content"])
    unread: Mapping[TrustDomain, BadUpdate] = field(default_factory=dict["TrustDomain", BadUpdate])

    @property
    def contents(self) -> tuple[Content, ...]:
        """All of it."""
        single = (self.svid, self.key, self.bundle)
        return (*(each for each in single if each is not None), *self.bundles.values())


def identity_from_files(
    files: FileSet, *, trust_domain: TrustDomain | None, now: datetime
) -> tuple[Identity, Problem | None]:
    """Return what the files say, once they are checked, one by one and against each other, and what was left out.

    Args:
        files: the bytes.
        trust_domain: whose `files.bundle` is, where no X509-SVID says it.
        now: the time, aware.

    Raises:
        BadUpdate: one of them breaks its standard, they do not belong together, or the X509-SVID has expired.
    """
    svid = _svid(files) if files.svid is not None else None
    own = svid.id.trust_domain if svid is not None else trust_domain
    bundles, flaw = _bundles(files, own)
    if svid is None:
        return Identity(chosen=None, bundles=bundles), flaw
    if svid.id.trust_domain not in bundles:
        raise BadUpdate(
            Fault.INCONSISTENT_FILES,
            f"there is an X509-SVID of {svid.id} and no bundle of {svid.id.trust_domain}",
            fix="deliver the bundle of our own trust domain too",
        )
    identity = Identity(chosen=svid, svids=(svid,), bundles=bundles)
    check_not_expired(svid, now)
    try:
        # A new X509-SVID beside the bundle of yesterday's authority is a set half written.
        verify(svid.chain, identity, now=now)
    except PeerUntrusted as error:
        paths = ", ".join(str(each.path) for each in files.contents)
        raise BadUpdate(
            Fault.INCONSISTENT_FILES, f"{paths}: our own X509-SVID does not verify: {error.detail}", fix=_HALF
        ) from error
    return identity, flaw


def _svid(files: FileSet) -> X509Svid:
    chain, key = files.svid, files.key or files.svid
    if chain is None or key is None:
        raise BadUpdate(Fault.MISSING_FILE, "there is no X509-SVID")
    place = chain
    try:
        certificates = certificates_from_pem(chain.data) if _is_pem(chain.data) else certificates_from_der(chain.data)
        place = key
        private = private_key_from_pem(key.data) if _is_pem(key.data) else private_key_from_der(key.data)
    except InvalidIdentity as error:
        raise BadUpdate(Fault.INVALID_UPDATE, f"{place.path}: {error}", fix=_HALF) from error
    try:
        return x509_svid(certificates, private)
    except InvalidIdentity as error:
        both = f"{chain.path} with {key.path}" if key is not chain else f"{chain.path}"
        raise BadUpdate(Fault.INCONSISTENT_FILES, f"{both}: {error}") from error


def _bundles(files: FileSet, own: TrustDomain | None) -> tuple[dict[TrustDomain, X509Bundle], Problem | None]:
    flaws: list[str] = []
    bundles = dict(_bundle_file(files.bundle, own, flaws)) if files.bundle is not None else {}
    for domain, content in files.bundles.items():
        try:
            bundles[domain] = _bundle_of(domain, content, other=bundles.pop(domain, None))
        except BadUpdate as bad:
            if domain == own:
                raise
            flaws.append(bad.problem.reason)
    for domain, why in files.unread.items():
        if domain == own:
            raise why
        flaws.append(why.problem.reason)
    return bundles, flaw_of(flaws)


def _bundle_of(domain: TrustDomain, content: Content, *, other: X509Bundle | None) -> X509Bundle:
    if other is not None:
        raise BadUpdate(Fault.INVALID_UPDATE, f"{content.path}: there is another bundle of {domain}")
    flaws: list[str] = []
    found = _bundle_file(content, domain, flaws)
    if set(found) != {domain} or flaws:
        raise BadUpdate(Fault.INVALID_UPDATE, f"{content.path} holds bundles of other trust domains than {domain}")
    return found[domain]


def _bundle_file(content: Content, own: TrustDomain | None, flaws: list[str]) -> Mapping[TrustDomain, X509Bundle]:
    data = content.data
    try:
        if data.lstrip().startswith(b"{") and b'"trust_domains"' in data:
            return _bundle_map(content, own, flaws)
        if own is None:
            raise BadUpdate(Fault.INVALID_UPDATE, f"{content.path}: nothing says of which trust domain it is")
        if not data.strip():  # legal in other encodings of it, here the sign of a file half written
            raise BadUpdate(Fault.INCONSISTENT_FILES, f"{content.path} is empty", fix=_HALF)
        if data.lstrip().startswith(b"{"):
            return {own: bundle_from_jwks(own, data)}
        return {own: bundle_from_pem(own, data) if _is_pem(data) else bundle_from_der(own, data)}
    except InvalidIdentity as error:
        raise BadUpdate(Fault.INVALID_UPDATE, f"{content.path}: {error}", fix=_HALF) from error


def _bundle_map(content: Content, own: TrustDomain | None, flaws: list[str]) -> Mapping[TrustDomain, X509Bundle]:
    broken: dict[str, InvalidIdentity] = {}
    bundles = bundles_from_map(content.data, leave_out=broken.__setitem__)
    for name, error in broken.items():
        if own is not None and name.lower() == own.name:
            raise error
        flaws.append(f"{content.path}: {error}")
    return bundles


def _is_pem(data: bytes) -> bool:
    return b"-----BEGIN" in data or not data
