"""Group commit: one thread writes; what is asked for while a transaction commits is taken together by the next one.

A commit that survives a power cut costs a flush of the disk, whatever is in it. So nobody waits for any flush of
others but the last, and each caller goes on after *its own* commit. Callers wait for room before they wait for the
disk: the queue is bounded in count and bytes, and what is in it is written even if its caller has been cancelled
meanwhile. No work fails because of another: works that cannot be written together are written one by one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from trackside.app.storage import errors
from trackside.app.storage._databases.session import Session
from trackside.app.storage._databases.telling import tell_each
from trackside.app.storage._rows.arguments import check_count_option
from trackside.app.storage._rows.encoding import EventRow
from trackside.app.storage._rows.queue import Handover
from trackside.app.storage._writing.commits import Committed, commit_together
from trackside.app.storage._writing.intake import Intake
from trackside.app.storage._writing.room import Room
from trackside.app.storage._writing.work import Refused, Work
from trackside.app.storage.fleet import QueueNews
from trackside.app.vitals import WriterStats
from trackside.harness.errors import ClosedError, TracksideError
from trackside.harness.foreign.timelimit import outlived, settled

logger = logging.getLogger("trackside.storage")

_LINGER = 0.01  # seconds that a write nobody waits for leaves for others to come along
_LINGERING_BYTES = 1_048_576
_OF_ALL = (
    errors.AccessRefusedError,
    errors.ConnectionSetupError,
    errors.DatabaseGoneError,
    errors.NoSuchDatabaseError,
    errors.ReadOnlyDatabaseError,
)

_NOTHING_WRITTEN = WriterStats(
    batches_total=0, works_total=0, events_total=0, seconds_total=0.0, failures_total=0, pending=0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteLimits:
    """How much one transaction takes, and how much may wait for the next ones before callers have to wait for room.

    Raises:
        StoreOptionError: a limit is not a whole number from 1 up.
    """

    batch_count: int = 1_024
    """How many appends one transaction takes."""
    batch_bytes: int = 16 * 1_048_576
    waiting_count: int = 8_192
    """How many appends may be accepted and not committed yet."""
    waiting_bytes: int = 64 * 1_048_576

    def __post_init__(self) -> None:
        for field in fields(self):
            check_count_option(field.name, getattr(self, field.name))


@dataclass(slots=True, eq=False)
class _Job:
    """A work on its way, and the future that its caller awaits."""

    work: Work
    size: int
    done: asyncio.Future[Any]
    takes_room: bool = True


class Writer:
    """Owns the thread that writes. Belongs to the event loop in which it was made.

    What it writes goes together, and waits together: for a lock, for a checkpoint of many megabytes, for what is before it.
    For what must not wait then, it opens another session with `beside`.
    """

    def __init__(
        self,
        session: Session,
        *,
        database: str,
        limits: WriteLimits,
        patience: float = 0.0,
        beside: Callable[[], Session] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._session = session
        self._session_beside = beside
        self._beside: Writer | None = None
        self._done_beside: set[Writer] = set()
        """Those that are not needed any more, until they have stopped."""
        self._database = database
        self._limits = limits
        self._patience = patience
        self._loop = loop or asyncio.get_running_loop()
        self._room = Room(limits.waiting_count, limits.waiting_bytes)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._next: _Job | None = None
        """The first of the next batch, which could not go with the last one."""
        self._lingering: dict[asyncio.Future[Any], _Job] = {}
        self._lingering_bytes = 0
        self._linger_timer: asyncio.TimerHandle | None = None
        self._totals = _NOTHING_WRITTEN
        self._closing = False
        self._leaves_at = inf
        self._stopped = self._loop.create_future()
        self.on_commit: list[Callable[[Sequence[EventRow]], object]] = []
        """Called on the loop with the events of each transaction, as they are in the log, before their callers go on."""
        self.intake = Intake()
        """Whether the database has room for what is new."""
        self.on_handover: list[Callable[[Handover], object]] = []
        """Called on the loop when the end of an active run is in the log, before whoever wrote it goes on."""
        self.on_removal: list[Callable[[Sequence[str]], object]] = []
        """Called on the loop with the ids of threads that have been removed."""
        self.on_news: list[Callable[[QueueNews], object]] = []
        """Called on the loop with what a transaction has changed for the workers of a fleet."""
        # A daemon: a program that ends without closing its store is not held up. What was acknowledged is on disk.
        self._thread = threading.Thread(target=self._run, name="trackside-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Work) -> Any:
        """Have something written; returns what the work comes to, after its commit.

        Cancelling the caller does not take back what is in the queue: it will be written.

        Raises:
            TracksideError: it was refused, or its transaction failed; nothing of it was written.
            ClosedError: the writer is closed.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise errors.ForeignLoopError(database=self._database)
        size = work.size
        if not self._room.enter(size):
            await self._room.wait(size)
        return answer_of(await self._enqueue(work, size))

    async def defer(self, work: Work) -> asyncio.Future[Any]:
        """Have something written that nobody waits for yet, with more of the same kind if that comes; waits for room only.

        It is written soon, and at once if somebody calls `hurry`; what others write may overtake it until then.
        `answer_of` the future's result tells what became of it.

        Raises:
            ClosedError: the writer is closed.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise errors.ForeignLoopError(database=self._database)
        size = work.size
        if not self._room.enter(size):
            self.hurry()  # it may be what lingers that takes the room
            await self._room.wait(size)
        if self._closing:
            self._room.leave([size])
            raise _closed()
        job = _Job(work, size, self._loop.create_future())
        self._lingering[job.done] = job
        self._lingers(size)
        return job.done

    def extend(self, writing: asyncio.Future[Any], size: int) -> bool:
        """Whether what was deferred is not written yet, and may take so many bytes more: then the caller adds them now."""
        job = self._lingering.get(writing)
        if job is None or not self._room.enlarge(size):
            return False
        job.size += size
        self._lingers(size)
        return True

    def _lingers(self, size: int) -> None:
        self._lingering_bytes += size
        if self._lingering_bytes > _LINGERING_BYTES:
            self._loop.call_soon(self.hurry)
        elif self._linger_timer is None:
            self._linger_timer = self._loop.call_later(_LINGER, self.hurry)

    def hurry(self, writing: asyncio.Future[Any] | None = None) -> None:
        """Have what was deferred, or only `writing`, written from now on; on the loop."""
        if writing is not None:
            if (job := self._lingering.pop(writing, None)) is not None:
                self._lingering_bytes -= job.size
                self._jobs.put(job)
            return
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
        for job in self._lingering.values():
            self._jobs.put(job)
        self._lingering.clear()
        self._lingering_bytes = 0

    async def write_to_the_end(self, work: Work) -> Any:
        """Have something small written, whatever cancels the caller: `current_task().cancelling()` remembers it (I17).

        It does not wait for room.

        Raises:
            TracksideError: it was refused, or its transaction failed; nothing of it was written.
            ClosedError: the writer is closed.
        """
        return answer_of((await settled(self.put(work))).result())

    def put(self, work: Work) -> asyncio.Future[Any]:
        """Have something small written, from any thread, without waiting for room; returns what will become of it.

        Raises:
            ClosedError: the writer is closed.
        """
        return self._enqueue(work, work.size, takes_room=False)

    def put_beside(self, work: Work) -> asyncio.Future[Any]:
        """As `put`, but not behind what is being written, if the database allows that."""
        if self._beside is None and self._session_beside is not None and not self._closing:
            self._beside = Writer(
                self._session_beside(),
                database=self._database,
                limits=self._limits,
                patience=self._patience,
                loop=self._loop,
            )
            self._beside.leave_by(self._leaves_at)
        return (self._beside or self).put(work)

    def need_none_beside(self) -> None:
        """Give back the session of `put_beside` once what was put there is written; on the loop."""
        beside, self._beside = self._beside, None
        if beside is not None:
            self._done_beside.add(beside)
            beside.stop().add_done_callback(lambda _: self._done_beside.discard(beside))

    def _enqueue(self, work: Work, size: int, *, takes_room: bool = True) -> asyncio.Future[Any]:
        if self._closing:
            if takes_room:
                self._room.leave([size])
            raise _closed()
        job = _Job(work, size, self._loop.create_future(), takes_room)
        self._jobs.put(job)
        return job.done

    def stats(self) -> WriterStats:
        """What was written so far; from any thread."""
        return replace(self._totals, pending=self._jobs.qsize(), full=self.intake.is_shut)

    @property
    def leaves_at(self) -> float:
        """The moment of the monotonic clock past which a database that is away is not waited for."""
        return self._leaves_at

    def leave_within(self, seconds: float) -> None:
        """Wait for a database that is away no longer than so many seconds from now on, whatever is written then."""
        self.leave_by(monotonic() + seconds)

    def leave_by(self, moment: float) -> None:
        """Do not wait past this moment of the monotonic clock."""
        self._leaves_at = min(self._leaves_at, moment)
        self._session.leave_by(self._leaves_at)
        for beside in [self._beside, *self._done_beside]:
            if beside is not None:
                beside.leave_by(moment)

    def refuse_more(self) -> None:
        """Take nothing more, from now on; what was accepted will be written."""
        self._closing = True
        self.hurry()
        self._room.refuse_waiting(_closed)

    async def aclose(self) -> None:
        """Take nothing more, write what was accepted, and stop. May be called again."""
        await outlived(self.stop())
        self.need_none_beside()
        for beside in [*self._done_beside]:
            await beside.aclose()

    def stop(self) -> asyncio.Future[None]:
        """Take nothing more, write what was accepted, and stop; done when it has. May be called again."""
        self.refuse_more()
        self._jobs.put(None)  # what a second call puts there, nobody reads
        return self._stopped

    def _run(self) -> None:
        try:
            with closing(self._session):
                is_open = True
                while is_open:
                    jobs, is_open = self._next_batch()
                    if jobs and not self._write(jobs):
                        return
        finally:
            self._tell_loop(self._stopped.set_result, None)

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """All that waits now and goes together, within the limits; waits for a first one. False: these are the last."""
        jobs: list[_Job] = []
        size = 0
        while len(jobs) < self._limits.batch_count and size < self._limits.batch_bytes:
            try:
                job, self._next = self._next or self._jobs.get(block=not jobs), None
            except Empty:
                break
            if job is None:
                return jobs, False
            if jobs and (job.work.alone or jobs[-1].work.alone):
                self._next = job
                break
            jobs.append(job)
            size += job.size
        return jobs, True

    def _write(self, jobs: Sequence[_Job]) -> bool:
        """Write works together; each by itself if one of them may be at fault. False: the loop is closed."""
        written = self._commit(jobs)
        if isinstance(written, Committed):
            return self._tell_loop(self._hand_back, jobs, written)
        if len(jobs) == 1 or not _may_be_ones_fault(written.error):
            return self._refuse(jobs, written)
        logger.warning(
            "the store %s makes %d writes one by one, because they failed together: %s",
            self._database,
            len(jobs),
            written.error,
        )
        for number, job in enumerate(jobs):
            written = self._commit([job])
            if isinstance(written, Committed):
                is_heard = self._tell_loop(self._hand_back, [job], written)
            elif _may_be_ones_fault(written.error):
                is_heard = self._refuse([job], written)
            else:  # the others would wait for the database as long, one after another
                return self._refuse(jobs[number:], written)
            if not is_heard:
                return False
        return True

    def _commit(self, jobs: Sequence[_Job]) -> Committed | Refused:
        begun = monotonic()
        try:
            works = [job.work for job in jobs]
            committed = commit_together(
                self._session, works, patience=self._patience, leaves_at=lambda: self._leaves_at
            )
        except TracksideError as exc:
            refused = Refused(exc)
            if isinstance(exc, errors.DatabaseFullError):
                self.intake.refused(exc)
        except BaseException as exc:  # whatever it is, the callers must hear of it and the thread must go on
            logger.exception("the store %s failed to make %d writes", self._database, len(jobs))
            refused = Refused(errors.StorageError(database=self._database, why=f"{type(exc).__name__}: {exc}"))
        else:
            self._count(len(jobs), len(committed.events), monotonic() - begun)
            for job, outcome in zip(jobs, committed.outcomes, strict=True):
                if isinstance(outcome, Refused):
                    job.work.refused(outcome.error)
                elif job.work.needs_room:
                    self.intake.taken()
            return committed
        self._count(len(jobs), 0, monotonic() - begun, failures=1)
        return refused

    def _refuse(self, jobs: Sequence[_Job], refused: Refused) -> bool:
        """Tell callers that nothing of theirs was written, and why. False: the loop is closed."""
        for job in jobs:
            job.work.refused(refused.error)
        return self._tell_loop(self._hand_back, jobs, Committed([refused] * len(jobs)))

    def _count(self, works: int, events: int, seconds: float, *, failures: int = 0) -> None:
        """Add a transaction, all numbers at once, for readers in other threads."""
        so_far = self._totals
        self._totals = WriterStats(
            batches_total=so_far.batches_total + 1,
            works_total=so_far.works_total + works,
            events_total=so_far.events_total + events,
            seconds_total=so_far.seconds_total + seconds,
            failures_total=so_far.failures_total + failures,
            pending=0,
        )

    def _hand_back(self, jobs: Sequence[_Job], committed: Committed) -> None:
        if committed.events:
            tell_each(self.on_commit, committed.events)
        for handover in committed.handovers:
            tell_each(self.on_handover, handover)
        if committed.removed_threads:
            tell_each(self.on_removal, committed.removed_threads)
        if committed.news is not None:
            tell_each(self.on_news, committed.news)
        for job, outcome in zip(jobs, committed.outcomes, strict=True):
            if not job.done.done():
                job.done.set_result(outcome)
            elif isinstance(outcome, Refused):
                logger.warning("nobody waits any more for a write that failed: %s", outcome.error)
        self._room.leave([job.size for job in jobs if job.takes_room])

    def _tell_loop(self, callback: Callable[..., object], *args: Any) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            return False
        return True


class NoWriter:
    """Takes the place of a writer where nothing is to be written."""

    leaves_at = inf

    def __init__(self, *, database: str) -> None:
        self._database = database
        self.intake = Intake()
        self.on_commit: list[Callable[[Sequence[EventRow]], object]] = []
        self.on_handover: list[Callable[[Handover], object]] = []
        self.on_removal: list[Callable[[Sequence[str]], object]] = []
        self.on_news: list[Callable[[QueueNews], object]] = []

    async def write_to_the_end(self, work: Work) -> Any:
        """Refuse the work.

        Raises:
            ReadOnlyStoreError: always.
        """
        raise errors.ReadOnlyStoreError(database=self._database)

    write = defer = write_to_the_end

    def extend(self, writing: asyncio.Future[Any], size: int) -> bool:
        """Nothing was deferred."""
        return False

    def hurry(self, writing: asyncio.Future[Any] | None = None) -> None:
        """Nothing was deferred."""

    def put(self, work: Work) -> asyncio.Future[Any]:
        """Refuse the work.

        Raises:
            ReadOnlyStoreError: always.
        """
        raise errors.ReadOnlyStoreError(database=self._database)

    put_beside = put

    def need_none_beside(self) -> None:
        """There is none."""

    def stats(self) -> WriterStats:
        """Nothing was written."""
        return _NOTHING_WRITTEN

    def leave_within(self, seconds: float) -> None:
        """Nothing is to be written."""

    def refuse_more(self) -> None:
        """Nothing was ever taken."""

    async def aclose(self) -> None:
        """Nothing is to be closed."""


def answer_of(outcome: Any) -> Any:
    """What the work with this outcome came to.

    Raises:
        TracksideError: it was refused, or its transaction failed; nothing of it was written.
    """
    if isinstance(outcome, Refused):
        # Several callers may get what stopped their common transaction: each its own exception.
        raise type(outcome.error)(**outcome.error.details) from outcome.error
    return outcome


def _may_be_ones_fault(error: TracksideError) -> bool:
    """Whether a transaction may have failed for one of its works alone, and not for what the database is or does."""
    return not (error.retryable or isinstance(error, _OF_ALL))


def _closed() -> ClosedError:
    return ClosedError(what="store")
