"""How databases find what is asked for: by an index, without reading or sorting a whole table."""

import io
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection, event, select

from trackside.app.storage import Store
from trackside.app.storage._coordination import fleet_reads
from trackside.app.storage._databases.postgres import statements as statements_module
from trackside.app.storage._databases.sqlite import session
from trackside.app.storage._reading import listings, queries, stats
from trackside.app.storage._rows.tables import EVENTS_AT_A_TIME, active_runs
from trackside.app.storage._threads import search as search_module
from trackside.app.storage.importing import EndLog
from trackside.app.storage.threads import ThreadQuery
from trackside.harness.lifecycle import FINAL_STATUSES

SINCE = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)
UNTIL = SINCE + timedelta(days=2)
CURSOR = "2026-01-01T00:00:00Z/x"

LOG = "events USING INTEGER PRIMARY KEY (rowid>?"
RARE = "ix_events_rare (event_type=? AND position>?"
EVENTS_OF_RUN = "sqlite_autoindex_events_1 (run_id=?"
RUN = "sqlite_autoindex_runs_1 (run_id=?"
RUNS_OF_THREAD = "COVERING INDEX ix_runs_thread (thread_id=?"
THREAD = "sqlite_autoindex_threads_1 (thread_id=?"
RUNS_OF_ITS_THREAD = "ix_runs_thread (thread_id=?"
RUNS_OF_STATUS = "ix_runs_status (status=?"
STATUS = f"COVERING INDEX {RUNS_OF_STATUS}"
RUNS_OF_AGENT = "COVERING INDEX ix_runs_agent (agent=?"
AGENT = "ix_runs_agent (agent=?"
CHILDREN = "ix_runs_parent (parent_run_id=?"
OWNER = "ix_threads_owner (owner=?"
THREADS_OF_STATUS = "ix_threads_status (status=?"
HELD = "sqlite_autoindex_threads_1 (thread_id=?"
HOLDER = "active_runs USING INDEX uq_active_runs_one_holder"
LABEL = "run_labels USING PRIMARY KEY (key=? AND value=?"
LABEL_OF_RUN = "USING PRIMARY KEY (key=? AND value=? AND created_at=?"
LABEL_OF_THREADS = "thread_labels USING PRIMARY KEY (key=? AND value=?)"
LABEL_OF_THREAD = "thread_labels USING PRIMARY KEY (key=? AND value=? AND thread_id=?)"
BEHIND = "(created_at,run_id)<(?,?)"
BEFORE = "(created_at,run_id)>(?,?)"

