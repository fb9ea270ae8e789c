"""Clears up after threads that are gone: what they remember goes soon, and what the log has of deleted ones, too.

For clients, a thread is gone in the transaction that removes it. The rest is done here, in steps that may be cut off at
any point; whoever sweeps next continues them. Threads and items whose time to live is over are removed here, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, Self

from sqlalchemy import Connection

from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._rows.arguments import check_seconds_option
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._threads import reads
from trackside.app.storage._threads.forgetting import CLAIM_SECONDS, ClaimForgetting, ForgetThreads
from trackside.app.storage._threads.reads import PAGE, Waiting
from trackside.app.storage._threads.works import RemoveThread
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import StorageError, StoreOptionError
from trackside.app.storage.items import Items
from trackside.app.storage.retention import BATCH, prune_threads
from trackside.harness.foreign.timelimit import within
from trackside.harness.ids import new_id

__all__ = ["ForgetMemory", "ForgetOfAgent", "Sweeper", "Swept"]

logger = logging.getLogger("trackside.storage")

SWEEP_EVERY: Final = 60.0
_LEAST_PAUSE: Final = (
    1.0  # seconds: many runs on threads of their own end in that time, and are cleared up after together
)
_LEAST_EVERY: Final = 0.1  # seconds
_LONGEST_LINGER: Final = 365 * 86_400  # seconds
_SURELY_AWAY: Final = 10
"""If nothing can be forgotten of this many threads, the first of a page, then nothing can be of the others either; nor
if so many calls for one thread take too long.
"""
_LONGEST_CALL: Final = 60.0  # seconds: while somebody else's checkpointer is asked, nobody else has threads forgotten
_LONGEST_FOR_ONE: Final = 6.0  # seconds, where it is asked for each thread alone, as all together took too long
_RENEWED_EVERY: Final = CLAIM_SECONDS / 3
_PATIENCE: Final = 60.0  # seconds that who asks for a round waits for another sweeper that is at it
_LOOK_EVERY: Final = 0.1  # seconds
_LEFT_TO_ANOTHER: Final = (
    "another sweep is still asking a checkpointer to forget threads, so some that are gone are not forgotten yet: "
    "a later sweep forgets them, and until then their ids cannot be used again"
)

type ForgetMemory = Callable[[Sequence[str]], Awaitable[object]]
"""Removes what some threads remember elsewhere, as in a checkpointer. May be asked again for the same threads."""


@dataclass(frozen=True, slots=True)
class ForgetOfAgent:
    """The same for what an agent keeps itself. It is asked only for threads that were this agent's."""

    agent: str
    forget: ForgetMemory

    async def __call__(self, thread_ids: Sequence[str]) -> None:
        await self.forget(thread_ids)


class _Find(Protocol):
    def __call__(self, connection: Connection, after: Waiting | None) -> list[Waiting]: ...


class Swept(NamedTuple):
    """How many threads expired, how many were forgotten, and of how many runs the log was cleared."""

    expired: int = 0
    forgotten: int = 0
    runs: int = 0


