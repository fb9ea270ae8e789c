"""Shows several threads at once: a row for each event, and below, on a terminal, what each thread is doing now.

It is an observer like any other: the harness calls `on_event`, and the view knows nothing of agents or databases.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from trackside import LifecycleEventType, RunHandle, RunLifecycleEvent, StreamGap
from trackside.app.cli.formatting import one_line
from trackside.app.cli.views.appearance import NOTE, Look, look_of, words_of
from trackside.app.cli.views.live import LiveLines
from trackside.app.cli.views.messages import Messages, Piece, last_answer
from trackside.app.cli.views.output import OutputConsole
from trackside.app.cli.views.usage import usage_line
from trackside.harness.lifecycle import is_terminal
from trackside.harness.types import Json

LANE = "demo"
"""The key in a run's metadata that says in which lane to show the run."""

_WRITING_CHARS = 40
"""How much of a text's end is shown while it is being written."""

_LANE_STYLES = ("cyan", "yellow", "magenta", "green", "blue")


@dataclass(slots=True)
class _Lane:
    """One thread on the screen: `doing` is what its run is doing, `writing` the text that it streams."""

    name: str
    style: str
    look: Look = NOTE
    doing: str = ""
    writing: str = ""
    at_work: bool = False


class LiveView:
    """Shows the runs that have `LANE` in their metadata. Its live lines exist only inside its `with` block."""

    def __init__(self, console: OutputConsole) -> None:
        self._console = console
        self._lanes: dict[str, _Lane] = {}  # by thread
        self._ended: set[str] = set()
        self.answers: dict[str, Json] = {}
        """The answer of each run, by run: the agent's last message, or the run's output if that is not a message."""
        self._began: datetime | None = None
        self._spinner = Spinner("dots")
        self._live = LiveLines(console, self._footer) if console.is_live else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Show an event."""
        lane = self._lanes.get(event.thread_id) or self._open_lane(event)
        look, words = look_of(event), words_of(event)
        ends = is_terminal(event.event_type)
        if ends:
            self._ended.add(event.run_id)
            words = " · ".join(filter(None, (words, usage_line(event.payload.get("completion_data") or {}))))
        if ends or event.event_type is LifecycleEventType.RUN_STARTED:
            lane.look, lane.at_work, lane.doing, lane.writing = look, not ends, look.label if ends else "thinking", ""
        self._print((event.occurred_at - (self._began or event.occurred_at)).total_seconds(), lane, look, words)

    async def watch(self, run: RunHandle) -> None:
        """Show the live output of a run until it ends."""
        messages = Messages()
        async for part in run.stream():
            lane = self._lanes.get(run.thread_id)
            if isinstance(part, StreamGap):
                continue
            if part.mode == "values" and (answer := last_answer(part.data) or part.data.get("output")):
                self.answers[run.run_id] = answer
            if lane is None or run.run_id in self._ended:
                continue  # events and output come by different ways, so the end may have been shown already
            if part.mode == "custom":
                lane.doing = one_line(str(part.data))
                self._print(None, lane, NOTE, lane.doing)
            elif part.mode == "messages" and (piece := messages.take(part.data, part.namespace)) is not None:
                lane.writing += piece.text
                for call in _calls_in(piece):
                    self._print(None, lane, NOTE, f"{part.data[1].get('agent', lane.name)} {call}")

    def _open_lane(self, event: RunLifecycleEvent) -> _Lane:
        self._began = self._began or event.occurred_at
        name = str(event.payload.get("metadata", {}).get(LANE, event.thread_id[:8]))
        lane = _Lane(name, _LANE_STYLES[len(self._lanes) % len(_LANE_STYLES)])
        self._lanes[event.thread_id] = lane
        return lane

    def _print(self, seconds: float | None, lane: _Lane, look: Look, words: str) -> None:
        row = _grid()
        clock = "" if seconds is None else f"{max(0.0, seconds):.2f}s"
        said = (Text(text, look.style) for text in (look.symbol, look.label, words))
        row.add_row(clock, Text(lane.name, lane.style), *said)
        self._console.print(row)

    def _footer(self) -> RenderableType:
        rows = _grid(labels=False)
        for lane in self._lanes.values():
            written = one_line(lane.writing[-200:])
            doing = f"… {written[-(self._console.width - 40) :]}" if written else lane.doing
            symbol = self._spinner.render(monotonic()) if lane.at_work else lane.look.symbol
            rows.add_row(
                "", Text(lane.name, f"bold {lane.style}"), symbol, "", Text(doing, overflow="ellipsis", no_wrap=True)
            )
        return Group(Text(), rows)


def _calls_in(piece: Piece) -> list[str]:
    """The tool calls in a piece of an agent's message, as `→ look_up({"number": "1003"})`."""
    return [line for line in piece.text.splitlines() if line.startswith("→ ")]


def _grid(*, labels: bool = True) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=6, justify="right", style="dim")
    grid.add_column(width=9, no_wrap=True)
    grid.add_column(width=1, no_wrap=True)
    if labels:
        grid.add_column(width=10, no_wrap=True)
    grid.add_column(overflow="fold")
    return grid
