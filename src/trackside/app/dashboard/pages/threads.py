"""Threads, and one of them with its conversation, runs and states."""

from __future__ import annotations

from typing import Any

from trackside.app.dashboard.declaring import page
from trackside.app.dashboard.rendering import Page
from trackside.app.server.routing import Call, Routes

routes = Routes("Console")


@page(routes, "/ui/threads")
async def show_threads(call: Call[None, None]) -> Any:
    """Threads, and one of them with its conversation, runs and states."""
    return Page("threads", place="threads")