class Sweeper:
    """Sweeps every so often, and soon after a thread was removed in this process: `async with store.sweeper(): …`."""

    def __init__(
        self,
        writer: Writer | NoWriter,
        readers: Readers,
        items: Items,
        *,
        forget: Sequence[ForgetMemory] = (),
        every: float = SWEEP_EVERY,
        linger: float = 0.0,
    ) -> None:
        check_seconds_option("every", every, least=_LEAST_EVERY, most=86_400)
        check_seconds_option("linger", linger, least=0, most=_LONGEST_LINGER)
        _check_forget(forget)
        self._writer = writer
        self._readers = readers
        self._items = items
        self._forget = forget
        self._every = every
        self._linger = timedelta(seconds=linger)
        self._claimant = new_id()
        self._is_forgetting = False
        self._nudge = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._writer.on_removal.append(self._hear_of_removal)
        self._task = asyncio.create_task(self._keep_on(), name="trackside-sweeper")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._writer.on_removal.remove(self._hear_of_removal)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _hear_of_removal(self, thread_ids: Sequence[str]) -> None:
        self._nudge.set()

    async def sweep(self) -> Swept:
        """One whole round, now. Another sweep that asks a checkpointer to forget, such as a round of this sweeper's own, is
        waited for, for a minute at most; if it takes longer, the log says so, and threads stay that are not forgotten.

        Raises:
            StorageError: the store failed; the next round goes on from there.
            Exception: what a checkpointer that somebody else has written raised for one of the threads. All others are
                dealt with nevertheless, and the next round asks again.
        """
        return await self._round(patience=_PATIENCE)

    async def _round(self, *, patience: float | None) -> Swept:
        await self._items.sweep()
        expired = await self._expire()
        forgotten, failures = await self._forget_all(patience)
        swept = Swept(expired, forgotten, await self._delete())
        _raise_one_of(failures)
        return swept

    async def forget(self, *, expired: bool = False) -> int:
        """Remove now the memory of threads that are gone, and nothing else; returns of how many threads.

        Another sweep is waited for as by `sweep`.

        Args:
            expired: also remove threads whose time is over, so that they are gone.

        Raises:
            StorageError: the store failed; the next round goes on from there.
            Exception: what a checkpointer of somebody else's raised, as for `sweep`.
        """
        if expired:
            await self._expire()
        forgotten, failures = await self._forget_all(_PATIENCE)
        _raise_one_of(failures)
        return forgotten

    async def forget_only(self, thread_ids: Sequence[str]) -> bool:
        """The same for these threads alone, as far as they are gone; False: another sweeper is at it, and sees to it.

        Raises:
            StorageError, Exception: as `forget`.
        """
        done = await self._forget_page(thread_ids)
        if done is None:
            return False
        _raise_one_of(done[1])
        return True

    async def _keep_on(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._nudge.clear()
            try:
                if loop.time() >= due:
                    due = loop.time() + self._every
                    await self._round(patience=None)
                else:
                    _raise_one_of((await self._forget_all(None))[1])
            except StorageError as exc:
                logger.warning("what removed threads left could not be cleared away, and will be later: %s", exc)
            except Exception:  # a checkpointer's, or any other: if this task ended, what is left would stay for ever
                logger.exception("what removed threads left could not be cleared away, and will be later")
            await asyncio.sleep(min(_LEAST_PAUSE, self._every))
            try:
                async with asyncio.timeout_at(due):
                    await self._nudge.wait()
            except TimeoutError:
                pass

    async def _expire(self) -> int:
        """Remove threads whose time is over, except those that are busy."""
        now = datetime.now(UTC)
        count, after = 0, None
        while True:
            page: list[Waiting] = await self._readers.run(partial(reads.expired, now=now, after=after))
            works = (
                RemoveThread(thread_id=one.thread_id, owner=None, now=time_text(now), expired=True) for one in page
            )
            removed: list[bool] = await asyncio.gather(*map(self._writer.write, works))
            count += sum(removed)
            if len(page) < PAGE:
                return count
            after = page[-1]

    async def _forget_all(self, patience: float | None) -> tuple[int, list[Exception]]:
        """Remove what threads remember that were deleted, or that ended with their runs and have lingered long enough.

        Returns how many were forgotten, and what other people's checkpointers raised. Leaves the rest to another sweeper
        that is at it for longer than `patience`, and says so; None: at once, and it goes without saying.
        """
        until = asyncio.get_running_loop().time() + (patience or 0.0)
        ended_before = datetime.now(UTC) - self._linger
        finds: tuple[_Find, ...] = (reads.deleted_to_forget, partial(reads.ended_to_forget, before=ended_before))
        count = 0
        failures: list[Exception] = []
        for find in finds:
            after = None
            while page := await self._readers.run(partial(find, after=after)):
                while (done := await self._forget_page([one.thread_id for one in page])) is None:
                    if asyncio.get_running_loop().time() >= until:
                        self._nudge.set()  # the other one may be past what was removed just now
                        if patience is not None:
                            logger.warning(_LEFT_TO_ANOTHER)
                        return count, failures
                    await asyncio.sleep(_LOOK_EVERY)
                count += done[0]
                failures += done[1]
                after = page[-1]
        return count, failures

    async def _forget_page(self, thread_ids: Sequence[str]) -> tuple[int, list[Exception]] | None:
        """The same for some of them; None: another sweep is at it, of this sweeper or of another one."""
        if self._is_forgetting:  # the claim would be this one's, too
            return None
        self._is_forgetting = True
        try:
            return await self._forget_claimed(thread_ids)
        finally:
            self._is_forgetting = False

    async def _forget_claimed(self, thread_ids: Sequence[str]) -> tuple[int, list[Exception]] | None:
        """The same, while no other sweep of this sweeper is at it."""
        failed: Mapping[str, Exception] = {}
        if self._forget:
            claim = ClaimForgetting(claimant=self._claimant, wanted=thread_ids)
            left: Sequence[str] | None = await self._writer.write(claim)
            asked = None if left is None else await self._forget_elsewhere(left)
            if left is None or asked is None:
                return None
            thread_ids, failed = left, asked
        forgotten = [thread_id for thread_id in thread_ids if thread_id not in failed]
        now = time_text(datetime.now(UTC))
        forget = ForgetThreads(claimant=self._claimant, forgotten=forgotten, now=now)
        return (len(forgotten), [*failed.values()]) if await self._writer.write(forget) else None

    async def _forget_elsewhere(self, thread_ids: Sequence[str]) -> Mapping[str, Exception] | None:
        """Ask each of `forget`; returns the threads whose memory could not be removed, and why.

        None: somebody else has claimed to ask, or has had some of these threads forgotten, as nothing was heard from here.
        """
        asking = asyncio.create_task(self._ask(thread_ids), name="trackside-forgetting")
        try:
            while not (await asyncio.wait([asking], timeout=_RENEWED_EVERY))[0]:
                claim = ClaimForgetting(claimant=self._claimant, wanted=thread_ids)
                if await self._writer.write(claim) != thread_ids:
                    return None
            return await asking
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self, thread_ids: Sequence[str]) -> dict[str, Exception]:
        theirs: Mapping[str, Sequence[str]] = {}
        if agents := [forget.agent for forget in self._forget if isinstance(forget, ForgetOfAgent)]:
            theirs = await self._readers.run(partial(reads.threads_by_agent, thread_ids=thread_ids, agents=agents))
        failed: dict[str, Exception] = {}
        for forget in self._forget:
            asked = theirs.get(forget.agent, ()) if isinstance(forget, ForgetOfAgent) else thread_ids
            if asked:
                failed |= await _failing(forget, asked)
        return failed

    async def _delete(self) -> int:
        """Clear the log of threads that were deleted, as far as no subscription needs it."""
        count, after = 0, ""
        while True:
            page = await self._readers.run(partial(reads.to_delete, after=after))
            if page:
                count += (await prune_threads(self._writer, self._readers, page, batch=BATCH)).runs
            if len(page) < PAGE:
                return count
            after = page[-1]


