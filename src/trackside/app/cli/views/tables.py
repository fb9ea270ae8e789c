"""Tables that fit: as many columns as there is room for, by importance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from trackside.app.cli.views.output import OutputConsole

_GAP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Column[T]:
    """One column: its title, how it shows a record, and how much room it insists on.

    `rank` is 0 for a column that is always there; the higher it is, the sooner the column goes if there is little room.
    `least` is the width below which it would say nothing; None means it is never cut. `keep_end` cuts at the front.
    """

    title: str
    cell: Callable[[T], Text | str]
    rank: int = 0
    least: int | None = None
    right: bool = False
    keep_end: bool = False


@dataclass(slots=True)
class _Filled[T]:
    """A column with its cells, and the width that it gets: at first, as much as it would like."""

    column: Column[T]
    cells: list[Text]
    width: int

    @property
    def spare(self) -> int:
        """How much narrower it could be."""
        return 0 if self.column.least is None else max(0, self.width - self.column.least)

    def fitted(self, cell: Text) -> Text:
        cell = cell.copy()
        if self.column.keep_end and cell.cell_len > self.width:
            cell = Text("…").append_text(cell[len(cell) - self.width + 1 :])
        cell.truncate(self.width, overflow="ellipsis")
        if self.column.right:
            cell.pad_left(self.width - cell.cell_len)
        else:
            cell.pad_right(self.width - cell.cell_len)
        return cell


def print_table[T](console: OutputConsole, columns: Sequence[Column[T]], records: Sequence[T]) -> None:
    """Print records as a table, without empty columns that may be left out."""
    filled = [_fill(column, records) for column in columns]
    filled = [entry for entry in filled if entry.column.rank == 0 or any(entry.cells)]
    _make_fit(filled, console.width)
    titles = [entry.fitted(Text(entry.column.title, "dim")) for entry in filled]
    rows = zip(*([entry.fitted(cell) for cell in entry.cells] for entry in filled), strict=True)
    for row in (titles, *rows):
        line = Text(" " * _GAP).join(row)
        line.rstrip()
        console.print(line, no_wrap=True, overflow="crop", soft_wrap=not console.is_screen)


def print_facts(console: OutputConsole, facts: Sequence[tuple[str, Text | str]]) -> None:
    """Print labelled texts, one below another, without labels that have no text."""
    told = [(label, _text(text)) for label, text in facts if str(text)]
    width = max(len(label) for label, _ in told)
    for label, text in told:
        if console.is_screen:
            grid = Table.grid(padding=(0, _GAP, 0, 0))
            grid.add_column(width=width, style="dim", no_wrap=True)
            grid.add_column(overflow="fold")
            grid.add_row(label, text)
            console.print(grid)
        else:
            console.print(Text.assemble(f"{label:<{width + _GAP}}", text), soft_wrap=True)


def _fill[T](column: Column[T], records: Sequence[T]) -> _Filled[T]:
    cells = [_text(column.cell(record)) for record in records]
    return _Filled(column, cells, max((len(column.title), *(cell.cell_len for cell in cells))))


def _text(cell: Text | str) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)


def _make_fit[T](filled: list[_Filled[T]], width: int) -> None:
    """Remove columns, the least important first, then narrow those that can be narrowed, until all fit."""

    def excess(*, cut: bool) -> int:
        widths = (entry.width - (entry.spare if cut else 0) for entry in filled)
        return sum(widths) + _GAP * (len(filled) - 1) - width

    while excess(cut=True) > 0 and (expendable := [entry for entry in filled if entry.column.rank > 0]):
        filled.remove(max(expendable, key=lambda entry: entry.column.rank))
    for entry in sorted(filled, key=lambda entry: -entry.column.rank):
        entry.width -= min(entry.spare, max(0, excess(cut=False)))
