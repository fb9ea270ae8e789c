"""The commands that stop and remove what is recorded: `cancel` and `delete`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trackside.app.cli.actions.asking import agrees, not_done
from trackside.app.cli.failures import ExitCode, ended
from trackside.app.cli.formatting import ago, count, one_line
from trackside.app.cli.places import Place, in_records, say_away
from trackside.app.cli.records.attempts import cancelled
from trackside.app.cli.records.lookup import find_run, find_thread
from trackside.app.cli.stopping import ended_by_stop_signals, interrupt_on_stop_signals
from trackside.app.cli.views.output import standard_output
from trackside.app.cli.views.overviews import NEVER_STARTED
from trackside.harness.errors import TracksideError
from trackside.harness.lifecycle import TERMINAL_EVENTS, is_final, run_status_of
from trackside.harness.types import CancelAction, JsonObject, RunStatus

if TYPE_CHECKING:
    from trackside.app.cli.records.protocol import Records
    from trackside.app.storage import StoredRun, StoredThread

_COUNTED = 1_000  # runs of a thread; from this many on, the text says "or more"
_ACTIVE = [status for status in RunStatus if not is_final(status)]
_RUNS_STAY = "Their events stay in the log, until `trackside prune` removes them for good."
_THREADS_GO = "A running server or worker removes their events within a minute; otherwise `trackside prune` does."


class StillActiveError(TracksideError):
    """{what} has not ended; cancel it first: trackside cancel {run_id} --wait{flags}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelOptions:
    """What was typed after `cancel`."""

    runs: Sequence[str]
    action: CancelAction
    wait: bool
    place: Place
    json: bool


def cancel(options: CancelOptions) -> ExitCode:
    """Stop runs; with `wait`, wait until they have ended, or somebody presses Ctrl-C.

    Raises:
        UnknownIdError, AmbiguousIdError: one of them was not found, and none was stopped.
    """
    interrupt_on_stop_signals()
    stopped = asyncio.Event()

    async def stop(records: Records) -> list[tuple[str, StoredRun, StoredRun]]:
        found = await _found_runs(records, options.runs)
        told = [(run.run_id, await cancelled(records, run, action=options.action)) for run in found]

        def known(run: StoredRun) -> Awaitable[StoredRun | None]:
            return _when_ended(records, run, stopped) if options.wait else _as_it_is(records, run)

        return [(named, run, await known(run) or run) for named, run in told]

    runs = in_records(options.place, stop)
    console = standard_output()
    for named, before, after in runs:
        is_another = after.run_id != named
        if options.json:
            said: JsonObject = {"run_id": after.run_id, "status": after.status.value}
            said["had_ended"] = is_final(before.status)
            console.print_json_lines([{**said, "instead_of": named} if is_another else said])
        else:
            went_on = f"Run {named} went on as run {after.run_id}. " if is_another else ""
            console.print(went_on + _said(before, after, options.action), soft_wrap=True)
    console.check()
    if stopped.is_set():
        return ExitCode.cancelled
    return ExitCode.reader_gone if console.reader_gone else ExitCode.success


async def _found_runs(records: Records, typed: Sequence[str], *, whole: bool = False) -> list[StoredRun]:
    """The runs that were named, each once, even if named repeatedly or by a part; with `whole`, only by whole ids."""
    found = [await find_run(records, each, whole=whole) for each in dict.fromkeys(typed)]
    return [*{run.run_id: run for run in found}.values()]


def _said(before: StoredRun, after: StoredRun, action: CancelAction) -> str:
    if is_final(before.status):
        return f"Run {after.run_id} had ended already: {after.status}."
    if is_final(after.status):
        back = ", and its thread is as it was before" if action is CancelAction.rollback else ""
        return f"Run {after.run_id} has ended: {after.status}{back}."
    return f"Run {after.run_id} is told to stop."


async def _as_it_is(records: Records, run: StoredRun) -> StoredRun | None:
    """A run that was told to stop, as it is now; None if it is gone.

    While the records are away it is as it was: it has been told all the same.
    """
    try:
        return await records.run(run.run_id)
    except TracksideError as exc:
        if exc.fault != "store":
            raise
        return run


async def _when_ended(records: Records, run: StoredRun, stopped: asyncio.Event) -> StoredRun | None:
    """The run as it has ended, or as it is when somebody stops the command; None if it is gone."""
    known = await _as_it_is(records, run)
    if stopped.is_set() or known is None or is_final(known.status):
        return known
    follower = records.follow(0, run_id=run.run_id, types=sorted(TERMINAL_EVENTS), on_outage=say_away)
    with ended_by_stop_signals(follower.end, stopped):
        async for stored in follower:
            # Not asked for anew: a server that stops lets runs end, and is away when they have.
            status = run_status_of(stored.event.event_type, stored.event.payload)
            return replace(known, status=status or known.status)
    return known


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOptions:
    """What was typed after `delete`."""

    ids: Sequence[str]
    yes: bool
    place: Place
    json: bool


