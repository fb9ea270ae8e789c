"""Finds out who asks, once for each request, before anything is done for it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from trackside.app.server.auth.authenticator import Authenticator, path_of
from trackside.app.server.failures import HttpError, answer_of
from trackside.app.server.principal import ANYBODY, NOBODY, OURS, WITHIN, Asking, Principal, asking
from trackside.app.server.rates import Rate
from trackside.app.server.responses import POLICY_VIOLATION, Receive, Scope, Send, close_socket, failure_reply


class Authentication:
    """An ASGI middleware that puts a `Principal` into the scope, or refuses the request.

    Whatever is behind it is closed to unknown clients, including paths that do not exist and apps that somebody mounts;
    only the paths in `public` are open to everybody.

    Args:
        app: the ASGI app behind it.
        authenticator: identifies clients; None: everybody may do everything.
        public: paths for which nobody is asked who they are.
        rate: how often a client may ask; None: without a limit.
        uncounted: paths that everybody may ask for without a limit, and that count for nobody.
    """

    def __init__(
        self,
        app: Any,
        authenticator: Authenticator | None,
        *,
        public: Collection[str] = (),
        rate: Rate | None = None,
        uncounted: Collection[str] = (),
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._public = frozenset(public)
        self._rate = rate
        self._uncounted = frozenset(uncounted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            principal = scope["trackside.principal"] = await self._admitted(scope)
        except HttpError as exc:
            await _refuse(exc, scope, receive, send)
            return
        asked = Asking(scope.get(OURS), principal, is_somebodys=principal is not ANYBODY)
        asking.set(asked)
        try:
            await self._app(scope, receive, send)
        finally:
            asked.principal = None

    async def _admitted(self, scope: Scope) -> Principal:
        try:
            principal = await self._who(scope)
        except HttpError:
            self._count(None, scope)  # a client that guesses is slowed down like everybody else
            raise
        self._count(principal.identity, scope)
        return principal

    async def _who(self, scope: Scope) -> Principal:
        if self._authenticator is None:
            known: Principal = scope.get("trackside.principal", ANYBODY)  # an app around this one may know
            return known
        if scope["type"] == "http" and path_of(scope) in self._public:  # a WebSocket is a guest's, whatever its path
            return NOBODY
        return await self._authenticator(scope)

    def _count(self, identity: str | None, scope: Scope) -> None:
        if self._rate is not None and (scope["type"] != "http" or path_of(scope) not in self._uncounted):
            self._rate.take(client_of(identity, scope))


def client_of(identity: str | None, scope: Scope) -> str:
    """What stands for a client where its requests are counted: who it is, else where they come from."""
    if identity is not None:
        return f"identity {identity}"
    client = None if WITHIN in scope else scope.get("client")
    return f"address {client[0]}" if client else "address"


async def _refuse(exc: HttpError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await close_socket(receive, send, POLICY_VIOLATION)
        return
    await failure_reply(answer_of(exc))(scope, receive, send)
