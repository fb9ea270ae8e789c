"""An event loop on which an hour takes no time and the same seed gives the same order of everything.

Where a real loop would sleep until the next timer, `VirtualTimeLoop` moves its clock forward to it. With a seed, it
runs the callbacks that are ready in the same turn in an order that the seed decides, so that a test can look at many
interleavings and come back to the one that failed. Where nothing can happen any more, it raises instead of hanging.

    >>> async def patient() -> str:
    ...     await asyncio.sleep(3_600)
    ...     return "done"
    >>> run_virtual(patient(), seed=7)
    'done'
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from types import AsyncGeneratorType, CoroutineType, FrameType
from typing import Any

from trackside.harness.errors import TracksideError

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""What a `VirtualClock` shows when its loop's time is 0."""

HORIZON = 1_000_000.0
"""Virtual seconds after which a loop takes the program for one that never ends."""

THREAD_PATIENCE = 30.0
"""How many real seconds a loop waits for threads before it takes them to be stuck."""


class DeadlockError(TracksideError):
    """Nothing can happen any more: no callback is ready, no timer is set, {threads}. Waiting are: {waiting}."""


class HorizonError(TracksideError):
    """Virtual time has reached {seconds:g} s: something sets timers for ever. Waiting are: {waiting}."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop with a virtual clock that starts at 0 and, with a `seed`, an order of callbacks of its own.

    asyncio promises to call what is ready in the order in which it became ready. With a seed that holds only between
    turns of the loop: callbacks that are ready when a turn begins are called in any order, and what they make ready
    comes in the next turn.

    `run_in_executor` works: while one of its jobs is unfinished, time stands still and the loop really waits, for at
    most `thread_patience` real seconds. If threads of your own will call back, announce that by `real_work`. The seed
    does not cover how threads interleave, nor the order of a set of tasks, such as `TaskGroup` has. Virtual time does
    not wait for sockets and subprocesses: use a real loop for these.

    Raises, from whatever runs the loop:
        DeadlockError: nothing can happen any more.
        HorizonError: virtual time has passed `horizon` seconds.
    """

    def __init__(
        self, *, seed: int | None = None, horizon: float = HORIZON, thread_patience: float = THREAD_PATIENCE
    ) -> None:
        self._virtual_time = 0.0
        self._horizon = horizon
        self._thread_patience = thread_patience
        self._real_work = 0
        selector = _Skipping()
        selector.loop = self
        super().__init__(selector)
        # How close a timer's time must be for it to fire: more than the rounding of a time near the horizon.
        self._clock_resolution = 1e-6
        if seed is not None:
            self._ready = _ShuffledTurns(random.Random(seed))

    def time(self) -> float:
        """The virtual time, in seconds."""
        return self._virtual_time

    @contextlib.contextmanager
    def real_work(self) -> Generator[None]:
        """While this is entered, something outside will call back: time stands still and the loop really waits."""
        self._real_work += 1
        try:
            yield
        finally:
            self._real_work -= 1

    def run_in_executor[*A, T](
        self, executor: Executor | None, func: Callable[[*A], T], *args: *A
    ) -> asyncio.Future[T]:
        """Run a function in a thread; virtual time stands still until it has ended."""
        job = super().run_in_executor(executor, func, *args)
        self._real_work += 1
        job.add_done_callback(self._job_ended)
        return job

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """As on any loop; `timeout` is not reached, because time stands still meanwhile."""
        with self.real_work():
            await super().shutdown_default_executor(timeout)

    def _job_ended(self, job: asyncio.Future[Any]) -> None:
        self._real_work -= 1

    def skip(self, timeout: float | None) -> float:
        """How long to really wait where a real loop would sleep for `timeout` seconds (None: until something happens)."""
        if self._real_work:
            return self._thread_patience
        if timeout is None:
            raise DeadlockError(threads="no thread works", waiting=self.waiting())
        if self._virtual_time > self._horizon:
            raise HorizonError(seconds=self._virtual_time, waiting=self.waiting())
        self._virtual_time += timeout
        return 0

    def waiting(self) -> str:
        """The unfinished tasks, and where each of them waits."""
        return waiting_on(self)


class _Skipping(selectors.DefaultSelector):
    """Looks for what is there, and has the clock put forward instead of waiting for what is not."""

    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        patience = self.loop.skip(timeout)
        if not patience:
            return events
        if not (events := super().select(patience)):
            raise DeadlockError(threads=f"threads still work after {patience:g} s", waiting=self.loop.waiting())
        return events


class _ShuffledTurns(deque[asyncio.Handle]):
    """A loop's ready callbacks; `popleft` draws among those that were there when the turn began.

    A turn takes out as many as there are at its beginning, so the next draw after these begins the next turn.
    """

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self._draw = draw
        self._left = 0

    def popleft(self) -> asyncio.Handle:
        self._left = (self._left or len(self)) - 1
        drawn = self._draw.randint(0, self._left)
        self[0], self[drawn] = self[drawn], self[0]
        return super().popleft()


class VirtualClock:
    """A `Clock` that shows the time of a `VirtualTimeLoop`, by default of the running loop.

    In a thread without a running loop, it shows the time of the loop that was running when the clock was last asked.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, *, epoch: datetime = EPOCH) -> None:
        self._loop = loop
        self._seen: asyncio.AbstractEventLoop | None = None
        self._epoch = epoch

    def now(self) -> datetime:
        """`epoch` plus the loop's time."""
        return self._epoch + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """The loop's time."""
        if self._loop is not None:
            return self._loop.time()
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            if self._seen is None:
                raise
        else:
            if self._seen is None or isinstance(running, VirtualTimeLoop):  # not a loop of a thread's own
                self._seen = running
        return self._seen.time()


def run_virtual[T](coro: Coroutine[Any, Any, T], *, seed: int | None = None, horizon: float = HORIZON) -> T:
    """`asyncio.run` on a `VirtualTimeLoop`."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(seed=seed, horizon=horizon)) as runner:
        return runner.run(coro)


def waiting_on(loop: asyncio.AbstractEventLoop) -> str:
    """The unfinished tasks of any loop and where each of them waits."""
    return "; ".join(sorted(map(_whereabouts, asyncio.all_tasks(loop)))) or "no tasks"


def _whereabouts(task: asyncio.Task[Any]) -> str:
    chain, place, inner = [], "", task.get_coro()
    while (step := _step_of(inner)) is not None:
        name, frame, inner = step
        chain.append(name)
        place = f" ({frame.f_code.co_filename}:{frame.f_lineno})"
    return f"{task.get_name()} in {' → '.join(chain)}{place}"


def _step_of(inner: Any) -> tuple[str, FrameType, Any] | None:
    """What a coroutine or a step of an async generator is called, where it is, and what it waits for."""
    if isinstance(inner, CoroutineType):
        return None if inner.cr_frame is None else (inner.__qualname__, inner.cr_frame, inner.cr_await)
    of = next((one for one in gc.get_referents(inner) if isinstance(one, AsyncGeneratorType)), None)
    return None if of is None or of.ag_frame is None else (of.__qualname__, of.ag_frame, of.ag_await)
