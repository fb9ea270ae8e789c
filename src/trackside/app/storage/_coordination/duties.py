"""Leases, by the database's clock, of duties: what one process of a fleet does for all (I8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import override

from sqlalchemy import and_, case, or_, select, update

from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.fleet_tables import duties
from trackside.app.storage._rows.leases import has_ended, wall_time
from trackside.app.storage._writing.work import UnitOfWork, Work


@dataclass(slots=True, eq=False, kw_only=True)
class HoldDuties(Work):
    """Renew a process's leases of duties, and take those that are free or have ended; the result: what it holds."""

    holder: str
    names: Sequence[str]
    lease_seconds: float

    @override
    def apply(self, unit: UnitOfWork) -> set[str]:
        session = unit.session
        now = session.clock()
        ended = has_ended(duties, now)
        is_own = duties.c.holder == self.holder
        # Nobody waits for a lock here: a duty whose row another process has locked at this moment is that process's.
        to_be_had = select(duties.c.name).where(duties.c.name.in_(self.names), or_(is_own, ended))
        free = {name for (name,) in session.execute(to_be_had.with_for_update(skip_locked=True))}
        lease = {**now.lease(self.lease_seconds), "holder": self.holder}
        since = time_text(wall_time(now))
        if free:
            goes_on = and_(is_own, ~ended)
            change = update(duties).where(duties.c.name.in_(free))
            session.execute(change.values(**lease, since=case((goes_on, duties.c.since), else_=since)))
        there = {name for (name,) in session.execute(select(duties.c.name).where(duties.c.name.in_(self.names)))}
        new = [name for name in self.names if name not in there]
        if new:  # one that another process inserts at this moment stops this; the next try finds it
            session.execute(duties.insert().values([{"name": name, "since": since, **lease} for name in new]))
        return free | {*new}


@dataclass(slots=True, eq=False, kw_only=True)
class ReleaseDuties(Work):
    """Let another process take over this one's duties at once."""

    holder: str

    @override
    def apply(self, unit: UnitOfWork) -> None:
        unit.session.execute(duties.delete().where(duties.c.holder == self.holder))
