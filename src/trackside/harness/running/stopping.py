"""Stops one run's agent: asks it, cancels it, and says so if it does not stop."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Collection, Generator
from contextlib import contextmanager, nullcontext, suppress
from math import inf
from types import FrameType
from typing import Any

from trackside.harness.context import RunContext, keep_to_run
from trackside.harness.errors import NotWaitedForError
from trackside.harness.foreign.timelimit import give_up_waiting
from trackside.harness.running.ending import StopPolicy
from trackside.harness.running.logs import fields_of
from trackside.harness.running.steady import Begun
from trackside.harness.threads import calls_left, left_behind
from trackside.harness.types import RunRecord

logger = logging.getLogger("trackside.worker")
keep_to_run(left_behind, None)

_FRAMES = 20
_GOES_ON = "was cancelled and does not stop"
_ENDLESS = "is over and does not come to its end"
_IN_THREADS = "has failed, and something of it goes on in a thread"


class Stopper:
    """Stops whichever call of one run's agent is under way (`take`), as its policy says.

    An agent is cancelled once for each time that somebody asks, and not of our own accord: its first cancel may make it
    clean up. `on_stuck` is called once, with the run's id, when an agent was cancelled and still goes on, or when what
    the end of its run waits for (`watching`) comes to no end. It must not lead back to the worker, which has this
    stopper: an ended run would wait for the garbage collector.
    """

    def __init__(
        self, run: RunContext, record: RunRecord, policy: StopPolicy, on_stuck: Callable[[str], None] | None
    ) -> None:
        self._run = run
        self._record = record
        self._policy = policy
        self._on_stuck = on_stuck
        self._task: asyncio.Task[Any] | None = None
        self._inside: asyncio.Task[Any] | None = None
        self._asked = False
        self._looks = False
        self._hurries = False
        self._patience: asyncio.TimerHandle | None = None
        """The timer until the agent is cancelled, if it does not stop by itself."""
        self._watch: asyncio.TimerHandle | None = None
        """The timer until it is stuck, counted from its first cancel, however often it is cancelled."""
        self._waits: asyncio.Task[Any] | None = None
        """The task that waits for what is watched, if it need not."""
        self._held_up_since = inf
        """When the end of the run first waited for something."""
        self._said_stuck = False
        self.raised: Exception | None = None
        """What the agent failed with before anybody asked it to stop, if something of it still ran in threads then."""

    @property
    def was_asked(self) -> bool:
        """Whether the run's agent has to stop; `run.cancelled` may say so before anybody asks."""
        return self._asked

    @property
    def has_finished(self) -> bool:
        """Whether there is a call, and it is over, except for what goes on in threads."""
        return self._task is not None and (self._task.done() or self.raised is not None)

    @property
    def is_inside(self) -> bool:
        """Whether the caller is the agent's call itself, and not a task that was started in it."""
        return self._inside is not None and self._inside is asyncio.current_task()

    def enter(self) -> None:
        """Note the calling task as the call's. It says so itself: its first step is over before anybody has it."""
        self._inside = asyncio.current_task()

    def take(self, task: asyncio.Task[Any], *, looks: bool) -> None:
        """Note the call under way. `looks` says that it is the agent's own code, which may see that it has to stop."""
        self._task = task
        self._looks = looks
        if self._asked:  # in the call's first step, when there was no task to cancel yet
            self._ask(task)

    async def see_through[T](self, call: Callable[[RunContext], Awaitable[T]], hold: Callable[[], None]) -> T:
        """Await the agent's own call, in this task; if it fails or is cancelled, also what it has left in threads.

        Args:
            call: begun in this coroutine of ours, so that one that is no `async def` raises here, too.
            hold: called if it failed by itself, and is still waited for: that is not its time any more.
        """
        self.enter()
        left = calls_left()
        try:
            return await call(self._run)
        except (Exception, asyncio.CancelledError) as exc:
            if left:
                if isinstance(exc, Exception) and not self._asked:
                    self.raised = exc
                    hold()
                await self._until_returned([asyncio.wrap_future(call) for call in left])
            raise

    async def _until_returned(self, calls: Collection[asyncio.Future[Any]]) -> None:
        if self._watch is None and (task := self._inside) is not None:
            self._watch = task.get_loop().call_later(self._policy.stuck_after, self._look, task, _IN_THREADS)
        stand_still = getattr(asyncio.get_running_loop(), "real_work", nullcontext)  # where time is virtual
        with stand_still():
            while not all(call.done() for call in calls):
                with suppress(asyncio.CancelledError):  # asked again
                    await asyncio.wait(calls)
        for call in calls:
            if not call.cancelled():
                call.exception()  # nobody else retrieves it, and asyncio would complain

    def let_go(self) -> None:
        """Note that the call is over."""
        self._task = self._inside = None
        self._disarm()

    @contextmanager
    def watching(self, task: asyncio.Task[Any] | None, *, to_the_end: bool = False) -> Generator[None]:
        """Watch a task that the run's end waits for and nobody cancels; stuck if it takes longer than a cancel may.

        Unless it has to be waited for `to_the_end`, the wait can be given up, and then raises a `NotWaitedForError`.
        """
        if task is not None and not task.done():
            self._watch = task.get_loop().call_later(self._policy.stuck_after, self._look, task, _ENDLESS)
            self._waits = None if to_the_end else asyncio.current_task()
            self._held_up_since = min(self._held_up_since, task.get_loop().time())
        try:
            yield
        finally:
            self._disarm()
            self._waits = None

    async def watched[T](self, step: Begun[T]) -> T:
        """Wait for a step that has to be over before the end of the run is told; returns its result."""
        with self.watching(step.task, to_the_end=True):
            return await step.end()

    def give_up(self, after: float) -> bool:
        """Have the run's end wait no longer, if it has for so many seconds in all; False if it waits `to_the_end`."""
        if self._waits is not None and self._waits.get_loop().time() - self._held_up_since >= after:
            give_up_waiting(self._waits, NotWaitedForError())
        return self._watch is None or self._waits is not None

    def stop(self) -> None:
        """Have the agent stop. Asked again, it is cancelled at once."""
        asked_before, self._asked = self._asked, True
        self._run.cancelled = True
        if self._task is None:
            return
        if asked_before:
            self._cancel(self._task)
        else:
            self._ask(self._task)

    def hurry(self) -> None:
        """Cancel an agent that was asked to stop, unless it has been; one that is asked later is cancelled at once."""
        self._hurries = True
        if self._patience is not None and self._task is not None:
            self._cancel(self._task)

    def _ask(self, task: asyncio.Task[Any]) -> None:
        if self._looks and not self._hurries and self._policy.cancel_after > 0:
            self._patience = task.get_loop().call_later(self._policy.cancel_after, self._cancel, task)
        else:
            self._cancel(task)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._watch is None:
            self._watch = task.get_loop().call_later(self._policy.stuck_after, self._look, task, _GOES_ON)

    def _look(self, task: asyncio.Task[Any], what: str) -> None:
        if not (task.done() or self._said_stuck):
            self._said_stuck = True
            self._say_stuck(task, what)

    def _say_stuck(self, task: asyncio.Task[Any], what: str) -> None:
        logger.error(
            "run %s of agent %r %s; it keeps its place and its thread until then. It is at\n%s",
            self._record.run_id,
            self._record.agent,
            what,
            _stack_of(task),
            extra=fields_of(self._record),
        )
        if self._on_stuck is not None:
            self._on_stuck(self._record.run_id)

    def _disarm(self) -> None:
        for timer in (self._patience, self._watch):
            if timer is not None:
                timer.cancel()
        self._patience = self._watch = None


def _stack_of(task: asyncio.Task[Any]) -> str:
    """Where a task waits, as a traceback shows it; `Task.get_stack` shows only the outermost of its coroutines."""
    frames: list[tuple[FrameType, int]] = []
    awaited: Any = task.get_coro()
    while awaited is not None and len(frames) < _FRAMES:
        for kind in ("cr", "ag", "gi"):
            if (frame := getattr(awaited, f"{kind}_frame", None)) is not None:
                frames.append((frame, frame.f_lineno))
                awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:
            awaited = None
    return "".join(traceback.StackSummary.extract(frames).format()).rstrip()
