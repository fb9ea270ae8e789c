"""The commands that show what was recorded: `runs`, `threads`, `events`, `tail`, `stats`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypedDict

from trackside.app.cli.arguments import ALL, ArgumentError, read_dollars, read_seconds, read_since, read_step
from trackside.app.cli.failures import ExitCode, ended
from trackside.app.cli.places import Place, in_records, say_away
from trackside.app.cli.records.lookup import find_run, find_thread, open_questions
from trackside.app.cli.stopping import ended_by_stop_signals, interrupt_on_stop_signals
from trackside.app.cli.views.details import print_run, print_thread
from trackside.app.cli.views.jsonlines import record_object, stored_event_object
from trackside.app.cli.views.output import OutputConsole, standard_output
from trackside.app.cli.views.overviews import print_event, print_events, print_runs, print_stats, print_threads
from trackside.app.cli.views.trends import blocks_that_fit, print_trends, step_of
from trackside.harness.lifecycle import STATUSES_OF_EVENT, run_status_of
from trackside.harness.types import JsonObject, LifecycleEventType, RunStatus, ThreadStatus

if TYPE_CHECKING:
    from trackside.app.cli.records.protocol import FollowFilters, Records
    from trackside.app.storage import StoredEvent, TimeBucket

_PAGE: Final = 100
"""The least number of events to read at once when those that were read first do not all match."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NARROWING: Final = (timedelta(days=40), timedelta(hours=1), timedelta(minutes=1))
"""The lengths of the blocks by which the first run is found: each time there are less than a thousand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookOptions[Status: (RunStatus, ThreadStatus)]:
    """The options that all of these commands share, as they were typed."""

    place: Place
    json: bool
    status: Sequence[Status] | None
    agent: str | None
    thread: str | None
    since: str | None
    limit: int

    def check_alone(self, what: str) -> None:
        """Refuse filters when a single record is shown.

        Raises:
            ArgumentError: there is one.
        """
        given = {"--status": self.status, "--agent": self.agent, "--thread": self.thread, "--since": self.since}
        _see_that_none_is_given(given, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """The additional search options of `runs`, as they were typed."""

    text: str | None = None
    cost_above: str | None = None
    duration_above: str | None = None
    parent: str | None = None
    waiting: bool = False

    def check_alone(self) -> None:
        """Refuse a search when a single run is shown.

        Raises:
            ArgumentError: there is one.
        """
        given = {
            "--text": self.text,
            "--cost-above": self.cost_above,
            "--duration-above": self.duration_above,
            "--parent": self.parent,
            "--waiting": self.waiting or None,
        }
        _see_that_none_is_given(given, "run")

    def filters(self) -> _Search:
        """What was typed, in the form that the records take.

        Raises:
            ArgumentError: an amount or a length of time is not valid.
        """
        cost, duration = self.cost_above, self.duration_above
        return {
            "text": self.text or None,
            "min_cost": None if cost is None else read_dollars(cost, "--cost-above"),
            "min_duration": None if duration is None else read_seconds(duration, "--duration-above"),
            "waiting": self.waiting,
        }


def _see_that_none_is_given(given: Mapping[str, Any], what: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise ArgumentError(name=name, why=f"one {what} cannot be filtered; leave this out, or the ID")


class _Search(TypedDict):
    """The search for runs, besides the filters."""

    text: str | None
    min_cost: float | None
    min_duration: float | None
    waiting: bool


class _Filters(TypedDict):
    """The filters of every listing."""

    agent: str | None
    thread_id: str | None
    since: datetime | None


class _Look:
    """One look at records: where they are, what time it is, and how to show what is found."""

    def __init__(self, options: LookOptions[Any]) -> None:
        self.now = datetime.now(UTC)
        self._since = None if options.since is None else read_since(options.since, now=self.now)
        self._options = options
        self.console = standard_output()

    def run(self, show: Callable[[Records], Awaitable[None]]) -> ExitCode:
        """Open the records and show what is in them."""
        in_records(self._options.place, show, read_only=True)
        return ended(self.console)

    async def filters(self, records: Records) -> _Filters:
        """The filters that were asked for.

        Raises:
            UnknownIdError, AmbiguousIdError: there is no such thread, or more than one.
        """
        thread = self._options.thread
        thread_id = None if thread is None else (await find_thread(records, thread)).thread_id
        return {"agent": self._options.agent, "thread_id": thread_id, "since": self._since}

    def show(self, objects: Sequence[JsonObject], print_them: Callable[[OutputConsole], None]) -> None:
        """Show what was found, to a program or to a person."""
        if self._options.json:
            self.console.print_json_lines(objects)
        elif objects:
            print_them(self.console)
        else:
            self.show_nothing()

    def watching_reader(self, on_gone: Callable[[], object]) -> AbstractContextManager[None]:
        """Call `on_gone` when nobody is reading the output any more."""
        return self.console.watching_reader(on_gone)

    def show_at_once(self, stored: StoredEvent) -> bool:
        """Show the next event of a stream; False if nobody is reading the output any more."""
        if self._options.json:
            self.console.print_json_lines([stored_event_object(stored)])
        else:
            print_event(self.console, stored, datetime.now(UTC))
        return not self.console.quiet

    def show_nothing(self) -> None:
        """Say to a person that nothing was found."""
        self.console.print("Nothing matches.", style="dim")


def show_run(options: LookOptions[RunStatus], beginning: str, search: SearchOptions) -> ExitCode:
    """Show one run in full."""
    options.check_alone("run")
    search.check_alone()
    look = _Look(options)

    async def show(records: Records) -> None:
        run = await find_run(records, beginning)
        events = await records.events(run_id=run.run_id, limit=options.limit)
        retries = await records.retries_of(run.run_id)
        told = [stored_event_object(stored) for stored in events]
        whole = {**record_object(run), "retries": [*retries], "events": told}
        look.show([whole], lambda console: print_run(console, run, events, retries=retries, now=look.now))

    return look.run(show)


def show_runs(options: LookOptions[RunStatus], search: SearchOptions) -> ExitCode:
    """Show the newest runs that match."""
    look = _Look(options)
    sought = search.filters()

    async def show(records: Records) -> None:
        filters = await look.filters(records)
        parent = None if search.parent is None else (await find_run(records, search.parent)).run_id
        runs = await records.runs(status=options.status, parent_run_id=parent, limit=options.limit, **filters, **sought)
        look.show([record_object(run) for run in runs], lambda console: print_runs(console, runs, look.now))

    return look.run(show)


def show_thread(options: LookOptions[ThreadStatus], beginning: str) -> ExitCode:
    """Show one thread in full, with the newest of its runs."""
    options.check_alone("thread")
    look = _Look(options)

    async def show(records: Records) -> None:
        thread = await find_thread(records, beginning)
        runs = await records.runs(thread_id=thread.thread_id, limit=options.limit)
        interrupts = await open_questions(records, thread)
        whole = {**record_object(thread), "interrupts": interrupts, "runs": [record_object(run) for run in runs]}
        look.show(
            [whole],
            lambda console: print_thread(console, thread, runs, interrupts, home=records.home, now=look.now),
        )

    return look.run(show)


def show_threads(options: LookOptions[ThreadStatus]) -> ExitCode:
    """Show the threads that match, the most recently changed first."""
    look = _Look(options)

    async def show(records: Records) -> None:
        threads = await records.threads(status=options.status, limit=options.limit, **await look.filters(records))
        objects = [record_object(thread) for thread in threads]
        look.show(objects, lambda console: print_threads(console, threads, look.now))

    return look.run(show)


def show_events(
    options: LookOptions[RunStatus], *, run: str | None, types: Sequence[LifecycleEventType] | None, after: int | None
) -> ExitCode:
    """Show the newest events that match, or the first ones after a position, in the order of the log."""
    look = _Look(options)

    async def show(records: Records) -> None:
        events = await records.events(
            after or 0,
            newest_first=after is None,
            run_id=None if run is None else (await find_run(records, run)).run_id,
            status=options.status,
            types=types,
            limit=options.limit,
            **await look.filters(records),
        )
        events.sort(key=lambda stored: stored.position)
        objects = [stored_event_object(stored) for stored in events]
        look.show(objects, lambda console: print_events(console, events, look.now))

    return look.run(show)


def show_tail(
    options: LookOptions[RunStatus], *, run: str | None, types: Sequence[LifecycleEventType] | None, after: int | None
) -> ExitCode:
    """Show the newest events that match, or all after a position or since a time, and then each one as it comes.

    It ends only if the reader goes away or somebody stops the command. If the database is away, it waits.
    """
    interrupt_on_stop_signals()
    look = _Look(options)
    stopped = asyncio.Event()
    if options.status is not None:
        types = _types_that_give(options.status, types)

    def fits(stored: StoredEvent) -> bool:
        return options.status is None or run_status_of(stored.event.event_type, stored.event.payload) in options.status

    async def show(records: Records) -> None:
        filters = await look.filters(records)
        which: FollowFilters = {
            **filters,
            "run_id": None if run is None else (await find_run(records, run)).run_id,
            "types": types,
        }
        start = after or 0
        if options.limit < ALL:
            end = await records.end()
            for stored in await _newest_that_fit(records, start, end, options.limit, fits, which):
                if not look.show_at_once(stored):
                    return
            start = max(start, end)
        follower = records.follow(start, on_outage=say_away, **which)
        with ended_by_stop_signals(follower.end, stopped), look.watching_reader(follower.end):
            async for stored in follower:
                if fits(stored) and not look.show_at_once(stored):
                    return

    code = look.run(show)
    return ExitCode.cancelled if stopped.is_set() else code


async def _newest_that_fit(
    records: Records, after: int, to: int, limit: int, fits: Callable[[StoredEvent], bool], which: FollowFilters
) -> list[StoredEvent]:
    """The newest matching events of a part of the log, at most `limit`, in the order of the log.

    `which` may let through events that do not match. It then reads on, back to the beginning of the part if need be.
    """
    found: list[StoredEvent] = []
    before, size = to + 1, limit
    while len(found) < limit and before > after + 1:
        page = await records.events(after, before=before, newest_first=True, limit=size, **which)
        found += [stored for stored in page if fits(stored)]
        if len(page) < size:
            break
        before, size = page[-1].position, max(size, _PAGE)
    return found[:limit][::-1]


def _types_that_give(
    statuses: Sequence[RunStatus], types: Sequence[LifecycleEventType] | None
) -> list[LifecycleEventType]:
    """The wanted types of events that can give a run one of these statuses.

    Raises:
        ArgumentError: there is none.
    """
    giving = [kind for kind, given in STATUSES_OF_EVENT.items() if set(given) & {*statuses}]
    found = [kind for kind in giving if types is None or kind in types]
    if not found:
        those = f" of type {', '.join(types)}" if giving and types else ""
        raise ArgumentError(name="--status", why=f"no event{those} gives a run the status {' or '.join(statuses)}")
    return found


def show_stats(options: LookOptions[RunStatus], *, until: str | None = None, by: str | None = None) -> ExitCode:
    """Show totals of the runs that match; with `by`, a program gets one object for each length of time instead."""
    look = _Look(options)
    end = None if until is None else read_since(until, now=look.now, name="--until")
    step = None if by is None else read_step(by, "--by")
    if step is not None and options.thread is not None:
        raise ArgumentError(name="--by", why="one thread has no totals by time; leave this out, or --thread")

    async def show(records: Records) -> None:
        filters = await look.filters(records)
        behind = end or max(look.now, filters["since"] or look.now)  # to begin in the future is no mistake
        if options.json and step is not None:
            buckets = await _over_time(records, filters, options.status, behind, step)
            look.console.print_json_lines(
                [{**record_object(one), "width": one.width.total_seconds()} for one in buckets]
            )
            return
        stats = await records.stats(until=end, status=options.status, **filters)
        if not (options.json or stats.total.runs):
            look.show_nothing()
            return
        look.show([record_object(stats)], lambda console: print_stats(console, stats, options.limit))
        blocks = blocks_that_fit(look.console, asked=step is not None)
        if not options.json and options.thread is None and blocks:
            buckets = await _over_time(records, filters, options.status, behind, step, blocks)
            print_trends(look.console, buckets, blocks)

    return look.run(show)


async def _over_time(
    records: Records,
    filters: _Filters,
    status: Sequence[RunStatus] | None,
    end: datetime,
    step: timedelta | None,
    blocks: int = 0,
) -> Sequence[TimeBucket]:
    """Totals over time; from the first run on if no start was typed, in `blocks` if no length was typed."""
    begin = filters["since"] or await _first_run(records, end)
    if begin is None or begin == end:
        return []
    width = step or step_of(begin, end, blocks)
    return await records.timeline(begin, end, width=width, agent=filters["agent"], status=status)


async def _first_run(records: Records, end: datetime) -> datetime | None:
    """The minute of the earliest run before `end`, whose place in the log may be behind others; None if there is none."""
    begin, until = _EPOCH, min(end, datetime.now(UTC))
    for width in _NARROWING:
        if begin >= until:
            return None
        buckets = await records.timeline(begin, until, width=width)
        first = next((one for one in buckets if one.total.runs), None)
        if first is None:
            return None
        begin, until = first.start, min(until, first.start + first.width)
    return begin
