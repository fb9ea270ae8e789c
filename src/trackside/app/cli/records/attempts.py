"""Finds the attempt that continues a run that has ended, and stops that attempt."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from trackside.app import attempts
from trackside.harness.errors import TracksideError
from trackside.harness.lifecycle import TERMINAL_EVENTS
from trackside.harness.types import CancelAction

if TYPE_CHECKING:
    from trackside.app.cli.records.protocol import Records
    from trackside.app.storage import StoredRun


async def last_attempt(records: Records, run: StoredRun) -> StoredRun:
    """The run; if it has ended and goes on as other attempts, the last of them."""
    return await attempts.last_attempt(run, partial(_next_attempt, records))


async def cancelled(records: Records, run: StoredRun, *, action: CancelAction = CancelAction.interrupt) -> StoredRun:
    """Cancel a run, or the last attempt that continues it; returns that one as it was. An ended one is left alone."""
    is_told = False

    async def tell(run: StoredRun) -> None:
        nonlocal is_told
        await records.cancel(run, action=action)
        is_told = True

    async def after(run: StoredRun) -> StoredRun | None:
        try:
            return await _next_attempt(records, run)
        except TracksideError as exc:
            if not is_told or exc.fault != "store":
                raise
            return None  # the records are away now, but the run was told

    return await attempts.stopped(run, after, tell)


async def _next_attempt(records: Records, run: StoredRun) -> StoredRun | None:
    ends = await records.events(run_id=run.run_id, types=sorted(TERMINAL_EVENTS), limit=1)
    again = attempts.named_in(ends[0].event.payload) if ends else None
    return None if again is None else await records.run(again)