# What is asked for; whether few records fit; which indexes find them.
ASKED: list[tuple[str, dict[str, Any], bool, list[str]]] = [
    ("events", {}, False, [LOG]),
    ("events", {"before": 9, "newest_first": True}, False, [f"{LOG} AND rowid<?"]),
    ("events", {"types": "human_message", "before": 9}, False, [f"{LOG} AND rowid<?"]),
    ("events", {"types": "run_failed"}, False, [RARE]),
    ("events", {"types": ["run_failed", "run_cancelled"], "newest_first": True}, False, [RARE, RARE]),
    ("events", {"types": "run_failed", "agent": "chat"}, False, [RARE, RUN]),
    ("events", {"types": "run_failed", "run_id": "r"}, True, [EVENTS_OF_RUN]),
    ("events", {"agent": "chat"}, False, [LOG, RUN]),
    ("events", {"status": "error"}, False, [LOG, RUN]),
    ("events", {"thread_id": "t"}, False, [LOG]),
    ("events", {"agent": "rare"}, True, [EVENTS_OF_RUN, RUNS_OF_AGENT]),
    ("events", {"status": "error"}, True, [EVENTS_OF_RUN, RUNS_OF_STATUS]),
    ("events", {"thread_id": "t"}, True, [EVENTS_OF_RUN, RUNS_OF_THREAD]),
    ("events", {"run_id": "r"}, True, [EVENTS_OF_RUN]),
    ("run_with_events", {"run_id": "r"}, True, [RUN]),
    ("runs", {}, False, [STATUS] * 7),
    ("runs", {"before": CURSOR}, False, [f"{STATUS} AND {BEHIND}"] * 7),
    ("runs", {"after": CURSOR}, False, [f"{STATUS} AND {BEFORE}"] * 7),
    ("runs", {"since": SINCE, "until": UNTIL}, False, [f"{STATUS} AND created_at>? AND created_at<?"] * 7),
    ("runs", {"status": "error", "before": CURSOR}, False, [f"{STATUS} AND {BEHIND}"]),
    ("runs", {"agent": "a"}, False, [f"{RUNS_OF_AGENT} AND status=?"] * 7),
    ("runs", {"agent": "a", "removed": True}, False, [f"{RUNS_OF_AGENT} AND status=?"] * 7),
    ("runs", {"agent": "a", "status": "error", "after": CURSOR}, False, [f"{AGENT} AND status=? AND {BEFORE}"]),
    ("runs", {"thread_id": "t", "removed": True, "before": CURSOR}, False, [f"{RUNS_OF_THREAD} AND {BEHIND}"]),
    ("runs", {"thread_id": "t", "status": "error"}, True, [f"COVERING INDEX {RUNS_OF_ITS_THREAD}", STATUS]),
    ("runs", {"thread_id": "t", "status": "error"}, False, [RUNS_OF_STATUS]),
    ("runs", {"parent_run_id": "r", "before": CURSOR}, False, [f"{CHILDREN} AND {BEHIND}"]),
    ("runs", {"parent_run_id": "r", "status": "error", "agent": "a", "owner": "me"}, False, [CHILDREN]),
    ("runs", {"waiting": True}, True, [RUN, THREADS_OF_STATUS, RUNS_OF_ITS_THREAD, EVENTS_OF_RUN]),
    (
        "runs",
        {"waiting": True, "before": CURSOR},
        False,
        [f"{RUNS_OF_STATUS} AND {BEHIND}", THREAD, RUN, RUNS_OF_ITS_THREAD, EVENTS_OF_RUN],
    ),
    ("runs", {"metadata": {"user": "a"}, "before": CURSOR}, False, [f"{LABEL} AND {BEHIND}"]),
    ("runs", {"metadata": {"user": "a", "x": 1}}, True, [LABEL, RUN, LABEL_OF_RUN]),
    ("runs", {"metadata": {"user": "a"}, "status": "error"}, True, [LABEL, STATUS]),
    ("runs", {"metadata": {"user": "a"}, "status": "error"}, False, [RUNS_OF_STATUS, LABEL_OF_RUN]),
    ("runs", {"id_prefix": "01"}, True, ["sqlite_autoindex_runs_1 (run_id>? AND run_id<?)"]),
    ("runs", {"id_prefix": "01", "status": "error"}, False, [RUNS_OF_STATUS]),
    ("runs", {"owner": "me"}, True, [OWNER]),
    ("runs", {"owner": "me"}, False, [RUNS_OF_STATUS] * 7),
    ("events", {"owner": "me"}, True, [EVENTS_OF_RUN, OWNER]),
    ("events", {"owner": "me"}, False, [LOG]),
    ("events", {"owner": "me", "thread_id": "t"}, True, [EVENTS_OF_RUN, RUNS_OF_THREAD]),
    ("threads", {"owner": "me"}, True, [OWNER]),
    ("threads", {"owner": "me"}, False, [THREADS_OF_STATUS] * 4),
    ("threads", {"removed": True}, False, [*[THREADS_OF_STATUS] * 4, *["ix_threads_removed (status=?"] * 4]),
    ("threads", {}, False, [THREADS_OF_STATUS] * 4),
    ("threads", {"since": SINCE}, False, [f"{THREADS_OF_STATUS} AND updated_at>?"] * 4),
    ("threads", {"status": "busy", "before": CURSOR}, False, [f"{THREADS_OF_STATUS} AND (updated_at,thread_id)<(?,?)"]),
    ("threads", {"status": "busy", "after": CURSOR}, False, [f"{THREADS_OF_STATUS} AND (updated_at,thread_id)>(?,?)"]),
    ("threads", {"thread_id": "t"}, True, ["sqlite_autoindex_threads_1 (thread_id=?"]),
    ("threads", {"id_prefix": "01"}, True, ["sqlite_autoindex_threads_1 (thread_id>? AND thread_id<?)"]),
    ("threads", {"agent": "a", "status": "idle"}, False, [THREADS_OF_STATUS, RUNS_OF_THREAD]),
    ("threads", {"agent": "a", "status": "idle"}, True, ["sqlite_autoindex_threads_1 (thread_id=?", RUNS_OF_AGENT]),
    ("threads", {"metadata": {"user": "a"}}, True, ["sqlite_autoindex_threads_1 (thread_id=?", LABEL]),
]
# What clients look for; for whom; whether few threads fit; which indexes find them.
SEARCHED: list[tuple[dict[str, Any], str | None, bool, list[str]]] = [
    ({}, None, False, [THREADS_OF_STATUS] * 4),
    ({"status": "error"}, None, False, [THREADS_OF_STATUS]),
    ({"status": "idle"}, None, False, [THREADS_OF_STATUS, HELD, f"{HOLDER} (thread_id=?"]),
    ({"status": "idle", "sort_by": "created_at"}, None, False, [THREADS_OF_STATUS, f"{HOLDER} (thread_id=?"]),
    ({"status": "busy"}, None, False, [THREADS_OF_STATUS, HELD]),
    ({"status": ["busy", "idle"]}, None, False, [THREADS_OF_STATUS] * 2 + [HELD]),
    ({"status": "busy"}, "me", True, [OWNER, f"{HOLDER} (thread_id=?"]),
    ({"status": "busy", "metadata": {"deep": {"n": 1}}}, None, False, [THREADS_OF_STATUS, HELD]),
    ({"sort_by": "status"}, None, False, [THREADS_OF_STATUS]),
    ({"agent": "chat"}, None, False, [THREADS_OF_STATUS] * 4),
    ({"agent": "chat"}, "me", False, [THREADS_OF_STATUS] * 4),
    ({}, "me", True, [OWNER]),
    ({"metadata": {"user": "a"}}, None, True, [LABEL_OF_THREADS]),
    ({"metadata": {"user": "a"}}, "me", True, [LABEL_OF_THREADS]),
    ({"metadata": {"user": "a"}}, None, False, [THREADS_OF_STATUS, LABEL_OF_THREAD]),
    ({"metadata": {"deep": {"n": 1}}}, "me", True, [OWNER]),
    ({"metadata": {"deep": {"n": 1}}}, None, False, [THREADS_OF_STATUS]),
    ({"values": {"said": 1}, "metadata": {"user": "a"}}, None, True, [LABEL_OF_THREADS]),
    ({"ids": ["t", "u"]}, "me", True, ["sqlite_autoindex_threads_1 (thread_id=?"]),
    ({"sort_by": "created_at"}, None, False, [THREADS_OF_STATUS]),
]

