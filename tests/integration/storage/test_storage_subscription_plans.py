"""What consumers and operators of subscriptions look up costs the same in a long log: an index leads to each part."""

from typing import Any

import pytest
from sqlalchemy import Connection, Select

from trackside.app.storage import Store
from trackside.app.storage._subscriptions import reads
from trackside.app.storage._subscriptions.reads import (
    STRETCH,
    first_position,
    how_many_fit,
    parked,
    retries,
    standing,
    wanted_events,
)
from trackside.app.storage._subscriptions.records import SubscriptionFilter
from trackside.testing import make_event

LOG = {"sqlite": "INTEGER PRIMARY KEY (rowid>?", "postgres": "using pk_events"}
OF_RUN = {"sqlite": "sqlite_autoindex_runs_1 (run_id=?)", "postgres": "using pk_runs"}
PARKED = {"sqlite": "sqlite_autoindex_parked_events_1 (subscription=?", "postgres": "using pk_parked_events"}
RETRIES = {"sqlite": "ix_parked_events_retry (subscription=?", "postgres": "using ix_parked_events_retry"}


def next_ones(**wishes: Any) -> Select[Any]:
    return wanted_events(SubscriptionFilter.of(**wishes).conditions(), 1_000_000, 1_000_000 + STRETCH).limit(100)


ASKED: list[tuple[str, Select[Any], list[dict[str, str]]]] = [
    ("where the log goes on", first_position(1_000_000), [LOG]),
    ("all", next_ones(), [LOG]),
    ("of types", next_ones(types=["run_started", "human_message"]), [LOG]),
    ("of a thread", next_ones(thread_id="t"), [LOG]),
    ("of an agent", next_ones(agent="chat"), [LOG, OF_RUN]),
    ("how one stands", standing("mail"), [LOG, PARKED]),
    ("how all stand", standing(), [LOG, PARKED]),
    ("what is parked", parked("mail", after=7, limit=10), [PARKED]),
    ("what is to be retried", retries("mail", through=1_000_000).limit(10), [RETRIES]),
]


@pytest.mark.parametrize(("query", "indexes"), [asked[1:] for asked in ASKED], ids=[asked[0] for asked in ASKED])
async def test_an_index_leads_there(
    store: Store, dialect: str, query: Select[Any], indexes: list[dict[str, str]]
) -> None:
    plan = await plan_of(store, dialect, query)

    for index in indexes:
        assert [line for line in plan if index[dialect] in line], plan
    assert not [line for line in plan if "SCAN events" in line or "Seq Scan on events" in line], plan
    assert not [line for line in plan if "TEMP B-TREE" in line], plan
    if dialect == "postgres" and "LIMIT" in str(query) and "count" not in str(query):
        assert not [line for line in plan if "Sort" in line], plan


async def plan_of(store: Store, dialect: str, query: Select[Any]) -> list[str]:
    def explain(connection: Connection) -> list[str]:
        if dialect == "postgres":
            # PostgreSQL scans a table without rows unless that is forbidden.
            for setting in ("enable_seqscan", "enable_bitmapscan"):
                connection.exec_driver_sql(f"SET LOCAL {setting} = off")
        compiled = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        explaining = "EXPLAIN QUERY PLAN" if dialect == "sqlite" else "EXPLAIN"
        return [str(row[-1]) for row in connection.exec_driver_sql(f"{explaining} {compiled}")]

    return await store._readers.run(explain)


async def test_postgres_is_asked_for_no_more_than_fits(store: Store, dialect: str) -> None:
    """It sends all the rows it is asked for at once."""
    if dialect != "postgres":
        pytest.skip("SQLite gives one row after another")
    messages = [make_event("human_message", sequence=n, payload={"said": "x" * 1_000}) for n in range(2, 9)]
    await store.append([make_event("run_started"), *messages])
    query = wanted_events([], 1, 7).limit(5)

    def ask(connection: Connection) -> list[tuple[int, int]]:
        return [tuple(connection.execute(how_many_fit(query, size)).one()) for size in (1, 2_000, 2_500, 9_999)]

    assert await store._readers.run(ask) == [(1, 5), (2, 5), (3, 5), (5, 5)]
    for asked in (next_ones(), next_ones(agent="chat"), retries("mail", through=1_000_000).limit(10)):
        plan = await plan_of(store, dialect, how_many_fit(asked, 1_000))
        assert not [line for line in plan if "Seq Scan on events" in line or "Sort" in line], plan


async def test_what_was_pruned_is_not_looked_through(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where retention has left a wide hole, the next stretch begins after it."""
    monkeypatch.setattr(reads, "STRETCH", 3)
    for run in ("old", "new"):
        await store.append([make_event("run_started", run_id=run, thread_id=run)])
        await store.append([make_event("human_message", run_id=run, thread_id=run, sequence=n) for n in range(2, 11)])
        await store.append([make_event("run_failed", run_id=run, thread_id=run, sequence=11)])
    await store.prune(older_than=None, thread_id="old")
    await store.subscriptions.open("mail", start="beginning")

    async with await store.subscriptions.acquire("mail") as consumer:
        batch = await consumer.read(2)

    assert [stored.position for stored in batch.events] == [12, 13]
