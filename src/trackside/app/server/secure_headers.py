"""Headers that keep browsers from treating an answer as more than it is."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any, Final

from trackside.app.server.responses import Receive, Scope, Send

_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),  # threads are private
)
_OF_DATA: Final = (*_ALWAYS, (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"))
_OF_PAGES: Final = (*_ALWAYS, (b"x-frame-options", b"SAMEORIGIN"))


class SecureHeaders:
    """An ASGI middleware that adds the headers that an answer lacks. Pages say what they load; data load nothing."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        def secured(message: Any) -> Awaitable[None]:  # no coroutine of its own: a stream sends many messages
            if message["type"] == "http.response.start":
                message["headers"] = _completed(message.get("headers", ()))
            sent: Awaitable[None] = send(message)
            return sent

        await self._app(scope, receive, secured)


def _completed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    completed = list(headers)
    given = [name for name, _ in completed]  # in lower case, as ASGI has it
    wanted = _OF_PAGES if any(value.startswith(b"text/html") for _, value in completed) else _OF_DATA
    completed += [header for header in wanted if header[0] not in given]
    return completed
