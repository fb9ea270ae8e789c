"""What the log tells readers about events, runs and threads; reading writes nothing."""

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

    def reads_total(self) -> int:
        """How many reads of the database have succeeded in this process; may be called from any thread."""
        return self._readers.answered

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
        """The first `limit` matching events, in order of position; with `newest_first` the last ones, from the end
        back.

        Args:
            after: only positions greater than this; for the next page, pass the position of the last event.
            before: only positions smaller than this, for pages from the end back.
            newest_first: whether to read from the end back.
            run_id: only events of this run.
            thread_id: only events of this thread.
            agent: only events of this agent's runs.
            status: only events of runs that have this status now, or one of these.
            types: only events of this type, or one of these.
            since: only events that occurred then or later.
            owner: only events of this owner's threads, including threads that were removed.
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
        """Where an unfinished run stands: who has it, and what it waits for; None if it is over, or does not exist.

        Raises:
            InvalidQueryError: this cannot be an id.
            StorageError: the database failed.
        """
        return await self._readers.run(read_run_place(plain("run_id", run_id)))

    async def running_by_process(self) -> dict[str, int]:
        """How many runs each process executes now, if any, by the names under which processes look after runs.

        Raises:
            StorageError: the database failed.
        """
        return await self._readers.run(read_running)

    async def run(self, run_id: str, *, owner: str | None = None, removed: bool = False) -> StoredRun | None:
        """The run with this id; None if there is none.

        Args:
            run_id: the run's id.
            owner: only if its thread is this owner's.
            removed: also if it, or its thread, was removed: clients do not see it, but the log still has it.
        """
        return await self._readers.first(queries.one_run(run_id, owner=owner, removed=removed), run_of)

    async def request_of(self, run_id: str) -> JsonObject | None:
        """The request that started this run: the fields of its `RunSpec`, without those that had their default.

        None if there is no such run, or the request is not kept: with `coordinator(keeps_requests=False)`, for a run
        whose agent had no name, or one that no coordinator of this store has let in.

        Raises:
            InvalidQueryError: `run_id` is not a text.
        """
        return await self._readers.first(queries.request_of_run(run_id), lambda row: row.request)

    async def run_of_key(self, key: str) -> str | None:
        """The id of the run that was started under this idempotency key; None if there is none, or none any more."""
        return await self._readers.first(queries.run_of_key(key), lambda row: str(row.run_id))

    async def asked_since(self, run_id: str) -> str | None:
        """The run that has asked something on this run's thread since this run was let in: this run itself, or a later
        one.

        None if there is no such run, or its thread has asked nothing since.

        Raises:
            InvalidQueryError: `run_id` is not a text.
        """
        return await self._readers.first(queries.asked_since(run_id), lambda row: str(row.run_id))

    async def retries_of(self, run_id: str) -> list[str]:
        """The ids of the runs that are further attempts of this one, oldest first.

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
        """A page of the runs that match, the last created first.

        The order is always this. For the next page, of older runs, pass the last run's `cursor` as `before`. For the
        page before, of newer runs, pass the first run's `cursor` as `after`: you get the `limit` runs next to it.
        Nothing is counted off, so a deep page comes as fast as the first one.

        Args:
            status: only runs that have this status now, or one of these. Runs that wait are `pending`.
            agent: only runs of this agent.
            thread_id: only runs of this thread.
            parent_run_id: only runs that this run has started.
            metadata: only runs whose metadata has all of this: texts, whole numbers, True, False or None.
            since: only runs that were created then or later.
            until: only runs that were created before.
            id_prefix: what their ids begin with.
            owner: only runs on this owner's threads.
            removed: also runs that clients do not see: they, or their threads, were removed, or they were rolled back.
            waiting: only runs whose question to a human is still open: their threads wait for an answer, and every
                answer given since has failed or was cancelled.
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
        """The runs that `runs` lists under the same filters, and that contain a text, cost so much, or took so long.

        No index covers that, so runs are looked at one by one, a bounded number for each call. If a page is not full
        for that reason, `continues` is where to go on: pass it as `before` (as `after`, if that was given). The first
        page then also has runs whose id, or whose thread's id, begins with the text, however old they are: as it is
        typed, in small letters, or in capitals.

        Args:
            text: a part of the title, the error, the agent or a value of the metadata, or the beginning of the id of
                the run or its thread; upper and lower case are the same.
            min_cost: only runs that cost this many US dollars, or more.
            min_duration: only runs that took this many seconds, or more; for runs that go on, until now.
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
            thread_id: the thread's id.
            owner: only if it is this owner's.
            removed: also if it was removed: clients do not see it, but the log still has its runs.
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
        """Threads that match, those with the latest activity first; pages as in `runs`.

        A thread moves to the front when something happens in it: if you page from the front back, you miss none, and
        may see one again.

        Args:
            status: only threads that have this status now, or one of these.
            agent: only threads that have a run of this agent.
            thread_id: only this one.
            metadata: only threads that have a run with this metadata (of this `agent`, if both are given).
            since: only threads in which something happened then or later.
            until: only threads in which nothing happened from then on.
            id_prefix: what their ids begin with.
            owner: only threads of this owner.
            removed: also threads that were removed, which clients do not see, but of which the log has runs.
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

        Counts and sums are exact; durations are exact where there are few runs or `thread_id` is given (see
        `RunTotals`).

        Args:
            since: only runs that were created then or later.
            until: only runs that were created before.
            agent: only runs of this agent.
            thread_id: only runs of this thread; its runs are added up one by one.
            status: only runs that have this status now, or one of these.
            owner: only runs on this owner's threads, which are added up one by one. With `thread_id`, the owner is not
                looked at.

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
        """Why runs failed, the most common reason first, among the 2,000 failed runs that were created last.

        Args:
            since: only runs that were created then or later.
            until: only runs that were created before.
            agent: only runs of this agent.
            owner: only runs on this owner's threads.
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
        """How many runs go on or wait now, in all processes; with `owner`, only on this owner's threads."""
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
        """The same totals over time: one bucket after another, including empty ones, by when the runs were created.

        Buckets are whole, and begin at the same times for everybody (those of a day at midnight UTC): the first is the
        one that contains `since`, the last one ends at `until` or later.

            for bucket in await store.timeline(now - timedelta(days=1), width=timedelta(minutes=15)):
                print(bucket.start, bucket.total.runs, bucket.total.duration_p95, bucket.total.cost_usd)

        Args:
            since: the start.
            until: the end; None: now.
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
