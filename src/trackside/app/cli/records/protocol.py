"""What the commands ask of the records, which are in a database or on a server. The commands do not know which."""

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
"""Called with the error, once each time that the records are away while somebody follows."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where records are: `shown` is for people, and `flags` let another command find them again."""

    shown: str
    flags: str = ""


class RunFilters(TypedDict, total=False):
    """Which runs are wanted."""

    status: Sequence[RunStatus] | None
    agent: str | None
    thread_id: str | None
    parent_run_id: str | None
    since: datetime | None
    id_prefix: str | None
    waiting: bool


class ThreadFilters(TypedDict, total=False):
    """Which threads are wanted."""

    status: Sequence[ThreadStatus] | None
    agent: str | None
    thread_id: str | None
    since: datetime | None
    id_prefix: str | None


class FollowFilters(TypedDict, total=False):
    """Which of the incoming events are wanted."""

    run_id: str | None
    thread_id: str | None
    agent: str | None
    types: Sequence[LifecycleEventType] | None
    since: datetime | None


class EventFilters(FollowFilters, total=False):
    """Which of the existing events are wanted, and from which end."""

    status: Sequence[RunStatus] | None
    before: int | None
    newest_first: bool


class Following(Protocol):  # standalone: before Python 3.13 a protocol cannot inherit from AsyncIterator
    """Events one after another, without end, until `end` is called."""

    def __aiter__(self) -> AsyncIterator[StoredEvent]: ...

    async def __anext__(self) -> StoredEvent: ...

    def end(self) -> object:
        """Stop the iteration, from anywhere; may be called again."""
        ...


class Records(Protocol):
    """Runs, threads and events that are recorded somewhere, and what operators do to them.

    There are two implementations: `StoredRecords` for a database, and `RemoteRecords` for a server. They also find what
    was removed from the sight of clients. Listings are sorted as the store sorts them. `limit` is the most that they
    return; it has no upper bound itself.
    """

    @property
    def home(self) -> Home:
        """Where the records are."""
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
        """The runs that match, those created last first.

        A search ends after this many steps, each through several hundred runs; None: it looks at all.
        """
        ...

    async def request_of(self, run_id: str) -> JsonObject | None:
        """What a run was asked for; None if that is not kept."""
        ...

    async def retries_of(self, run_id: str) -> list[str]:
        """The ids of the runs that are other attempts of this one."""
        ...

    async def thread(self, thread_id: str) -> StoredThread | None:
        """The thread with this id; None if there is none."""
        ...

    async def threads(self, *, limit: int = 50, **filters: Unpack[ThreadFilters]) -> list[StoredThread]:
        """The threads that match, those in which something happened last first."""
        ...

    async def events(self, after: int = 0, *, limit: int = 1_000, **filters: Unpack[EventFilters]) -> list[StoredEvent]:
        """The events that match, in order of position, or with `newest_first` from the end back."""
        ...

    def follow(self, after: int, *, on_outage: HearOutage | None = None, **filters: Unpack[FollowFilters]) -> Following:
        """The events that match: those that exist after a position, then each one that comes.

        None is missed or comes twice. While the records are away, it tells `on_outage`, waits, and then goes on.
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
        """Totals of the runs that match."""
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
        """What is running and what waits."""
        ...

    async def cancel(self, run: StoredRun, *, action: CancelAction = CancelAction.interrupt) -> None:
        """Stop a run, whichever process executes it. One that has ended stays as it is."""
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
        """The state of all subscriptions, by name."""
        ...

    async def subscription(self, name: str) -> Subscription:
        """The state of one subscription.

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
        """Go on after another position."""
        ...

    async def forget(self, name: str) -> None:
        """Delete a subscription with its position and what it has parked."""
        ...

    async def parked(self, name: str, *, after: int = 0, limit: int) -> list[ParkedEvent]:
        """What a subscription has parked after a position, in order of position."""
        ...

    async def retry_parked(self, name: str, position: int | None = None) -> int:
        """Deliver a parked event again, or all of them; returns how many that is."""
        ...

    async def drop_parked(self, name: str, position: int | None = None, *, until: datetime | None = None) -> int:
        """Give up a parked event, or all of them, or all that were parked up to a time; returns how many that is."""
        ...

    async def workers(self) -> list[WorkerNow]:
        """The processes that look after runs, the earliest started first.

        A process that is gone is among them until somebody has ended its runs.
        """
        ...

    async def queue(self) -> QueueNow:
        """What waits for workers, and which process has which duty."""
        ...

    async def drain(self, worker_id: str) -> bool:
        """Have a worker take no more runs, and leave when its own are over. False if no live worker has this id."""
        ...


def newest_first(runs: Sequence[StoredRun], limit: int) -> list[StoredRun]:
    """Merge several pages of a search into one listing; a run that is named by its id appears on more than one page."""
    distinct = {run.run_id: run for run in runs}
    return sorted(distinct.values(), key=lambda run: (run.created_at, run.run_id), reverse=True)[:limit]
