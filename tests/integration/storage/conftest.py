"""A store on its own file, and runs to put into it."""

import asyncio
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dialects import BOTH
from prepared_databases import EmptiedDatabase
from raw_postgres import RawConnection
from tests.integration.storage.exported_logs import Another
from tests.integration.storage.following import NO_LOOKING, look_untold_never
from tests.integration.storage.managed_runs import managing
from tests.property.queue_hands import Gate
from trusting import trust_leases_at_once

from trackside.app.storage import Store, StoredEvent
from trackside.app.storage.containment import Wanted
from trackside.app.storage.subscriptions import Subscriptions
from trackside.harness import RunManager
from trackside.harness.ids import new_id
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

START = datetime(2026, 1, 31, 9, 30, 0, 123456, UTC)


@dataclass
class Script:
    """The events of one run, one after the other, a second apart."""

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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that needs a database on each, or on the module's `DIALECTS`; a test with a `path` is about SQLite."""
    if "dialect" in metafunc.fixturenames:
        dialects = getattr(metafunc.module, "DIALECTS", BOTH)
        metafunc.parametrize("dialect", ["sqlite"] if "path" in metafunc.fixturenames else dialects)


@pytest.fixture(autouse=True)
def trusting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers trust leases from the start, unless a test is about workers that have only just come."""
    if request.node.get_closest_marker("just_come") is None:
        trust_leases_at_once(monkeypatch)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What searches have compared so far; they must compare off the event loop."""
    having_been: list[Any] = []
    is_in = Wanted.is_in

    def noted(wanted: Wanted, having: Any) -> bool:
        assert threading.current_thread() is not threading.main_thread()
        having_been.append(having)
        return is_in(wanted, having)

    monkeypatch.setattr(Wanted, "is_in", noted)
    return having_been


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def url(dialect: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a missing (SQLite) or empty database; it has our tables for a `store`, and in the subfolders."""
    with_tables = "store" in request.fixturenames or request.path.parent != Path(__file__).parent
    if dialect == "sqlite":
        path: Path = request.getfixturevalue("path")
        if with_tables:
            shutil.copy(request.getfixturevalue("sqlite_with_tables"), path)
        yield f"sqlite:///{path}"
        return
    yield request.getfixturevalue("postgres_with_tables" if with_tables else "postgres_url")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may look into as well, unlike `tmp_path`."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with Store.open(url) as store:
        yield store


@pytest.fixture
def subs(store: Store) -> Subscriptions:
    return store.subscriptions


@pytest.fixture
async def five(store: Store, script: Any) -> Sequence[StoredEvent]:
    """One whole run: events 1 to 5; of them 4 is the end, 2 and 5 are about the thread."""
    return await store.append(script().whole())


@pytest.fixture
async def manager(store: Store) -> AsyncIterator[RunManager]:
    async with managing(store) as manager:
        yield manager


@pytest.fixture
def another(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Another:
    """Opens one more empty store, in a database of the same kind."""
    made = 0

    @asynccontextmanager
    async def open_another() -> AsyncIterator[Store]:
        nonlocal made
        made += 1
        if dialect == "sqlite":
            path = tmp_path / f"another-{made}.db"
            await asyncio.to_thread(shutil.copy, request.getfixturevalue("sqlite_with_tables"), path)
            async with Store.open(f"sqlite:///{path}") as store:
                yield store
            return
        database = await asyncio.to_thread(databases, made)
        try:
            async with Store.open(database.url) as store:
                yield store
        finally:
            await asyncio.to_thread(database.empty)

    if dialect == "postgres":
        databases: Callable[[int], EmptiedDatabase] = request.getfixturevalue("emptied_databases")
    return open_another


@pytest.fixture
async def pushed(url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """A store that is only told of its own commits."""
    look_untold_never(monkeypatch)
    async with Store.open(url, follow=NO_LOOKING) as store:
        yield store


@asynccontextmanager
async def held_up(store: Store) -> AsyncGenerator[None]:
    """Write whatever is queued for the store's writer in this block in one transaction."""
    gate = Gate()
    held = asyncio.ensure_future(store._writer.write(gate))
    await asyncio.to_thread(gate.reached.wait, 30)
    try:
        yield
    finally:
        gate.opened.set()
        await held


@pytest.fixture
def together(store: Store) -> Callable[..., Awaitable[list[Any]]]:
    """Ask several things of the store, which writes them in one transaction, in this order; return their outcomes."""

    async def write(*asked: Awaitable[Any]) -> list[Any]:
        writing = []
        async with held_up(store):
            for number, one in enumerate(asked, start=1):
                writing.append(asyncio.ensure_future(one))
                async with asyncio.timeout(30):
                    while store.writer_stats().pending < number:
                        await asyncio.sleep(0)
        return await asyncio.gather(*writing, return_exceptions=True)

    return write


@pytest.fixture
def database(dialect: str, url: str) -> Iterator[Any]:
    """The same database without any of our code, in autocommit mode; both kinds have `execute(…).fetchall()`."""
    if dialect == "postgres":
        connection: Any = RawConnection(url)
    else:
        file = url.removeprefix("sqlite:///")
        connection = sqlite3.connect(file, isolation_level=None, timeout=60, check_same_thread=False)
    with closing(connection):
        yield connection
