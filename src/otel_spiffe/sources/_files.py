# SPDX-License-Identifier: Apache-2.0
"""A source that reads files which something else writes and renews."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from otel_spiffe.environment import refuse_green_threads
from otel_spiffe.errors import InvalidConfiguration
from otel_spiffe.identity import parse_trust_domain
from otel_spiffe.sources._base import WorkerSource
from otel_spiffe.sources._cell import utc_now
from otel_spiffe.sources._fault import BadUpdate, Fault, nothing_unexpected
from otel_spiffe.sources._file_set import identity_from_files
from otel_spiffe.sources._limits import DEFAULT_LIMITS, Limits
from otel_spiffe.sources._paths import Paths, paths_of
from otel_spiffe.sources._read import SETTLED, resting
from otel_spiffe.sources._watch import Unwatchable, changes

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime
    from typing import Self

    from opentelemetry.metrics import MeterProvider
    from spiffe import TrustDomain

    from otel_spiffe.sources._file_set import FileSet
    from otel_spiffe.sources._layout import Layout

__all__ = ["FileSource"]

_log = logging.getLogger("otel_spiffe.sources")

POLL_INTERVAL: Final = 5.0
"""Seconds between two looks where the file system reports no changes (network file systems, some overlays)."""
_SETTLE_TRIES: Final = 20


class FileSource(WorkerSource):
    """Keeps the identity that a set of files holds; made by `open`."""

    def __init__(
        self,
        paths: Paths,
        *,
        trust_domain: TrustDomain | None,
        poll_interval: float,
        limits: Limits,
        clock: Callable[[], datetime],
        meter_provider: MeterProvider | None,
        watch: Callable[..., Iterable[object]],
    ) -> None:
        name = f"files in {paths}"
        self._paths = paths
        self._trust_domain = trust_domain
        self._poll_interval = poll_interval
        self._limits = limits
        self._clock = clock
        self._watch = watch
        self._warned = False
        self._polls = False
        self._stop = threading.Event()
        super().__init__(name, clock=clock, meter_provider=meter_provider)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str] | None = None,
        *,
        layout: Layout | None = None,
        svid_file: str | os.PathLike[str] | None = None,
        svid_key_file: str | os.PathLike[str] | None = None,
        bundle_file: str | os.PathLike[str] | None = None,
        bundle_files: Mapping[str, str | os.PathLike[str]] | None = None,
        trust_domain: TrustDomain | str | None = None,
        poll_interval: float = POLL_INTERVAL,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], datetime] = utc_now,
        meter_provider: MeterProvider | None = None,
    ) -> Self:
        """Start watching, and return at once, whether or not the files are there yet.

        Name a directory, in which the names of `layout` are looked for, or the files. Certificates and keys are
        PEM or DER; bundles are PEM, DER, a SPIFFE bundle (JWKS) or, for `bundle_file`, a SPIFFE Bundle Map. A set
        is taken when all of it is there, at rest, valid and of one piece; until then the last good one stays
        until it expires. A bundle file without trust domain names is taken as that of the X509-SVID's own, so
        federated authorities that something pooled into it would speak for our own trust domain: keep them apart.
        A file of another trust domain that is missing, or cannot be read as a bundle, costs only itself.

        Args:
            directory: of the files, or of the ``..data`` link that Kubernetes turns.
            layout: their names there; by default the one of `LAYOUTS` whose X509-SVID is found.
            svid_file: the X509-SVID, leaf first.
            svid_key_file: its private key, where `svid_file` does not hold it.
            bundle_file: the authorities of our own trust domain.
            bundle_files: bundles of other trust domains, by name.
            trust_domain: of `bundle_file`, where there is no X509-SVID.
            poll_interval: seconds between two looks where no change is reported.
            limits: how much of a file is taken.
            clock: returns the time, aware.
            meter_provider: where the source's metrics go; the global one by default.

        Raises:
            InvalidConfiguration: what is given does not name one set of files, or gevent or eventlet has replaced
                the threads.
            InvalidIdentity: a trust domain is none.
        """
        refuse_green_threads("FileSource")
        from watchfiles import watch  # noqa: PLC0415 -- 40 ms that users of other sources need not wait for

        named = {"svid": svid_file, "key": svid_key_file, "bundle": bundle_file}
        paths = paths_of(directory, layout, {name: Path(each) for name, each in named.items() if each is not None})
        more = {parse_trust_domain(name): Path(each).absolute() for name, each in (bundle_files or {}).items()}
        paths = paths.with_bundles(more)
        if not paths.may_hold_svid and trust_domain is None:
            raise InvalidConfiguration(
                "trust_domain", "there is no X509-SVID to say whose the bundle is", fix="name it"
            )
        if poll_interval <= 0:
            raise InvalidConfiguration("poll_interval", f"{poll_interval:g} s is no interval")
        source = cls(
            paths,
            trust_domain=parse_trust_domain(str(trust_domain)) if trust_domain is not None else None,
            poll_interval=poll_interval,
            limits=limits,
            clock=clock,
            meter_provider=meter_provider,
            watch=watch,
        )
        source._worker.start()
        return source

    def __repr__(self) -> str:
        return f"FileSource({self._paths})"

    def _interrupt(self) -> None:
        self._stop.set()

    def _turn(self) -> float:
        stop = self._stop = threading.Event()
        if self._worker.interrupted:
            return 0.0
        self._look(stop)
        try:
            for _ in changes(self._watch, self._paths.directories, stop=stop, every=self._poll_interval):
                self._polls = False
                self._look(stop)
        except Unwatchable as reason:
            self._tell_of_polling(reason)
            return self._poll_interval
        return 0.0

    def _look(self, stop: threading.Event) -> None:
        try:
            with nothing_unexpected():
                files = self._settled(stop)
                if files is None:
                    return
                identity, flaw = identity_from_files(files, trust_domain=self._trust_domain, now=self._clock())
                self._warn_of_open_key(files)
                self._cell.put(identity, flaw=flaw)
        except BadUpdate as bad:
            self._cell.fail(bad.problem)

    def _settled(self, stop: threading.Event) -> FileSet | None:
        """Return the set once it is at rest, None when it is time to end."""
        for _ in range(_SETTLE_TRIES):
            with ExitStack() as stack:
                files, atomic = self._paths.read(stack, self._limits)
            if atomic or resting(files.contents):
                return files
            if stop.wait(SETTLED):
                return None
        raise BadUpdate(
            Fault.INCONSISTENT_FILES,
            f"the files have not been at rest for {SETTLED:g} s in {_SETTLE_TRIES * SETTLED:g} s",
            fix="see who writes them again and again",
        )

    def _warn_of_open_key(self, files: FileSet) -> None:
        key = files.key or files.svid
        if key is not None and key.others_read and not self._warned:
            self._warned = True
            _log.warning("%s: the private key in %s can be read by everybody on this machine", self, key.path)

    def _tell_of_polling(self, reason: Unwatchable) -> None:
        if not reason.missing and not self._polls:
            self._polls = True
            _log.warning("%s: cannot be watched, so it is looked at every %g s: %s", self, self._poll_interval, reason)
