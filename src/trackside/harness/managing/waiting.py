"""Which run of a manager waits for which, so that none waits for what can only come once it has ended itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from types import coroutine
from typing import Any, NamedTuple

from trackside.harness.errors import WaitsForItselfError
from trackside.harness.foreign.timelimit import call_in_line
from trackside.harness.managing.outcome import Outcome
from trackside.harness.observer import RunResult
from trackside.harness.types import MultitaskStrategy, RunRecord
from trackside.harness.worker import RunWorker


class _Wait(NamedTuple):
    own: RunWorker
    awaited: RunRecord
    outcome: Outcome
    call: asyncio.Task[Any] | None = None
    """The observer's call that waits, if somebody waits for that to the end."""
    pending: asyncio.Future[Any] | None = None
    """The next part of what is followed, if that is what is waited for."""

    @property
    def is_over(self) -> bool:
        is_heard = self.pending is not None and self.pending.done()
        return is_heard or self.outcome.settled or not self.own.is_behind(self.call)


class Waits:
    """The waits of a manager's runs for the results of others, and for what they say.

    Whatever code of a run waits, the run counts as waiting: nobody can tell a task for which its agent waits, as a node
    of a graph, from one that the agent leaves alone. A task made with a context of its own belongs to no run. A client
    that follows a run over HTTP is checked once, if that run has not begun, and does not count as waiting: it may
    leave at any part.

    Args:
        caller: gives the run at work that the calling code belongs to, if there is one.
    """

    def __init__(self, caller: Callable[[], RunWorker | None]) -> None:
        self._caller = caller
        self._by_thread: dict[str, dict[object, _Wait]] = {}
        """By the thread of the run that waits: the runs behind it on that thread need the same."""

    async def result_of(self, awaited: RunRecord, outcome: Outcome) -> RunResult:
        """The result of a run, for the calling code.

        Raises:
            WaitsForItselfError: its own run has to end before that one can: that one is the same run, or behind it on
                their thread, or waits, through whatever others, for one of these.
            NoResultHereError, ManagerLoopError: as `Outcome.wait`.
        """
        own = None if outcome.settled else self._caller()
        if own is None:
            return await outcome.wait()
        self._check(own, awaited)
        with self._under_way(_Wait(own, awaited, outcome, call_in_line())):
            return await outcome.wait()

    async def end_of(self, stopped: RunRecord, outcome: Outcome) -> None:
        """Wait until a run that was asked to stop has ended, or goes on elsewhere.

        Code that waits in its agent is cancelled with that, and what the agent leaves alone is in nobody's way. An
        observer's call is waited for to the end.

        Raises:
            WaitsForItselfError: the calling code is such a call, for which this run waits.
            ManagerLoopError: as `Outcome.wait`.
        """
        if call_in_line() is not None and not outcome.settled:
            own = self._caller()
            if own is not None and own.record.run_id == stopped.run_id:
                raise WaitsForItselfError(run_id=stopped.run_id, awaited=stopped.run_id, who="itself")
        await outcome.over()

    def followed[T](self, parts: AsyncIterator[T], said_by: RunRecord, outcome: Outcome) -> AsyncIterator[T]:
        """What a run says, for the calling code, which waits for that run as long as it says nothing.

        Code that follows its own run is beside the agent, and waits for nothing that this run does not come to.

        Raises:
            WaitsForItselfError: as `result_of`, for the first part, or for a later one.
        """
        own = self._caller()
        if own is None or own.record.run_id == said_by.run_id:
            return parts
        return self._parts(parts, _Wait(own, said_by, outcome))

    def check(self, awaited: RunRecord) -> None:
        """Check that the calling code may wait for a run that has not ended.

        Raises:
            WaitsForItselfError: as `result_of`.
        """
        if (own := self._caller()) is not None:
            self._check(own, awaited)

    def _check(self, own: RunWorker, awaited: RunRecord) -> None:
        record, seen = own.record, {awaited.run_id}
        needed = [awaited]
        while needed:
            one = needed.pop()
            # If the caller's run is ending, its thread waits for what its observers do, whichever has it next.
            waits = one.thread_id == record.thread_id and (own.is_ending or _queues(one))
            if waits or one.run_id == record.run_id:
                who = "itself" if one.run_id == record.run_id else "the next of the same thread"
                who = who if one is awaited else "waiting for this run through others"
                raise WaitsForItselfError(run_id=record.run_id, awaited=awaited.run_id, who=who)
            for other in self._needed_by(one):
                if other.run_id not in seen:
                    seen.add(other.run_id)
                    needed.append(other)

    def _needed_by(self, run: RunRecord) -> Iterator[RunRecord]:
        """The runs that must end before this one: those it waits for, or the run before it on its thread waits for."""
        for wait in [*self._by_thread.get(run.thread_id, {}).values()]:  # a copy: another event loop may ask, too
            if not wait.is_over and (wait.own.record.run_id == run.run_id or _queues(run)):
                yield wait.awaited

    async def _parts[T](self, parts: AsyncIterator[T], wait: _Wait) -> AsyncIterator[T]:
        while True:
            try:
                part = await self._noted(_next_of(parts), wait)
            except StopAsyncIteration:
                return
            yield part

    @coroutine
    def _noted[T](self, steps: Coroutine[Any, Any, T], wait: _Wait) -> Generator[Any, Any, T]:
        """What these steps come to. They count as a wait from where they cannot go on by themselves until they can."""
        go_on: Callable[[], Any] = partial(steps.send, None)
        while True:
            try:
                pending = go_on()
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            go_on = partial(steps.send, None)
            one = wait._replace(call=call_in_line(), pending=pending)
            try:
                if pending is None:  # it only lets others have a turn
                    yield
                    continue
                if not one.is_over:  # its run may have ended, and left this behind
                    self._check(one.own, one.awaited)
                with self._under_way(one):
                    yield pending
            except BaseException as exc:  # noqa: BLE001  # as the steps say, which have to end properly
                go_on = partial(steps.throw, exc)

    @contextmanager
    def _under_way(self, wait: _Wait) -> Generator[None]:
        thread_id, key = wait.own.record.thread_id, object()
        waits = self._by_thread.setdefault(thread_id, {})
        waits[key] = wait
        try:
            yield
        finally:
            del waits[key]
            if not waits:
                self._by_thread.pop(thread_id, None)


async def _next_of[T](parts: AsyncIterator[T]) -> T:
    return await anext(parts)


def _queues(run: RunRecord) -> bool:
    """Whether it waits for those before it on its thread. Others displace those, or were refused if there were any."""
    if run.multitask is MultitaskStrategy.reject:
        return run.due_at is not None
    return run.multitask is MultitaskStrategy.enqueue
