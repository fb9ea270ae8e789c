"""Export: the events of a log as a file that `importing` can read. What runs came to follows from the events.

No export contains threads and runs that were deleted, though the log may have them for a while. Runs that were rolled
back are exported: their events say that clients do not see them. An export reads page by page, up to where the log
ended when it began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from io import TextIOBase
from typing import Any, BinaryIO, Literal, NamedTuple, Self

import msgspec
from sqlalchemy import ColumnElement, Connection, Text, exists, func, select, type_coerce

from trackside.app.storage._databases.growth import log_end
from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._reading.queries import begin_since
from trackside.app.storage._rows.arguments import AnyOf, members, plain_or_none, position, time
from trackside.app.storage._rows.conditions import Conditions, there_is
from trackside.app.storage._rows.encoding import UndecodableError, time_text
from trackside.app.storage._rows.tables import events, runs, threads
from trackside.app.storage._transfer.file_format import (
    ExportedEvent,
    ExportFooter,
    ExportHeader,
    ExportReader,
    ExportWriter,
    JsonLinesReader,
    JsonLinesWriter,
)
from trackside.app.storage.errors import (
    ExportTornError,
    InvalidQueryError,
)
from trackside.harness.lifecycle import FINAL_STATUSES
from trackside.harness.types import LifecycleEventType

type ExportFormat = Literal["jsonl", "parquet"]

type OnWritten = Callable[[int, int, int], object]
"""Called with how many events are written, the position that has been reached, and the last position that will be."""

_PAGE_ROWS = 2_000
_PAGE_BYTES = 8 * 1_048_576
_FETCHED_ROWS = 100
RUNS_IN_PART = frozenset({"from", "since", "types"})
"""Choices that take some events of a run and leave others out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """How many events were exported, and where the log ended when the export began: the next export continues `after`
    it.
    """

    events: int
    to: int


def writer_of(file: BinaryIO, format: ExportFormat) -> ExportWriter:
    """The writer of this format.

    Raises:
        InvalidQueryError: there is no such format, or the file takes no bytes.
        MissingParquetError: the format is Parquet, and nothing here can write it.
    """
    _check_file(file, "write", "wb")
    if format == "parquet":
        from trackside.app.storage._transfer.parquet import ParquetWriter

        return ParquetWriter(file)
    if format != "jsonl":
        raise _unknown(format)
    return JsonLinesWriter(file)


def reader_of(file: BinaryIO, format: ExportFormat) -> ExportReader:
    """The reader of this format.

    Raises:
        InvalidQueryError: there is no such format, or the file gives no bytes.
        MissingParquetError: the format is Parquet, and nothing here can read it.
    """
    _check_file(file, "read", "rb")
    if format == "parquet":
        from trackside.app.storage._transfer.parquet import ParquetReader

        return ParquetReader(file)
    if format != "jsonl":
        raise _unknown(format)
    return JsonLinesReader(file)


def _check_file(file: object, method: str, mode: str) -> None:
    """See that it is a file of bytes; a wrapper around one of text has its encoding."""
    is_text = isinstance(file, TextIOBase) or isinstance(getattr(file, "encoding", None), str)
    if is_text or not callable(getattr(file, method, None)):
        raise InvalidQueryError(field="file", value=file, why=f'pass a file of bytes, as open(path, "{mode}")')


def _unknown(format: object) -> InvalidQueryError:
    return InvalidQueryError(field="format", value=format, why='there are "jsonl" and "parquet"')


@dataclass(frozen=True, slots=True)
class OpenedExport:
    """An export whose beginning has been read and recognised."""

    header: ExportHeader
    reader: ExportReader


