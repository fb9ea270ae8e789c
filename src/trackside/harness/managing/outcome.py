"""The result of a run, for those who wait for it: there may be many, and none of them is told before it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from trackside.harness.errors import ManagerLoopError, NoResultHereError
from trackside.harness.lifecycle import is_final
from trackside.harness.observer import RunResult
from trackside.harness.running.ending import result_of
from trackside.harness.types import RunRecord

ELSEWHERE = "another process executes it"


class Outcome:
    """A result that many may wait for; one that stops waiting stops no other. As `shield`, at a fifth of its price."""

    __slots__ = ("_abandoned", "_loop", "_waiters", "result")

    def __init__(self) -> None:
        self.result: RunResult | None = None
        self._abandoned: Callable[[], Exception] | None = None
        self._loop = asyncio.get_running_loop()
        self._waiters: list[asyncio.Future[RunResult]] = []

    @property
    def settled(self) -> bool:
        """Whether there is a result, or will be none."""
        return self.result is not None or self._abandoned is not None

    async def wait(self) -> RunResult:
        """Wait for the result; in another event loop, it has to be there already.

        Raises:
            ManagerLoopError: it is not, and nobody could wake a waiter there.
            NoResultHereError: there will be none.
        """
        if (result := self.result) is not None:
            return result
        if self._abandoned is not None:
            raise self._abandoned()
        if asyncio.get_running_loop() is not self._loop:
            raise ManagerLoopError
        waiter: asyncio.Future[RunResult] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._waiters.remove(waiter)
            raise

    async def over(self) -> None:
        """Wait until there is a result, or it is known that there will be none here.

        Raises:
            ManagerLoopError: as `wait`.
        """
        with suppress(NoResultHereError):
            await self.wait()

    def resolve(self, result: RunResult) -> bool:
        """Tell everybody; False if they were told before, for the first result counts."""
        if self.result is not None:
            return False
        self.result = result
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(result)
        return True

    def abandon(self, error: Callable[[], Exception]) -> None:
        """Tell everybody, also those who come later, that there will be no result here."""
        if self.result is None:
            self._abandoned = error
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error())


async def all_done(outcomes: Sequence[Outcome], tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until every run has a result, or will have none here, and every task has ended."""
    for outcome in outcomes:
        await outcome.over()
    if tasks:
        await asyncio.wait(tasks)


async def all_done_or(enough: asyncio.Event, outcomes: Sequence[Outcome], tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait as `all_done` does, or until somebody says that this is enough."""
    done = asyncio.create_task(all_done(outcomes, tasks), name="trackside-done")
    over = asyncio.create_task(enough.wait(), name="trackside-enough")
    await asyncio.wait((done, over), return_when=asyncio.FIRST_COMPLETED)
    done.cancel()
    over.cancel()


def outcome_elsewhere(run_id: str, record: RunRecord | None) -> Outcome:
    """The outcome of a run that is not executed here, by what is known of it."""
    outcome = Outcome()
    if record is not None and is_final(record.status):
        outcome.resolve(result_of(record))
    else:
        outcome.abandon(partial(NoResultHereError, run_id=run_id, why=ELSEWHERE))
    return outcome
