"""The agents that are served, and a playground for each."""

from __future__ import annotations

from typing import Any

from trackside.app.dashboard.declaring import page
from trackside.app.dashboard.rendering import Page
from trackside.app.server.routing import Call, Routes

routes = Routes("Console")


@page(routes, "/ui/agents")
async def show_agents(call: Call[None, None]) -> Any:
    """The agents that are served, and a playground for each."""
    return Page("agents", place="agents")
