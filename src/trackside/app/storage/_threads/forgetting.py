"""Forgetting what threads that are gone remember, while nobody else does.

Somebody else's checkpointer knows a thread by its id alone. So as long as it is being asked, the id must not become free:
whoever asks claims first, for all threads and for a while, that nobody else notes threads as forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, override

from sqlalchemy import ColumnElement, delete, exists, select, update

from trackside.app.storage._graph.works import remove_checkpoints
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.fleet_tables import FORGETTING, duties
from trackside.app.storage._rows.leases import has_ended, wall_time
from trackside.app.storage._rows.processes import is_gone, this_process
from trackside.app.storage._rows.tables import runs, thread_labels, thread_states, threads
from trackside.app.storage._writing.work import ROW_BYTES, UnitOfWork, Work

CLAIM_SECONDS: Final = 30.0
"""How long a claim is, unless it is renewed. Nobody waits for that of a process that is known to be gone."""

_IS_THE_CLAIM: Final[ColumnElement[bool]] = duties.c.name == FORGETTING


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimForgetting(Work):
    """Claim, or go on claiming, that nobody else forgets threads; the result: which of these are to be forgotten now.

    None, if somebody else has the claim.
    """

    claimant: str
    wanted: Sequence[str]

    @property
    @override
    def size(self) -> int:
        return ROW_BYTES * (1 + len(self.wanted))

    @override
    def thread_ids(self) -> Iterable[str]:
        return self.wanted  # whoever forgets one of them at this moment has not looked for the claim yet, or is done

    @override
    def apply(self, unit: UnitOfWork) -> Sequence[str] | None:
        session, now = unit.session, unit.session.clock()
        found = session.execute(select(duties.c.holder, has_ended(duties, now)).where(_IS_THE_CLAIM).with_for_update())
        if any(_is_somebody_elses(holder, has_ended_, self.claimant) for holder, has_ended_ in found):
            return None
        claim = {"holder": f"{this_process()} {self.claimant}", **now.lease(CLAIM_SECONDS)}
        claim["since"] = time_text(wall_time(now))
        if found:
            session.execute(update(duties).where(_IS_THE_CLAIM).values(claim))
        else:  # one that another process inserts at this moment stops this; the next try finds it
            session.execute(duties.insert().values(name=FORGETTING, **claim))
        waits = (threads.c.removed_at.is_not(None), ~threads.c.forgotten)
        left = session.execute(select(threads.c.thread_id).where(threads.c.thread_id.in_(self.wanted), *waits))
        is_left = {thread_id for (thread_id,) in left}
        return [thread_id for thread_id in self.wanted if thread_id in is_left]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetThreads(Work):
    """Removes what threads that are gone remember, and notes that; notes their runs as gone, too, if they are not yet.

    Threads that have no runs are not needed for anything any more. One that was begun anew since it was found stays as
    it is. If somebody else claims to be asked first, nothing is done, and the result is False; a claim of one's own ends.
    """

    claimant: str
    forgotten: Sequence[str]
    now: str

    @property
    @override
    def size(self) -> int:
        return ROW_BYTES * (1 + len(self.forgotten))

    @override
    def thread_ids(self) -> Iterable[str]:
        return self.forgotten

    @override
    def apply(self, unit: UnitOfWork) -> bool:
        session = unit.session
        claimed = select(duties.c.holder, has_ended(duties, session.clock())).where(_IS_THE_CLAIM)
        for holder, has_ended_ in session.execute(claimed):
            if _is_somebody_elses(holder, has_ended_, self.claimant):
                return False
            if _name_of(holder) == self.claimant:
                session.execute(delete(duties).where(_IS_THE_CLAIM))
        has_run = exists().where(runs.c.thread_id == threads.c.thread_id)
        found = session.execute(
            select(threads.c.thread_id, has_run).where(
                threads.c.thread_id.in_(self.forgotten), threads.c.removed_at.is_not(None)
            )
        )
        gone = [thread_id for thread_id, _ in found]
        session.execute(delete(thread_states).where(thread_states.c.thread_id.in_(gone)))
        remove_checkpoints(session, gone)
        of_these = (runs.c.thread_id.in_(gone), runs.c.removed_at.is_(None))
        session.execute(update(runs).where(*of_these).values(removed_at=self.now))
        session.execute(update(threads).where(threads.c.thread_id.in_(gone)).values(forgotten=True))
        needless = [thread_id for thread_id, is_needed in found if not (is_needed or unit.changes_thread(thread_id))]
        for table in (thread_labels, threads):
            session.execute(delete(table).where(table.c.thread_id.in_(needless)))
        unit.forget_threads(needless)
        return True


def _is_somebody_elses(holder: str, has_ended: object, claimant: str) -> bool:
    return not (_name_of(holder) == claimant or has_ended or is_gone(holder.rpartition(" ")[0]))


def _name_of(holder: str) -> str:
    return holder.rpartition(" ")[2]
