"""PostgreSQL: locks, lost connections and servers that go away become clear errors or go unnoticed; then all is well."""

import asyncio
from functools import partial

import pytest
from postgres_server import PostgresServer
from raw_postgres import RawConnection
from sqlalchemy import Connection, text

from trackside.app.storage import Store
from trackside.app.storage._databases.postgres import backend as backend_module
from trackside.app.storage.errors import (
    ConnectionLostError,
    DatabaseBusyError,
    ReadBlockedError,
    ReadersBusyError,
    ReadLostError,
    ServerUnreachableError,
)

DIALECTS = ["postgres"]
PATIENCE = 60.0
"""Seconds that a server has to start, on however busy a machine."""


async def end_sessions(database: RawConnection) -> None:
    await asyncio.to_thread(
        database.execute,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid != pg_backend_pid()",
    )


async def test_a_lock_that_another_holds_is_waited_for_only_so_long(url: str, database: RawConnection, script) -> None:
    event = script().started()
    async with Store.open(url, busy_timeout=0.05) as store:
        await asyncio.to_thread(database.execute, "BEGIN")
        await asyncio.to_thread(database.execute, "LOCK TABLE counters")
        with pytest.raises(DatabaseBusyError, match=r"0\.05 s") as busy:
            await store.append([event])
        await asyncio.to_thread(database.execute, "ROLLBACK")

        assert busy.value.retryable
        assert [stored.position for stored in await store.append([event])] == [1]


async def test_all_connections_that_read_are_busy(url: str, database: RawConnection) -> None:
    async with Store.open(url, busy_timeout=1) as store:
        await asyncio.to_thread(database.execute, "BEGIN")
        await asyncio.to_thread(database.execute, "LOCK TABLE events")
        reads = await asyncio.gather(*(store.events() for _ in range(24)), return_exceptions=True)
        await asyncio.to_thread(database.execute, "ROLLBACK")

        assert {type(read) for read in reads} == {ReadBlockedError, ReadersBusyError}
        assert "written" not in " ".join(map(str, reads))
        assert await store.events() == []


async def test_a_long_line_of_reads_is_no_failure(url: str) -> None:
    def slowly(connection: Connection) -> object:
        return connection.scalar(text("SELECT pg_sleep(0.1)::text"))

    async with Store.open(url, busy_timeout=1) as store:  # far less than all of these take on a few connections
        assert await asyncio.gather(*(store._readers.run(slowly) for _ in range(80))) == [""] * 80


async def test_a_connection_that_was_lost_is_made_anew_unnoticed(store: Store, database: RawConnection, script) -> None:
    run = script()
    await store.append([run.started()])
    await store.events()
    await end_sessions(database)

    stored = await store.append([run.message(), run.completed()])

    assert [event.position for event in stored] == [2, 3]
    assert len(await store.events()) == 3


async def test_reads_whose_connections_were_cut_are_done_on_others(
    store: Store, database: RawConnection, script
) -> None:
    await store.append(script().whole())
    await asyncio.gather(*(store.events() for _ in range(4)))  # on all connections of the pool
    await end_sessions(database)

    assert [len(found) for found in await asyncio.gather(*(store.events() for _ in range(8)))] == [5] * 8


async def test_single_statements_whose_connections_were_cut_are_done_on_others(
    store: Store, database: RawConnection
) -> None:
    read = partial(store._readers.rows, {"postgresql": "SELECT 5 FROM pg_sleep(0.1)"})
    await asyncio.gather(*(read() for _ in range(4)))  # on all connections of the pool
    await end_sessions(database)

    assert await asyncio.gather(*(read() for _ in range(8))) == [[(5,)]] * 8


async def test_closing_lets_reads_end_that_are_under_way_and_leaves_no_connection(
    url: str, database: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "_PARTING", PATIENCE)  # they have to connect first
    async with Store.open(url) as store:
        slow = [
            store._readers.run(lambda connection: connection.scalar(text("SELECT 5 FROM pg_sleep(0.2)"))),
            store._readers.rows({"postgresql": "SELECT 5 FROM pg_sleep(0.2)"}),
        ]
        reading = asyncio.gather(*slow)
        await asyncio.sleep(0)  # they begin

    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
    async with asyncio.timeout(30):
        while database.execute(others).fetchall() != [(0,)]:  # the server tells nobody
            await asyncio.sleep(0.01)
    assert await reading == [5, [(5,)]]


async def test_a_read_that_is_cut_off_in_the_middle_is_done_again(store: Store, database: RawConnection) -> None:
    read = 0

    def read_and_be_cut_off(connection: Connection) -> int:
        nonlocal read
        read += 1
        if read == 1:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return int(connection.scalar(text("SELECT 5")))

    assert await store._readers.run(read_and_be_cut_off) == 5
    assert read == 2


async def test_a_read_whose_loss_is_noticed_late_is_done_again(url: str) -> None:
    read = 0

    def read_and_be_cut_off(connection: Connection) -> int:
        nonlocal read
        read += 1
        if read == 1:  # as a connection that goes silent: nobody knows until its patience is over
            connection.execute(text("SELECT pg_sleep(0.5), pg_terminate_backend(pg_backend_pid())"))
        return int(connection.scalar(text("SELECT 5")))

    async with Store.open(url, busy_timeout=0.2) as store:
        assert await store._readers.run(read_and_be_cut_off) == 5
    assert read == 2


async def test_a_read_that_is_always_cut_off_says_so_and_not_that_nothing_was_written(url: str) -> None:
    async with Store.open(url, busy_timeout=0.1) as store:
        with pytest.raises(ReadLostError, match="was lost in a read") as lost:
            await store._readers.run(
                lambda connection: connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
            )

    assert lost.value.retryable
    assert "written" not in str(lost.value)


async def test_a_server_that_restarts_is_waited_for(own_postgres_server: PostgresServer, script) -> None:
    url = own_postgres_server.create_database("runs")
    run = script()
    async with Store.open(url, busy_timeout=PATIENCE) as store:
        await store.append([run.started()])
        own_postgres_server.stop("immediate")
        append = asyncio.ensure_future(store.append([run.completed()]))
        read = asyncio.ensure_future(store.events())
        await asyncio.to_thread(own_postgres_server.start)

        assert [stored.position for stored in await append] == [2]
        assert len(await read) in {1, 2}
        assert len(await store.events()) == 2


async def test_a_server_that_stays_away_is_an_error_and_then_all_is_well_again(
    own_postgres_server: PostgresServer, script
) -> None:
    url = own_postgres_server.create_database("runs")
    run = script()
    async with Store.open(url, busy_timeout=0.05) as store:
        await store.append([started := run.started()])
        own_postgres_server.stop()
        with pytest.raises((ConnectionLostError, ServerUnreachableError)) as lost:
            await store.append([run.message()])
        with pytest.raises(ServerUnreachableError) as away:
            await store.events()
        assert "written" not in str(away.value)
        many = await asyncio.gather(*(store.events() for _ in range(200)), return_exceptions=True)
        assert {type(read) for read in many} == {ServerUnreachableError}  # also of those that had no turn
        run.sequence -= 1
        await asyncio.to_thread(own_postgres_server.start)

        assert lost.value.retryable
        assert [stored.position for stored in await store.append([started, run.message()])] == [1, 2]
