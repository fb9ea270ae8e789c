"""How the database finds what is asked for most: by an index, without reading a whole table or sorting one."""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Select
from sqlalchemy.dialects import sqlite

from trackside.app.storage._queries import logged_events, newest_runs, newest_threads

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
CURSOR = "2026-01-01T00:00:00Z/x"

EVENTS = {
    "after": 7,
    "before": None,
    "newest_first": True,
    "run_id": None,
    "thread_id": None,
    "agent": None,
    "status": None,
    "types": None,
    "since": None,
    "limit": 50,
}
RECORDS = {
    "status": None,
    "agent": None,
    "thread_id": None,
    "since": None,
    "id_prefix": None,
    "before": None,
    "limit": 20,
}

LOG = "INTEGER PRIMARY KEY (rowid>?"
EVENTS_OF_RUN, RUN, THREAD = (f"sqlite_autoindex_{table}_1" for table in ("events", "runs", "threads"))
RUNS_OF_THREAD = "ix_runs_thread_id_created_at_run_id (thread_id=?)"
RUNS_OF_AGENT = "ix_runs_agent_created_at_run_id (agent=?)"
RUNS_OF_STATUS = "ix_runs_status_created_at_run_id (status=?)"

THROUGH_RUNS = {"run_id", "thread_id", "by_runs"}

# What is asked for, and by which index each table is read.
PLANS: list[tuple[Callable[..., Select[Any]], dict[str, Any], list[str]]] = [
    (logged_events, {}, [LOG]),
    (logged_events, {"newest_first": False}, [LOG]),
    (logged_events, {"before": 9, "types": ["run_failed"], "since": SINCE}, [f"{LOG} AND rowid<?)"]),
    (logged_events, {"agent": "chat"}, [LOG, f"{RUN} (run_id=?)"]),
    (logged_events, {"status": "error"}, [LOG, f"{RUN} (run_id=?)"]),
    (logged_events, {"agent": "rare", "by_runs": True}, [f"{EVENTS_OF_RUN} (run_id=?)", RUNS_OF_AGENT]),
    (logged_events, {"status": "error", "by_runs": True}, [f"{EVENTS_OF_RUN} (run_id=?)", RUNS_OF_STATUS]),
    (logged_events, {"run_id": "r"}, [f"{EVENTS_OF_RUN} (run_id=?)"]),
    (logged_events, {"thread_id": "t"}, [f"{EVENTS_OF_RUN} (run_id=?)", RUNS_OF_THREAD]),
    (newest_runs, {}, ["ix_runs_created_at_run_id"]),
    (newest_runs, {"before": CURSOR}, ["ix_runs_created_at_run_id ((created_at,run_id)<(?,?))"]),
    (newest_runs, {"since": SINCE}, ["ix_runs_created_at_run_id (created_at>?)"]),
    (newest_runs, {"agent": "a"}, ["ix_runs_agent_created_at_run_id (agent=?)"]),
    (newest_runs, {"status": "error"}, ["ix_runs_status_created_at_run_id (status=?)"]),
    (newest_runs, {"thread_id": "t"}, [RUNS_OF_THREAD]),
    (newest_runs, {"id_prefix": "01"}, [f"{RUN} (run_id>? AND run_id<?)"]),
    (newest_threads, {}, ["ix_threads_updated_at_thread_id"]),
    (newest_threads, {"since": SINCE}, ["ix_threads_updated_at_thread_id (updated_at>?)"]),
    (newest_threads, {"thread_id": "t"}, [f"{THREAD} (thread_id=?)"]),
    (newest_threads, {"id_prefix": "01"}, [f"{THREAD} (thread_id>? AND thread_id<?)"]),
    (newest_threads, {"agent": "a"}, ["ix_threads_updated_at_thread_id", RUNS_OF_THREAD]),
]


@pytest.mark.parametrize(
    ("query", "filters", "indexes"), PLANS, ids=[f"{query.__name__} {' '.join(filters)}" for query, filters, _ in PLANS]
)
@pytest.mark.usefixtures("store")
def test_an_index_serves_what_is_asked_for_most(
    database: sqlite3.Connection, query: Callable[..., Select[Any]], filters: dict[str, Any], indexes: list[str]
) -> None:
    every = EVENTS if query is logged_events else RECORDS
    compiled = query(**every | filters).compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})

    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {compiled}")]

    reads = [step for step in plan if step.startswith(("SCAN", "SEARCH"))]
    assert len(reads) == len(indexes), plan
    assert all(index in read for read, index in zip(reads, indexes, strict=True)), plan
    # The few events of a run or a thread, and the records that begin alike, may be sorted after they are found.
    is_sorted = any(step.startswith("USE TEMP B-TREE") for step in plan)
    assert not is_sorted or "id_prefix" in filters or (query is logged_events and THROUGH_RUNS & set(filters))
