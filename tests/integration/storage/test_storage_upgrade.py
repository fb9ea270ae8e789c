"""A database of the first version keeps everything when it is upgraded, and gets what later versions add."""

import asyncio
import json
import logging
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from prepared_databases import make_old_tables
from sqlalchemy import Connection, column, insert, table, update

from trackside.app.storage import PruneReport, Stats, Store, _schema
from trackside.app.storage._databases.backends import backend_at
from trackside.app.storage._databases.postgres.backend import _UPGRADE_LOCK
from trackside.app.storage.errors import DamagedDatabaseError, DatabaseBusyError, NewerDatabaseError
from trackside.app.storage.maintenance import (
    SchemaVersion,
    check_database,
    schema_version,
    upgradable_version,
    upgrade_database,
)
from trackside.app.storage.migrations import fill_0002

START = datetime(2026, 1, 31, 9, 30, 0, 123456, UTC)
LONG = "x" * 300


def text(when: datetime) -> str:
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def usage(**more: Any) -> dict[str, Any]:
    return {"input_tokens": 7, "output_tokens": 3, "cache_read_tokens": 2, "reasoning_tokens": 1, **more}


DATA: dict[str, Any] = {
    "total_input_tokens": 7,
    "total_output_tokens": 3,
    "llm_call_count": 2,
    "message_count": 4,
    "duration_seconds": 1.5,
    "cost_usd": 0.125,
    "token_usage_by_model": {"small": usage(cost_usd=0.125), "free": usage(cost_usd=0), "own": usage(), LONG: usage()},
    "token_usage_by_caller": {"lead_agent": usage(cost_usd="much")},
}


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class OldDatabase:
    """What the first version left: rows for its tables, written without any of its code."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, dict[str, Any]]] = []
        self.position = 0

    def add(self, table: str, **row: Any) -> None:
        self.rows.append((table, row))

    def add_run(self, number: int, *, agent: str | None, end: dict[str, Any] | None, **metadata: Any) -> None:
        run_id, thread_id, when = f"run-{number}", f"thread-{number}", START + timedelta(seconds=17 * number)
        said, ended = end or {}, None if end is None else when + timedelta(seconds=2)
        self.add(
            "threads",
            thread_id=thread_id,
            status="busy" if end is None else "idle",
            created_at=text(when),
            updated_at=text(ended or when),
            last_run_id=run_id,
        )
        self.add(
            "runs",
            run_id=run_id,
            thread_id=thread_id,
            agent=agent,
            status="running" if end is None else "success",
            created_at=text(when),
            started_at=text(when),
            ended_at=ended and text(ended),
            last_sequence=1 if end is None else 2,
            metadata=compact(metadata),
            completion_data=None if end is None else compact(end),
            total_input_tokens=said.get("total_input_tokens", 0),
            total_output_tokens=said.get("total_output_tokens", 0),
            llm_call_count=said.get("llm_call_count", 0),
            message_count=said.get("message_count", 0),
            duration_seconds=None if end is None else end.get("duration_seconds", 2.0),
            cost_usd=said.get("cost_usd"),
        )
        self._add_event(run_id, thread_id, 1, "run_started", when, {"agent": agent, "metadata": metadata})
        if ended is not None:
            self._add_event(run_id, thread_id, 2, "run_completed", ended, {"completion_data": end})
        for kind in ("model", "caller"):
            for name, tokens in said.get(f"token_usage_by_{kind}", {}).items():
                counts = {key: value for key, value in tokens.items() if key.endswith("_tokens")}
                self.add("usage", run_id=run_id, kind=kind, name=name, **counts)

    def cancel_run(self, number: int, says: dict[str, Any]) -> None:
        """Cancel the last added run."""
        ended = START + timedelta(seconds=17 * number + 2)
        run = next(row for name, row in reversed(self.rows) if name == "runs")
        run |= {"status": "cancelled", "ended_at": text(ended), "last_sequence": 2, "completion_data": "{}"}
        self._add_event(run["run_id"], run["thread_id"], 2, "run_cancelled", ended, says)

    def add_pending_run(self, run_id: str, thread_id: str, *, agent: str) -> None:
        when = text(START + timedelta(hours=1))
        place = {"run_id": run_id, "thread_id": thread_id, "agent": agent, "status": "pending", "last_sequence": 0}
        self.add("runs", created_at=when, metadata="{}", **place)

    def _add_event(self, run_id: str, thread_id: str, sequence: int, kind: str, when: datetime, payload: Any) -> None:
        self.position += 1
        self.add(
            "events",
            position=self.position,
            event_id=f"event-{self.position}",
            run_id=run_id,
            thread_id=thread_id,
            sequence=sequence,
            event_type=kind,
            occurred_at=text(when),
            payload=compact(payload),
        )

    def write(self, url: str, revision: str = "0001") -> None:
        make_old_tables(url, revision, self._write)

    def _write(self, connection: Connection) -> None:
        for name, row in self.rows:
            connection.execute(insert(table(name, *map(column, row))).values(row))
        counters = table("counters", column("value"))
        connection.execute(update(counters).values(value=self.position))


@pytest.fixture
def old(url: str) -> None:
    old = OldDatabase()
    for number in range(8):
        agent = [None, "chat", "search", LONG][number % 4]
        end = [DATA, {}, None][number % 3]
        labels = {"customer": "Zoë", "n": number, "vip": True, "gone": None}
        old.add_run(number, agent=agent, end=end, **labels, tags=["a"], part=1.5, big=LONG * 4)
    old.write(url)


@pytest.mark.parametrize("request_", [{"agent": "chat", "input": "?"}, None])
def test_what_was_asked_for_moves_to_the_run(url: str, database: Any, request_: Any) -> None:
    old = OldDatabase()
    old.add_run(1, agent="chat", end=None)
    asked = None if request_ is None else compact(request_)
    place = {"ordinal": 1, "state": "claimed", "holds": True, "owner": "me", "multitask": "enqueue"}
    old.add("active_runs", run_id="run-1", thread_id="thread-1", request=asked, **place)
    old.write(url, "0002")

    upgrade_database(url)

    assert rows(database, "SELECT request, attempt, retry_of FROM runs") == [(asked, 1, None)]
    query = "SELECT portable, keeps_request, stuck_since FROM active_runs"
    assert rows(database, query) == [(request_ is not None, True, None)]


@pytest.mark.parametrize("revision", ["0002", "0005"])
def test_the_runs_that_a_run_had_started_are_found(url: str, database: Any, revision: str) -> None:
    old = OldDatabase()
    for number in range(3):
        old.add_run(number, agent="chat", end=DATA)
    old.write(url, revision)
    database.execute("UPDATE runs SET parent_run_id = 'run-0' WHERE run_id <> 'run-0'")

    async def children() -> list[str]:
        async with Store.open(url) as store:
            return [run.run_id for run in await store.runs(parent_run_id="run-0")]

    assert asyncio.run(children()) == ["run-2", "run-1"]
    assert schema_version(url).found == "0010"


def rows(database: Any, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in database.execute(query).fetchall()]


def stats_of(url: str) -> tuple[Stats, PruneReport]:
    """The store's totals, and what a prune of everything that has ended comes to."""

    async def ask() -> tuple[Stats, PruneReport]:
        async with Store.open(url) as store:
            return await store.stats(), await store.prune(older_than=None)

    return asyncio.run(ask())


