"""The server as one ASGI app."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trackside.app.server.guarding import middleware_of
from trackside.app.server.parts import ServerParts
from trackside.app.server.rates import Streams
from trackside.app.server.responses import failure
from trackside.app.server.routes import GROUPS
from trackside.app.server.routing import Endpoint, EndpointApp, Routes, all_endpoints


def create_app(parts: ServerParts, groups: Sequence[Routes] = GROUPS) -> Starlette:
    """The ASGI app that answers with these parts. It holds nothing open itself: closing the parts is enough."""
    endpoints = all_endpoints(groups)
    followed = Streams(parts.options.max_streams)
    app = Starlette(
        routes=[_route(endpoint, parts, followed) for endpoint in endpoints],
        middleware=middleware_of(parts, endpoints),
        exception_handlers={404: _not_found, 405: _not_allowed},
    )
    app.state.parts = parts
    return app


def _route(endpoint: Endpoint, parts: ServerParts, followed: Streams) -> Route:
    return Route(
        endpoint.path, EndpointApp(endpoint, parts, followed), methods=[endpoint.method], name=endpoint.summary
    )


async def _not_found(request: Request, exc: Any) -> Response:
    return failure(404, f"there is nothing at {request.url.path!r:.200}")  # type: ignore[return-value]  # an ASGI app


async def _not_allowed(request: Request, exc: Any) -> Response:
    return failure(405, f"{request.method} is not allowed here", exc.headers)  # type: ignore[return-value]
