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
    """Who looks on reads; whose going cancels the run does more than that."""
    return "update" if call.query.cancel_on_disconnect else "read"


@routes.get(
    "/threads/{thread_id}/runs/{run_id}/join",
    Permission.read,
    about=About("threads", _joining, "thread"),
    query=JoinQuery,
)
async def join_run(call: Call[None, JoinQuery]) -> Any:
    """Wait for a run; the answer is its values, later the thread's, or `{"__error__": …}` if it failed.

    A run's own values are kept with what it has said. Where they are not, or not any more, the answer is what the thread's
    are now: later runs may have changed them, and the questions that are open are among them.
    """
    return await _join(call, call.thread_id)


@routes.get("/runs/{run_id}/join", Permission.read, about=About("threads", _joining, "run"), query=JoinQuery)
async def join_stateless_run(call: Call[None, JoinQuery]) -> Any:
    """Wait for a run, whatever its thread is."""
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
    """Follow a run: what it has said, as far as that is kept, then what it says, to its end.

    With `Last-Event-ID` it goes on behind that event, and `-1` is from the beginning; an id that the run never gave is
    refused. What is not kept any more, or has not come here, is told by an event `gap`. In a fleet any server has what a
    run says, with the same ids. Who follows a run that is over gets its end at once.
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
    """Follow a run, whatever its thread is."""
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
    """Follow a thread: all its runs, one after another, until the client goes; of a fleet those of all workers.

    It begins with the run that is active, if there is one. `Last-Event-ID` goes on behind an event, `-1` is from the
    beginning of what is kept; what is not kept any more, or has not come here, is told by an event `gap`.
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
    """See that who may only look on does not cancel the run by going.

    Raises:
        HttpError: he would.
    """
    if call.query.cancel_on_disconnect and not call.principal.may(Permission.run):
        raise HttpError(status=403, detail=f"cancel_on_disconnect needs the permission {Permission.run.value!r}")


def _on_disconnect(call: Call[None, Any], run_id: str) -> Any:
    return cancelling(call.parts, run_id) if call.query.cancel_on_disconnect else None
