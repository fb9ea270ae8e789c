"""What a worker answers at its health port: that it lives, whether it can do its work, what it counts, nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from trackside.app.server.health import Health
from trackside.app.server.metrics import scraped
from trackside.app.server.responses import Receive, Reply, Scope, Send, failure, header_of, json_reply
from trackside.app.server.routes.health import Live
from trackside.app.server.secure_headers import SecureHeaders
from trackside.app.storage import Store
from trackside.app.vitals import Vitals

_READ: Final = ("GET", "HEAD")


class WorkerHealth:
    """An ASGI app with `/live`, `/ready` and `/metrics`. It needs no authentication: none of them tells a secret.

    Args:
        store: where runs are recorded.
        vitals: of the app.
        observers: those that the settings name; one of them may be the metrics observer.
        folders: where files grow.
    """

    def __init__(self, store: Store, vitals: Vitals, observers: Sequence[Any], folders: Sequence[str]) -> None:
        self._store = store
        self._vitals = vitals
        self._observers = observers
        self._folders = folders
        self._health = Health()
        self._app = SecureHeaders(self._answer)
        self._answers: Mapping[str, Callable[[str], Awaitable[Reply]]] = {
            "/live": self._live,
            "/ready": self._ready,
            "/metrics": self._metrics,
        }

    def begin_ending(self, why: str) -> None:
        """From now on the worker is not ready, for this reason."""
        self._health.begin_ending(why)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answers.get(scope["path"])
        if answer is None:
            reply = failure(404, f"there is nothing here but {', '.join(self._answers)}")
        elif scope["method"] not in _READ:
            reply = failure(405, "this can only be read", {"Allow": ", ".join(_READ)})
        else:
            reply = await answer((header_of(scope, b"accept") or b"").decode("latin-1"))
        await reply(scope, receive, send)

    async def _live(self, accept: str) -> Reply:
        return json_reply(Live())

    async def _ready(self, accept: str) -> Reply:
        found = await self._health.look(self._store, self._vitals, self._folders)
        return json_reply(found, status=200 if found.status == "ready" else 503)

    async def _metrics(self, accept: str) -> Reply:
        return scraped(self._observers, accept)
