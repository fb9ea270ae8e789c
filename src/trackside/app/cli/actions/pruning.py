"""The command `prune`: says what it would remove, asks, removes it, and says what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trackside.app.cli.actions.asking import agrees, not_done
from trackside.app.cli.arguments import read_age
from trackside.app.cli.failures import ExitCode, ended
from trackside.app.cli.formatting import count, one_line
from trackside.app.cli.loops import run as run_loop
from trackside.app.cli.places import home_of
from trackside.app.cli.records.lookup import find_thread
from trackside.app.cli.records.stored import StoredRecords
from trackside.app.cli.stopping import interrupt_on_stop_signals
from trackside.app.cli.views.jsonlines import record_object
from trackside.app.cli.views.output import OutputConsole, standard_output
from trackside.app.cli.views.progress import Progress
from trackside.app.settings import Settings, load_settings
from trackside.app.wiring import open_store
from trackside.harness.types import RunStatus

if TYPE_CHECKING:
    from trackside.app.storage import PruneReport

_OLDER_THAN = "--older-than"


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    """What was typed after `prune`."""

    older_than: str
    status: Sequence[RunStatus] | None
    agent: str | None
    thread: str | None
    dry_run: bool
    yes: bool
    database: str | None
    json: bool


def prune(options: PruneOptions) -> ExitCode:
    """Remove old runs, if the person at the terminal agrees."""
    interrupt_on_stop_signals()
    settings = load_settings({"database.url": options.database})
    # The question and the removal use the same moment, so nothing that grows old enough in between is removed.
    before = (now := datetime.now(UTC)) - read_age(options.older_than, _OLDER_THAN, now=now)
    console = standard_output()
    foreseen: PruneReport | None = None
    if options.dry_run or not options.yes:
        # Hold nothing open while the person thinks about it.
        foreseen, thread_id = run_loop(_prune, settings, options, before, dry_run=True)
        if options.dry_run or not foreseen.runs:
            if not options.dry_run:  # needs no consent: a server would remove this by itself
                run_loop(_forget, settings)
            return _show(console, options, foreseen, removed=False)
        of_thread = "" if thread_id is None else f"of thread {thread_id}: "
        question = f"{of_thread}remove {_amount(foreseen)} from {settings.database_shown} for good?"
        would = f"{of_thread}{_amount(foreseen)} would be removed for good"
        if not agrees(question[0].upper() + question[1:], yes=False, would=would):
            return not_done("Nothing was removed.")
        options = replace(options, thread=thread_id)  # as the question said, even if the thread is gone by now
    # A progress bar needs a total, but with --yes nothing was counted beforehand.
    total = None if foreseen is None else foreseen.runs
    with Progress("Removing", "run", total=total, broken_off=_broken_off) as progress:
        report, _ = run_loop(_prune, settings, options, before, dry_run=False, progress=progress)
    return _show(console, options, report, removed=True)


def _broken_off(runs: int) -> str:
    return f"{count(runs, 'run')} removed, and the rest is as it was; the same command continues."


async def _prune(
    settings: Settings,
    options: PruneOptions,
    before: datetime,
    *,
    dry_run: bool,
    progress: Progress | None = None,
) -> tuple[PruneReport, str | None]:
    """Remove the selected runs, or count them; also returns the id of the thread that was named."""
    async with open_store(settings, create=False, read_only=dry_run) as store:
        records = StoredRecords(store, home_of(settings))
        thread_id: str | None = None
        if options.thread is not None:
            thread_id = (await find_thread(records, options.thread, whole=not dry_run)).thread_id
        if not dry_run:
            await records.forget_threads(expired=True)
        report = await store.prune(
            older_than=before,
            status=options.status,
            agent=options.agent,
            thread_id=thread_id,
            dry_run=dry_run,
            on_removed=None if progress is None else lambda report: progress.reach(report.runs),
        )
        return report, thread_id


async def _forget(settings: Settings) -> None:
    """Remove what expired and deleted threads remember."""
    async with open_store(settings, create=False) as store:
        await StoredRecords(store, home_of(settings)).forget_threads(expired=True)


def _show(console: OutputConsole, options: PruneOptions, report: PruneReport, *, removed: bool) -> ExitCode:
    if options.json:
        console.print_json_lines([record_object(report)])
    else:
        for line in _lines(report, removed=removed):
            console.print(line, soft_wrap=True)
    return ended(console)


def _lines(report: PruneReport, *, removed: bool) -> list[str]:
    done, kept = ("Removed", "Kept") if removed else ("Would remove", "Would keep")
    lines = [f"{done} {_amount(report)}." if report.runs else "There is nothing to remove."]
    for name, runs in report.kept_for.items():
        lines.append(f"{kept} {count(runs, 'run')} that subscription {one_line(name)!r} has not finished with.")
    if report.kept_waiting:
        lines.append(f"{kept} {count(report.kept_waiting, 'run')} that a human may still answer.")
    return lines


def _amount(report: PruneReport) -> str:
    amount = f"{count(report.runs, 'run')} with {count(report.events, 'event')}"
    return f"{amount}, and {count(report.threads, 'thread')}" if report.threads else amount
