"""The notifying observer keeps the observer contract."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest
from inboxes import HttpInbox

from trackside.app.observers.notify import NotifyObserver
from trackside.harness import LifecycleEventType
from trackside.testing.contracts import ObserverContract

ALL = {"events": list(LifecycleEventType), "body": "$event_id"}


class TestNotifyObserver(ObserverContract):
    complete = True

    @pytest.fixture(autouse=True)
    def inbox(self) -> Iterator[HttpInbox]:
        with HttpInbox() as self.given:
            yield self.given

    @pytest.fixture
    async def observer(self) -> AsyncIterator[NotifyObserver]:
        observer = await asyncio.to_thread(
            lambda: NotifyObserver(to=f"json://127.0.0.1:{self.given.port}/", on=[ALL], max_per_hour=10_000)
        )
        yield observer
        await observer.aclose()

    async def effects(self, observer: NotifyObserver) -> list[str]:
        return [json.loads(request.body)["message"] for request in self.given.requests]