def open_export(file: BinaryIO, *, format: ExportFormat = "jsonl") -> OpenedExport:
    """Read the beginning of an export, to be sure that it is one before there is a store for it. This blocks.

    Args:
        file: where to read from; it is not closed.
        format: "jsonl" or "parquet".

    Raises:
        ForeignExportError: the file is not an export.
        ExportTooNewError: its version is not known here.
        ExportDamagedError: the file cannot be read.
        InvalidQueryError: there is no such format, or the file gives no bytes.
        MissingParquetError: the format is Parquet, and nothing here can read it.
    """
    reader = reader_of(file, format)
    return OpenedExport(reader.begin(), reader)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportChoice:
    """Which events are exported: those from one position to another, or to the end, to which the rest applies."""

    start: int
    to: int | None
    run_id: str | None
    thread_id: str | None
    agent: str | None
    types: Sequence[LifecycleEventType] | None
    since: datetime | None

    @classmethod
    def of(
        cls,
        *,
        start: int,
        to: int | None,
        run_id: str | None,
        thread_id: str | None,
        agent: str | None,
        types: AnyOf[LifecycleEventType] | None,
        since: datetime | None,
    ) -> Self:
        """Check what was asked for.

        Raises:
            InvalidQueryError: an argument does not fit.
        """
        if position("start", start) < 1:
            raise InvalidQueryError(field="start", value=start, why="the first position is 1")
        if to is not None and position("to", to) < start:
            raise InvalidQueryError(field="to", value=to, why=f"it is not before the first position, {start}")
        return cls(
            start=start,
            to=to,
            run_id=plain_or_none("run_id", run_id),
            thread_id=plain_or_none("thread_id", thread_id),
            agent=plain_or_none("agent", agent),
            types=None if types is None else members(LifecycleEventType, "types", types),
            since=None if since is None else time("since", since),
        )

    def check_end(self, end: int) -> None:
        """Check that the log reaches that far; a start right after its end is allowed, too.

        Raises:
            InvalidQueryError: the log ends before.
        """
        why = f"the log ends at {end}"
        if self.start > end + 1:
            raise InvalidQueryError(field="start", value=self.start, why=why)
        if self.to is not None and self.to > end:
            raise InvalidQueryError(field="to", value=self.to, why=why)

    def described(self) -> dict[str, Any]:
        """What is chosen, as the file says it; nothing if everything is."""
        chosen = {
            "from": self.start if self.start > 1 else None,
            "run_id": self.run_id,
            "thread_id": self.thread_id,
            "agent": self.agent,
            "types": None if self.types is None else [kind.value for kind in self.types],
            "since": None if self.since is None else time_text(self.since),
        }
        return {name: value for name, value in chosen.items() if value is not None}

    def conditions(self, *, through_runs: bool) -> list[ColumnElement[bool]]:
        """The conditions for the chosen events, besides their position; `through_runs`: in a form that finds a
        thread's events by its runs.
        """
        conditions: list[ColumnElement[bool]] = []
        if self.run_id is not None:
            conditions.append(events.c.run_id == self.run_id)
        if self.thread_id is not None:
            its_runs = select(runs.c.run_id).where(runs.c.thread_id == self.thread_id)
            is_its = events.c.thread_id == self.thread_id
            conditions.append(events.c.run_id.in_(its_runs) if through_runs else is_its)
        if self.agent is not None:
            conditions.append(exists().where(runs.c.run_id == events.c.run_id, runs.c.agent == self.agent))
        if self.types is not None:
            conditions.append(events.c.event_type.in_([kind.value for kind in self.types]))
        if self.since is not None:
            conditions.append(events.c.occurred_at >= self.since)
        return conditions


@dataclass(frozen=True, slots=True)
class _Way:
    """How the chosen events are found: after a position, and by what holds for them.

    If they are `few`, all of them are looked up for each page; otherwise the log is read.
    """

    after: int
    conditions: Sequence[ColumnElement[bool]]
    few: bool

    @classmethod
    def to(cls, connection: Connection, *, choice: ExportChoice, end: int) -> Self:
        """The way to the chosen events, up to this position."""
        after: int | None = choice.start - 1
        if choice.since is not None:
            after = begin_since(connection, choice.since, choice.start - 1)
        if after is None:
            return cls(end, [], few=False)
        thread_id = choice.thread_id if choice.run_id is None else None
        few = thread_id is not None and _costs_less(connection, thread_id, end - after)
        chosen = choice.conditions(through_runs=few)
        return cls(after, [*chosen, *_of_no_deleted_thread(connection), *_of_no_deleted_run(connection, choice)], few)


def _of_no_deleted_thread(connection: Connection) -> Conditions:
    """That an event's thread has not been deleted by now. A thread that goes later is exported whole, or not at all."""
    deleted = (threads.c.removed_at.is_not(None), ~threads.c.ends)
    last = connection.execute(select(func.max(threads.c.removed_at)).where(*deleted)).scalar()
    if last is None:
        return []
    return [events.c.thread_id.not_in(select(threads.c.thread_id).where(*deleted, threads.c.removed_at <= last))]


def _of_no_deleted_run(connection: Connection, choice: ExportChoice) -> Conditions:
    """The same for runs. Nobody deleted the runs of a thread that `ends`: they went with it."""
    went_with_it = there_is(threads.c.thread_id == runs.c.thread_id, threads.c.ends)
    rolled_back = runs.c.removed_at == runs.c.ended_at  # as its last event says
    deleted: Conditions = [runs.c.removed_at.is_not(None), ~rolled_back, ~went_with_it]
    if choice.run_id is not None:
        deleted.append(runs.c.run_id == choice.run_id)
    if choice.thread_id is not None:
        deleted.append(runs.c.thread_id == choice.thread_id)
    has_ended = runs.c.status.in_(sorted(FINAL_STATUSES))  # leads through an index that knows which were removed
    last = connection.execute(select(func.max(runs.c.removed_at)).where(has_ended, *deleted)).scalar()
    if last is None:
        return []
    return [~there_is(runs.c.run_id == events.c.run_id, runs.c.removed_at <= last, *deleted)]


