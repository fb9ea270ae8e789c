"""Read the log in pages, or follow it as events come."""

from __future__ import annotations

import re
from typing import Any, Final

from trackside.app.server.authorizing import About
from trackside.app.server.failures import HttpError
from trackside.app.server.log_stream import LogEvents
from trackside.app.server.principal import Permission
from trackside.app.server.responses import json_reply
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.log import EventQuery, FollowQuery, LogEvent, event_on_wire
from trackside.harness.errors import UnknownRunError, UnknownThreadError

routes = Routes("Log")

_POSITION: Final = re.compile(r"[0-9]{1,19}", re.ASCII)


@routes.get(
    "/events", Permission.read, about=About("threads", "search", "log"), query=EventQuery, answers={200: list[LogEvent]}
)
async def list_events(call: Call[None, EventQuery]) -> Any:
    """List events of the log, oldest first.

    `X-Pagination-Next` is the position to pass for the next page: as `after`, or with `newest_first` as `before`. It is
    absent where there are no more events.
    """
    query = call.query
    await _see_that_it_is_his(call, query)
    found = await call.parts.store.events(
        query.after,
        before=query.before,
        newest_first=query.newest_first,
        run_id=query.run_id,
        thread_id=query.thread_id,
        agent=query.agent,
        status=query.status,
        types=query.type,
        since=query.since,
        owner=call.principal.owner,
        limit=query.limit + 1,
    )
    page = found[: query.limit]
    more = {"X-Pagination-Next": str(page[-1].position)} if len(found) > len(page) else None
    return json_reply([event_on_wire(stored) for stored in page], headers=more)


@routes.get(
    "/events/stream",
    Permission.read,
    about=About("threads", "search", "log"),
    query=FollowQuery,
    answers={200: str},
    media_type="text/event-stream",
)
async def follow_log(call: Call[None, FollowQuery]) -> Any:
    """Follow the log as server-sent events, each with its position as `id`.

    The stream begins with the next event, or behind the position `after`. A client that comes back with
    `Last-Event-ID`, as browsers do, gets what it has missed. The data of each event is as `/events` lists it. The
    stream ends when the server does.
    """
    query = call.query
    await _see_that_it_is_his(call, query)
    parts = call.parts
    end = await parts.store.subscriptions.end()
    after = _place(call)
    if after is not None and after > end:
        raise HttpError(status=422, detail=f"the log ends at {end}, and nothing was ever behind {after}")
    follower = parts.store.follow(
        end if after is None else after,
        run_id=query.run_id,
        thread_id=query.thread_id,
        agent=query.agent,
        types=query.type,
        since=query.since,
        owner=call.principal.owner,
    )
    options = parts.options
    return LogEvents(follower=follower, frames=parts.frames, heartbeat=options.heartbeat, patience=options.patience)


def _place(call: Call[None, FollowQuery]) -> int | None:
    """The position to go on behind; None: from now on. What the browser remembers is newer than what the page named."""
    last = call.header("last-event-id")
    if not last:
        return call.query.after
    if not _POSITION.fullmatch(last):
        raise HttpError(status=422, detail=f"Last-Event-ID is the position of an event, and not {last!r:.80}")
    return int(last)


async def _see_that_it_is_his(call: Call[None, Any], query: EventQuery | FollowQuery) -> None:
    """See that the caller may see the run and the thread that it names, also if removed: the log keeps their events.

    Raises:
        UnknownRunError, UnknownThreadError: it is somebody else's, or there is none.
    """
    store, owner = call.parts.store, call.principal.owner
    if owner is None:
        return
    if query.run_id is not None and await store.run(query.run_id, owner=owner, removed=True) is None:
        raise UnknownRunError(run_id=query.run_id)
    if query.thread_id is not None and await store.thread(query.thread_id, owner=owner, removed=True) is None:
        raise UnknownThreadError(thread_id=query.thread_id)
