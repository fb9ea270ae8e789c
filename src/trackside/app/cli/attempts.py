"""Finds the attempt as which a run goes on that has ended, and stops that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trackside.harness.lifecycle import TERMINAL_EVENTS, is_final
from trackside.harness.types import CancelAction

if TYPE_CHECKING:
    from trackside.app.cli.records import Records
    from trackside.app.storage import StoredRun


async def last_attempt(records: Records, run: StoredRun) -> StoredRun:
    """The run, or the last attempt as which it goes on, if it has ended."""
    while is_final(run.status) and (again := await _next_attempt(records, run)) is not None:
        run = again
    return run


async def cancelled(records: Records, run: StoredRun, *, action: CancelAction = CancelAction.interrupt) -> StoredRun:
    """Cancel a run, or the last attempt as which it goes on; which one, as it was. One that has ended is left alone."""
    run = await last_attempt(records, run)
    while not is_final(run.status):
        await records.cancel(run, action=action)
        again = await _next_attempt(records, run)  # it may have ended just before
        if again is None:
            break
        run = await last_attempt(records, again)
    return run


async def _next_attempt(records: Records, run: StoredRun) -> StoredRun | None:
    ends = await records.events(run_id=run.run_id, types=sorted(TERMINAL_EVENTS), limit=1)
    again = ends[0].event.payload.get("retried_as") if ends else None
    return None if again is None else await records.run(str(again))
