"""Runs the plain functions of an agent in threads, and sees them to their end.

A cancel reaches the task that waits for a thread, never the thread: Pydantic AI leaves it behind.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai.agent import AbstractAgent

from trackside.harness.context import RunContext, current_run
from trackside.harness.threads import AGENT_THREADS, Threads


@asynccontextmanager
async def threads_waited_for(run: RunContext) -> AsyncGenerator[None]:
    """Have agents inside run their plain functions where they are waited for; leave when the last of this run has returned.

    It takes the place of a `using_thread_executor` around it. An agent with `UseThreadExecutor` uses its own executor, and
    its functions are left behind when a run is stopped.
    """
    threads = _Threads(run)
    try:
        with AbstractAgent.using_thread_executor(threads):
            yield
    finally:
        await threads.end()


class _Threads(Executor):
    """The functions of one run, in the threads that all runs at its depth share.

    Runs that it starts find this, too, as we cannot keep the framework's variable from them. Theirs are not waited for.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._under_way: set[Future[Any]] = set()

    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        run = current_run() or self._run
        future = _pool(run.depth).submit(_contained, functools.partial(fn, *args, **kwargs))
        if run is self._run:
            self._under_way.add(future)
            future.add_done_callback(self._under_way.discard)
        return future

    async def end(self) -> None:
        """Wait until none is under way, however often this is cancelled meanwhile."""
        cancel: asyncio.CancelledError | None = None
        while under_way := [asyncio.wrap_future(future) for future in tuple(self._under_way)]:
            try:
                await asyncio.wait(under_way)
            except asyncio.CancelledError as exc:
                cancel = exc
            for future in under_way:
                if future.done() and not future.cancelled():
                    future.exception()  # nobody else asks for it, which asyncio would complain about
        if cancel is not None:
            raise cancel


def _contained[T](function: Callable[[], T]) -> T:
    """Call a function whose exception a future has to carry; a `StopIteration` would hang that."""
    try:
        return function()
    except StopIteration as exc:
        raise RuntimeError("a function raised StopIteration") from exc


@functools.cache
def _pool(depth: int) -> Threads:
    """Each depth has its own: a function that waits for a run it started must not hold the thread that run needs."""
    return Threads(AGENT_THREADS, thread_name_prefix=f"trackside-pydantic-ai-{depth}")


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_pool.cache_clear)
