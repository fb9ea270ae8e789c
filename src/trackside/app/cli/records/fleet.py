"""What the commands see of a fleet, whether from a database or a server: its processes, what waits, and the duties."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from trackside.app.vitals import PoolDepth

EXECUTING = "worker"
"""The kind of process that executes what servers let in, and that may be drained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerNow:
    """A process that looks after runs."""

    worker_id: str
    name: str
    """Its host, and its process id there."""
    kind: Literal["inline", "server", "worker"]
    pools: tuple[str, ...]
    """The pools from which a worker takes runs."""
    agents: tuple[str, ...]
    version: str | None
    """The version of its agents, if somebody named one."""
    capacity: int
    """How many runs a worker executes at once."""
    running: int
    draining: bool
    started_at: datetime
    seconds_left: float
    """How long it still counts as alive; 0: it is gone, and any process may end its runs."""
    address: str | None
    isolated_in: str | None
    """The worker whose child process this is."""
    release: str | None
    """Its version of Trackside."""
    last_seen_at: datetime | None = None
    """About when it gave its last sign of life; None: not known."""

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
