"""Shows a run as JSON lines, for programs."""

from __future__ import annotations

from dataclasses import asdict
from types import TracebackType
from typing import Self

from trackside.app.cli.objects import event_object
from trackside.app.cli.output import JsonOutput
from trackside.app.settings import Settings
from trackside.harness.observer import RunLifecycleEvent, RunResult
from trackside.harness.ports import StreamGap, StreamPart


class JsonView:
    """Shows one run as JSON lines: its events, and its result at the end. Nothing else gets to standard output."""

    def __init__(self) -> None:
        self._output = JsonOutput()

    def __enter__(self) -> Self:
        self._output.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._output.__exit__(kind, exc, tb)

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Print an event."""
        self._output.print(event_object(event))

    def part(self, part: StreamPart | StreamGap) -> None:
        """Live output is not shown."""

    def stopping(self, doing: str, hint: str) -> None:
        """There is nobody to tell."""

    def finish(self, result: RunResult, settings: Settings) -> None:
        """Print the result."""
        self._output.print({"result": asdict(result)})
