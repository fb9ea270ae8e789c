"""The log as it comes."""

from __future__ import annotations

from typing import Any

from trackside.app.dashboard.declaring import page
from trackside.app.dashboard.rendering import Page
from trackside.app.server.routing import Call, Routes

routes = Routes("Console")


@page(routes, "/ui/log")
async def show_log(call: Call[None, None]) -> Any:
    """The log as it comes."""
    return Page("log", place="log")
