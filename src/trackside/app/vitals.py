"""How a running app is doing, in numbers: what metrics show and health checks judge.

The numbers are read by functions that return at once, from any thread, so that reading them holds nobody up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

from trackside.harness.managing.stats import ManagerStats
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.observing.backlog import BufferStats

__all__ = [
    "EngineStats",
    "EngineStatus",
    "EngineVitals",
    "FeedStats",
    "HearingEndsObserver",
    "PoolDepth",
    "QueueStats",
    "Vitals",
    "WatchingObserver",
    "WorkerStats",
    "WriterStats",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterStats:
    """What a store has written in this process. Totals only grow."""

    batches_total: int
    """Transactions."""
    works_total: int
    """Requests that these transactions contained: appends, steps of the coordinator."""
    events_total: int
    seconds_total: float
    """How long the transactions took, from their BEGIN to the answer to their COMMIT."""
    failures_total: int
    """Transactions that failed; what was in them was tried again or refused."""
    pending: int
    """Requests that wait for a transaction now."""
    full: bool = False
    """Whether the database has refused what is new, as it has no room, and is not known to have any again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedStats:
    """How the feeding of one durable observer is doing in this process. Totals only grow."""

    subscription: str
    active: bool
    """Whether this process feeds it now; else another process does, it is paused, or it has failed."""
    paused: bool
    read_total: int
    handled_total: int
    parked_total: int
    returned_total: int
    failed_calls_total: int
    pending: int
    """Events that the observer has in hand."""
    behind_seconds: float
    """How old, in seconds, the oldest event is that was read and not handled yet; 0 if there is none."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Whether an engine moves anything now; if not, `why` and since when. Workers then look into the database."""

    connected: bool
    why: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What an engine has done in this process so far."""

    announced_total: int = 0
    """Runs of which workers were told."""
    announce_failures_total: int = 0
    """Runs of which workers could not be told: the sweep finds them."""
    offers_total: int = 0
    """Offers that this worker got."""
    redelivered_total: int = 0
    """Offers among them that somebody had had before."""
    stops_sent_total: int = 0
    stops_heard_total: int = 0
    messages_said_total: int = 0
    """Messages of live output that were sent, each with all parts that waited."""
    messages_heard_total: int = 0
    messages_refused_total: int = 0
    """Messages that could not be sent at that moment."""
    messages_unreadable_total: int = 0
    """Messages on subjects of the fleet that are none of its own, which only a broker of its own can have."""
    reconnects_total: int = 0


@dataclass(frozen=True, slots=True)
class EngineVitals:
    """How the engine of a process in a fleet is doing."""

    name: str
    status: EngineStatus = field(default_factory=lambda: EngineStatus(connected=True))
    stats: EngineStats = field(default_factory=EngineStats)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """What a worker of a fleet is doing and has done. `taken_total` counts runs; `found_total` counts those of them
    that were not offered, but found.
    """

    places: int
    running: int
    """Places that are taken, including while the worker looks whether there is a run for them."""
    taken_total: int
    found_total: int
    missed_total: int
    """Offers of runs that could no longer be had."""
    foreign_total: int
    """Offers of runs whose agent, or that version of it, is not here."""
    lost_total: int
    """Runs that became somebody else's, or had ended, before they had ended here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolDepth:
    """A pool's runs that have not ended, and the workers for them."""

    pool: str
    ready: int
    """Runs that could start, and that nobody has."""
    waiting: int
    """Runs that wait for their threads."""
    delayed: int
    """Runs that are not due yet."""
    running: int
    """Runs that a worker has."""
    oldest_ready_at: datetime | None
    """Since when the longest-ready run is ready: it was let in, it was due, and the run before it on its thread had
    ended.
    """
    workers: int
    """Workers that are alive and do not drain."""
    places: int
    free: int

    @property
    def is_used(self) -> bool:
        """Whether the pool has any runs or workers."""
        return bool(self.workers or self.ready or self.waiting or self.delayed or self.running)


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What waits in a fleet, pool by pool, and the agents with waiting runs that no worker serves."""

    pools: Sequence[PoolDepth] = ()
    unserved: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """Where the numbers of an app come from."""

    manager: Callable[[], ManagerStats]
    observers: Callable[[], Mapping[str, BufferStats]]
    """The numbers of the observers behind buffers, by the observers' names."""
    writer: Callable[[], WriterStats]
    feeds: Callable[[], Sequence[FeedStats]]
    spooled: Callable[[], int]
    """How many runs have their rest on this machine's disk, waiting for the log."""
    reads: Callable[[], int] = int
    """How many reads of the database have succeeded in this process."""
    agents: Sequence[str] = ()
    """The agents that are served, whether they have had a run here or not."""
    engine: Callable[[], EngineVitals | None] = lambda: None
    """The engine's numbers; None: this process executes what it lets in."""
    worker: Callable[[], WorkerStats | None] = lambda: None
    """The worker's numbers; None: this process is not a worker of a fleet."""
    duties: Callable[[], Mapping[str, bool]] = dict
    """What one process does for all of a fleet, and whether it is this one, or a child process of it, now."""
    queue: Callable[[], QueueStats | None] = lambda: None
    """What waits in the fleet; None: another process of the fleet looks, or nobody needs to."""


@runtime_checkable
class HearingEndsObserver(Protocol):
    """A live observer that wants to hear not only what its own process's runs do, but also of the ends that this
    process announces for others: of runs whose worker was lost, and of runs that were cancelled before any worker had
    them.
    """

    def hear_end(self, event: RunLifecycleEvent) -> None:
        """Called on the event loop when the end is in the log. It must not wait."""
        ...


@runtime_checkable
class WatchingObserver(Protocol):
    """An observer that wants to see how the app is doing, besides its runs."""

    def watch(self, vitals: Vitals) -> None:
        """Called once, when the app is assembled and before any run."""
        ...