@pytest.mark.usefixtures("old")
def test_an_old_database_keeps_all_and_gets_what_is_new(url: str, database: Any) -> None:
    kept = [
        "SELECT * FROM events ORDER BY position",
        "SELECT thread_id, status, title, created_at, updated_at, last_run_id FROM threads ORDER BY thread_id",
        "SELECT run_id, status, created_at, completion_data, duration_seconds FROM runs ORDER BY run_id",
    ]
    before = [rows(database, query) for query in kept]

    upgrade_database(url)

    assert [rows(database, query) for query in kept] == before
    # Everything kept beside the events is as if this version had written it, down to the last sum.
    assert check_database(url, sample=None) == []
    costs = rows(database, "SELECT DISTINCT name, cost_usd FROM usage ORDER BY name")
    assert costs == [("free", 0.0), ("lead_agent", None), ("own", None), ("small", 0.125)]
    labels = rows(database, "SELECT key, value FROM run_labels WHERE run_id = 'run-3' ORDER BY key")
    assert labels == [("customer", '"Zoë"'), ("gone", "null"), ("n", "3"), ("vip", "true")]


def test_threads_have_the_agent_of_their_newest_run_and_what_was_rolled_back_is_removed(
    url: str, database: Any
) -> None:
    old = OldDatabase()
    for number, mode in enumerate(["rollback", "interrupt", None]):
        old.add_run(number, agent=f"agent-{number}", end=None)
        if mode is not None:
            old.cancel_run(number, {"cancel_mode": mode, "reason": '"cancel_mode":"rollback"'})
    old.add_run(3, agent="first", end=DATA)
    old.add_pending_run("run-4", "thread-3", agent="newest")
    old.write(url)

    upgrade_database(url)

    kept = rows(database, "SELECT run_id, removed_at IS NOT NULL FROM runs ORDER BY run_id")
    assert kept == [("run-0", True), ("run-1", False), ("run-2", False), ("run-3", False), ("run-4", False)]
    agents = rows(database, "SELECT agent, owner, ends, removed_at FROM threads ORDER BY thread_id")
    assert agents == [(agent, None, False, None) for agent in ("agent-0", "agent-1", "agent-2", "newest")]


