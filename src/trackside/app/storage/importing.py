"""Import: the events of an export, appended to a log in transactions of their own, under the checks of any append.

So the result is a valid store, however the file was made. Events that are there already are passed over, so that an
import that was cut short is continued by doing it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import batched
from typing import override

from sqlalchemy import Connection, Update, and_, exists, func, or_, select, update

from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._rows.conditions import is_unattended
from trackside.app.storage._rows.encoding import EventRow, time_text
from trackside.app.storage._rows.fold import RunAge, concerns_thread
from trackside.app.storage._rows.tables import POSITION, counters, events, runs, threads
from trackside.app.storage._transfer.file_format import ExportHeader, ImportedRow
from trackside.app.storage._transfer.left_busy import RestThreads
from trackside.app.storage._writing.appending import Append
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import (
    EventConflictError,
    ImportConflictError,
    PartialExportError,
    RemovedThreadError,
    StorageError,
)
from trackside.app.storage.transfer import RUNS_IN_PART, OpenedExport
from trackside.harness.errors import EventOrderError
from trackside.harness.lifecycle import is_terminal, thread_status_of
from trackside.harness.types import ThreadStatus

type OnImported = Callable[[int], object]
"""Called with how many events of the export have been read and stored, or found to be there."""

_BATCH_ROWS = 1_000
_BATCH_BYTES = 4 * 1_048_576
_ROW_BYTES = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """How many events are new, how many were there already, and whether the new ones have the positions of the export.

    An import ends no run. `unfinished` says how many of the export's runs have no end here and are in nobody's hands,
    so that nobody will end them either: an export of what came later may bring their ends.
    """

    imported: int
    known: int
    kept_positions: bool
    unfinished: int


async def import_events(
    writer: Writer | NoWriter, readers: Readers, export: OpenedExport, on_imported: OnImported | None = None
) -> ImportReport:
    """Append the events of an export that are not there yet.

    Raises:
        ExportDamagedError: a line of it is wrong; what came before it is imported.
        ImportConflictError: an event cannot follow what its run has here, or its id is another event's, or a run is of a
            thread that is gone here and not yet out of the log.
        PartialExportError: an event cannot follow, and only some events of each run were exported.
        StorageError: the database failed; what was imported before stays.
    """
    last, stored = await readers.run(_extent)
    batches = _batches(export.reader.rows(), last)
    placing, loose = _Placing(last, stored), _LooseEnds()
    while batch := await asyncio.to_thread(next, batches, None):
        keep = placing.keeps(batch)
        try:
            imported = [one.row for one in batch]
            # Events that keep their positions come after all others, in order: no run is older than its thread's last.
            work = ImportEvents(
                imported, positions=_positions(batch) if keep else {}, busy=None if keep else loose.threads
            )
            rows = await writer.write(work)
        except (EventOrderError, EventConflictError) as exc:
            raise _conflict(exc, batch, export.header) from exc
        placing.note(batch, rows, work.appended)
        loose.note(batch)
        if on_imported is not None:
            on_imported(placing.imported + placing.known)
    if placing.was_beginning:
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
        self.threads: dict[str, str] = {}
        """Each with the last of its runs that the export has told of since."""

    def note(self, batch: Sequence[ImportedRow]) -> None:
        """Take note of what these events begin and end."""
        for one in batch:
            event = one.row.event
            if event.sequence == 1:
                self.runs[event.run_id] = None
                if event.thread_id in self.threads:
                    self.threads[event.thread_id] = event.run_id
            if is_terminal(event.event_type):
                self.runs.pop(event.run_id, None)
            status = thread_status_of(event.event_type, event.payload)
            if status is ThreadStatus.busy:
                self.threads.setdefault(event.thread_id, event.run_id)
            elif status is not None:
                self.threads.pop(event.thread_id, None)


def _abandoned(connection: Connection, *, run_ids: Sequence[str]) -> int:
    """How many of these runs have no end here, and nobody who will give them one."""
    query = select(func.count()).select_from(runs).where(runs.c.run_id.in_(run_ids), is_unattended())
    return connection.execute(query).scalar_one()


def _conflict(
    exc: EventOrderError | EventConflictError, batch: Sequence[ImportedRow], header: ExportHeader
) -> ImportConflictError:
    line = _line_of(exc, batch)
    may_be_cut = isinstance(exc, EventOrderError) and not isinstance(exc, RemovedThreadError)
    if may_be_cut and (left_out := RUNS_IN_PART & header.chosen.keys()):
        return PartialExportError(line=line, chosen=" and ".join(sorted(left_out)), why=str(exc))
    return ImportConflictError(line=line, why=str(exc))


def _extent(connection: Connection) -> tuple[int, int]:
    """Where the log ends, and how many events it has."""
    end = connection.execute(select(counters.c.value).where(counters.c.name == POSITION)).scalar_one()
    return end, connection.execute(select(func.count()).select_from(events)).scalar_one()


def _positions(batch: Sequence[ImportedRow]) -> dict[str, int]:
    return {one.row.event.event_id: one.position for one in batch}


def _batches(rows: Iterator[ImportedRow], last: int) -> Iterator[list[ImportedRow]]:
    """Rows in batches, one for each transaction; a batch does not mix rows from before and after the end of the log.

    The rows before a line that is wrong are given before the error is raised.
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

    Otherwise, which means that the log has events of others, too, they get the next positions, like any new event.
    """

    def __init__(self, last: int, stored: int) -> None:
        self._last = last
        self._stored = stored
        self._same = 0
        self.imported = 0
        self.known = 0
        self.all_kept = True

    @property
    def was_beginning(self) -> bool:
        """Whether all that the log had before is in the export, as far as that has been seen, and in the same places."""
        return self.all_kept and self._same == self._stored

    def keeps(self, batch: Sequence[ImportedRow]) -> bool:
        """Whether these events go where they were."""
        return self.was_beginning and batch[0].position > self._last

    def note(self, batch: Sequence[ImportedRow], stored: Sequence[EventRow], appended: Collection[int]) -> None:
        """Take note of what became of these events; those with numbers in `appended`, counted from 0, are new."""
        for number, (one, row) in enumerate(zip(batch, stored, strict=True)):
            is_new = number in appended
            self.imported += is_new
            self.known += not is_new
            if row.position != one.position:
                self.all_kept = False
            elif not is_new:
                self._same += 1


def _line_of(exc: EventOrderError | EventConflictError, batch: Sequence[ImportedRow]) -> int:
    """The line that was refused: of lines with the same id, the last one, as the others did not find the id taken."""
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
    """Events to append; those in `positions`, by id, get these positions, as far as the log has not got there.

    A thread that has gone on since the export stays as it is, whatever the events say of its older runs, except that it
    has their title where no newer run gave it one. `busy` has the threads whose story the import is in the middle of,
    and their last runs: while these are the last runs here, too, the threads are what the events say, as for a run that
    was cancelled while another one ran. None: so are all.
    """

    positions: Mapping[str, int] = field(default_factory=dict[str, int])
    busy: Mapping[str, str] | None = None
    appended: set[int] = field(default_factory=set[int])
    """Which ones, counted from 0, it has appended: a transaction whose reply was lost is repeated, and finds them there."""

    @override
    def undone(self) -> None:
        self.appended.clear()

    @override
    def apply(self, unit: UnitOfWork) -> list[EventRow]:
        self.check_threads(unit, time_text(datetime.now(UTC)))  # whenever the runs took place, they come now
        last_runs = {} if self.busy is None else self._last_runs(unit, self.busy)
        stored = unit.append(self.rows, last_runs=last_runs)
        for number, (row, mine) in enumerate(zip(stored, self.rows, strict=True)):
            if row is mine:
                self.appended.add(number)
                if (place := self.positions.get(event_id := row.event.event_id)) is not None:
                    unit.positions[event_id] = place
        self._give_titles(unit, last_runs)
        return stored

    def _give_titles(self, unit: UnitOfWork, last_runs: Mapping[str, RunAge]) -> None:
        """Give threads that have gone on the titles of the newest of these runs that have any."""
        titles: dict[str, tuple[RunAge, str]] = {}
        for number in sorted(self.appended):
            event = self.rows[number].event
            run, title = unit.run(event.run_id), event.payload.get("title")
            if run is None or not (concerns_thread(event) and isinstance(title, str) and title):
                continue
            age = run.created_at, event.run_id
            known = titles.get(event.thread_id)
            if run.is_older_than(last_runs.get(event.thread_id)) and (known is None or known[0] <= age):
                titles[event.thread_id] = age, title
        for thread_id, (age, title) in sorted(titles.items()):
            unit.session.execute(_with_title(thread_id, age, title))

    def _last_runs(self, unit: UnitOfWork, busy: Mapping[str, str]) -> dict[str, RunAge]:
        """By thread, its last run, unless `busy` names it: runs older than that change nothing of the thread."""
        query = select(threads.c.thread_id, runs.c.created_at, runs.c.run_id)
        query = query.join_from(threads, runs, threads.c.last_run_id == runs.c.run_id)
        found = unit.session.execute(query.where(threads.c.thread_id.in_({*self.thread_ids()})))
        return {id_: (created_at, run_id) for id_, created_at, run_id in found if busy.get(id_) != run_id}


def _with_title(thread_id: str, age: RunAge, title: str) -> Update:
    """The change that gives a thread a run's title, unless it has one that a newer run, or no run, gave it."""
    created_at, run_id = age
    has_title = (runs.c.thread_id == thread_id, runs.c.title != "", runs.c.run_id != run_id)
    is_newer = or_(runs.c.created_at > created_at, and_(runs.c.created_at == created_at, runs.c.run_id > run_id))
    of_older = select(runs.c.title).where(*has_title, ~is_newer)
    may_change = or_(threads.c.title.is_(None), threads.c.title.in_(of_older))
    thread = update(threads).where(threads.c.thread_id == thread_id, may_change, ~exists().where(*has_title, is_newer))
    return thread.values(title=title)


@dataclass(frozen=True, slots=True)
class EndLog(Work):
    """Let the log end here, if it does not reach that far: what an export had behind its last event was removed."""

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
