"""A fleet on the wire: its processes, what waits for them, and why a run waits."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct


class WorkerInfo(Struct, frozen=True, kw_only=True):
    """A process that looks after runs in the database."""

    worker_id: str
    name: str
    """Its host and the id of the process there."""
    kind: Literal["inline", "server", "worker"]
    """Whether it lets runs in and executes them, only lets them in, or only executes them."""
    pools: list[str]
    """Whose runs a worker takes."""
    agents: list[str]
    version: str | None
    """Of the agents that it has loaded; null: nobody said."""
    capacity: int
    """How many runs a worker executes at once."""
    running: int
    draining: bool
    """It takes no more runs, and leaves when those that it has are over."""
    started_at: datetime
    last_seen_at: datetime
    """About when it gave a sign of life."""
    seconds_left: float
    """For how long others take it for alive that hear nothing of it; 0: its runs are anybody's to end or take."""
    address: str | None
    """Where its health can be asked."""
    isolated_in: str | None
    """The worker in whose child process its agents run."""
    release: str | None
    """Its version of Trackside."""
    is_this: bool


class PoolInfo(Struct, frozen=True, kw_only=True):
    """What waits for the workers of a pool, and how much room they have."""

    pool: str
    ready: int
    """Runs that a worker may take now."""
    waiting: int
    """Runs that wait for the run before them on their thread."""
    delayed: int
    """Runs whose time has not come."""
    running: int
    oldest_ready_at: datetime | None
    """Since when that one is ready which has been so for longest; null: none is."""
    workers: int
    """Those that are alive and do not drain."""
    places: int
    free: int


class UnservedInfo(Struct, frozen=True, kw_only=True):
    """Runs that are ready, and that no live worker can take."""

    agent: str
    version: str | None
    """Of the agents that it was let in for; null: any."""
    count: int
    oldest_at: datetime
    """Since when the first of them is ready."""


class DutyInfo(Struct, frozen=True, kw_only=True):
    """A duty: what one process does for all of the fleet."""

    name: str
    holder: str
    """Its `worker_id`."""
    since: datetime
    seconds_left: float
    """0: nobody has it, and whoever is next takes it."""


class Queue(Struct, frozen=True, kw_only=True):
    """What waits in the whole database, and which process does what for all of the fleet."""

    pools: list[PoolInfo]
    unserved: list[UnservedInfo]
    duties: list[DutyInfo]


class DrainAsked(Struct, frozen=True, kw_only=True):
    """The worker was told to take no more runs, and to leave when those that it has are over."""

    worker_id: str
    draining: bool = True


type WaitsFor = Literal["worker", "place", "thread", "time"]
"""For somebody who has its agent, for room on one of these, for the run before it, or for when it is due."""


class WaitingFor(Struct, frozen=True, kw_only=True):
    """What a run that has not started waits for."""

    what: WaitsFor
    why: str
    """In a sentence."""


class ExecutedBy(Struct, frozen=True, kw_only=True):
    """The process that executes a run."""

    worker_id: str
    name: str | None
    """Its host and the id of the process there; null: it is not known any more."""
