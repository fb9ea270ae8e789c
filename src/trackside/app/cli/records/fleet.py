"""What the commands see of a fleet, from a database or a server alike: its processes, what waits, and the duties."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from trackside.app.vitals import PoolDepth

EXECUTING = "worker"
"""The kind of those that execute what servers let in, and that may be drained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerNow:
    """A process that looks after runs."""

    worker_id: str
    name: str
    """Its host and the id of the process there."""
    kind: Literal["inline", "server", "worker"]
    pools: tuple[str, ...]
    """Whose runs a worker takes."""
    agents: tuple[str, ...]
    version: str | None
    """Of its agents, if somebody said so."""
    capacity: int
    """How many runs a worker executes at once."""
    running: int
    draining: bool
    started_at: datetime
    seconds_left: float
    """For how long it is taken for alive; 0: it is gone, and its runs are anybody's to end."""
    address: str | None
    isolated_in: str | None
    """The worker in whose child process its agents run."""
    release: str | None
    """Its version of Trackside."""
    last_seen_at: datetime | None = None
    """About when it gave its last sign of life; None: that is not known."""

    @property
    def is_alive(self) -> bool:
        """Whether it has given a sign of life recently."""
        return self.seconds_left > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnservedNow:
    """Runs that are ready, but that no live worker can take."""

    agent: str | None
    version: str | None
    count: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DutyNow:
    """A duty that one process has for the whole fleet; `holder` is its `worker_id`."""

    name: str
    holder: str | None
    since: datetime | None
    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueNow:
    """What waits in the whole database, and which process has which duty."""

    pools: tuple[PoolDepth, ...] = ()
    unserved: tuple[UnservedNow, ...] = ()
    duties: tuple[DutyNow, ...] = ()