@pytest.mark.parametrize(
    ("revision", "agent", "end", "still_in_queue"),
    [
        ("0001", LONG, {**DATA, "cost_usd": 2e6}, False),
        ("0001", LONG, None, False),
        ("0002", "chat", None, True),
    ],
    ids=["name-and-costs", "name-and-rolled-back", "rolled-back-and-in-queue"],
)
def test_a_run_that_several_steps_change_is_brought_up_to_date(
    url: str, database: Any, revision: str, agent: str, end: dict[str, Any] | None, still_in_queue: bool
) -> None:
    old, asked = OldDatabase(), compact({"agent": agent})
    old.add_run(1, agent=agent, end=end)
    if end is None:
        old.cancel_run(1, {"cancel_mode": "rollback", "completion_data": {}})
    if still_in_queue:  # its process was killed before it had told of the thread
        place = {"ordinal": 1, "state": "ended", "holds": True, "owner": "me", "multitask": "enqueue"}
        old.add("active_runs", run_id="run-1", thread_id="thread-1", request=asked, at_rest="idle", **place)
    old.write(url, revision)

    upgrade_database(url)

    assert schema_version(url).steps == 0
    kept = rows(database, "SELECT agent, request, removed_at IS NOT NULL FROM runs")
    assert kept == [(None if agent == LONG else agent, asked if still_in_queue else None, end is None)]


def test_amounts_that_no_sum_takes_count_as_absent_on_whichever_page_of_runs_they_are(
    url: str, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill_0002, "_PAGE", 2)
    old = OldDatabase()
    costs = {"much": usage(cost_usd=10**7), "less than nothing": usage(cost_usd=-1.0)}
    changes: list[dict[str, Any]] = [
        {"cost_usd": 10**7, "token_usage_by_model": costs},
        {"duration_seconds": 10**13},
        {"duration_seconds": 0.0},
        {},
        {},
    ]
    for number, change in enumerate(changes):
        old.add_run(number, agent="chat", end={**DATA, **change}, n=number)
    old.write(url)

    upgrade_database(url)

    kept = rows(database, "SELECT cost_usd, duration_seconds FROM runs ORDER BY run_id")
    assert kept == [(None, 1.5), (0.125, 2.0), (0.125, 0.0), (0.125, 1.5), (0.125, 1.5)]
    assert rows(database, "SELECT DISTINCT cost_usd FROM usage WHERE run_id = 'run-0'") == [(None,)]
    assert check_database(url, sample=None) == []


@pytest.mark.usefixtures("old")
def test_runs_of_an_old_database_are_summed_up_and_can_be_pruned(url: str, database: Any) -> None:
    stats, pruned = stats_of(url)

    assert (stats.total.runs, stats.total.cost_usd) == (8, 0.375)
    assert set(stats.by_agent) == {None, "chat", "search"}
    assert (pruned.runs, pruned.events) == (6, 12)
    assert check_database(url, sample=None) == []
    assert rows(database, "SELECT count(*) FROM run_totals") == [(0,)]


@pytest.mark.usefixtures("old")
def test_the_version_is_told_and_upgraded(url: str) -> None:
    known = _schema.REVISIONS[-1]

    assert schema_version(url) == SchemaVersion(found="0001", known=known)
    (finding,) = check_database(url)
    assert "db upgrade" in finding.what
    assert upgrade_database(url) == SchemaVersion(found="0001", known=known)
    assert upgrade_database(url) == schema_version(url) == SchemaVersion(found=known, known=known)
    assert check_database(url) == []


def test_a_new_database_is_made(url: str) -> None:
    assert upgrade_database(url).found is None
    assert check_database(url) == []


def test_a_newer_database_stays_as_it_is(url: str, path: Path) -> None:
    upgrade_database(url)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()

    assert schema_version(url) == SchemaVersion(found="9999", known="0010")
    for ask in (upgradable_version, upgrade_database, check_database):
        with pytest.raises(NewerDatabaseError):
            ask(url)
    assert path.read_bytes() == before


UPGRADE = textwrap.dedent("""
    import sys
    from trackside.app.storage.maintenance import upgrade_database

    print("ready", flush=True)
    sys.stdin.readline()
    print(upgrade_database(sys.argv[1]).found)
""")


