"""What is written of graphs' checkpoints: puts, of which every run has many, and rarer works."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import batched
from typing import override

from sqlalchemy import and_, delete, select, text, tuple_

from trackside.app.storage._databases.old_checkpoints import OldTables, remove_old
from trackside.app.storage._databases.session import GraphAccess, Session
from trackside.app.storage._rows.encoding import json_of
from trackside.app.storage._rows.graph_checkpoint_rows import Borrowing, CheckpointRow, ValueRow, WriteRow
from trackside.app.storage._rows.graph_checkpoint_tables import (
    GRAPH_CHECKPOINT,
    GRAPH_VALUE,
    GRAPH_WRITE,
    OF_THREADS,
    graph_checkpoints,
    graph_values,
    graph_writes,
)
from trackside.app.storage._writing.fences import check_run, check_thread
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.harness.errors import TracksideError

_ROW_BYTES = 400  # what a row takes besides its bytes: ids, three or four times
_SMALL = 1_000
_VALUES_AT_ONCE = 500

type Key = tuple[str, str, str]
"""The key of a checkpoint: its thread, its namespace, its id."""

type Place = tuple[str, str]
"""A thread and a namespace."""


class Chain:
    """Puts each of which assumes that those before it were written: after one fails, the others fail, too."""

    __slots__ = ("failure",)

    def __init__(self) -> None:
        self.failure: TracksideError | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class PutGraphRows(Work):
    """What a step of a graph leaves; nothing of a run that has ended without its process.

    `held` says that its process claimed the run here; `made_at` says when a thread that is changed by hand was made.
    """

    thread_id: str
    run_id: str | None
    held: bool = False
    made_at: str | None = None
    checkpoints: list[CheckpointRow] = field(default_factory=list)
    values: list[ValueRow] = field(default_factory=list)
    writes: list[WriteRow] = field(default_factory=list)
    borrowings: list[Borrowing] = field(default_factory=list)
    chain: Chain | None = None

    @property
    @override
    def graph_access(self) -> GraphAccess | None:
        return "saves" if self.checkpoints else None

    @property
    @override
    def size(self) -> int:
        size = sum([_ROW_BYTES + len(row.value) for rows in (self.values, self.writes) for row in rows])
        return size + sum([_ROW_BYTES + len(row.body) + len(row.metadata) + len(row.refs) for row in self.checkpoints])

    def join(self, later: PutGraphRows) -> None:
        """Take in what the same run put later, while nothing of this one is written."""
        self.checkpoints += later.checkpoints
        self.values += later.values
        self.writes += later.writes
        self.borrowings += later.borrowings

    @override
    def run_ids(self) -> Iterable[str]:
        return () if self.run_id is None else (self.run_id,)

    @override
    def thread_ids(self) -> Iterable[str]:
        return () if self.made_at is None else (self.thread_id,)

    @override
    def queues(self) -> Iterable[str]:
        return self.thread_ids()

    @override
    def refused(self, error: TracksideError) -> None:
        if self.chain is not None and self.chain.failure is None:
            self.chain.failure = error

    @override
    def apply(self, unit: UnitOfWork) -> None:
        if self.chain is not None and self.chain.failure is not None:
            raise self.chain.failure
        check_run(unit, self.thread_id, self.run_id, held=self.held)
        if self.made_at is not None:
            check_thread(unit, self.thread_id, self.made_at)
        unit.graph.add(self.checkpoints, self.values, self.writes)
        unit.graph.borrowings += self.borrowings


@dataclass(frozen=True, slots=True)
class RemoveGraphThreads(Work):
    """Removes all that threads' graphs have left; for a run, which takes it back, only while the run has not ended.

    `held` says that its process claimed the run here.
    """

    threads: Sequence[str]
    run_id: str | None = None
    held: bool = False

    @property
    @override
    def graph_access(self) -> GraphAccess | None:
        return "removes"

    @property
    @override
    def size(self) -> int:
        return _SMALL * len(self.threads)

    @override
    def run_ids(self) -> Iterable[str]:
        return () if self.run_id is None else (self.run_id,)

    @override
    def apply(self, unit: UnitOfWork) -> None:
        for thread_id in self.threads:
            check_run(unit, thread_id, self.run_id, held=self.held)
        unit.session.note_graph_removal()
        remove_checkpoints(unit.session, self.threads)


def remove_checkpoints(session: Session, thread_ids: Collection[str]) -> None:
    """Remove all checkpoints of threads, including those that LangGraph's savers have left in tables of their own."""
    if not thread_ids:
        return
    for table in OF_THREADS:
        session.execute(delete(table).where(table.c.thread_id.in_(thread_ids)))
    remove_old(session, thread_ids)


