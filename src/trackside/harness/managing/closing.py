"""How a manager closes: it waits for its runs, stops those that are left, and tells observers the rest, in this order."""

from __future__ import annotations

import asyncio
import warnings
from contextvars import Context
from typing import Any

from trackside.harness.dispatch import ObserverSet
from trackside.harness.errors import ManagerLoopError
from trackside.harness.foreign.timelimit import let_drop, settled
from trackside.harness.managing.execution import Executions
from trackside.harness.managing.outcome import all_done, all_done_or
from trackside.harness.ports import Clock
from trackside.harness.running.ending import TASK_CANCELLED, Stop
from trackside.harness.types import CancelMode, RunStatus

_LEAST_PATIENCE = 1.0  # seconds that a cancelled agent has to stop, even if nobody wants to wait
_LEAST_KEEPING = 30.0  # seconds for keeping or undoing what it did: a database that is silent is noticed in less
_TELLING = 120.0  # seconds for announcing a run whose agent has stopped, or keeping its end where it is found later
_LOOK = 0.1  # seconds

_SHUTDOWN = Stop(RunStatus.cancelled, "the manager was closed", CancelMode.shutdown)


class Closing:
    """The end of a manager.

    Args:
        runs: its runs.
        observers: the observers that are told of them.
        clock: where the time comes from.
        patience: seconds for cancelled agents to stop, then for what they did to be kept or undone, and then for
            observers to take what is left.
    """

    def __init__(self, runs: Executions, observers: ObserverSet, clock: Clock, patience: float) -> None:
        self._runs = runs
        self._observers = observers
        self._clock = clock
        self._patience = patience
        self._grace_over = asyncio.Event()
        self._politeness_over = asyncio.Event()
        self._patience_over = asyncio.Event()
        self._least = _LEAST_PATIENCE
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._guard: asyncio.Task[None] | None = None

    def __del__(self) -> None:
        """Warn if a manager is dropped while its event loop goes on and nobody has closed it."""
        if self._guard is not None and self._task is None:
            self._runs.close_soon(self._guard.get_loop())
            text = "a RunManager was not closed: use `async with`, or await its aclose()"
            warnings.warn(text, ResourceWarning, source=self, stacklevel=1)

    @property
    def begun(self) -> bool:
        """Whether no run is let in any more, except those that runs at work start."""
        return self._task is not None

    @property
    def lets_caller_start(self) -> bool:
        """Whether the calling code may start runs: in the grace, only code of a run at work may, as it needs them."""
        return self._task is None or (not self._stopping and self._runs.waits_for_caller())

    def cancelled_as(self) -> Stop:
        """Why a run ends whose task somebody else cancelled: either that was meant, or the event loop ends, which
        cancels all tasks before any of them goes on, and so the guard as well.
        """
        return TASK_CANCELLED if self._guard is None or not self._guard.cancelling() else _SHUTDOWN

    async def close(self, grace: float | None) -> None:
        """Close, after `grace` seconds for the runs that are there (None: `patience`), and wait until it is done.

        When called again, a shorter grace makes it quicker, a longer one changes nothing. Cancelling the wait ends the
        grace, and is passed on when everything is closed; at once to code that works for a run that this waits for.

        Raises:
            ManagerLoopError: the manager is in use on another event loop, and not closed yet.
            ClosesItselfError: one of the manager's agents, or an observer's call, would wait for this, and this for it.
        """
        if self._task is None or not self._task.done():
            self.check_the_loop()
            self._runs.check_close()
        if self._task is None:
            _set_after(self._grace_over, self._patience if grace is None else grace)
            self._task = asyncio.create_task(self._close(), name="trackside-close")
        elif grace is not None:
            self._hurry(grace)
        closing = self._task
        cancelled: tuple[Any, ...] | None = None  # the cancel's message, by which its sender knows it
        while not closing.done():
            try:
                await asyncio.wait({closing})
            except asyncio.CancelledError as exc:
                self._grace_over.set()
                if self._runs.waits_for_caller():
                    raise
                cancelled = exc.args
        if self._guard is not None and not self._guard.done():
            self._guard.cancel()
            await asyncio.wait({self._guard})
        if cancelled is not None:
            raise asyncio.CancelledError(*cancelled)
        closing.result()

    def watch_the_loop(self) -> None:
        """Close when the event loop ends, unless somebody does before; the loop is the manager's from now on.

        Raises:
            ManagerLoopError: the manager has another one.
        """
        if self._guard is None:
            loop, closes = asyncio.get_running_loop(), self._close_with_the_loop()
            # Started at once: cancelled before its first step, it would close nothing.
            self._guard = asyncio.Task(closes, loop=loop, name="trackside-guard", context=Context(), eager_start=True)
            let_drop(self._guard)  # `__del__` warns of it
        else:
            self.check_the_loop()

    def check_the_loop(self) -> None:
        """Check that the running event loop is the manager's, if it has one.

        Raises:
            ManagerLoopError: it is not.
        """
        if self._guard is not None and self._guard.get_loop() is not asyncio.get_running_loop():
            raise ManagerLoopError

    async def _close_with_the_loop(self) -> None:
        """Wait to be cancelled. Without `close`, only an event loop that ends does that: close while it still runs."""
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            closing = self._task
            if closing is None or not closing.done() or closing.cancelled():
                self._grace_over.set()
                self._task = asyncio.create_task(self._close(), name="trackside-close")
                await settled(self._task)
            raise

    def _hurry(self, grace: float) -> None:
        self._patience = min(self._patience, max(grace, _LEAST_PATIENCE))
        _set_after(self._grace_over, grace)
        if self._stopping:
            _set_after(self._politeness_over, grace - _LEAST_PATIENCE)
            _set_after(self._patience_over, max(grace, self._least))

    def _be_patient(self, least: float) -> None:
        self._least, self._patience_over = least, asyncio.Event()
        _set_after(self._politeness_over, self._patience - _LEAST_PATIENCE)
        _set_after(self._patience_over, max(self._patience, least))

    async def _close(self) -> None:
        runs = self._runs
        while runs.remain and not self._grace_over.is_set():  # again for runs that were started meanwhile
            now = self._clock.now()
            runs.part_with(runs.not_due(now), _SHUTDOWN)
            await runs.drain(self._grace_over, due=now)
        # In one step with the stop: a run that from here on is refused a start is cancelled, and has not failed.
        self._stopping = True
        self._be_patient(_LEAST_PATIENCE)
        runs.part_with(runs.all(), _SHUTDOWN)
        await runs.drain(self._politeness_over)
        runs.hurry()  # however long their policy lets agents stop by themselves: closing does not wait for that
        await runs.drain(self._patience_over)
        self._be_patient(_LEAST_KEEPING)
        await self._see_ends_told()
        runs.leave_behind()
        await self._observers.aclose(self._patience)
        runs.close()

    async def _see_ends_told(self) -> None:
        """Wait until all runs whose agents have stopped have ended, even if a log is away, for which each end is kept
        elsewhere (I14). When patience is over, whatever has long held up a run is given up, so that it can be told.
        """
        while (ending := self._runs.ending()) and not self._patience_over.is_set():
            await all_done_or(self._patience_over, ending, ())
        until = (now := asyncio.get_running_loop().time)() + _TELLING
        while (ending := self._runs.ending(held_up=_LEAST_KEEPING)) and now() < until:
            told = asyncio.create_task(all_done(ending, ()), name="trackside-ends")
            await asyncio.wait((told,), timeout=_LOOK)  # again soon: after one thing, a run may wait for the next
            told.cancel()


def _set_after(event: asyncio.Event, seconds: float) -> None:
    if seconds > 0:
        asyncio.get_running_loop().call_later(seconds, event.set)
    else:
        event.set()
