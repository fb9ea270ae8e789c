"""What the commands ask of whoever has the records: a database, or a server that has one. They do not know which."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol, TypedDict, Unpack

from trackside.app.cli.records.fleet import QueueNow, WorkerNow
from trackside.harness.types import CancelAction, JsonObject, LifecycleEventType, RunStatus, ThreadStatus

if TYPE_CHECKING:
    from trackside.app.storage import LiveCounts, Stats, StoredEvent, StoredRun, StoredThread, TimeBucket
    from trackside.app.storage.subscriptions import ParkedEvent, Subscription

type HearOutage = Callable[[Exception], object]
"""Called with the error, once for each time that the records are away while somebody follows."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where records are: `shown` to people, and the `flags` with which another command finds them again."""

    shown: str
    flags: str = ""


class RunFilters(TypedDict, total=False):
    """Which runs."""

    status: Sequence[RunStatus] | None
    agent: str | None
    thread_id: str | None
    parent_run_id: str | None
    since: datetime | None
    id_prefix: str | None
    waiting: bool


class ThreadFilters(TypedDict, total=False):
    """Which threads."""

    status: Sequence[ThreadStatus] | None
    agent: str | None
    thread_id: str | None
    since: datetime | None
    id_prefix: str | None


class FollowFilters(TypedDict, total=False):
    """Which events, of those that come."""

    run_id: str | None
    thread_id: str | None
    agent: str | None
    types: Sequence[LifecycleEventType] | None
    since: datetime | None


class EventFilters(FollowFilters, total=False):
    """Which events, of those that are there, and from which end."""

    status: Sequence[RunStatus] | None
    before: int | None
    newest_first: bool


class Following(Protocol):  # of its own: until Python 3.13 a protocol cannot inherit from AsyncIterator
    """Events one after another, without end, until `end` is called."""

    def __aiter__(self) -> AsyncIterator[StoredEvent]: ...

    async def __anext__(self) -> StoredEvent: ...

    def end(self) -> object:
        """Have the iteration stop, from wherever; may be called again."""
        ...


class Records(Protocol):
    """Runs, threads and events that are recorded somewhere, and what operators do to them.

    Two have it: `StoredRecords` of a database, and `RemoteRecords` of a server. What was removed from the sight of clients
    is found, too. Listings are sorted as those of the store, and `limit` is how many there are at most, without a bound.
    """

    @property
    def home(self) -> Home:
        """Where they are."""
        ...

    async def run(self, run_id: str) -> StoredRun | None:
        """The run with this id; None if there is none."""
        ...

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
        """Runs that fit, those created last first. A search ends after so many steps, each of some hundred runs; None: it
        looks at all.
        """
        ...

    async def request_of(self, run_id: str) -> JsonObject | None:
        """What a run was asked for; None if that is not kept."""
        ...

    async def retries_of(self, run_id: str) -> list[str]:
        """The ids of the runs that are another attempt of this one."""
        ...

    async def thread(self, thread_id: str) -> StoredThread | None:
        """The thread with this id; None if there is none."""
        ...

    async def threads(self, *, limit: int = 50, **filters: Unpack[ThreadFilters]) -> list[StoredThread]:
        """Threads that fit, those in which something happened last first."""
        ...

    async def events(self, after: int = 0, *, limit: int = 1_000, **filters: Unpack[EventFilters]) -> list[StoredEvent]:
        """Events that fit, in order of position, or with `newest_first` from the end back."""
        ...

    def follow(self, after: int, *, on_outage: HearOutage | None = None, **filters: Unpack[FollowFilters]) -> Following:
        """The events that fit, those that are there behind a position and each one that comes; none is missed or comes
        twice. While the records are away it waits, having said so to `on_outage`, and goes on.
        """
        ...

    async def end(self) -> int:
        """The position of the last event of the log; 0 if there was none yet."""
        ...

    async def stats(
        self,
        *,
        agent: str | None = None,
        thread_id: str | None = None,
        status: Sequence[RunStatus] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Stats:
        """Totals of the runs that fit."""
        ...

    async def timeline(
        self,
        since: datetime,
        until: datetime | None = None,
        *,
        width: timedelta,
        agent: str | None = None,
        status: Sequence[RunStatus] | None = None,
    ) -> list[TimeBucket]:
        """The same totals over time, one bucket after the other."""
        ...

    async def now(self) -> LiveCounts:
        """What goes on and what waits."""
        ...

    async def cancel(self, run: StoredRun, *, action: CancelAction = CancelAction.interrupt) -> None:
        """Have a run stopped, whichever process executes it. One that has ended is left as it is."""
        ...

    async def delete_run(self, run: StoredRun) -> None:
        """Remove a run that has ended from the sight of clients; the log keeps its events.

        Raises:
            RunInUseError: it has not ended.
        """
        ...

    async def delete_thread(self, thread: StoredThread) -> None:
        """Remove a thread with its runs and all that it remembers from the sight of clients.

        Raises:
            ThreadInUseError: a run of it has not ended.
        """
        ...

    async def subscriptions(self) -> list[Subscription]:
        """How all subscriptions stand, by name."""
        ...

    async def subscription(self, name: str) -> Subscription:
        """How one stands.

        Raises:
            UnknownSubscriptionError: there is none.
        """
        ...

    async def pause(self, name: str) -> None:
        """Deliver nothing to a subscription until it is resumed."""
        ...

    async def resume(self, name: str) -> None:
        """Go on where it was."""
        ...

    async def seek(self, name: str, position: int) -> None:
        """Go on behind another position."""
        ...

    async def forget(self, name: str) -> None:
        """Delete a subscription with its place and what it has parked."""
        ...

    async def parked(self, name: str, *, after: int = 0, limit: int) -> list[ParkedEvent]:
        """What a subscription has parked behind a position, in order of positions."""
        ...

    async def retry_parked(self, name: str, position: int | None = None) -> int:
        """Have a parked event delivered again, or all of them; how many that are."""
        ...

    async def drop_parked(self, name: str, position: int | None = None, *, until: datetime | None = None) -> int:
        """Give a parked event up, or all of them, or all that were parked until then; how many that are."""
        ...

    async def workers(self) -> list[WorkerNow]:
        """The processes that look after runs, those that started first first; of those that are gone, whose runs nobody has
        ended yet.
        """
        ...

    async def queue(self) -> QueueNow:
        """What waits for workers, and who does what for all."""
        ...

    async def drain(self, worker_id: str) -> bool:
        """Have a worker take no more runs, and leave when those that it has are over. False: no live one has this id."""
        ...


def newest_first(runs: Sequence[StoredRun], limit: int) -> list[StoredRun]:
    """Runs of several pages of a search as one listing: one that is named by its id is found on more than one."""
    distinct = {run.run_id: run for run in runs}
    return sorted(distinct.values(), key=lambda run: (run.created_at, run.run_id), reverse=True)[:limit]
