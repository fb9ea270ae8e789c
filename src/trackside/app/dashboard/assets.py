"""Scripts and style sheets: in the package, held in memory, under addresses that change with their content."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from trackside.app.server.principal import Permission
from trackside.app.server.responses import Reply
from trackside.app.server.routing import Call, Routes
from trackside.harness.threads import in_own_thread

routes = Routes("Console")

KINDS: Final[Mapping[str, str]] = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
NAMES: Final = (
    "answer.css",
    "charts.js",
    "console.css",
    "console.js",
    "durations.js",
    "ends.js",
    "events.js",
    "exact.js",
    "filters.js",
    "focus.js",
    "htmx.min.js",
    "icon.svg",
    "log.css",
    "log.js",
    "overview.css",
    "playground.css",
    "playground.js",
    "run.css",
    "run.js",
    "runs.css",
    "runs.js",
    "shown.js",
    "subscriptions.css",
    "subscriptions.js",
    "theme.js",
    "thread.css",
    "thread.js",
    "uPlot.iife.min.js",
    "uPlot.min.css",
    "workers.css",
)
"""The files in `static` that browsers get."""

_IMPORTED: Final = re.compile(rb"""(?<=from "\./)[a-z_]+\.js(?=")""")
_FOR_EVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    body: bytes
    packed: bytes
    """The same content, for browsers that accept gzip."""
    version: str


@cache
def assets() -> Mapping[str, Asset]:
    """All files, by name; the first call reads them from disk, which blocks."""
    folder = resources.files("trackside.app.dashboard") / "static"
    found: dict[str, Asset] = {}

    def add(name: str) -> Asset:
        if name not in found:
            # A module under a second address would be a second module, which does everything once more.
            body = _IMPORTED.sub(lambda of: of[0] + b"?v=" + add(of[0].decode()).version.encode(), read(name))
            found[name] = Asset(body, gzip.compress(body, mtime=0), hashlib.sha256(body).hexdigest()[:12])
        return found[name]

    def read(name: str) -> bytes:
        return (folder / name).read_bytes()

    for name in NAMES:
        add(name)
    return found


def address_of(name: str) -> str:
    """The address of a file below the app's root; it changes when the file does."""
    return f"/ui/static/{name}?v={assets()[name].version}"


def _serve(name: str) -> None:
    @routes.get(f"/ui/static/{name}", Permission.public, media_type=KINDS[name.rpartition(".")[2]].partition(";")[0])
    async def serve(call: Call[None, None]) -> Any:
        """A file that the pages load."""
        asset = (await in_own_thread(assets))[name]
        is_this = call.scope.get("query_string", b"") == f"v={asset.version}".encode()
        headers = {"Cache-Control": _FOR_EVER if is_this else "no-cache", "Vary": "Accept-Encoding"}
        body = asset.body
        if "gzip" in (call.header("accept-encoding") or ""):
            headers["Content-Encoding"], body = "gzip", asset.packed
        return Reply(body, headers=headers, content_type=KINDS[name.rpartition(".")[2]])


for _name in NAMES:
    _serve(_name)
