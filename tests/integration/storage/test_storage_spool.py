"""A real database is full, locked or read-only when a run ends: the end is spooled, and delivered once it is back."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from postgres_server import PostgresServer
from sqlalchemy import event

from trackside.app.observers import storage as storage_observer
from trackside.app.observers.live import LiveEvent, LiveObserver
from trackside.app.observers.metrics import MetricsObserver
from trackside.app.observers.storage import StorageObserver
from trackside.app.spool import DeliveryReport, Spool
from trackside.app.storage import Store
from trackside.app.storage.errors import ConnectionSetupError, DatabaseFullError
from trackside.harness import (
    DispatchPolicy,
    LifecycleEventType,
    ObserverBinding,
    RunManager,
    RunResult,
    RunSpec,
    RunStatus,
    ThreadStatus,
)
from trackside.harness.errors import TracksideError
from trackside.harness.lifecycle import is_terminal
from trackside.testing import RecordingObserver, assert_run_order, make_event, make_run

POLICY = DispatchPolicy(retry_for=0.0)
PATIENCE = 60.0

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked_by_another_process(path: Path) -> Iterator[None]:
    """Have another process hold the database alone in this block."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        yield
    finally:
        holder.communicate()


@contextmanager
def limited(store: Store, limit: str, afterwards: str) -> Iterator[None]:
    """Limit the writer's own connections by a pragma in this block."""
    session: Any = store._writer._session  # type: ignore[union-attr]

    def on_connect(driver: sqlite3.Connection, _: object) -> None:
        driver.execute(f"PRAGMA {limit}")

    event.listen(session._engine, "connect", on_connect)
    session._driver.execute(f"PRAGMA {limit}")
    try:
        yield
    finally:
        event.remove(session._engine, "connect", on_connect)
        session._driver.execute(f"PRAGMA {afterwards}")