TOTALS: list[tuple[str, dict[str, Any]]] = [
    ("stats", {}),
    ("stats", {"since": SINCE, "until": UNTIL}),
    ("stats", {"since": SINCE, "agent": "a", "status": ["error", "running"]}),
    ("stats", {"thread_id": "t"}),
    ("timeline", {"since": SINCE, "until": UNTIL}),
    ("timeline", {"since": SINCE, "until": UNTIL, "width": timedelta(minutes=5), "agent": "a"}),
]


class Step(NamedTuple):
    """A line of one of SQLite's plans."""

    id: int
    parent: int
    unused: int
    what: str


async def statements_of(store: Store, ask: Callable[[], Awaitable[object]]) -> list[tuple[str, Any]]:
    """The queries that the database gets meanwhile."""
    seen: list[tuple[str, Any]] = []

    def see(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: Any) -> None:
        if statement.lstrip().startswith("SELECT"):
            seen.append((statement, parameters))

    engine = await store._readers.run(lambda connection: connection.engine)
    event.listen(engine, "before_cursor_execute", see)
    try:
        await ask()
    finally:
        event.remove(engine, "before_cursor_execute", see)
    return seen


async def plans_of(store: Store, dialect: str, ask: Callable[[], Awaitable[object]]) -> list[list[Any]]:
    """How the database answers what is asked."""
    statements = await statements_of(store, ask)

    def explain(connection: Connection) -> list[list[Any]]:
        if dialect == "postgres":
            # PostgreSQL scans a table without rows unless that is forbidden.
            for setting in ("enable_seqscan", "enable_bitmapscan"):
                connection.exec_driver_sql(f"SET LOCAL {setting} = off")
        explaining = "EXPLAIN QUERY PLAN" if dialect == "sqlite" else "EXPLAIN"
        return [connection.exec_driver_sql(f"{explaining} {text}", values).all() for text, values in statements]

    return await store._readers.run(explain)


