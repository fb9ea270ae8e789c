"""How the demo asks the server: over plain HTTP, since LangGraph's client is something that README.md has installed."""

from __future__ import annotations

import http.client
import json
from typing import Any, Self
from urllib.parse import urlencode

from demo.stranger.failing import StrangerError

TIMEOUT = 30.0  # seconds


class Connection:
    """A connection to the server, for one thread, open during a `with` block.

    Args:
        port: the server's port on this machine.
    """

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)

        self.next_page: str | None = None
        """What the last answer says to ask the next page with; None if that was the last page, or not a page."""

    def text(self, method: str, path: str, body: object = None, **query: object) -> str:
        """Ask the server; gives the text of its answer.

        Raises:
            StrangerError: the server refuses.
            OSError, http.client.HTTPException: the server does not answer.
        """
        address = f"{path}?{urlencode(query)}" if query else path
        content = None if body is None else json.dumps(body)
        self._http.request(method, address, content, {"Content-Type": "application/json"} if content else {})
        answer = self._http.getresponse()
        text = answer.read().decode()
        self.next_page = answer.headers["X-Pagination-Next"]
        if answer.status >= 300:
            raise StrangerError(f"{method} {address} answers {answer.status}: {text[:500]}")
        return text

    def json(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """As `text`, for an answer in JSON."""
        return json.loads(self.text(method, path, body, **query))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
