"""Runs of all threads, filtered, and what can be done with several of them."""

from __future__ import annotations

from typing import Any

from trackside.app.dashboard.declaring import page
from trackside.app.dashboard.rendering import Page
from trackside.app.server.routing import Call, Routes

routes = Routes("Console")


@page(routes, "/ui/runs")
async def show_runs(call: Call[None, None]) -> Any:
    """Runs of all threads, filtered, and what can be done with several of them."""
    return Page("runs", place="runs")