def assert_no_table_is_read_as_a_whole(dialect: str, plans: list[list[Any]]) -> None:
    assert plans
    for plan in plans:
        lines = [str(row[-1]) for row in plan]
        if dialect == "sqlite":
            whole = [line for line in lines if line.startswith("SCAN") and not line.startswith("SCAN anon_")]
            assert not [line for line in whole if line != f"SCAN {HOLDER}"], lines  # it has few rows
        else:
            assert not [line for line in lines if "Seq Scan" in line], lines


@pytest.mark.parametrize(
    ("method", "filters", "few", "indexes"),
    ASKED,
    ids=[f"{method} {filters} {few}" for method, filters, few, _ in ASKED],
)
async def test_an_index_leads_to_each_page(
    store: Store,
    dialect: str,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    filters: dict[str, Any],
    few: bool,
    indexes: list[str],
) -> None:
    for module, name in ((listings, "FEW"), (queries, "FEW_RUNS")):
        monkeypatch.setattr(module, name, 0 if few else -1)

    plans = await plans_of(store, dialect, lambda: getattr(store, method)(**filters))

    assert_no_table_is_read_as_a_whole(dialect, plans)
    if dialect == "sqlite":
        steps = [Step(*row) for plan in plans for row in plan]
        searches = [step.what for step in steps if step.what.startswith("SEARCH")]
        for index in {*indexes}:
            assert sum(index in search for search in searches) >= indexes.count(index), searches
        if not few:
            for plan in plans:
                assert_only_a_page_is_sorted([Step(*row) for row in plan])


@pytest.mark.parametrize(("query", "owner", "few", "indexes"), SEARCHED, ids=str)
async def test_an_index_leads_to_the_threads_that_clients_search_for(
    store: Store,
    dialect: str,
    monkeypatch: pytest.MonkeyPatch,
    query: dict[str, Any],
    owner: str | None,
    few: bool,
    indexes: list[str],
) -> None:
    monkeypatch.setattr(search_module, "FEW", 0 if few else -1)
    await store.threads_of(None).create(belongs_to="someone")  # otherwise nothing is searched after the count

    threads = store.threads_of(owner)
    plans = await plans_of(store, dialect, lambda: threads.search(ThreadQuery(**query)))

    assert_no_table_is_read_as_a_whole(dialect, plans)
    if dialect == "sqlite":
        searches = [str(row[-1]) for plan in plans for row in plan if str(row[-1]).startswith("SEARCH")]
        for index in {*indexes}:
            assert any(index in search for search in searches), searches


