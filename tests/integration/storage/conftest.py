"""A store on a file of its own, and runs to put into it."""

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trackside.app.storage import Store
from trackside.harness.ids import new_id
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

START = datetime(2026, 1, 31, 9, 30, 0, 123456, UTC)


@dataclass
class Script:
    """The events of one run, one after another, a second apart."""

    run_id: str = field(default_factory=new_id)
    thread_id: str = field(default_factory=new_id)
    start: datetime = START
    sequence: int = 0

    def event(self, kind: str, **payload: Any) -> RunLifecycleEvent:
        self.sequence += 1
        when = self.start + timedelta(seconds=self.sequence - 1)
        event_type = LifecycleEventType(kind)
        return RunLifecycleEvent(new_id(), event_type, self.run_id, self.thread_id, self.sequence, when, payload)

    def started(self, agent: str = "chat", **payload: Any) -> RunLifecycleEvent:
        return self.event("run_started", **{"agent": agent, "metadata": {}} | payload)

    def thread(self, status: str) -> RunLifecycleEvent:
        return self.event("thread_status_updated", status=status)

    def message(self, content: str = "hello") -> RunLifecycleEvent:
        return self.event("human_message", message={"id": new_id(), "type": "human", "content": content})

    def completed(self, title: str | None = None, **data: Any) -> RunLifecycleEvent:
        return self.event("run_completed", status="success", title=title, completion_data=data)

    def failed(self, status: str = "error", **payload: Any) -> RunLifecycleEvent:
        return self.event("run_failed", **{"status": status, "error": "no", "error_type": "E"} | payload)

    def whole(self) -> list[RunLifecycleEvent]:
        return [self.started(), self.thread("busy"), self.message(), self.completed(), self.thread("idle")]


@pytest.fixture
def script() -> type[Script]:
    return Script


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that also somebody else may look into, unlike `tmp_path`."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: most tests are about what comes after."""
    path = tmp_path_factory.mktemp("empty") / "runs.db"

    async def make() -> None:
        async with Store.open(f"sqlite:///{path}"):
            pass

    asyncio.run(make())
    return path


@pytest.fixture
async def store(url: str, path: Path, empty_database: Path) -> AsyncIterator[Store]:
    shutil.copy(empty_database, path)
    async with Store.open(url) as store:
        yield store


@pytest.fixture
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """The same file without any of our code, in autocommit mode."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)) as connection:
        yield connection
