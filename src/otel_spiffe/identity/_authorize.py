# SPDX-License-Identifier: Apache-2.0
"""Authorizers: which verified SPIFFE IDs may be the peer. They raise, they never answer with a bool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from otel_spiffe.errors import InvalidConfiguration, PeerNotAuthorized
from otel_spiffe.identity._ids import parse_spiffe_id, parse_trust_domain

if TYPE_CHECKING:
    from spiffe import SpiffeId, TrustDomain

__all__ = [
    "Authorizer",
    "all_of",
    "any_of",
    "authorize",
    "authorize_any",
    "authorize_id",
    "authorize_id_prefix",
    "authorize_member_of",
    "authorize_one_of",
    "not_",
]


_T = TypeVar("_T")


class Authorizer(Protocol):
    """Any callable that takes the peer's verified SPIFFE ID, returns None to allow and raises to refuse."""

    def __call__(self, peer: SpiffeId, /) -> None:
        """Return None, or raise `PeerNotAuthorized`."""
        ...


def authorize(policy: Authorizer, peer: SpiffeId, *, local: SpiffeId | None = None) -> None:
    """Ask `policy` about `peer` and fail closed: only a plain return of None allows.

    Raises:
        PeerNotAuthorized: always with `local` in it, whatever the policy raised.
    """
    try:
        _ask(policy, peer)
    except PeerNotAuthorized as refusal:
        raise PeerNotAuthorized(refusal.peer, refusal.policy, detail=refusal.detail, local=local) from refusal
    except Exception as error:  # a policy is foreign code: whatever it raises is a refusal
        detail = f"it raised {type(error).__name__}: {error}"
        raise PeerNotAuthorized(peer, repr(policy), detail=detail, local=local) from error


def _ask(policy: Authorizer, peer: SpiffeId) -> None:
    # A policy that returns True or a match object is a predicate taken for an authorizer. It would allow
    # exactly those that it means to refuse, so it refuses everybody, and no combinator may turn that round.
    answer: object = policy(peer)  # type: ignore[func-returns-value]  # foreign code may lie
    if answer is not None:
        msg = f"{policy!r} returned {type(answer).__name__}; an authorizer returns None or raises"
        raise TypeError(msg)


@dataclass(frozen=True, slots=True, repr=False)
class _Any:
    def __call__(self, peer: SpiffeId, /) -> None:
        pass

    def __repr__(self) -> str:
        return "any()"


@dataclass(frozen=True, slots=True, repr=False)
class _OneOf:
    ids: tuple[SpiffeId, ...]

    def __call__(self, peer: SpiffeId, /) -> None:
        if peer not in self.ids:
            raise PeerNotAuthorized(peer, repr(self))

    def __repr__(self) -> str:
        return f"one_of({', '.join(map(str, self.ids))})"


@dataclass(frozen=True, slots=True, repr=False)
class _MemberOf:
    trust_domains: tuple[TrustDomain, ...]

    def __call__(self, peer: SpiffeId, /) -> None:
        if peer.trust_domain not in self.trust_domains:
            raise PeerNotAuthorized(peer, repr(self))

    def __repr__(self) -> str:
        return f"member_of({', '.join(map(str, self.trust_domains))})"


@dataclass(frozen=True, slots=True, repr=False)
class _IdPrefix:
    prefix: SpiffeId

    def __call__(self, peer: SpiffeId, /) -> None:
        within = peer == self.prefix or str(peer).startswith(f"{self.prefix}/")
        if not within:
            raise PeerNotAuthorized(peer, repr(self))

    def __repr__(self) -> str:
        return f"id_prefix({self.prefix})"


@dataclass(frozen=True, slots=True, repr=False)
class _AnyOf:
    policies: tuple[Authorizer, ...]

    def __call__(self, peer: SpiffeId, /) -> None:
        for policy in self.policies:
            try:
                return _ask(policy, peer)
            except PeerNotAuthorized:
                continue
        raise PeerNotAuthorized(peer, repr(self))

    def __repr__(self) -> str:
        return f"any_of({', '.join(map(repr, self.policies))})"


@dataclass(frozen=True, slots=True, repr=False)
class _AllOf:
    policies: tuple[Authorizer, ...]

    def __call__(self, peer: SpiffeId, /) -> None:
        for policy in self.policies:
            _ask(policy, peer)

    def __repr__(self) -> str:
        return f"all_of({', '.join(map(repr, self.policies))})"


@dataclass(frozen=True, slots=True, repr=False)
class _Not:
    policy: Authorizer

    def __call__(self, peer: SpiffeId, /) -> None:
        # Only the policy's own refusal proves that the peer is outside it; any other error passes through.
        try:
            _ask(self.policy, peer)
        except PeerNotAuthorized:
            return
        raise PeerNotAuthorized(peer, repr(self))

    def __repr__(self) -> str:
        return f"not_({self.policy!r})"


def _nonempty(name: str, values: tuple[_T, ...]) -> tuple[_T, ...]:
    if not values:
        raise InvalidConfiguration(f"{name}()", "it names nobody", fix="name at least one, or leave the connection out")
    return values


def authorize_any() -> Authorizer:
    """Allow every peer whose X509-SVID verifies, those of federated trust domains included."""
    return _Any()


def authorize_id(id: SpiffeId | str, /) -> Authorizer:  # noqa: A002 -- the standard's word
    """Allow one SPIFFE ID."""
    return authorize_one_of(id)


def authorize_one_of(*ids: SpiffeId | str) -> Authorizer:
    """Allow the SPIFFE IDs named, and no other.

    Raises:
        InvalidConfiguration: none is named.
        InvalidIdentity: one of them is no SPIFFE ID.
    """
    return _OneOf(_nonempty("authorize_one_of", tuple(parse_spiffe_id(str(each)) for each in ids)))


def authorize_member_of(*trust_domains: TrustDomain | str) -> Authorizer:
    """Allow every SPIFFE ID of the trust domains named, and of no other.

    Raises:
        InvalidConfiguration: none is named.
        InvalidIdentity: one of them is no trust domain.
    """
    return _MemberOf(_nonempty("authorize_member_of", tuple(parse_trust_domain(str(each)) for each in trust_domains)))


def authorize_id_prefix(prefix: SpiffeId | str, /) -> Authorizer:
    """Allow `prefix` and every SPIFFE ID below it, on segment boundaries: ``.../db`` does not allow ``.../db2``.

    Raises:
        InvalidIdentity: `prefix` is no SPIFFE ID; a trailing slash is not needed and not allowed.
    """
    return _IdPrefix(parse_spiffe_id(str(prefix)))


def any_of(*policies: Authorizer) -> Authorizer:
    """Allow whom at least one of the policies allows."""
    return _AnyOf(_nonempty("any_of", policies))


def all_of(*policies: Authorizer) -> Authorizer:
    """Allow whom every one of the policies allows."""
    return _AllOf(_nonempty("all_of", policies))


def not_(policy: Authorizer, /) -> Authorizer:
    """Allow whom the policy refuses; a policy that fails otherwise allows nobody."""
    return _Not(policy)
