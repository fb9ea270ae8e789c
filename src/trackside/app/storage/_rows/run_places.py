"""Where an unfinished run stands: who has it, and what it waits for; and how many runs each process executes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from trackside.app.storage._rows.queue import Standing
from trackside.app.storage._rows.tables import active_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlace:
    """A run's place among those that are not over. `owner` is the process that has it; None: any that may take it."""

    is_delayed: bool
    """Whether its time has not come."""
    is_waiting: bool
    """Whether its time has come, and it has neither started nor been withdrawn."""
    holds: bool
    """Whether it is its turn on its thread."""
    owner: str | None
    pool: str
    version: str | None
    """The version of its agent that has to execute it; None: any."""


def read_running(connection: Connection) -> dict[str, int]:
    """Read how many runs each process executes, for the processes that execute any."""
    owner = active_runs.c.owner
    claimed = select(owner, func.count()).where(owner.is_not(None), active_runs.c.state == Standing.claimed.value)
    return {row[0]: row[1] for row in connection.execute(claimed.group_by(owner))}


def read_run_place(run_id: str) -> Callable[[Connection], RunPlace | None]:
    """A function that reads the place of a run; None if it is over, or there is none."""
    asked = (active_runs.c.state, active_runs.c.holds, active_runs.c.owner, active_runs.c.pool, active_runs.c.version)
    query = select(*asked).where(active_runs.c.run_id == run_id)

    def read(connection: Connection) -> RunPlace | None:
        row = connection.execute(query).one_or_none()
        if row is None:
            return None
        state, holds, owner, pool, version = row
        return RunPlace(
            is_delayed=state == Standing.delayed,
            is_waiting=state == Standing.pending,
            holds=bool(holds),
            owner=owner,
            pool=pool,
            version=version,
        )

    return read
