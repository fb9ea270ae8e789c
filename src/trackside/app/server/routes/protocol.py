"""Threads as the newest clients speak of them: commands on a thread, and its events (version 2 of the protocol)."""

from __future__ import annotations

from typing import Any

from trackside.app.server.access import thread_for
from trackside.app.server.authorizing import About
from trackside.app.server.principal import Permission
from trackside.app.server.protocol.commands import action_of, answered
from trackside.app.server.protocol.thread_events import ProtocolEvents
from trackside.app.server.routing import EVENT_STREAM, Call, Routes
from trackside.app.server.thread_states import StatesOfThread
from trackside.app.server.wire.protocol import CommandDone, CommandFailed, EventsWanted, ProtocolCommand
from trackside.app.streams.protocol import Wanted

routes = Routes("Threads, version 2")


@routes.post(
    "/threads/{thread_id}/commands",
    Permission.run,
    about=About("threads", action_of, "command"),
    body=ProtocolCommand,
    answers={200: CommandDone | CommandFailed},
)
async def command(call: Call[ProtocolCommand, None]) -> Any:
    """Do something on a thread: start a run, answer a question, look at the state, fork it.

    The methods are `run.start`, for which the thread need not be there, `input.respond`, `state.get`,
    `state.listCheckpoints`, `state.fork` and `agent.getTree`. What cannot be done is told in the answer, with status 200.
    `meta.applied_through_seq` is the event behind which is what the command has brought about.
    """
    return await answered(call)


@routes.post(
    "/threads/{thread_id}/stream/events",
    Permission.read,
    about=About("threads", "read", "thread"),
    body=EventsWanted,
    answers={200: str},
    media_type=EVENT_STREAM,
)
async def follow_events(call: Call[EventsWanted, None]) -> Any:
    """Follow a thread's events on some channels, over all its runs, until the client goes.

    Without `since` it begins with the oldest run that is active, else with one that was let in and has not begun, else with
    the one that began last. What is not kept any more is told by an event `gap`.
    """
    parts, asked = call.parts, call.body
    thread = await thread_for(call)
    return ProtocolEvents(
        parts=parts,
        states=StatesOfThread.of(call, thread),
        wanted=Wanted(channels=frozenset(asked.channels), namespaces=asked.namespaces, depth=asked.depth),
        since=asked.since,
        headers={"Content-Location": f"/threads/{thread.thread_id}"},
    )


routes.refuse(
    "GET",
    "/threads/{thread_id}/stream/events",
    "events are streamed over HTTP, not over a WebSocket: the client's transport is `sse`, which sends a POST",
    about=About("threads", "read"),
)