async def _failing(forget: ForgetMemory, thread_ids: Sequence[str]) -> dict[str, Exception]:
    """The threads that one could not forget, and why: if asking for all fails, it is asked for each alone."""
    failure = await _failure_of(forget, thread_ids, limit=_LONGEST_CALL)
    if failure is None:
        return {}
    failed = dict.fromkeys(thread_ids, failure)
    limit = _LONGEST_FOR_ONE if isinstance(failure, TimeoutError) else _LONGEST_CALL
    unanswered = 0
    for number, one in enumerate(thread_ids if len(thread_ids) > 1 else ()):
        if unanswered == _SURELY_AWAY or (number == _SURELY_AWAY and len(failed) == len(thread_ids)):
            break
        failure = await _failure_of(forget, [one], limit=limit)
        unanswered += isinstance(failure, TimeoutError)
        if failure is None:
            del failed[one]
        else:
            failed[one] = failure
    return failed


async def _failure_of(forget: ForgetMemory, thread_ids: Sequence[str], *, limit: float) -> Exception | None:
    """What somebody else's checkpointer raised, or that it took too long: it is left behind then, whatever it does."""

    async def call() -> None:
        await forget(thread_ids)

    try:
        await within(limit, call(), name="trackside-forgets")
    except StorageError:
        raise
    except asyncio.CancelledError as exc:
        if (task := asyncio.current_task()) is None or task.cancelling():
            raise
        failure = RuntimeError("it was cancelled, by nobody here")  # else the sweeper would end for good
        failure.__cause__ = exc
        return failure
    except Exception as exc:  # noqa: BLE001  # whatever it is: the same is asked for again later
        return exc
    return None


def _check_forget(said: Any) -> None:
    if not isinstance(said, Sequence) or not all(map(callable, said)):
        why = "it is a list of async functions of a list of ids of threads"
        raise StoreOptionError(option="forget", value=said, why=why)


def _raise_one_of(failures: Sequence[Exception]) -> None:
    if failures:
        raise failures[0]
