# SPDX-License-Identifier: Apache-2.0
"""Whether the client of a gRPC call may make it: its certificates verified again, one trust domain at a time."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from otel_spiffe.credentials._reports import Reports
from otel_spiffe.errors import (
    InvalidIdentity,
    OtelSpiffeError,
    PeerNotAuthorized,
    PeerUntrusted,
    SourceUnavailable,
    Untrusted,
)
from otel_spiffe.identity import Authorizer, Identity, Source, authorize, certificates_from_pem, verify_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from cryptography import x509
    from spiffe import SpiffeId

    from otel_spiffe.identity import VerifiedPeer

__all__ = ["MAX_VERDICTS", "Connection", "Judge", "calls", "connection_of", "peer_id"]

MAX_SENTENCE = 2000
"""Characters of a refusal that are sent to the client: gRPC drops a status of more than 16 KiB."""
MAX_VERDICTS = 1024
"""Clients whose verification is remembered; one more, and all are verified again."""


class _Context(Protocol):
    def peer(self) -> str: ...
    def auth_context(self) -> Mapping[str, Sequence[bytes]]: ...


@dataclass(frozen=True, slots=True)
class Connection:
    """What identifies a client's connection: its address and the certificates that it proved to hold."""

    peer: str
    leaf: bytes = field(repr=False)
    intermediates: bytes = field(repr=False)


def connection_of(context: Any) -> Connection:  # noqa: ANN401 -- grpc's contexts, sync and aio, share no type
    """Return the connection of a call."""
    asked: _Context = context
    found = asked.auth_context()
    return Connection(
        peer=asked.peer(),
        leaf=b"".join(found.get("x509_pem_cert", ())),
        intermediates=b"".join(found.get("x509_pem_cert_chain", ())),
    )


@dataclass(frozen=True, slots=True)
class _Verdict:
    identity: Identity
    peer: SpiffeId
    since: datetime
    until: datetime


class Judge:
    """Verifies and authorizes clients by a source's newest identity.

    A verification is remembered until anything that it rests on may have changed: a new identity, the end of a
    certificate of the chain or of an authority, or of a revocation list. The authorizer is asked at every call.
    """

    def __init__(self, source: Source, authorizer: Authorizer, clock: Callable[[], datetime]) -> None:
        self._source = source
        self._authorizer = authorizer
        self._clock = clock
        self._verdicts: dict[tuple[bytes, bytes], _Verdict] = {}
        self._reports = Reports("gRPC server")

    def judge(self, connection: Connection) -> SpiffeId:
        """Return the client's SPIFFE ID.

        Raises:
            PeerUntrusted: its chain does not verify, or it presented none.
            PeerNotAuthorized: the authorizer refuses it.
            SourceUnavailable: there is no identity to verify with.
        """
        identity = self._source.identity()
        peer = self._verified(connection, identity)
        authorize(self._authorizer, peer, local=_local(identity))
        self._reports.over(str(peer))
        return peer

    def refuse(self, error: OtelSpiffeError) -> tuple[grpc.StatusCode, str]:
        """Log why a client is refused; return the status and the sentence that it is answered with.

        Of the authorizer it learns nothing: neither whom else it would let in, nor what went wrong in it.
        """
        self._reports.say(str(error), about=str(getattr(error, "peer", None)))
        if isinstance(error, PeerNotAuthorized):
            us = f" (we are {error.local})" if error.local is not None else ""
            return grpc.StatusCode.PERMISSION_DENIED, f"peer {error.peer} is not authorized here{us}; {error.fix}"
        code = grpc.StatusCode.UNAVAILABLE if isinstance(error, SourceUnavailable) else grpc.StatusCode.UNAUTHENTICATED
        return code, str(error)[:MAX_SENTENCE]

    def _verified(self, connection: Connection, identity: Identity) -> SpiffeId:
        now, key = self._clock(), (connection.leaf, connection.intermediates)
        verdict = self._verdicts.get(key)
        if verdict is None or verdict.identity is not identity or not verdict.since <= now < verdict.until:
            self._verdicts.pop(key, None)
            peer = verify_peer(_parse(connection, identity), identity, now=now)
            verdict = _Verdict(identity, peer.id, now, _good_until(peer, identity, now))
            if len(self._verdicts) >= MAX_VERDICTS:
                self._verdicts.clear()
            self._verdicts[key] = verdict
        return verdict.peer


def _parse(connection: Connection, identity: Identity) -> tuple[x509.Certificate, ...]:
    if not connection.leaf:
        raise PeerUntrusted(Untrusted.NO_CERTIFICATE, "it presented no X509-SVID", peer=None, local=_local(identity))
    try:
        return certificates_from_pem(connection.leaf + connection.intermediates)
    except InvalidIdentity as error:
        raise PeerUntrusted(Untrusted.UNREADABLE, str(error), peer=None, local=_local(identity)) from error


def _local(identity: Identity) -> SpiffeId | None:
    return identity.chosen.id if identity.chosen is not None else None


def _good_until(peer: VerifiedPeer, identity: Identity, now: datetime) -> datetime:
    # Which authority it was is not said: so until the first of them ends, and the first revocation list.
    authorities = identity.bundles[peer.id.trust_domain].authorities
    ends = [each.not_valid_after_utc for each in authorities if each.not_valid_after_utc > now]
    ends += [each.next_update_utc for each in identity.crls if each.next_update_utc is not None]
    return min([peer.expires_at, *ends])


class _Calls:
    """The calls that an interceptor let through and that have not ended, by connection."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a child process: the lock may have been held at the fork."""
        self._lock = threading.Lock()
        self._live: dict[Connection, tuple[SpiffeId, int]] = {}

    def begin(self, connection: Connection, peer: SpiffeId) -> None:
        with self._lock:
            self._live[connection] = (peer, self._live.get(connection, (peer, 0))[1] + 1)

    def end(self, connection: Connection) -> None:
        with self._lock:
            peer, count = self._live.pop(connection)
            if count > 1:
                self._live[connection] = (peer, count - 1)

    def peer(self, connection: Connection) -> SpiffeId | None:
        with self._lock:
            found = self._live.get(connection)
        return found[0] if found is not None else None


calls = _Calls()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=calls.forget)


def peer_id(context: grpc.ServicerContext | grpc.aio.ServicerContext[Any, Any]) -> SpiffeId:
    """Return the SPIFFE ID of a call's client, as an `AuthorizationInterceptor` verified and authorized it.

    Works in sync and aio handlers, and through contexts that other interceptors wrap.

    Args:
        context: the handler's second argument, while the call runs.

    Raises:
        PeerUntrusted: no such interceptor let this call through; gRPC's own view of the client is not enough,
            because it pools the authorities of all trust domains.
    """
    peer = calls.peer(connection_of(context))
    if peer is None:
        detail = "no AuthorizationInterceptor verified this call; give the server one"
        raise PeerUntrusted(Untrusted.NO_CERTIFICATE, detail, peer=None)
    return peer
