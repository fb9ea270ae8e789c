"""Why runs failed, the commonest reason first: added up over the runs that failed last, so many and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, Select, func, select

from trackside.app.storage._listings import FEW, RunListing, are_few, are_owned_by, is_owned
from trackside.app.storage._tables import runs
from trackside.harness.types import RunStatus

FAILED: Final = (RunStatus.error, RunStatus.timeout)
"""How runs end that did not come to what they were asked for."""

MOST_FAILURES: Final = 2_000
"""So many runs are looked at: some ten milliseconds."""

_SHOWN: Final = 500  # characters of an error


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReason:
    """Runs of an agent that failed in the same way. The error is the first line of the newest one's.

    `run_id` is the newest that clients see, if there is one.
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
    """The reasons for which the runs of a listing failed, whose page is how many are looked at, and one more."""
    owner, looked_at = listing.owner, listing.page.limit - 1
    if owner is not None and not are_few(connection, [are_owned_by(owner)], FEW):
        # Few of those that failed may be his: they are left out of what is looked at, and not looked for.
        listing = replace(listing, owner=None)
    found = listing.keys(connection).subquery()
    query: Select[*tuple[Any, ...]] = select(
        runs.c.run_id,
        runs.c.agent,
        runs.c.status,
        runs.c.error_type,
        func.substr(runs.c.error, 1, _SHOWN).label("error"),
        func.coalesce(runs.c.ended_at, runs.c.created_at).label("last_at"),
        runs.c.created_at,
        runs.c.removed_at,
    ).where(runs.c.run_id.in_(select(found.c.id)))
    if owner is not None and listing.owner is None:
        query = query.where(is_owned(owner, runs.c.thread_id))
        count: int = connection.execute(select(func.count()).select_from(found)).scalar_one()
        rows = connection.execute(query.order_by(runs.c.created_at.desc(), runs.c.run_id.desc())).all()
    else:
        rows = connection.execute(query.order_by(runs.c.created_at.desc(), runs.c.run_id.desc())).all()
        count = len(rows)
    reasons = sorted(_grouped(rows[:looked_at]), key=lambda one: (-one.count, -one.last_at.timestamp(), one.run_id))
    return FailureReasons(reasons[:limit], count > looked_at)


def _reason(row: Row[Any]) -> FailureReason:
    lines = (row.error or "").strip().splitlines()
    return FailureReason(
        error_type=row.error_type,
        error=lines[0] if lines else None,
        status=RunStatus(row.status),
        agent=row.agent,
        count=1,
        last_at=row.last_at,
        run_id=row.run_id,
    )


def _grouped(rows: Sequence[Row[Any]]) -> list[FailureReason]:
    """The reasons in runs, the newest of which comes first."""
    found: dict[tuple[Any, ...], FailureReason] = {}
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        key = (row.error_type, row.status, row.agent)
        known = found.get(key)
        if known is not None:
            shown = row.run_id if row.removed_at is None and key not in seen else known.run_id
            found[key] = replace(known, count=known.count + 1, last_at=max(known.last_at, row.last_at), run_id=shown)
        else:
            found[key] = _reason(row)
        if row.removed_at is None:
            seen.add(key)
    return [*found.values()]
