"""Whether the process is alive, and whether it can do its work."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from trackside.app.server.health import Readiness
from trackside.app.server.principal import Permission
from trackside.app.server.responses import json_reply
from trackside.app.server.routing import Call, Routes

routes = Routes("Health")


class Live(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["live"] = "live"


@routes.get("/health/live", Permission.public, answers={200: Live})
async def live(call: Call[None, None]) -> Any:
    """Check whether the process answers. If it does not, it should be restarted."""
    return Live()


@routes.get("/health/ready", Permission.public, answers={200: Readiness, 503: Readiness})
async def ready(call: Call[None, None]) -> Any:
    """Check whether the server can do its work, and if not, why. Requests should then go to other servers."""
    parts = call.parts
    found = await parts.health.look(parts.store, parts.vitals, parts.options.folders)
    return json_reply(found, status=200 if found.status == "ready" else 503, headers={"Cache-Control": "no-store"})
