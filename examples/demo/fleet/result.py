"""What an independent check found when all was over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fleet_check import Counts
from rich.console import Console
from rich.table import Table
from rich.text import Text

_MOST: Final = 10  # sentences


def print_result(
    console: Console, counts: Counts, wrong: Sequence[str], *, killed: Sequence[str], went_on: int
) -> None:
    """Show what the work adds up to, and what is wrong with it, if anything is."""
    console.rule(
        "What an independent check found in the database, the agents' journal and the clients' answers", style="dim"
    )
    statuses = ", ".join(f"{number:,} {status}" for status, number in sorted(counts.by_status.items()))
    rows: list[tuple[str, int, str, bool | None]] = [
        ("processes killed", len(killed), ", ".join(killed), None),
        ("runs", counts.runs, statuses, None),
        ("terminal events", counts.ends, "one for each run", counts.ends == counts.runs),
        ("clients that waited", counts.answered, "all got their right answer", not wrong),
        ("went on elsewhere", went_on, "times that a client asked another server", None),
        ("started anew", counts.anew, "runs of workers that were killed, on other workers", None),
        ("writes refused", counts.refused, "of workers that had been taken for dead", None),
        (
            "told of gaps",
            counts.told_of_gaps,
            "followers who missed live output while the broker was away, and got the true end",
            None,
        ),
        ("lost", counts.lost, "runs that were acknowledged, and are gone or never ended", counts.lost == 0),
        ("doubles", counts.doubles, "runs that were executed twice, or by two at once", counts.doubles == 0),
        ("stuck", counts.stuck, "threads that nobody can use any more", counts.stuck == 0),
    ]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for name, number, what, is_well in rows:
        style = "" if is_well is None else "green" if is_well else "bold red"
        table.add_row(name, Text(f"{number:,}", style), what)
    console.print(table)
    for sentence in wrong[:_MOST]:
        console.print(f"wrong: {sentence}", style="red", soft_wrap=True)
    if len(wrong) > _MOST:
        console.print(f"and {len(wrong) - _MOST:,} more things are wrong", style="red")
