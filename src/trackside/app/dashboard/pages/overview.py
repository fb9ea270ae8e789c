"""What goes on, what it comes to, and what is wrong."""

from __future__ import annotations

from typing import Any

from trackside.app.dashboard.declaring import page
from trackside.app.dashboard.rendering import Page
from trackside.app.server.routing import Call, Routes

routes = Routes("Console")


@page(routes, "/ui")
async def show_overview(call: Call[None, None]) -> Any:
    """What goes on, what it comes to, and what is wrong."""
    return Page("overview", place="overview")
