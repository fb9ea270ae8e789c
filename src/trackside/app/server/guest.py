"""Somebody else's ASGI app behind ours: it gets the requests that are not ours, from clients that we let in, and lives
as long as we do.

Its middleware stands before our endpoints, too, as in LangGraph's server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Final, override

from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, BaseUser, UnauthenticatedUser

from trackside.app.server.auth.handlers import User
from trackside.app.server.principal import NOBODY, Principal, guest_asking
from trackside.app.server.reading import BODY_TIME
from trackside.app.server.responses import Receive, Scope, Send
from trackside.harness.errors import TracksideError

_STATE: Final = "state"
_PATIENCE: Final = 5.0  # seconds in which a client must take the rest of an answer that we have cut off
_OURS: Final = "trackside.behind_guest"
"""In the scope of a request in a guest's middleware: what is behind that middleware, instead of the guest's routes."""
_KNOWN: Final = "trackside.introduced"
"""There, too: what `user` and `auth` were before it, and what we made of each since. Any other value is from that
middleware."""
_NOTHING: Final = object()
"""Their value where nobody has set them; None is what middleware may say of somebody who has not signed in."""


class GuestError(TracksideError, code="guest-app"):
    """the app {name} did not start: {why}."""


class Introducing:
    """An ASGI middleware that says who asks as Starlette's authentication does, in `request.user` and `request.auth`.
    What a guest's middleware has set there holds, whether that middleware stands before this one or behind it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal = scope.get("trackside.principal", NOBODY)
        known: dict[str, list[Any]] = scope.setdefault(_KNOWN, _said_in(scope))
        introduced = {"user": _user_of(principal), "auth": AuthCredentials(principal.user.get("permissions", ()))}
        for name, value in introduced.items():
            if any(scope.get(name, _NOTHING) is each for each in known[name]):
                scope[name] = value
                known[name].append(value)
        await self._app(scope, receive, send)


def _said_in(scope: Scope) -> dict[str, list[Any]]:
    return {name: [_NOTHING, scope.get(name, _NOTHING)] for name in ("user", "auth")}


class _Unknown(UnauthenticatedUser):
    """The caller of a server without authentication."""

    @property
    @override
    def identity(self) -> str:
        return ""


def _user_of(principal: Principal) -> Any:
    if principal.identity is None:
        return _Unknown()
    return principal.said if isinstance(principal.said, BaseUser) else User(principal)


class Guest:
    """An ASGI app, with the state that its lifespan has made. If it is a Starlette or FastAPI app, its middleware
    stands where `before` puts it, and nowhere else.
    """

    def __init__(self, app: Any, state: dict[str, Any]) -> None:
        self._app = app
        self._made = state
        self._has_middleware = isinstance(app, Starlette) and bool(app.user_middleware)
        if self._has_middleware:
            self._bare = _open(app)

    def before(self, app: Any) -> Any:
        """An app with the guest's middleware before it, except for the requests that this middleware makes itself."""

        async def with_middleware(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
                return
            scope[_STATE] = {**scope.get(_STATE, {}), **self._made}
            passage = _Passage(app, scope, send)
            token = guest_asking.set(self)
            try:  # else the requests that it makes itself would have no end
                await passage.through(self._bare if token.old_value is self else self._app, receive)
            finally:
                guest_asking.reset(token)

        return with_middleware if self._has_middleware else app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (time := scope.get(BODY_TIME)) is not None:
            time.is_by_piece = True
        scope.pop("router", None)  # ours: `request.url_for` would look for the guest's routes in it
        if self._has_middleware:
            await self._app.router(scope, receive, send)
            return
        scope[_STATE] = {**scope.get(_STATE, {}), **self._made}
        await self._app(scope, receive, send)


def _open(app: Any) -> Any:
    """Put the app that a request names in its scope, else the app's own routes, behind the app's middleware. The
    middleware is made once: what sees the lifespan also sees the requests. Returns the same app without it.
    """
    routes, middleware = app.router, app.user_middleware

    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        await scope.get(_OURS, routes)(scope, receive, send)

    app.router = behind
    try:
        app.middleware_stack = app.build_middleware_stack()
        app.user_middleware = []
        handling_exceptions = app.build_middleware_stack()
    finally:
        app.router, app.user_middleware = routes, middleware

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = app
        await handling_exceptions(scope, receive, send)

    return bare


class _Passage:
    """A request on its way through a guest's middleware to us, and the answer on its way back.

    Middleware that reassembles answers, as `BaseHTTPMiddleware` does in a task of its own, would properly end what we
    have cut off, or wait for ever for a client that takes nothing.
    """

    def __init__(self, app: Any, scope: Scope, send: Send) -> None:
        self._app = app
        self._scope = scope
        self._send = send
        self._task = asyncio.current_task()
        self._asking_outside = guest_asking.get()
        self._is_sending = self._is_cut = self._is_given_up = False
        self._timer: asyncio.TimerHandle | None = None

    async def through(self, guest: Any, receive: Receive) -> None:
        """Have the request answered."""
        self._scope[_OURS] = self._answer
        self._scope[_KNOWN] = _said_in(self._scope)
        try:
            await guest(self._scope, receive, self._say)
        except asyncio.CancelledError:
            if not self._is_given_up or self._task is None or self._task.uncancel() > 0:
                raise
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _say(self, message: Any) -> None:
        if self._is_cut and _is_last(message):
            return
        self._is_sending = True
        try:
            await self._send(message)
        finally:
            self._is_sending = False

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope is not self._scope:  # the apps around us have that one, and read in it what we have found out
            self._scope.update(scope)
        is_begun = False

        def noting(message: Any) -> Awaitable[None]:
            nonlocal is_begun
            is_begun = message["type"].startswith("http.") and not _is_last(message)
            if message["type"] == "http.response.start":  # middleware changes these in place as it likes
                message["headers"] = list(message.get("headers", ()))
            sent: Awaitable[None] = send(message)
            return sent

        token = guest_asking.set(self._asking_outside)
        try:
            await self._app(self._scope, receive, noting)
        finally:
            guest_asking.reset(token)
            if is_begun:
                self._is_cut = True
                self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._give_up)

    def _give_up(self) -> None:
        if self._is_sending and self._task is not None:
            self._is_given_up = True
            self._task.cancel()


def _is_last(message: Any) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


def made(app: Any, state: dict[str, Any], *, name: str) -> Guest:
    """A guest of an app, whose lifespan fills this state.

    Raises:
        GuestError: its middleware cannot be made.
    """
    try:
        return Guest(app, state)
    except Exception as exc:  # from whatever makes its middleware
        raise GuestError(name=name, why=f"its middleware cannot be made: {type(exc).__name__}: {exc}") from exc


@asynccontextmanager
async def living(app: Any, *, name: str) -> AsyncGenerator[Guest]:
    """Run the lifespan of an app, if it has one, around the block.

    Raises:
        GuestError: it says that it could not start, and the log says what went wrong; or its middleware cannot be made.
    """
    from uvicorn import Config
    from uvicorn.lifespan.on import LifespanOn

    config = Config(app, lifespan="auto", log_config=None, log_level="error", access_log=False, proxy_headers=False)
    lifespan = LifespanOn(config)
    guest = made(app, lifespan.state, name=name)
    await lifespan.startup()
    if lifespan.should_exit:
        raise GuestError(name=name, why="its lifespan failed, as said above")
    try:
        yield guest
    finally:
        await lifespan.shutdown()