@contextmanager
def medium(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own; skips the test if there are not enough rights for that."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a file system can be mounted by root only: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(autouse=True)
def unblocked(blockbuster: BlockBuster) -> None:
    """These tests block on databases in the middle of a run."""
    blockbuster.deactivate()


@pytest.fixture(autouse=True)
def nobody_looks_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have observers not look by the clock whether the log is back."""
    monkeypatch.setattr(storage_observer, "_FIRST_PAUSE", 3_600.0)


@asynccontextmanager
async def observing(store: Store, folder: Path) -> AsyncIterator[StorageObserver]:
    observer = StorageObserver(store, spool=Spool(folder))
    yield observer
    await observer.aclose()


async def run_once(
    observer: StorageObserver, agent: Callable[..., Any] = lambda given: given, thread_id: str = "t"
) -> RunResult:
    """One run, in its own manager."""
    bound = [ObserverBinding(observer, required=True)]
    async with RunManager({"agent": agent}, observers=bound, policy=POLICY) as manager:
        return await (await manager.start(RunSpec("agent", "hello", thread_id=thread_id))).result()


async def assert_whole(store: Store, result: RunResult, status: RunStatus) -> None:
    """Assert that the log has the run from its start to a single end, and that its rows say the same."""
    events = [stored.event for stored in await store.events(run_id=result.run_id)]
    assert_run_order(events)
    assert sum(is_terminal(event.event_type) for event in events) == 1
    run = await store.run(result.run_id)
    assert run is not None
    assert (run.status, run.last_sequence) == (status, len(events))
    everything = await store.events()
    assert [stored.position for stored in everything] == list(range(1, len(everything) + 1))


async def test_a_full_disk_at_the_end_of_a_run(store: Store, path: Path, tmp_path: Path) -> None:
    async with observing(store, tmp_path / "spool") as observer:
        full = limited(store, "max_page_count = 1", "max_page_count = 1000000")

        def agent(input: Any, run: Any) -> None:
            run.set_title("x" * 200_000)
            full.__enter__()

        result = await run_once(observer, agent)
        full.__exit__(None, None, None)
        assert result.status is RunStatus.error
        assert "There is no room left for the database" in (result.error or "")
        assert f"kept for later in {tmp_path}/spool" in (result.error or "")
        assert (await observer.deliver_spooled()).delivered == 1

    await assert_whole(store, result, RunStatus.success)
    assert not (tmp_path / "spool").exists()


async def test_a_database_that_another_process_has_locked(url: str, path: Path, tmp_path: Path) -> None:
    async with Store.open(url, busy_timeout=0.05) as store, observing(store, tmp_path / "spool") as observer:
        lock = locked_by_another_process(path)
        result = await run_once(observer, lambda _: lock.__enter__())
        assert "stayed locked by another process" in (result.error or "")
        locked = await observer.deliver_spooled()
        assert (locked.delivered, locked.waiting) == (0, 1)
        lock.__exit__(None, None, None)
        assert (await observer.deliver_spooled()).delivered == 1
        await assert_whole(store, result, RunStatus.success)


async def test_a_run_that_could_not_even_start_is_whole_in_the_log_when_it_is_back(
    url: str, path: Path, tmp_path: Path
) -> None:
    called: list[object] = []
    async with Store.open(url, busy_timeout=0.05) as store, observing(store, tmp_path / "spool") as observer:
        with locked_by_another_process(path):
            result = await run_once(observer, called.append)
        await observer.deliver_spooled()
        await assert_whole(store, result, RunStatus.error)

    assert called == [], "I14: not stored, so the agent is never called"


async def test_live_observers_hear_of_the_end_when_it_is_in_the_database(
    store: Store, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_observer, "_FIRST_PAUSE", 0.1)
    metrics, recording = MetricsObserver(), RecordingObserver()
    live = LiveObserver()
    async with observing(store, tmp_path / "spool") as observer:
        read_only = limited(store, "query_only = ON", "query_only = OFF")
        bound = [ObserverBinding(observer, required=True), metrics, live, recording]
        agents = {"agent": lambda _: read_only.__enter__()}
        async with RunManager(agents, observers=bound, policy=POLICY, log=store.run_log()) as manager:
            result = await (await manager.start(RunSpec("agent", "hello"))).result()
            assert "kept for later" in (result.error or "")
            assert not any(is_terminal(event.event_type) for event in recording.events)
            read_only.__exit__(None, None, None)
            async with live.follow(result.run_id) as followed:
                seen = [item.event.event_id async for item in followed if isinstance(item, LiveEvent)]
            await observer.deliver_spooled()
    await live.aclose()

    await assert_whole(store, result, RunStatus.success)
    in_the_log = [stored.event.event_id for stored in await store.events(run_id=result.run_id)]
    assert seen == in_the_log
    assert [event.event_id for event in recording.events] == in_the_log
    assert 'trackside_runs_total{agent="agent",status="success"} 1.0' in metrics.render()[0].decode()
    assert 'trackside_runs_active{agent="agent"} 0.0' in metrics.render()[0].decode()
    await metrics.aclose()


async def test_a_database_that_turned_read_only(store: Store, path: Path, tmp_path: Path) -> None:
    async with observing(store, tmp_path / "spool") as observer:
        read_only = limited(store, "query_only = ON", "query_only = OFF")
        result = await run_once(observer, lambda _: read_only.__enter__())
        assert "cannot be written" in (result.error or "")
        assert (await observer.deliver_spooled()).waiting == 1
        read_only.__exit__(None, None, None)
        await observer.deliver_spooled()

    await assert_whole(store, result, RunStatus.success)


async def test_a_medium_that_is_full(tmp_path: Path) -> None:
    with medium(tmp_path / "disk", "size=6m") as disk:
        async with (
            Store.open(f"sqlite:///{disk}/runs.db") as store,
            observing(store, tmp_path / "spool") as observer,
        ):
            filler = disk / "filler"

            async def agent(input: Any, run: Any) -> None:
                run.set_title("x" * 300_000)
                with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                    while True:
                        file.write(bytes(4_096))

            result = await run_once(observer, agent)
            assert result.status is RunStatus.error
            assert f"kept for later in {tmp_path}/spool" in (result.error or "")
            filler.unlink()
            await observer.deliver_spooled()
            await assert_whole(store, result, RunStatus.success)


async def test_a_database_on_a_medium_without_any_room_is_not_opened_and_says_why(tmp_path: Path) -> None:
    with medium(tmp_path / "disk", "size=2m") as disk:
        async with Store.open(f"sqlite:///{disk}/runs.db"):
            pass
        with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4_096))

        for read_only in (True, False):
            with pytest.raises(DatabaseFullError, match="no room left for the database"):
                async with Store.open(f"sqlite:///{disk}/runs.db", read_only=read_only):
                    pass

        (disk / "filler").unlink()
        async with Store.open(f"sqlite:///{disk}/runs.db") as store:
            assert await store.events() == []


async def test_a_medium_that_is_full_of_database_and_spool_says_that_the_end_is_lost(tmp_path: Path) -> None:
    with medium(tmp_path / "disk", "size=6m") as disk:
        async with Store.open(f"sqlite:///{disk}/runs.db") as store, observing(store, disk / "spool") as observer:

            async def agent(input: Any, run: Any) -> None:
                run.set_title("x" * 300_000)
                with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                    while True:
                        file.write(bytes(4_096))

            result = await run_once(observer, agent)
            (disk / "filler").unlink()

            assert "did not take that" in (result.error or "")
            assert "could not be kept for later either, and is lost: The spool" in (result.error or "")
            assert not (disk / "spool").exists()
            assert await observer.deliver_spooled() == DeliveryReport()


async def test_a_medium_that_is_remounted_read_only(tmp_path: Path) -> None:
    def remount(disk: Path, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)

    with medium(tmp_path / "disk", "size=8m") as disk:
        async with observing_on(disk, tmp_path / "spool") as (_, observer):
            await run_once(observer)
        # A medium with files open for writing cannot be remounted, so this comes before the next start.
        remount(disk, "ro")
        with pytest.raises(TracksideError, match="cannot be written"):
            async with Store.open(f"sqlite:///{disk}/runs.db"):
                pass
        remount(disk, "rw")
        async with observing_on(disk, tmp_path / "spool") as (store, observer):
            result = await run_once(observer)
            await assert_whole(store, result, RunStatus.success)


@asynccontextmanager
async def observing_on(disk: Path, spool: Path) -> AsyncIterator[tuple[Store, StorageObserver]]:
    async with Store.open(f"sqlite:///{disk}/runs.db") as store, observing(store, spool) as observer:
        yield store, observer


async def test_a_run_that_was_ended_as_lost_meanwhile_keeps_that_end(url: str, path: Path, tmp_path: Path) -> None:
    run = make_run("run-1")
    opening, rest = run[:3], run[3:]
    says = {"status": "error", "error": "its worker is lost", "error_type": "worker_lost"}
    lost = make_event(LifecycleEventType.RUN_FAILED, run_id="run-1", sequence=4, payload=says)
    async with Store.open(url, busy_timeout=0.05) as store, observing(store, tmp_path / "spool") as observer:
        await observer.on_events(opening)
        with locked_by_another_process(path), pytest.raises(TracksideError) as failed:
            await observer.on_events(rest)
        await observer.on_missed(rest, failed.value)
        await store.append([lost])

        report = await observer.deliver_spooled()

        assert (report.delivered, report.refused, report.waiting) == (0, 1, 0)
        events = [stored.event for stored in await store.events(run_id="run-1")]
        assert_run_order(events)
        assert events[-1].event_id == lost.event_id
        assert lost.event_id not in (tmp_path / "spool" / "refused.jsonl").read_text()
        assert all(event.event_id in (tmp_path / "spool" / "refused.jsonl").read_text() for event in rest)


async def test_a_spool_on_a_full_disk_gives_the_log_what_it_takes_and_sets_aside_the_rest_when_there_is_room(
    store: Store, tmp_path: Path
) -> None:
    await store.append(make_run("ended", thread_id="a"))
    with medium(tmp_path / "disk", "size=256k") as disk:
        left = Spool(disk / "spool")
        await left.append(make_run("ended", thread_id="a")[3:])
        await left.append(good := make_run("good", thread_id="b"))
        await left.aclose()
        with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4_096))
        async with observing(store, disk / "spool") as observer:
            report = await observer.deliver_spooled()
            assert "No space left" in str(report.failure)
            assert (report.delivered, report.refused, report.waiting) == (1, 0, 1)
            assert [stored.event.event_id for stored in await store.events(run_id="good")] == [e.event_id for e in good]

            (disk / "filler").unlink()
            assert (await observer.deliver_spooled()).refused == 1


async def test_the_thread_is_what_its_newest_run_says_however_late_the_end_of_an_older_one_comes(
    url: str, path: Path, tmp_path: Path
) -> None:
    async def fail(input: Any) -> None:
        raise LookupError

    async with Store.open(url, busy_timeout=0.05) as store, observing(store, tmp_path / "spool") as observer:
        lock = locked_by_another_process(path)
        first = await run_once(observer, lambda _: lock.__enter__())
        lock.__exit__(None, None, None)
        second = await run_once(observer, fail)

        await assert_whole(store, first, RunStatus.success)
        await assert_whole(store, second, RunStatus.error)
        thread = await store.thread("t")
        assert thread is not None
        assert (thread.status, thread.last_run_id) == (ThreadStatus.error, second.run_id)
        ends = await store.events(types=[LifecycleEventType.RUN_COMPLETED, LifecycleEventType.RUN_STARTED])
        assert [stored.event.run_id for stored in ends] == [first.run_id, first.run_id, second.run_id]


async def test_two_processes_that_lose_the_same_database_each_deliver_their_own(
    url: str, path: Path, tmp_path: Path
) -> None:
    async with (
        Store.open(url, busy_timeout=0.05) as one,
        Store.open(url, busy_timeout=0.05) as two,
        observing(one, tmp_path / "spool") as first,
        observing(two, tmp_path / "spool") as second,
    ):
        with locked_by_another_process(path):
            results = [await run_once(first, thread_id="a"), await run_once(second, thread_id="b")]
        async with (
            Store.open(url, busy_timeout=PATIENCE) as patient_one,  # both write to one file at once from now on
            Store.open(url, busy_timeout=PATIENCE) as patient_two,
        ):
            first._log, second._log = patient_one, patient_two
            reports = await asyncio.gather(first.deliver_spooled(), second.deliver_spooled())

        assert [report.delivered for report in reports] == [1, 1]
        for result in results:
            await assert_whole(one, result, RunStatus.error)


async def test_a_server_that_stops_in_the_middle_of_a_run(own_postgres_server: PostgresServer, tmp_path: Path) -> None:
    server = own_postgres_server
    async with (
        Store.open(server.create_database("runs"), busy_timeout=0.5) as store,
        observing(store, tmp_path / "spool") as observer,
    ):
        stopped = await run_once(observer, lambda _: server.stop("immediate"))
        unreached = await run_once(observer, thread_id="another")
        assert f"kept for later in {tmp_path}/spool" in (stopped.error or "")
        assert (await observer.deliver_spooled()).waiting == 2

        server.start()
        assert (await observer.deliver_spooled()).delivered == 2
        await assert_whole(store, stopped, RunStatus.success)
        await assert_whole(store, unreached, RunStatus.error)


async def test_a_certificate_that_is_away_while_connections_are_made_anew(
    own_postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_postgres_server

    def rotated(_: Any) -> None:
        monkeypatch.setenv("PGSSLMODE", "verify-full")
        monkeypatch.setenv("HOME", str(tmp_path))  # it has no .postgresql/root.crt
        server.stop("immediate")
        server.start()

    async with Store.open(server.create_database("runs")) as store, observing(store, tmp_path / "spool") as observer:
        ended = await run_once(observer, rotated)
        assert f"kept for later in {tmp_path}/spool" in (ended.error or "")
        with pytest.raises(ConnectionSetupError, match=r"root\.crt") as refused:
            await store.runs()
        assert refused.value.fault == "store"
        assert (await observer.deliver_spooled()).waiting == 1

        monkeypatch.undo()
        assert (await observer.deliver_spooled()).delivered == 1
        await assert_whole(store, ended, RunStatus.success)


class Leaving:
    """A run that goes on when it is told to, in a process that is to leave meanwhile."""

    def __init__(self, store: Store, observer: StorageObserver) -> None:
        self.store = store
        self.has_begun = asyncio.Event()
        self.goes_on = asyncio.Event()
        self._observer = observer
        self._running = asyncio.create_task(run_once(observer, self._agent))

    async def _agent(self, given: str) -> str:
        self.has_begun.set()
        await self.goes_on.wait()
        return given

    async def leave(self) -> RunResult:
        """Give the database no more time, and close; return how the run ended."""
        self.store.leave_within(0.0)
        ended = await self._running
        await self._observer.aclose()
        await self.store.aclose()
        return ended


@asynccontextmanager
async def leaving(url: str, folder: Path) -> AsyncIterator[Leaving]:
    """A process whose run has begun."""
    async with asyncio.timeout(PATIENCE), Store.open(url) as store, observing(store, folder) as observer:
        process = Leaving(store, observer)
        await process.has_begun.wait()
        yield process


async def assert_delivered(url: str, folder: Path, result: RunResult) -> None:
    """Assert that the next process delivers what the leaving process kept of its run."""
    assert result.error is not None
    assert f"kept for later in {folder}" in result.error
    async with Store.open(url) as store, observing(store, folder) as observer:
        assert (await observer.deliver_spooled()).delivered == 1
        await assert_whole(store, result, RunStatus.success)


async def test_a_process_that_leaves_while_its_commit_waits_for_a_standby_that_is_gone(
    own_postgres_server: PostgresServer, tmp_path: Path
) -> None:
    server, url = own_postgres_server, own_postgres_server.create_database("runs")
    async with leaving(url, tmp_path / "spool") as process:
        with server.without_standby():
            process.goes_on.set()
            await asyncio.to_thread(server.wait_for_waiting_commit, "trackside")
            ended = await process.leave()

    await assert_delivered(url, tmp_path / "spool", ended)


async def test_a_process_that_leaves_while_the_server_is_frozen(
    own_postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = own_postgres_server.create_database("runs")
    async with leaving(url, tmp_path / "spool") as process:
        assert len(await process.store.runs()) == 1  # over a connection that stays open
        with own_postgres_server.frozen():
            process.goes_on.set()
            ended = await process.leave()

    await assert_delivered(url, tmp_path / "spool", ended)