def delete_runs(options: DeleteOptions) -> ExitCode:
    """Remove runs that have ended from the sight of clients, if the person at the terminal agrees.

    Raises:
        UnknownIdError, AmbiguousIdError, ShortenedIdError, StillActiveError: one of them cannot be deleted, and none was.
        ArgumentError: there is nobody to ask.
    """
    interrupt_on_stop_signals()
    now = datetime.now(UTC)

    async def look(records: Records) -> list[StoredRun]:
        found = await _found_runs(records, options.ids, whole=options.yes)
        for run in found:
            if not is_final(run.status):
                raise StillActiveError(what=f"Run {run.run_id}", run_id=run.run_id, flags=records.home.flags)
        return found

    async def delete(records: Records) -> None:
        for run in left:
            await records.delete_run(run)

    found = in_records(options.place, look, read_only=True)
    left = [run for run in found if run.removed_at is None]
    what = _listed([f"run {run.run_id} of {one_line(run.agent or NEVER_STARTED)}, {_ended(run, now)}" for run in left])
    question = f"Delete {what}? Events stay in the log; clients do not see them any more."
    if left and not agrees(question, yes=options.yes, would=f"{what} would be deleted"):
        return not_done("Nothing was deleted.")
    in_records(options.place, delete)
    gone = {run.run_id for run in left}
    return _show("run", [run.run_id for run in found], gone, _RUNS_STAY, json=options.json)


def delete_threads(options: DeleteOptions) -> ExitCode:
    """Remove threads with their runs and what they remember, if the person at the terminal agrees.

    Raises:
        UnknownIdError, AmbiguousIdError, ShortenedIdError, StillActiveError: one of them cannot be deleted, and none was.
        ArgumentError: there is nobody to ask.
    """
    interrupt_on_stop_signals()

    async def look(records: Records) -> list[tuple[StoredThread, int]]:
        found: dict[str, tuple[StoredThread, int]] = {}
        for typed in dict.fromkeys(options.ids):
            thread = await find_thread(records, typed, whole=options.yes)
            runs = await records.runs(thread_id=thread.thread_id, limit=_COUNTED)
            if thread.removed_at is None:
                await _check_over(records, thread)
            found[thread.thread_id] = thread, len(runs)
        return [*found.values()]

    async def delete(records: Records) -> None:
        for thread, _ in left:
            await records.delete_thread(thread)

    found = in_records(options.place, look, read_only=True)
    left = [(thread, runs) for thread, runs in found if thread.removed_at is None]
    what = _listed([f"thread {thread.thread_id} with {_amount(runs)}{_titled(thread)}" for thread, runs in left])
    question = f"Delete {what}, and all that is remembered there? {_THREADS_GO}"
    if left and not agrees(question, yes=options.yes, would=f"{what} would be deleted"):
        return not_done("Nothing was deleted.")
    in_records(options.place, delete)
    gone = {thread.thread_id for thread, _ in left}
    return _show("thread", [thread.thread_id for thread, _ in found], gone, _THREADS_GO, json=options.json)


async def _check_over(records: Records, thread: StoredThread) -> None:
    """Check that every run of a thread has ended, even one older than the counted ones, or of a thread at rest.

    Raises:
        StillActiveError: a run has not ended.
    """
    for run in await records.runs(thread_id=thread.thread_id, status=_ACTIVE, limit=1):
        what = f"Run {run.run_id} of thread {thread.thread_id}"
        raise StillActiveError(what=what, run_id=run.run_id, flags=records.home.flags)


def _show(kind: str, ids: Sequence[str], gone: set[str], their_events: str, *, json: bool) -> ExitCode:
    console = standard_output()
    for id_ in ids:
        if json:
            console.print_json_lines([{f"{kind}_id": id_, "deleted": True, "was_deleted_before": id_ not in gone}])
        elif id_ in gone:
            console.print(f"Deleted {kind} {id_}.", soft_wrap=True)
        else:
            console.print(f"{kind.capitalize()} {id_} was deleted already.", soft_wrap=True)
    if gone and not json:
        console.print(their_events, style="dim", soft_wrap=True)
    return ended(console)


def _ended(run: StoredRun, now: datetime) -> str:
    return run.status.value if run.ended_at is None else f"{run.status} {ago(run.ended_at, now)}"


def _amount(runs: int) -> str:
    return f"{_COUNTED:,} runs or more" if runs >= _COUNTED else count(runs, "run")


def _titled(thread: StoredThread) -> str:
    return f" ({one_line(thread.title)})" if thread.title else ""


def _listed(things: Sequence[str]) -> str:
    """All of them if there are few, else the first ones and how many more there are."""
    if len(things) <= 3:
        return "; ".join(things)
    return f"{'; '.join(things[:2])}; and {len(things) - 2:,} more"
