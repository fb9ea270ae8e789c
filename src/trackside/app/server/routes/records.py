"""What is recorded of runs across threads, and totals of it; which agents there are; and how the app is doing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import convert

from trackside.app.server.authorizing import OPERATION, About, fits
from trackside.app.server.failures import HttpError
from trackside.app.server.metrics import scraped
from trackside.app.server.principal import Permission
from trackside.app.server.responses import json_reply
from trackside.app.server.routing import Call, Routes
from trackside.app.server.waiting_runs import executed_by, waiting_for
from trackside.app.server.wire.agents import AgentInfo
from trackside.app.server.wire.assistants import SYSTEM
from trackside.app.server.wire.log import (
    OneRunQuery,
    RecordedRun,
    RunDetails,
    RunQuery,
    recorded_run,
    run_details,
    whole_run,
)
from trackside.app.server.wire.stats import (
    Bucket,
    Failure,
    FailureQuery,
    Now,
    RunStats,
    StatsQuery,
    TimelineQuery,
    bucket_on_wire,
    stats_on_wire,
)
from trackside.app.storage import RunFilters, StoredRun
from trackside.harness.errors import UnknownRunError, UnknownThreadError
from trackside.harness.ids import assistant_id_of
from trackside.harness.states import Describes, KeepsThreads

routes = Routes("Records")


@routes.get(
    "/runs", Permission.read, about=About("threads", "search", "log"), query=RunQuery, answers={200: list[RecordedRun]}
)
async def list_recorded_runs(call: Call[None, RunQuery]) -> Any:
    """List the runs of all threads, those created last first.

    `X-Pagination-Next` is the value to pass as `before` for the next page, which has older runs. `metadata` is a JSON
    object.

    With `text`, `min_cost` or `min_duration`, the server looks at runs one by one, and only at so many for each
    request. Where that does not fill a page, `X-Search-Continues` is the value to pass as `before` to go on with the
    search (as `after`, if the request had that).
    """
    query = call.query
    found, continues = await _runs_of(call)
    # Pages of newer runs begin at the near end: the one too many is the newest.
    page = found[: query.limit] if query.after is None else found[-query.limit :]
    more: dict[str, str] = {}
    if page and (query.after is not None or (continues is None and len(found) > len(page))):
        more["X-Pagination-Next"] = page[-1].cursor
    if continues is not None:
        more["X-Search-Continues"] = continues
    shown = whole_run if query.details else recorded_run
    return json_reply([shown(run) for run in page], headers=more or None)


async def _runs_of(call: Call[None, RunQuery]) -> tuple[Sequence[StoredRun], str | None]:
    """The runs, with one more than asked for if there is one, and where a search goes on."""
    query, store = call.query, call.parts.store
    filters: RunFilters = {
        "status": query.status,
        "agent": query.agent,
        "thread_id": query.thread_id,
        "parent_run_id": query.parent_run_id,
        "metadata": _metadata(query.metadata),
        "since": query.since,
        "until": query.until,
        "owner": call.principal.owner,
        "id_prefix": query.id_prefix,
        "removed": query.removed,
        "waiting": query.waiting,
    }
    after, before, limit = query.after, query.before, query.limit + 1
    if not query.searches:
        return await store.runs(**filters, after=after, before=before, limit=limit), None
    return await store.search_runs(
        text=query.text,
        min_cost=query.min_cost,
        min_duration=query.min_duration,
        after=after,
        before=before,
        limit=limit,
        **filters,
    )


@routes.get(
    "/runs/{run_id}",
    Permission.read,
    about=About("threads", "read", "run"),
    query=OneRunQuery,
    answers={200: RunDetails},
)
async def get_recorded_run(call: Call[None, OneRunQuery]) -> Any:
    """Get all that is recorded of a run; its events are at `/events?run_id=`.

    For a run that has not started, `waiting_for` says what it waits for: for example, that no worker can take it.
    """
    store, run_id = call.parts.store, call.run_id
    run = await store.run(run_id, owner=call.principal.owner, removed=call.query.removed)
    if run is None:
        raise UnknownRunError(run_id=run_id)
    return run_details(
        run,
        await store.request_of(run_id),
        await store.retries_of(run_id),
        waiting_for=await waiting_for(store, run),
        executed_by=await executed_by(store, run) if call.principal.may(Permission.admin) else None,
    )


@routes.get(
    "/stats", Permission.read, about=About("threads", "search", "log"), query=StatsQuery, answers={200: RunStats}
)
async def get_stats(call: Call[None, StatsQuery]) -> Any:
    """Get totals of runs: how many, how they ended, what they used; in all, and by agent, model and caller.

    Runs that clients have deleted count, too, until the log no longer has them. A caller who is not an admin gets the
    totals of their own runs, of at most 2,000. For more runs the response is 403, because nobody keeps their sums.
    """
    query, owner, store = call.query, call.principal.owner, call.parts.store
    if query.thread_id is not None and owner is not None and await store.thread(query.thread_id, owner=owner) is None:
        raise UnknownThreadError(thread_id=query.thread_id)
    stats = await store.stats(
        query.since, query.until, agent=query.agent, thread_id=query.thread_id, status=query.status, owner=owner
    )
    return stats_on_wire(stats)


@routes.get(
    "/stats/timeline",
    Permission.read,
    about=About("threads", "search", "log"),
    query=TimelineQuery,
    answers={200: list[Bucket]},
)
async def get_timeline(call: Call[None, TimelineQuery]) -> Any:
    """Get the same totals over time, in at most 1,000 buckets, by when the runs were created."""
    query = call.query
    width, owner = timedelta(seconds=query.width), call.principal.owner
    buckets = await call.parts.store.timeline(
        query.since, query.until, width=width, agent=query.agent, status=query.status, owner=owner
    )
    return [bucket_on_wire(bucket) for bucket in buckets]


@routes.get(
    "/stats/failures",
    Permission.read,
    about=About("threads", "search", "log"),
    query=FailureQuery,
    answers={200: list[Failure]},
)
async def list_failures(call: Call[None, FailureQuery]) -> Any:
    """List why runs failed, the most common reason first.

    The server looks at the 2,000 failed runs that were created last; `X-Truncated: true` says that there are more. As in
    the totals, runs that clients have deleted count, too.
    """
    query = call.query
    found = await call.parts.store.failures(
        query.since, query.until, agent=query.agent, owner=call.principal.owner, limit=query.limit
    )
    reasons = [convert(reason, Failure, from_attributes=True) for reason in found.reasons]
    return json_reply(reasons, headers={"X-Truncated": "true"} if found.truncated else None)


@routes.get("/stats/now", Permission.read, about=About("threads", "search", "log"), answers={200: Now})
async def get_now(call: Call[None, None]) -> Any:
    """Count the runs that go on or wait now, and the threads that wait for a human.

    It counts the runs in all processes of the database.
    """
    return convert(await call.parts.store.live_counts(owner=call.principal.owner), Now, from_attributes=True)


@routes.get("/agents", Permission.read, about=About("assistants", "search", "many"), answers={200: list[AgentInfo]})
async def list_agents(call: Call[None, None]) -> Any:
    """List the agents that are served, by name, and how many of their runs go on.

    An admin gets the number of runs in this process; any other caller gets the number of their own.
    """
    manager, descriptions = call.parts.manager, call.parts.options.descriptions
    running = await _running_by_agent(call)
    return [
        AgentInfo(
            name=name,
            assistant_id=assistant_id_of(name),
            description=descriptions.get(name),
            running=running.get(name, 0),
            keeps_threads=isinstance(agent, KeepsThreads),
            describes=isinstance(agent, Describes),
        )
        for name, agent in sorted(manager.agents.items())
        if fits(call, SYSTEM)
    ]


@routes.get("/metrics", Permission.read, about=OPERATION, answers={200: str}, media_type="text/plain")
async def get_metrics(call: Call[None, None]) -> Any:
    """Get the metrics that Prometheus scrapes, if the settings name an observer of the type "metrics"."""
    return scraped(call.parts.observers, call.header("accept") or "")


async def _running_by_agent(call: Call[None, None]) -> Mapping[str, int]:
    """How many runs of each agent go on: a handler has decided which agents are there for the caller, and not whose
    runs are.
    """
    if call.principal.may(Permission.admin):
        return call.parts.manager.stats().running_by_agent
    return (await call.parts.store.live_counts(owner=call.principal.identity)).running_by_agent


def _metadata(said: str | None) -> dict[str, Any] | None:
    if said is None:
        return None
    try:
        return msgspec.json.decode(said, type=dict[str, str | int | bool | None])
    except (msgspec.DecodeError, RecursionError) as exc:
        raise HttpError(status=422, detail=f"metadata is a JSON object of plain values: {exc}") from exc
