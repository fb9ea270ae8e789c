"""Many runs, threads or events at a glance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from trackside.app.cli.formatting import abridged, ago, cost, count, duration, moment, one_line
from trackside.app.cli.views.appearance import RUN_LOOKS, THREAD_LOOKS, Look, look_of, words_of
from trackside.app.cli.views.charts import bar
from trackside.app.cli.views.output import OutputConsole
from trackside.app.cli.views.tables import Column, print_facts, print_table
from trackside.app.cli.views.usage import usage_line
from trackside.harness.lifecycle import is_final

if TYPE_CHECKING:
    from trackside.app.storage import RunTotals, Stats, StoredEvent, StoredRun, StoredThread, TokenTotals

NEVER_STARTED = "(never started)"
_BRIEF = 100  # characters
_BAR = 20
_ENOUGH_OF_AN_ID = 18  # characters of a UUIDv7: its millisecond, and what comes within that
_LONGEST_LABEL = len("completed")


def print_runs(console: OutputConsole, runs: Sequence[StoredRun], now: datetime) -> None:
    """Print a table of runs."""
    run_ids = _ids(console, [run.run_id for run in runs])
    thread_ids = _ids(console, [run.thread_id for run in runs])
    columns: list[Column[StoredRun]] = [
        Column(title="RUN", cell=lambda run: run_ids[run.run_id]),
        Column(title="STATUS", cell=lambda run: _status(console, run)),
        Column(title="AGENT", cell=lambda run: one_line(run.agent or NEVER_STARTED), rank=2, least=12, keep_end=True),
        Column(title="STARTED", cell=lambda run: ago(run.started_at or run.created_at, now), rank=1),
        Column(title="TOOK", cell=lambda run: took(run, now), rank=3, right=True),
        Column(title="TOKENS", cell=tokens, rank=4, right=True),
        Column(title="COST", cell=lambda run: "" if run.cost_usd is None else cost(run.cost_usd), rank=5, right=True),
        Column(title="THREAD", cell=lambda run: thread_ids[run.thread_id], rank=6),
        Column(title="ABOUT", cell=_about, rank=7, least=20),
    ]
    print_table(console, columns, runs)


def print_threads(console: OutputConsole, threads: Sequence[StoredThread], now: datetime) -> None:
    """Print a table of threads."""
    thread_ids = _ids(console, [thread.thread_id for thread in threads])
    run_ids = _ids(console, [thread.last_run_id or "" for thread in threads])
    columns: list[Column[StoredThread]] = [
        Column(title="THREAD", cell=lambda thread: thread_ids[thread.thread_id]),
        Column(title="STATUS", cell=lambda thread: look_text(console, THREAD_LOOKS[thread.status])),
        Column(title="CHANGED", cell=lambda thread: ago(thread.updated_at, now), rank=1),
        Column(title="BEGUN", cell=lambda thread: ago(thread.created_at, now), rank=4),
        Column(title="LAST RUN", cell=lambda thread: run_ids[thread.last_run_id or ""], rank=2),
        Column(title="TITLE", cell=lambda thread: _brief(thread.title or ""), rank=3, least=16),
    ]
    print_table(console, columns, threads)


def print_events(console: OutputConsole, events: Sequence[StoredEvent], now: datetime) -> None:
    """Print a table of events."""
    run_ids = _ids(console, [stored.event.run_id for stored in events])
    columns: list[Column[StoredEvent]] = [
        Column(title="POSITION", cell=lambda stored: str(stored.position), right=True),
        Column(title="TIME", cell=lambda stored: moment(stored.event.occurred_at, now), rank=2),
        Column(title="RUN", cell=lambda stored: run_ids[stored.event.run_id], rank=1),
        Column(title="#", cell=lambda stored: str(stored.event.sequence), rank=4, right=True),
        Column(title="EVENT", cell=lambda stored: look_text(console, look_of(stored.event))),
        Column(title="WHAT", cell=lambda stored: _brief(words_of(stored.event)), rank=3, least=10),
    ]
    print_table(console, columns, events)


def print_event(console: OutputConsole, stored: StoredEvent, now: datetime) -> None:
    """Print one event as a line below earlier ones.

    Later events are not known yet, so the columns have widths that are usually enough.
    """
    event, look = stored.event, look_of(stored.event)
    run_id = event.run_id[:_ENOUGH_OF_AN_ID] if console.is_bounded else event.run_id
    line = Text(f"{stored.position:>7}  {moment(event.occurred_at, now)}  {run_id}  {event.sequence:>2}  ")
    line.append_text(look_text(console, look)).pad_right(max(0, _LONGEST_LABEL - len(look.label)))
    line.append(f"  {_brief(words_of(event))}")
    line.rstrip()
    console.print(line, no_wrap=True, overflow="ellipsis", soft_wrap=not console.is_screen)


def print_stats(console: OutputConsole, stats: Stats, limit: int) -> None:
    """Print totals of runs: of all, and in tables by agent, model and caller, each with the `limit` biggest rows."""
    total = stats.total
    by_status = sorted(total.by_status.items(), key=lambda item: -item[1])
    statuses = [Text.assemble(look_text(console, RUN_LOOKS[status]), f" {number:,}") for status, number in by_status]
    times = ""
    if total.duration_p50 is not None and total.duration_p95 is not None:
        times = f"median {duration(total.duration_p50)}, 95 % within {duration(total.duration_p95)}"
    facts: list[tuple[str, Text | str]] = [
        (count(total.runs, "run"), Text("  ").join(statuses)),
        ("took", times),
        ("used", usage_line(_completion(total))),
    ]
    print_facts(console, facts)
    _print_by_agent(console, stats.by_agent, limit)
    _print_by_name(console, "MODEL", stats.by_model, limit)
    _print_by_name(console, "CALLER", stats.by_caller, limit)


def _print_by_agent(console: OutputConsole, totals: Mapping[str | None, RunTotals], limit: int) -> None:
    columns: list[Column[tuple[str | None, RunTotals]]] = [
        Column(title="AGENT", cell=lambda entry: one_line(entry[0] or NEVER_STARTED), least=16, keep_end=True),
        Column(title="RUNS", cell=lambda entry: f"{entry[1].runs:,}", right=True),
        Column(title="HOW THEY ENDED", cell=lambda entry: _ended(console, entry[1])),
        Column(title="MEDIAN", cell=lambda entry: _seconds(entry[1].duration_p50), rank=3, right=True),
        Column(title="P95", cell=lambda entry: _seconds(entry[1].duration_p95), rank=4, right=True),
        Column(
            title="TOKENS",
            cell=lambda entry: _number(entry[1].total_input_tokens + entry[1].total_output_tokens),
            rank=1,
            right=True,
        ),
        Column(title="COST", cell=_cost, rank=2, right=True),
    ]
    _print_biggest(console, columns, sorted(totals.items(), key=lambda entry: -entry[1].runs), limit)


def _cost(entry: tuple[str | None, RunTotals | TokenTotals]) -> str:
    totals = entry[1]
    return "" if totals.cost_usd is None else cost(totals.cost_usd)


def _ended(console: OutputConsole, totals: RunTotals) -> Text:
    """How many runs have each symbol, in few characters."""
    by_look: Counter[tuple[str, str]] = Counter()
    for status, look in RUN_LOOKS.items():
        by_look[console.symbol(look), look.style] += totals.by_status.get(status, 0)
    return Text("  ").join(Text(f"{symbol} {number:,}", style) for (symbol, style), number in by_look.items() if number)


def _print_by_name(console: OutputConsole, title: str, totals: Mapping[str, TokenTotals], limit: int) -> None:
    share, unit = _share_of(totals.values())
    columns: list[Column[tuple[str, TokenTotals]]] = [
        Column(title=title, cell=lambda entry: one_line(entry[0]), least=10),
        Column(title="TOKENS IN", cell=lambda entry: _number(entry[1].input_tokens), right=True),
        Column(title="CACHED", cell=lambda entry: _number(entry[1].cache_read_tokens), rank=1, right=True),
        Column(title="TOKENS OUT", cell=lambda entry: _number(entry[1].output_tokens), right=True),
        Column(title="REASONING", cell=lambda entry: _number(entry[1].reasoning_tokens), rank=2, right=True),
        Column(title="COST", cell=_cost, rank=3, right=True),
    ]
    if console.is_screen:
        drawn: Column[tuple[str, TokenTotals]] = Column(
            title=f"SHARE OF {unit}",
            cell=lambda entry: Text(bar(share(entry[1]), _BAR, blocks=console.is_unicode), "cyan"),
            rank=4,
        )
        columns.append(drawn)
    by_size = sorted(totals.items(), key=lambda entry: -entry[1].input_tokens - entry[1].output_tokens)
    _print_biggest(console, columns, by_size, limit)


def _share_of(totals: Collection[TokenTotals]) -> tuple[Callable[[TokenTotals], float], str]:
    """The share of one in all of them, and in what it is measured: cost if that is known, else tokens."""
    costs = sum(total.cost_usd or 0 for total in totals)
    if costs:
        return lambda total: (total.cost_usd or 0) / costs, "COST"
    tokens = sum(total.input_tokens + total.output_tokens for total in totals) or 1
    return lambda total: (total.input_tokens + total.output_tokens) / tokens, "TOKENS"


def _print_biggest[T](console: OutputConsole, columns: Sequence[Column[T]], records: Sequence[T], limit: int) -> None:
    if not records:
        return
    console.print()
    print_table(console, columns, records[:limit])
    if len(records) > limit:
        console.print(f"… and {len(records) - limit:,} more", style="dim")


def took(run: StoredRun, now: datetime) -> str:
    """How long a run took, or has taken so far; nothing if it never started."""
    if run.started_at is None:
        return ""
    if run.duration_seconds is not None:
        return duration(run.duration_seconds)
    if is_final(run.status):
        return ""
    return f"{duration((now - run.started_at).total_seconds())} …"


def tokens(run: StoredRun) -> str:
    """How many tokens a run used; nothing if none."""
    total = run.total_input_tokens + run.total_output_tokens
    return f"{total:,}" if total else ""


def look_text(console: OutputConsole, look: Look) -> Text:
    """A symbol and its word, in their colour."""
    return Text(f"{console.symbol(look)} {look.label}", look.style)


def _ids(console: OutputConsole, ids: Sequence[str]) -> dict[str, str]:
    """Each id as it is shown: the whole id or, where it must fit, as much as tells the ids apart."""
    return shortened(ids) if console.is_bounded else {id_: id_ for id_ in ids}


def _status(console: OutputConsole, run: StoredRun) -> Text:
    """The status of a run, its attempt if that is not the first, and whether its agent fails to stop."""
    text = look_text(console, RUN_LOOKS[run.status])
    if run.attempt > 1:
        text.append(f" #{run.attempt}", "dim")
    if run.stuck_since is not None:
        text.append(" stuck", "red")
    return text


def _about(run: StoredRun) -> str:
    text = run.title or run.completion_data.get("first_human_message") or run.error
    return _brief(text if isinstance(text, str) else "")


def _brief(text: str) -> str:
    """As much of a text as fits into a row; the view of a single record shows all of it."""
    return abridged(one_line(text), _BRIEF)


def _completion(total: RunTotals) -> dict[str, int | float]:
    """Totals under the names that the fields of a single run have."""
    named: dict[str, int | float] = {
        "total_tokens": total.total_input_tokens + total.total_output_tokens,
        "total_input_tokens": total.total_input_tokens,
        "total_output_tokens": total.total_output_tokens,
        "llm_call_count": total.llm_call_count,
        "tool_call_count": total.tool_call_count,
    }
    return named if total.cost_usd is None else {**named, "cost_usd": total.cost_usd}


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _number(number: int) -> str:
    return f"{number:,}" if number else ""


def shortened(ids: Sequence[str], least: int = 13) -> dict[str, str]:
    """For each id, the beginning that distinguishes it from the others here; at least as long as a UUIDv7's time."""
    distinct = sorted(set(ids))
    short: dict[str, str] = {}
    for before, id_, after in zip(["", *distinct], distinct, [*distinct[1:], ""], strict=False):
        shared = max(_shared(id_, before), _shared(id_, after))
        short[id_] = id_[: max(least, shared + 1)]
    return short


def _shared(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
