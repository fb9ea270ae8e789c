"""Export and import: the events of a log as a file, and back. Everything else is told by the events.

An export reads page by page up to where the log ended when it began. An import appends in transactions of its own, under
the checks of any append, so what it makes is a valid store however the file was made; events that are there already are
passed over, so that an import which was cut short is gone on with by doing it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import batched
from typing import Any, BinaryIO, Literal, Self, override

import msgspec
from sqlalchemy import ColumnElement, Connection, Text, exists, func, select, type_coerce, update

from trackside.app.storage._arguments import AnyOf, members, plain_or_none, position, time
from trackside.app.storage._encoding import EventRow, UndecodableError, time_text
from trackside.app.storage._left_busy import RestThreads
from trackside.app.storage._readers import Readers
from trackside.app.storage._tables import POSITION, REMOVALS, active_runs, counters, events, runs
from trackside.app.storage._transfer_format import (
    ExportedEvent,
    ExportFooter,
    ExportHeader,
    ExportReader,
    ExportWriter,
    ImportedRow,
    JsonLinesReader,
    JsonLinesWriter,
)
from trackside.app.storage._work import Append, UnitOfWork, Work
from trackside.app.storage._writer import NoWriter, Writer
from trackside.app.storage.errors import (
    EventConflictError,
    ExportTornError,
    ImportConflictError,
    InvalidQueryError,
    PartialExportError,
    StorageError,
)
from trackside.harness.errors import EventOrderError
from trackside.harness.lifecycle import is_terminal, thread_status_of
from trackside.harness.types import LifecycleEventType, ThreadStatus

type ExportFormat = Literal["jsonl", "parquet"]

type OnWritten = Callable[[int, int, int], object]
"""Called with how many events are written, the position that has been reached, and the last one that will be."""

type OnImported = Callable[[int], object]
"""Called with how many events of the export have been read and stored, or found to be there."""

_PAGE_ROWS = 2_000
_PAGE_BYTES = 8 * 1_048_576
_FETCHED_ROWS = 100
_BATCH_ROWS = 1_000
_BATCH_BYTES = 4 * 1_048_576
_ROW_BYTES = 300
_RUNS_IN_PART = frozenset({"from", "since", "types"})
"""Choices that take some events of a run and leave others out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """How many events were exported, and where the log ended when that began: a next export goes on `after` it."""

    events: int
    to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """How many events are new, how many were there already, and whether the new ones have the positions of the export.

    An import ends no run. `unfinished` says how many of those in the export have no end here and are in nobody's hands, so
    that nobody will end them either: an export of what came later may bring their ends.
    """

    imported: int
    known: int
    kept_positions: bool
    unfinished: int


def writer_of(file: BinaryIO, format: ExportFormat) -> ExportWriter:
    """What writes this format.

    Raises:
        InvalidQueryError: there is no such format.
        MissingParquetError: the format is Parquet, and nothing here can write it.
    """
    if format == "parquet":
        from trackside.app.storage._transfer_parquet import ParquetWriter

        return ParquetWriter(file)
    if format != "jsonl":
        raise _unknown(format)
    return JsonLinesWriter(file)


def reader_of(file: BinaryIO, format: ExportFormat) -> ExportReader:
    """What reads this format.

    Raises:
        InvalidQueryError: there is no such format.
        MissingParquetError: the format is Parquet, and nothing here can read it.
    """
    if format == "parquet":
        from trackside.app.storage._transfer_parquet import ParquetReader

        return ParquetReader(file)
    if format != "jsonl":
        raise _unknown(format)
    return JsonLinesReader(file)


def _unknown(format: object) -> InvalidQueryError:
    return InvalidQueryError(field="format", value=format, why='there are "jsonl" and "parquet"')


@dataclass(frozen=True, slots=True)
class OpenedExport:
    """An export whose beginning has been read, and is that of one."""

    header: ExportHeader
    reader: ExportReader


