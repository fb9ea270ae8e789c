"""Runs that somebody joins: waited for, or followed from where he left; and whole threads that he follows."""

from __future__ import annotations

from typing import Any

from trackside.app.server.access import caller_of, thread_for
from trackside.app.server.auth.handlers import Action
from trackside.app.server.authorizing import About
from trackside.app.server.failures import HttpError
from trackside.app.server.following import (
    cancelling,
    end_of,
    final_body,
    first_frame,
    hear,
    join_again,
    learn,
    mirror_of,
    reader_of,
    resume,
    run_headers,
    stream_again,
    visible_run,
)
from trackside.app.server.principal import Permission
from trackside.app.server.routing import EVENT_STREAM, Call, Routes
from trackside.app.server.run_events import RunEvents
from trackside.app.server.thread_events import ThreadEvents
from trackside.app.server.waiting import AT_ONCE, WhenEnded
from trackside.app.server.wire.runs import JoinQuery, StreamQuery, ThreadStreamQuery
from trackside.harness.lifecycle import is_final

routes = Routes("Runs")


def _joining(call: Call[None, Any]) -> Action:
    """Looking on is reading; a client whose leaving cancels the run does more than that."""
    return "update" if call.query.cancel_on_disconnect else "read"


@routes.get(
    "/threads/{thread_id}/runs/{run_id}/join",
    Permission.read,
    about=About("threads", _joining, "thread"),
    query=JoinQuery,
)
async def join_run(call: Call[None, JoinQuery]) -> Any:
    """Wait for a run and return its values, or `{"__error__": …}` if it failed.

    The server keeps a run's own values together with the run's output. Where it does not have them, or no longer, it
    returns the values that the thread has now: later runs may have changed them, and they include the questions that
    are open.
    """
    return await _join(call, call.thread_id)


@routes.get("/runs/{run_id}/join", Permission.read, about=About("threads", _joining, "run"), query=JoinQuery)
async def join_stateless_run(call: Call[None, JoinQuery]) -> Any:
    """Wait for a run, on whichever thread it is."""
    return await _join(call, None)


@routes.get(
    "/threads/{thread_id}/runs/{run_id}/stream",
    Permission.read,
    about=About("threads", _joining, "thread"),
    query=StreamQuery,
    answers={200: str},
    media_type=EVENT_STREAM,
)
async def join_stream(call: Call[None, StreamQuery]) -> Any:
    """Follow a run to its end: its output so far, as far as that is kept, and then what comes.

    With `Last-Event-ID`, the stream goes on behind that event; `-1` is from the beginning. The server refuses an id
    that the run never gave. An event `gap` stands for output that is no longer kept, or that has not come to this
    server. In a fleet, every server has the output of a run, with the same ids. A client that follows a run that is
    over gets its end at once.
    """
    return await _follow(call, call.thread_id)


@routes.get(
    "/runs/{run_id}/stream",
    Permission.read,
    about=About("threads", _joining, "run"),
    query=StreamQuery,
    answers={200: str},
    media_type=EVENT_STREAM,
)
async def join_stateless_stream(call: Call[None, StreamQuery]) -> Any:
    """Follow a run, on whichever thread it is."""
    return await _follow(call, None)


@routes.get(
    "/threads/{thread_id}/stream",
    Permission.read,
    about=About("threads", "read", "thread"),
    query=ThreadStreamQuery,
    answers={200: str},
    media_type=EVENT_STREAM,
)
async def join_thread(call: Call[None, ThreadStreamQuery]) -> Any:
    """Follow all runs of a thread, one after another, on all workers of a fleet, until the client disconnects.

    The stream begins with the run that is active, if there is one. With `Last-Event-ID`, it goes on behind that event;
    `-1` is from the beginning of what is kept. An event `gap` stands for output that is no longer kept, or that has not
    come to this server.
    """
    query, thread = call.query, await thread_for(call)
    thread_id = thread.thread_id
    return ThreadEvents(
        parts=call.parts,
        thread=thread,
        modes=frozenset(query.stream_mode or ("run_modes",)),
        last_event_id=call.header("last-event-id") or None,
        headers={
            "Location": f"/threads/{thread_id}/{stream_again(modes=query.stream_mode)}",
            "Content-Location": f"/threads/{thread_id}",
        },
    )


async def _join(call: Call[None, JoinQuery], thread_id: str | None) -> WhenEnded:
    _expect_allowed(call)
    parts = call.parts
    run = await visible_run(parts, call.principal, call.run_id, thread_id, lingers=True)
    then = join_again(cancels=call.query.cancel_on_disconnect)
    return WhenEnded(
        result=lambda: final_body(parts, run, caller_of(parts, call.principal)),
        headers=run_headers(run.thread_id, run.run_id, stateless=thread_id is None, then=then),
        heartbeat=parts.options.heartbeat,
        at_once=parts.options.heartbeat if is_final(run.status) else AT_ONCE,
        on_disconnect=_on_disconnect(call, run.run_id),
    )


async def _follow(call: Call[None, StreamQuery], thread_id: str | None) -> RunEvents:
    _expect_allowed(call)
    parts, query = call.parts, call.query
    run = await visible_run(parts, call.principal, call.run_id, thread_id, lingers=True)
    run_id, last_id = run.run_id, call.header("last-event-id") or None
    mirror = mirror_of(parts, run)
    reader = reader_of(parts, run_id)
    try:
        if mirror is not None:
            await hear(mirror, reader, last_id)
        await learn(parts, run, reader)
        unsure = run.started_at is not None and not reader.heard_start
        from_start = resume(reader, last_id, past=query.past, unsure=unsure)
    except BaseException:
        if mirror is not None:
            mirror.close()
        raise
    modes = frozenset(mode for mode in query.stream_mode or () if mode)
    cancels = query.cancel_on_disconnect
    then = stream_again(modes=modes, namespaces=query.namespace, past=reader.resumable, cancels=cancels)
    return RunEvents(
        run_id=run_id,
        reader=reader,
        mirror=mirror,
        ended=lambda: end_of(parts, run_id),
        modes=modes or None,
        namespaces=query.namespace,
        first=[first_frame(run, resumable=reader.resumable)] if from_start else (),
        heartbeat=parts.options.heartbeat,
        patience=parts.options.patience,
        headers=run_headers(run.thread_id, run_id, stateless=thread_id is None, then=then),
        on_disconnect=_on_disconnect(call, run_id),
    )


def _expect_allowed(call: Call[None, Any]) -> None:
    """See that a caller who may only look on does not cancel the run by leaving.

    Raises:
        HttpError: the caller would.
    """
    if call.query.cancel_on_disconnect and not call.principal.may(Permission.run):
        raise HttpError(status=403, detail=f"cancel_on_disconnect needs the permission {Permission.run.value!r}")


def _on_disconnect(call: Call[None, Any], run_id: str) -> Any:
    return cancelling(call.parts, run_id) if call.query.cancel_on_disconnect else None
