"""Observers that account, flush, open, close or give up wrongly, each in one way."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Self

from tests.contract.mutants.sound_observers import Sound, SoundForEnds

from trackside.harness import RunLifecycleEvent


class MiscountsWhatItTook(Sound):
    def stats(self) -> Any:
        taken = len(self.done)
        return SimpleNamespace(accepted=taken, delivered=taken // 2, failed=0, dropped={}, pending=0)


class CountsNoBatch(Sound):
    singly = 0

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await Sound.on_events(self, [event])
        self.singly += 1

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        await super().on_events(events)

    def stats(self) -> Any:
        return SimpleNamespace(accepted=self.singly, delivered=self.singly, failed=0, dropped={}, pending=0)


class FlushesForAsLongAsItTakes(Sound):
    async def flush(self, timeout: float) -> Any:
        await asyncio.sleep(20)
        return self.stats()


class SaysYesToAFlush(Sound):
    async def flush(self, timeout: float) -> Any:
        return True


class ClosesOnlyOnce(Sound):
    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError("already closed")
        self.closed = True


class TakesSilentlyAfterItsEnd(Sound):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        if not self.closed:
            super().take(events)


class RaisesWhereAFlushHasNoTime(Sound):
    async def flush(self, timeout: float) -> Any:
        if timeout <= 0:
            raise TimeoutError
        return self.stats()


class DropsWhatWaitsAsItCloses(Sound):
    """Writes in a task of its own, which it abandons when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.writing: list[asyncio.Task[None]] = []

    async def on_event(self, event: RunLifecycleEvent) -> None:
        if self.closed:
            raise RuntimeError("closed")
        self.writing.append(asyncio.create_task(super().on_event(event)))

    async def aclose(self) -> None:
        for task in self.writing:
            task.cancel()
        await asyncio.wait(self.writing)
        await super().aclose()


class TakesBatchesSilentlyAfterItsEnd(Sound):
    async def on_event(self, event: RunLifecycleEvent) -> None:
        await Sound.on_events(self, [event])

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        if not self.closed:
            await super().on_events(events)


class TakesEndsSilentlyAfterItsEnd(TakesSilentlyAfterItsEnd, SoundForEnds): ...


class GoesOnAfterEachCancel(Sound):
    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


class GoesOnAfterItsFirstCancel(Sound):
    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()


class IsLateAndTakesItWhenCancelled(Sound):
    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        self.take(events)


class LeavesATaskThatNothingEnds(Sound):
    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        await super().on_events(events)
        self.pump = asyncio.create_task(GoesOnAfterEachCancel().on_events(events))


class NeverOpens(Sound):
    async def __aenter__(self) -> Self:
        await asyncio.Event().wait()
        return self

    async def __aexit__(self, *exc: object) -> None: ...


class NeverCloses(Sound):
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.Event().wait()


class NeverClosesAndGoesOnAfterEachCancel(NeverCloses):
    async def __aexit__(self, *exc: object) -> None:
        await GoesOnAfterEachCancel().on_events([])
