# SPDX-License-Identifier: Apache-2.0
"""What a source tells OpenTelemetry: numbers, SPIFFE IDs and kinds of failure; never key material.

Instruments are made once for each meter provider and look at the living sources when they are read, so a
source costs nothing between two collections and is not kept alive by them.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from opentelemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_spiffe.identity import Health
    from otel_spiffe.sources._fault import Fault

__all__ = ["Recorder"]

METER = "otel_spiffe"


class Recorder:
    """Records the events of one source, and shows its state to the gauges until `close`."""

    def __init__(
        self, source: str, health: Callable[[], Health], *, meter_provider: metrics.MeterProvider | None = None
    ) -> None:
        self._attributes = {"otel_spiffe.source": source}
        self._health = weakref.WeakMethod(health)
        self._instruments = _known.of(meter_provider)
        self._instruments.recorders.add(self)

    def updated(self) -> None:
        """Count an identity that differs from the one before."""
        self._instruments.updates.add(1, self._attributes)

    def reconnected(self) -> None:
        """Count a connection after the first."""
        self._instruments.reconnects.add(1, self._attributes)

    def failed(self, fault: Fault) -> None:
        """Count a failure of that kind."""
        self._instruments.errors.add(1, {**self._attributes, "error.type": fault.value})

    def close(self) -> None:
        """Show no state any more."""
        self._instruments.recorders.discard(self)

    def observe(self, value: Callable[[Health], float | None]) -> Iterable[metrics.Observation]:
        """Yield what `value` makes of the source's health, or nothing."""
        ask = self._health()
        if ask is None:
            return
        health = ask()
        number = value(health)
        if number is not None:
            attributes = self._attributes if health.id is None else {**self._attributes, "spiffe.id": str(health.id)}
            yield metrics.Observation(number, attributes)


class _Instruments:
    def __init__(self, meter_provider: metrics.MeterProvider | None) -> None:
        meter = metrics.get_meter(METER, meter_provider=meter_provider)
        self.recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()
        self.updates = meter.create_counter(
            "otel_spiffe.source.updates", unit="{update}", description="Identities that differed from the one before."
        )
        self.reconnects = meter.create_counter(
            "otel_spiffe.source.reconnects", unit="{connection}", description="Connections after the first."
        )
        self.errors = meter.create_counter(
            "otel_spiffe.source.errors", unit="{error}", description="Failed tries, by error.type."
        )
        gauges: tuple[tuple[str, str, str, Callable[[Health], float | None]], ...] = (
            ("svid.expiry", "s", "When the presented X509-SVID ends, Unix time.", _svid_expiry),
            ("bundle.expiry", "s", "When the first authority of any bundle ends, Unix time.", _bundle_expiry),
            ("generation", "{generation}", "The generation of the identity, 0 before the first.", _generation),
            ("ready", "1", "1 where there is an identity that may be used and its keeper is alive.", _ready),
        )
        for name, unit, description, value in gauges:
            meter.create_observable_gauge(
                f"otel_spiffe.source.{name}", [_callback(self.recorders, value)], unit=unit, description=description
            )


def _callback(
    recorders: weakref.WeakSet[Recorder], value: Callable[[Health], float | None]
) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
    def observe(_options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        for recorder in list(recorders):
            yield from recorder.observe(value)

    return observe


def _svid_expiry(health: Health) -> float | None:
    return health.expires_at.timestamp() if health.expires_at is not None else None


def _bundle_expiry(health: Health) -> float | None:
    return health.bundles_expire_at.timestamp() if health.bundles_expire_at is not None else None


def _generation(health: Health) -> float:
    return health.generation


def _ready(health: Health) -> float:
    return int(health.ready)


class _Known:
    """The instruments of each provider: a second gauge of one name would be a duplicate that the SDK warns of."""

    def __init__(self) -> None:
        self._of_provider: weakref.WeakKeyDictionary[metrics.MeterProvider, _Instruments] = weakref.WeakKeyDictionary()
        self._of_default: _Instruments | None = None
        self.renew_lock()

    def renew_lock(self) -> None:
        """Have a lock of this process: in a child the one that held it may not exist."""
        self._lock = threading.Lock()

    def of(self, meter_provider: metrics.MeterProvider | None) -> _Instruments:
        with self._lock:
            if meter_provider is None:
                self._of_default = self._of_default or _Instruments(None)
                return self._of_default
            known = self._of_provider.get(meter_provider)
            if known is None:
                known = self._of_provider[meter_provider] = _Instruments(meter_provider)
            return known


_known = _Known()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_known.renew_lock)
