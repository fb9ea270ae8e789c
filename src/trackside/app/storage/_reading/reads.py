"""What the log tells about events, runs and threads to whoever looks; nothing is written for that."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Unpack

from sqlalchemy import Connection

from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._reading import queries
from trackside.app.storage._reading.failure_reasons import MOST_FAILURES, FailureReasons, read_failures
from trackside.app.storage._reading.listings import Page, RunListing, ThreadListing, run_of, thread_of
from trackside.app.storage._reading.live_counts import LiveCounts, read_live_counts
from trackside.app.storage._reading.queries import EventListing
from trackside.app.storage._reading.run_search import FoundRuns, RunFilters, RunSearch
from trackside.app.storage._reading.stats import chosen_buckets, chosen_runs, read_stats, read_timeline
from trackside.app.storage._rows.arguments import AnyOf, limit_of, plain, plain_or_none
from trackside.app.storage._rows.records import RunWithEvents, Stats, StoredEvent, StoredRun, StoredThread, TimeBucket
from trackside.app.storage._rows.run_places import RunPlace, read_run_place, read_running
from trackside.harness.lifecycle import FAILED_STATUSES
from trackside.harness.types import JsonObject, LifecycleEventType, RunStatus, ThreadStatus


class StoreReading:
    """The part of a store that only reads."""

    _readers: Readers

    async def events(
        self,
        after: int = 0,
        *,
        before: int | None = None,
        newest_first: bool = False,
        run_id: str | None = None,
        thread_id: str | None = None,
        agent: str | None = None,
        status: AnyOf[RunStatus] | None = None,
        types: AnyOf[LifecycleEventType] | None = None,
        since: datetime | None = None,
        owner: str | None = None,
        limit: int = 1000,
    ) -> list[StoredEvent]:
        """The first `limit` events that fit, in order of position; with `newest_first` the last ones, from the end back.

        Args:
            after: only positions greater than this; the next page comes with the position of the last event.
            before: only positions smaller than this; pages from the end back come with it.
            newest_first: whether to read from the end back.
            run_id: only of this run.
            thread_id: only of this thread.
            agent: only of runs of this agent.
            status: only of runs that have this status now, or one of these.
            types: only events of this type, or one of these.
            since: only events that occurred then or later.
            owner: only of threads of this owner, those that were removed among them.
            limit: how many at most.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
        """
        listing = EventListing.of(
            after=after,
            before=before,
            newest_first=newest_first,
            run_id=run_id,
            thread_id=thread_id,
            agent=agent,
            status=status,
            types=types,
            since=since,
            owner=owner,
            limit=limit,
        )
        return await self._readers.run(listing.read)

    async def place_of(self, run_id: str) -> RunPlace | None:
        """Where a run stands that is not over: who has it, and what it waits for; None if it is over, or there is none.

        Raises:
            InvalidQueryError: this can be no id.
            StorageError: the database failed.
        """
        return await self._readers.run(read_run_place(plain("run_id", run_id)))

    async def running_by_process(self) -> dict[str, int]:
        """How many runs each process executes now that executes any, by the names under which they look after runs.

        Raises:
            StorageError: the database failed.
        """
        return await self._readers.run(read_running)

    async def run(self, run_id: str, *, owner: str | None = None, removed: bool = False) -> StoredRun | None:
        """The run with this id; None if there is none.

        Args:
            run_id: its id.
            owner: only if its thread is this owner's.
            removed: also if it, or its thread, was removed: clients do not see it, and the log still has it.
        """
        return await self._readers.first(queries.one_run(run_id, owner=owner, removed=removed), run_of)

    async def request_of(self, run_id: str) -> JsonObject | None:
        """What was asked for when this run was started, `RunSpec` by field, those that had their default left out.

        None if there is no such run, or it is not kept: `coordinator(keeps_requests=False)`, a run whose agent had no name,
        or that no coordinator of this store has let in.

        Raises:
            InvalidQueryError: `run_id` is not a text.
        """
        return await self._readers.first(queries.request_of_run(run_id), lambda row: row.request)

    async def run_of_key(self, key: str) -> str | None:
        """The id of the run that was started under this idempotency key; None if there is none, or no more."""
        return await self._readers.first(queries.run_of_key(key), lambda row: str(row.run_id))

    async def asked_since(self, run_id: str) -> str | None:
        """The run by which the thread of a run has asked something since that was let in: that itself, or a later one.

        None if there is no such run, or its thread has asked nothing since.

        Raises:
            InvalidQueryError: `run_id` is not a text.
        """
        return await self._readers.first(queries.asked_since(run_id), lambda row: str(row.run_id))

    async def retries_of(self, run_id: str) -> list[str]:
        """The ids of the runs that are another attempt of this one, oldest first.

        Raises:
            InvalidQueryError: `run_id` is not a text.
        """
        query = queries.retries_of_run(run_id)
        return await self._readers.run(lambda connection: [*connection.scalars(query)])

    async def run_with_events(self, run_id: str) -> RunWithEvents | None:
        """The run with this id and all its events, as they were at one moment; None if there is none.

        Raises:
            InvalidQueryError: `run_id` is not a text.
        """
        one, its_events = queries.one_run(run_id), queries.events_of_run(run_id)

        def find(connection: Connection) -> RunWithEvents | None:
            row = connection.execute(one).one_or_none()
            if row is None:
                return None
            return RunWithEvents(run_of(row), [queries.event_of(event) for event in connection.execute(its_events)])

        return await self._readers.run(find)

    async def runs(
        self,
        *,
        status: AnyOf[RunStatus] | None = None,
        agent: str | None = None,
        thread_id: str | None = None,
        parent_run_id: str | None = None,
        metadata: Mapping[str, str | int | bool | None] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        id_prefix: str | None = None,
        owner: str | None = None,
        removed: bool = False,
        waiting: bool = False,
        after: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[StoredRun]:
        """Runs that fit, those created last first, a page of them.

        The answer is always in this order. The next page, of older runs, comes with the last one's `cursor` as `before`;
        the page before, of newer ones, with the first one's `cursor` as `after`: the `limit` runs that are next to it.
        Nothing is counted off, so that a deep page comes as fast as the first one.

        Args:
            status: only runs that have this status now, or one of these. Runs that wait are `pending`.
            agent: only of this agent.
            thread_id: only of this thread.
            parent_run_id: only those that this run has started.
            metadata: only runs whose metadata have all of these: texts, whole numbers, True, False or None.
            since: only runs that were created then or later.
            until: only runs that were created before.
            id_prefix: how their ids begin.
            owner: only of threads of this owner.
            removed: also runs that clients do not see: they, or their threads, were removed, or they were rolled back.
            waiting: only runs whose question to a human is still open: their threads wait for an answer, and none has been
                given since but such as failed, or was cancelled.
            after: only runs that are newer than this `cursor`, next to it.
            before: only runs that are older than this `cursor`.
            limit: how many at most.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
        """
        listing = RunListing.of(
            status=status,
            agent=agent,
            thread_id=thread_id,
            parent_run_id=parent_run_id,
            metadata=metadata,
            since=since,
            until=until,
            id_prefix=id_prefix,
            owner=owner,
            removed=removed,
            waiting=waiting,
            page=Page.of(after=after, before=before, limit=limit),
        )
        return await self._readers.run(listing.read)

    async def search_runs(
        self,
        *,
        text: str | None = None,
        min_cost: float | None = None,
        min_duration: float | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: int = 50,
        **filters: Unpack[RunFilters],
    ) -> FoundRuns:
        """The runs that `runs` lists under the same filters, and that say a text, cost so much, or took so long.

        No index has that, so runs are looked at one by one, a bounded number for each call. Where a page is not full for
        that reason, `continues` is where to go on: pass it as `before` (as `after`, if that was given). On the first page
        then also runs come whose id, or whose thread's, begins with the text, however old they are: as it is typed, in small
        letters, or in capitals.

        Args:
            text: a part of the title, the error, the agent or a value of the metadata, or the beginning of the id of the run
                or its thread; upper and lower case are the same.
            min_cost: only runs that cost so many US dollars, or more.
            min_duration: only runs that took so many seconds, or more; of those that go on, until now.
            after: as in `runs`.
            before: as in `runs`.
            limit: how many at most.
            **filters: as in `runs`.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
        """
        page = Page.of(after=after, before=before, limit=limit)
        search = RunSearch.of(
            RunListing.of(page=page, **filters), text=text, min_cost=min_cost, min_duration=min_duration
        )
        return await self._readers.run(search.read)

    async def thread(self, thread_id: str, *, owner: str | None = None, removed: bool = False) -> StoredThread | None:
        """The thread with this id; None if there is none.

        Args:
            thread_id: its id.
            owner: only if it is this owner's.
            removed: also if it was removed: clients do not see it, and the log still has its runs.
        """
        return await self._readers.first(queries.one_thread(thread_id, owner=owner, removed=removed), thread_of)

    async def threads(
        self,
        *,
        status: AnyOf[ThreadStatus] | None = None,
        agent: str | None = None,
        thread_id: str | None = None,
        metadata: Mapping[str, str | int | bool | None] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        id_prefix: str | None = None,
        owner: str | None = None,
        removed: bool = False,
        after: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[StoredThread]:
        """Threads that fit, those in which something happened last first; pages as in `runs`.

        A thread moves to the front when something happens in it: whoever pages from the front back misses none, and may
        see one again.

        Args:
            status: only threads that have this status now, or one of these.
            agent: only threads that have a run of this agent.
            thread_id: only this one.
            metadata: only threads that have a run with these metadata (of this `agent`, if both are given).
            since: only threads in which something happened then or later.
            until: only threads in which nothing happened from then on.
            id_prefix: how their ids begin.
            owner: only those of this owner.
            removed: also threads that were removed, which clients do not see, and of which the log has runs.
            after: only threads in which something happened later than in the one of this `cursor`, next to it.
            before: only threads in which nothing happened since the one of this `cursor`.
            limit: how many at most.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
        """
        listing = ThreadListing.of(
            status=status,
            agent=agent,
            thread_id=thread_id,
            metadata=metadata,
            since=since,
            until=until,
            id_prefix=id_prefix,
            owner=owner,
            removed=removed,
            page=Page.of(after=after, before=before, limit=limit),
        )
        return await self._readers.run(listing.read)

    async def stats(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        agent: str | None = None,
        thread_id: str | None = None,
        status: AnyOf[RunStatus] | None = None,
        owner: str | None = None,
    ) -> Stats:
        """Totals of all runs, or of those that `runs` lists under the same filter, however many they are.

        Counts and sums are exact; durations are where there are few runs or `thread_id` is given (see `RunTotals`).

        Args:
            since: only runs that were created then or later.
            until: only runs that were created before.
            agent: only of this agent.
            thread_id: only of this thread; its runs are added up one by one.
            status: only runs that have this status now, or one of these.
            owner: only of threads of this owner, whose runs are added up one by one; what he asks of one thread, all have.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
            TooManyRunsError: an owner has more than 2,000 of these runs.
        """
        his = plain_or_none("owner", owner)
        chosen = chosen_runs(since=since, until=until, agent=agent, thread_id=thread_id, status=status)
        return await self._readers.run(lambda connection: read_stats(connection, chosen, his))

    async def failures(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        agent: str | None = None,
        owner: str | None = None,
        limit: int = 20,
    ) -> FailureReasons:
        """Why runs failed, the commonest reason first, of the 2,000 that were created last among those that failed.

        Args:
            since: only runs that were created then or later.
            until: only runs that were created before.
            agent: only of this agent.
            owner: only of threads of this owner.
            limit: how many reasons at most.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
        """
        page = Page.of(after=None, before=None, limit=MOST_FAILURES + 1)
        most = limit_of(limit)
        listing = RunListing.of(
            status=FAILED_STATUSES, agent=agent, since=since, until=until, owner=owner, removed=True, page=page
        )
        return await self._readers.run(lambda connection: read_failures(connection, listing, most))

    async def live_counts(self, *, owner: str | None = None) -> LiveCounts:
        """How many runs go on or wait now, in all processes; with `owner` only on his threads."""
        return await self._readers.run(read_live_counts(plain_or_none("owner", owner)))

    async def timeline(
        self,
        since: datetime,
        until: datetime | None = None,
        *,
        width: timedelta = timedelta(hours=1),
        agent: str | None = None,
        status: AnyOf[RunStatus] | None = None,
        owner: str | None = None,
    ) -> list[TimeBucket]:
        """The same totals over time: one bucket after the other, empty ones too, by when the runs were created.

        Buckets are whole, and begin at the same times for everybody (those of a day at midnight UTC): the first is the
        one in which `since` is, the last one ends at `until` or later.

            for bucket in await store.timeline(now - timedelta(days=1), width=timedelta(minutes=15)):
                print(bucket.start, bucket.total.runs, bucket.total.duration_p95, bucket.total.cost_usd)

        Args:
            since: from when on.
            until: up to when; None: up to now.
            width: whole hours, or whole minutes of which an hour is a multiple; at most 1,000 buckets.
            agent: only runs of this agent.
            status: only runs that have this status now, or one of these.
            owner: as in `stats`.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
            TooManyRunsError: an owner has more than 2,000 of these runs.
        """
        until = datetime.now(UTC) if until is None else until
        his = plain_or_none("owner", owner)
        chosen = chosen_buckets(since=since, until=until, width=width, agent=agent, status=status)
        return await self._readers.run(lambda connection: read_timeline(connection, chosen, width, his))
