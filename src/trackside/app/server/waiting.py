"""Answers that come when a run has ended: its final state, in a body that says every few seconds that it is not dead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from trackside.app.server.responses import Receive, Reply, Scope, Send, encoded_headers

_AT_ONCE = 0.25  # seconds in which the whole answer is sent as one
_JSON = (b"content-type", b"application/json")


@dataclass(slots=True, kw_only=True)
class WhenEnded:
    """The answer whose body `result` gives. The client learns at once where to ask again if it is cut off."""

    result: Callable[[], Awaitable[bytes]]
    headers: Mapping[str, str] = field(default_factory=dict)
    heartbeat: float = 5.0
    on_disconnect: Callable[[], object] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        waiting = asyncio.ensure_future(self.result())
        await asyncio.wait({waiting}, timeout=_AT_ONCE)
        if waiting.done():
            await Reply(waiting.result(), headers=self.headers)(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [_JSON, *encoded_headers(self.headers)]})
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            while not waiting.done() and not leaving.done():
                await send({"type": "http.response.body", "body": b"\n", "more_body": True})
                await asyncio.wait({waiting, leaving}, timeout=self.heartbeat, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                await send({"type": "http.response.body", "body": waiting.result(), "more_body": False})
            elif self.on_disconnect is not None:
                self.on_disconnect()
        finally:
            for task in (waiting, leaving):
                task.cancel()
            await asyncio.gather(waiting, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