@dataclass(frozen=True, slots=True)
class TakeOverThread(Work):
    """Moves what one of LangGraph's savers has left of a thread into our tables, unless it is there already."""

    thread_id: str
    old: OldTables
    values: Sequence[ValueRow]

    @property
    @override
    def graph_access(self) -> GraphAccess | None:
        return "saves"

    @property
    @override
    def size(self) -> int:
        return _SMALL + sum([_ROW_BYTES + len(row.value) for row in self.values])

    @override
    def apply(self, unit: UnitOfWork) -> None:
        if self.old.move(unit.session, self.thread_id):
            unit.graph.add((), self.values, ())


@dataclass(frozen=True, slots=True)
class CopyGraphThread(Work):
    """Copies all that a thread's graph has left to another thread."""

    source: str
    target: str

    @property
    @override
    def graph_access(self) -> GraphAccess | None:
        return "saves"

    @property
    @override
    def size(self) -> int:
        return _SMALL

    @override
    def apply(self, unit: UnitOfWork) -> None:
        copy_checkpoints(unit.session, self.source, self.target)


def copy_checkpoints(session: Session, source: str, target: str) -> None:
    """Copy all checkpoints of a thread that are in our tables to another one; what is there already stays."""
    for table, names in zip(OF_THREADS, (GRAPH_CHECKPOINT, GRAPH_VALUE, GRAPH_WRITE), strict=True):
        others = names.removeprefix("thread_id, ")
        session.execute(
            text(
                f"INSERT INTO {table.name} ({names})"  # names of ours
                f" SELECT CAST(:target AS TEXT), {others} FROM {table.name} WHERE thread_id = :source"
                " ON CONFLICT DO NOTHING"
            ).bindparams(target=target, source=source)
        )


@dataclass(frozen=True, slots=True)
class RemoveCheckpoints(Work):
    """Removes single checkpoints, what tasks wrote after them, and, from `freed` threads and namespaces, the values that
    no other checkpoint has.
    """

    keys: Sequence[Key]
    freed: Collection[Place]

    @property
    @override
    def graph_access(self) -> GraphAccess | None:
        return "removes" if self.keys else None

    @property
    @override
    def size(self) -> int:
        return _SMALL * len(self.keys)

    @override
    def apply(self, unit: UnitOfWork) -> None:
        session = unit.session
        if not self.keys:
            return
        session.note_graph_removal()
        place = (graph_checkpoints.c.thread_id, graph_checkpoints.c.namespace)
        these = tuple_(*place, graph_checkpoints.c.checkpoint_id).in_(self.keys)
        coming = _values_of((row.thread_id, row.namespace, row.refs) for row in unit.graph.checkpoints.values())
        session.execute(delete(graph_checkpoints).where(these))
        writes = (graph_writes.c.thread_id, graph_writes.c.namespace, graph_writes.c.checkpoint_id)
        session.execute(delete(graph_writes).where(tuple_(*writes).in_(self.keys)))
        for thread_id, namespace in self.freed:
            others = session.execute(
                select(*place, graph_checkpoints.c.refs).where(and_(place[0] == thread_id, place[1] == namespace))
            )
            # Not only what the removed ones name: those of LangGraph's savers name no value that is inside themselves.
            garbage = _stored(session, thread_id, namespace) - _values_of(others)[thread_id, namespace]
            _remove_values(session, thread_id, namespace, garbage - coming[thread_id, namespace])


type _Values = defaultdict[tuple[str, str], set[tuple[str, str]]]
"""Channels and versions, by thread and namespace."""


def _values_of(rows: Iterable[Sequence[str]]) -> _Values:
    values: _Values = defaultdict(set)
    for thread_id, namespace, refs in rows:
        values[thread_id, namespace].update(json_of(refs).items())
    return values


def _stored(session: Session, thread_id: str, namespace: str) -> set[tuple[str, str]]:
    """The channels and versions that there are of a thread and a namespace."""
    columns = graph_values.c
    query = select(columns.channel, columns.version)
    found = session.execute(query.where(columns.thread_id == thread_id, columns.namespace == namespace))
    return {(channel, version) for channel, version in found}


def _remove_values(session: Session, thread_id: str, namespace: str, values: Iterable[tuple[str, str]]) -> None:
    columns = graph_values.c
    for some in batched(sorted(values), _VALUES_AT_ONCE):  # there may be as many as a thread has ever had
        session.execute(
            delete(graph_values).where(
                columns.thread_id == thread_id,
                columns.namespace == namespace,
                tuple_(columns.channel, columns.version).in_(some),
            )
        )
