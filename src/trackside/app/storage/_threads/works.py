"""What clients do with threads and runs, each in one transaction: it sees the thread's queue, and who may use it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, override

from sqlalchemy import exists, select, update

from trackside.app.storage._coordination.endings import cancel_unattended, rest_as
from trackside.app.storage._databases.session import GraphAccess
from trackside.app.storage._graph.works import copy_checkpoints
from trackside.app.storage._rows.encoding import json_of, json_text, time_of, time_text
from trackside.app.storage._rows.fold import ThreadRow
from trackside.app.storage._rows.lifetimes import FOREVER, Lifetime
from trackside.app.storage._rows.queue import Lane
from trackside.app.storage._rows.tables import runs, threads
from trackside.app.storage._writing.expiry import active_on, unattended_on
from trackside.app.storage._writing.work import ROW_BYTES, UnitOfWork, Work
from trackside.harness.errors import (
    RunInUseError,
    ThreadExistsError,
    ThreadInUseError,
    UnknownRunError,
    UnknownThreadError,
)
from trackside.harness.lifecycle import is_final
from trackside.harness.types import CancelAction, JsonObject, ThreadStatus

_SURELY_LEFT: Final = timedelta(days=1)
"""A run that no coordinator has, and that has said nothing for this long, ends when its thread's time is over."""


@dataclass(slots=True, eq=False, kw_only=True)
class OnThread(Work):
    """A work on one thread at a time, for one owner; None may see everybody's."""

    thread_id: str
    owner: str | None
    now: str

    @override
    def thread_ids(self) -> Iterable[str]:
        return (self.thread_id,)

    @override
    def queues(self) -> Iterable[str]:
        return self.thread_ids()

    def sees(self, lane: Lane) -> bool:
        """Whether there is such a thread for whoever asks."""
        return lane.exists and not lane.removed and self.owner in {None, lane.owner}

    def seen(self, unit: UnitOfWork) -> Lane:
        """The thread.

        Raises:
            UnknownThreadError: for whoever asks there is none.
        """
        lane = unit.queue.lane(self.thread_id)
        if not self.sees(lane):
            raise UnknownThreadError(thread_id=self.thread_id)
        return lane


def last_run_of(unit: UnitOfWork, thread_id: str) -> str | None:
    """The run that a thread had last; None if it has had none."""
    found = unit.session.execute(select(threads.c.last_run_id).where(threads.c.thread_id == thread_id))
    return found[0][0] if found else None


@dataclass(slots=True, eq=False, kw_only=True)
class _Making(OnThread):
    """A work that makes a thread, once."""

    tried: bool = False
    """Whether it has been made before: a transaction whose reply was lost is repeated, and finds that done."""

    def has_made(self, unit: UnitOfWork, thread_id: str) -> bool:
        """Whether the thread with this id has been made by this work already; if not, it is about to be.

        Raises:
            ThreadExistsError: there is, or was, one of somebody else's making.
        """
        if not unit.queue.lane(thread_id).exists:
            self.tried = True
            return False
        created_at = select(threads.c.created_at).where(threads.c.thread_id == thread_id)
        if self.tried and unit.session.execute(created_at) == [(self.now,)]:
            return True
        raise ThreadExistsError(thread_id=thread_id)

    @override
    def undone(self) -> None:
        self.tried = False


@dataclass(slots=True, eq=False, kw_only=True)
class CreateThread(_Making):
    """Make a thread."""

    belongs_to: str | None
    metadata: JsonObject
    agent: str | None = None
    lifetime: Lifetime = FOREVER

    @property
    @override
    def size(self) -> int:
        return ROW_BYTES + len(json_text(self.metadata))

    @override
    def apply(self, unit: UnitOfWork) -> None:
        if self.has_made(unit, self.thread_id):
            return
        unit.make_thread(
            ThreadRow(
                thread_id=self.thread_id,
                created_at=self.now,
                updated_at=self.now,
                status=ThreadStatus.idle,
                agent=self.agent,
                owner=self.belongs_to,
                metadata=json_text(self.metadata) if self.metadata else None,
                expires_at=self.lifetime.expires_at,
                ttl_minutes=self.lifetime.ttl_minutes,
            )
        )
        unit.label_thread(self.thread_id, self.metadata)


