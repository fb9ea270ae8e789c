"""How pages and actions are declared: like endpoints of the API, but they answer with HTML."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from time import perf_counter
from typing import Any, Final
from urllib.parse import parse_qsl

from msgspec import Struct

from trackside.app.dashboard.rendering import FailurePage, Page
from trackside.app.dashboard.tokens import check_token
from trackside.app.server.authorizing import INSIDE
from trackside.app.server.failures import HttpError
from trackside.app.server.page_api import Api
from trackside.app.server.principal import Permission
from trackside.app.server.routes import GROUPS
from trackside.app.server.routing import Call, Routes, all_endpoints

_MOST_OF_STRANGERS: Final = 65_536
"""The most bytes of a form from somebody unknown: forms are read on the event loop, before their token is checked."""

type Handler = Callable[[Call[Any, Any]], Awaitable[Any]]


class Form(Struct, kw_only=True):
    """What every form of ours sends; used by itself for a form without fields of its own."""

    csrf: str | None = None
    """The token of the page that the form is on."""


API = Api(all_endpoints(GROUPS))
"""The API, as pages ask it: `await API.ask(call, runs.list_recorded_runs, query={"limit": 50})`."""


def page(routes: Routes, path: str, needs: Permission = Permission.read) -> Callable[[Handler], Handler]:
    """Have a function answer a GET with a `Page`. It reads `params_of(call)` itself: the page says beside a filter that
    it makes no sense, and unknown parameters do no harm.
    """

    def register(handler: Handler) -> Handler:
        @wraps(handler)
        async def timed(call: Call[Any, Any]) -> Any:
            begun = perf_counter()
            answer = await handler(call)
            if isinstance(answer, Page):
                answer.begun = begun
            return answer

        return routes.get(path, needs, about=INSIDE, answers={200: str}, media_type="text/html", failing=FailurePage)(
            timed
        )

    return register


def action(
    routes: Routes,
    path: str,
    *,
    body: type[Struct],
    needs: Permission = Permission.run,
    refused: Callable[[Call[Any, Any], HttpError], Awaitable[Any]] | None = None,
) -> Callable[[Handler], Handler]:
    """Have a function answer a POST of a form with `Said`, if the form comes from a page of ours.

    Args:
        routes: the routes that it joins.
        path: its address.
        body: a `Form` with the fields, or another struct with its `csrf`.
        needs: the permission that it needs.
        refused: answers if the token is not ours; None: the failure is the answer.
    """

    def register(handler: Handler) -> Handler:
        @wraps(handler)
        async def checked(call: Call[Any, Any]) -> Any:
            try:
                check_token(call.scope, call.body.csrf)
            except HttpError as exc:
                if refused is None:
                    raise
                return await refused(call, exc)
            return await handler(call)

        return routes.post(
            path,
            needs,
            about=INSIDE,
            body=body,
            form=True,
            most_body=_MOST_OF_STRANGERS if needs is Permission.public else None,
            answers={200: str},
            media_type="text/html",
            failing=FailurePage,
        )(checked)

    return register


def params_of(call: Call[Any, Any]) -> dict[str, list[str]]:
    """The query parameters of a page, each with all its values that are not empty."""
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(call.scope.get("query_string", b"").decode("latin-1"), keep_blank_values=False):
        if value.strip():
            found.setdefault(name, []).append(value)
    return found
