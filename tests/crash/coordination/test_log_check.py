"""The checks of these tests notice each thing that they are for."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from crash_children import Children
from log_check import Rows, found_wrong, positions

SPOILERS = {
    "the positions have a gap": "DELETE FROM events WHERE position = 5",
    "the counter is at": "UPDATE counters SET value = value + 1 WHERE name = 'position'",
    "has the sequences": "UPDATE events SET sequence = sequence + 100 WHERE event_type = 'run_completed'",
    "begins with": "UPDATE events SET event_type = 'human_message' WHERE event_type = 'run_started'",
    "starts twice": "UPDATE events SET event_type = 'run_started' WHERE sequence = 2",
    "ends: [": "UPDATE events SET event_type = 'run_failed' WHERE event_type = 'thread_status_updated'",
    "goes on after its end": "UPDATE events SET event_type = 'human_message' WHERE event_type = 'thread_status_updated'",
    "is on two threads": "UPDATE events SET thread_id = 'elsewhere' WHERE sequence = 2",
    "has events and no row": "UPDATE events SET run_id = 'nobody' WHERE position = 1",
    "the usage of run": "UPDATE usage SET input_tokens = input_tokens + 1",
    "the row of run": "UPDATE runs SET status = 'timeout' WHERE status = 'success'",
    "has runs and no row": "DELETE FROM threads",
    "and it says": """UPDATE events SET payload = json_set(payload, '$.status', 'busy')
        WHERE event_type = 'thread_status_updated'""",
    "the row of thread": "UPDATE threads SET status = 'busy'",
    "starts on thread": "UPDATE events SET thread_id = 'thread-0'",
    "overtook another": """UPDATE events SET payload = json_set(payload, '$.metadata.number', 1_000 - position,
        '$.metadata.in_line', json('true'), '$.metadata.caller', 'one') WHERE event_type = 'run_started'""",
    "still claimed in the queue": """INSERT INTO active_runs (run_id, thread_id, state, holds, multitask)
        SELECT run_id, thread_id, 'claimed', true, 'enqueue' FROM runs LIMIT 1""",
    "waits for thread": """INSERT INTO active_runs (run_id, thread_id, state, holds, multitask)
        SELECT run_id, 'free', 'pending', false, 'enqueue' FROM runs LIMIT 1""",
    "is held by 2 runs": """INSERT INTO active_runs (run_id, thread_id, state, holds, multitask)
        SELECT run_id, 'free', 'pending', true, 'enqueue' FROM runs LIMIT 2""",
    "has the labels": "DELETE FROM run_labels",
    "there is something of run": "UPDATE run_labels SET run_id = 'nobody' WHERE key = 'number'",
    "the run_totals of": "UPDATE run_totals SET runs = runs + 1 WHERE seconds = 3_600",
    "the duration_totals of": "DELETE FROM duration_totals WHERE seconds = 60",
    "the usage_totals of": "UPDATE usage_totals SET output_tokens = 0",
    "for ever": "UPDATE runs SET ended_at = NULL",
    "was acknowledged, and is lost": "UPDATE events SET event_id = 'another' WHERE position = 3",
    "is not as it was acknowledged": "UPDATE events SET payload = '{}' WHERE position = 1",
    "was let in, and is lost": """UPDATE runs SET run_id = 'another'
        WHERE run_id = (SELECT run_id FROM runs WHERE run_id NOT IN (SELECT run_id FROM usage) LIMIT 1)""",
    "and its start is not in the log": "UPDATE runs SET started_at = NULL",
    "was told to have ended as": "UPDATE runs SET status = 'pending'",
    "was told to name run": "DELETE FROM idempotency_keys",
    "and it is lost": "UPDATE runs SET error_type = 'worker_lost', started_at = NULL WHERE agent = 'quick'",
}


@pytest.fixture(scope="module")
def path(nursery: Children, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that was worked on, and left in peace."""
    path = tmp_path_factory.mktemp("whole") / "runs.db"
    nursery.begin_anew()
    child = nursery.make("manage", f"sqlite:///{path}", callers=4)
    child.wait_for("ended", 80)
    child.finish()
    return path


def test_nothing_is_wrong_with_what_nobody_spoiled(path: Path, nursery: Children) -> None:
    with closing(sqlite3.connect(path)) as database:
        assert found_wrong(database, nursery.told) == []


@pytest.mark.parametrize("what", SPOILERS)
def test_what_is_wrong_is_found(what: str, path: Path, nursery: Children, tmp_path: Path) -> None:
    spoiled = tmp_path / "runs.db"
    with closing(sqlite3.connect(path)) as database, closing(sqlite3.connect(spoiled, isolation_level=None)) as copy:
        database.backup(copy)
        for index in ("uq_events_one_end", "uq_active_runs_one_holder"):
            copy.execute(f"DROP INDEX {index}")
        assert copy.execute(SPOILERS[what]).rowcount > 0
        assert [said for said in found_wrong(copy, nursery.told) if what in said]


def test_what_was_executed_twice_is_found(path: Path, nursery: Children) -> None:
    again = nursery.told.begun[0]
    nursery.told.begun.append(again)
    with closing(sqlite3.connect(path)) as database:
        assert found_wrong(database, nursery.told) == [f"run {again} was executed 2 times"]
    nursery.told.begun.pop()


def test_positions_of_a_thread_that_was_removed_are_no_gap_and_others_are(path: Path, tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(path)) as database,
        closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as copy,
    ):
        database.backup(copy)
        last = Rows(copy).counter
        copy.execute(f"DELETE FROM events WHERE position IN (5, {last})")
        rows = Rows(copy)
    assert [*positions(rows, {5, last})] == []
    assert ["without [5]" in what for what in positions(rows, {last})] == [True]
    assert ["the counter is at" in what for what in positions(rows, {5})] == [True]
