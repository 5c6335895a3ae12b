# SPDX-License-Identifier: Apache-2.0
"""A source over the `spiffe` package's, for programs that have one already."""

from __future__ import annotations

import contextlib
import itertools
import threading
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives.serialization import Encoding

from otel_spiffe.environment import refuse_green_threads
from otel_spiffe.errors import InvalidIdentity
from otel_spiffe.identity import Identity, X509Bundle, bundle_from_der, x509_svid
from otel_spiffe.sources._base import CellSource
from otel_spiffe.sources._cell import Cell, utc_now
from otel_spiffe.sources._choose import check_not_expired
from otel_spiffe.sources._fault import BadUpdate, Fault, Problem, flaw_of, nothing_unexpected

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from datetime import datetime

    import spiffe
    from opentelemetry.metrics import MeterProvider
    from spiffe import TrustDomain

    from otel_spiffe.identity import PrivateKey

__all__ = ["SpiffeSource", "from_spiffe"]


def from_spiffe(
    x509_source: spiffe.X509Source,
    *,
    clock: Callable[[], datetime] = utc_now,
    meter_provider: MeterProvider | None = None,
) -> SpiffeSource:
    """Return a source that follows `x509_source`, which stays the caller's to close.

    It inherits its weaknesses: `spiffe` 0.3.2 ends at the first update that it cannot read and tells nobody, and
    has no thread in the child of a fork. What it held is then used until it expires, and `health` is not ready.

    Args:
        x509_source: an open one.
        clock: returns the time, aware.
        meter_provider: where the source's metrics go; the global one by default.

    Raises:
        InvalidConfiguration: gevent or eventlet has replaced the threads.
    """
    refuse_green_threads("from_spiffe")
    return SpiffeSource(x509_source, clock=clock, meter_provider=meter_provider)


class SpiffeSource(CellSource):
    """Keeps what a `spiffe.X509Source` holds, checked as any other source's material; made by `from_spiffe`."""

    def __init__(
        self,
        x509_source: spiffe.X509Source,
        *,
        clock: Callable[[], datetime],
        meter_provider: MeterProvider | None,
    ) -> None:
        self._x509_source = x509_source
        self._clock = clock
        self._forked = False
        self._lock = threading.Lock()
        self._begun = itertools.count(1)
        self._newest = 0
        super().__init__(Cell("spiffe.X509Source", clock=clock, meter_provider=meter_provider, alive=self._alive))
        x509_source.subscribe_for_updates(self._take)
        self._take()

    def __repr__(self) -> str:
        return "SpiffeSource()"

    def close(self) -> None:
        """Follow it no longer; may be called again."""
        self._x509_source.unsubscribe_for_updates(self._take)
        super().close()

    def after_fork_in_child(self) -> None:
        """Say that nothing will come any more."""
        super().after_fork_in_child()
        self._lock = threading.Lock()
        self._forked = True
        self._cell.fail(
            Problem(
                fault=Fault.ENDED,
                reason="spiffe.X509Source has no thread in the child of a fork",
                fix="open one in the child, or use WorkloadApiSource",
            )
        )

    def _alive(self) -> bool:
        return not self._forked and not self._x509_source.is_closed()

    def _take(self) -> None:
        turn = next(self._begun)
        try:
            with nothing_unexpected():
                identity, flaw = self._identity()
                with self._in_order(turn) as newest:
                    if newest:
                        self._cell.put(identity, flaw=flaw)
        except BadUpdate as bad:
            with self._in_order(turn) as newest:
                if newest:
                    self._cell.fail(bad.problem)

    @contextlib.contextmanager
    def _in_order(self, turn: int) -> Generator[bool]:
        """Say whether nothing has been written that was read later: theirs calls us on a thread of its own."""
        with self._lock:
            newest = turn >= self._newest
            self._newest = max(turn, self._newest)
            yield newest

    def _identity(self) -> tuple[Identity, Problem | None]:
        try:
            context = self._x509_source.get_x509_context()
        except Exception as error:  # of the package's many kinds
            raise BadUpdate(Fault.ENDED, f"it gives nothing: {error}") from error
        try:
            given = context.default_svid
            svid = x509_svid(given.cert_chain, cast("PrivateKey", given.private_key), expected_id=str(given.spiffe_id))
            bundles, flaws = _bundles(context.x509_bundle_set.bundles, svid.id.trust_domain)
        except InvalidIdentity as error:
            raise BadUpdate(Fault.INVALID_UPDATE, str(error)) from error
        check_not_expired(svid, self._clock())
        return Identity(chosen=svid, svids=(svid,), bundles=bundles), flaw_of(flaws)


def _bundles(given: Iterable[spiffe.X509Bundle], own: TrustDomain) -> tuple[dict[TrustDomain, X509Bundle], list[str]]:
    bundles: dict[TrustDomain, X509Bundle] = {}
    flaws: list[str] = []
    for each in given:
        data = b"".join(authority.public_bytes(Encoding.DER) for authority in each.x509_authorities)
        try:
            bundle = bundle_from_der(str(each.trust_domain), data)
        except InvalidIdentity as error:
            if each.trust_domain == own:
                raise
            flaws.append(str(error))
            continue
        bundles[bundle.trust_domain] = bundle
    return bundles, flaws
