"""Tells an agent that a run is over, whatever came of it, so that it can close what it has opened for the run."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from trackside.harness.context import Agent, RunContext
from trackside.harness.foreign.timelimit import Raised, leave_behind, start_contained
from trackside.harness.powers import leave_of

logger = logging.getLogger("trackside.worker")

_PATIENCE = 10.0  # seconds; only whoever awaits the run waits for this: its thread and its place are free by now


async def leave(agent: Agent, run: RunContext) -> None:
    """Call the agent's `leave`, if it has one. A cancel of the caller cuts that short; `cancelling()` remembers it."""
    agent_leaves = leave_of(agent)
    if agent_leaves is None:
        return

    async def leaving() -> None:
        await agent_leaves(run)  # in our own coroutine: a `leave` that is no `async def` raises here, too

    task = start_contained(leaving(), name=f"trackside-leave-{run.run_id}")
    if not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=_PATIENCE)
    if not task.done():
        leave_behind(task)
        logger.error("run %s: what its agent %r has opened does not close, and was left behind", run.run_id, run.agent)
    elif not task.cancelled() and isinstance(outcome := task.result(), Raised):
        logger.error(
            "run %s: what its agent %r has opened could not be closed",
            run.run_id,
            run.agent,
            exc_info=outcome.exception,
        )
