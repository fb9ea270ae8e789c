"""Says that something has changed, so that pages look again: at most a few times a second, however much happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, override

from trackside.app.dashboard.declaring import API, params_of
from trackside.app.dashboard.rendering import FailurePage
from trackside.app.server.authorizing import INSIDE
from trackside.app.server.failures import HttpError
from trackside.app.server.log_stream import LogEvents
from trackside.app.server.outlet import HEADERS, Departure
from trackside.app.server.parts import ServerOptions
from trackside.app.server.principal import Permission
from trackside.app.server.responses import Receive, Scope, Send
from trackside.app.server.routes import events
from trackside.app.server.routing import EVENT_STREAM, Call, Routes
from trackside.harness.errors import ClosedError

routes = Routes("Console")

PAUSE: Final = 0.4
"""Seconds between two messages to the same page."""
BEAT: Final = 5.0
"""Seconds after which a page hears something at the latest, so that it knows it is live; `console.js` relies on it."""


@dataclass(slots=True, kw_only=True)
class Changes(LogEvents):
    """The answer that says, for each period with events, that there were some, with the last one's position."""

    @override
    async def _write(self, send: Send) -> None:
        with suppress(ClosedError):
            while True:
                await self.follower.skip()  # however many come, the page needs to look only once
                await self._send(send, b"id: %d\r\nevent: changed\r\ndata: {}\r\n\r\n" % self.follower.position)
                await asyncio.sleep(PAUSE)
        await self._send(send, b": the server closes\r\n\r\n", more=False)


@routes.get("/ui/live", Permission.read, about=INSIDE, media_type=EVENT_STREAM, failing=FailurePage)
async def follow_changes(call: Call[None, None]) -> Any:
    """Server-sent events that say that a page is not new any more.

    `run_id`, `thread_id` and `agent` say which events count.
    """
    given = params_of(call)
    query: dict[str, Any] = {name: given[name][0] for name in ("run_id", "thread_id", "agent") if name in given}
    try:
        log = heard((await API.ask(call, events.follow_log, query=query)).value)
    except HttpError as exc:
        if exc.details["status"] != 403 or {"run_id", "thread_id"} & query.keys():
            raise
        # Handlers let this user see threads by metadata, which events lack; so these pages look again now and then.
        return Looks(_always, call.parts.options, every=BEAT)
    return Changes(
        follower=log.follower,
        frames=log.frames,
        heartbeat=log.heartbeat,
        patience=log.patience,
        beat=log.beat,
    )


def heard(log: LogEvents) -> LogEvents:
    """The answer with heartbeats that a page hears, as scripts do not see comments, and every `BEAT` seconds at least."""
    log.heartbeat = min(log.heartbeat, BEAT)
    log.beat = b"event: beat\r\ndata: {}\r\n"
    return log


class Looks:
    """The answer that checks every so often whether something has changed that makes no event in the log.

    Args:
        has_changed: returns whether it has changed since the last look.
        options: the server's options.
        every: seconds between two looks.
    """

    def __init__(self, has_changed: Callable[[], Awaitable[bool]], options: ServerOptions, *, every: float) -> None:
        self._has_changed = has_changed
        self._options = options
        self._every = every

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        departure = Departure(receive)
        telling = asyncio.create_task(self._tell(send), name="trackside-console-looks")
        tasks = {telling, departure.watching}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _tell(self, send: Send) -> None:
        quiet = 0.0
        await self._say(send, b"beat")
        while True:
            await asyncio.sleep(self._every)
            quiet += self._every
            if await self._has_changed():
                await self._say(send, b"changed")
                quiet = 0.0
            elif quiet >= min(self._options.heartbeat, BEAT):
                await self._say(send, b"beat")
                quiet = 0.0

    async def _say(self, send: Send, event: bytes) -> None:
        """Send an event, and end the answer if the client takes nothing."""
        async with asyncio.timeout(self._options.patience):
            body = b"event: %b\r\ndata: {}\r\n\r\n" % event
            await send({"type": "http.response.body", "body": body, "more_body": True})


async def _always() -> bool:
    return True
