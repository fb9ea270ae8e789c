"""Observers that are fed from a subscription and remember what they were given, and how far the subscription has come."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from trackside.app.storage import Store, StoredEvent, feeding
from trackside.app.storage._feeding import delivery
from trackside.app.storage.feeding import SubscriptionFeed
from trackside.app.storage.subscriptions import Subscription, Subscriptions
from trackside.harness.errors import TracksideError
from trackside.harness.observer import RunLifecycleEvent


class Watching:
    """An observer that remembers what it was given, and fails as it is told to."""

    def __init__(
        self, fail: Callable[[RunLifecycleEvent, int], BaseException | None] = lambda event, times: None
    ) -> None:
        self.given: list[RunLifecycleEvent] = []
        self.taken: list[RunLifecycleEvent] = []
        self._fail = fail
        self._times: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self._note(self.given, event)
        self._times[event.event_id] += 1
        if (failure := self._fail(event, self._times[event.event_id])) is not None:
            raise failure
        await self._note(self.taken, event)

    async def _note(self, where: list[RunLifecycleEvent], event: RunLifecycleEvent) -> None:
        async with self._changed:
            where.append(event)
            self._changed.notify_all()

    async def has_taken(self, number: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.taken) >= number)


class WatchingBatches(Watching):
    """As `Watching`, but takes batches, all or nothing."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.batches: list[int] = []

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        self.batches.append(len(events))
        failures = [failure for event in events if (failure := self._fail(event, 1)) is not None]
        if failures:
            raise failures[0]
        for event in events:
            await self._note(self.taken, event)


@pytest.fixture(autouse=True)
def wake_ups_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed that has to look for itself, because it was not told, hangs its test."""
    monkeypatch.setattr(feeding, "LOOK_EVERY", 3_600.0)
    monkeypatch.setattr(delivery, "LOOK_EVERY", 3_600.0)


@pytest.fixture
async def other_store(store: Store, url: str) -> AsyncIterator[Store]:
    """Another store on the same database, as another process would have it."""
    async with Store.open(url) as other:
        yield other


@pytest.fixture
async def five(store: Store, script: Any) -> Sequence[StoredEvent]:
    """One whole run, events 1 to 5, and a subscription to it."""
    await store.subscriptions.open("mail", start="beginning")
    return await store.append(script().whole())


async def until(subs: Subscriptions, holds: Callable[[Subscription], bool]) -> Subscription:
    """Wait until the subscription stands like this."""
    while not holds(standing := await subs.get("mail")):
        await asyncio.sleep(0.005)
    return standing


def failing_on(*sequences: int, error: Callable[[], BaseException] = lambda: LookupError("no such address")) -> Any:
    return lambda event, times: error() if event.sequence in sequences else None


def sequences(events: Sequence[RunLifecycleEvent]) -> list[int]:
    return [event.sequence for event in events]


async def assert_balanced(feed: SubscriptionFeed, subs: Subscriptions, **counts: int) -> None:
    await feed.aclose()
    found = feed.counts
    assert {name: getattr(found, name) for name in counts} == counts
    assert found.read == found.handled + found.parked + found.returned
    assert found.pending == 0
    assert (await subs.get("mail")).consumer is None


class Hopeless(TracksideError):
    """It will never work."""

    fault = "observer"
