"""On whose behalf something that a thread remembers is written, and whether that is still so when its turn comes.

What a run leaves is refused if the run has ended without its process, and a change by hand is refused if the thread is
gone: what a deleted thread leaves behind is cleared up once, and nobody would find what came later.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from sqlalchemy import select

from trackside.app.storage._rows.tables import threads
from trackside.app.storage._writing.work import UnitOfWork
from trackside.app.storage.errors import RunEndedError
from trackside.harness.errors import UnknownThreadError
from trackside.harness.lifecycle import is_final

_held: ContextVar[tuple[object, str] | None] = ContextVar("trackside_held_run", default=None)
_changed: ContextVar[tuple[object, str, str] | None] = ContextVar("trackside_changed_thread", default=None)
_REMOVED: Final = "lost, and was removed"


def hold_run(store: object, run_id: str) -> None:
    """Note that this task, and the tasks that it starts, act from now on for a run that this store let in."""
    _held.set((store, run_id))


def holds_run(store: object, run_id: str | None) -> bool:
    """Whether the calling code belongs to a run that this store let in: its row is there until it has ended."""
    return run_id is not None and _held.get() == (store, run_id)


@contextmanager
def changing_thread(store: object, thread_id: str, made_at: str) -> Generator[None]:
    """Mark that a thread of this store, made at this time, is being changed on behalf of no run."""
    token = _changed.set((store, thread_id, made_at))
    try:
        yield
    finally:
        _changed.reset(token)


def changed_thread(store: object, thread_id: str) -> str | None:
    """When the thread was made, if the calling code changes it on behalf of no run; else None."""
    changed = _changed.get()
    return None if changed is None or changed[:2] != (store, thread_id) else changed[2]


def check_run(unit: UnitOfWork, thread_id: str, run_id: str | None, *, held: bool) -> None:
    """See that a run, if it is known, has not ended. One that is `held` was known, and is gone if it no longer is.

    Raises:
        RunEndedError: it has.
    """
    run = None if run_id is None else unit.run(run_id)
    if run is not None and is_final(run.fold.status):
        raise RunEndedError(thread_id=thread_id, run_id=run.fold.run_id, status=run.fold.status.value)
    if run is None and held:
        raise RunEndedError(thread_id=thread_id, run_id=run_id, status=_REMOVED)


def check_thread(unit: UnitOfWork, thread_id: str, made_at: str) -> None:
    """See that a thread whose queue was loaded is there, and is the one that was made at this time.

    Raises:
        UnknownThreadError: it is gone, whether or not one was begun anew under its id.
    """
    lane = unit.queue.lane(thread_id)
    created_at = select(threads.c.created_at).where(threads.c.thread_id == thread_id)
    if lane.removed or not lane.exists or unit.session.execute(created_at) != [(made_at,)]:
        raise UnknownThreadError(thread_id=thread_id)
