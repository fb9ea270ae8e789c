"""Runs of a thread that are there: listed, looked at, removed."""

from __future__ import annotations

from typing import Any

import msgspec

from trackside.app.server.authorizing import About
from trackside.app.server.following import visible_run
from trackside.app.server.principal import Permission
from trackside.app.server.responses import empty, json_reply, page_headers
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.runs import Run, RunsQuery, run_on_wire, statuses_meant

routes = Routes("Runs")


@routes.get(
    "/threads/{thread_id}/runs",
    Permission.read,
    about=About("threads", "search", "thread"),
    query=RunsQuery,
    answers={200: list[Run]},
)
async def list_runs(call: Call[None, RunsQuery]) -> Any:
    """List the runs of a thread, newest first.

    `X-Pagination-Total` says how many there are, and `X-Pagination-Next` is the offset of the next page, if there is
    one. `select` may name `cancel_reason`, as with LangGraph, but no run has it: the event that ends a run says why it
    was stopped.
    """
    query, store = call.query, call.parts.store
    threads = store.threads_of(call.principal.owner)
    status = None if query.status is None else statuses_meant(query.status)
    page = await threads.runs(call.thread_id, status=status, limit=query.limit, offset=query.offset)
    headers = page_headers(offset=query.offset, shown=len(page.runs), total=page.total)
    wanted = frozenset(query.select or ())
    requests = {run.run_id: await store.request_of(run.run_id) for run in page.runs if "kwargs" in wanted}
    shown = [run_on_wire(run, requests.get(run.run_id), multitask=page.strategies.get(run.run_id)) for run in page.runs]
    if query.select is None:
        return json_reply(shown, headers=headers)
    fields = [msgspec.to_builtins(run) for run in shown]
    return json_reply([{name: run[name] for name in run if name in wanted} for run in fields], headers=headers)


@routes.get(
    "/threads/{thread_id}/runs/{run_id}", Permission.read, about=About("threads", "read", "thread"), answers={200: Run}
)
async def get_run(call: Call[None, None]) -> Any:
    """Get a run of a thread, with what it was asked to do."""
    run = await visible_run(call.parts, call.principal, call.run_id, call.thread_id)
    return run_on_wire(run, await call.parts.store.request_of(run.run_id))


@routes.delete(
    "/threads/{thread_id}/runs/{run_id}",
    Permission.run,
    about=About("threads", "delete", "thread"),
    answers={204: None},
)
async def delete_run(call: Call[None, None]) -> Any:
    """Remove a run that has ended. The log keeps its events."""
    await call.parts.store.remove_run(call.thread_id, call.run_id, owner=call.principal.owner)
    return empty()
