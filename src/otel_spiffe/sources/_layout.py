# SPDX-License-Identifier: Apache-2.0
"""Under which names X509-SVID, key and bundles stand in a directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_spiffe.errors import InvalidConfiguration, InvalidIdentity
from otel_spiffe.identity import parse_trust_domain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spiffe import TrustDomain

__all__ = ["CREDENTIAL_BUNDLE", "KUBERNETES_TLS", "LAYOUTS", "SPIFFE_ENABLE", "SPIFFE_HELPER", "Layout"]

_PLACE: Final = "{trust_domain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The names of one identity's files, within one directory.

    Attributes:
        svid: the X509-SVID, leaf first; None where there are bundles alone.
        key: its private key; None where the file `svid` holds it too.
        bundle: the authorities of the X509-SVID's own trust domain, or a SPIFFE Bundle Map of several.
        bundles: the name of one bundle for each trust domain, such as ``{trust_domain}.pem``.
    """

    svid: str | None = None
    key: str | None = None
    bundle: str | None = None
    bundles: str | None = None

    def __post_init__(self) -> None:
        if self.bundle is None and self.bundles is None:
            raise InvalidConfiguration("Layout", "it names no bundle, so no peer could be verified")
        if self.bundles is not None and self.bundles.count(_PLACE) != 1:
            raise InvalidConfiguration("Layout(bundles=...)", f"{self.bundles!r} does not hold {_PLACE} once")
        if self.key is not None and self.svid is None:
            raise InvalidConfiguration("Layout", "it names a key and no X509-SVID")

    @property
    def names(self) -> tuple[str, ...]:
        """The files that must be there."""
        return tuple(dict.fromkeys(each for each in (self.svid, self.key, self.bundle) if each is not None))

    def bundle_names(self, names: Iterable[str]) -> dict[TrustDomain, str]:
        """Return which of the directory's `names` are bundles, by trust domain."""
        if self.bundles is None:
            return {}
        before, after = self.bundles.split(_PLACE)
        found: dict[TrustDomain, str] = {}
        for name in sorted(names):
            fits = name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)
            if not fits or name in self.names or name.startswith("."):
                continue
            try:
                domain = parse_trust_domain(name[len(before) : len(name) - len(after)])
            except InvalidIdentity:
                continue  # some other file: what is not taken is not trusted
            found[domain] = name
        return found


SPIFFE_HELPER: Final = Layout(svid="svid.pem", key="svid_key.pem", bundle="svid_bundle.pem")
"""What spiffe-helper's documentation configures."""

SPIFFE_ENABLE: Final = Layout(svid="tls.crt", key="tls.key", bundle="ca.pem")
"""What Cofide's spiffe-enable writes."""

KUBERNETES_TLS: Final = Layout(svid="tls.crt", key="tls.key", bundle="ca.crt")
"""A Secret of type kubernetes.io/tls, as cert-manager fills it."""

CREDENTIAL_BUNDLE: Final = Layout(svid="credential-bundle.private-key.pem", bundles="{trust_domain}.pem")
"""One file with key and chain, one bundle for each trust domain (SPIFFE's draft of a file delivery)."""

LAYOUTS: Final = (SPIFFE_HELPER, SPIFFE_ENABLE, KUBERNETES_TLS, CREDENTIAL_BUNDLE)
"""Those that a directory is searched for."""
