"""Asks the API which of a thread's questions need no answer any more, though the thread still has them, and with which
run a thread waits that the API does not serve.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import UNSET

from trackside.app.dashboard.declaring import API
from trackside.app.dashboard.questions import closed_by
from trackside.app.server.failures import HttpError
from trackside.app.server.routes import records, run_records
from trackside.app.server.routing import Call
from trackside.app.server.wire.log import RecordedRun
from trackside.harness.admission import begins_later
from trackside.harness.errors import UnknownRunError, UnknownThreadError
from trackside.harness.types import RunStatus

_LOOKED_AT: Final = 100
"""How many runs of the thread are looked at, the newest; and the running one, if it is not among them."""


async def closed_questions(call: Call[Any, Any], thread_id: str, open_ids: Collection[str]) -> frozenset[str]:
    """The questions of a thread that are closed by the run that has it, or by one that waits for it; until it does
    so, the thread still has them. No questions if no run has the thread; all if the viewer may not
    know its runs.

    Args:
        call: the request of the viewer.
        thread_id: the thread.
        open_ids: the questions that it has.
    """
    path, asked_for = {"thread_id": thread_id}, {"limit": _LOOKED_AT}
    try:  # in one look, if that shows all: no run must begin or end between two
        found = (await API.ask(call, run_records.list_runs, path=path, query=asked_for)).value
        if len(found) == _LOOKED_AT:  # one may go on that is older than many that are to begin later
            running = await API.ask(call, run_records.list_runs, path=path, query=asked_for | {"status": "running"})
            found = [*{one.run_id: one for one in (*running.value, *found)}.values()]
    except (HttpError, UnknownThreadError):
        return frozenset(open_ids)
    closed: frozenset[str] = frozenset()
    now = datetime.now(UTC)
    for one in found:
        if one.status not in {RunStatus.running, RunStatus.pending}:
            continue
        try:
            run = (await API.ask(call, run_records.get_run, path={"thread_id": thread_id, "run_id": one.run_id})).value
        except UnknownRunError:  # removed meanwhile
            continue
        asked = None if run.kwargs is UNSET else run.kwargs
        if one.status == RunStatus.running or not begins_later(run.created_at, asked, now=now):
            closed |= closed_by(asked, open_ids)
    return closed


async def waiting_run(call: Call[Any, Any], thread_id: str) -> RecordedRun | None:
    """The run whose questions a thread waits to have answered, whatever the thread's name; None if there is none."""
    query = {"thread_id": thread_id, "waiting": True, "limit": 1}
    found = (await API.ask(call, records.list_recorded_runs, query=query)).value
    return found[0] if found else None