@dataclass(slots=True, eq=False, kw_only=True)
class ChangeThread(OnThread):
    """Add metadata to what a thread has, and set anew how long it lives."""

    metadata: JsonObject
    agent: str | None = None
    """The agent that the thread is for from now on, unless it has had a run."""
    lifetime: Lifetime | None = None

    @property
    @override
    def size(self) -> int:
        return ROW_BYTES + len(json_text(self.metadata))

    @override
    def apply(self, unit: UnitOfWork) -> None:
        self.seen(unit)
        thread = unit.thread(self.thread_id, self.now)
        found = unit.session.execute(select(threads.c.metadata).where(threads.c.thread_id == self.thread_id))
        text = found[0][0] if found else thread.metadata
        metadata = {**({} if text is None else json_of(text)), **self.metadata}
        changes: dict[str, Any] = {"metadata": json_text(metadata)}
        if self.lifetime is not None:
            changes |= {"expires_at": self.lifetime.expires_at, "ttl_minutes": self.lifetime.ttl_minutes}
        if found:
            _write(unit, self.thread_id, changes)
            if self.lifetime is not None:
                unit.queue.lane(self.thread_id).expires_at = self.lifetime.expires_at
        else:  # it is made in this transaction, and has no row yet
            for name, value in changes.items():
                setattr(thread, name, value)
        if self.agent is not None and not self._has_run(unit):
            thread.agent = self.agent
        unit.unlabel_thread(self.thread_id)
        unit.label_thread(self.thread_id, metadata)

    def _has_run(self, unit: UnitOfWork) -> bool:
        has_run = exists().where(runs.c.thread_id == self.thread_id)
        ((found,),) = unit.session.execute(select(has_run))
        return bool(found) or unit.queue.lane(self.thread_id).holder is not None


def _write(unit: UnitOfWork, thread_id: str, changes: Mapping[str, Any]) -> None:
    """Change columns of a thread; values are as the database has them."""
    unit.session.execute(update(threads).where(threads.c.thread_id == thread_id).values(dict(changes)))


@dataclass(slots=True, eq=False, kw_only=True)
class NoteState(OnThread):
    """Note that a thread's state was changed on behalf of no run: it changed now, and rests with this status.

    The log says so in the name of the thread's last run. While a run has the thread, that is for the run to say.
    """

    status: ThreadStatus

    @override
    def apply(self, unit: UnitOfWork) -> None:
        lane = self.seen(unit)
        thread = unit.thread(self.thread_id, self.now)
        if lane.holder is not None or unit.thread_status(self.thread_id) in {self.status, ThreadStatus.busy}:
            return
        run = None
        if (run_id := last_run_of(unit, self.thread_id)) is not None:
            unit.load(run_ids=(run_id,), thread_ids=(), queues=())
            run = unit.run(run_id)
        if run is None:  # there is none yet, or the log no longer has it
            thread.status = self.status
        elif is_final(run.fold.status):
            rest_as(unit, run.fold.run_id, self.thread_id, self.status)


@dataclass(slots=True, eq=False, kw_only=True)
class RemoveThread(OnThread):
    """Remove a thread, with its runs, from what clients see, at once, and disable its crons. What it has is removed later
    (`sweeping`).

    With `expired`, only if it has expired by now and no run is on it: otherwise it stays, without complaint. Runs that
    somebody has left there for good end with it. The result says whether it was removed.
    """

    expired: bool = False
    removed: bool = False
    """Whether it has removed it: a transaction whose reply was lost is repeated, and finds that done."""

    @override
    def undone(self) -> None:
        self.removed = False

    @override
    def apply(self, unit: UnitOfWork) -> bool:
        lane = unit.queue.lane(self.thread_id)
        if self.removed and (lane.removed or not lane.exists):
            unit.removed_threads.append(self.thread_id)  # nobody has been told yet
            return True
        if self.expired and not (self.sees(lane) and self._has_expired(unit)):
            return False
        self.seen(unit)
        unattended = unattended_on(unit, self.thread_id, self.now)
        run_id = active_on(unit, lane) or next(iter(unattended), None)
        if run_id is not None and self.expired:
            if run_id not in unattended or not self._are_left(unattended):
                return False
            self._end(unit, unattended)
        elif run_id is not None:
            raise ThreadInUseError(thread_id=self.thread_id, run_id=run_id)
        unit.remove_thread(self.thread_id, self.now)
        unit.deleted_threads[self.thread_id] = self.now
        unit.unlabel_thread(self.thread_id)
        of_thread = (runs.c.thread_id == self.thread_id, runs.c.removed_at.is_(None))
        unit.session.execute(update(runs).where(*of_thread).values(removed_at=self.now))
        self.removed = True
        return True

    def _has_expired(self, unit: UnitOfWork) -> bool:
        expires_at = select(threads.c.expires_at).where(threads.c.thread_id == self.thread_id)
        return any(when is not None and when <= self.now for (when,) in unit.session.execute(expires_at))

    def _are_left(self, unattended: Mapping[str, str]) -> bool:
        """Whether nobody executes these runs any more, as far as anybody can tell."""
        return max(unattended.values()) <= time_text(time_of(self.now) - _SURELY_LEFT)

    def _end(self, unit: UnitOfWork, run_ids: Collection[str]) -> None:
        unit.load(run_ids=run_ids, thread_ids=(), queues=())
        for run_id in run_ids:
            run = unit.run(run_id)
            if run is not None and not is_final(run.fold.status):
                cancel_unattended(unit, run_id, self.thread_id, CancelAction.interrupt)
                assert run.end is not None
                run.end.removed_at = self.now


