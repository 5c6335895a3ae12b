# SPDX-License-Identifier: Apache-2.0
"""A `requests.Session` over our contexts that nothing in the environment can make trust anybody else.

requests opens several doors that must stay shut: `verify=True` loads certifi's roots into the context (one
trusted CA became 145), `trust_env` brings ``REQUESTS_CA_BUNDLE``, ``.netrc`` and proxies, and ``http://`` is plain.
"""

from __future__ import annotations

import math
import os
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import DEFAULT_POOLSIZE, BaseAdapter, HTTPAdapter
from requests.exceptions import ConnectTimeout, InvalidSchema, ProxyError, RequestException, SSLError
from requests.utils import select_proxy
from urllib3 import PoolManager, ProxyManager

from otel_spiffe import environment
from otel_spiffe.credentials._http_pool import SpiffeConnectionPool
from otel_spiffe.credentials._proxy import FROM_ENVIRONMENT, Proxy, parse_proxy
from otel_spiffe.credentials._tls import client_context
from otel_spiffe.errors import (
    InvalidConfiguration,
    OtelSpiffeError,
    PeerRejected,
    PeerUnreachable,
    RefusedByPeer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from requests import PreparedRequest, Response
    from urllib3.connectionpool import HTTPConnectionPool

    from otel_spiffe.credentials._tls import SpiffeSSLContext
    from otel_spiffe.identity import Authorizer, Source

__all__ = ["IDENTITY_TIMEOUT", "http_session"]

IDENTITY_TIMEOUT = 10.0
"""Seconds that a request waits for the source's first identity."""
_MAX_CAUSES = 20  # how deep requests and urllib3 wrap an error, and more


def http_session(
    source: Source,
    *,
    authorize: Authorizer,
    present_svid: bool = True,
    proxy: str | None = FROM_ENVIRONMENT,
    identity_timeout: float = IDENTITY_TIMEOUT,
    pool_size: int = DEFAULT_POOLSIZE,
) -> requests.Session:
    """Return a session whose every request goes to a server with an authorized SPIFFE ID; ``http://`` is refused.

    What a program sets as `verify` and `cert`, on the session or a request, changes nothing. Refusals are raised as
    the exceptions of requests (`SSLError`, `ConnectTimeout`, `ProxyError`, `ConnectionError`) with our sentence as
    their text and our error as `__cause__`.

    Args:
        source: of the X509-SVID to present and of the bundles.
        authorize: which servers to accept, those that a redirect names included.
        present_svid: False presents no certificate, to servers that ask for none.
        proxy: ``http://[user:password@]host[:port]`` for CONNECT, None for none; by default what ``HTTPS_PROXY``
            and ``NO_PROXY`` say about each host.
        identity_timeout: seconds to wait for the source's first identity, and never more than a third of the
            request's own timeout.
        pool_size: idle connections kept for each host.

    Raises:
        InvalidConfiguration: `proxy` is no such URL.
    """
    context = client_context(source, authorize=authorize, present_svid=present_svid)
    session = requests.Session()
    session.trust_env = False
    adapter = _SpiffeAdapter(context, source, proxy=proxy, wait=identity_timeout, pool_size=pool_size)
    session.mount("https://", adapter)
    session.mount("http://", _NoPlaintext())
    return session


class _SpiffeAdapter(HTTPAdapter):
    """Sends requests over the context it is given, and over nothing else."""

    def __init__(
        self, context: SpiffeSSLContext, source: Source, *, proxy: str | None, wait: float, pool_size: int
    ) -> None:
        self._context = context
        self._source = source
        self._wait = wait
        self._from_environment = proxy == FROM_ENVIRONMENT
        self._proxy = parse_proxy(proxy) if proxy and not self._from_environment else None
        self._tunnels: dict[Proxy, PoolManager] = {}
        super().__init__(pool_maxsize=pool_size)
        _adapters.add(self)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **_: Any) -> None:  # noqa: ANN401, FBT001, FBT002 -- requests' signature
        """Make the pools of the direct way."""
        del block
        self._sizes = {"num_pools": connections, "maxsize": maxsize}
        self.poolmanager = _ours(PoolManager(**self._keywords()))

    def _keywords(self) -> dict[str, Any]:
        # urllib3 compares host names itself where the context does not; a SPIFFE peer is known by its ID.
        return {**self._sizes, "block": False, "ssl_context": self._context, "assert_hostname": False}

    def send(  # noqa: PLR0917 -- requests' signature
        self,
        request: PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002
        timeout: Any = None,  # noqa: ANN401
        verify: object = True,  # noqa: FBT002
        cert: object = None,
        proxies: Any = None,  # noqa: ANN401
    ) -> Response:
        """Send one request once there is an identity; `verify` and `cert` are not looked at."""
        del verify, cert
        try:
            self._source.wait(min(self._wait, _share(timeout)))
            return super().send(request, stream=stream, timeout=timeout, verify=True, cert=None, proxies=proxies)
        except OtelSpiffeError as error:
            raise _as_requests(error, request) from error
        except RequestException as error:
            ours = next(_ours_in(error), None)
            if ours is None:
                raise
            raise _as_requests(ours, request) from ours

    def cert_verify(self, conn: object, url: object, verify: object, cert: object) -> None:
        """Do nothing: requests would load public roots here."""

    def build_connection_pool_key_attributes(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride] -- its types are private
        self, request: PreparedRequest, verify: object, cert: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return where a request goes and nothing about TLS, which the context decides alone."""
        del verify, cert
        parts = urlsplit(request.url or "")
        return {"scheme": "https", "host": parts.hostname, "port": parts.port}, {}

    def get_connection_with_tls_context(
        self,
        request: PreparedRequest,
        verify: object,
        proxies: Any = None,  # noqa: ANN401
        cert: object = None,
    ) -> HTTPConnectionPool:
        """Return the pool of a request's host, behind the proxy that is named for it."""
        where, keywords = self.build_connection_pool_key_attributes(request, verify, cert)
        proxy = self._proxy_for(request.url or "", where["host"] or "", where["port"] or 443, proxies)
        manager = self.poolmanager if proxy is None else self._tunnel(proxy)
        return manager.connection_from_host(**where, pool_kwargs=keywords)

    def _proxy_for(self, url: str, host: str, port: int, proxies: Any) -> Proxy | None:  # noqa: ANN401
        asked = select_proxy(url, proxies)
        if asked:
            return parse_proxy(asked, setting="proxies")
        if not self._from_environment:
            return self._proxy
        found = environment.https_proxy(host, port)
        return parse_proxy(found, setting="HTTPS_PROXY") if found else None

    def _tunnel(self, proxy: Proxy) -> PoolManager:
        manager = self._tunnels.get(proxy)
        if manager is None:
            headers = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
            manager = _ours(ProxyManager(f"http://{proxy.where}", proxy_headers=headers, **self._keywords()))
            self._tunnels[proxy] = manager
        return manager

    def close(self) -> None:
        """Close every connection that is not in use."""
        for manager in (self.poolmanager, *self._tunnels.values()):
            for where in manager.pools.keys():  # noqa: SIM118 -- its items cannot be iterated over
                # urllib3 leaves it to a weakref.finalize, and those have run when the SDK's atexit hook sends its last.
                if (pool := manager.pools.get(where)) is not None:
                    pool.close()
            manager.clear()

    def forget(self) -> None:
        """Begin with new pools, in a child process: another thread may have held the old ones' locks at the fork."""
        self._tunnels = {}
        self.init_poolmanager(self._sizes["num_pools"], self._sizes["maxsize"])


