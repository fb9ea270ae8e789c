"""A receiver of OpenLineage events, and an observer that sends to it."""

from collections.abc import AsyncIterator

import pytest
from lineage_receiver import LineageReceiver

from trackside.app.observers.openlineage import OpenLineageObserver


@pytest.fixture
async def receiver() -> AsyncIterator[LineageReceiver]:
    async with LineageReceiver() as listening:
        yield listening


@pytest.fixture
async def observer(receiver: LineageReceiver) -> AsyncIterator[OpenLineageObserver]:
    made = OpenLineageObserver(url=receiver.url, api_key="hunter2", namespace="ours")
    yield made
    await made.aclose()
