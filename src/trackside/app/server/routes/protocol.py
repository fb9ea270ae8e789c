"""Threads in version 2 of the protocol, which the newest clients speak: commands on a thread, and its events."""

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
    """Send a command to a thread: start a run, answer a question, look at the state, or fork it.

    The methods are `run.start`, for which the thread need not exist, `input.respond`, `state.get`,
    `state.listCheckpoints`, `state.fork` and `agent.getTree`. If a command cannot be carried out, the response says so,
    with status 200. `meta.applied_through_seq` is the number of an event: behind it comes what the command has brought
    about.
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
    """Follow a thread's events on some channels, over all its runs, until the client disconnects.

    Without `since`, the stream begins with the oldest run that is active. If there is none, it begins with one that was
    let in and has not begun, else with the one that began last. An event `gap` stands for events that are no longer
    kept.
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
