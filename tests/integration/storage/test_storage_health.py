"""Runs in a database that somebody should look at, on both databases, and what the doctor says of them."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trackside.app.observers.storage import StorageObserver
from trackside.app.settings import Settings
from trackside.app.storage import Store
from trackside.app.storage.health import Health, WorkerHealth, database_health
from trackside.app.wiring.doctor import Finding, Severity, examine, findings_in
from trackside.harness import ObserverBinding, RunManager, RunSpec, StopPolicy
from trackside.testing import make_run

type Agent = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def managed(store: Store, agent: Agent, **options: Any) -> AsyncGenerator[RunManager]:
    observers = [ObserverBinding(StorageObserver(store), required=True)]
    coordinator = store.coordinator()
    async with RunManager({"chat": agent}, observers=observers, coordinator=coordinator, **options) as manager:
        yield manager


async def health_of(url: str) -> Health:
    health = await asyncio.to_thread(database_health, url, now=datetime.now(UTC))
    assert health is not None
    return health


async def found(url: str, *, after: timedelta = timedelta(0), **options: Any) -> list[Finding]:
    """What needs attention, as seen `after` so much time."""
    findings = await examine(Settings(database_url=url), now=datetime.now(UTC) + after, **options)
    return [finding for finding in findings if finding.severity is not Severity.note]


@pytest.fixture
def spool_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


pytestmark = pytest.mark.usefixtures("spool_at")


async def test_in_a_new_database_all_is_well(store: Store, url: str) -> None:
    health = await health_of(url)

    assert health.workers == []
    assert health.damage == []
    assert abs(health.clock_ahead) < 5.0
    assert await found(url) == []


async def test_there_is_no_health_of_a_file_that_is_not_there(path: Path, url: str) -> None:
    assert await asyncio.to_thread(database_health, url, now=datetime.now(UTC)) is None
    assert not path.exists()


async def test_an_agent_that_does_not_stop_is_found_until_it_does(store: Store, url: str) -> None:
    begun, released = asyncio.Event(), asyncio.Event()

    async def stubborn(input: object) -> None:
        begun.set()
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    async with managed(store, stubborn, stopping=StopPolicy(stuck_after=0.0)) as manager:
        run = await manager.start(RunSpec("chat", thread_id="t-1"))
        await begun.wait()
        try:
            before = await health_of(url)
            await run.cancel()
            async with asyncio.timeout(60):
                while not (await health_of(url)).stuck:
                    pass
            (finding,) = await found(url)
        finally:
            released.set()
        await run.result()
        after = await health_of(url)

    (worker,) = before.workers
    assert worker.runs == 1
    assert worker.seconds_left > 0
    assert (before.stuck, before.abandoned, before.unclaimed, after.stuck) == ([], [], [], [])
    assert finding.severity is Severity.error
    assert finding.where == f"run {run.run_id}, thread t-1"
    assert finding.what.startswith("chat was cancelled and has not stopped for ")
    assert worker.name in finding.fix


async def test_a_run_that_a_process_left_waits_until_somebody_can_execute_it(url: str) -> None:
    async def chat(input: object) -> None:
        return None

    async with Store.open(url) as store, managed(store, chat) as manager:
        later = await manager.start(RunSpec("chat", thread_id="t-1", after_seconds=3_600))

    not_due, soon = await found(url), await found(url, after=timedelta(seconds=3_630))
    (finding,) = await found(url, after=timedelta(hours=2))

    assert (not_due, soon) == ([], [])
    assert finding.where == f"run {later.run_id}, thread t-1"
    assert finding.what == "it waits for a process that runs chat, since 60 min"


async def test_a_run_that_is_no_coordinators_is_found_when_it_has_been_silent(store: Store, url: str) -> None:
    await store.append(make_run("r-1", thread_id="t-1")[:3])
    await store.append(make_run("r-2", thread_id="t-2"))

    assert await found(url, after=timedelta(days=-1_000)) == []
    (finding,) = await found(url)

    assert finding.where == "run r-1, thread t-1"
    assert finding.what.startswith("agent is recorded as running, but has said nothing for ")
    assert finding.fix.endswith("`trackside cancel r-1`")


async def test_how_subscriptions_stand_is_found(store: Store, url: str) -> None:
    subscriptions = store.subscriptions
    await store.append(make_run())
    for name in ("behind", "paused"):
        await subscriptions.open(name, start="beginning")
    await subscriptions.pause("paused")
    await subscriptions.open("blocked", start="beginning", on_failure="block")
    await subscriptions.open("chosen", start="beginning", on_failure="block", types="run_completed")
    await subscriptions.open("failing", start="beginning")
    for name in ("blocked", "chosen", "failing"):
        async with await subscriptions.acquire(name) as consumer:
            await consumer.note_failure("no route", attempts=4)
    await subscriptions.open("mail", start="beginning")
    async with await subscriptions.acquire("mail") as consumer:
        await consumer.read()
        await consumer.park(1, "no such user", attempts=5)
        await consumer.acknowledge(5)

    findings = await found(url, after=timedelta(hours=1))

    assert [(finding.severity, finding.where) for finding in findings] == [
        (Severity.error, "subscription blocked"),
        (Severity.error, "subscription chosen"),
        (Severity.warning, "subscription behind"),
        (Severity.warning, "subscription failing"),
        (Severity.warning, "subscription mail"),
    ]
    assert findings[0].what == "its next event failed 4 times, and holds up all later ones: no route"
    assert findings[0].fix.endswith("`trackside replay blocked --from 2`")
    for failing in (findings[1], findings[3]):  # the cursor does not say which event fails
        name = failing.where.removeprefix("subscription ")
        assert failing.fix == f"check its receiver, and how it stands: `trackside subscriptions {name}`"
    assert findings[2].what.startswith("it is 5 events behind, the oldest from ")
    assert findings[4].fix.endswith("`trackside parked mail`")


async def test_a_thread_that_is_busy_with_nothing_is_found(store: Store, url: str, database: Any) -> None:
    await store.append(make_run(thread_id="t-1"))
    await asyncio.to_thread(database.execute, "UPDATE threads SET status = 'busy'")

    (finding,) = await found(url)

    assert finding.where == "thread t-1"


async def test_a_disk_without_room_is_found(store: Store, url: str) -> None:
    (finding,) = await found(url, least_room=2**62)  # once, even if the disk holds the database and the spool

    assert finding.what.endswith(" MiB are free on its disk")


def nothing_but(worker: WorkerHealth, *, clock_ahead: float = 0.0) -> Health:
    """The health of a store in which nothing is wrong except what the arguments say."""
    return Health(
        workers=[worker],
        stuck=[],
        abandoned=[],
        unclaimed=[],
        left_busy=[],
        subscriptions=[],
        damage=[],
        clock_ahead=clock_ahead,
    )


@pytest.mark.parametrize(("ahead", "said"), [(7.4, "7 s ahead of"), (-60.0, "60 s behind"), (4.0, None)])
def test_a_clock_that_differs_is_told(ahead: float, said: str | None) -> None:
    now = datetime.now(UTC)
    gone = WorkerHealth(name="host/1", kind="inline", started_at=now, seconds_left=0.0, runs=0)
    health = nothing_but(gone, clock_ahead=ahead)

    told = [finding.what for finding in findings_in(health, "db", now)]

    assert [f"the server's clock is {said} this machine's, by which times are told"] * (said is not None) == told


@pytest.mark.parametrize(("kind", "said"), [("inline", "process"), ("server", "server"), ("worker", "worker")])
def test_a_process_is_called_what_it_is(kind: str, said: str) -> None:
    now = datetime.now(UTC)
    one = WorkerHealth(name="host:1", kind=kind, started_at=now, seconds_left=9.0, runs=0)
    assert [finding.where for finding in findings_in(nothing_but(one), "db", now)] == [f"{said} host:1"]


async def test_a_server_that_is_not_there_is_found(tmp_path: Path) -> None:
    (finding,) = await found(f"postgresql:///runs?host={tmp_path}")

    assert finding.severity is Severity.error
    assert "cannot be reached" in finding.what


EXAMINED_BY_SOMEBODY_ELSE = """
import asyncio, os, sys
from trackside.app.settings import Settings
from trackside.app.wiring.doctor import examine

if os.getuid() == 0:  # root may write everywhere
    os.setgid(65534), os.setuid(65534)
for finding in asyncio.run(examine(Settings(database_url=sys.argv[1]))):
    print(finding.severity, finding.what)
"""


def test_a_database_and_a_spool_that_may_not_be_written_are_found(open_folder: Path, sqlite_with_tables: Path) -> None:
    path = open_folder / "runs.db"
    shutil.copy(sqlite_with_tables, path)
    path.chmod(0o444)
    open_folder.chmod(0o555)

    command = [sys.executable, "-c", EXAMINED_BY_SOMEBODY_ELSE, f"sqlite:///{path}"]
    database, spool, modes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    assert database.startswith("error it cannot be written: The database ")
    assert "read-only" in database
    assert spool.startswith("error ends of runs that the database does not take could not be kept: ")
    assert modes.startswith("warning every user of this machine may read in it")
