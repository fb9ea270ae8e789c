"""The checks of attempts and of what threads remember notice each thing that they are for."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from chain_check import found_wrong
from crash_children import Children

SPOILERS = {
    "was started anew 2 times": """UPDATE runs
        SET retry_of = (SELECT retry_of FROM runs WHERE agent = 'lasting' AND attempt = 2)
        WHERE run_id = (SELECT run_id FROM runs WHERE agent = 'quick' LIMIT 1)""",
    "does not go on for": "UPDATE runs SET thread_id = 'elsewhere' WHERE attempt = 2",
    "which does not": "UPDATE runs SET retry_of = NULL WHERE attempt = 2",
    "of nothing": "UPDATE runs SET retry_of = NULL WHERE attempt = 2",
    "is attempt 9 of 3": "UPDATE runs SET attempt = 9 WHERE attempt = 2",
    "and does not go on": "UPDATE events SET payload = json_remove(payload, '$.retried_as')",
    "whose end does not say so": "UPDATE events SET payload = json_remove(payload, '$.retried_as')",
    "started as": "UPDATE events SET payload = json_set(payload, '$.attempt', 7) WHERE event_type = 'run_started'",
    "remembers 9": "UPDATE thread_states SET remembered = '{\"count\": 9}'",
    "succeeded, and thread": "DELETE FROM checkpoints",
    "was rolled back, and thread": """UPDATE runs
        SET status = 'cancelled', request = json_set(request, '$.input.input', 'one')
        WHERE agent = 'graph'""",
}


@pytest.fixture(scope="module")
def path(nursery: Children, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which everything has happened, and in which a process has cleared up."""
    folder = tmp_path_factory.mktemp("chains")
    path = folder / "runs.db"
    nursery.begin_anew()
    options = {"graphs": str(path), "spool": str(folder / "spool")}
    assert nursery.make("perform", f"sqlite:///{path}", seed=1, **options).wait() == 0
    assert nursery.make("clear up", f"sqlite:///{path}", **options).wait() == 0
    return path


def test_nothing_is_wrong_where_nobody_was_killed(path: Path) -> None:
    assert found_wrong(f"sqlite:///{path}", str(path)) == []


@pytest.mark.parametrize("what", SPOILERS)
def test_what_is_wrong_is_found(what: str, path: Path, tmp_path: Path) -> None:
    spoiled = tmp_path / "runs.db"
    with closing(sqlite3.connect(path)) as database, closing(sqlite3.connect(spoiled, isolation_level=None)) as copy:
        database.backup(copy)
        assert copy.execute(SPOILERS[what]).rowcount > 0
    assert [said for said in found_wrong(f"sqlite:///{spoiled}", str(spoiled)) if what in said]
