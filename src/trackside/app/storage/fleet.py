"""What a fleet shares in its database: ready runs that nobody owns, workers, duties that one process has for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from trackside.app.vitals import PoolDepth
from trackside.harness.types import CancelAction

DEFAULT_POOL = "default"

type Kind = Literal["inline", "server", "worker"]
"""What a process is: `inline` executes what it lets in; in a fleet, a `server` lets in and a `worker` executes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetMember:
    """What a process of a fleet is, for `Store.coordinator(fleet=…)`."""

    kind: Literal["server", "worker"]
    pool_of: Callable[[str], str]
    """The pool whose workers execute the runs of an agent."""
    version: str | None = None
    """The version of the agents that the process has loaded. Runs that it lets in are for workers with the same."""
    pools: tuple[str, ...] = ()
    """The pools of a worker."""
    capacity: int = 0
    """How many runs a worker executes at once."""
    agents: tuple[str, ...] = ()
    """The names of the agents that the process has loaded."""
    address: str | None = None
    """Where the process can be asked how it is, if anywhere."""
    isolated_in: str | None = None
    """The worker that this one is a part of, in a process of its own."""
    most: Mapping[str, int] = field(default_factory=dict)
    """How many runs of an agent a worker executes at once, for those agents for which that may be fewer than it has
    places; for a worker that is part of another: how many all parts together execute.
    """


class Taking(StrEnum):
    """What became of a worker's try to get a run."""

    taken = "taken"
    """It is this worker's now."""
    gone = "gone"
    """It can no longer be had: it has ended, somebody else has it, or there is no such run."""
    busy = "busy"
    """It cannot be had before it is announced again: it waits for its thread or its time."""
    locked = "locked"
    """It is ready, but somebody is at its row or its thread's row at this moment."""
    foreign = "foreign"
    """It is for workers of another pool, with other agents, or with another version of them."""
    full = "full"
    """This worker, or the one it is part of, executes as many runs of the run's agent as it may at once."""


class ReadyRun(NamedTuple):
    """A run that holds its thread, has not started, and is nobody's: a worker of the pool may claim it."""

    run_id: str
    pool: str = DEFAULT_POOL
    agent: str = ""
    """The agent that it needs; "": not known here."""
    version: str | None = None
    """The version of the agents that it needs; None: any, or not known here."""


class StopAsked(NamedTuple):
    """A run that somebody wants to stop, and the worker that executes it; or a run whose turn has come, and its worker.

    The worker looks into the database, which says what to do.
    """

    run_id: str
    worker_id: str


class HeldRun(NamedTuple):
    """A run that a worker executes, and what is to become of it."""

    run_id: str
    worker_id: str
    agent: str | None
    timeout: float | None
    """How many seconds it may take, if that was asked for."""
    cancel_requested: CancelAction | None
    is_stuck: bool
    """Whether, as its worker says, its agent was stopped but goes on."""


class QueueNews(NamedTuple):
    """What a committed transaction of this process has changed that others have to hear of."""

    ready: tuple[ReadyRun, ...] = ()
    stops: tuple[StopAsked, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWorker:
    """A process that is, or was until lately, a part of the fleet; or an inline one on the same database."""

    worker_id: str
    name: str
    """`host:pid`."""
    kind: Kind
    pools: tuple[str, ...]
    agents: tuple[str, ...]
    version: str | None
    capacity: int
    running: int
    """How many runs it said that it executes, with its last sign of life."""
    draining: bool
    """Whether it takes no more, and leaves when it has finished."""
    started_at: datetime
    last_seen_at: datetime
    """About when it gave its last sign of life."""
    seconds_left: float
    """Seconds until others take it for dead, unless it gives a sign of life; 0 if they may by now."""
    address: str | None
    isolated_in: str | None
    release: str | None
    """The version of Trackside."""

    @property
    def is_worker(self) -> bool:
        """Whether it is a worker of a fleet, and not one of the processes that are another worker's places."""
        return self.kind == "worker" and self.isolated_in is None

    @property
    def takes_runs(self) -> bool:
        """Whether it is a worker that goes on taking runs."""
        return self.is_worker and self.seconds_left > 0 and not self.draining

    def fits(self, version: str | None) -> bool:
        """Whether it may execute runs that were let in for this version of the agents; None: for any."""
        return version is None or version == self.version

    def serves(self, pool: str, agent: str | None, version: str | None) -> bool:
        """Whether it can execute such runs."""
        return self.fits(version) and pool in self.pools and agent in self.agents


@dataclass(frozen=True, slots=True, kw_only=True)
class UnservedRuns:
    """Ready runs that no live worker can execute: how many, and since when the first of them has been ready."""

    agent: str
    version: str | None
    count: int
    oldest_at: datetime
    pool: str = DEFAULT_POOL


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """What waits in a fleet, by pool."""

    pools: tuple[PoolDepth, ...]
    unserved: tuple[UnservedRuns, ...]
    agents: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By pool, the agents that its live workers have."""


class HeldDuty(NamedTuple):
    """What one process does for all: which one, since when, and how long until another may take it over."""

    name: str
    holder: str
    since: datetime
    seconds_left: float
