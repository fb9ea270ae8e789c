"""Says that something has changed, so that pages look again: at most a few times a second, however much happens."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, override

from trackside.app.dashboard.declaring import API, params_of
from trackside.app.dashboard.rendering import FailurePage
from trackside.app.server.authorizing import INSIDE
from trackside.app.server.log_stream import LogEvents
from trackside.app.server.principal import Permission
from trackside.app.server.responses import Send
from trackside.app.server.routes import events
from trackside.app.server.routing import EVENT_STREAM, Call, Routes

routes = Routes("Console")

PAUSE: Final = 0.4
"""Seconds between two words to the same page."""


@dataclass(slots=True, kw_only=True)
class Changes(LogEvents):
    """The answer that says, for each time in which there were events, that there were, with the last one's position."""

    @override
    async def _write(self, send: Send) -> None:
        something = asyncio.Event()
        reading = asyncio.create_task(self._read(something), name="trackside-console-live")
        try:
            while True:
                await something.wait()
                something.clear()
                if reading.done():
                    await reading
                    break
                await self._send(send, b"id: %d\r\nevent: changed\r\ndata: {}\r\n\r\n" % self.follower.position)
                await asyncio.sleep(PAUSE)
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
        await self._send(send, b": the server closes\r\n\r\n", more=False)

    async def _read(self, something: asyncio.Event) -> None:
        try:
            async for _ in self.follower:
                something.set()
        finally:
            something.set()


@routes.get("/ui/live", Permission.read, about=INSIDE, media_type=EVENT_STREAM, failing=FailurePage)
async def follow_changes(call: Call[None, None]) -> Any:
    """Server-sent events that say that a page is not new any more.

    `run_id`, `thread_id` and `agent` say which events count.
    """
    given = params_of(call)
    query: dict[str, Any] = {name: given[name][0] for name in ("run_id", "thread_id", "agent") if name in given}
    log = (await API.ask(call, events.follow_log, query=query)).value
    return Changes(
        follower=log.follower,
        frames=log.frames,
        heartbeat=log.heartbeat,
        patience=log.patience,
        beat=b"event: beat\r\ndata: {}\r\n",  # scripts hear no comments
    )
