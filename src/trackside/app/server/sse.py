"""A run's live output as server-sent events: one task for each client, which writes what is there and waits for more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from trackside.app.server.responses import Receive, Scope, Send, encoded_headers, json_bytes
from trackside.app.streams import EndedStream, Reader

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_HEARTBEAT = b": heartbeat\r\n\r\n"


def event_frame(event: str, data: Any) -> bytes:
    """One server-sent event."""
    return b"event: %b\r\ndata: %b\r\n\r\n" % (event.encode(), json_bytes(data))


def end_frame(run_id: str, end: Mapping[str, Any] | None) -> bytes:
    """What the stream of a run ends with, by what its last event says; nothing if that is not known here."""
    if end is None:
        return b""
    if "error" in end:
        return event_frame("error", {"error": end.get("error_type") or "Error", "message": end["error"]})
    return b""


@dataclass(slots=True, kw_only=True)
class RunEvents:
    """The answer that streams a run. `first` is what it says before anything else."""

    run_id: str
    reader: Reader
    modes: Collection[str] | None = None
    resumable: bool = False
    first: bytes = b""
    heartbeat: float = 5.0
    headers: Mapping[str, str] = field(default_factory=dict)
    on_disconnect: Callable[[], object] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *encoded_headers(self.headers)]}
        )
        writing = asyncio.ensure_future(self._write(send))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done() and self.on_disconnect is not None:
                self.on_disconnect()
        finally:
            for task in (writing, leaving):
                task.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        reader = self.reader
        pending = self.first
        while True:
            if (gap := reader.gap()) is not None:
                pending += event_frame("gap", {"first": gap.first, "last": gap.last})
            batch = reader.ready()
            if isinstance(batch, list):
                pending += b"".join(
                    [
                        frame.resumable_sse if self.resumable else frame.sse
                        for frame in batch
                        if self.modes is None or frame.mode in self.modes
                    ]
                )
                continue
            if pending:
                ended = isinstance(batch, EndedStream)
                if not ended:
                    await send({"type": "http.response.body", "body": pending, "more_body": True})
                    pending = b""
            if isinstance(batch, EndedStream):
                pending += end_frame(self.run_id, batch.end)
                await send({"type": "http.response.body", "body": pending, "more_body": False})
                return
            await reader.wait(self.heartbeat) or await send(
                {"type": "http.response.body", "body": _HEARTBEAT, "more_body": True}
            )


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
