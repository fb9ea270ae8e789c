"""Totals over the runs of one owner: sums are kept for all owners together, so an owner's runs are added up one by one.

That is done for `MOST_OWNED` runs at most. Runs since a time are found through the threads in which something happened
since then, so that an owner of many runs still gets the totals of the last hours or days.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, select, union_all

from trackside.app.storage import errors
from trackside.app.storage._rows.conditions import Conditions, are_few, is_owned, unindexed, within
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.sums import TOKENS, USED, Sums
from trackside.app.storage._rows.tables import active_runs, runs, threads, usage
from trackside.app.storage._rows.totals import NO_AGENT, minute_of, priced

MOST_OWNED: Final = 2_000
"""Adding up this many runs takes some ten milliseconds."""


def read_owner_sums(
    connection: Connection,
    owner: str,
    *,
    since: datetime | None,
    until: datetime | None,
    agent: str | None,
    statuses: list[str],
    minutes: int | None,
) -> Mapping[int, Sums]:
    """Sums over an owner's runs, in buckets of so many `minutes` from 1970 on; None: all in one bucket, number 0.

    Raises:
        TooManyRunsError: there are more runs than are added up one by one.
    """
    his: Conditions = [runs.c.thread_id.in_(_threads_of(connection, owner, since))]
    his += within(runs.c.created_at, since, until)
    if not are_few(connection, his, MOST_OWNED):
        raise errors.TooManyRunsError(most=MOST_OWNED)
    conditions = [*his, unindexed(runs.c.status).in_(statuses)]
    if agent is not None:
        conditions.append(unindexed(runs.c.agent) == agent)
    sums: dict[int, Sums] = defaultdict(Sums)
    bucket_of: dict[str, int] = {}
    used = [runs.c[name] for name in USED]
    columns = (runs.c.run_id, runs.c.created_at, runs.c.agent, runs.c.status, runs.c.duration_seconds, runs.c.cost_usd)
    for row in map(tuple, connection.execute(select(*columns, *used).where(*conditions))):
        run_id, created_at, of, status, duration, cost_usd, *amounts = row
        bucket = 0 if minutes is None else minute_of(time_text(created_at)) // minutes
        bucket_of[run_id] = bucket
        sums[bucket].add_runs(of or NO_AGENT, status, [1, *amounts, *priced(cost_usd)])
        if duration is not None:
            sums[bucket].durations[of or NO_AGENT].append(duration)
    of_them = usage.c.run_id.in_(select(runs.c.run_id).where(*conditions))
    tokens = [usage.c[name] for name in TOKENS]
    query = select(usage.c.run_id, usage.c.kind, usage.c.name, usage.c.cost_usd, *tokens).where(of_them)
    for run_id, kind, name, cost_usd, *amounts in map(tuple, connection.execute(query)):
        sums[bucket_of[run_id]].add_usage(kind, name, [1, *amounts, *priced(cost_usd)])
    return sums


def _threads_of(connection: Connection, owner: str, since: datetime | None) -> Any:
    """The threads of an owner that can have runs of this time.

    Raises:
        TooManyRunsError: there are more threads than runs that are added up.
    """
    owned = threads.c.owner == owner
    ways: list[Conditions] = [[owned]]
    if since is not None:
        ways = [
            [owned, threads.c.removed_at.is_(None), threads.c.updated_at >= since],
            [owned, threads.c.removed_at >= since],
        ]
    for way in ways:
        if not are_few(connection, way, MOST_OWNED):
            raise errors.TooManyRunsError(most=MOST_OWNED)
    found = [select(threads.c.thread_id).where(*way) for way in ways]
    if since is not None:
        # A run that still waits has changed nothing on its thread yet.
        found.append(select(active_runs.c.thread_id).where(is_owned(owner, active_runs.c.thread_id)))
    return found[0] if len(found) == 1 else select(union_all(*found).subquery().c.thread_id)
