"""What runs of graphs put and do not wait for, also while the database is away.

A database that fails over, or is locked, is back within minutes, and no step of a graph has gone wrong by that. A run
that failed because nobody could write for a while would have to do everything again. So each run has a list (`Behind`)
of all that it has put and that is not written, in the order in which it was put. Nothing on the list is written before
what is ahead of it. The list is in one of three states:

* **flowing**: what is put goes to the writer at once. Each put trusts that those before it were written (`Chain`):
  when the writer refuses one, it refuses all those behind it, too.
* **away**: one was refused for something that passes (`AWAY`). It stays on the list, and so do those behind it,
  whatever they were refused for: their turn will show. What is put now is added to the list, and not given to the
  writer. As soon as the writer has nothing more in its hands, everything is put again, one after another, with pauses
  as long as that fails; then the list flows again. Whoever puts past 16 MB waits for that, and so does whoever reads.
* **failed**, for good: one was refused for something that does not pass, or the database was waited for long enough.
  That is five minutes; or until the next refusal, if the run was asked to stop (as when it is timed out), its end is
  hurried, or the time of a process that leaves is over. Or a closing event loop has cancelled the task that puts again.
  Nothing more of the list is written.

Whatever is asked for from then on raises the failure: the next `put`, which fails the next step, `check`, `caught_up`,
and `settle`, for which the end of the run waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from trackside.app.storage._graph.works import Chain, PutGraphRows
from trackside.app.storage._writing.outages import AWAY, Outage
from trackside.app.storage._writing.work import Refused
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.harness.errors import ClosedError, TracksideError

_MOST_KEPT: Final = 16 * 1_048_576
"""How many bytes of one run are kept meanwhile; a single step may have more."""


class Behind:
    """What one run has put and not waited for.

    Args:
        writer: that of the store.
        learn: is told of what is kept, and so is not there yet (True), and when that is written after all (False).
        has_to_stop: whether the run was asked to stop.
    """

    def __init__(
        self,
        writer: Writer | NoWriter,
        learn: Callable[[PutGraphRows, bool], object],
        has_to_stop: Callable[[], bool],
    ) -> None:
        self._writer = writer
        self._learn = learn
        self._has_to_stop = has_to_stop
        self._ends_hurried: Callable[[], bool] = _never
        self._unwritten: dict[PutGraphRows, int] = {}
        """All that is put and not written, in order, each with its size in bytes."""
        self._pending: set[asyncio.Future[Any]] = set()
        """What the writer has of it in its hands."""
        self._last: tuple[PutGraphRows, asyncio.Future[Any]] | None = None
        self._is_away = False
        self._putting_again: asyncio.Task[None] | None = None
        self._failure: TracksideError | None = None
        self._chain = Chain()
        """The chain of puts while the list flows; it has failed from the first refusal until the list flows again."""

    async def put(self, work: PutGraphRows, size: int) -> asyncio.Future[Any] | None:
        """Have this written, with what was put before if that is not written yet; None: once the database is there.

        Raises:
            TracksideError: something that was put before was not written.
        """
        while self._is_away and sum(self._unwritten.values()) + size > _MOST_KEPT:
            await self._something_happens()
        self.check()
        if self._is_away:
            self._unwritten[work] = size
            self._learn(work, True)
            return None
        if self._last is not None:
            last, writing = self._last
            if last.thread_id == work.thread_id and self._writer.extend(writing, size):
                last.join(work)
                self._unwritten[last] += size
                return writing
        writing = await self._writer.defer(work)
        work.chain = self._chain  # as of now: there may have been no room for long; the work is written a moment later
        self._unwritten[work] = size
        self._last = work, writing
        self._pending.add(writing)
        writing.add_done_callback(lambda writing: self._hear(work, writing))
        return writing

    def _hear(self, work: PutGraphRows, writing: asyncio.Future[Any]) -> None:
        self._pending.discard(writing)
        outcome = writing.result()
        if not isinstance(outcome, Refused):
            self._unwritten.pop(work, None)
        elif self._failure is None and not (self._is_away or isinstance(outcome.error, AWAY)):
            self._fail(outcome.error)
        elif self._failure is None:
            self._learn(work, True)
            if not self._is_away:
                self._is_away, self._last = True, None
                self._putting_again = asyncio.Task(
                    self._put_again(), loop=asyncio.get_running_loop(), name="trackside-put-again", eager_start=True
                )

    async def _put_again(self) -> None:
        outage = Outage(self._writer, lambda: self._has_to_stop() or self._ends_hurried())
        try:
            while self._is_away:
                if self._pending:
                    await asyncio.wait([*self._pending])
                if outage.is_over:
                    assert self._chain.failure is not None
                    self._fail(self._chain.failure)
                else:
                    await outage.pause()
                    await self._put_unwritten()
        except BaseException:
            self._fail(ClosedError(what="store"))  # the event loop ends
            raise

    async def _put_unwritten(self) -> None:
        """Have everything written that is not, as far as the database is there."""
        try:
            while self._unwritten:
                if self._pending:  # what was put before, and found room only now, is refused
                    await asyncio.wait([*self._pending])
                work = next(iter(self._unwritten))
                work.chain = None
                await self._writer.write(work)
                del self._unwritten[work]
                self._learn(work, False)
        except AWAY as exc:
            self._chain.failure = exc
        except TracksideError as exc:
            self._fail(exc)
        else:
            self._is_away = False
            self._chain = Chain()

    def _fail(self, failure: TracksideError) -> None:
        self._failure = failure
        self._chain.failure = self._chain.failure or failure
        self._is_away, self._last = False, None
        self._unwritten.clear()

    def check(self) -> None:
        """Check that nothing has failed for good so far.

        Raises:
            TracksideError: something has; nothing that was put after it is written.
        """
        if (failure := self._failure) is not None:
            raise type(failure)(**failure.details) from failure

    async def caught_up(self) -> None:
        """Return when nothing is kept any more.

        Raises:
            TracksideError: something was not written.
        """
        while self._is_away or (self._pending and self._chain.failure is not None):
            await self._something_happens()
        self.check()

    async def settle(self, is_hurried: Callable[[], bool]) -> None:
        """Return when all is written; while the caller `is_hurried`, a database that is away is not waited for.

        Raises:
            TracksideError: something was not.
        """
        self._ends_hurried = is_hurried
        for writing in [*self._pending]:
            self._writer.hurry(writing)
        while self._is_away or self._pending:
            await self._something_happens()
        self.check()

    async def _something_happens(self) -> None:
        assert self._pending or self._putting_again is not None
        await asyncio.wait([*self._pending] or [self._putting_again])  # type: ignore[list-item]


def _never() -> bool:
    return False
