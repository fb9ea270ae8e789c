"""Threads and their runs as clients have them: created, changed, searched, copied and removed, each owner's apart.

What is removed is gone for clients at once, and stays in the log until `sweeping` takes it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select

from trackside.app.storage._databases.readers import Readers, in_pieces
from trackside.app.storage._reading import queries
from trackside.app.storage._reading.listings import run_of, thread_of
from trackside.app.storage._reading.run_records import RUNS, find_holder, strategies_of
from trackside.app.storage._rows.arguments import AnyOf, ids, members, plain, short, short_or_none
from trackside.app.storage._rows.conditions import HOLDS_ITS_THREAD, are_of, is_owned, unindexed
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.lifetimes import lifetime_of
from trackside.app.storage._rows.records import StoredRun, StoredThread
from trackside.app.storage._rows.tables import active_runs, runs, thread_states, threads
from trackside.app.storage._threads.search import MOST, SortBy, ThreadPage, ThreadQuery, ThreadSearch
from trackside.app.storage._threads.works import (
    ChangeThread,
    CopyThread,
    CreateThread,
    NoteState,
    RemoveRun,
    RemoveThread,
)
from trackside.app.storage._writing.fences import changing_thread
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.errors import UnknownThreadError
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import FINAL_STATUSES
from trackside.harness.payload import canonical_payload
from trackside.harness.types import JsonObject, RunStatus, ThreadStatus

__all__ = ["RunPage", "RunsOfThread", "SortBy", "ThreadContents", "ThreadPage", "ThreadQuery", "Threads"]


class RunPage(NamedTuple):
    """Some runs of a thread, how many match in all, and the multitask strategies of those that were asked for with one."""

    runs: Sequence[StoredRun]
    total: int
    strategies: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsOfThread:
    """A thread's runs in brief: how many, up to `MOST_COUNTED`, and how the newest stands, if it is there."""

    count: int = 0
    last_run_id: str | None = None
    last_status: RunStatus | None = None
    last_error: str | None = None


