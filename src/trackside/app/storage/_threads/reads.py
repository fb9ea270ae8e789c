"""Threads that wait for something to be done about them: each is found through an index that has no others in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, literal, select, tuple_, union

from trackside.app.storage._rows.tables import runs, threads

PAGE = 500
"""How many threads are seen to together."""


class Waiting(NamedTuple):
    """A thread, and since when, or until when, it waits."""

    when: datetime
    thread_id: str


def expired(connection: Connection, now: datetime, after: Waiting | None) -> list[Waiting]:
    """Threads whose time has come, a page of them."""
    query = select(threads.c.expires_at, threads.c.thread_id)
    query = query.where(threads.c.expires_at.is_not(None), threads.c.expires_at <= now, threads.c.removed_at.is_(None))
    return _page(connection, query, after, "expires_at")


def deleted_to_forget(connection: Connection, after: Waiting | None) -> list[Waiting]:
    """Threads that were deleted, or whose time was over, and that may still remember something; a page of them."""
    return _page(connection, _to_forget().where(~threads.c.ends), after, "removed_at")


def ended_to_forget(connection: Connection, after: Waiting | None, *, before: datetime) -> list[Waiting]:
    """Threads that went with their last run by `before`, and that may still remember something; a page of them."""
    return _page(connection, _to_forget().where(threads.c.ends, threads.c.removed_at <= before), after, "removed_at")


def _to_forget() -> Select[*tuple[Any, ...]]:
    query = select(threads.c.removed_at, threads.c.thread_id)
    return query.where(threads.c.removed_at.is_not(None), ~threads.c.forgotten)


def threads_by_agent(
    connection: Connection, *, thread_ids: Sequence[str], agents: Collection[str]
) -> Mapping[str, Sequence[str]]:
    """For each of these agents, those of these threads on which it has run, or that are for it."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    asked = (select(each.c.agent, each.c.thread_id) for each in (runs, threads))
    asked = (query.where(query.selected_columns.thread_id.in_(thread_ids)) for query in asked)
    for agent, thread_id in connection.execute(union(*asked)):
        if agent in agents:
            found[agent].append(thread_id)
    return found


def to_delete(connection: Connection, after: str) -> list[str]:
    """The ids of threads that are gone with all that they have, except what is still in the log; a page of them."""
    query = select(threads.c.thread_id)
    query = query.where(
        threads.c.removed_at.is_not(None), ~threads.c.ends, threads.c.forgotten, threads.c.thread_id > after
    )
    return [*connection.scalars(query.order_by(threads.c.thread_id).limit(PAGE))]


def _page(connection: Connection, query: Select[*tuple[Any, ...]], after: Waiting | None, when: str) -> list[Waiting]:
    column = threads.c[when]
    if after is not None:
        place = tuple_(literal(after.when, column.type), literal(after.thread_id, threads.c.thread_id.type))
        query = query.where(tuple_(column, threads.c.thread_id) > place)
    rows = connection.execute(query.order_by(column, threads.c.thread_id).limit(PAGE))
    return [Waiting(*row) for row in rows]
