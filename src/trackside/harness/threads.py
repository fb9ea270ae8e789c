"""Threads: how many may run agents' plain functions at once, and those for what Trackside itself looks up beside the loop.

The loop's own executor is everybody's. LangGraph runs plain functions in it that are nodes, the OpenAI Agents SDK those that
are tools, `asyncio.to_thread` whatever it is given: what waits behind them there waits for as long as they do. asyncio gives
it six threads on two cores. A task that is cancelled leaves them behind there; `seen_through` waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Final, override
from weakref import WeakSet

AGENT_THREADS: Final = 256
"""In which the plain functions of agents at one depth run, which mostly wait: also for runs that they start themselves."""
_OWN_THREADS: Final = 8
_calls: Final[ContextVar[set[Future[Any]] | None]] = ContextVar("trackside_calls_in_threads", default=None)
"""What the code around has under way in the event loop's executor."""
_noting: Final[WeakSet[Executor]] = WeakSet()
"""Executors of others that note what is under way in them."""


class Threads(ThreadPoolExecutor):
    """A pool that goes on with the threads it has where no more can be started, and forgets what it has refused.

    The library's raises then although it has put the call into its queue: a run that failed for that would begin later.
    """

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if self._threads:
                return  # one of these takes it
            self._work_queue.get_nowait()  # the one call there: no thread could take it, and none is given meanwhile
            raise


class LoopThreads(ThreadPoolExecutor):
    """An executor for event loops that notes what is under way in it, for `seen_through`."""

    @override
    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return _noted(super().submit(fn, *args, **kwargs))


async def seen_through[T](call: Awaitable[T]) -> T:
    """Await code; if it fails or is cancelled, then also what it has begun in the event loop's executor and not waited for.

    What no thread has taken by then is not called any more. A cancel while this waits for threads is not what ends it. Loops
    of asyncio have their executor note what is under way from the first call on; uvloop's keep it to themselves, so nobody
    is waited for there unless `loop.set_default_executor(LoopThreads())` was called, as `trackside serve` does.
    """
    _note_calls(asyncio.get_running_loop())
    calls: set[Future[Any]] = set()
    _calls.set(calls)
    try:
        return await call
    except (Exception, asyncio.CancelledError):
        while under_way := [asyncio.wrap_future(future) for future in tuple(calls) if not future.cancel()]:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(under_way)
            for future in under_way:
                if future.done() and not future.cancelled():
                    future.exception()  # nobody else asks for it, which asyncio would complain about
        raise


def _note_calls(loop: asyncio.AbstractEventLoop) -> None:
    executor = getattr(
        loop, "_default_executor", loop
    )  # asyncio's own name for it, on all loops that are made of its parts
    if executor is None:
        loop.set_default_executor(LoopThreads(thread_name_prefix="asyncio"))  # as asyncio would, at the first call
    elif isinstance(executor, Executor) and not isinstance(executor, LoopThreads) and executor not in _noting:
        submit = executor.submit
        executor.submit = lambda *args, **kwargs: _noted(submit(*args, **kwargs))  # type: ignore[method-assign]
        _noting.add(executor)


def _noted[T](future: Future[T]) -> Future[T]:
    if (calls := _calls.get()) is not None:
        calls.add(future)
        future.add_done_callback(calls.discard)
    return future


async def in_thread_of[**P, T](
    pool: ThreadPoolExecutor, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """`asyncio.to_thread`, in a thread of this pool."""
    within = functools.partial(contextvars.copy_context().run, call, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(pool, within)


async def in_own_thread[**P, T](look: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The same, for a look of ours that is soon over, which agents cannot hold up."""
    return await in_thread_of(_own(), look, *args, **kwargs)


@functools.cache
def _own() -> ThreadPoolExecutor:
    return Threads(_OWN_THREADS, thread_name_prefix="trackside-look")


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_own.cache_clear)