def open_export(file: BinaryIO, *, format: ExportFormat = "jsonl") -> OpenedExport:
    """Read the beginning of an export, to know that it is one before there is a store for it. Blocks.

    Args:
        file: where it is read from; it is not closed.
        format: "jsonl" or "parquet".

    Raises:
        ForeignExportError: it is no export.
        ExportTooNewError: it is of a version that is not known here.
        ExportDamagedError: the file cannot be read.
        InvalidQueryError: there is no such format.
        MissingParquetError: the format is Parquet, and nothing here can read it.
    """
    reader = reader_of(file, format)
    return OpenedExport(reader.begin(), reader)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportChoice:
    """Which events are exported: those from a position to another, or to the end, for which the rest holds."""

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
        """See that the log reaches so far; what comes next in it may be asked for, too.

        Raises:
            InvalidQueryError: it ends before.
        """
        why = f"the log ends at {end}"
        if self.start > end + 1:
            raise InvalidQueryError(field="start", value=self.start, why=why)
        if self.to is not None and self.to > end:
            raise InvalidQueryError(field="to", value=self.to, why=why)

    def described(self) -> dict[str, Any]:
        """What is chosen, as the file says it: nothing, if all is."""
        chosen = {
            "from": self.start if self.start > 1 else None,
            "run_id": self.run_id,
            "thread_id": self.thread_id,
            "agent": self.agent,
            "types": None if self.types is None else [kind.value for kind in self.types],
            "since": None if self.since is None else time_text(self.since),
        }
        return {name: value for name, value in chosen.items() if value is not None}

    def conditions(self) -> list[ColumnElement[bool]]:
        """What holds for the chosen events, besides their position."""
        conditions: list[ColumnElement[bool]] = []
        if self.run_id is not None:
            conditions.append(events.c.run_id == self.run_id)
        if self.thread_id is not None:
            conditions.append(events.c.thread_id == self.thread_id)
        if self.agent is not None:
            conditions.append(exists().where(runs.c.run_id == events.c.run_id, runs.c.agent == self.agent))
        if self.types is not None:
            conditions.append(events.c.event_type.in_([kind.value for kind in self.types]))
        if self.since is not None:
            conditions.append(events.c.occurred_at >= self.since)
        return conditions


async def export_events(
    readers: Readers, writer: ExportWriter, choice: ExportChoice, on_written: OnWritten | None = None
) -> ExportReport:
    """Write the chosen events, up to where the log ends now.

    Raises:
        InvalidQueryError: the log does not reach as far as was asked for.
        ExportTornError: runs were removed meanwhile, and what was written may have some of them in part.
        StorageError: the database cannot be read.
    """
    end, removals = await readers.run(_state)
    choice.check_end(end)
    to = end if choice.to is None else choice.to
    await asyncio.to_thread(writer.begin, ExportHeader(to=to, chosen=choice.described()))
    after, count = choice.start - 1, 0
    conditions = [*choice.conditions(), events.c.position <= to]
    while page := await readers.run(partial(_page, conditions=conditions, after=after)):
        await asyncio.to_thread(writer.write, page)
        after = page[-1].position
        count += len(page)
        if on_written is not None:
            on_written(count, after, to)
    if (await readers.run(_state))[1] != removals:
        raise ExportTornError(database=readers.database)
    await asyncio.to_thread(writer.finish, ExportFooter(count))
    return ExportReport(events=count, to=to)


def _state(connection: Connection) -> tuple[int, int]:
    """Where the log ends, and how often runs have been removed from it."""
    values = {row.name: row.value for row in connection.execute(select(counters))}
    return values[POSITION], values[REMOVALS]


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


def _page(connection: Connection, *, conditions: Sequence[ColumnElement[bool]], after: int) -> list[ExportedEvent]:
    """The next events, as many as fit into a page."""
    query = select(*_COLUMNS).where(events.c.position > after, *conditions).order_by(events.c.position)
    page: list[ExportedEvent] = []
    size = 0
    with connection.execute(query.limit(_PAGE_ROWS), execution_options={"yield_per": _FETCHED_ROWS}) as rows:
        for row in rows:
            page.append(_exported(*row))
            size += len(row.payload)
            if size > _PAGE_BYTES:
                break
    return page


async def import_events(
    writer: Writer | NoWriter, readers: Readers, export: OpenedExport, on_imported: OnImported | None = None
) -> ImportReport:
    """Append the events of an export that are not there yet.

    Raises:
        ExportDamagedError: a line of it is wrong; what came before it is imported.
        ImportConflictError: an event cannot follow what its run has here, or its id is another event's.
        PartialExportError: an event cannot follow, and only some events of each run were exported.
        StorageError: the database failed; what was imported before stays.
    """
    last, stored = await readers.run(_extent)
    batches = _batches(export.reader.rows(), last)
    placing, loose = _Placing(last, stored), _LooseEnds()
    while batch := await asyncio.to_thread(next, batches, None):
        keep = placing.keeps(batch)
        try:
            positions = _positions(batch) if keep else {}
            rows = await writer.write(ImportEvents([one.row for one in batch], positions=positions))
        except (EventOrderError, EventConflictError) as exc:
            raise _conflict(exc, batch, export.header) from exc
        placing.note(batch, rows)
        loose.note(batch)
        if on_imported is not None:
            on_imported(placing.imported + placing.known)
    if placing.all_kept:
        await writer.write(EndLog(export.header.to))
    for thread_ids in batched(loose.threads, _BATCH_ROWS):
        await writer.write(RestThreads(thread_ids))
    unfinished = 0
    for run_ids in batched(loose.runs, _BATCH_ROWS):
        unfinished += await readers.run(partial(_abandoned, run_ids=run_ids))
    return ImportReport(
        imported=placing.imported, known=placing.known, kept_positions=placing.all_kept, unfinished=unfinished
    )