@dataclass(slots=True, eq=False, kw_only=True)
class CopyThread(_Making):
    """Make a thread with the metadata of another one, and what that one remembers; the copy belongs to `belongs_to`."""

    copy_id: str
    belongs_to: str | None
    metadata: JsonObject | None = None
    """Metadata instead of the other thread's."""
    checkpoints: bool = False
    """Whether what graphs have left of the other thread is copied, too."""

    @property
    @override
    def graph_access(self) -> GraphAccess | None:
        return "saves" if self.checkpoints else None

    @override
    def thread_ids(self) -> Iterable[str]:
        return (self.thread_id, self.copy_id)

    @override
    def apply(self, unit: UnitOfWork) -> None:
        self.seen(unit)
        found = unit.session.execute(
            select(threads.c.metadata, threads.c.agent, threads.c.title).where(threads.c.thread_id == self.thread_id)
        )
        if not found:  # whoever makes it has not heard of it yet
            raise UnknownThreadError(thread_id=self.thread_id)
        if self.has_made(unit, self.copy_id):
            return
        metadata, agent, title = found[0]
        if self.metadata is not None:
            metadata = json_text(self.metadata)
        waits = unit.thread_status(self.thread_id) is ThreadStatus.interrupted
        unit.make_thread(
            ThreadRow(
                thread_id=self.copy_id,
                created_at=self.now,
                updated_at=self.now,
                status=ThreadStatus.interrupted if waits else ThreadStatus.idle,
                title=title,
                agent=agent,
                owner=self.belongs_to,
                metadata=metadata,
            )
        )
        if metadata is not None:
            unit.label_thread(self.copy_id, json_of(metadata))
        if (state := unit.remembered(self.thread_id)) is not None:
            unit.thread_states[self.copy_id] = (self.copy_id, *state, self.now)
        if self.checkpoints:
            copy_checkpoints(unit.session, self.thread_id, self.copy_id)


@dataclass(slots=True, eq=False, kw_only=True)
class RemoveRun(OnThread):
    """Remove a run that has ended from what clients see. The log keeps its events."""

    run_id: str
    removed: bool = False
    """Whether it has removed it: a transaction whose reply was lost is repeated, and finds that done."""

    @override
    def undone(self) -> None:
        self.removed = False

    @override
    def run_ids(self) -> Iterable[str]:
        return (self.run_id,)

    @override
    def apply(self, unit: UnitOfWork) -> None:
        run = unit.run(self.run_id)
        is_removed = run is None or self._is_removed(unit)
        if self.removed and is_removed:
            return
        self.seen(unit)
        if run is None or is_removed or run.thread_id != self.thread_id:
            raise UnknownRunError(run_id=self.run_id)
        if not is_final(run.fold.status):
            raise RunInUseError(run_id=self.run_id)
        if run.end is not None:  # which is still to be written
            run.end.removed_at = self.now
        unit.session.execute(update(runs).where(runs.c.run_id == self.run_id).values(removed_at=self.now))
        self.removed = True

    def _is_removed(self, unit: UnitOfWork) -> bool:
        removed = select(runs.c.run_id).where(runs.c.run_id == self.run_id, runs.c.removed_at.is_not(None))
        return bool(unit.session.execute(removed))
