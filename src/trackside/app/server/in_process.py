"""Answers requests of code in this process: by the same endpoints, but behind the authentication that others pass."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, override

import httpx
from starlette.applications import Starlette

from trackside.app.server.preparing import user_in
from trackside.app.server.principal import ANYBODY, OURS, WITHIN, Asking, Permission, Principal, asking, guest_asking
from trackside.app.server.responses import Scope
from trackside.harness.context import RunContext, bind_run, current_run

logger = logging.getLogger("trackside.server")

_WAITED: Final = ("/wait", "/stream", "/join")
"""Ends of the paths at which a client waits for a run: a run started there needs no place beside its starter's."""
_ROOM: Final = 1_048_576
"""About how many bytes of an answer wait for a client that does not take them, as on a network; then the app waits."""
_EACH: Final = 1_000
"""Bytes that a message counts for besides its body."""
_LOOK: Final = 5.0
"""Seconds between two checks that the loop of a client that takes nothing still exists."""
_SAME: Final = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "root_path": "",
    "client": ("127.0.0.1", 0),  # guests find one in each request: this one is of this machine
}


class Within:
    """The endpoints of an app for code of its own process, which may be on another event loop than the app's.

    Nothing that is sent to the server gets here, whatever its address, headers or scope say: the caller is an argument.
    """

    def __init__(self, app: Starlette, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.asks_nobody = app.state.parts.authenticator is None
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def principal_of(self, run: RunContext) -> Principal:
        """The caller for the code of a run: the run's owner, who may do no more by it than run agents."""
        if run.owner is None:
            return ANYBODY  # where names are known they count, also if an app around this one asks for them
        user = user_in(run.config)
        known = user if isinstance(user, Mapping) and user.get("identity") == run.owner else {}
        said = {"identity": run.owner, "display_name": run.owner, "is_authenticated": True, "permissions": [], **known}
        return Principal(identity=run.owner, permission=Permission.run, user=said)

    async def answer(self, request: httpx.Request, principal: Principal) -> httpx.Response:
        """The answer to a request, with a body that comes as the app says it.

        Raises:
            httpx.RemoteProtocolError: there is none, because the server stops, or an app behind ours has failed.
        """
        exchange = _Exchange(await request.aread(), self._loop)
        scope = _SAME | {
            "method": request.method,
            "scheme": request.url.scheme,
            "server": (request.url.host, request.url.port),
            "path": request.url.path,
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "app": self.app,
            OURS: self.app,
            "trackside.principal": principal,
            WITHIN: True,
        }
        self._loop.call_soon_threadsafe(self._begin, scope, exchange)
        try:
            start = await exchange.said()
        except asyncio.CancelledError:
            await exchange.aclose()
            raise
        return httpx.Response(start["status"], headers=start.get("headers", ()), stream=exchange)

    async def aclose(self) -> None:
        """Cut off what is being answered."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, scope: Scope, exchange: _Exchange) -> None:
        task = self._loop.create_task(self._answer(scope, exchange), name="trackside-within")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        guest = guest_asking.get()
        # A run has a parent only if that one waits for it, and nothing that a graph sets within its nodes holds here.
        bind_run(current_run() if scope["path"].endswith(_WAITED) else None)
        guest_asking.set(guest)
        principal = scope["trackside.principal"]
        asked = Asking(self.app, principal, is_somebodys=principal is not ANYBODY)
        asking.set(asked)
        try:
            await self.app.state.behind_door(scope, exchange.receive, exchange.send)
        except Exception:  # from an app behind ours: the client learns only that there is no answer, as over a network
            logger.exception("%s %.200s failed", scope["method"], scope["path"])
        finally:
            asked.principal = None
            await exchange.send(None)


class _Exchange(httpx.AsyncByteStream):
    """A request and its answer: the app has one end, and the client has the other, on its own event loop."""

    def __init__(self, body: bytes, apps: asyncio.AbstractEventLoop) -> None:
        self._body: bytes | None = body
        self._apps, self._clients = apps, asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        # Only the app's loop uses these.
        self._waiting = 0
        self._moved = asyncio.Event()

    async def receive(self) -> Any:
        """For the app: the whole body, and then, once that happens, that the client has gone."""
        if self._body is None:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:
        """For the app: say the next part of the answer, as soon as there is room for it; None: nothing more comes.

        What is said to a client that has gone is dropped.
        """
        if message is not None:
            await self._wait_for_room()
            if self._gone.is_set():
                return
            self._waiting += _size(message)
        try:
            self._clients.call_soon_threadsafe(self._said.put_nowait, message)
        except RuntimeError:  # the client's loop, which served it alone, is closed
            self._leave()

    async def said(self) -> Any:
        """For the client: the next part of the answer."""
        if (message := await self._said.get()) is None:
            raise httpx.RemoteProtocolError("the server has cut its answer off")
        self._tell(self._take, message)
        return message

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            part = await self.said()
            yield part.get("body", b"")
            more = part.get("more_body", False)

    @override
    async def aclose(self) -> None:
        self._tell(self._leave)

    async def _wait_for_room(self) -> None:
        while self._waiting > _ROOM and not self._gone.is_set():
            self._moved.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), _LOOK)
            if self._clients.is_closed():  # without having said so
                self._leave()

    def _tell(self, what: Callable[..., object], *args: Any) -> None:
        with suppress(RuntimeError):  # the app's loop is closed, and so is the app
            self._apps.call_soon_threadsafe(what, *args)

    def _take(self, message: Any) -> None:
        self._waiting -= _size(message)
        self._moved.set()

    def _leave(self) -> None:
        self._gone.set()
        self._moved.set()


def _size(message: Any) -> int:
    return _EACH + len(message.get("body", b""))
