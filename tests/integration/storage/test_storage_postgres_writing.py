"""PostgreSQL: what the one statement that writes a transaction relies on."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from typing import Any, override

import asyncpg
import pytest
from sqlalchemy import text

from trackside.app.storage import Store
from trackside.app.storage._databases.batch_rows import Step
from trackside.app.storage._databases.postgres.connections import PostgresDatabase
from trackside.app.storage._databases.postgres.statements import LOCK, TAKE_FIRST, writing
from trackside.app.storage._rows.encoding import encode_events
from trackside.app.storage._writing.appending import Append
from trackside.app.storage._writing.work import UnitOfWork, Work

DIALECTS = ["postgres"]
TABLES = ("threads", "runs", "active_runs", "counters")


@pytest.fixture
async def writer(store: Store, url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await PostgresDatabase.from_url(url).connect_writer()
    yield connection
    await connection.close()


@pytest.fixture
async def other(store: Store, url: str) -> AsyncIterator[Store]:
    async with Store.open(url) as other:
        yield other


async def plan(connection: asyncpg.Connection, statement: str) -> str:
    """The generic plan, for whatever parameters, that a connection keeps."""
    prepared = await connection.prepare(statement)
    nothing = ", ".join(["NULL"] * len(prepared.get_parameters()))
    await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE asked AS {statement}")
    rows = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE asked ({nothing})")
    await connection.execute("DEALLOCATE asked")
    return "\n".join(row[0] for row in rows)


async def test_rows_are_found_by_their_keys_even_where_the_plan_is_from_when_tables_were_small(
    writer: asyncpg.Connection, store: Store, script
) -> None:
    for analyzed in (False, True):
        if analyzed:
            await store.append(script().whole())
            await writer.execute("ANALYZE")
        for statement in (LOCK, writing(tuple(Step), events=True)):
            for line in (await plan(writer, statement)).splitlines():
                assert not any(f"Seq Scan on {table}" in line for table in TABLES), line
                assert "Hash Join" not in line
                assert "Merge Join" not in line


class Asked(Work):
    """What a statement returns in the writer's session."""

    def __init__(self, statement: str, **values: Any) -> None:
        self._statement = text(statement).bindparams(**values)

    @override
    def apply(self, unit: UnitOfWork) -> Any:
        return unit.session.execute(self._statement)


async def test_what_the_writer_says_again_and_again_is_planned_once(store: Store, script) -> None:
    for _ in range(4):
        await store.append(script().whole())
    planned = "SELECT statement, custom_plans, generic_plans FROM pg_prepared_statements"

    found = await store._writer.write(Asked(planned))

    ((_, anew, kept),) = [row for row in found if row[0] == LOCK]
    assert anew == 0
    assert kept >= 4


async def test_a_statement_with_values_in_it_may_be_planned_for_these(store: Store) -> None:
    asked = "SELECT current_setting('plan_cache_mode'), CAST(:n AS bigint)"

    assert await store._writer.write(Asked(asked, n=1)) == [("auto", 1)]
    assert await store._writer.write(Asked("SELECT current_setting('plan_cache_mode')")) == [("force_generic_plan",)]


async def test_each_step_waits_for_the_one_before_it_and_the_counter_for_all(writer: asyncpg.Connection) -> None:
    steps = tuple(Step)
    text = writing(steps, events=True)

    for before, after in pairwise(steps):
        part = text[text.index(f"{after} AS (") :].partition("RETURNING true")[0]
        assert f"(SELECT count(*) FROM {before}) >= 0" in part
    assert f"name = 'position' AND (SELECT count(*) FROM {steps[-1]}) >= 0" in text
    assert "One-Time Filter" in await plan(writer, text)


async def test_events_that_wait_for_the_counter_get_the_positions_behind_those_that_had_it(
    writer: asyncpg.Connection, store: Store, script
) -> None:
    await store.append(script().whole())
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute("UPDATE counters SET value = value + 3 WHERE name = 'position'")

    appending = asyncio.ensure_future(store.append(script().whole()))
    await _until_somebody_waits(writer)
    await transaction.commit()

    assert [one.position for one in await appending] == [9, 10, 11, 12, 13]
    assert len(await store.events()) == 10


async def test_a_thread_that_another_process_makes_at_this_moment_is_changed_and_not_made_again(
    store: Store, other: Store, script, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = script(), script()
    theirs.thread_id = mine.thread_id
    await store.append(script().whole())  # now both are connected
    late = encode_events([theirs.started(), theirs.thread("busy")])
    made: list[object] = []
    write = UnitOfWork.write

    def write_late(unit: UnitOfWork) -> None:
        if not made and unit.session is store._writer._session:
            made.append(other._writer.put(Append(late)))
            while not made[0].done():
                pass
        write(unit)

    monkeypatch.setattr(UnitOfWork, "write", write_late)
    await store.append([mine.started()])

    thread = await store.thread(mine.thread_id)
    assert thread is not None
    assert (thread.status, thread.last_run_id) == ("busy", mine.run_id)


async def _until_somebody_waits(connection: asyncpg.Connection) -> None:
    while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        await asyncio.sleep(0)


async def test_what_came_first_is_taken_without_reading_what_is_claimed(writer: asyncpg.Connection) -> None:
    transaction = writer.transaction()
    await transaction.start()
    for many in (False, True):
        if many:
            await writer.execute(
                "INSERT INTO active_runs (run_id, thread_id, state, multitask, holds, owner, portable)"
                " SELECT n, n, CASE WHEN n < 3000 THEN 'claimed' ELSE 'pending' END, 'enqueue', true,"
                " CASE WHEN n < 3000 THEN 'w' END, true FROM generate_series(1, 9000) AS n; ANALYZE active_runs"
            )
        found = await plan(writer, TAKE_FIRST)
        assert "ix_active_runs_offered" in found, found
        assert "pk_active_runs" not in found, found
    await transaction.rollback()  # these rows have no runs


async def test_who_stands_still_in_a_transaction_keeps_others_from_writing_for_less_than_they_wait(
    writer: asyncpg.Connection, store: Store, url: str, script
) -> None:
    """Like a process that was stopped or cut off there, whichever lock it holds."""
    await store.append(script().whole())
    settings = ("idle_in_transaction_session_timeout", "lock_timeout")
    idles, waits = [await writer.fetchval(f"SELECT current_setting('{name}')::interval") for name in settings]
    assert timedelta(0) < idles < waits
    async with Store.open(url, busy_timeout=60) as patient:  # a busy server ends nobody in time
        await writer.execute("BEGIN; SELECT value FROM counters FOR UPDATE")
        await patient.append(script().whole())
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
        await writer.execute("COMMIT")
