"""What runs of graphs put and do not wait for, also while the database is away.

A database that fails over, or is locked, is back within minutes, and no step of a graph has gone wrong by it: a run that had
to fail as nobody could write for a while would have to do all again. So what is refused for that is kept, in its order, and
put again; a run that has much of it waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from trackside.app.storage import errors
from trackside.app.storage._graph_checkpoint_work import Chain, PutGraphRows
from trackside.app.storage._work import Refused
from trackside.app.storage._writer import NoWriter, Writer
from trackside.harness.errors import ClosedError, TracksideError

AWAY: Final = (
    errors.ConnectionLostError,
    errors.DatabaseBusyError,
    errors.OutcomeUnknownError,
    errors.ServerUnreachableError,
    errors.TooManyConnectionsError,
)
"""What passes by itself, mostly within minutes."""
LONGEST_OUTAGE: Final = 300.0
"""Seconds for which it is waited for."""
_MOST_KEPT: Final = 16 * 1_048_576
"""Bytes of one run that are kept meanwhile; one step may have more."""
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 1.0


class Outage:
    """A time in which the database is away: how long it is waited for, with growing pauses."""

    def __init__(self, writer: Writer | NoWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + LONGEST_OUTAGE
        self._pause = _FIRST_PAUSE

    @property
    def is_over(self) -> bool:
        """Whether it is waited for no longer: it lasts too long, or the process leaves."""
        return self._loop.time() >= self._until or monotonic() >= self._writer.leaves_at

    async def pause(self) -> None:
        """Wait before the next try."""
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


class Behind:
    """What one run has put and not waited for.

    Args:
        writer: that of the store.
        learn: is told of what is written, or not (True), after all, of what was refused at first.
    """

    def __init__(self, writer: Writer | NoWriter, learn: Callable[[PutGraphRows, bool], object]) -> None:
        self._writer = writer
        self._learn = learn
        self._last: tuple[PutGraphRows, asyncio.Future[Any]] | None = None
        self._pending: set[asyncio.Future[Any]] = set()
        self._kept: deque[PutGraphRows] = deque()
        """What was refused as the database was away, and what came after that."""
        self._kept_bytes = 0
        self._putting_again: asyncio.Task[None] | None = None
        self._is_hurried: Callable[[], bool] = _never
        self.chain = Chain()

    async def put(self, work: PutGraphRows, size: int) -> asyncio.Future[Any] | None:
        """Have this written, with what was put before if that is still to be written; None: once the database is there.

        Raises:
            TracksideError: something that was put before was not written.
        """
        if self._kept and self._kept_bytes + size > _MOST_KEPT:
            await self.caught_up()
        self.check()
        if self._kept:
            self._keep(work)
            return None
        if self._last is not None:
            last, writing = self._last
            if last.thread_id == work.thread_id and self._writer.extend(writing, size):
                last.join(work)
                return writing
        work.chain = self.chain
        writing = await self._writer.defer(work)
        self._last = work, writing
        self._pending.add(writing)
        writing.add_done_callback(lambda writing: self._hear(work, writing))
        return writing

    def _hear(self, work: PutGraphRows, writing: asyncio.Future[Any]) -> None:
        self._pending.discard(writing)
        outcome = writing.result()
        if isinstance(outcome, Refused) and isinstance(outcome.error, AWAY):
            self._keep(work)

    def _keep(self, work: PutGraphRows) -> None:
        self._last = None
        work.chain = self.chain
        self._kept.append(work)
        self._kept_bytes += work.size
        if self._putting_again is None or self._putting_again.done():
            self._putting_again = asyncio.create_task(self._put_again(), name="trackside-put-again")

    async def _put_again(self) -> None:
        try:
            outage = Outage(self._writer)
            while self._kept:
                await outage.pause()
                if self._pending:  # all of it is refused behind the first, and kept in its order
                    await asyncio.wait([*self._pending])
                await self._put_kept(is_last=outage.is_over or self._is_hurried())
        except BaseException:
            self.chain.failure = self.chain.failure or ClosedError(what="store")  # the event loop ends
            raise
        finally:
            self._give_up()

    async def _put_kept(self, *, is_last: bool) -> None:
        """Put again what is kept, as far as the database is there; what fails for good, the chain says to who asks."""
        self.chain.failure = None
        try:
            while self._kept:
                await self._writer.write(self._kept[0])
                work = self._kept.popleft()
                self._kept_bytes -= work.size
                self._learn(work, False)
        except TracksideError as exc:
            if is_last or not isinstance(exc, AWAY):
                self.chain.failure = exc  # which the work itself does not hear of where the writer is closed
                self._give_up()

    def _give_up(self) -> None:
        while self._kept:
            self._learn(self._kept.popleft(), True)

    def check(self) -> None:
        """See that nothing has failed so far for good.

        Raises:
            TracksideError: something has; nothing that was put after it is written.
        """
        failure = self.chain.failure
        if failure is not None and not (isinstance(failure, AWAY) and self._is_unsettled):
            raise type(failure)(**failure.details) from failure

    @property
    def _is_unsettled(self) -> bool:
        return bool(self._kept or self._pending)

    async def caught_up(self) -> None:
        """Return when nothing is kept any more.

        Raises:
            TracksideError: something was not written.
        """
        while self._kept or (self._pending and self.chain.failure is not None):
            await self._something_happens()
        self.check()

    async def settle(self, is_hurried: Callable[[], bool]) -> None:
        """Return when all is written; for a caller who `is_hurried` a database that is away is not waited for.

        Raises:
            TracksideError: something was not.
        """
        self._is_hurried = is_hurried
        for writing in [*self._pending]:
            self._writer.hurry(writing)
        while self._is_unsettled:
            await self._something_happens()
        self.check()

    async def _something_happens(self) -> None:
        assert self._pending or self._putting_again is not None
        await asyncio.wait([*self._pending] or [self._putting_again])  # type: ignore[list-item]


def _never() -> bool:
    return False
