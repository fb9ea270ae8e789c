"""A listening receiver, and observers that post to it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from webhook_receiver import NEW, OLD, OTHER, WebhookReceiver

from trackside.app.observers.webhook import WebhookObserver

type Make = Callable[..., WebhookObserver]


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver(NEW, OLD, OTHER) as listening:
        yield listening


@pytest.fixture
async def make(receiver: WebhookReceiver) -> AsyncIterator[Make]:
    """Makes observers that post to the receiver, or to another URL if told to, and closes them at the end."""
    made: list[WebhookObserver] = []

    def make_one(kind: type[WebhookObserver] = WebhookObserver, **options: Any) -> WebhookObserver:
        here = {"url": receiver.url, "secret": NEW, "allow_private_addresses": True}
        made.append(kind(**here | options))
        return made[-1]

    yield make_one
    for one in made:
        await one.aclose()
