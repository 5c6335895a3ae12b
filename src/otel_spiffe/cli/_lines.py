# SPDX-License-Identifier: Apache-2.0
"""The demo as plain lines, for pipes, logs and terminals without rich; and its closing summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from otel_spiffe.cli._story import SIGNALS, TRANSPORTS

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TextIO

    from otel_spiffe.cli._story import Event, Story

__all__ = ["Lines", "summary"]

_PROGRESS_SECONDS = 5.0


class Lines:
    """Writes each event once, and every few seconds how far it is."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._told = 0
        self._next_progress = _PROGRESS_SECONDS

    def show(self, story: Story) -> None:
        """Write what is new in `story`."""
        for event in story.events[self._told :]:
            self._write(line(event))
        self._told = len(story.events)
        if story.elapsed >= self._next_progress and not story.finished:
            self._next_progress += _PROGRESS_SECONDS
            self._write(
                f"{story.elapsed:5.1f} s  {'...':<11}{story.sent:,} sent, {story.received:,} received, "
                f"{story.renewals} renewals, {story.failures} failed exports"
            )

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._out.flush()


def line(event: Event) -> str:
    """Return `event` as one line."""
    return f"{event.at:5.1f} s  {event.who:<11}{event.text}"


def summary(story: Story, found: tuple[str, ...]) -> str:
    """Return the closing table and the verdict."""
    flows = {(flow.signal, flow.transport): flow for flow in story.flows}
    head = f"{'':<10}" + "".join(f"{transport + ' sent':>14}{'received':>10}" for transport in TRANSPORTS)
    rows = [
        f"{signal:<10}"
        + "".join(f"{flows[signal, way].sent:>14,}{flows[signal, way].received:>10,}" for way in TRANSPORTS)
        for signal in SIGNALS
    ]
    refused = sum(attempt.refused for attempt in story.attempts)
    facts = [
        ", ".join(f"{actor.name} renewed {actor.renewals} times" for actor in story.actors)
        + f"; {story.serials} different certificates of the app seen by the collector",
        f"{refused} of {len(story.attempts)} impostors' tries refused; {story.failures} failed exports",
    ]
    verdict = [f"NOT WELL: {sentence}" for sentence in found] or [
        f"ALL WELL: {story.received:,} of {story.sent:,} arrived, every impostor was refused."
    ]
    return "\n".join(["", head, *rows, "", *facts, *verdict])
