"""Durable subscriptions: how far they are, and what they could not deliver."""

from __future__ import annotations

from typing import Any

from trackside.app.dashboard.declaring import page
from trackside.app.dashboard.rendering import Page
from trackside.app.server.routing import Call, Routes

routes = Routes("Console")


@page(routes, "/ui/subscriptions")
async def show_subscriptions(call: Call[None, None]) -> Any:
    """Durable subscriptions: how far they are, and what they could not deliver."""
    return Page("subscriptions", place="subscriptions")
