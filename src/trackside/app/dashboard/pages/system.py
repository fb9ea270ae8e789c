"""What this server is, and how it does."""

from __future__ import annotations

from typing import Any

from trackside.app.dashboard.declaring import page
from trackside.app.dashboard.rendering import Page
from trackside.app.server.routing import Call, Routes

routes = Routes("Console")


@page(routes, "/ui/system")
async def show_system(call: Call[None, None]) -> Any:
    """What this server is, and how it does."""
    return Page("system", place="system")
