"""How a running app does, in numbers: what metrics show and health checks judge.

Numbers are read by functions that return at once, from any thread, so that whoever scrapes them holds nobody up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

from trackside.harness.backlog import BufferStats
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.stats import ManagerStats

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
    """Requests that they took: appends, steps of the coordinator."""
    events_total: int
    seconds_total: float
    """How long the transactions took, from their BEGIN to the answer to their COMMIT."""
    failures_total: int
    """Transactions that failed; what was in them was tried again or refused."""
    pending: int
    """Requests that wait for a transaction now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedStats:
    """How the feeding of one durable observer goes in this process. Totals only grow."""

    subscription: str
    active: bool
    """Whether this process feeds it now; else another does, it is paused, or it has failed."""
    paused: bool
    read_total: int
    handled_total: int
    parked_total: int
    returned_total: int
    failed_calls_total: int
    pending: int
    """Events that the observer has in hand."""
    behind_seconds: float
    """How old the oldest event is that was read and not handled yet; 0 if there is none."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Whether an engine moves anything now; if not, `why` and since when. Workers look into the database then."""

    connected: bool
    why: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What an engine has done in this process so far."""

    announced_total: int = 0
    """Runs that workers were told of."""
    announce_failures_total: int = 0
    """Runs that they could not be told of: the sweep finds them."""
    offers_total: int = 0
    """Offers that this worker got."""
    redelivered_total: int = 0
    """Those among them that had been somebody's before."""
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
    """How the engine of a process does that is one of a fleet."""

    name: str
    status: EngineStatus = field(default_factory=lambda: EngineStatus(connected=True))
    stats: EngineStats = field(default_factory=EngineStats)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """What a worker of a fleet does, and has done. `taken_total` counts runs; of them `found_total` were not offered, but
    found.
    """

    places: int
    running: int
    """Places that are taken, also while it looks whether there is a run for them."""
    taken_total: int
    found_total: int
    missed_total: int
    """Offers of runs that were not to be had any more."""
    foreign_total: int
    """Offers of runs whose agent, or version of it, is not here."""
    lost_total: int
    """Runs that were somebody else's, or had ended, before they had ended here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolDepth:
    """The runs of a pool that have not ended, and who is there for them."""

    pool: str
    ready: int
    """Could start, and are nobody's."""
    waiting: int
    """Wait for their threads."""
    delayed: int
    """Are not due yet."""
    running: int
    """Are some worker's."""
    oldest_ready_at: datetime | None
    """Since when that one is ready which has been so for longest: it was let in, it was due, and the run before it on its
    thread had ended.
    """
    workers: int
    """Those that are alive and do not drain."""
    places: int
    free: int

    @property
    def is_used(self) -> bool:
        """Whether there is somebody or something in it."""
        return bool(self.workers or self.ready or self.waiting or self.delayed or self.running)


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What waits in a fleet, pool by pool, and of which agents runs wait that no worker serves."""

    pools: Sequence[PoolDepth] = ()
    unserved: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """Where the numbers of an app come from."""

    manager: Callable[[], ManagerStats]
    observers: Callable[[], Mapping[str, BufferStats]]
    """Of the observers behind buffers, by their names."""
    writer: Callable[[], WriterStats]
    feeds: Callable[[], Sequence[FeedStats]]
    spooled: Callable[[], int]
    """Runs whose rest waits on this machine's disk for the log."""
    agents: Sequence[str] = ()
    """Those that are served, whether they have had a run here or not."""
    engine: Callable[[], EngineVitals | None] = lambda: None
    """None: this process executes what it lets in."""
    worker: Callable[[], WorkerStats | None] = lambda: None
    """None: this process is no worker of a fleet."""
    duties: Callable[[], Mapping[str, bool]] = dict
    """What one process does for all of a fleet, and whether it is this one, or a child process of it, now."""
    queue: Callable[[], QueueStats | None] = lambda: None
    """None: another process of the fleet looks, or nobody needs to."""


@runtime_checkable
class HearingEndsObserver(Protocol):
    """A live observer that wants to hear, besides what its own process's runs do, of the ends that this process announces
    for others: of runs whose worker was lost, and of runs that were cancelled before any worker had them.
    """

    def hear_end(self, event: RunLifecycleEvent) -> None:
        """Called on the event loop when the end is in the log. Must not wait."""
        ...


@runtime_checkable
class WatchingObserver(Protocol):
    """An observer that wants to see how the app does, besides its runs."""

    def watch(self, vitals: Vitals) -> None:
        """Called once, when the app is assembled and before any run."""
        ...
