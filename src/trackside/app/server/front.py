"""Stands in front of an app: knows which requests are being answered, says what became of each, and, when the server
stops, ends those that would go on for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Final

from trackside.app.server.responses import Receive, Scope, Send, failure

_CLOSE = (b"connection", b"close")
_EVENTS = b"text/event-stream"
_EVENT_ENDS = (b"\r\n\r\n", b"\n\n")
_LONGEST_END = max(map(len, _EVENT_ENDS))
END_MEANS_OVER: Final = "trackside.end_means_over"
"""In the scope of a stream whose proper end means that no more will come: if it is cut off, its clients come back."""

type Note = Callable[[Mapping[str, Any]], None]


class Front:
    """An ASGI app around another one.

    Args:
        app: what answers.
        note: is told of each request that has been answered; optional.
    """

    def __init__(self, app: Any, *, note: Note | None = None) -> None:
        self._app = app
        self._note = note
        self._open: set[_Answering] = set()
        self._ending = False

    @property
    def is_ending(self) -> bool:
        """Whether the server is about to stop."""
        return self._ending

    def begin_ending(self) -> None:
        """From now on, have clients open new connections after each answer, to whichever server comes next."""
        self._ending = True

    def end_streams(self) -> None:
        """End the answers that are streams of events, or cut them off: their clients know how to go on elsewhere."""
        for answering in self._open:
            if answering.is_stream:
                answering.task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answering = _Answering(self, send)
        self._open.add(answering)
        try:
            await self._app(scope, receive, answering.send)
        except asyncio.CancelledError:
            if not self._ending:
                raise
            await answering.cut_off(scope, receive)
        finally:
            self._open.discard(answering)
            if self._note is not None:
                self._note(answering.facts(scope))


class _Answering:
    """A request while it is being answered."""

    __slots__ = ("_begun", "_front", "_is_between", "_run", "_send", "done", "is_stream", "sent", "status", "task")

    def __init__(self, front: Front, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None, "ASGI apps are called in tasks"
        self.task = task
        self.status = 0
        self.sent = 0
        self.done = False
        self.is_stream = False
        self._is_between = True
        self._run: str | None = None
        self._send = send
        self._front = front
        self._begun = perf_counter()

    def send(self, message: Any) -> Any:
        """Pass a message on, and remember what it says."""
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            self.sent += len(body)
            self._is_between = bytes(body[-_LONGEST_END:]).endswith(_EVENT_ENDS)  # the user's app may send a memoryview
            self.done = not message.get("more_body", False)
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message.get("headers", ()):
                if name == b"content-type":
                    self.is_stream = value.startswith(_EVENTS)
                elif name == b"content-location":
                    self._run = value.decode("latin-1")
            if self._front.is_ending:
                message = {**message, "headers": [*message.get("headers", ()), _CLOSE]}
        return self._send(message)

    async def cut_off(self, scope: Scope, receive: Receive) -> None:
        """End the answer in the middle. A stream ends properly between two events, and an answer that has not begun
        says why. Nothing else ends properly, so that the client sees that it is not whole: no other answer, no stream
        in the middle of an event, and none with `END_MEANS_OVER` in its scope.
        """
        self.task.uncancel()
        if self.status == 0:
            await failure(503, "the server stops", {"Retry-After": "1"})(scope, receive, self.send)
        elif self.is_stream and self._is_between and not self.done and END_MEANS_OVER not in scope:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def facts(self, scope: Scope) -> dict[str, Any]:
        """What a line about the request says: no query, no header, nothing that may be a secret."""
        route = scope.get("route")
        facts = {
            "method": scope["method"],
            "path": getattr(route, "path", None) or scope["path"][:200],
            "status": self.status,
            "ms": round((perf_counter() - self._begun) * 1_000, 2),
            "bytes": self.sent,
        }
        params = scope.get("path_params") or {}
        if "thread_id" in params:
            facts["thread_id"] = params["thread_id"][:36]
        if "run_id" in params:
            facts["run_id"] = params["run_id"][:36]
        if self._run is not None:
            _add_run(facts, self._run)
        identity = getattr(scope.get("trackside.principal"), "identity", None)
        if identity is not None:
            facts["principal"] = identity
        if not self.done:
            facts["cut"] = True
        return facts


def _add_run(facts: dict[str, Any], location: str) -> None:
    """Add the ids from `…/threads/ID/runs/ID`, if a request made a run."""
    parts = location.split("/")
    if len(parts) >= 2 and parts[-2] == "runs":
        facts["run_id"] = parts[-1]
        if len(parts) >= 4 and parts[-4] == "threads":
            facts["thread_id"] = parts[-3]
