# SPDX-License-Identifier: Apache-2.0
"""`ssl.SSLContext` objects that follow a source: every handshake uses its newest identity."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, Self

from otel_spiffe import environment
from otel_spiffe.credentials._tls_gate import gate
from otel_spiffe.credentials._tls_handshake import Handshake, as_ssl_error
from otel_spiffe.credentials._tls_inner import FORCED_OPTIONS, Inner, Settings, build, is_full
from otel_spiffe.credentials._tls_sockets import SpiffeSSLObject, SpiffeSSLSocket
from otel_spiffe.errors import InvalidConfiguration, InvalidIdentity, OtelSpiffeError, SourceUnavailable
from otel_spiffe.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spiffe import SpiffeId

    from otel_spiffe.identity import Authorizer, Source

__all__ = ["SpiffeSSLContext", "client_context", "server_context"]

_SPIFFE = "the SPIFFE source decides what is trusted and presented"


def client_context(source: Source, *, authorize: Authorizer, present_svid: bool = True) -> SpiffeSSLContext:
    """Return a context for connections that this process opens.

    It needs no host name: the server is known by its SPIFFE ID. `server_hostname` is sent as SNI alone.

    Args:
        source: of the X509-SVID to present and of the bundles; asked at every handshake.
        authorize: which servers to accept.
        present_svid: False presents no certificate, to servers that ask for none.
    """
    return SpiffeSSLContext(ssl.PROTOCOL_TLS_CLIENT, source, authorize=authorize, present_svid=present_svid)


def server_context(source: Source, *, authorize: Authorizer) -> SpiffeSSLContext:
    """Return a context for connections that this process accepts; each client must present an X509-SVID.

    Args:
        source: of the X509-SVID to present and of the bundles; asked at every handshake.
        authorize: which clients to accept.
    """
    return SpiffeSSLContext(ssl.PROTOCOL_TLS_SERVER, source, authorize=authorize, present_svid=True)


class SpiffeSSLContext(ssl.SSLContext):
    """An `ssl.SSLContext` that makes each connection with the source's identity of that moment.

    Trust and key material come from the source alone: what would add to them raises InvalidConfiguration.
    Protocol settings (ALPN, versions from 1.2 up, ciphers, options that tighten) are taken over.

    `wrap_socket` raises what `Source.identity` raises; with `wrap_bio`, as in asyncio, the handshake does.
    """

    sslsocket_class = SpiffeSSLSocket
    sslobject_class = SpiffeSSLObject
    _spiffe_ready = False

    def __new__(cls, protocol: int, source: Source, *, authorize: Authorizer, present_svid: bool) -> Self:
        """Return a context of the protocol; the other arguments are for `__init__`."""
        del source, authorize, present_svid
        return super().__new__(cls, protocol)

    def __init__(self, protocol: int, source: Source, *, authorize: Authorizer, present_svid: bool) -> None:
        del protocol
        environment.refuse_green_threads("SPIFFE TLS")
        self._spiffe_source = source
        self._spiffe_authorize = authorize
        self._spiffe_present = present_svid
        self._spiffe_chosen: dict[str, Any] = {}
        self._spiffe_inner: Inner | None = None
        self._spiffe_settled = object()
        # This object itself makes no connection, and could not: it trusts nobody and holds no key.
        self.check_hostname = False
        self.verify_mode = ssl.CERT_REQUIRED
        self.minimum_version = ssl.TLSVersion.TLSv1_2
        self.options |= FORCED_OPTIONS
        self._spiffe_ready = True

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 -- whatever the attribute holds
        """Take a protocol setting over from the next handshake on, or refuse one that would widen trust."""
        setting = self._spiffe_ready and not name.startswith("_spiffe")
        super().__setattr__(name, gate(name, value) if setting else value)
        if setting:
            self._spiffe_choose()

    @property
    def local_id(self) -> SpiffeId | None:
        """The SPIFFE ID that a connection made now presents; None where it presents none or none is to be had."""
        if not self._spiffe_present:
            return None
        try:
            return self._spiffe_source.identity().id
        except (SourceUnavailable, InvalidIdentity):
            return None

    def is_current(self, connection: object) -> bool:
        """Say whether a connection may be used on: the source has no newer identity, and neither SVID has expired."""
        if not isinstance(connection, SpiffeSSLSocket | SpiffeSSLObject):
            return False
        try:
            newest = self._spiffe_source.identity()
        except SourceUnavailable:
            return False
        end = connection.expires_at
        return connection.handshake.identity is newest and end is not None and datetime.now(UTC) < end

    def _spiffe_choose(self, **chosen: Any) -> None:  # noqa: ANN401
        self._spiffe_chosen = {**self._spiffe_chosen, **chosen}
        self._spiffe_settled = object()  # what another thread builds meanwhile counts no more

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Offer or accept these application protocols, as `ssl.SSLContext.set_alpn_protocols`."""
        protocols = tuple(alpn_protocols)
        super().set_alpn_protocols(protocols)
        self._spiffe_choose(alpn=protocols)

    def set_ciphers(self, cipherlist: str, /) -> None:
        """Use these ciphers for TLS 1.2, as `ssl.SSLContext.set_ciphers`."""
        super().set_ciphers(cipherlist)
        self._spiffe_choose(ciphers=cipherlist)

    def set_ecdh_curve(self, name: str, /) -> None:
        """Use this curve for the key exchange, as `ssl.SSLContext.set_ecdh_curve`."""
        super().set_ecdh_curve(name)
        self._spiffe_choose(curve=name)

    def _spiffe_current(self) -> Inner:
        # No lock: two threads at a rotation build twice and either result is right; a lock held over a fork is not.
        identity, settled = self._spiffe_source.identity(), self._spiffe_settled
        inner = self._spiffe_inner
        if inner is None or inner.identity is not identity or inner.settled is not settled or is_full(inner):
            settings = self._spiffe_settings()
            inner = build(settings, identity, present_svid=self._spiffe_present, settled=settled)
            self._spiffe_inner = inner
        return inner

    def _spiffe_settings(self) -> Settings:
        return Settings(
            protocol=self.protocol,
            options=self.options,
            minimum_version=self.minimum_version,
            maximum_version=self.maximum_version,
            keylog_filename=self.keylog_filename,
            **self._spiffe_chosen,
        )

    def _spiffe_begin(self, owner: object, *, server_side: bool) -> ssl.SSLContext:
        if not isinstance(owner, SpiffeSSLSocket | SpiffeSSLObject):
            raise InvalidConfiguration("sslsocket_class", "connections of another class would skip the checks")
        inner = self._spiffe_current()
        handshake = Handshake(
            identity=inner.identity, local=inner.local, authorizer=self._spiffe_authorize, server_side=server_side
        )
        owner.begin(handshake, self)
        return inner.context

    def _spiffe_fail(self, owner: object, error: OtelSpiffeError) -> Any:  # noqa: ANN401
        if not isinstance(owner, SpiffeSSLObject):
            raise error
        nobody = Identity(chosen=None, bundles={}, generation=0)
        refusal = as_ssl_error(error)
        handshake = Handshake(
            identity=nobody, local=None, authorizer=self._spiffe_authorize, server_side=False, refusal=refusal
        )
        owner.begin(handshake, self)
        return super()

    # The two methods that the standard library calls on `context` for each connection. Private, and the one
    # place through which `wrap_socket`, `wrap_bio`, `SSLSocket.connect` and `SSLSocket.accept` all go, so that a
    # listening socket too follows the source. Were they no longer called, every handshake would fail: see __init__.
    def _wrap_socket(
        self,
        sock: ssl.SSLSocket,
        server_side: bool,  # noqa: FBT001 -- the standard library's signature
        server_hostname: str | None = None,
        *,
        owner: object = None,
        session: object = None,
    ) -> Any:  # noqa: ANN401
        del session  # resuming one would skip the certificates
        inner: Any
        try:
            inner = self._spiffe_begin(owner, server_side=server_side)
        except InvalidIdentity as error:  # what accepts goes on after an OSError, and ends after a ValueError
            raise as_ssl_error(error) from error
        return inner._wrap_socket(sock, server_side, server_hostname, owner=owner)  # noqa: SLF001

    def _wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool,  # noqa: FBT001
        server_hostname: str | None = None,
        *,
        owner: object = None,
        session: object = None,
    ) -> Any:  # noqa: ANN401
        del session
        inner: Any
        try:
            inner = self._spiffe_begin(owner, server_side=server_side)
        except OtelSpiffeError as error:
            # asyncio forgets to close the transport of a connection for which this raises: so the handshake does.
            return self._spiffe_fail(owner, error)._wrap_bio(incoming, outgoing, server_side, None, owner=owner)  # noqa: SLF001
        return inner._wrap_bio(incoming, outgoing, server_side, server_hostname, owner=owner)  # noqa: SLF001

    def _refuse(self, name: str) -> NoReturn:
        raise InvalidConfiguration(f"SSLContext.{name}", _SPIFFE, fix="leave the call out")

    def load_cert_chain(self, *_: object, **__: object) -> NoReturn:
        """Refuse: the X509-SVID is the source's."""
        self._refuse("load_cert_chain")

    def load_verify_locations(self, *_: object, **__: object) -> NoReturn:
        """Refuse: the authorities are the source's bundles."""
        self._refuse("load_verify_locations")

    def load_default_certs(self, *_: object, **__: object) -> NoReturn:
        """Refuse: public roots must not name workloads."""
        self._refuse("load_default_certs")

    def set_default_verify_paths(self) -> NoReturn:
        """Refuse: public roots must not name workloads."""
        self._refuse("set_default_verify_paths")

    def set_psk_client_callback(self, *_: object, **__: object) -> NoReturn:
        """Refuse: a pre-shared key would take the certificate's place."""
        self._refuse("set_psk_client_callback")

    def set_psk_server_callback(self, *_: object, **__: object) -> NoReturn:
        """Refuse: a pre-shared key would take the certificate's place."""
        self._refuse("set_psk_server_callback")

    def get_ca_certs(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        """Return the authorities of the source's bundles, as `ssl.SSLContext.get_ca_certs`."""
        inner: Any = self._spiffe_current().context
        return inner.get_ca_certs(*arguments, **keywords)

    def cert_store_stats(self) -> dict[str, int]:
        """Count the authorities of the source's bundles, as `ssl.SSLContext.cert_store_stats`."""
        return self._spiffe_current().context.cert_store_stats()

    def session_stats(self) -> dict[str, int]:
        """Count the handshakes of the present generation, as `ssl.SSLContext.session_stats`."""
        return self._spiffe_current().context.session_stats()
