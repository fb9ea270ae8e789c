"""Observers that are as they should be, which the mutants break."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

from trackside.harness import LifecycleEventType, RunLifecycleEvent
from trackside.harness.lifecycle import is_terminal


class Sound:
    """Takes events after a moment, each once; the others break this observer."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.closed = False

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self.on_events([event])

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        self.take(events)

    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        if self.closed:
            raise RuntimeError("closed")
        self.done.extend(event.event_id for event in events if event.event_id not in self.done)

    def stats(self) -> Any:
        taken = len(self.done)
        return SimpleNamespace(accepted=taken, delivered=taken, failed=0, dropped={}, pending=0)

    async def flush(self, timeout: float) -> Any:
        return self.stats()

    async def aclose(self) -> None:
        self.closed = True


class SoundForEnds(Sound):
    """Wants only the ends of runs, as its class says, and skips whatever else it is given."""

    events: ClassVar = tuple(kind for kind in LifecycleEventType if is_terminal(kind))

    def __init__(self) -> None:
        super().__init__()
        self.passed_over: set[str] = set()

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        wanted = [event for event in events if event.event_type in self.events]
        self.passed_over |= {event.event_id for event in events if event not in wanted}
        if wanted:
            await super().on_events(wanted)

    def stats(self) -> Any:
        taken = len(self.done) + len(self.passed_over)
        return SimpleNamespace(accepted=taken, delivered=taken, failed=0, dropped={}, pending=0)
