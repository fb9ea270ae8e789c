"""SIGKILL at any moment: the database opens, holds every acknowledged event, and no run is half there (I2, I5, I6)."""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.crash.storage.forker import Forker

KILLS = 50
KILLS_OF_ONE_FILE = 10

# Each finds rows that must not be there. Written from the contract, without any of our code.
WRONG = {
    "positions have a gap": """
        SELECT count(*), min(position), max(position), (SELECT value FROM counters WHERE name = 'position') FROM events
        HAVING count(*) > 0 AND (min(position) != 1 OR max(position) != count(*)
            OR max(position) != (SELECT value FROM counters WHERE name = 'position'))""",
    "sequences have a gap": """
        SELECT run_id FROM events GROUP BY run_id HAVING min(sequence) != 1 OR max(sequence) != count(*)""",
    "sequence order is not position order": """
        SELECT a.run_id FROM events a JOIN events b ON b.run_id = a.run_id AND b.sequence = a.sequence + 1
        WHERE b.position < a.position""",
    "a run has two ends": """
        SELECT run_id FROM events WHERE event_type IN ('run_completed', 'run_failed', 'run_cancelled')
        GROUP BY run_id HAVING count(*) > 1""",
    "something followed the end": """
        SELECT a.run_id FROM events a JOIN events b ON b.run_id = a.run_id AND b.sequence > a.sequence
        WHERE a.event_type IN ('run_completed', 'run_failed', 'run_cancelled')
        AND b.event_type != 'thread_status_updated'""",
    "a run has events and no row, or a row and no events": """
        SELECT coalesce(e.run_id, r.run_id) FROM (SELECT DISTINCT run_id FROM events) e
        FULL JOIN runs r ON r.run_id = e.run_id WHERE r.run_id IS NULL OR e.run_id IS NULL""",
    "a run's row is not the fold of its events": """
        SELECT r.* FROM runs r
        JOIN events first ON first.run_id = r.run_id AND first.sequence = 1
        LEFT JOIN events last ON last.run_id = r.run_id
            AND last.event_type IN ('run_completed', 'run_failed', 'run_cancelled')
        WHERE (r.thread_id, r.agent, r.created_at, r.started_at, json(r.metadata), r.last_sequence) IS NOT (
            first.thread_id, first.payload ->> '$.agent', first.occurred_at, first.occurred_at,
            first.payload -> '$.metadata', (SELECT max(sequence) FROM events WHERE run_id = r.run_id))
        OR (r.status, r.ended_at, r.title, r.error, r.error_type, json(r.completion_data)) IS NOT (
            CASE last.event_type WHEN 'run_cancelled' THEN 'cancelled' ELSE coalesce(last.payload ->> '$.status', 'running')
            END, last.occurred_at, last.payload ->> '$.title', last.payload ->> '$.error', last.payload ->> '$.error_type',
            last.payload -> '$.completion_data')
        OR (r.total_input_tokens, r.total_output_tokens, r.message_count) IS NOT (
            coalesce(last.payload ->> '$.completion_data.total_input_tokens', 0),
            coalesce(last.payload ->> '$.completion_data.total_output_tokens', 0),
            coalesce(last.payload ->> '$.completion_data.message_count', 0))""",
    "a run's usage is not what its end says": """
        SELECT * FROM (
            SELECT e.run_id, m.key, m.value ->> '$.input_tokens' FROM events e, json_each(
                e.payload, '$.completion_data.token_usage_by_model') m
            EXCEPT SELECT run_id, name, input_tokens FROM usage WHERE kind = 'model'
        ) UNION ALL SELECT * FROM (
            SELECT run_id, name, input_tokens FROM usage WHERE kind = 'caller'
            EXCEPT SELECT e.run_id, m.key, m.value ->> '$.input_tokens' FROM events e, json_each(
                e.payload, '$.completion_data.token_usage_by_caller') m
        )""",
    "a thread's row is not what its events say": """
        SELECT t.* FROM threads t WHERE (t.status, t.last_run_id) IS NOT (
            coalesce((SELECT payload ->> '$.status' FROM events WHERE thread_id = t.thread_id
                AND event_type = 'thread_status_updated' ORDER BY position DESC LIMIT 1), 'idle'),
            (SELECT run_id FROM events WHERE thread_id = t.thread_id AND sequence = 1 ORDER BY position DESC LIMIT 1))
        OR t.updated_at != (SELECT max(occurred_at) FROM events WHERE thread_id = t.thread_id
            AND event_type != 'human_message')""",
}


