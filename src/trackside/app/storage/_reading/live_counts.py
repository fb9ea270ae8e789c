"""How many runs go on or wait in all processes of a database, and how many threads wait for a human."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, case, func, select

from trackside.app.storage._reading.listings import FEW
from trackside.app.storage._rows.conditions import are_few, goes_on, unindexed, waits_for_human
from trackside.app.storage._rows.queue import Standing
from trackside.app.storage._rows.tables import active_runs, runs, threads
from trackside.harness.types import ThreadStatus

MOST_WAITING: Final = 10_000
"""At most this many threads that wait for a human are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCounts:
    """Runs that go on, or wait: for a place in a process, for the run before them on their thread, or for their time.

    `stuck` ones are among those that run. `waiting_for_human` counts threads, up to `MOST_WAITING`, without those for
    which an answer has come, though its run waits for a place. `oldest_waiting_at` is since when the first of the runs
    that could run if there were a place has been waiting.
    """

    running: int
    waiting_for_place: int
    waiting_for_thread: int
    delayed: int
    stuck: int
    waiting_for_human: int
    oldest_waiting_at: datetime | None
    running_by_agent: Mapping[str, int]


def read_live_counts(owner: str | None) -> Callable[[Connection], LiveCounts]:
    """A function that reads what goes on now on an owner's threads; None: on all."""

    def read(connection: Connection) -> LiveCounts:
        standing: Counter[tuple[str, bool]] = Counter()
        by_agent: Counter[str] = Counter()
        stuck = 0
        for state, holds, agent, is_stuck, count in map(tuple, connection.execute(_counts(owner))):
            standing[state, holds] += count
            stuck += count if is_stuck else 0
            if state == Standing.claimed:
                by_agent[agent or ""] += count
        return LiveCounts(
            running=by_agent.total(),
            waiting_for_place=standing[Standing.pending, True],
            waiting_for_thread=standing[Standing.pending, False],
            delayed=standing[Standing.delayed, True] + standing[Standing.delayed, False],
            stuck=stuck,
            waiting_for_human=_waiting_for_human(connection, owner),
            oldest_waiting_at=connection.execute(_oldest(owner)).scalar(),
            running_by_agent=dict(by_agent.most_common()),
        )

    return read


def _of(owner: str | None) -> list[ColumnElement[bool]]:
    if owner is None:
        return []
    thread = select(threads.c.owner).where(threads.c.thread_id == active_runs.c.thread_id).scalar_subquery()
    return [thread == owner]


def _counts(owner: str | None) -> Select[*tuple[Any, ...]]:
    # The agent is looked up only for runs that are executing: thousands may wait.
    agent = select(runs.c.agent).where(runs.c.run_id == active_runs.c.run_id).scalar_subquery()
    shown = case((active_runs.c.state == Standing.claimed.value, agent)).label("agent")
    stuck = active_runs.c.stuck_since.is_not(None).label("stuck")
    some = select(active_runs.c.state, active_runs.c.holds, shown, stuck).where(*_of(owner)).subquery()
    keys = (some.c.state, some.c.holds, some.c.agent, some.c.stuck)
    return select(*keys, func.count()).group_by(*keys)


def _oldest(owner: str | None) -> Select[Any]:
    """Since when the first run that could run has been waiting."""
    first = (
        select(active_runs.c.run_id, active_runs.c.due_at)
        .where(active_runs.c.state == Standing.pending.value, active_runs.c.holds, *_of(owner))
        .order_by(active_runs.c.ordinal)
        .limit(1)
        .subquery()
    )
    since = case((first.c.due_at > runs.c.created_at, first.c.due_at), else_=runs.c.created_at)
    return select(since).join_from(first, runs, runs.c.run_id == first.c.run_id)


def _waiting_for_human(connection: Connection, owner: str | None) -> int:
    waits, is_there = ThreadStatus.interrupted.value, threads.c.removed_at.is_(None)
    some = select(threads.c.owner).limit(MOST_WAITING)
    if owner is not None and are_few(connection, [threads.c.owner == owner], FEW):
        some = some.where(threads.c.owner == owner, unindexed(threads.c.status) == waits, is_there)
    else:
        some = some.where(*waits_for_human()).order_by(threads.c.updated_at.desc())
    found = some.where(~goes_on()).subquery()
    his = [] if owner is None else [found.c.owner == owner]
    count: int = connection.execute(select(func.count()).select_from(found).where(*his)).scalar_one()
    return count
