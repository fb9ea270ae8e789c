"""Somebody else's ASGI app behind ours: it gets what is not ours, from those whom we let in, and lives as long as we do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, override

from starlette.authentication import AuthCredentials, BaseUser, UnauthenticatedUser

from trackside.app.server.auth.handlers import User
from trackside.app.server.principal import NOBODY, Principal
from trackside.app.server.responses import Receive, Scope, Send
from trackside.harness.errors import TracksideError

_STATE: Final = "state"


class GuestError(TracksideError, code="guest-app"):
    """the app {name} did not start: {why}."""


class Introducing:
    """An ASGI middleware that says who asks as Starlette's authentication does: `request.user` and `request.auth`."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal = scope.get("trackside.principal", NOBODY)
        scope["user"] = _user_of(principal)
        scope["auth"] = AuthCredentials(principal.user.get("permissions", ()))
        await self._app(scope, receive, send)


class _Unknown(UnauthenticatedUser):
    """Who asks where nobody is asked who he is."""

    @property
    @override
    def identity(self) -> str:
        return ""


def _user_of(principal: Principal) -> Any:
    if principal.identity is None:
        return _Unknown()
    return principal.said if isinstance(principal.said, BaseUser) else User(principal)


class Guest:
    """An ASGI app, with what its lifespan has made for it."""

    def __init__(self, app: Any, state: dict[str, Any]) -> None:
        self._app = app
        self._made = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_STATE] = {**scope.get(_STATE, {}), **self._made}
        await self._app(scope, receive, send)


@asynccontextmanager
async def living(app: Any, *, name: str) -> AsyncGenerator[Guest]:
    """Run the lifespan of an app, if it has one, around the block.

    Raises:
        GuestError: it says that it could not start; what went wrong is in the log.
    """
    from uvicorn import Config
    from uvicorn.lifespan.on import LifespanOn

    config = Config(app, lifespan="auto", log_config=None, log_level="error", access_log=False, proxy_headers=False)
    lifespan = LifespanOn(config)
    await lifespan.startup()
    if lifespan.should_exit:
        raise GuestError(name=name, why="its lifespan failed, as said above")
    try:
        yield Guest(app, lifespan.state)
    finally:
        await lifespan.shutdown()
