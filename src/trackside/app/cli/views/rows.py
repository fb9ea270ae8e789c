"""Prints rows of time, symbol, label and text: the timeline of a run, active or ended."""

from __future__ import annotations

import re
from datetime import datetime

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trackside.app.cli.formatting import printable
from trackside.app.cli.views.appearance import CONTINUED, Look, look_of, words_of
from trackside.app.cli.views.output import OutputConsole
from trackside.app.cli.views.tracebacks import without_libraries
from trackside.app.cli.views.usage import usage_line, used_in
from trackside.harness.lifecycle import is_terminal
from trackside.harness.observer import RunLifecycleEvent

_WIDE = 60  # the least width at which labels have a column of their own
_TIME_WIDTH = 8
_LABEL_WIDTH = 12


class Rows:
    """Prints rows on a console. Long text wraps in its own column; without a terminal it does not wrap."""

    def __init__(self, console: OutputConsole) -> None:
        self._console = console

    def wrap(self, text: str, look: Look) -> list[str]:
        """Split one paragraph into the lines that it takes in a row of this look, each with the spaces at its end."""
        return [line.plain for line in Text(text).wrap(self._console, self._text_width(look))] or [""]

    def _text_width(self, look: Look) -> int:
        label = _LABEL_WIDTH + 1 if self._is_wide else len(look.label) + bool(look.label)
        return max(16, self._console.width - _TIME_WIDTH - 3 - label)

    @property
    def _is_wide(self) -> bool:
        return self._console.width >= _WIDE

    def print(self, seconds: float | None, look: Look, text: str = "", style: str = "") -> None:
        """Print one row. It begins with the `seconds` since the start; None continues the row above."""
        text = printable(text)
        if self._console.is_screen:
            self._console.print(self.row(seconds, look, text, style))
            return
        first, *others = text.split("\n")
        cells = (
            _clock(seconds).rjust(_TIME_WIDTH),
            self._console.symbol(look).ljust(1),
            look.label.ljust(_LABEL_WIDTH),
            first,
        )
        lines = [
            " ".join(cells).rstrip(),
            *(f"{'':{_TIME_WIDTH + _LABEL_WIDTH + 4}}{line}".rstrip() for line in others),
        ]
        self._console.print(Text("\n".join(lines)), soft_wrap=True)

    def row(self, seconds: float | None, look: Look, text: str | Text, style: str = "") -> RenderableType:
        """One row, to be printed or kept live."""
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(width=_TIME_WIDTH, justify="right", no_wrap=True, style="dim")
        grid.add_column(width=1, no_wrap=True)
        body = text if isinstance(text, Text) else Text(text, style)
        cells = [Text(_clock(seconds)), Text(self._console.symbol(look), look.style)]
        if self._is_wide:
            grid.add_column(width=_LABEL_WIDTH, no_wrap=True, overflow="ellipsis")
            cells.append(Text(look.label, look.style))
        elif look.label:
            body = Text.assemble((look.label, look.style), " ", body)
        grid.add_column(overflow="fold", max_width=self._text_width(look) if self._is_wide else None)
        grid.add_row(*cells, body)
        return grid


class EventRows:
    """Prints the events of one run as rows, in order, each at its time since the first."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._first_at: datetime | None = None

    def seconds_of(self, event: RunLifecycleEvent) -> float:
        """How long after the run's first event this one occurred."""
        if self._first_at is None:
            self._first_at = event.occurred_at
        return (event.occurred_at - self._first_at).total_seconds()

    def print(self, event: RunLifecycleEvent) -> None:
        """Print an event; with the last one, also what the run used, and where in the agent's code it failed."""
        seconds, look, words = self.seconds_of(event), look_of(event), words_of(event)
        if not is_terminal(event.event_type):
            self._rows.print(seconds, look, words, look.style if look.style == "dim" else "")
            return
        usage = usage_line(used_in(event.payload.get("completion_data")))
        self._rows.print(seconds, look, words or usage, look.style if words else "")
        if words and usage:
            self._rows.print(None, CONTINUED, usage)
        if trace := event.payload.get("traceback"):
            text = f"\n{without_libraries(str(trace)).rstrip()}\n"
            # The traceback repeats what the row above says, after the exception's full name and before its notes.
            said = re.fullmatch(rf"(.*)\n(?:\w+\.)*{re.escape(words)}\n(.*)", text, re.DOTALL)
            if shown := ("\n".join(said.groups()) if said else text).strip("\n"):
                self._rows.print(None, CONTINUED, shown, "dim")


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 99.95:
        return f"{max(0.0, seconds):.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
