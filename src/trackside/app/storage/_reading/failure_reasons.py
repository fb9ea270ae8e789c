"""Why runs failed, the most common reason first: counted over the latest failed runs, up to a fixed number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, Select, and_, func, or_, select

from trackside.app.storage._reading.listings import FEW, RunListing
from trackside.app.storage._rows.conditions import are_few, are_owned_by, is_owned
from trackside.app.storage._rows.tables import runs, threads
from trackside.harness.types import RunStatus

MOST_FAILURES: Final = 2_000
"""At most this many runs are looked at, which takes some ten milliseconds."""

_SHOWN: Final = 500  # characters of an error
_TELLS_ITS_ERROR: Final = or_(runs.c.removed_at.is_(None), and_(threads.c.ends, threads.c.removed_at.is_not(None)))
"""That a run was neither deleted nor rolled back: it is there, or was removed with its thread when that ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReason:
    """Runs of an agent that failed in the same way. `run_id` is the newest that clients see, if there is one.

    `error` is the first line of that run's error. If clients see none, it is that of the newest run, provided that this
    was removed with its thread when that ended. Runs that were deleted or rolled back give no error.
    """

    error_type: str | None
    error: str | None
    status: RunStatus
    agent: str | None
    count: int
    last_at: datetime
    run_id: str


class FailureReasons(NamedTuple):
    """Reasons, and whether more runs failed than were looked at."""

    reasons: Sequence[FailureReason]
    truncated: bool


def read_failures(connection: Connection, listing: RunListing, limit: int) -> FailureReasons:
    """The reasons why the runs of a listing failed; its page has as many as are looked at, and one more."""
    owner, looked_at = listing.owner, listing.page.limit - 1
    if owner is not None and not are_few(connection, [are_owned_by(owner)], FEW):
        # Few of those that failed may be his: the others are left out of what is looked at, with no search for his.
        listing = replace(listing, owner=None)
    found = listing.keys(connection).subquery()
    query: Select[*tuple[Any, ...]] = select(
        runs.c.error_type,
        runs.c.status,
        runs.c.agent,
        func.coalesce(runs.c.ended_at, runs.c.created_at).label("last_at"),
        runs.c.run_id,
        runs.c.removed_at.is_not(None),
    ).where(runs.c.run_id.in_(select(found.c.id)))
    only_of = owner if listing.owner is None else None
    if only_of is not None:
        query = query.where(is_owned(only_of, runs.c.thread_id))
    rows = connection.execute(query.order_by(runs.c.created_at.desc(), runs.c.run_id.desc())).all()
    count = len(rows)
    if only_of is not None:
        count = connection.execute(select(func.count()).select_from(found)).scalar_one()
    groups = _grouped(rows[:looked_at])
    ranked = sorted(groups, key=lambda one: (-one.count, -one.last_at.timestamp(), one.newest))[:limit]
    texts: dict[str, str | None] = {}
    if ranked:  # only the errors of these: those of all runs would take as long as everything else
        errors = (
            select(runs.c.run_id, func.substr(runs.c.error, 1, _SHOWN))
            .join(threads, threads.c.thread_id == runs.c.thread_id)
            .where(runs.c.run_id.in_([one.to_look_at for one in ranked]), _TELLS_ITS_ERROR)
        )
        texts = dict(map(tuple, connection.execute(errors)))
    return FailureReasons([_reason(one, texts.get(one.to_look_at)) for one in ranked], count > looked_at)


@dataclass(slots=True)
class _Group:
    """What is counted for one reason."""

    reason: tuple[str | None, str, str | None]
    """The error's type, the status and the agent."""
    newest: str
    last_at: datetime
    count: int = 0
    shown: str | None = None
    """The newest that clients see."""

    @property
    def to_look_at(self) -> str:
        """The newest that clients see, if there is one; else the newest."""
        return self.shown or self.newest


def _grouped(rows: Iterable[Row[Any]]) -> Iterable[_Group]:
    """Group runs, which come newest first, by reason."""
    found: dict[tuple[str | None, str, str | None], _Group] = {}
    for error_type, status, agent, last_at, run_id, is_removed in map(tuple, rows):
        reason = (error_type, status, agent)
        group = found.get(reason)
        if group is None:
            group = found[reason] = _Group(reason, run_id, last_at)
        group.count += 1
        group.last_at = max(group.last_at, last_at)
        if group.shown is None and not is_removed:
            group.shown = run_id
    return found.values()


def _reason(group: _Group, error: str | None) -> FailureReason:
    error_type, status, agent = group.reason
    lines = (error or "").strip().splitlines()
    return FailureReason(
        error_type=error_type,
        error=lines[0] if lines else None,
        status=RunStatus(status),
        agent=agent,
        count=group.count,
        last_at=group.last_at,
        run_id=group.to_look_at,
    )
