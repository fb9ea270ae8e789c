"""What stands before all endpoints, from the outside in: security headers, checks of browsers, authentication."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, override

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from trackside.app.server.auth import Authentication
from trackside.app.server.auth.browsers import ANY, LocalOnly
from trackside.app.server.parts import ServerOptions, ServerParts
from trackside.app.server.principal import Permission
from trackside.app.server.rates import Rate
from trackside.app.server.responses import Receive, Scope, Send, header_of
from trackside.app.server.routing import PROBES, Endpoint
from trackside.app.server.secure_headers import SecureHeaders

_EXPOSED: Final = (
    "Location",
    "Content-Location",
    "X-Pagination-Next",
    "X-Pagination-Total",
    "X-Search-Continues",
    "X-Truncated",
)
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_LOOPBACK_ORIGIN: Final = (
    r"https?://(localhost|([a-z0-9-]+\.)+localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(:\d{1,5})?"
)


class Sharing(CORSMiddleware):
    """Starlette's, which reads all headers of a request; most requests come from no page, and are spared the 10 µs."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and header_of(scope, b"origin") is not None:
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def middleware_of(
    parts: ServerParts, endpoints: Iterable[Endpoint], before: Sequence[Middleware] = ()
) -> list[Middleware]:
    """The middleware of a server with these parts, the outermost first; `before` comes before the authentication."""
    options = parts.options
    rate = None if options.rate is None else Rate(options.rate)
    found = [Middleware(SecureHeaders)]
    if parts.authenticator is None or options.origins:
        found.append(_sharing(options, asks_nobody=parts.authenticator is None))
    if parts.authenticator is None:
        found.append(Middleware(LocalOnly, hosts=options.hosts, origins=options.origins))
    found += before
    public = _public(endpoints)
    found.append(Middleware(Authentication, parts.authenticator, public=public, rate=rate, uncounted=public & PROBES))
    return found


def _sharing(options: ServerOptions, *, asks_nobody: bool) -> Middleware:
    """What browsers are told about pages of other origins: without authentication, those of this machine are let in."""
    return Middleware(
        Sharing,
        allow_origins=[ANY] if ANY in options.origins else list(options.origins),
        allow_origin_regex=_LOOPBACK_ORIGIN if asks_nobody else None,
        allow_methods=_METHODS,
        allow_headers=[ANY],
        expose_headers=_EXPOSED,
        allow_private_network=True,
    )


def _public(endpoints: Iterable[Endpoint]) -> set[str]:
    """The paths that are for everybody, whatever the method."""
    needs = [
        (endpoint.path, endpoint.needs is Permission.public and endpoint.refuses is None) for endpoint in endpoints
    ]
    return {path for path, _ in needs if "{" not in path} - {path for path, is_public in needs if not is_public}
