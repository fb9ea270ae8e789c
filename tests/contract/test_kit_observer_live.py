"""The observer behind live streams keeps the observer contract."""

from collections.abc import AsyncIterator

import pytest

from trackside.app.observers.live import LiveEvent, LiveObserver
from trackside.testing.contracts import ObserverContract


class TestLiveObserver(ObserverContract):
    virtual_time = True
    complete = True
    idempotent = True

    @pytest.fixture
    async def observer(self) -> AsyncIterator[LiveObserver]:
        live = LiveObserver()
        self.follower = live.follow()
        self.seen: list[str] = []
        yield live
        await live.aclose()

    async def effects(self, observer: LiveObserver) -> list[str]:
        while (item := self.follower.next_ready()) is not None:
            assert isinstance(item, LiveEvent)
            self.seen.append(item.event.event_id)
        return self.seen
