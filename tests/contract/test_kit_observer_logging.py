"""The logging observer keeps the observer contract."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from trackside.app.observers.logging import LoggingObserver
from trackside.testing.contracts import ObserverContract


class TestLoggingObserver(ObserverContract):
    complete = True
    accounts = True

    @pytest.fixture
    async def observer(self, tmp_path: Path) -> AsyncIterator[LoggingObserver]:
        self.file = tmp_path / "runs.jsonl"
        observer = await asyncio.to_thread(lambda: LoggingObserver(format="json", file=str(self.file), level="debug"))
        yield observer
        await observer.aclose()

    async def effects(self, observer: LoggingObserver) -> list[str]:
        await observer.flush(self.patience / 2)
        text = await asyncio.to_thread(self.file.read_text)
        return [json.loads(line)["event_id"] for line in text.splitlines()]


class TestLoggingObserverThatSpeaksToTheProgram(ObserverContract):
    @pytest.fixture
    async def observer(self) -> AsyncIterator[LoggingObserver]:
        observer = LoggingObserver()
        yield observer
        await observer.aclose()
