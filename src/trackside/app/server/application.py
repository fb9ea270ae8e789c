"""The server as one ASGI app."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import override
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Match, Route, compile_path
from starlette.types import ASGIApp

from trackside.app.server.answering import EndpointApp
from trackside.app.server.failed_runs import FailedRuns
from trackside.app.server.guarding import middleware_of
from trackside.app.server.guest import Guest, Introducing
from trackside.app.server.parts import ServerParts
from trackside.app.server.principal import OURS, from_elsewhere
from trackside.app.server.rates import OpenStreams
from trackside.app.server.responses import NORMAL, Receive, Scope, Send, close_socket, failure
from trackside.app.server.routes import GROUPS
from trackside.app.server.routing import EVENT_STREAM, Endpoint, Routes, all_endpoints


def create_app(
    parts: ServerParts,
    groups: Sequence[Routes] = GROUPS,
    *,
    guest: Guest | None = None,
    auth_first: bool = False,
    before: Sequence[Middleware] = (),
) -> Starlette:
    """The ASGI app that answers with these parts. From now on, the log says which of their runs have failed. The app
    holds nothing open itself: closing the parts is enough.

    A guest app gets the requests that match none of our paths, and `/`, after everything that comes before them: an
    unknown client does not get there. `before` sees requests before it is known who asks, inside the security headers
    and the checks of origins. So does the guest's middleware, ahead of `before`; with `auth_first` it sees only
    requests of clients that were let in.
    """
    endpoints = [one for one in all_endpoints(groups) if guest is None or one.path != "/"]
    open_streams = OpenStreams(parts.options.max_streams)
    behind: list[Middleware] = []
    if guest is not None:
        behind.append(Middleware(Introducing))
        its = Middleware(guest.before)
        before, behind = (before, [*behind, its]) if auth_first else ([its, *before], behind)
    app = _App(
        routes=[
            Route(path, _Methods({one.method: EndpointApp(one, parts, open_streams) for one in of_path}))
            for path, of_path in _by_path(endpoints).items()
        ],
        middleware=[*middleware_of(parts, endpoints, before), *behind],
    )
    app.router.redirect_slashes = False
    app.router.default = _Slashes(app.router.routes, _not_found if guest is None else guest)
    app.state.behind_door = app.router if guest is None else Introducing(guest.before(app.router))
    app.state.parts = parts
    app.state.failed_runs = FailedRuns()
    parts.streams.on_end = app.state.failed_runs.note
    return app


class _App(Starlette):
    """Starlette's app, without its wrapper around each message of an answer that turns exceptions into answers:
    endpoints do that themselves, and the server logs what gets past them.
    """

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begins = OURS not in scope  # else one of our apps is answering it, and its guest has brought it here
        scope[OURS] = self
        with from_elsewhere() if begins else nullcontext():
            await super().__call__(scope, receive, send)

    @override
    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for middleware, args, options in reversed(self.user_middleware):
            app = middleware(app, *args, **options)
        return app


class _Slashes:
    """Redirects from a path with slashes at its end to the one without, or to the one with a slash, if that is one of
    ours.

    Starlette's own router redirects to a whole URL, with the scheme that it sees: behind a proxy that ends TLS, all
    that a client has sent would go to `http://`. From one slash too many, the redirect is relative, so that what a
    proxy has stripped from the path stays as well; clients disagree on what more slashes mean.
    """

    def __init__(self, routes: Sequence[BaseRoute], otherwise: ASGIApp) -> None:
        self._routes = routes
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        bare = path.rstrip("/")
        there = {**scope, "path": f"{path}/" if bare == path else bare}
        if scope["type"] != "http" or all(route.matches(there)[0] is Match.NONE for route in self._routes):
            await self._otherwise(scope, receive, send)
            return
        url = quote(there["path"])
        if path == f"{bare}/":
            url = f"../{url.rpartition('/')[2]}"
        if query := scope.get("query_string", b""):
            url = f"{url}?{query.decode('latin-1')}"
        await RedirectResponse(url)(scope, receive, send)


class _Methods:
    """All endpoints of one path. A method that the path lacks is refused with a list of those that it has, whatever
    other path might match the request as well: `/runs/stream` is no run.
    """

    def __init__(self, apps: Mapping[str, EndpointApp]) -> None:
        self._apps = dict(apps)
        if "GET" in apps and apps["GET"].endpoint.media_type != EVENT_STREAM:
            self._apps["HEAD"] = apps["GET"]
        self._allow = ", ".join(sorted(self._apps))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._apps.get(scope["method"])
        if app is None:
            why = f"{scope['method']:.20} is not allowed here; use {self._allow}"
            await failure(405, why, {"Allow": self._allow})(scope, receive, send)
        else:
            await app(scope, receive, send)


def _by_path(endpoints: Iterable[Endpoint]) -> dict[str, list[Endpoint]]:
    """The endpoints of each path, in their order, except that a path comes before another one that also matches it."""
    found: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        found.setdefault(endpoint.path, []).append(endpoint)
    paths: list[str] = []
    matches = {path: compile_path(path)[0].match for path in found}
    for path in found:
        caught = (place for place, before in enumerate(paths) if matches[before](path))
        paths.insert(next(caught, len(paths)), path)
    return {path: found[path] for path in paths}


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":  # events are streamed over HTTP
        await close_socket(receive, send, NORMAL)
        return
    await failure(404, f"there is nothing at {scope['path']!r:.200}")(scope, receive, send)
