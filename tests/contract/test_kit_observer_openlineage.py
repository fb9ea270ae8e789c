"""An observer that sends to a real receiver of OpenLineage events keeps the observer contract."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from lineage_receiver import LineageReceiver

from trackside.app.observers.openlineage import OpenLineageObserver
from trackside.testing.contracts import ObserverContract


class TestOpenLineageObserver(ObserverContract):
    @pytest.fixture
    def observer(self) -> object:
        return self._telling()

    @asynccontextmanager
    async def _telling(self) -> AsyncGenerator[OpenLineageObserver]:
        async with LineageReceiver() as receiver:
            observer = OpenLineageObserver(url=receiver.url)
            yield observer
            await observer.aclose()
