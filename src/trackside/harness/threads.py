"""Threads: how many may run agents' plain functions at once, and those for what Trackside itself looks up beside the loop.

The loop's own executor is everybody's. LangGraph runs plain functions in it that are nodes, and so may libraries that agents
use: what waits behind them there waits for as long as they do. asyncio gives it six threads on two cores.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

AGENT_THREADS: Final = 256
"""In which the plain functions of agents at one depth run, which mostly wait: also for runs that they start themselves."""
_OWN_THREADS: Final = 8


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