@pytest.mark.usefixtures("old")
def test_processes_that_upgrade_one_database_at_once(url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", UPGRADE, url]
    upgraders = [subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(4)]
    for upgrader in upgraders:
        assert upgrader.stdout.readline() == "ready\n"
    for upgrader in upgraders:
        upgrader.stdin.write("go\n")
        upgrader.stdin.flush()
    said = [upgrader.communicate() for upgrader in upgraders]

    assert [error for _, error in said] == [""] * len(upgraders)
    assert {found.strip() for found, _ in said} <= {"0001", _schema.REVISIONS[-1]}
    assert check_database(url, sample=None) == []


@pytest.mark.usefixtures("old")
def test_an_upgrade_that_takes_longer_than_a_write_waits_is_waited_for(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = Event(), Event()

    def hold(step: int) -> None:
        begun.set()
        assert step > 1 or go_on.wait(30)

    class GoOn(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            go_on.set()

    taken: list[int] = []
    backend = backend_at(url, synchronous="FULL", busy_timeout=0.1)
    caplog.set_level(logging.WARNING, "trackside.storage")
    logging.getLogger("trackside.storage").addHandler(handler := GoOn())
    try:
        with ThreadPoolExecutor() as threads:
            upgrading = threads.submit(upgrade_database, url, on_step=hold)
            assert begun.wait(30)
            _schema.prepare(backend, create=True, on_step=taken.append)
            upgrading.result()
    finally:
        logging.getLogger("trackside.storage").removeHandler(handler)

    assert taken == []
    assert [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()] == [
        f"Another process has {backend} locked, perhaps to upgrade its tables: waiting for it, 600 s at most."
    ]
    assert schema_version(url).steps == 0


@pytest.fixture
def locked(dialect: str, database: Any) -> None:
    """Another session has the database locked, and leaves its tables alone."""
    database.execute("BEGIN IMMEDIATE" if dialect == "sqlite" else f"SELECT pg_advisory_lock({_UPGRADE_LOCK})")


@pytest.mark.usefixtures("old", "locked")
def test_who_would_upgrade_waits_for_no_lock_without_end(url: str) -> None:
    backend = backend_at(url, synchronous="FULL", busy_timeout=0.1)
    with pytest.raises(DatabaseBusyError, match="locked by another process"):
        _schema.prepare(backend, create=True, patience=0.3)
    assert schema_version(url).found == "0001"


@pytest.mark.usefixtures("old", "locked")
async def test_nobody_waits_on_for_whoever_does_not_want_a_store_any_more(url: str) -> None:
    opening = asyncio.ensure_future(Store.open(url, busy_timeout=90).__aenter__())  # longer than the guard below
    await asyncio.sleep(0.3)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening

    async with asyncio.timeout(60):  # this would wait for a thread that waited on
        await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.usefixtures("old")
def test_an_upgrade_that_fails_changes_nothing(url: str, database: Any) -> None:
    database.execute("UPDATE runs SET metadata = 'no JSON' WHERE run_id = 'run-5'")
    before = rows(database, "SELECT * FROM runs ORDER BY run_id")

    with pytest.raises(DamagedDatabaseError, match="JSON"):
        upgrade_database(url)

    assert schema_version(url).found == "0001"
    assert rows(database, "SELECT * FROM runs ORDER BY run_id") == before


def test_runs_and_workers_of_before_there_were_fleets_are_what_they_were(url: str, database: Any) -> None:
    old = OldDatabase()
    old.add_run(1, agent="chat", end=None)
    place = {"ordinal": 1, "state": "pending", "holds": True, "multitask": "enqueue", "portable": True}
    old.add("active_runs", run_id="run-1", thread_id="thread-1", owner=None, keeps_request=True, **place)
    worker = {"worker_id": "w", "name": "host:1", "started_at": "2026-01-31T09:30:00.000000Z"}
    old.add("workers", clock="another", lease_until=0.0, **worker)
    old.write(url, "0006")

    upgrade_database(url)

    async def look() -> Any:
        async with Store.open(url) as store:
            return await store.facts()

    assert rows(database, "SELECT pool, version, agent FROM active_runs") == [("default", None, "chat")]
    of_workers = "SELECT kind, pools, agents, capacity, running, draining, version, address, release FROM workers"
    assert rows(database, of_workers) == [("inline", "[]", "[]", 0, 0, False, None, None, None)]
    assert [worker.host for worker in asyncio.run(look()).workers] == ["host"]
    assert check_database(url, sample=None) == []
