"""What this server is, and how it is doing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import cycle
from typing import Any, Final

from trackside.app.dashboard.asking import parts_of
from trackside.app.dashboard.declaring import page
from trackside.app.dashboard.rendering import Page
from trackside.app.server.routes import health, info, system
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.system import SettingShown

routes = Routes("Console")

_COMMAND: Final = re.compile(r"(?:(?<=: )|^)trackside ")


@page(routes, "/ui/system")
async def show_system(call: Call[None, None]) -> Any:
    """What this server is, and how it is doing."""
    said = await parts_of(
        call, {"system": (system.get_system, {}), "ready": (health.ready, {}), "info": (info.info, {})}
    )
    found = said["system"].value
    return Page(
        "system",
        place="system",
        twins=("/system", "/health/ready", "/info"),
        looked_at=datetime.now(UTC),
        wrong=[] if found is None else [one for one in found.findings if one.level != "note"],
        notes=[] if found is None else [one for one in found.findings if one.level == "note"],
        steps=steps,
        chosen={} if found is None else _chosen(found.settings),
        usual={} if found is None else _usual(found.settings),
        system=said["system"],
        ready=said["ready"],
        info=said["info"],
    )


def steps(advice: str) -> list[tuple[bool, str]]:
    """The parts of an advice, and whether each is a command: those in backticks, or at its end or beginning."""
    if "`" in advice:
        parts = zip(cycle((False, True)), advice.split("`"), strict=False)
    else:
        told, command = _COMMAND.split(advice, 1) if _COMMAND.search(advice) else (advice, "")
        parts = zip((False, True), (told, command and f"trackside {command}"), strict=True)
    return [(is_command, part) for is_command, part in parts if part]


def _chosen(settings: Mapping[str, SettingShown]) -> dict[str, SettingShown]:
    """The settings that somebody has set, by name."""
    return {key: one for key, one in sorted(settings.items()) if one.source is not None}


def _usual(settings: Mapping[str, SettingShown]) -> dict[str, SettingShown]:
    """The settings that have their defaults, by name."""
    return {key: one for key, one in sorted(settings.items()) if one.source is None}
