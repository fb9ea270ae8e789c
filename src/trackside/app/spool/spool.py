"""The spool: what a log could not take goes to this machine's disk, and to the log when that is back (I14)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

from trackside.app.spool._file import Entry, SpoolFile, bytes_in, set_aside, waiting_files
from trackside.app.spool._records import DamagedLineError, Refused, Waiting, encode, waiting
from trackside.app.spool.errors import SpoolError, SpoolFullError
from trackside.harness.errors import ClosedError, TracksideError
from trackside.harness.foreign.failures import text_of
from trackside.harness.foreign.timelimit import outlived
from trackside.harness.observer import HearTaken, RunLifecycleEvent

logger = logging.getLogger("trackside.spool")

DEFAULT_MAX_BYTES = 256 * 1_048_576
_AT_ONCE = 64  # records that are given to the log at the same time
REFUSED_FILE = "refused.jsonl"
DAMAGED_FILE = "damaged.lines"


class EventLog(Protocol):
    """Where events go in the end; `trackside.app.storage.Store` is one."""

    async def append(self, events: Sequence[RunLifecycleEvent]) -> object:
        """Store these events in one transaction, each once however often it comes; return when they are durable.

        Raises:
            TracksideError: they were not stored. If it is also a `ValueError`, it is about the events: no log will ever
                take them. Any other is about the log, and says by `retryable` whether it may pass by itself.
        """
        ...


def is_refusal(failure: BaseException | None) -> bool:
    """Whether a log has looked at the events and will never take them."""
    return isinstance(failure, TracksideError) and isinstance(failure, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryReport:
    """The result of one delivery, in records, each of which is the rest of a run."""

    delivered: int = 0
    refused: int = 0
    """Records that the log will never take: they are in `refused.jsonl` now, each with the reason."""
    damaged: int = 0
    """Lines that were torn or changed: they are in `damaged.lines` now."""
    waiting: int = 0
    """Records that are still there, of this process and of those that have ended."""
    failure: BaseException | None = None
    """The log's last failure, or else this disk's first, if it is why some still wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolStats:
    """What went through a spool in this process: records that came, and what became of them and of other processes'."""

    spooled: int
    delivered: int
    refused: int
    damaged: int
    waiting: int


@dataclass(slots=True, eq=False)
class _Append:
    """A record on its way to the disk, with the ids of its runs and threads, and what kept it from getting there."""

    key: str
    line: bytes
    ids: frozenset[str]
    failure: Exception | None = None


@dataclass(slots=True)
class _Tally:
    """How a delivery goes."""

    delivered: int = 0
    refused: int = 0
    damaged: int = 0
    waiting: int = 0
    of_others: int = 0
    failure: BaseException | None = None
    stopped: bool = False
    """Whether the failure is of a kind that may pass, so that nothing more is tried now."""
    held_threads: set[str] = field(default_factory=set)
    """Threads with a record that stays where it is, and so do all that come behind it."""

    def note(self, failure: SpoolError) -> None:
        """Note that something stays because of this disk. What the log says counts for more."""
        self.failure = self.failure or failure

    def report(self) -> DeliveryReport:
        return DeliveryReport(
            delivered=self.delivered,
            refused=self.refused,
            damaged=self.damaged,
            waiting=self.waiting,
            failure=self.failure,
        )


