"""One run or one thread in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.text import Text

from trackside.app.cli.formatting import ago, json_line, moment, one_line, printable
from trackside.app.cli.records.protocol import Home
from trackside.app.cli.records.questions import answer_note, question_lines, resume_command
from trackside.app.cli.views.appearance import AGENT, RUN_LOOKS, THREAD_LOOKS
from trackside.app.cli.views.output import OutputConsole
from trackside.app.cli.views.overviews import NEVER_STARTED, look_text, print_runs, took
from trackside.app.cli.views.rows import EventRows, Rows
from trackside.app.cli.views.tables import print_facts
from trackside.app.cli.views.usage import usage_line, used_in
from trackside.harness.lifecycle import is_terminal
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import JsonObject, ThreadStatus

if TYPE_CHECKING:
    from trackside.app.storage import StoredEvent, StoredRun, StoredThread

_UNSAID = (
    "It waits, but no run of it has said for what, as with a copy of a thread: a server that has its agent says it in its "
    "console, and takes the answer there."
)


def print_run(
    console: OutputConsole, run: StoredRun, events: Sequence[StoredEvent], *, retries: Sequence[str], now: datetime
) -> None:
    """Print a run: what it was, what it used, and its events as a timeline; `retries` are the runs that continued it."""
    began, used = run.started_at or run.created_at, used_in(run.completion_data)
    facts: list[tuple[str, Text | str]] = [
        ("run", run.run_id),
        ("thread", run.thread_id),
        ("agent", one_line(run.agent or NEVER_STARTED)),
        ("status", look_text(console, RUN_LOOKS[run.status])),
        ("started" if run.started_at else "asked for", f"{moment(began, now)} ({ago(began, now)})"),
        ("took", took(run, now)),
        ("stuck", f"since {moment(run.stuck_since, now)} ({ago(run.stuck_since, now)})" if run.stuck_since else ""),
        ("attempt", str(run.attempt) if run.attempt > 1 else ""),
        ("retry of", run.retry_of or ""),
        ("retries", ", ".join(retries)),
        ("title", one_line(run.title or "")),
        ("used", usage_line(used)),
        *_token_facts("model", used.get("token_usage_by_model", {})),
        *_token_facts("caller", used.get("token_usage_by_caller", {})),
        ("trigger", one_line(run.trigger or "")),
        ("parent run", run.parent_run_id or ""),
        ("metadata", one_line(json_line(dict(run.metadata))) if run.metadata else ""),
    ]
    print_facts(console, facts)
    console.print()
    _print_timeline(console, [stored.event for stored in events])
    if run.last_sequence > len(events):
        console.print(f"… and {run.last_sequence - len(events):,} more", style="dim")


def print_thread(
    console: OutputConsole,
    thread: StoredThread,
    runs: Sequence[StoredRun],
    interrupts: Sequence[JsonObject],
    *,
    home: Home,
    now: datetime,
) -> None:
    """Print a thread: its state, its runs, and how to answer what it waits for."""
    facts: list[tuple[str, Text | str]] = [
        ("thread", thread.thread_id),
        ("status", look_text(console, THREAD_LOOKS[thread.status])),
        ("title", one_line(thread.title or "")),
        ("begun", f"{moment(thread.created_at, now)} ({ago(thread.created_at, now)})"),
        ("changed", f"{moment(thread.updated_at, now)} ({ago(thread.updated_at, now)})"),
        *(("asks", printable(line)) for line in question_lines(interrupts)),
    ]
    print_facts(console, facts)
    if thread.status is ThreadStatus.interrupted and not interrupts:
        console.print(f"\n{_UNSAID}", soft_wrap=True)
    if interrupts:
        console.print(f"\n{answer_note(interrupts)}", soft_wrap=True)
        console.print(f"  {resume_command(thread.thread_id, interrupts, home)}", style="bold", soft_wrap=True)
    if runs:
        console.print()
        print_runs(console, runs, now)


def _print_timeline(console: OutputConsole, events: Sequence[RunLifecycleEvent]) -> None:
    rows = Rows(console)
    event_rows = EventRows(rows)
    for event in events:
        answer = used_in(event.payload.get("completion_data")).get("last_ai_message")
        if answer and is_terminal(event.event_type):
            rows.print(event_rows.seconds_of(event), AGENT, str(answer))
        event_rows.print(event)


def _token_facts(label: str, usage: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Tokens by model or caller, one line each, beginning with the name."""
    return [(label, f"{one_line(name)}: {_tokens_in_and_out(tokens)}") for name, tokens in usage.items()]


def _tokens_in_and_out(tokens: Mapping[str, Any]) -> str:
    return f"{tokens.get('input_tokens', 0):,} in, {tokens.get('output_tokens', 0):,} out"