_adapters: weakref.WeakSet[_SpiffeAdapter] = weakref.WeakSet()


def _forget_in_child() -> None:
    for adapter in list(_adapters):
        adapter.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def _ours(manager: PoolManager) -> PoolManager:
    pools: dict[str, type[HTTPConnectionPool]] = {"https": SpiffeConnectionPool}  # and none for http
    manager.pool_classes_by_scheme = pools
    return manager


def _share(timeout: Any) -> float:  # noqa: ANN401 -- seconds, a pair of them, urllib3's Timeout, or None
    # A third: the stock exporter gives one attempt's timeout to two, and wants to say why before its own time is over.
    connect: Any = getattr(timeout, "connect_timeout", timeout)
    if isinstance(timeout, tuple):
        connect, _ = cast("tuple[Any, Any]", timeout)
    return 0.3 * connect if isinstance(connect, int | float) else math.inf


class _NoPlaintext(BaseAdapter):
    """Refuses ``http://``, a redirect to it included."""

    def send(self, request: PreparedRequest, *_: object, **__: object) -> NoReturn:
        where = urlsplit(request.url or "")
        error = InvalidConfiguration(
            f"http://{where.hostname}:{where.port or 80}", "plaintext is refused", fix="use https://"
        )
        raise InvalidSchema(error, request=request) from error

    def close(self) -> None:
        pass


def _as_requests(error: OtelSpiffeError, request: PreparedRequest) -> RequestException:
    kind: type[RequestException] = requests.ConnectionError
    if isinstance(error, PeerRejected | RefusedByPeer):
        kind = SSLError
    elif isinstance(error, PeerUnreachable) and "through the proxy" in error.target:
        kind = ProxyError
    elif isinstance(error, PeerUnreachable) and any(isinstance(each, TimeoutError) for each in _causes(error)):
        kind = ConnectTimeout
    return kind(error, request=request)


def _ours_in(error: BaseException) -> Iterator[OtelSpiffeError]:
    return (each for each in _causes(error) if isinstance(each, OtelSpiffeError))


def _causes(error: BaseException) -> Iterator[BaseException]:
    # requests and urllib3 hide the first error in `args`, `reason`, `__cause__` or `__context__`.
    left: list[object] = [error]
    for _ in range(_MAX_CAUSES):
        if not left:
            return
        each = left.pop(0)
        if isinstance(each, BaseException):
            yield each
            left += [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]