async def test_runs_that_are_ready_are_found_in_their_order(store: Store, dialect: str) -> None:
    query = fleet_reads._of_pool(select(active_runs.c.run_id), "default").limit(10)

    (plan,) = await plans_of(store, dialect, lambda: store._readers.all(query, tuple))

    lines = " ".join(str(row[-1]) for row in plan)
    assert "ix_active_runs_ready" in lines
    assert "B-TREE" not in lines
    assert "Sort" not in lines


async def test_a_worker_reads_no_runs_of_agents_that_it_does_not_have(store: Store, dialect: str) -> None:
    def explain(connection: Connection) -> list[str]:
        if dialect == "sqlite":
            values = ('["default"]', '["work"]', "[]", None, "", 1)
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {session._TAKE_FIRST}", values)
        else:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            said = {
                "$1": "'me'",
                "$2": "'{work}'",
                "$3": "NULL",
                "$4": "'{}'",
                "$5": "''",
                "$6": "'{default}'",
                "$7": "1",
            }
            statement = re.sub(r"\$\d", lambda found: said[found[0]], statements_module.TAKE_FIRST)
            rows = connection.exec_driver_sql(f"EXPLAIN {statement}")
        return [str(row[-1]) for row in rows]

    lines = await store._readers.run(explain)

    if dialect == "sqlite":
        assert "SEARCH a USING INDEX ix_active_runs_offered (pool=? AND agent=?)" in lines
    else:
        by_agent = "Index Scan using ix_active_runs_offered on active_runs a"
        assert [after for line, after in pairwise(lines) if by_agent in line and "agent >=" in after], lines


async def test_who_prunes_looks_among_the_runs_of_a_thread_for_one_that_asked_later(store: Store, dialect: str) -> None:
    """Searching all runs that have asked would repeat that search for each such run."""
    plans = await plans_of(store, dialect, lambda: store.prune(older_than=timedelta(days=1)))

    looks = [lines for plan in plans if (lines := [str(row[-1]) for row in plan]) and "runs_1" in str(lines)]
    assert len(looks) >= len(FINAL_STATUSES)
    for lines in looks:
        by_thread = (
            "runs_1 USING INDEX ix_runs_thread (thread_id=?" if dialect == "sqlite" else "ix_runs_thread on runs runs_1"
        )
        assert [line for line in lines if by_thread in line], lines


OF_A_THREAD: dict[str, Callable[[Store], Awaitable[object]]] = {
    "its runs": lambda store: store.threads_of(None).runs("t", status="success"),
    "its active runs": lambda store: store.threads_of(None).active_runs(thread_id="t", status="running"),
    "its figures": lambda store: store.stats(thread_id="t", status="success"),
    "its figures, by agent": lambda store: store.stats(thread_id="t", agent="a", status=["success", "error"]),
    "its figures, since then": lambda store: store.stats(thread_id="t", since=SINCE),
    "what is removed of it": lambda store: store.prune(
        older_than=timedelta(days=1), thread_id="t", agent="a", status="success"
    ),
}


@pytest.mark.parametrize("what", OF_A_THREAD)
async def test_what_is_asked_of_a_thread_is_looked_for_among_its_runs(store: Store, dialect: str, what: str) -> None:
    """Among all of a status, it would take longer the more others there are: SQLite has no statistics of its tables."""
    await store.threads_of(None).create("t")

    plans = await plans_of(store, dialect, lambda: OF_A_THREAD[what](store))

    lines = [str(row[-1]) for plan in plans for row in plan]
    of_runs = "SEARCH runs USING" if dialect == "sqlite" else " on runs"
    searches = [line for line in lines if of_runs in line and "runs_pkey" not in line and "(run_id=?)" not in line]
    assert searches
    assert all("ix_runs_thread" in line for line in searches), searches


