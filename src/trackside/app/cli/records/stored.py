"""The records of a database, in the form that the commands need."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Unpack

from msgspec import convert

from trackside.app.cli.records.fleet import DutyNow, QueueNow, UnservedNow, WorkerNow
from trackside.app.cli.records.protocol import (
    EventFilters,
    FollowFilters,
    Following,
    HearOutage,
    Home,
    RunFilters,
    ThreadFilters,
    newest_first,
)
from trackside.harness.types import CancelAction, JsonObject, RunStatus

if TYPE_CHECKING:
    from trackside.app.storage import LiveCounts, Stats, Store, StoredEvent, StoredRun, StoredThread, TimeBucket
    from trackside.app.storage.subscriptions import ParkedEvent, Subscription


class StoredRecords:
    """The records of a store, for a person who may see all of them."""

    def __init__(self, store: Store, home: Home) -> None:
        self._store = store
        self.home = home

    async def run(self, run_id: str) -> StoredRun | None:
        """The run with this id."""
        return await self._store.run(run_id, removed=True)

    async def runs(
        self,
        *,
        text: str | None = None,
        min_cost: float | None = None,
        min_duration: float | None = None,
        steps: int | None = None,
        limit: int = 50,
        **filters: Unpack[RunFilters],
    ) -> list[StoredRun]:
        """The runs that match. A search looks at some runs at a time, until it has enough or there are no more."""
        if text is None and min_cost is None and min_duration is None:
            return await self._store.runs(**filters, removed=True, limit=limit)
        found: list[StoredRun] = []
        before: str | None = None
        while len(found) < limit and steps != 0:
            page = await self._store.search_runs(
                **filters,
                removed=True,
                text=text,
                min_cost=min_cost,
                min_duration=min_duration,
                before=before,
                limit=limit,
            )
            found += page.runs
            before = page.continues
            steps = None if steps is None else steps - 1
            if before is None:
                break
        return newest_first(found, limit)

    async def request_of(self, run_id: str) -> JsonObject | None:
        """What a run was asked for."""
        return await self._store.request_of(run_id)

    async def retries_of(self, run_id: str) -> list[str]:
        """Its other attempts."""
        return await self._store.retries_of(run_id)

    async def thread(self, thread_id: str) -> StoredThread | None:
        """The thread with this id."""
        return await self._store.thread(thread_id, removed=True)

    async def threads(self, *, limit: int = 50, **filters: Unpack[ThreadFilters]) -> list[StoredThread]:
        """The threads that match."""
        return await self._store.threads(**filters, removed=True, limit=limit)

    async def events(self, after: int = 0, *, limit: int = 1_000, **filters: Unpack[EventFilters]) -> list[StoredEvent]:
        """The events that match."""
        return await self._store.events(after, **filters, limit=limit)

    def follow(self, after: int, *, on_outage: HearOutage | None = None, **filters: Unpack[FollowFilters]) -> Following:
        """Events as they come."""
        return self._store.follow(after, **filters, on_outage=on_outage)

    async def end(self) -> int:
        """The position of the last event."""
        return await self._store.subscriptions.end()

    async def stats(
        self,
        *,
        agent: str | None = None,
        thread_id: str | None = None,
        status: Sequence[RunStatus] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Stats:
        """Totals of the runs that match."""
        return await self._store.stats(since, until, agent=agent, thread_id=thread_id, status=status)

    async def timeline(
        self,
        since: datetime,
        until: datetime | None = None,
        *,
        width: timedelta,
        agent: str | None = None,
        status: Sequence[RunStatus] | None = None,
    ) -> list[TimeBucket]:
        """Totals over time."""
        return await self._store.timeline(since, until, width=width, agent=agent, status=status)

    async def now(self) -> LiveCounts:
        """What is running and what waits."""
        return await self._store.live_counts()

    async def cancel(self, run: StoredRun, *, action: CancelAction = CancelAction.interrupt) -> None:
        """Stop a run. The request is recorded, and the process that executes the run acts on it."""
        await self._store.request_cancel(run.run_id, action)

    async def delete_run(self, run: StoredRun) -> None:
        """Remove a run that has ended."""
        await self._store.remove_run(run.thread_id, run.run_id)

    async def delete_thread(self, thread: StoredThread) -> None:
        """Remove a thread and what it remembers, even if there is no server to remove the latter."""
        await self._store.threads_of(None).remove(thread.thread_id)
        await self.forget_threads()

    async def forget_threads(self, *, expired: bool = False) -> None:
        """Remove what deleted threads remember, as servers always do; with `expired`, first remove expired threads."""
        from trackside.app.wiring import RESULTS_LINGER

        await self._store.sweeper(linger=RESULTS_LINGER).forget(expired=expired)

    async def subscriptions(self) -> list[Subscription]:
        """All subscriptions."""
        return await self._store.subscriptions.all()

    async def subscription(self, name: str) -> Subscription:
        """One of them."""
        return await self._store.subscriptions.get(name)

    async def pause(self, name: str) -> None:
        """Deliver nothing for now."""
        await self._store.subscriptions.pause(name)

    async def resume(self, name: str) -> None:
        """Go on where it was."""
        await self._store.subscriptions.resume(name)

    async def seek(self, name: str, position: int) -> None:
        """Go on after another position."""
        await self._store.subscriptions.seek(name, position)

    async def forget(self, name: str) -> None:
        """Delete a subscription."""
        await self._store.subscriptions.delete(name)

    async def parked(self, name: str, *, after: int = 0, limit: int) -> list[ParkedEvent]:
        """What it has parked."""
        return await self._store.subscriptions.parked(name, after=after, limit=limit)

    async def retry_parked(self, name: str, position: int | None = None) -> int:
        """Have parked events delivered again."""
        return await self._store.subscriptions.retry_parked(name, position)

    async def drop_parked(self, name: str, position: int | None = None, *, until: datetime | None = None) -> int:
        """Give parked events up."""
        return await self._store.subscriptions.drop_parked(name, position, until=until)

    async def workers(self) -> list[WorkerNow]:
        """The processes that look after runs."""
        found = [_as(WorkerNow, worker) for worker in await self._store.fleet.workers()]
        return sorted(found, key=lambda worker: (worker.started_at, worker.worker_id))

    async def queue(self) -> QueueNow:
        """What waits for workers."""
        depth, duties = await self._store.fleet.queue(), await self._store.fleet.duties()
        return QueueNow(
            pools=depth.pools,
            unserved=tuple(_as(UnservedNow, runs) for runs in depth.unserved),
            duties=tuple(
                DutyNow(name=name, holder=holder, since=since, seconds_left=left)
                for name, holder, since, left in duties
            ),
        )

    async def drain(self, worker_id: str) -> bool:
        """Have a worker leave."""
        return await self._store.fleet.ask_to_drain(worker_id)


def _as[T](kind: type[T], found: object) -> T:
    """What the store says about a fleet, in the form that the commands see."""
    return convert(found, kind, from_attributes=True)
