"""The records of a running server, in the form that the commands need."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Unpack

import msgspec

from trackside.app.cli.arguments import ALL
from trackside.app.cli.records.fleet import QueueNow, WorkerNow
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
from trackside.app.cli.records.remote_connection import Connection, NotThereError, Query, part_of_path, path_of_run
from trackside.app.cli.records.remote_following import RemoteFollower
from trackside.app.cli.records.remote_wire import (
    Bucket,
    Decided,
    Details,
    LogEvent,
    Parked,
    Totals,
    bucket_of,
    parked_event,
    stats_of,
    stored_event,
)
from trackside.app.storage import LiveCounts, Stats, StoredEvent, StoredRun, StoredThread, TimeBucket
from trackside.app.storage.subscriptions import ParkedEvent, Subscription
from trackside.harness.ids import is_uuid, new_id
from trackside.harness.lifecycle import is_final
from trackside.harness.types import CancelAction, JsonObject, RunStatus

_PAGE: Final = 500
_NEXT: Final = "x-pagination-next"
_CONTINUES: Final = "x-search-continues"


class _Retried(msgspec.Struct):
    run_id: str


class RemoteRecords:
    """The records of a server, as far as the key may see them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def home(self) -> Home:
        """The server."""
        return self._connection.home

    async def run(self, run_id: str) -> StoredRun | None:
        """The run with this id."""
        found = await self.runs(id_prefix=run_id, limit=_PAGE) if run_id else []
        if len(found) == _PAGE and not any(run.run_id == run_id for run in found):
            found = await self.runs(limit=ALL, **await self._where(run_id))
        return next((run for run in found if run.run_id == run_id), None)

    async def _where(self, run_id: str) -> RunFilters:
        """The smallest listing that has a run: by its first event, that of its thread; without one, of those that wait."""
        begun = await self.events(run_id=run_id, limit=1)
        if begun:
            return {"id_prefix": run_id, "thread_id": begun[0].event.thread_id}
        return {"id_prefix": run_id, "status": [RunStatus.pending]}

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
        """The runs that match."""
        query = {
            **filters,
            "waiting": filters.get("waiting") or None,
            "text": text,
            "min_cost": min_cost,
            "min_duration": min_duration,
            "details": True,
            "removed": True,
        }
        found = await self._pages("runs", query, list[StoredRun], limit=limit, place="before", steps=steps)
        return newest_first(found, limit)

    async def request_of(self, run_id: str) -> JsonObject | None:
        """What a run was asked for."""
        return (await self._details(run_id)).request

    async def retries_of(self, run_id: str) -> list[str]:
        """Its other attempts."""
        return (await self._details(run_id)).retries

    async def thread(self, thread_id: str) -> StoredThread | None:
        """The thread with this id."""
        found = await self.threads(thread_id=thread_id, limit=1)
        return found[0] if found else None

    async def threads(self, *, limit: int = 50, **filters: Unpack[ThreadFilters]) -> list[StoredThread]:
        """The threads that match."""
        query = {**filters, "removed": True}
        return await self._pages("threads", query, list[StoredThread], limit=limit, place="before")

    async def events(self, after: int = 0, *, limit: int = 1_000, **filters: Unpack[EventFilters]) -> list[StoredEvent]:
        """The events that match."""
        place = "before" if filters.get("newest_first") else "after"
        found = await self._pages(
            "events", {"after": after, **_on_wire(filters)}, list[LogEvent], limit=limit, place=place
        )
        return [stored_event(event) for event in found]

    def follow(self, after: int, *, on_outage: HearOutage | None = None, **filters: Unpack[FollowFilters]) -> Following:
        """Events as they come."""
        return RemoteFollower(self._connection, after, _on_wire(filters), on_outage)

    async def end(self) -> int:
        """The position of the last event that the key may see."""
        newest = await self.events(newest_first=True, limit=1)
        return newest[0].position if newest else 0

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
        query = {"agent": agent, "thread_id": thread_id, "status": status, "since": since, "until": until}
        return stats_of(await self._get("stats", Totals, query))

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
        seconds = round(width.total_seconds())
        query = {"since": since, "until": until, "width": seconds, "agent": agent, "status": status}
        return [bucket_of(bucket) for bucket in await self._get("stats/timeline", list[Bucket], query)]

    async def now(self) -> LiveCounts:
        """What is running and what waits."""
        return await self._get("stats/now", LiveCounts)

    async def cancel(self, run: StoredRun, *, action: CancelAction = CancelAction.interrupt) -> None:
        """Stop a run."""
        if is_final(run.status):
            return
        path = f"{path_of_run(run.thread_id, run.run_id)}/cancel"
        await self._connection.ask("POST", path, {"action": action.value})

    async def retry(self, run_id: str) -> str:
        """Have the server repeat what a run was asked for; returns the id of the new run."""
        headers = {"Idempotency-Key": new_id()}
        answer = await self._connection.ask("POST", f"runs/{part_of_path(run_id)}/retry", headers=headers)
        return self._connection.decode(answer.body, _Retried).run_id

    async def delete_run(self, run: StoredRun) -> None:
        """Remove a run that has ended."""
        await self._connection.ask("DELETE", path_of_run(run.thread_id, run.run_id))

    async def delete_thread(self, thread: StoredThread) -> None:
        """Remove a thread."""
        await self._connection.ask("DELETE", f"threads/{part_of_path(thread.thread_id)}")

    async def subscriptions(self) -> list[Subscription]:
        """All subscriptions."""
        return await self._get("subscriptions", list[Subscription])

    async def subscription(self, name: str) -> Subscription:
        """One of them."""
        return self._connection.decode(await self._subscription("GET", name), Subscription)

    async def pause(self, name: str) -> None:
        """Deliver nothing for now."""
        await self._subscription("POST", name, "pause")

    async def resume(self, name: str) -> None:
        """Go on where it was."""
        await self._subscription("POST", name, "resume")

    async def seek(self, name: str, position: int) -> None:
        """Go on after another position."""
        await self._subscription("POST", name, "seek", {"position": position})

    async def forget(self, name: str) -> None:
        """Delete a subscription."""
        await self._subscription("DELETE", name)

    async def parked(self, name: str, *, after: int = 0, limit: int) -> list[ParkedEvent]:
        """What it has parked."""
        await self.subscription(name)
        path = f"subscriptions/{part_of_path(name)}/parked"
        found = await self._pages(path, {"after": after}, list[Parked], limit=limit, place="after")
        return [parked_event(parked) for parked in found]

    async def retry_parked(self, name: str, position: int | None = None) -> int:
        """Have parked events delivered again."""
        return await self._decide(name, "parked/retry", position)

    async def drop_parked(self, name: str, position: int | None = None, *, until: datetime | None = None) -> int:
        """Give parked events up."""
        return await self._decide(name, "parked/drop", position, until)

    async def workers(self) -> list[WorkerNow]:
        """The processes that look after runs."""
        return await self._get("workers", list[WorkerNow])

    async def queue(self) -> QueueNow:
        """What waits for workers."""
        return await self._get("queue", QueueNow)

    async def drain(self, worker_id: str) -> bool:
        """Have a worker leave."""
        try:
            await self._connection.ask("POST", f"workers/{part_of_path(worker_id)}/drain")
        except NotThereError:
            return False
        return True

    async def _decide(self, name: str, what: str, position: int | None, until: datetime | None = None) -> int:
        moment = {} if until is None else {"until": until.isoformat()}
        body = await self._subscription("POST", name, what, {"position": position, **moment})
        return self._connection.decode(body, Decided).count

    async def _subscription(self, method: str, name: str, what: str = "", body: Any = None) -> bytes:
        path = f"subscriptions/{part_of_path(name)}"
        return (await self._connection.ask(method, f"{path}/{what}" if what else path, body=body)).body

    async def _details(self, run_id: str) -> Details:
        if not is_uuid(run_id):  # recorded by another program, which requests nothing from a server
            return Details(request=None, retries=[])
        return await self._get(f"runs/{part_of_path(run_id)}", Details, {"removed": True})

    async def _get[T](self, path: str, kind: type[T], query: Query | None = None) -> T:
        return self._connection.decode((await self._connection.get(path, query)).body, kind)

    async def _pages[T](
        self, path: str, query: Query, kind: type[list[T]], *, limit: int, place: str, steps: int | None = None
    ) -> list[T]:
        """As much of a listing as is wanted, page by page; each page goes on where the one before ended."""
        found: list[T] = []
        at: str | None = None
        while len(found) < limit and steps != 0:
            more: dict[str, Any] = {**query, "limit": min(_PAGE, limit - len(found))}
            if at is not None:
                more[place] = at
            answer = await self._connection.get(path, more)
            found += self._connection.decode(answer.body, kind)
            at = answer.headers.get(_NEXT) or answer.headers.get(_CONTINUES)
            if at is None:
                break
            steps = None if steps is None else steps - 1
        return found


def _on_wire(filters: FollowFilters) -> dict[str, Any]:
    """The filters for events, under the server's names."""
    return {"type" if name == "types" else name: value for name, value in filters.items()}
