"""What the database kept of the demo: answers, the runs, the totals, and where to look further."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.scenario import LANES, Outcome
from demo.view import LANE
from trackside import LifecycleEventType
from trackside.app.cli.formatting import duration
from trackside.app.cli.views.appearance import RUN_LOOKS
from trackside.app.storage import Store, StoredEvent, StoredRun, TokenTotals
from trackside.harness.types import Json

_PAGE = 1_000


async def print_answers(
    console: Console, store: Store, outcomes: Sequence[Outcome], answers: Mapping[str, Json]
) -> None:
    """Show each question with its answer, or with what went wrong; the durations come from the database."""
    console.rule("Answers", style="dim")
    for outcome in outcomes:
        run = await store.run(outcome.result.run_id)
        if run is None or run.run_id not in answers:
            console.print(Text(f"{outcome.question}\n  {outcome.result.status}: {outcome.result.error}", "red"))
            continue
        answer = answers[run.run_id]
        panel = Panel(
            Markdown(answer, code_theme="ansi_dark") if isinstance(answer, str) else _structured(answer),
            title=Text(outcome.question, "bold"),
            title_align="left",
            subtitle=Text(f"{_lane(run)}, {duration(run.duration_seconds or 0)}", "dim"),
            subtitle_align="right",
            border_style="dim",
            padding=(0, 1),
        )
        console.print(panel)


async def print_runs(console: Console, store: Store, since: datetime) -> None:
    """Show the runs, thread by thread, in the order in which they were created."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("thread", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("asked", overflow="fold", ratio=1)
    for column in ("took", "events", "tokens"):
        table.add_column(column, justify="right", no_wrap=True)
    lanes = list(LANES)
    runs = sorted(await store.runs(since=since), key=lambda run: (lanes.index(_lane(run)), run.created_at))
    for run in runs:
        look = RUN_LOOKS[run.status]
        table.add_row(
            _lane(run),
            Text(f"{look.symbol} {look.label}", look.style),
            Text(await _asked(store, run)),
            "" if run.duration_seconds is None else duration(run.duration_seconds),
            str(run.last_sequence),
            f"{run.total_input_tokens + run.total_output_tokens:,}",
        )
    console.print()
    console.rule("Runs, as the database has them", style="dim")
    console.print(table)


async def print_totals(console: Console, store: Store, since: datetime) -> None:
    """Show what the runs add up to: events by type, runs by status, tokens by model and by caller."""
    stats = await store.stats(since)
    events = Counter(stored.event.event_type for stored in await _events(store, since))
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("events", _listed({kind: events[kind] for kind in LifecycleEventType}))
    rows.add_row("runs", _listed(stats.total.by_status))
    if stats.total.llm_call_count:
        rows.add_row("model calls", f"{stats.total.llm_call_count:,}")
        rows.add_row("tokens by model", _tokens(stats.by_model))
        rows.add_row("tokens by caller", _tokens(stats.by_caller))
    else:
        rows.add_row("tokens", "0: no model answered")
    console.print()
    console.rule("Totals", style="dim")
    console.print(rows)


def print_commands(console: Console, database: str, thread_id: str) -> None:
    """Show what to type to look further."""
    console.print()
    console.rule("Look further: nothing runs any more, this is what it left behind", style="dim")
    trackside = os.path.relpath(Path(sys.executable).with_name("trackside"))
    for command in ("runs", f"threads {thread_id}", f"events --thread {thread_id}", "stats"):
        line = f"{shlex.quote(trackside)} {command} --database {shlex.quote(database)}"
        console.print(Text(line, "cyan"), soft_wrap=True)


async def _events(store: Store, since: datetime) -> list[StoredEvent]:
    """All events since a time, page by page."""
    events: list[StoredEvent] = []
    while page := await store.events(events[-1].position if events else 0, limit=_PAGE):
        events += page
    return [stored for stored in events if stored.event.occurred_at >= since]


async def _asked(store: Store, run: StoredRun) -> str:
    """What a human said to a run."""
    said = await store.events(run_id=run.run_id, types=[LifecycleEventType.HUMAN_MESSAGE])
    return " · ".join(str(stored.event.payload["message"]["content"]) for stored in said)


def _structured(output: Json) -> RenderableType:
    """Render an output that is not text: the lists in it as tables, the rest line by line."""
    shown: list[RenderableType] = []
    for name, value in output.items():
        if not isinstance(value, list):
            shown.append(Text(f"{name}: {value}"))
            continue
        table = Table(*value[0], box=None, pad_edge=False, header_style="dim")
        for row in value:
            table.add_row(*map(str, row.values()))
        shown.append(table)
    return Group(*shown)


def _lane(run: StoredRun) -> str:
    return str(run.metadata.get(LANE, ""))


def _listed(numbers: Mapping[Any, int]) -> str:
    return " · ".join(f"{number} {name}" for name, number in numbers.items() if number)


def _tokens(totals: Mapping[str, TokenTotals]) -> str:
    return "\n".join(f"{name}: {used.input_tokens:,} in, {used.output_tokens:,} out" for name, used in totals.items())
