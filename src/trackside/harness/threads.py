"""Threads: how many may run agents' plain functions at once, and those for what Trackside itself looks up beside the loop.

The loop's own executor is everybody's. LangGraph runs the plain functions in it that are nodes, the OpenAI Agents SDK
those that are tools, `asyncio.to_thread` whatever it is given: what waits behind them waits for as long as they do.
asyncio gives it six threads on two cores. A cancelled task leaves its calls there; `calls_left` lets one wait for them.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import socket
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Final, override
from weakref import WeakSet

AGENT_THREADS: Final = 256
"""How many run the plain functions of agents at one depth, which mostly wait, also for runs that they start."""
_OWN_THREADS: Final = 8
left_behind: Final[ContextVar[set[Future[Any]] | None]] = ContextVar("trackside_calls_left", default=None)
"""What the surrounding code has left in the event loop's executor."""
_LOOKUPS: Final = (socket.getaddrinfo, socket.getnameinfo)
"""Lookups of network names, which asyncio does there: nobody's code, and not to be waited for."""
_noting: Final[WeakSet[Executor]] = WeakSet()
"""Executors of others that have been made to note what is left in them."""


class Threads(ThreadPoolExecutor):
    """A pool that goes on with the threads it has if no more can be started, and forgets what it has refused.

    The library's pool raises then although it has queued the call: a run that failed because of that would begin later.
    """

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if self._threads:
                return  # one of these takes it
            self._work_queue.get_nowait()  # the only call there: no thread could take it, and no other comes meanwhile
            raise


class LoopThreads(ThreadPoolExecutor):
    """An executor for event loops that notes what tasks leave behind in it when they are cancelled, for `calls_left`."""

    @override
    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return _watched(super().submit(fn, *args, **kwargs), fn)


def calls_left() -> set[Future[Any]]:
    """The calls in the event loop's executor that go on after whoever awaited them was cancelled: none as yet, then those
    of the code that follows in this task, and in tasks that it starts.

    The executor of an asyncio loop notes them from the first time that this is called. A loop of uvloop's keeps its own
    to itself, so nothing is noted there unless `loop.set_default_executor(LoopThreads())` was called, as `trackside
    serve` does.
    """
    _have_noted(asyncio.get_running_loop())
    left: set[Future[Any]] = set()
    left_behind.set(left)
    return left


def _have_noted(loop: asyncio.AbstractEventLoop) -> None:
    executor = getattr(loop, "_default_executor", loop)  # asyncio's own name for it
    if isinstance(executor, LoopThreads):
        return
    if type(loop).set_default_executor is not asyncio.BaseEventLoop.set_default_executor:
        return  # this loop keeps it elsewhere
    if executor is None:
        loop.set_default_executor(LoopThreads(thread_name_prefix="asyncio"))  # as asyncio would, at the first call
    elif isinstance(executor, Executor) and executor not in _noting:
        submit = executor.submit
        executor.submit = lambda fn, *args, **kwargs: _watched(submit(fn, *args, **kwargs), fn)  # type: ignore[assignment, method-assign]
        _noting.add(executor)


def _watched[T](future: Future[T], function: Callable[..., Any]) -> Future[T]:
    """Have a call noted if it still runs when asyncio cancels its future, as it does when the task is cancelled."""
    left, cancel = left_behind.get(), future.cancel
    if left is None or any(function is lookup for lookup in _LOOKUPS):  # not by hash: a function need not have one
        return future

    def note() -> bool:
        if cancel():
            return True
        if not future.done():
            left.add(future)
        return False

    future.cancel = note  # type: ignore[method-assign]
    return future


async def in_thread_of[**P, T](
    pool: ThreadPoolExecutor, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """`asyncio.to_thread`, in a thread of this pool."""
    within = functools.partial(contextvars.copy_context().run, call, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(pool, within)


async def in_own_thread[**P, T](look: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The same, for a look of our own that is soon over, in a thread that agents cannot hold up."""
    return await in_thread_of(_own(), look, *args, **kwargs)


@functools.cache
def _own() -> ThreadPoolExecutor:
    return Threads(_OWN_THREADS, thread_name_prefix="trackside-look")


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_own.cache_clear)