class Appender(Forker):
    """The process next to this one that appends, and what it said."""

    def __init__(self) -> None:
        super().__init__("appender.py")

    def append_and_die(self, url: str, acknowledged: int, delay: float) -> dict[str, int]:
        """Let it append; kill it `delay` seconds after so many acknowledgements. Returns their positions by id."""
        return {event_id: int(position) for position, event_id in self.killed_life(url, acknowledged, delay)}


@pytest.fixture
def appender() -> Iterator[Appender]:
    with closing(Appender()) as appender:
        yield appender


def assert_whole(path: Path, acknowledged: dict[str, int]) -> None:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        for what, query in WRONG.items():
            assert database.execute(query).fetchall() == [], what
        stored = dict(database.execute("SELECT event_id, position FROM events"))
    assert {event_id: stored.get(event_id) for event_id in acknowledged} == acknowledged


def test_killed_fifty_times(appender: Appender, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)

    for file in range(KILLS // KILLS_OF_ONE_FILE):
        path = tmp_path / f"runs-{file}.db"
        acknowledged: dict[str, int] = {}
        for _ in range(KILLS_OF_ONE_FILE):
            before = len(acknowledged)
            # Some die while they open or make the database, most in the middle of the work.
            at_least = moments.choice([0, 1, 20, 100, 300])
            acknowledged |= appender.append_and_die(f"sqlite:///{path}", at_least, moments.uniform(0, 0.05))
            assert len(acknowledged) >= before + at_least  # it goes on where the killed one stopped
            if acknowledged:
                assert_whole(path, acknowledged)


def test_the_checks_notice_each_thing_that_they_are_for(appender: Appender, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    acknowledged = appender.append_and_die(f"sqlite:///{path}", 500, 0)
    spoilers = {
        "positions have a gap": "UPDATE counters SET value = value + 1",
        "sequences have a gap": "DELETE FROM events WHERE position = (SELECT min(position) FROM events WHERE sequence = 2)",
        "sequence order is not position order": """
            UPDATE events SET sequence = CASE sequence WHEN 1 THEN 2 ELSE 1 END
            WHERE sequence <= 2 AND run_id = (SELECT run_id FROM events WHERE sequence = 2 LIMIT 1)""",
        "a run has two ends": """
            UPDATE events SET event_type = 'run_failed'
            WHERE run_id = (SELECT run_id FROM events WHERE event_type = 'run_completed' LIMIT 1)""",
        "something followed the end": """
            UPDATE events SET event_type = 'human_message' WHERE position = (
                SELECT a.position FROM events a JOIN events b ON b.run_id = a.run_id AND b.sequence = a.sequence - 1
                WHERE b.event_type = 'run_failed' LIMIT 1)""",
        "a run has events and no row, or a row and no events": "DELETE FROM runs WHERE status = 'success'",
        "a run's row is not the fold of its events": "UPDATE runs SET status = 'running' WHERE status = 'timeout'",
        "a run's usage is not what its end says": "DELETE FROM usage WHERE kind = 'model' AND name = 'small'",
        "a thread's row is not what its events say": "UPDATE threads SET status = 'asleep'",
    }
    assert_whole(path, acknowledged)
    for what, spoil in spoilers.items():
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("BEGIN")
            database.execute("DROP INDEX uq_events_one_end")
            if what == "sequence order is not position order":
                _without_unique_sequences(database)
            assert database.execute(spoil).rowcount > 0
            assert database.execute(WRONG[what]).fetchall() != [], what
            database.execute("ROLLBACK")
    assert spoilers.keys() == WRONG.keys()
    assert_whole(path, acknowledged)


def _without_unique_sequences(database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE copy AS SELECT * FROM events")
    database.execute("DROP TABLE events")
    database.execute("ALTER TABLE copy RENAME TO events")
