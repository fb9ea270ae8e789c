"""Prints rows of time, symbol, label and text: the lines of a timeline, and of whatever is looked at like one."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trackside.app.cli.appearance import Look
from trackside.app.cli.formatting import printable
from trackside.app.cli.output import OutputConsole

_WIDE = 60  # columns from which on labels have a column of their own
_TIME_WIDTH = 8
_LABEL_WIDTH = 12


class Rows:
    """Prints rows on a console. Long text wraps in its own column; where there is no terminal it does not wrap."""

    def __init__(self, console: OutputConsole) -> None:
        self._console = console

    def wrap(self, text: str, look: Look) -> list[str]:
        """One paragraph as the lines it takes in a row of this look; spaces at their ends belong to them."""
        return [line.plain for line in Text(text).wrap(self._console, self._text_width(look))] or [""]

    def _text_width(self, look: Look) -> int:
        label = _LABEL_WIDTH + 1 if self._is_wide else len(look.label) + bool(look.label)
        return max(16, self._console.width - _TIME_WIDTH - 3 - label)

    @property
    def _is_wide(self) -> bool:
        return self._console.width >= _WIDE

    def print(self, seconds: float | None, look: Look, text: str = "", style: str = "") -> None:
        """Print one row. `seconds` since the start stand in front; None goes on with what is above."""
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
        grid.add_column(overflow="fold", width=self._text_width(look) if self._is_wide else None)
        grid.add_row(*cells, body)
        return grid


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 99.95:
        return f"{max(0.0, seconds):.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