async def test_an_export_of_a_thread_looks_among_its_runs(store: Store, dialect: str, script) -> None:
    for thread_id in ("t", "u", "v"):
        await store.append(script(thread_id=thread_id).whole())

    plans = await plans_of(store, dialect, lambda: store.export_events(io.BytesIO(), thread_id="t"))

    of_events = [lines for plan in plans if "events" in (lines := " ".join(str(row[-1]) for row in plan))]
    assert of_events
    for lines in of_events:
        if dialect == "sqlite":
            assert f"COVERING INDEX {EVENTS_OF_RUN}" in lines
            assert LOG not in lines
            assert RUNS_OF_THREAD in lines
        else:  # with so few rows, which of its indexes PostgreSQL takes is chance
            assert "ix_runs_thread" in lines or "uq_events_run_id_sequence" in lines
            assert "Seq Scan" not in lines


async def test_an_export_since_a_time_begins_where_events_can_be_as_young(store: Store, script) -> None:
    await store.append([script(start=SINCE - timedelta(days=1)).started()])
    await store._writer.write(EndLog(9_999))
    await store.append([script(start=SINCE).started()])

    statements = await statements_of(store, lambda: store.export_events(io.BytesIO(), since=SINCE))

    first, *_ = (values for text, values in statements if "FROM events" in text)
    assert 2 * EVENTS_AT_A_TIME - 1 in first


async def test_an_export_finds_what_was_deleted_by_an_index(store: Store, script, path: Path) -> None:
    deleted = script(thread_id="t")
    await store.append([*deleted.whole(), *script(thread_id="t").whole()])
    await store.remove_run("t", deleted.run_id)

    for chosen, leads in (
        ({}, [RUNS_OF_STATUS, RUN]),
        ({"thread_id": "t"}, [RUNS_OF_ITS_THREAD, RUN]),
        ({"run_id": deleted.run_id}, [RUN]),
    ):
        plans = await plans_of(store, "sqlite", lambda chosen=chosen: store.export_events(io.BytesIO(), **chosen))
        searches = " ".join(str(row[-1]) for plan in plans for row in plan)
        assert [index for index in leads if index not in searches] == []
        assert "SCAN runs" not in searches


async def test_what_waits_for_the_sweeper_is_found_among_itself(store: Store, dialect: str) -> None:
    plans = await plans_of(store, dialect, store.sweeper().sweep)

    assert_no_table_is_read_as_a_whole(dialect, plans)
    if dialect == "sqlite":
        searches = " ".join(str(row[-1]) for plan in plans for row in plan)
        for index in (
            "ix_threads_expires_at",
            "ix_threads_to_forget (ends=? AND removed_at>?)",
            "ix_threads_to_forget (ends=? AND removed_at>? AND removed_at<?)",
            "ix_threads_to_delete",
        ):
            assert index in searches


def assert_only_a_page_is_sorted(plan: list[Step]) -> None:
    """Only pages found in order, or records looked up by the keys in one, may be sorted."""
    for sort in (step for step in plan if "TEMP B-TREE" in step.what):
        sorted_ = [
            step.what for step in plan if step.parent == sort.parent and step.what.startswith(("SCAN", "SEARCH"))
        ]
        by_key = ("(run_id=?)", "(thread_id=?)", "(rowid=?)")
        found = [what.removesuffix(" LEFT-JOIN") for what in sorted_]
        assert all(what.startswith("SCAN anon_") or what.endswith(by_key) for what in found), plan


@pytest.mark.parametrize("few", [1_000, -1], ids=["few runs", "many runs"])
@pytest.mark.parametrize(("method", "filters"), TOTALS, ids=str)
async def test_totals_read_no_table_as_a_whole(
    store: Store, dialect: str, monkeypatch: pytest.MonkeyPatch, method: str, filters: dict[str, Any], few: int
) -> None:
    monkeypatch.setattr(stats, "FEW_RUNS", few)

    plans = await plans_of(store, dialect, lambda: getattr(store, method)(**filters))

    assert_no_table_is_read_as_a_whole(dialect, plans)
