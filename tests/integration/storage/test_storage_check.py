"""`check_database` finds nothing in what we wrote, and finds everything that somebody else could have done to it."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from trackside.app.storage import Store
from trackside.app.storage._checks import Finding
from trackside.app.storage.maintenance import check_database

USAGE = {"input_tokens": 10, "output_tokens": 4, "cost_usd": 0.25}
DATA: dict[str, Any] = {
    "total_input_tokens": 10,
    "duration_seconds": 1.5,
    "cost_usd": 0.25,
    "token_usage_by_model": {"small": USAGE},
    "token_usage_by_caller": {"lead_agent": USAGE},
}


@pytest.fixture
async def filled(store: Store, script) -> None:
    for _ in range(3):
        done, asking = script(), script()
        await store.append(
            [done.started(metadata={"n": 1}), done.message(), done.completed(**DATA), done.thread("idle")]
        )
        await store.append(
            [asking.started(), asking.event("run_completed", status="interrupted"), asking.message()][:2]
        )
        await store.append([script().event("run_cancelled", cancel_mode="interrupt"), script().started()])


# A file allows what a server allows nobody.
@pytest.fixture
def spoil(database: sqlite3.Connection) -> sqlite3.Connection:
    database.execute("PRAGMA foreign_keys = OFF")
    return database


def found(url: str, **options: Any) -> list[Finding]:
    return check_database(url, **options)


@pytest.mark.usefixtures("filled")
def test_all_is_well(url: str) -> None:
    assert found(url) == found(url, sample=None) == []


A_RUN = "(SELECT run_id FROM runs WHERE status = 'success' ORDER BY run_id LIMIT 1)"
SPOILERS = {
    "tables: they are not as declared: remove index ix_runs_mine": "CREATE INDEX ix_runs_mine ON runs (title)",
    "tables: they are not as declared: add index ix_active_runs_owner": "DROP INDEX ix_active_runs_owner",
    "tables: they are not as declared: remove column": "ALTER TABLE runs ADD COLUMN mine TEXT",
    "events: a row refers to a row of runs": f"DELETE FROM runs WHERE run_id = {A_RUN}",
    "counters: the last position given is 3": "UPDATE counters SET value = 3 WHERE name = 'position'",
    "counters: the counter of positions is missing": "DELETE FROM counters WHERE name = 'position'",
    "events: there is a position -": "UPDATE events SET position = -position WHERE position = 4",
    "events: 1 run": f"DELETE FROM events WHERE run_id = {A_RUN} AND sequence = 2",
    "runs: 1 run": f"DELETE FROM events WHERE run_id = {A_RUN}",
    "threads: 3 threads": "UPDATE threads SET last_run_id = 'x' WHERE last_run_id IN "
    "(SELECT run_id FROM runs WHERE status = 'success')",
    "threads: 1 thread": f"UPDATE threads SET status = 'busy' WHERE last_run_id = {A_RUN}",
    "has an event at position 2 that is damaged: '{' is not JSON": "UPDATE events SET payload = '{' WHERE position = 2",
    "has an event at position 2 that is damaged: '[]' is not an object": "UPDATE events SET payload = '[]' "
    "WHERE position = 2",
    "has an event at position 2 that is damaged: 'late' is not a time": "UPDATE events SET occurred_at = 'late' "
    "WHERE position = 2",
    "run_totals: 3 sums": "UPDATE run_totals SET runs = runs + 1 WHERE status = 'success'",
    "duration_totals: ": "DELETE FROM duration_totals WHERE status = 'success'",
    "usage_totals: ": "UPDATE usage_totals SET output_tokens = 0 WHERE name = 'small'",
    "a row that its events do not tell: status": f"UPDATE runs SET status = 'error' WHERE run_id = {A_RUN}",
    "a row that its events do not tell: title": f"UPDATE runs SET title = 'T' WHERE run_id = {A_RUN}",
    "a row that its events do not tell: ended_at": "UPDATE runs SET ended_at = created_at WHERE status = 'running'",
    "a row that its events do not tell: usage": "UPDATE usage SET cost_usd = 1 WHERE name = 'small'",
    "that does not follow: the run has ended": f"UPDATE events SET event_type = 'human_message' WHERE run_id = {A_RUN} "
    "AND sequence = 4",
    "in another order than their positions": f"UPDATE events SET position = 1000 + position WHERE run_id = {A_RUN} "
    "AND sequence = 2; UPDATE counters SET value = 2000 WHERE name = 'position'",
    "of thread t-2": f"UPDATE events SET thread_id = 't-2' WHERE run_id = {A_RUN} AND sequence = 3",
}


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(("what", "spoiler"), SPOILERS.items(), ids=SPOILERS)
def test_what_is_wrong_is_found(url: str, path: Path, spoil: sqlite3.Connection, what: str, spoiler: str) -> None:
    spoil.executescript(spoiler)

    said = [f"{finding.where}: {finding.what}" for finding in found(url)]

    assert any(what in line for line in said), said


@pytest.mark.usefixtures("filled")
def test_a_damaged_file(url: str, path: Path, spoil: sqlite3.Connection) -> None:
    (page,) = spoil.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_runs_agent'").fetchone()
    (size,) = spoil.execute("PRAGMA page_size").fetchone()
    spoil.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((page - 1) * size + size - 40)
        file.write(b"\xff" * 40)

    assert [finding.where for finding in found(url)][:1] == ["file"]


@pytest.mark.usefixtures("filled")
def test_tables_of_others_in_the_same_database_are_none_of_our_business(url: str, database: Any) -> None:
    database.execute("CREATE TABLE checkpoints (thread_id TEXT)")

    assert found(url) == []


@pytest.mark.usefixtures("filled")
def test_only_as_many_runs_are_compared_as_asked_for(url: str, path: Path, spoil: sqlite3.Connection) -> None:
    spoil.execute("UPDATE runs SET error = 'E', created_at = '2020-01-01T00:00:00.000000Z' WHERE status = 'running'")

    assert [finding.where for finding in found(url, sample=None)] == ["runs"] * 3
    assert found(url, sample=9) == []
