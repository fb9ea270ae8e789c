"""Export and import: the events of a log as a file, and back. Everything else is told by the events.

An export reads page by page up to where the log ended when it began. An import appends in transactions of its own, under
the checks of any append, so what it makes is a valid store however the file was made; events that are there already are
passed over, so that an import which was cut short is gone on with by doing it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, BinaryIO, Literal, Self, override

import msgspec
from sqlalchemy import ColumnElement, Connection, Text, exists, func, select, type_coerce, update

from trackside.app.storage._arguments import AnyOf, members, plain_or_none, position, time
from trackside.app.storage._encoding import EventRow, time_text
from trackside.app.storage._readers import Readers
from trackside.app.storage._tables import POSITION, REMOVALS, counters, events, runs
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
    StorageError,
)
from trackside.harness.errors import EventOrderError
from trackside.harness.types import LifecycleEventType

type ExportFormat = Literal["jsonl", "parquet"]

_PAGE_ROWS = 2_000
_PAGE_BYTES = 8 * 1_048_576
_FETCHED_ROWS = 100
_BATCH_ROWS = 1_000
_BATCH_BYTES = 4 * 1_048_576
_ROW_BYTES = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """How many events were exported, and where the log ended when that began: a next export goes on `after` it."""

    events: int
    to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """How many events are new, how many were there already, and whether the new ones have the positions of the export."""

    imported: int
    known: int
    kept_positions: bool


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
        return cls(
            start=position("start", start),
            to=None if to is None else position("to", to),
            run_id=plain_or_none("run_id", run_id),
            thread_id=plain_or_none("thread_id", thread_id),
            agent=plain_or_none("agent", agent),
            types=None if types is None else members(LifecycleEventType, "types", types),
            since=None if since is None else time("since", since),
        )

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


async def export_events(readers: Readers, writer: ExportWriter, choice: ExportChoice) -> ExportReport:
    """Write the chosen events, up to where the log ends now.

    Raises:
        ExportTornError: runs were removed meanwhile, and what was written may have some of them in part.
        StorageError: the database cannot be read.
    """
    end, removals = await readers.run(_state)
    to = end if choice.to is None else min(end, choice.to)
    await asyncio.to_thread(writer.begin, ExportHeader(to=to, chosen=choice.described()))
    after, count = max(0, choice.start - 1), 0
    conditions = [*choice.conditions(), events.c.position <= to]
    while page := await readers.run(partial(_page, conditions=conditions, after=after)):
        await asyncio.to_thread(writer.write, page)
        after = page[-1].position
        count += len(page)
    if (await readers.run(_state))[1] != removals:
        raise ExportTornError(database=readers.database)
    await asyncio.to_thread(writer.finish, ExportFooter(count))
    return ExportReport(events=count, to=to)


def _state(connection: Connection) -> tuple[int, int]:
    """Where the log ends, and how often runs have been removed from it."""
    values = {row.name: row.value for row in connection.execute(select(counters))}
    return values[POSITION], values[REMOVALS]


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
    as_stored = msgspec.Raw(payload.encode())
    return ExportedEvent(position, event_id, event_type, run_id, thread_id, sequence, occurred_at, as_stored)


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


async def import_events(writer: Writer | NoWriter, readers: Readers, reader: ExportReader) -> ImportReport:
    """Append the events of an export that are not there yet.

    Raises:
        ForeignExportError: it is no export.
        ExportTooNewError: it is of a version that is not known here.
        ExportDamagedError: a line of it is wrong; what came before it is imported.
        ImportConflictError: an event cannot follow what its run has here, or its id is another event's.
        StorageError: the database failed; what was imported before stays.
    """
    header = await asyncio.to_thread(reader.begin)
    last, stored = await readers.run(_extent)
    batches = _batches(reader.rows(), last)
    placing = _Placing(last, stored)
    while batch := await asyncio.to_thread(next, batches, None):
        keep = placing.keeps(batch)
        try:
            positions = _positions(batch) if keep else {}
            rows = await writer.write(ImportEvents([one.row for one in batch], positions=positions))
        except (EventOrderError, EventConflictError) as exc:
            raise ImportConflictError(line=_line_of(exc, batch), why=str(exc)) from exc
        placing.note(batch, rows)
    if placing.all_kept:
        await writer.write(EndLog(header.to))
    return ImportReport(imported=placing.imported, known=placing.known, kept_positions=placing.all_kept)


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
