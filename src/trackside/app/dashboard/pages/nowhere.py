"""Addresses that have no page, or a slash too many."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from trackside.app.dashboard.rendering import FailurePage
from trackside.app.server.auth.authenticator import path_of
from trackside.app.server.principal import Permission
from trackside.app.server.responses import Failure, Reply
from trackside.app.server.routing import Call, Routes

routes = Routes("Console")


@routes.get(
    "/ui/{rest:path}", Permission.public, answers={404: str, 308: None}, media_type="text/html", failing=FailurePage
)
async def show_nothing(call: Call[None, None]) -> Any:
    """That there is nothing; of a page whose address ends with a slash, where it is, filtered as it was asked for."""
    page = path_of(call.scope)
    if page.endswith("/"):
        query = call.scope.get("query_string", b"").decode("latin-1")
        there = f"{call.root}{quote(page.rstrip('/'))}"
        return Reply(b"", status=308, headers={"Location": f"{there}?{query}" if query else there})
    return FailurePage(Failure(404, f"there is no page at {call.scope['path']:.200}"))
