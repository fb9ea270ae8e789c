"""What the server is, and whether it is there."""

from __future__ import annotations

from typing import Any

from trackside._version import __version__
from trackside.app.server.principal import Permission
from trackside.app.server.routing import Call, Routes

routes = Routes("Server")


@routes.get("/ok", Permission.public)
async def ok(call: Call[None, None]) -> Any:
    """Whether the server answers."""
    return {"ok": True}


@routes.get("/info", Permission.public)
async def info(call: Call[None, None]) -> Any:
    """The server's version, and what it can do."""
    return {
        "version": __version__,
        "flags": {"assistants": True, "crons": True, "langsmith": False},
        "host": {"kind": "trackside"},
    }
