"""An observer that posts to a real receiver keeps the observer contract."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from webhook_receiver import NEW, WebhookReceiver

from trackside.app.observers.webhook import WebhookObserver
from trackside.testing.contracts import ObserverContract


class TestWebhookObserver(ObserverContract):
    complete = True

    @pytest.fixture
    def observer(self) -> object:
        return self._posting("trackside")

    @asynccontextmanager
    async def _posting(self, body_format: str) -> AsyncGenerator[WebhookObserver]:
        async with WebhookReceiver(NEW) as self.receiver:
            observer = WebhookObserver(
                url=self.receiver.url, secret=NEW, format=body_format, allow_private_addresses=True
            )
            yield observer
            await observer.aclose()

    async def effects(self, observer: WebhookObserver) -> list[str]:
        requests = self.receiver.requests
        assert all(request.verified == (True,) for request in requests)
        return [request.headers["webhook-id"] for request in requests]


class TestWebhookObserverWithCloudEvents(TestWebhookObserver):
    @pytest.fixture
    def observer(self) -> object:
        return self._posting("cloudevents")
