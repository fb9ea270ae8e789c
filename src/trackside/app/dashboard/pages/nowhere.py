"""Addresses at which there is no page."""

from __future__ import annotations

from typing import Any

from trackside.app.dashboard.rendering import FailurePage
from trackside.app.server.principal import Permission
from trackside.app.server.routing import Call, Routes

routes = Routes("Console")


@routes.get("/ui/{rest:path}", Permission.public, answers={404: str}, media_type="text/html", failing=FailurePage)
async def show_nothing(call: Call[None, None]) -> Any:
    """That there is nothing."""
    return FailurePage(404, f"there is no page at {call.scope['path']:.200}")
