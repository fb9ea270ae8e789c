"""JSON for programs: records as objects with every field and full times, and a run as lines of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from trackside.app.cli.records.protocol import Home
from trackside.app.cli.views.output import JsonOutput
from trackside.harness.observer import RunLifecycleEvent, RunResult
from trackside.harness.payload import canonical
from trackside.harness.ports import StreamGap, StreamPart
from trackside.harness.types import Json, JsonObject

if TYPE_CHECKING:
    from trackside.app.storage import StoredEvent


def stored_event_object(stored: StoredEvent) -> JsonObject:
    """An event of the log, with its position first."""
    return {"position": stored.position, **record_object(stored.event)}


def record_object(record: Any) -> JsonObject:
    """A record (an event, a run, a thread, totals), with its fields in their order; no agent is one whose name is empty."""
    return {field.name: _plain(getattr(record, field.name)) for field in fields(record)}


def _plain(value: Any) -> Json:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return record_object(value)
    if isinstance(value, Mapping):
        return {"" if key is None else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else canonical(value)[0]


class JsonView:
    """Shows one run as JSON lines: its events, and its result at the end. Nothing else reaches standard output."""

    def __init__(self) -> None:
        self._output = JsonOutput()

    def __enter__(self) -> Self:
        self._output.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._output.__exit__(kind, exc, tb)

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Print an event."""
        self._output.print(record_object(event))

    def part(self, part: StreamPart | StreamGap) -> None:
        """Ignore live output."""

    def waiting(self, for_what: str) -> None:
        """Ignore this: there is nobody to tell."""

    def stopping(self, doing: str, hint: str) -> None:
        """Ignore this: there is nobody to tell."""

    def away(self, what: str) -> None:
        """Ignore this: there is nobody to tell."""

    def go_on(self, run_id: str) -> None:
        """Ignore this: the last event has already said so."""

    def check(self) -> None:
        """Check that the output could be printed.

        Raises:
            OutputError: it could not.
        """
        self._output.check()

    def finish(self, result: RunResult, home: Home, *, forgotten: bool = False) -> None:
        """Print the result."""
        self._output.print({"result": record_object(result)})
