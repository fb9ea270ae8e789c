"""The commands that look at what was recorded: `runs`, `threads`, `events`, `stats`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trackside.app.cli.arguments import read_since
from trackside.app.cli.details import print_run, print_thread
from trackside.app.cli.failures import ExitCode
from trackside.app.cli.lookup import find_run, find_thread, newest_events, open_questions
from trackside.app.cli.objects import record_object, stored_event_object
from trackside.app.cli.output import OutputConsole, standard_output
from trackside.app.cli.overviews import print_events, print_runs, print_stats, print_threads
from trackside.app.settings import Settings, load_settings
from trackside.app.wiring import open_store
from trackside.harness.types import JsonObject, LifecycleEventType, RunStatus, ThreadStatus

if TYPE_CHECKING:
    from trackside.app.storage import Store

_EVENTS_OF_A_RUN = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LookOptions:
    """What all of these commands have in common, as it was typed."""

    database: str | None
    json: bool
    since: str | None = None
    thread: str | None = None
    limit: int = 20


class _Look:
    """One look into a database: where to look, when it is, how to show what is found."""

    def __init__(self, options: LookOptions) -> None:
        self.settings: Settings = load_settings({"database.url": options.database})
        self.now = datetime.now(UTC)
        self.since = None if options.since is None else read_since(options.since, now=self.now)
        self.limit = options.limit
        self._thread = options.thread
        self._json = options.json
        self._console = standard_output()

    def run(self, show: Callable[[Store], Awaitable[None]]) -> ExitCode:
        """Open the database and show what is in it."""

        async def look() -> None:
            async with open_store(self.settings, create=False) as store:
                await show(store)

        asyncio.run(look())
        return ExitCode.reader_gone if self._console.reader_gone else ExitCode.success

    async def thread_id(self, store: Store) -> str | None:
        """The thread that was asked for, if any."""
        return None if self._thread is None else (await find_thread(store, self._thread)).thread_id

    def show(self, objects: Sequence[JsonObject], print_them: Callable[[OutputConsole], None]) -> None:
        """Show what was found, to a program or to a person."""
        if self._json:
            self._console.print_json_lines(objects)
        elif objects:
            print_them(self._console)
        else:
            self._console.print("There is nothing that fits.", style="dim")


def show_runs(
    options: LookOptions, run: str | None, *, status: Sequence[RunStatus] | None, agent: str | None
) -> ExitCode:
    """Show one run in full, or the newest that fit."""
    look = _Look(options)

    async def show_one(store: Store, beginning: str) -> None:
        found = await find_run(store, beginning)
        events = await store.events(run_id=found.run_id, limit=_EVENTS_OF_A_RUN)
        whole = {**record_object(found), "events": [stored_event_object(stored) for stored in events]}
        look.show([whole], lambda console: print_run(console, found, events, look.now))

    async def show_many(store: Store) -> None:
        thread_id = await look.thread_id(store)
        runs = await store.runs(status=status, agent=agent, thread_id=thread_id, since=look.since, limit=look.limit)
        look.show([record_object(run) for run in runs], lambda console: print_runs(console, runs, look.now))

    return look.run(show_many if run is None else lambda store: show_one(store, run))


def show_threads(options: LookOptions, thread: str | None, *, status: Sequence[ThreadStatus] | None) -> ExitCode:
    """Show one thread in full, or the newest that fit."""
    look = _Look(options)

    async def show_one(store: Store, beginning: str) -> None:
        found = await find_thread(store, beginning)
        runs = await store.runs(thread_id=found.thread_id, limit=look.limit)
        interrupts = await open_questions(store, found)
        objects = [{**record_object(found), "interrupts": interrupts, "runs": [record_object(run) for run in runs]}]
        look.show(
            objects,
            lambda console: print_thread(console, found, runs, interrupts, settings=look.settings, now=look.now),
        )

    async def show_many(store: Store) -> None:
        threads = await store.threads(status=status, since=look.since, limit=look.limit)
        look.show(
            [record_object(found) for found in threads], lambda console: print_threads(console, threads, look.now)
        )

    return look.run(show_many if thread is None else lambda store: show_one(store, thread))


def show_events(
    options: LookOptions, *, run: str | None, types: Sequence[LifecycleEventType] | None, after: int | None
) -> ExitCode:
    """Show the newest events that fit, or the first ones after a position."""
    look = _Look(options)

    async def show(store: Store) -> None:
        run_id = None if run is None else (await find_run(store, run)).run_id
        thread_id = await look.thread_id(store)
        if after is None:
            events = await newest_events(
                store, run_id=run_id, thread_id=thread_id, types=types, since=look.since, limit=look.limit
            )
        else:
            events = await store.events(after, run_id=run_id, thread_id=thread_id, types=types, limit=look.limit)
        look.show(
            [stored_event_object(stored) for stored in events], lambda console: print_events(console, events, look.now)
        )

    return look.run(show)


def show_stats(options: LookOptions) -> ExitCode:
    """Show what the runs come to."""
    look = _Look(options)

    async def show(store: Store) -> None:
        stats = await store.stats(look.since)
        look.show([record_object(stats)], lambda console: print_stats(console, stats))

    return look.run(show)