MOST_COUNTED: Final = 1_000
"""How many runs of a thread are counted at most, so that a listing of threads takes as long however many they have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadContents:
    """What there is to a thread besides its row.

    `values` and `interrupts` are what the harness remembers of it, nothing where the agent has a checkpointer. `error`
    and `config` are those of its last run, and nothing once that was removed. `is_held` says that a run has the thread,
    from that run's admission on, even before it has started.
    """

    values: JsonObject | None = None
    interrupts: Sequence[Mapping[str, Any]] = ()
    last_run_id: str | None = None
    error: str | None = None
    error_type: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    is_held: bool = False


class Threads:
    """The threads of one owner, as the owner's clients see them: `store.threads_of(owner)`; None sees everybody's.

    Removed threads and threads of others do not exist here: asking for one raises `UnknownThreadError`.
    """

    def __init__(self, writer: Writer | NoWriter, readers: Readers, owner: str | None) -> None:
        self._writer = writer
        self._readers = readers
        self._owner = owner

    async def create(
        self,
        thread_id: str | None = None,
        *,
        belongs_to: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        agent: str | None = None,
        ttl_minutes: float | None = None,
    ) -> StoredThread:
        """Create a thread without a run.

            thread = await store.threads_of(None).create(metadata={"customer": "acme"}, ttl_minutes=60)

        Args:
            thread_id: the thread's id; None: a new one.
            belongs_to: the thread's owner; None: the owner of these threads.
            metadata: what the thread can be found by.
            agent: the agent that the thread is for, until a run of it tells.
            ttl_minutes: after how many minutes the thread is removed, unless a run is on it.

        Raises:
            ThreadExistsError: there is, or was, a thread with this id.
            InvalidQueryError: an argument does not fit; the message names it.
            PayloadError: the metadata cannot be kept.
            StorageError: the database failed.
        """
        thread_id = new_id() if thread_id is None else short("thread_id", thread_id)
        now = datetime.now(UTC)
        work = CreateThread(
            thread_id=thread_id,
            owner=self._owner,
            now=time_text(now),
            belongs_to=self._owner_of_new(belongs_to),
            metadata=_plain(metadata),
            agent=short_or_none("agent", agent),
            lifetime=lifetime_of(ttl_minutes, now),
        )
        await self._writer.write(work)
        return await self.get(thread_id)

    async def get(self, thread_id: str) -> StoredThread:
        """The thread with this id.

        Raises:
            UnknownThreadError: there is none.
        """
        thread = await self._readers.first(queries.one_thread(thread_id, owner=self._owner, removed=False), thread_of)
        if thread is None:
            raise UnknownThreadError(thread_id=thread_id)
        return thread

    async def change(
        self,
        thread_id: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        agent: str | None = None,
        ttl_minutes: float | None = None,
    ) -> StoredThread:
        """Add to a thread's metadata; set anew how long it lives and, if it has no run yet, which agent it is for.

        Raises:
            UnknownThreadError: there is no such thread.
            InvalidQueryError: an argument does not fit; the message names it.
            PayloadError: the metadata cannot be kept.
            StorageError: the database failed.
        """
        now = datetime.now(UTC)
        work = ChangeThread(
            thread_id=plain("thread_id", thread_id),
            owner=self._owner,
            now=time_text(now),
            metadata=_plain(metadata),
            agent=short_or_none("agent", agent),
            lifetime=None if ttl_minutes is None else lifetime_of(ttl_minutes, now),
        )
        await self._writer.write(work)
        return await self.get(thread_id)

    def changing(self, thread: StoredThread) -> AbstractContextManager[None]:
        """A context for changing a thread on behalf of no run: once the thread is removed, putting anything of it into
        this store's checkpoints is then refused with `UnknownThreadError`.
        """
        return changing_thread(self._writer, thread.thread_id, time_text(thread.created_at))

    async def note_state(self, thread_id: str, *, waits: bool) -> None:
        """Note that somebody changed what a thread remembers, on behalf of no run: it changed now, and rests.

        While a run has the thread, that run says what its status is.

        Args:
            thread_id: the thread.
            waits: whether something comes next in it, such as an answer: then it is interrupted, otherwise idle.

        Raises:
            UnknownThreadError: there is no such thread.
            StorageError: the database failed.
        """
        status = ThreadStatus.interrupted if waits else ThreadStatus.idle
        now = time_text(datetime.now(UTC))
        await self._writer.write(
            NoteState(thread_id=plain("thread_id", thread_id), owner=self._owner, now=now, status=status)
        )

    async def remove(self, thread_id: str) -> None:
        """Remove a thread and its runs. What they left goes from the log when no subscription needs it any more.

        Raises:
            UnknownThreadError: there is no such thread.
            ThreadInUseError: it has a run that has not ended.
            StorageError: the database failed.
        """
        now = time_text(datetime.now(UTC))
        await self._writer.write(RemoveThread(thread_id=plain("thread_id", thread_id), owner=self._owner, now=now))

    async def copy(
        self,
        thread_id: str,
        *,
        copy_id: str | None = None,
        belongs_to: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        checkpoints: bool = False,
    ) -> StoredThread:
        """Make another thread that remembers what this one does, without its runs. `metadata` replaces its own.

        The copy `belongs_to` the owner of these threads if no other is named.

        With `checkpoints`, those that graphs keep in this store are copied in the same transaction. For checkpoints
        that were put just now, call `agather` of the store's checkpointer first.

        Raises:
            UnknownThreadError: there is no such thread.
            ThreadExistsError: there is, or was, a thread with the id of the copy.
            InvalidQueryError: an argument does not fit; the message names it.
            StorageError: the database failed.
        """
        copy_id = new_id() if copy_id is None else short("copy_id", copy_id)
        work = CopyThread(
            thread_id=plain("thread_id", thread_id),
            owner=self._owner,
            now=time_text(datetime.now(UTC)),
            copy_id=copy_id,
            belongs_to=self._owner_of_new(belongs_to),
            metadata=None if metadata is None else _plain(metadata),
            checkpoints=checkpoints,
        )
        await self._writer.write(work)
        return await self.get(copy_id)

    def _owner_of_new(self, belongs_to: str | None) -> str | None:
        owner = short_or_none("belongs_to", self._owner if belongs_to is None else belongs_to)
        if self._owner not in {None, owner}:
            why = f"it would not be among these threads, which are {self._owner!r}'s"
            raise InvalidQueryError(field="belongs_to", value=belongs_to, why=why)
        return owner

    async def search(self, query: ThreadQuery) -> ThreadPage:
        """A page of the threads that match, with how many there are.

        Raises:
            InvalidQueryError: the query does not fit; the message names the field.
        """
        return await self._readers.run(ThreadSearch(query, self._owner).page)

    async def count(self, query: ThreadQuery) -> int:
        """How many threads match.

        Raises:
            InvalidQueryError: the query does not fit; the message names the field.
        """
        return await self._readers.run(ThreadSearch(query, self._owner).count)

    async def contents(self, thread_ids: Sequence[str]) -> Mapping[str, ThreadContents]:
        """What there is to these threads besides their rows, by their ids. Pass only threads that the owner may see."""
        return await self._readers.run(lambda connection: in_pieces(connection, thread_ids, _contents))

    async def remembered(self, thread_ids: Sequence[str]) -> frozenset[str]:
        """Those of these threads for which the store has what their agents left last. Pass only what the owner may see."""
        return await self._readers.run(lambda connection: _remembered(connection, thread_ids))

    async def holder(self, thread_id: str) -> str | None:
        """The run that has a thread, from its admission on; None: none has it. Pass only a thread that the owner may see."""
        return await find_holder(self._readers, thread_id)

    async def run(self, thread_id: str, run_id: str) -> StoredRun | None:
        """A run of a thread; None if there is no such run."""
        found = await self._readers.first(queries.one_run(run_id, owner=self._owner, removed=False), run_of)
        return found if found is not None and found.thread_id == thread_id else None

    async def runs(
        self,
        thread_id: str,
        *,
        status: AnyOf[RunStatus] | None = None,
        newest_first: bool = True,
        limit: int = 10,
        offset: int = 0,
    ) -> RunPage:
        """The runs of a thread, in the order in which they were created.

        Raises:
            UnknownThreadError: there is no such thread.
            InvalidQueryError: an argument does not fit; the message names it.
        """
        statuses = None if status is None else members(RunStatus, "status", status)
        for name, value in (("limit", limit), ("offset", offset)):
            if type(value) is not int or not 0 <= value <= MOST:
                raise InvalidQueryError(field=name, value=value, why=f"it is a whole number from 0 to {MOST}")
        conditions = [*are_of(statuses, None, plain("thread_id", thread_id)), runs.c.removed_at.is_(None)]
        order = (runs.c.created_at, runs.c.run_id)
        page = RUNS.where(*conditions).order_by(*[column.desc() if newest_first else column for column in order])
        thread = queries.one_thread(thread_id, owner=self._owner, removed=False)

        def read(connection: Connection) -> RunPage:
            if connection.execute(thread).first() is None:
                raise UnknownThreadError(thread_id=thread_id)
            total = connection.execute(select(func.count()).select_from(runs).where(*conditions)).scalar_one()
            shown = [run_of(row) for row in connection.execute(page.limit(limit).offset(offset))]
            return RunPage(shown, total, in_pieces(connection, [run.run_id for run in shown], strategies_of))

        return await self._readers.run(read)

    async def runs_of(self, thread_ids: Sequence[str]) -> Mapping[str, RunsOfThread]:
        """The runs of these threads in brief, by thread id. Pass only threads that the owner may see."""
        return await self._readers.run(lambda connection: in_pieces(connection, thread_ids, _runs_of))

    async def active_runs(
        self,
        *,
        thread_id: str | None = None,
        run_ids: Collection[str] | None = None,
        status: AnyOf[RunStatus] | None = None,
    ) -> list[StoredRun]:
        """Runs that have not ended, in the order in which they were let in: those of a thread, those with these ids, or
        any.

        `run_ids` has at most 10,000 ids.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
        """
        conditions: list[ColumnElement[bool]] = [
            runs.c.run_id.in_(select(active_runs.c.run_id)),
            unindexed(runs.c.status).not_in(sorted(FINAL_STATUSES)),
        ]
        if thread_id is not None:
            conditions.append(runs.c.thread_id == plain("thread_id", thread_id))
        if run_ids is not None:
            conditions.append(runs.c.run_id.in_(ids("run_ids", run_ids)))
        if status is not None:
            conditions.append(unindexed(runs.c.status).in_([one.value for one in members(RunStatus, "status", status)]))
        if self._owner is not None:
            conditions.append(is_owned(self._owner, runs.c.thread_id))
        return await self._readers.all(RUNS.where(*conditions).order_by(active_runs.c.ordinal), run_of)

    async def remove_run(self, thread_id: str, run_id: str) -> None:
        """Remove a run that has ended. The log keeps its events.

        Raises:
            UnknownThreadError: there is no such thread.
            UnknownRunError: it has no such run.
            RunInUseError: the run has not ended.
            StorageError: the database failed.
        """
        work = RemoveRun(
            thread_id=plain("thread_id", thread_id),
            run_id=plain("run_id", run_id),
            owner=self._owner,
            now=time_text(datetime.now(UTC)),
        )
        await self._writer.write(work)


def _plain(metadata: Mapping[str, Any] | None) -> JsonObject:
    return {} if not metadata else canonical_payload(metadata, path="metadata")


_IS_ITS_LAST: Final = and_(
    runs.c.run_id == threads.c.last_run_id, or_(runs.c.removed_at.is_(None), threads.c.removed_at.is_not(None))
)
"""The last run of a thread, as it is seen: a removed run is seen only with its removed thread, by whoever sees that."""


def _contents(connection: Connection, thread_ids: Sequence[str]) -> dict[str, ThreadContents]:
    query = (
        select(
            threads.c.thread_id,
            runs.c.run_id,
            thread_states.c.remembered,
            thread_states.c.paused,
            runs.c.error,
            runs.c.error_type,
            runs.c.request,
            exists().where(active_runs.c.thread_id == threads.c.thread_id, HOLDS_ITS_THREAD).label("is_held"),
        )
        .outerjoin_from(threads, thread_states, threads.c.thread_id == thread_states.c.thread_id)
        .outerjoin(runs, _IS_ITS_LAST)
        .where(threads.c.thread_id.in_(thread_ids))
    )
    return {
        row.thread_id: ThreadContents(
            values=row.remembered,
            interrupts=(row.paused or {}).get("interrupts") or (),
            last_run_id=row.run_id,
            error=row.error,
            error_type=row.error_type,
            config=(row.request or {}).get("config") or {},
            is_held=row.is_held,
        )
        for row in connection.execute(query)
    }


def _remembered(connection: Connection, thread_ids: Sequence[str]) -> frozenset[str]:
    """The threads for which the store has what their agents left last.

    What an agent leaves in the store stays there while another runs that keeps checkpoints itself. A copy has no runs.
    """
    of_thread, saved_at = runs.c.thread_id == threads.c.thread_id, thread_states.c.updated_at
    saved_by = (
        select(runs.c.agent)
        .where(of_thread, runs.c.started_at <= saved_at)
        .order_by(runs.c.started_at.desc())
        .limit(1)
        .correlate(threads, thread_states)
        .scalar_subquery()
    )
    is_newer = exists().where(of_thread, runs.c.started_at > saved_at)
    query = (
        select(threads.c.thread_id)
        .join_from(threads, thread_states, threads.c.thread_id == thread_states.c.thread_id)
        .where(threads.c.thread_id.in_(thread_ids))
        .where(or_(saved_by == threads.c.agent, and_(saved_by.is_(None), ~is_newer)))
    )
    return frozenset(connection.execute(query).scalars())


def _runs_of(connection: Connection, thread_ids: Sequence[str]) -> dict[str, RunsOfThread]:
    one = runs.alias()
    counted = (
        select(one.c.run_id)
        .where(one.c.thread_id == threads.c.thread_id, one.c.removed_at.is_(None))
        .limit(MOST_COUNTED)
        .correlate(threads)
        .subquery()
    )
    count = select(func.count()).select_from(counted).scalar_subquery()
    query = (
        select(threads.c.thread_id, count.label("runs"), runs.c.run_id, runs.c.status, runs.c.error)
        .outerjoin_from(threads, runs, _IS_ITS_LAST)
        .where(threads.c.thread_id.in_(thread_ids))
    )
    return {
        row.thread_id: RunsOfThread(
            count=row.runs,
            last_run_id=row.run_id,
            last_status=None if row.status is None else RunStatus(row.status),
            last_error=row.error,
        )
        for row in connection.execute(query)
    }
