"""One transaction for what several callers want written: `commit_together` is group commit without the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic, sleep
from typing import Any

from trackside.app.storage._databases.session import CollisionError, Session, graph_access
from trackside.app.storage._rows.encoding import EventRow
from trackside.app.storage._rows.queue import Handover
from trackside.app.storage._writing.work import Refused, UnitOfWork, Work
from trackside.app.storage.errors import (
    ConnectionLostError,
    OutcomeUnknownError,
    ServerUnreachableError,
    StorageError,
    TransactionConflictError,
)
from trackside.app.storage.fleet import QueueNews
from trackside.harness.errors import TracksideError

_REPEATED = (TransactionConflictError, ConnectionLostError, OutcomeUnknownError, ServerUnreachableError)
_MOST_COLLISIONS = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25  # seconds


@dataclass(frozen=True, slots=True)
class Committed:
    """What one transaction came to: the result of each work, or `Refused`, and the events that are new in the log."""

    outcomes: Sequence[Any]
    events: Sequence[EventRow] = ()
    handovers: Sequence[Handover] = ()
    removed_threads: Sequence[str] = ()
    news: QueueNews | None = None


def _never() -> float:
    return inf


def commit_together(
    session: Session, works: Sequence[Work], *, patience: float = 0.0, leaves_at: Callable[[], float] = _never
) -> Committed:
    """Write all works in one transaction, repeated for `patience` seconds if it met another or lost its connection.

    After a loss, it is repeated once in any case: finding out that a connection is lost may have taken longer. Past the
    moment (of the monotonic clock) at which the process leaves, as far as known by then, nothing else is repeated.

    Raises:
        OutcomeUnknownError: the connection was lost in a commit, and there was no other soon enough.
        StorageError: the transaction could not be committed and nothing was written.
    """
    until = monotonic() + patience
    pause = _FIRST_PAUSE
    collisions = 0
    unknown: OutcomeUnknownError | None = None
    while True:
        try:
            return _commit(session, works, check_ids=collisions > 0, may_be_there=unknown is not None)
        except CollisionError:
            # Somebody reuses the event id of another run, which the sequences do not tell: find out who. Or another
            # process made the same thread, run or event at this moment: now it is there to be found.
            collisions += 1
            if collisions == _MOST_COLLISIONS:
                raise
        except StorageError as exc:
            if isinstance(exc, OutcomeUnknownError):
                unknown = exc  # I4: what was committed all the same is found by its id
            is_first_loss = pause == _FIRST_PAUSE and not isinstance(exc, ServerUnreachableError)
            is_late = not is_first_loss and monotonic() + pause > min(until, leaves_at())
            if not isinstance(exc, _REPEATED) or is_late:
                if unknown is None or unknown is exc:
                    raise
                raise unknown from exc
            sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _commit(session: Session, works: Sequence[Work], *, check_ids: bool, may_be_there: bool) -> Committed:
    try:
        synced = not all(work.may_be_forgotten for work in works)
        with session.transaction(synced=synced, graph=graph_access(work.graph_access for work in works)):
            unit = UnitOfWork(session, works, check_ids=check_ids)
            outcomes = [_apply(work, unit) for work in works]
            unit.write()
    except BaseException as exc:
        if not (may_be_there or isinstance(exc, OutcomeUnknownError)):
            for work in works:
                work.undone()
        raise
    return Committed(outcomes, unit.new_events, unit.queue.handovers, unit.removed_threads, unit.queue.news())


def _apply(work: Work, unit: UnitOfWork) -> Any:
    try:
        return work.apply(unit)
    except TracksideError as exc:  # this work's fault; the others go on
        return Refused(exc)