class Spool:
    """A folder with what a log could not take.

    Several processes may use the same folder: each writes to a file of its own, and delivers the files of processes
    that have ended. The folder is created when it is needed, and removed when nothing is left in it. Only their owner
    may read the files and the folder.

    A spool belongs to one event loop. A forked child has an empty one of its own on the same folder (I24).

    Args:
        folder: the folder; it belongs to one log alone.
        max_bytes: how many bytes all files in it may take together.
    """

    def __init__(self, folder: Path | str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = Path(folder).absolute()
        self._max_bytes = max_bytes
        self._executor: ThreadPoolExecutor | None = None
        # These are changed in the executor's one thread only.
        self._own: SpoolFile | None = None
        self._waiting: dict[str, frozenset[str]] = {}  # ids of runs and threads in this process's file, by record
        self._done: set[str] = set()  # records that are done with, though their file could not be told
        self._appends: deque[_Append] = deque()
        self._on_delivered: dict[str, HearTaken] = {}  # by record; used on the event loop, as is all that follows
        self._delivering = asyncio.Lock()
        self._closed = False
        self._spooled = 0
        self._totals = _Tally()
        _spools.add(self)

    async def append(self, events: Sequence[RunLifecycleEvent], *, on_delivered: HearTaken | None = None) -> None:
        """Keep events of a run as one record; when this returns, they are on disk. `on_delivered` is called when the
        log has them, before any later record of their threads is delivered: in this process, or never.

        Raises:
            SpoolFullError: they would not fit.
            SpoolError: they could not be written.
            PayloadError: a payload cannot be read.
            ClosedError: the spool is closed.
        """
        self._check_open()
        key, line = encode(waiting(events, datetime.now(UTC)))
        ids = {event.run_id for event in events} | {event.thread_id for event in events}
        append = _Append(key, line, frozenset(ids))
        self._appends.append(append)
        if on_delivered is not None:
            self._on_delivered[key] = on_delivered
        await self._in_thread(self._write_appends)
        if append.failure is not None:
            self._on_delivered.pop(key, None)
            raise self._error_of(append.failure)
        self._spooled += 1

    async def deliver(self, log: EventLog) -> DeliveryReport:
        """Give the log what waits here, of this process and of those that have ended, the oldest first.

        A record goes when the log has it. A failure of the log that may pass ends the delivery. A failure that will not
        pass, but is not about the events either, leaves the record where it is, and those of the same thread behind it.
        What this disk fails with stays, too: a record that the log refuses and that cannot be set aside, which holds up
        nothing behind it, or the rest of a file that cannot be read. The report and the program's log say what went
        wrong.

        Raises:
            SpoolError: the folder cannot be read.
            ClosedError: the spool is closed.
        """
        self._check_open()
        async with self._delivering:
            tally = _Tally(of_others=self._totals.of_others)
            files: list[SpoolFile] = []
            try:
                await self._in_thread(self._claim, files, tally)
                for file in files:
                    await self._deliver_file(file, log, tally)
            finally:
                await self._in_thread(self._let_go, files)
                self._add_up(tally)
        if tally.delivered:
            logger.info("delivered from the spool %s: the remaining events of %d runs", self.folder, tally.delivered)
        return tally.report()

    def holds(self, *ids: str) -> bool:
        """Whether something of one of these runs or threads, put here by this process, still waits."""
        return bool(self._waiting) and any(not known.isdisjoint(ids) for known in list(self._waiting.values()))

    @property
    def waiting(self) -> int:
        """How many records wait here: of this process and, as far as the last delivery saw, of those that have ended."""
        return len(self._waiting) + self._totals.of_others

    def stats(self) -> SpoolStats:
        """What has gone through in this process."""
        totals = self._totals
        return SpoolStats(
            spooled=self._spooled,
            delivered=totals.delivered,
            refused=totals.refused,
            damaged=totals.damaged,
            waiting=self.waiting,
        )

    async def aclose(self) -> None:
        """Let go of the file, for other processes to deliver, when a delivery under way has ended. May be called again."""
        self._closed = True
        async with self._delivering:
            self._on_delivered.clear()
            if self._executor is not None:
                await self._in_thread(self._close_own)
                self._executor.shutdown(wait=False)
                self._executor = None

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(what="spool")

    async def _in_thread[*A, T](self, call: Callable[[*A], T], *args: *A) -> T:
        """Call in the one thread that touches the files, one call after another; a cancel does not stop it."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="trackside-spool")
        try:
            return await outlived(asyncio.get_running_loop().run_in_executor(self._executor, call, *args))
        except OSError as exc:
            raise self._error_of(exc) from exc

    def _error_of(self, failure: Exception) -> SpoolError:
        """Each caller's own error, though one write may have failed for many."""
        if isinstance(failure, SpoolError):
            return failure
        return SpoolError(folder=str(self.folder), why=getattr(failure, "strerror", None) or str(failure))

    def _write_appends(self) -> None:
        """Write all that waits by now in one go: many runs end at once when a log goes away, and each flush takes time."""
        appends: list[_Append] = []
        try:
            size = bytes_in(self.folder)
        except OSError as exc:
            while self._appends:
                self._appends.popleft().failure = exc
            return
        while self._appends:
            append = self._appends.popleft()
            if size + len(append.line) > self._max_bytes:
                append.failure = self._full(size, len(append.line))
            else:
                appends.append(append)
                size += len(append.line)
        if not appends:
            return
        try:
            self._check_own()
            if self._own is None:
                self._own = SpoolFile.create(self.folder)
            self._own.append(b"".join(append.line for append in appends))
        except OSError as exc:
            for append in appends:
                append.failure = exc
            self._leave_nothing_empty()
        else:
            self._waiting.update({append.key: append.ids for append in appends})

    def _leave_nothing_empty(self) -> None:
        with contextlib.suppress(OSError):  # the caller of `append` hears of the failure that came before
            if self._own is not None and self._own.remove_if_empty():
                self._own = None
            self.folder.rmdir()

    def _full(self, size: int, more: int) -> SpoolFullError:
        aside = f"{REFUSED_FILE} and {DAMAGED_FILE}"
        return SpoolFullError(folder=str(self.folder), size=size, limit=self._max_bytes, more=more, aside=aside)

    def _claim(self, files: list[SpoolFile], tally: _Tally) -> None:
        """Add the files of processes that have ended, now locked, and this process's own.

        The caller may be cancelled while it waits for this, and has to let go of the files all the same.
        """
        self._check_own()
        paths = waiting_files(self.folder)
        tally.of_others = 0
        for path in paths:
            if self._own is not None and path == self._own.path:
                files.append(self._own)
                continue
            try:
                file = SpoolFile.adopt(path)
            except OSError as exc:  # another user's, say; that keeps nobody from delivering the others
                logger.warning("%s cannot be delivered: %s", path, exc.strerror)
                if not isinstance(exc, PermissionError):
                    tally.note(self._error_of(exc))
                    tally.waiting += 1
                    tally.of_others += 1
                continue
            if file is not None:
                files.append(file)
                tally.of_others += 1  # at least one, until it is looked into

    def _check_own(self) -> None:
        if self._own is not None and self._own.is_gone:
            logger.error(
                "somebody removed %s with the remaining events of %d runs in it", self._own.path, len(self._waiting)
            )
            self._close_own()

    def _let_go(self, files: Sequence[SpoolFile]) -> None:
        for file in files:
            if file is not self._own:
                file.close()

    async def _deliver_file(self, file: SpoolFile, log: EventLog, tally: _Tally) -> None:
        is_own = file is self._own
        left = 1  # at least one, as long as nobody can look
        done: list[str] = []
        try:
            entries = await self._in_thread(file.entries)
            left = len(entries)
            try:
                await self._deliver_entries(file, entries, done, log, tally)
            finally:
                left = await self._in_thread(self._settle, file, done)
        except SpoolError as exc:  # with other files all may be well
            tally.note(exc)
        finally:
            tally.waiting += left
            tally.of_others += 0 if is_own else left - 1

    async def _deliver_entries(
        self, file: SpoolFile, entries: Sequence[Entry], done: list[str], log: EventLog, tally: _Tally
    ) -> None:
        done += [entry.id for entry in entries if entry.id in self._done]
        rest = deque(entry for entry in entries if entry.id not in self._done)
        at_once = 1  # if the log is away, one finds it out for all
        while rest and not tally.stopped:
            batch = await self._in_thread(self._read_batch, file, rest, at_once, done, tally)
            done += await self._deliver_batch(batch, log, tally)
            at_once = _AT_ONCE

    async def _deliver_batch(self, batch: Sequence[tuple[str, Waiting]], log: EventLog, tally: _Tally) -> list[str]:
        """Deliver records of different threads at the same time, so that the log may take them together.

        Returns the ids of those that are done with.
        """
        tasks = [
            asyncio.create_task(self._deliver_record(key, record, log, tally), name=f"trackside-spool-{key[:12]}")
            for key, record in batch
        ]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return [key for (key, _), is_done in zip(batch, outcomes, strict=True) if is_done]

    async def _deliver_record(self, key: str, record: Waiting, log: EventLog, tally: _Tally) -> bool:
        """Whether a record is done with: delivered, or refused for good and set aside."""
        if record.thread_ids & tally.held_threads:
            return False
        events = [event.event() for event in record.events]
        try:
            await log.append(events)
        except Exception as exc:  # noqa: BLE001  # the log's failure, which the report tells
            if is_refusal(exc):
                return await self._refuse(key, record, exc, tally)
            tally.failure = exc
            tally.stopped = tally.stopped or getattr(exc, "retryable", False)
            tally.held_threads |= record.thread_ids
            return False
        tally.delivered += 1
        if (on_delivered := self._on_delivered.pop(key, None)) is not None:
            await on_delivered(events)
        return True

    async def _refuse(self, key: str, record: Waiting, failure: Exception, tally: _Tally) -> bool:
        reason = text_of(failure)
        refused = Refused(
            refused_at=datetime.now(UTC), reason=reason, spooled_at=record.spooled_at, events=record.events
        )
        where = self.folder / REFUSED_FILE
        try:
            await self._in_thread(self._set_refused_aside, key, where, encode(refused)[1])
        except SpoolError as exc:
            tally.note(exc)
            return False
        tally.refused += 1
        self._on_delivered.pop(key, None)
        logger.error(
            "the log will never take the rest of run %s, which is in %s now: %s", record.events[0].run_id, where, reason
        )
        return True

    def _set_refused_aside(self, key: str, where: Path, line: bytes) -> None:
        try:
            set_aside(where, line)
        except OSError:
            self._hold_nothing_for([key])
            raise

    def _hold_nothing_for(self, keys: Sequence[str]) -> None:
        """Note that records stay in this process's file, though the log has them or never takes them."""
        self._waiting |= {key: frozenset() for key in keys if key in self._waiting}

    def _read_batch(
        self, file: SpoolFile, entries: deque[Entry], at_once: int, done: list[str], tally: _Tally
    ) -> list[tuple[str, Waiting]]:
        """Take the next records from the front, no two of one thread, each with its id; sets aside what is not one."""
        batch: list[tuple[str, Waiting]] = []
        threads: set[str] = set()
        while entries and len(batch) < at_once:
            try:
                record = file.read(entries[0])
            except DamagedLineError as exc:
                damaged = entries.popleft()
                if self._set_damaged_aside(file, damaged, str(exc), tally):
                    done.append(damaged.id)
                continue
            if threads & record.thread_ids:
                break
            threads |= record.thread_ids
            batch.append((entries.popleft().id, record))
        return batch

    def _set_damaged_aside(self, file: SpoolFile, entry: Entry, why: str, tally: _Tally) -> bool:
        """Whether a torn or changed line is done with; else it stays where it is."""
        where = self.folder / DAMAGED_FILE
        try:
            set_aside(where, file.read_line(entry).rstrip(b"\n") + b"\n")
        except OSError as exc:
            tally.note(self._error_of(exc))
            return False
        tally.damaged += 1
        logger.error(
            "the line at byte %d of %s is not a record (%s); it is in %s now", entry.offset, file.path, why, where
        )
        return True

    def _settle(self, file: SpoolFile, done: Sequence[str]) -> int:
        """Write to the disk which records of a file are done; returns how many are left."""
        is_own = file is self._own
        try:
            left = file.settle(tuple(done))
        except OSError:
            self._done.update(done)
            if is_own:
                self._hold_nothing_for(done)
            raise
        self._done.difference_update(done)
        if is_own:
            self._waiting = {entry.id: self._waiting.get(entry.id, frozenset()) for entry in left}
        if not left:
            self._own = None if is_own else self._own
            with contextlib.suppress(OSError):  # there is something else in it
                self.folder.rmdir()
        return len(left)

    def _add_up(self, tally: _Tally) -> None:
        totals = self._totals
        totals.delivered += tally.delivered
        totals.refused += tally.refused
        totals.damaged += tally.damaged
        totals.of_others = tally.of_others

    def _close_own(self) -> None:
        own, self._own, self._waiting = self._own, None, {}
        if own is not None:
            own.close()

    def start_anew_in_child(self) -> None:
        """After a fork: leave what is the parent's to the parent. Called automatically."""
        self._close_own()  # the lock stays the parent's: it goes with the last copy of the descriptor
        self._executor = None
        self._appends.clear()
        self._on_delivered.clear()
        self._delivering = asyncio.Lock()


_spools: WeakSet[Spool] = WeakSet()


def _start_anew_in_child() -> None:
    for spool in list(_spools):
        spool.start_anew_in_child()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_start_anew_in_child)
