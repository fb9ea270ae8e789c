"""What Prometheus scrapes from servers and workers: what the observer that counts shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol, runtime_checkable

from trackside.app.server.responses import Reply, failure

_NOTHING: Final = (
    'nothing is counted: install trackside[metrics], and give trackside.toml a table [[observers]] of type "metrics"'
)


@runtime_checkable
class Renders(Protocol):
    """An observer that shows what it has counted."""

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics as text, and its content type."""
        ...


def scraped(observers: Iterable[Any], accept: str) -> Reply:
    """What the first of these that counts shows; if none does, what to do about it."""
    for configured in observers:
        observer = getattr(configured, "observer", configured)
        if isinstance(observer, Renders):
            body, content_type = observer.render(accept)
            return Reply(body, content_type=content_type)
    return failure(404, _NOTHING)
