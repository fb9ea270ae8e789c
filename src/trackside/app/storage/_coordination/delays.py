"""Delayed runs that are due and have no owner: the process that does this for all gives them their places."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import override

from sqlalchemy import select

from trackside.app.storage._coordination.row_locks import free_among
from trackside.app.storage._coordination.steps import Promote
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.leases import wall_time
from trackside.app.storage._rows.queue import Standing
from trackside.app.storage._rows.tables import active_runs
from trackside.app.storage._writing.work import ROW_BYTES, UnitOfWork, Work


@dataclass(slots=True, eq=False, kw_only=True)
class PromoteDue(Work):
    """Give places to delayed runs without an owner that are due by the database's clock; the result is their ids."""

    limit: int
    promoted: list[str] = field(default_factory=list)
    """What it has promoted: a transaction whose reply was lost is repeated, and finds that done."""

    @property
    @override
    def size(self) -> int:
        return self.limit * ROW_BYTES

    @override
    def undone(self) -> None:
        self.promoted.clear()

    @override
    def apply(self, unit: UnitOfWork) -> list[str]:
        now = time_text(wall_time(unit.session.clock()))
        due = (
            active_runs.c.owner.is_(None),
            active_runs.c.state == Standing.delayed.value,
            active_runs.c.due_at <= now,
        )
        query = select(active_runs.c.run_id, active_runs.c.thread_id).where(*due)
        query = query.order_by(active_runs.c.due_at, active_runs.c.run_id)
        found: list[tuple[str, str]] = []
        seen = 0
        while (wanted := self.limit - len(found)) > 0:  # runs that somebody has locked do not count
            rows = unit.session.execute(query.limit(wanted).offset(seen))
            found += free_among(unit, rows)
            seen += len(rows)
            if len(rows) < wanted:
                break
        threads_of = {thread_id for _, thread_id in found}
        unit.load(run_ids=[run_id for run_id, _ in found], thread_ids=threads_of, queues=threads_of)
        for run_id, thread_id in found:
            promotion = Promote(run_id=run_id, thread_id=thread_id, owner=None, fates={})
            if promotion.apply(unit) is not None:  # else somebody was faster, before its rows could be locked
                self.promoted.append(run_id)
        return [*dict.fromkeys(self.promoted)]
