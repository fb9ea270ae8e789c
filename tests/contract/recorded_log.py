"""A log that buffers reread from, which fails, hangs or has lost something as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.ports import EventSpan


class RecordedLog:
    """Has what was written to it, except what is in `lost`; `asked` holds what it was asked for, one item per read."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, int], RunLifecycleEvent] = {}
        self.lost: set[str] = set()
        self.asked: list[Sequence[EventSpan]] = []
        self.failure: BaseException | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    def write(self, events: Iterable[RunLifecycleEvent]) -> None:
        for event in events:
            self.events[event.run_id, event.sequence] = event

    async def read(self, spans: Sequence[EventSpan]) -> list[RunLifecycleEvent]:
        self.asked.append(spans)
        await asyncio.sleep(0)
        await self.answers.wait()
        if self.failure is not None:
            raise self.failure
        found = [self.events.get((span.run_id, number)) for span in spans for number in span.sequences]
        return [event for event in found if event is not None and event.event_id not in self.lost]
