"""Retention: old runs leave the database, whole, in small transactions, while others go on writing.

A run goes with all that is stored of it, or stays with all of it. Each transaction checks once more, inside itself,
what it removes, so that whatever others did meanwhile counts. As each transaction leaves everything consistent, the
next prune continues one that was killed. Positions are never given again: a reader that reads on finds the next one
that exists.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    and_,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    tuple_,
)

from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._reading.queries import runs_that_fit
from trackside.app.storage._removal import (
    Candidate,
    Removed,
    RemoveEmptyTotals,
    RemoveRuns,
    asks,
    is_free,
    is_of_one_changed_since,
    is_of_one_gone,
    is_released,
    may_go,
)
from trackside.app.storage._rows.arguments import AnyOf, limit_of, members
from trackside.app.storage._rows.conditions import last_position
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.parts import parts_of
from trackside.app.storage._rows.tables import (
    events,
    parked_events,
    runs,
    subscriptions,
    threads,
)
from trackside.app.storage._rows.totals import minute_of
from trackside.app.storage._writing.work import Work
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.lifecycle import FINAL_STATUSES, is_final
from trackside.harness.types import RunStatus

BATCH = 500
"""About how many events one transaction removes: some milliseconds in which nobody else writes."""

_PAGE = 500  # runs that are looked at together

type OnRemoved = Callable[[PruneReport], object]
"""Called now and then with what has been removed so far."""

type _Conditions = Sequence[ColumnElement[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """What a prune removed, or (for a dry run) would remove: runs, their events, and threads that have no run any more.

    It also counts runs that were old enough but stayed. `kept_for` counts, by the name of each subscription, runs with
    events that it has not passed yet or has parked. `kept_waiting` counts runs whose questions a human may still
    answer.
    """

    runs: int
    events: int
    threads: int
    kept_for: Mapping[str, int]
    kept_waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outdated:
    """Which runs are to go: those that ended before `cutoff` (None: all that have ended) and to which the rest applies.

    A run that was created after the cutoff is younger than that, whatever its end says: a wall clock may have been set
    back. The last run of a thread is as young as the last change of the thread, which would go with it.
    """

    cutoff: datetime | None
    statuses: Sequence[RunStatus]
    agent: str | None
    thread_id: str | None

    @classmethod
    def since(
        cls,
        now: datetime,
        older_than: timedelta | datetime | None,
        *,
        status: AnyOf[RunStatus] | None,
        agent: str | None,
        thread_id: str | None,
    ) -> Outdated:
        """The runs that ended so long before `now`, or before a moment.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
        """
        chosen = sorted(FINAL_STATUSES) if status is None else members(RunStatus, "status", status)
        if not chosen:
            why = "this selects no runs at all; name some final statuses, or leave it out for all that have ended"
            raise InvalidQueryError(field="status", value=status, why=why)
        if not all(map(is_final, chosen)):
            raise InvalidQueryError(field="status", value=status, why="only runs that have ended are removed")
        runs_that_fit(agent=agent, thread_id=thread_id)
        return cls(cutoff=_cutoff(now, older_than), statuses=chosen, agent=agent, thread_id=thread_id)

    def each(self) -> list[_Conditions]:
        """The conditions for the rows of these runs, for one status after the other, so that an index gives them in
        order.
        """
        if self.cutoff is None:
            ended: _Conditions = [runs.c.ended_at.is_not(None)]
        else:
            is_old = (runs.c.ended_at < self.cutoff, runs.c.created_at < self.cutoff)
            ended = [*is_old, ~is_of_one_changed_since(self.cutoff)]
        return [
            [*runs_that_fit(status=status, agent=self.agent, thread_id=self.thread_id), *ended]
            for status in self.statuses
        ]


def _cutoff(now: datetime, older_than: Any) -> datetime | None:
    if older_than is None:
        return None
    try:
        if isinstance(older_than, datetime):
            if older_than.tzinfo is not None:
                return older_than.astimezone(UTC)
        elif older_than >= timedelta(0):
            return now - older_than  # type: ignore[no-any-return]  # a time less a length of time
    except (TypeError, OverflowError):
        pass
    why = (
        "it is a timedelta from 0 up that does not reach behind the year 1, a moment with its offset, or None for all that "
        "have ended"
    )
    raise InvalidQueryError(field="older_than", value=older_than, why=why)


@dataclass(slots=True)
class _Page:
    """Some candidates, and the subscriptions for which each has to stay."""

    candidates: Sequence[Candidate]
    needed_by: Mapping[str, set[str]]


@dataclass(slots=True)
class _Tally:
    """What has been found and done so far."""

    runs: int = 0
    events: int = 0
    threads: int = 0
    kept_waiting: int = 0
    kept_for: Counter[str] = field(default_factory=Counter)

    def sort_out(self, page: _Page) -> list[Candidate]:
        """Count what has to stay; the rest may go."""
        free: list[Candidate] = []
        for candidate in page.candidates:
            needed_by = page.needed_by.get(candidate.run_id, ())
            self.kept_for.update(needed_by)
            self.kept_waiting += candidate.asks
            if not needed_by and not candidate.asks:
                free.append(candidate)
        return free

    def add(self, removed: Removed) -> None:
        """Count what was removed."""
        self.runs += removed.runs
        self.events += removed.events
        self.threads += removed.threads

    def report(self) -> PruneReport:
        """What it all comes to."""
        return PruneReport(
            runs=self.runs,
            events=self.events,
            threads=self.threads,
            kept_for=dict(sorted(self.kept_for.items())),
            kept_waiting=self.kept_waiting,
        )


async def prune(
    writer: Writer | NoWriter,
    readers: Readers,
    outdated: Outdated,
    *,
    batch: int,
    on_removed: OnRemoved | None = None,
) -> PruneReport:
    """Remove runs, in transactions of about `batch` events.

    Raises:
        InvalidQueryError: `batch` does not fit.
        StorageError: the database failed; what had been removed stays removed.
    """
    limit_of(batch, "batch")
    tally = _Tally()
    for chosen in outdated.each():
        await _prune(writer, readers, chosen, tally, batch, on_removed, cutoff=outdated.cutoff)
    return tally.report()


async def prune_threads(
    writer: Writer | NoWriter, readers: Readers, thread_ids: Sequence[str], *, batch: int
) -> PruneReport:
    """Remove the runs of those among these threads that are gone, and thereby the threads.

    Raises:
        StorageError: the database failed; what had been removed stays removed.
    """
    tally = _Tally()
    chosen = [runs.c.thread_id.in_(thread_ids), runs.c.ended_at.is_not(None), is_of_one_gone()]
    await _prune(writer, readers, chosen, tally, batch, of_gone=True)
    return tally.report()


async def _prune(
    writer: Writer | NoWriter,
    readers: Readers,
    chosen: _Conditions,
    tally: _Tally,
    batch: int,
    on_removed: OnRemoved | None = None,
    *,
    of_gone: bool = False,
    cutoff: datetime | None = None,
) -> None:
    async for page in _pages(readers, chosen):
        free = tally.sort_out(page)
        for part in parts_of(free, lambda run: run.events, batch):  # a run is never divided
            tally.add(await _write(writer, RemoveRuns(part, of_gone, cutoff)))
            if on_removed is not None:
                on_removed(tally.report())
        if free:
            await _write(writer, RemoveEmptyTotals({minute_of(time_text(run.created_at)) for run in free}))


async def _write(writer: Writer | NoWriter, work: Work) -> Any:
    began = monotonic()
    done = await writer.write(work)
    # Give others, who may be in other processes, as much time as this took: SQLite has no queue for them.
    await asyncio.sleep(monotonic() - began)
    return done


async def foresee(readers: Readers, outdated: Outdated) -> PruneReport:
    """What `prune` would do now."""
    tally = _Tally()
    for chosen in outdated.each():
        async for page in _pages(readers, chosen):
            free = tally.sort_out(page)
            tally.add(Removed(runs=len(free), events=sum(candidate.events for candidate in free), threads=0))
    tally.threads = await readers.run(partial(_threads_left_empty, outdated=outdated))
    return tally.report()


async def _pages(readers: Readers, chosen: _Conditions) -> AsyncIterator[_Page]:
    after: Candidate | None = None
    while True:
        page = await readers.run(partial(_look, chosen=chosen, after=after))
        if not page.candidates:
            break
        after = page.candidates[-1]
        yield page


def _look(connection: Connection, *, chosen: _Conditions, after: Candidate | None) -> _Page:
    rows = connection.execute(_oldest(chosen, after, datetime.now(UTC))).all()
    candidates = [Candidate(*row) for row in rows]
    return _Page(candidates, _needed_by(connection, candidates))


def _oldest(chosen: _Conditions, after: Candidate | None, now: datetime) -> Executable:
    facts = (runs.c.run_id, runs.c.thread_id, runs.c.created_at, runs.c.last_sequence)
    query = (
        select(*facts, last_position(), asks(now))
        .where(*chosen, is_released())
        .order_by(runs.c.created_at, runs.c.run_id)
        .limit(_PAGE)
    )
    if after is None:
        return query
    place = tuple_(literal(after.created_at, runs.c.created_at.type), literal(after.run_id, runs.c.run_id.type))
    return query.where(tuple_(runs.c.created_at, runs.c.run_id) > place)


def _needed_by(connection: Connection, candidates: Sequence[Candidate]) -> dict[str, set[str]]:
    """The names of the subscriptions that have not passed all events of a run, or have one of them parked."""
    needed_by: dict[str, set[str]] = {}
    for name, cursor in connection.execute(select(subscriptions.c.name, subscriptions.c.cursor)):
        for candidate in candidates:
            if candidate.last > cursor:
                needed_by.setdefault(candidate.run_id, set()).add(name)
    parked = select(parked_events.c.subscription, events.c.run_id).join_from(parked_events, events)
    for name, run_id in connection.execute(parked.where(events.c.run_id.in_([one.run_id for one in candidates]))):
        needed_by.setdefault(run_id, set()).add(name)
    return needed_by


def _threads_left_empty(connection: Connection, outdated: Outdated) -> int:
    now = datetime.now(UTC)
    goes = or_(*(and_(*chosen, is_released(), *is_free(now)) for chosen in outdated.each()))
    its_run = exists().where(runs.c.thread_id == threads.c.thread_id)
    query = select(func.count()).select_from(threads).where(may_go(now), its_run)
    # A condition about something missing (the agent of a run without one) does not hold.
    stays = its_run.where(not_(func.coalesce(goes, false())))
    return connection.execute(query.where(not_(stays))).scalar_one()