def _costs_less(connection: Connection, thread_id: str, stretch: int) -> bool:
    """Whether it costs less to look up all events of a thread for each page than to read so much of the log once."""
    query = select(func.sum(runs.c.last_sequence)).where(runs.c.thread_id == thread_id)
    count = int(connection.execute(query).scalar() or 0)
    return count * (1 + count // _PAGE_ROWS) < stretch


async def export_events(
    readers: Readers, writer: ExportWriter, choice: ExportChoice, on_written: OnWritten | None = None
) -> ExportReport:
    """Write the chosen events, up to where the log ends now.

    Raises:
        InvalidQueryError: the log does not reach as far as was asked for.
        ExportTornError: runs were removed meanwhile, and what was written has some of them in part.
        StorageError: the database cannot be read.
    """
    end = await readers.run(log_end)
    choice.check_end(end)
    to = end if choice.to is None else choice.to
    await asyncio.to_thread(writer.begin, ExportHeader(to=to, chosen=choice.described()))
    way = await readers.run(partial(_Way.to, choice=choice, end=to))
    after, count = way.after, 0
    cut: set[str] = set()
    """The runs of which only a part is written so far: few at any moment. A run that is removed now stays here."""
    while (page := await readers.run(partial(_page, way=way, after=after, end=to))).events:
        await asyncio.to_thread(writer.write, page.events)
        cut.difference_update(event.run_id for event in page.events)
        cut.update(page.cut)
        after = page.events[-1].position
        count += len(page.events)
        if on_written is not None:
            on_written(count, after, to)
    if cut:
        raise ExportTornError(database=readers.database)
    await asyncio.to_thread(writer.finish, ExportFooter(count))
    return ExportReport(events=count, to=to)


_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_COLUMNS = (
    events.c.position,
    events.c.event_id,
    events.c.event_type,
    events.c.run_id,
    events.c.thread_id,
    events.c.sequence,
    type_coerce(events.c.occurred_at, Text),
    type_coerce(events.c.payload, Text).label("payload"),
)


def _exported(
    position: int,
    event_id: str,
    event_type: str,
    run_id: str,
    thread_id: str,
    sequence: int,
    occurred_at: str,
    payload: str,
) -> ExportedEvent:
    as_stored = _checked(position, payload)
    return ExportedEvent(position, event_id, event_type, run_id, thread_id, sequence, occurred_at, as_stored)


def _checked(position: int, payload: str) -> msgspec.Raw:
    """The payload as it is stored, if it is JSON: damage must not be passed on in a file that counts as a backup."""
    try:
        return _decode_raw(payload)
    except msgspec.DecodeError as exc:
        raise UndecodableError(f"the payload of the event at position {position} is not JSON") from exc


class _Page(NamedTuple):
    """Some of the chosen events, and those of their runs that have more of them further on."""

    events: Sequence[ExportedEvent]
    cut: Sequence[str]


def _page(connection: Connection, *, way: _Way, after: int, end: int) -> _Page:
    """The next events, as many as fit into a page."""
    found = _found(connection, way=way, after=after, end=end)
    last = {event.run_id: event.position for event in found}
    told = events.alias()
    more = exists(events.c.position).where(  # the index of a run's events has it
        events.c.run_id == told.c.run_id,
        events.c.sequence > told.c.sequence,
        events.c.position <= end,
        *way.conditions,
    )
    query = select(told.c.run_id).where(told.c.position.in_(last.values()), more)
    return _Page(found, connection.execute(query).scalars().all() if found else ())


def _found(connection: Connection, *, way: _Way, after: int, end: int) -> list[ExportedEvent]:
    # Where few are looked up, this is not the column itself, which would lead through the log.
    place: ColumnElement[int] = events.c.position + 0 if way.few else events.c.position
    chosen = [place > after, place <= end, *way.conditions]
    if way.few:  # so that their payloads are not sorted
        found = select(events.c.position).where(*chosen).order_by(events.c.position).limit(_PAGE_ROWS).subquery()
        chosen = [events.c.position.in_(select(found.c.position))]
    query = select(*_COLUMNS).where(*chosen).order_by(events.c.position)
    page: list[ExportedEvent] = []
    size = 0
    with connection.execute(query.limit(_PAGE_ROWS), execution_options={"yield_per": _FETCHED_ROWS}) as rows:
        for row in rows:
            page.append(_exported(*row))
            size += len(row.payload)
            if size > _PAGE_BYTES:
                break
    return page