class _LooseEnds:
    """What an export leaves open: runs without an end, and threads that it says are busy. Both are few at any moment."""

    def __init__(self) -> None:
        self.runs: dict[str, None] = {}
        self.threads: dict[str, None] = {}

    def note(self, batch: Sequence[ImportedRow]) -> None:
        """Take note of what these events begin and end."""
        for one in batch:
            event = one.row.event
            if event.sequence == 1:
                self.runs[event.run_id] = None
            if is_terminal(event.event_type):
                self.runs.pop(event.run_id, None)
            status = thread_status_of(event.event_type, event.payload)
            if status is ThreadStatus.busy:
                self.threads[event.thread_id] = None
            elif status is not None:
                self.threads.pop(event.thread_id, None)


def _abandoned(connection: Connection, *, run_ids: Sequence[str]) -> int:
    """How many of these runs have no end here, and nobody who will give them one."""
    is_active = exists().where(active_runs.c.run_id == runs.c.run_id)
    query = select(func.count()).select_from(runs)
    return connection.execute(
        query.where(runs.c.run_id.in_(run_ids), runs.c.ended_at.is_(None), ~is_active)
    ).scalar_one()


def _conflict(
    exc: EventOrderError | EventConflictError, batch: Sequence[ImportedRow], header: ExportHeader
) -> ImportConflictError:
    line = _line_of(exc, batch)
    if isinstance(exc, EventOrderError) and (left_out := _RUNS_IN_PART & header.chosen.keys()):
        return PartialExportError(line=line, chosen=" and ".join(sorted(left_out)), why=str(exc))
    return ImportConflictError(line=line, why=str(exc))


def _extent(connection: Connection) -> tuple[int, int]:
    """Where the log ends, and how many events it has."""
    end = connection.execute(select(counters.c.value).where(counters.c.name == POSITION)).scalar_one()
    return end, connection.execute(select(func.count()).select_from(events)).scalar_one()


def _positions(batch: Sequence[ImportedRow]) -> dict[str, int]:
    return {one.row.event.event_id: one.position for one in batch}


def _batches(rows: Iterator[ImportedRow], last: int) -> Iterator[list[ImportedRow]]:
    """Rows for one transaction each; what lies before and what lies after the end of the log are not mixed.

    What comes before a line that is wrong is given before that is said.
    """
    batch: list[ImportedRow] = []
    size = 0
    try:
        for one in rows:
            full = len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES
            if batch and (full or batch[-1].position <= last < one.position):
                yield batch
                batch, size = [], 0
            batch.append(one)
            size += len(one.row.payload)
    except StorageError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


class _Placing:
    """Decides where events of an export go: where they were, if the log is empty or the beginning of the very same one.

    Else, which means that the log has events of others, too, they get the next positions, as any new event.
    """

    def __init__(self, last: int, stored: int) -> None:
        self._last = last
        self._stored = stored
        self._same = 0
        self.imported = 0
        self.known = 0
        self.all_kept = True

    def keeps(self, batch: Sequence[ImportedRow]) -> bool:
        """Whether these events go where they were."""
        is_beginning = self.all_kept and self._same == self._stored
        return is_beginning and batch[0].position > self._last

    def note(self, batch: Sequence[ImportedRow], stored: Sequence[EventRow]) -> None:
        """Take note of what became of them."""
        for one, row in zip(batch, stored, strict=True):
            is_new = row is one.row
            self.imported += is_new
            self.known += not is_new
            if row.position != one.position:
                self.all_kept = False
            elif not is_new:
                self._same += 1


def _line_of(exc: EventOrderError | EventConflictError, batch: Sequence[ImportedRow]) -> int:
    """The line that was refused: of lines with the same id it is the last, as the others did not find it taken."""
    for one in reversed(batch):
        event = one.row.event
        if isinstance(exc, EventConflictError):
            if event.event_id == exc.details["event_id"]:
                return one.line
        elif (event.run_id, event.sequence) == (exc.details["run_id"], exc.details["sequence"]):
            return one.line
    return batch[0].line


@dataclass(slots=True, eq=False)
class ImportEvents(Append):
    """Events to append; those in `positions`, by id, at these positions, as far as the log has not got there."""

    positions: Mapping[str, int] = field(default_factory=dict[str, int])

    @override
    def apply(self, unit: UnitOfWork) -> list[EventRow]:
        stored = unit.append(self.rows)
        new = {row.event.event_id for row, mine in zip(stored, self.rows, strict=True) if row is mine}
        unit.positions.update((event_id, place) for event_id, place in self.positions.items() if event_id in new)
        return stored


@dataclass(frozen=True, slots=True)
class EndLog(Work):
    """Let the log end here, if it does not reach so far: what an export had behind its last event was removed."""

    position: int

    @property
    @override
    def size(self) -> int:
        return _ROW_BYTES

    @override
    def apply(self, unit: UnitOfWork) -> None:
        unit.session.execute(
            update(counters)
            .where(counters.c.name == POSITION, counters.c.value < self.position)
            .values(value=self.position)
        )
