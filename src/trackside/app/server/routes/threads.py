"""Threads: made, looked at, changed, found, removed."""

from __future__ import annotations

from trackside.app.server.routing import Routes

routes = Routes("Threads")
