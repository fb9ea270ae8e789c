"""Runs that somebody stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trackside.app.server.authorizing import About, fitting
from trackside.app.server.calls import uuid_of
from trackside.app.server.failures import HttpError
from trackside.app.server.following import cancelled, end_of, run_headers, visible_run
from trackside.app.server.principal import Permission
from trackside.app.server.responses import empty
from trackside.app.server.routing import Call, Routes
from trackside.app.server.waiting import WhenEnded
from trackside.app.server.wire.runs import CancelMany, CancelManyQuery, CancelQuery
from trackside.app.storage import StoredRun
from trackside.harness.errors import ClosedError
from trackside.harness.lifecycle import is_final
from trackside.harness.types import RunStatus

routes = Routes("Runs")


@routes.post(
    "/threads/{thread_id}/runs/{run_id}/cancel",
    Permission.run,
    about=About("threads", "update", "thread"),
    query=CancelQuery,
    answers={200: None, 202: None},
)
async def cancel_run(call: Call[None, CancelQuery]) -> Any:
    """Stop a run. Stopping it again, or after it has ended, changes nothing and is not an error.

    If the run goes on as another attempt, the server stops that attempt. With `wait`, the response comes when it has
    ended. With the action `rollback`, the thread is as it was before the run, and the run is gone.
    """
    query, parts = call.query, call.parts
    if query.reason is not None:
        raise HttpError(status=422, detail="reason is not supported: a run is cancelled without one")
    run = await visible_run(parts, call.principal, call.run_id, call.thread_id)
    last = await cancelled(parts, run, action=query.action)
    if not query.wait:
        return empty(202)

    async def ended() -> bytes:
        if not is_final(last.status) and await end_of(parts, last.run_id) is None:
            raise ClosedError(what="store")
        return b"null"

    headers = run_headers(run.thread_id, run.run_id, then="join")
    return WhenEnded(result=ended, headers=headers, heartbeat=parts.options.heartbeat)


@routes.post(
    "/runs/cancel",
    Permission.run,
    about=About("threads", "update", "named"),
    body=CancelMany,
    query=CancelManyQuery,
    answers={204: None},
)
async def cancel_runs(call: Call[CancelMany, CancelManyQuery]) -> Any:
    """Stop several runs: up to 10,000 of one thread, or all that are pending, running, or both.

    If one of them goes on as another attempt, the server stops that attempt.
    """
    body = call.body
    if body.status is not None and (body.thread_id or body.run_ids):
        raise HttpError(status=422, detail="status is for all runs that have it; leave out thread_id and run_ids")
    for run in await _chosen(call):
        await cancelled(call.parts, run, action=call.query.action)
    return empty()


async def _chosen(call: Call[CancelMany, Any]) -> Sequence[StoredRun]:
    """The runs that are meant.

    Raises:
        HttpError: no run can be meant.
        UnknownRunError: one that is named does not exist.
    """
    body, parts = call.body, call.parts
    if body.status is not None:
        status = None if body.status == "all" else RunStatus(body.status)
        return await _active(call, status)
    if not (body.thread_id and body.run_ids):
        raise HttpError(status=422, detail="say which runs: thread_id with run_ids, or status")
    thread_id, run_ids = uuid_of(body.thread_id, "thread_id"), [uuid_of(one, "run_ids") for one in body.run_ids]
    return [await visible_run(parts, call.principal, run_id, thread_id) for run_id in run_ids]


async def _active(call: Call[CancelMany, Any], status: RunStatus | None) -> Sequence[StoredRun]:
    found = await call.parts.store.threads_of(call.principal.owner).active_runs(status=status)
    if not call.wanted:
        return found
    theirs = await fitting(call, (run.thread_id for run in found))
    return [run for run in found if run.thread_id in theirs]
