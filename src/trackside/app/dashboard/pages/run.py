"""One run: what happened when, what was said, what it cost, why it failed."""

from __future__ import annotations

from typing import Any

from trackside.app.dashboard.declaring import page
from trackside.app.dashboard.rendering import Page
from trackside.app.server.routing import Call, Routes

routes = Routes("Console")


@page(routes, "/ui/runs/{run_id}")
async def show_run(call: Call[None, None]) -> Any:
    """One run: what happened when, what was said, what it cost, why it failed."""
    return Page("run", place="runs")
