"""Starts runs anew whose worker was lost or shut down: each as another run of its thread, in its end's transaction.

The first attempt after a run takes its place, so that the messages of the thread keep their order. Later attempts wait
a while (`harness.admission.seconds_before`) and keep no other runs of the thread waiting meanwhile; then they have that
place again, in front of all that came later.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct
from sqlalchemy import select, update

from trackside.app.storage._databases.session import Session
from trackside.app.storage._rows.encoding import json_of, json_text, time_text
from trackside.app.storage._rows.fold import RunRow, RunStart, labels_of
from trackside.app.storage._rows.leases import wall_time
from trackside.app.storage._rows.queue import ActiveRun, Standing
from trackside.app.storage._rows.tables import active_runs, runs
from trackside.harness.admission import asked_again, attempts_of, seconds_before
from trackside.harness.lifecycle import RunFold
from trackside.harness.types import JsonObject, MultitaskStrategy

_ASKED: Final = (
    runs.c.attempt,
    runs.c.agent,
    runs.c.metadata,
    runs.c.parent_run_id,
    runs.c.trigger,
    active_runs.c.version,
    runs.c.request,
)


class Attempt(Struct, kw_only=True, eq=False):
    """A run that is to be let in because another one has ended: its row, and its place in the queue."""

    run: RunRow
    active: ActiveRun

    @property
    def is_due(self) -> bool:
        """Whether it takes its place at once."""
        return self.active.state is Standing.pending


def next_attempt(session: Session, ended: ActiveRun, run_id: str) -> Attempt | None:
    """The next attempt of a run that has ended, under this id; None if none is left, or nobody could execute it."""
    if not ended.portable:
        return None
    query = select(*_ASKED).join_from(runs, active_runs, active_runs.c.run_id == runs.c.run_id)
    found = session.execute(query.where(runs.c.run_id == ended.run_id))
    if not found or found[0][-1] is None:
        return None
    attempt, agent, metadata, parent_run_id, trigger, version, text = found[0]
    request: JsonObject = json_of(text)
    if attempt >= attempts_of(request):
        return None
    attempt += 1
    now = datetime.now(UTC)
    seconds = seconds_before(attempt)
    again = asked_again(request, attempt=attempt, retry_of=ended.run_id, thread_id=ended.thread_id)
    start = RunStart(
        created_at=time_text(now),
        agent=agent,
        metadata=metadata,
        parent_run_id=parent_run_id,
        trigger=trigger,
        labels=labels_of(json_of(metadata)),
        attempt=attempt,
        retry_of=ended.run_id,
        request=json_text(again),
    )
    active = ActiveRun(
        run_id=run_id,
        thread_id=ended.thread_id,
        state=Standing.delayed if seconds else Standing.pending,
        multitask=MultitaskStrategy.enqueue.value,
        ordinal=ended.ordinal,
        # Whoever asked for the end after it had been settled is heard: then the attempt belongs to the run's owner,
        # which is about to go, and ends with it.
        owner=None if ended.cancel_requested is None else ended.owner,
        due_at=time_text(wall_time(session.clock()) + timedelta(seconds=seconds)) if seconds else None,
        cancel_requested=ended.cancel_requested,
        portable=True,
        keeps_request=ended.keeps_request,
        pool=ended.pool,
        version=version,
        agent=agent or "",
    )
    return Attempt(run=RunRow(fold=RunFold(run_id), thread_id=ended.thread_id, start=start), active=active)


def give_up_place(session: Session, ended: ActiveRun) -> None:
    """Give a run that has ended, and still holds its thread, another place: its own is its next attempt's."""
    ended.ordinal = session.next_ordinal()
    place = update(active_runs).where(active_runs.c.run_id == ended.run_id)
    session.execute(place.values(ordinal=ended.ordinal))


def forget_request(session: Session, ended: RunRow) -> None:
    """Forget what was asked for, even if it is still to be written."""
    if ended.start is not None:
        ended.start.request = None
    session.execute(update(runs).where(runs.c.run_id == ended.fold.run_id).values(request=None))
