# SPDX-License-Identifier: Apache-2.0
"""The demo on a terminal: one picture of who talks to whom, redrawn as it changes. Needs rich (extra `cli`)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from rich import box
from rich.align import Align
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from otel_spiffe.cli._story import SIGNALS, TRANSPORTS, short_serial

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import RenderableType

    from otel_spiffe.cli._story import Actor, Attempt, Event, Story

__all__ = ["Screen", "draw"]

_FRAMES_PER_SECOND = 12
_EVENTS = 6
_TALL = 40  # lines from which on all refusals are shown, not the newest alone
_FIXED_LINES, _LINES_OF_REFUSAL = 22, 5
_NEW_SECONDS = 1.0  # how long a new certificate is shown as such
_COLUMNS = 100  # wider is not easier to read
_WIDE, _BAR, _SHORT_BAR = 96, 14, 4  # from so many columns on, a life is drawn so long


class Screen:
    """Redraws the story in place, and leaves the terminal as it was."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, refresh_per_second=_FRAMES_PER_SECOND, auto_refresh=False)

    @property
    def can_move(self) -> bool:
        """Whether the terminal lets the picture be drawn in place; a dumb one would show nothing but the last."""
        return not self._console.is_dumb_terminal

    def show(self, story: Story) -> None:
        """Draw `story`."""
        self._live.update(
            draw(story, width=min(self._console.width, _COLUMNS), height=self._console.height), refresh=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()


def draw(story: Story, *, width: int, height: int) -> RenderableType:
    """Return the picture of `story`, `width` columns wide; what is newest where `height` lines do not hold all."""
    refusals = _attempts(story.attempts)
    if height < _TALL:
        refusals = refusals[-1:]
    events = [event for event in story.events if event.who != "impostor"]
    room = max(0, min(_EVENTS, height - _FIXED_LINES - _LINES_OF_REFUSAL * len(refusals)))
    return Panel(
        Group(
            _clock(story),
            Text(),
            Align.center(_picture(story)),
            Text(),
            _actors(story.actors, datetime.now(UTC), bar=_BAR if width >= _WIDE else _SHORT_BAR),
            _flows(story),
            *(part for paragraph in refusals for part in paragraph),
            *([Text()] if room and refusals else []),
            *map(_event, events[-room:] if room else ()),
        ),
        title="[bold]otel-spiffe[/bold] · telemetry over identities that renew themselves",
        border_style="cyan",
        box=box.ROUNDED,
        width=width,
        padding=(0, 1),
    )


def _clock(story: Story) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(justify="right")
    said = Text("all counted" if story.finished else f"{story.elapsed:4.1f} of {story.seconds:g} s", style="bold")
    bar = ProgressBar(total=story.seconds, completed=min(story.elapsed, story.seconds), complete_style="cyan")
    grid.add_row(bar, said)
    return grid


def _picture(story: Story) -> Text:
    beat = int(story.elapsed * 6) % 6
    wire = "".join("▸" if not story.finished and column % 6 == beat else "━" for column in range(30))
    return Text.assemble(
        ("SPIFFE agent         the CA         SPIFFE agent\n", "dim"),
        ("     │      SVIDs, bundles, renewed       │     \n", "dim"),
        ("     ▼                                    ▼     \n", "dim"),
        (" app ", "bold black on green"),
        (f" {wire} ", "green"),
        (" collector ", "bold black on green"),
        ("\n      mutual TLS, both SPIFFE IDs checked       ", "dim"),
    )


def _actors(actors: tuple[Actor, ...], now: datetime, *, bar: int) -> Table:
    table = Table(box=None, expand=True, padding=(0, 1), header_style="dim")
    for title in ("who", "SPIFFE ID", "serial", "renewed", "ends in"):
        table.add_column(title, no_wrap=True, ratio=2 if title == "SPIFFE ID" else None)
    for actor in actors:
        fresh = (now - actor.issued_at).total_seconds() < _NEW_SECONDS
        serial = Text(short_serial(actor.serial), style="bold black on yellow" if fresh else "yellow")
        table.add_row(Text(actor.name, style="bold"), actor.id, serial, f"{actor.renewals} x", _life(actor, now, bar))
    return table


def _life(actor: Actor, now: datetime, bar: int) -> Text:
    whole = max((actor.expires_at - actor.issued_at).total_seconds(), 1.0)
    left = max((actor.expires_at - now).total_seconds(), 0.0)
    full = min(bar, round(bar * left / whole))
    return Text.assemble(("█" * full, "green"), ("░" * (bar - full), "dim"), f" {left:3.0f} s")


def _flows(story: Story) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), header_style="dim")
    table.add_column("signal", no_wrap=True)
    for transport in TRANSPORTS:
        table.add_column(f"{transport}: sent", justify="right", no_wrap=True)
        table.add_column("arrived", justify="right", no_wrap=True)
    flows = {(flow.signal, flow.transport): flow for flow in story.flows}
    for signal in SIGNALS:
        cells: list[RenderableType] = [Text(signal, style="bold")]
        for transport in TRANSPORTS:
            flow = flows[signal, transport]
            whole = story.finished and flow.sent == flow.received
            arrived = Text(f"{flow.received:,}" + (" ✔" if whole else ""), style="green")
            cells += [f"{flow.sent:,}", arrived]
        table.add_row(*cells)
    return table


def _attempts(attempts: tuple[Attempt, ...]) -> list[list[RenderableType]]:
    """Return a paragraph for each impostor; what both transports were told is said once."""
    told: dict[str, dict[str, list[Attempt]]] = {}
    for attempt in attempts:
        told.setdefault(attempt.who, {}).setdefault(attempt.reason, []).append(attempt)
    return [
        [part for reason, tries in reasons.items() for part in _refusal(who, reason, tries)]
        for who, reasons in told.items()
    ]


def _refusal(who: str, reason: str, tries: list[Attempt]) -> tuple[RenderableType, RenderableType]:
    refused = all(attempt.refused for attempt in tries)
    mark = ("✘ refused ", "bold red") if refused else ("! GOT THROUGH ", "bold white on red")
    ways = " and ".join(attempt.transport for attempt in tries)
    return Text.assemble(mark, (f"{who} ({ways})", "bold")), Padding(Text(reason, style="red"), (0, 0, 0, 2))


def _event(event: Event) -> Text:
    style = "red" if event.bad else "default"
    return Text.assemble(
        (f"{event.at:5.1f} s  ", "dim"),
        (f"{event.who:<11}", "bold"),
        (event.text, style),
        overflow="ellipsis",
        no_wrap=True,
    )
