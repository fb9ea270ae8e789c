"""PostgreSQL: what its failures become, what survives them, and what several processes do to each other there."""

import asyncio
import math
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from functools import partial
from urllib.parse import quote

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from asyncpg import PostgresError
from leading_address import LeadingAddress
from postgres_server import PostgresServer, RunningServer
from prepared_databases import make_old_tables
from psycopg import AsyncConnection
from raw_postgres import RawConnection
from sqlalchemy import Connection, text

from trackside.app.storage import Store
from trackside.app.storage._coordination.membership import Vouch
from trackside.app.storage._databases.postgres.backend import PostgresBackend
from trackside.app.storage._databases.postgres.bus import PostgresBus
from trackside.app.storage._databases.postgres.connections import PostgresDatabase
from trackside.app.storage._databases.postgres.session import PostgresSession
from trackside.app.storage._databases.session import CollisionError
from trackside.app.storage._rows.encoding import encode_events
from trackside.app.storage._rows.fleet_tables import server_metadata
from trackside.app.storage._rows.tables import metadata
from trackside.app.storage._schema import REVISIONS
from trackside.app.storage._writing.appending import Append
from trackside.app.storage._writing.commits import commit_together
from trackside.app.storage.errors import (
    AccessRefusedError,
    ConnectionLostError,
    DatabaseBusyError,
    DatabaseMissingError,
    ForeignDatabaseError,
    NewerDatabaseError,
    NoSchemaError,
    NoSuchDatabaseError,
    OutcomeUnknownError,
    ReadBlockedError,
    ReadersBusyError,
    ReadLostError,
    ReadOnlyDatabaseError,
    ReadStoppedError,
    RightMissingError,
    ServerUnreachableError,
    StorageError,
    TooManyConnectionsError,
    UnfitEncodingError,
)

DIALECTS = ["postgres"]
PATIENCE = 60.0


@pytest.fixture
def server(postgres_server: RunningServer) -> RunningServer:
    return postgres_server


async def refusal(url: str, **options: object) -> StorageError:
    with pytest.raises(StorageError) as refused:
        async with Store.open(url, **options):
            pass
    return refused.value


def option(url: str, **options: str) -> str:
    return url + "".join(f"&{name}={quote(value)}" for name, value in options.items())


async def end_sessions(database: RawConnection) -> None:
    await asyncio.to_thread(
        database.execute,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid != pg_backend_pid()",
    )


async def test_a_server_that_does_not_run() -> None:
    error = await refusal("postgresql://me:secret@127.0.0.1:1/runs")

    assert isinstance(error, ServerUnreachableError)
    assert error.retryable
    assert "me@127.0.0.1:1/runs" in str(error)
    assert "secret" not in str(error)


async def test_a_database_that_is_not_there(server: RunningServer) -> None:
    error = await refusal(server.url("nowhere"))

    assert isinstance(error, NoSuchDatabaseError)
    assert "createdb nowhere" in str(error)


async def test_a_password_that_is_wrong(own_postgres_server: PostgresServer) -> None:
    own_postgres_server.execute("CREATE ROLE visitor LOGIN PASSWORD 'right'")

    error = await refusal(own_postgres_server.tcp_url("postgres", user="visitor", password="wr0ng"))

    assert isinstance(error, AccessRefusedError)
    assert not error.retryable
    assert "wr0ng" not in str(error)


async def test_a_user_who_may_make_no_tables(own_postgres_server: PostgresServer) -> None:
    own_postgres_server.execute("CREATE ROLE visitor LOGIN PASSWORD 'right'")

    error = await refusal(own_postgres_server.tcp_url("postgres", user="visitor", password="right"))

    assert isinstance(error, RightMissingError)
    assert "GRANT" in str(error)


async def test_a_user_who_may_only_read_looks_and_does_not_write(own_postgres_server: PostgresServer, script) -> None:
    url = own_postgres_server.create_database("runs")
    async with Store.open(url) as store:
        await store.append(script().whole())
    own_postgres_server.execute("CREATE ROLE reader LOGIN PASSWORD 'r'; GRANT pg_read_all_data TO reader")
    url = own_postgres_server.tcp_url("runs", user="reader", password="r")

    async with Store.open(url, read_only=True) as store:
        assert len(await store.events()) == 5
    async with Store.open(url) as store:
        with pytest.raises(RightMissingError):
            await store.append(script().whole())


async def test_a_server_that_takes_no_writes(url: str, database: RawConnection, script) -> None:
    reads = option(url, options="-c default_transaction_read_only=on")
    async with Store.open(reads) as store:
        await store.append(script().whole())  # we say ourselves that we write
    bus, connected = PostgresBus(PostgresDatabase.from_url(reads)), asyncio.Event()
    bus.listen("a", lambda _: None, on_gap=connected.set)
    await connected.wait()
    await bus.fetch("CREATE TABLE noted AS SELECT 1")  # as live output is kept
    await bus.aclose()
    error = await refusal(option(url, search_path="nowhere"))

    assert isinstance(error, NoSchemaError)


@pytest.mark.parametrize("name", ["Agents", "our agents", "a.b", 'in "quotes"'])
async def test_a_schema_of_any_name(url: str, database: RawConnection, script, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    database.execute(f"CREATE SCHEMA {quoted}")
    ours = option(url, search_path=quoted)
    async with Store.open(ours) as store:
        await store.append(script().whole())
    async with Store.open(ours) as store:
        assert len(await store.events()) == 5


@pytest.mark.parametrize("where", ["options", "service"])
async def test_the_environment_chooses_the_place_as_it_does_for_libpq(
    server: RunningServer, url: str, database: RawConnection, script, tmp_path, monkeypatch, where: str
) -> None:
    database.execute("CREATE SCHEMA agents")
    if where == "options":
        monkeypatch.setenv("PGOPTIONS", "-c search_path=agents")
    else:
        name = database.execute("SELECT current_database()").fetchone()[0]
        services = tmp_path / "services"
        services.write_text(f"[ours]\ndbname={name}\noptions=-c search_path=agents\n")
        monkeypatch.setenv("PGSERVICEFILE", str(services))
        monkeypatch.setenv("PGSERVICE", "ours")
        url = server.url("")

    async with Store.open(url) as store:
        await store.append(script().whole())
    async with await AsyncConnection.connect(PostgresDatabase.from_url(url).address.conninfo) as libpq:
        count = await (await libpq.execute("SELECT count(*) FROM events")).fetchone()

    assert count == database.execute("SELECT count(*) FROM agents.events").fetchone() == (5,)


async def test_the_tables_of_another_program_are_found_in_a_schema_of_any_name(
    url: str, database: RawConnection
) -> None:
    database.execute('CREATE SCHEMA crm; CREATE SCHEMA "Crm"; CREATE TABLE "Crm".customers (name text)')

    error = await refusal(option(url, search_path='"Crm"'))

    assert isinstance(error, ForeignDatabaseError)
    assert "customers" in str(error)


async def test_a_schema_of_another_program_stays_as_it_is(url: str, database: RawConnection) -> None:
    database.execute("CREATE TABLE accounts (name text)")

    error = await refusal(url)
    database.execute("CREATE SCHEMA agents")
    async with Store.open(option(url, search_path="agents")):
        pass

    assert isinstance(error, ForeignDatabaseError)
    assert "accounts" in str(error)
    assert database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (1,)
    assert database.execute("SELECT count(*) FROM agents.events").fetchone() == (0,)


async def test_a_schema_of_its_own_beside_a_program_that_uses_alembic(own_postgres_server: PostgresServer) -> None:
    own_postgres_server.create_database("shop")
    execute = partial(own_postgres_server.execute, database="shop")
    execute("CREATE TABLE events (id int); CREATE TABLE alembic_version (version_num text)")
    execute("INSERT INTO alembic_version VALUES ('1975ea83b712')")
    execute(
        "CREATE ROLE visitor LOGIN PASSWORD 'right'; CREATE SCHEMA AUTHORIZATION visitor"
    )  # on his path before `public`

    url = own_postgres_server.tcp_url("shop", user="visitor", password="right")
    for _ in range(2):
        async with Store.open(url):
            pass

    assert execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (2,)
    assert execute("SELECT version_num FROM visitor.alembic_version").fetchone() == (REVISIONS[-1],)


async def test_tables_are_found_behind_an_empty_schema(url: str, database: RawConnection, script) -> None:
    async with Store.open(url) as store:
        await store.append(script().whole())
    database.execute("CREATE SCHEMA agents")

    async with Store.open(option(url, search_path="agents,public")) as store:
        assert len(await store.events()) == 5


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_keep_every_text(
    server: RunningServer, postgres_names: Iterator[str], encoding: str
) -> None:
    name = next(postgres_names)
    options = f"ENCODING {encoding} LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
    await asyncio.to_thread(server.execute, f"CREATE DATABASE {name} {options}")
    try:
        error = await refusal(server.url(name))
    finally:
        await asyncio.to_thread(server.drop_database, name)

    assert isinstance(error, UnfitEncodingError)
    assert f"is encoded as {encoding}" in str(error)
    assert "createdb --encoding=UTF8" in str(error)


async def test_a_newer_schema_is_refused(url: str, database: RawConnection) -> None:
    async with Store.open(url):
        pass
    database.execute("UPDATE alembic_version SET version_num = '9999'")

    assert isinstance(await refusal(url), NewerDatabaseError)


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}])
async def test_an_empty_database_is_not_filled_by_one_who_only_looks(
    url: str, database: RawConnection, options
) -> None:
    assert isinstance(await refusal(url, **options), DatabaseMissingError)
    assert database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def definitions(connection: Connection) -> set[tuple[object, ...]]:
    columns = """
        SELECT table_name, column_name, rank() OVER (PARTITION BY table_name ORDER BY ordinal_position), data_type,
            is_nullable, column_default, is_identity, collation_name
        FROM information_schema.columns WHERE table_schema = 'public'"""
    tables = """
        SELECT relname, relkind, relpersistence, reloptions FROM pg_class
        WHERE relnamespace = 'public'::regnamespace"""
    indexes = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    constraints = """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace"""
    queries = (columns, tables, indexes, constraints, "SELECT version_num FROM alembic_version")
    return {tuple(row) for query in queries for row in connection.execute(text(query))}


async def test_a_new_database_is_what_one_of_the_first_version_becomes(store: Store, postgres_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        return compare_metadata(MigrationContext.configure(connection), [metadata, server_metadata])

    await asyncio.to_thread(make_old_tables, postgres_url, "0001")
    async with Store.open(postgres_url) as migrated:
        assert await migrated._readers.run(differences) == []
        assert await migrated._readers.run(definitions) == await store._readers.run(definitions)


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
        reads = await asyncio.gather(*(store.events() for _ in range(6)), return_exceptions=True)
        await asyncio.to_thread(database.execute, "ROLLBACK")

        assert {type(read) for read in reads} == {ReadBlockedError, ReadersBusyError}
        assert "written" not in " ".join(map(str, reads))
        assert await store.events() == []


async def test_a_long_line_of_reads_is_no_failure(url: str) -> None:
    def slowly(connection: Connection) -> object:
        return connection.scalar(text("SELECT pg_sleep(0.1)::text"))

    async with Store.open(url, busy_timeout=1) as store:  # far less than all of these take on a few connections
        assert await asyncio.gather(*(store._readers.run(slowly) for _ in range(80))) == [""] * 80


async def test_a_server_that_takes_no_more_connections(own_postgres_server: PostgresServer) -> None:
    own_postgres_server.execute("CREATE ROLE visitor LOGIN PASSWORD 'v' CONNECTION LIMIT 0")

    error = await refusal(own_postgres_server.tcp_url("postgres", user="visitor", password="v"))

    assert isinstance(error, TooManyConnectionsError)
    assert error.retryable


async def test_a_statement_that_the_server_stops(url: str, script) -> None:
    async with Store.open(url):
        pass
    async with Store.open(option(url, options="-c statement_timeout=1s")) as store:
        with pytest.raises(ReadStoppedError, match="Ask for less"):
            await store._readers.run(lambda connection: connection.execute(text("SELECT pg_sleep(10)")))


async def test_connections_are_ours_to_see_and_set_up(store: Store, database: RawConnection, script) -> None:
    await store.append(script().whole())

    def settings(connection: Connection) -> list[str]:
        names = ("TimeZone", "application_name", "jit", "default_transaction_read_only", "transaction_isolation")
        return [connection.scalar(text(f"SHOW {name}")) for name in names]

    assert await store._readers.run(settings) == ["UTC", "trackside", "off", "on", "repeatable read"]
    with pytest.raises(ReadOnlyDatabaseError):
        await store._readers.run(lambda connection: connection.execute(text("DELETE FROM counters")))


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
    url: str, database: RawConnection
) -> None:
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
    async with Store.open(url) as store:
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
        run.sequence -= 1
        await asyncio.to_thread(own_postgres_server.start)

        assert lost.value.retryable
        assert [stored.position for stored in await store.append([started, run.message()])] == [1, 2]


@pytest.mark.parametrize("where", ["address", "environment"])
async def test_a_server_that_takes_writes_is_asked_for(
    url: str, script, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "address":
        url = option(url, target_session_attrs="read-write")
    else:
        monkeypatch.setenv("PGTARGETSESSIONATTRS", "read-write")

    async with Store.open(url) as store:
        await store.append(script().whole())
        assert len(await store.events()) == 5


async def test_of_several_hosts_the_one_is_meant_that_takes_writes(own_postgres_server: PostgresServer, script) -> None:
    with await asyncio.to_thread(PostgresServer, fsync=False) as primary:
        servers = [own_postgres_server, primary]
        for server in servers:
            await asyncio.to_thread(server.create_database, "runs")
        await asyncio.to_thread(own_postgres_server.become_standby)
        hosts, ports = (",".join(str(getattr(server, what)) for server in servers) for what in ("folder", "port"))

        async with Store.open(f"postgresql://postgres@/runs?host={hosts}&port={ports}") as store:
            await store.append(script().whole())
            assert len(await store.events()) == 5


async def test_a_connection_to_a_server_that_has_become_a_standby_is_given_up(
    own_postgres_server: PostgresServer, script
) -> None:
    url = await asyncio.to_thread(own_postgres_server.create_database, "runs")
    run = script()
    async with Store.open(url, busy_timeout=0.05) as store:
        await store.append([run.started()])
        await asyncio.to_thread(own_postgres_server.become_standby)
        with pytest.raises(ConnectionLostError, match="during recovery") as lost:
            await store.append([completed := run.completed()])
        assert lost.value.retryable
        assert store._writer._session._driver.is_closed()

        await asyncio.to_thread(own_postgres_server.execute, "SELECT pg_promote()")
        assert [stored.position for stored in await store.append([completed])] == [2]


async def test_reads_go_on_at_the_new_primary_after_the_address_has_led_to_a_standby(
    own_postgres_server: PostgresServer, script
) -> None:
    with await asyncio.to_thread(PostgresServer, fsync=False) as primary:
        for server in (own_postgres_server, primary):
            await asyncio.to_thread(server.create_database, "runs")
            await asyncio.to_thread(server.execute, "CREATE ROLE me SUPERUSER LOGIN PASSWORD 'mine'")
        run = script()
        async with (
            LeadingAddress(own_postgres_server.port) as address,
            Store.open(url := f"postgresql://me:mine@127.0.0.1:{address.port}/runs", busy_timeout=0.05) as store,
        ):
            await store.append([started := run.started()])
            await asyncio.to_thread(own_postgres_server.become_standby)
            reads = (store.events, partial(store._readers.rows, {"postgresql": "SELECT 5"}))
            for read in reads:
                with pytest.raises(ServerUnreachableError, match="it is a standby") as refused:
                    await read()
                assert refused.value.retryable

            address.leads_to = primary.port
            async with Store.open(url) as other:
                await other.append([started, run.completed()])
            assert [stored.position for stored in await store.events()] == [1, 2]


async def test_who_only_looks_may_look_at_a_standby(own_postgres_server: PostgresServer, script) -> None:
    url = await asyncio.to_thread(own_postgres_server.create_database, "runs")
    async with Store.open(url) as store:
        await store.append(script().whole())
    await asyncio.to_thread(own_postgres_server.become_standby)

    async with Store.open(url, read_only=True) as store:
        assert len(await store.events()) == 5


@pytest.fixture
async def session(url: str, store: Store) -> AsyncIterator[object]:
    """A session that the test drives itself, as the writer's thread does."""
    session = PostgresBackend(PostgresDatabase.from_url(url)).session()
    yield session
    await asyncio.to_thread(session.close)


async def test_a_commit_whose_reply_was_lost_is_found_by_its_ids(session, script, database: RawConnection) -> None:
    wait, commits = session._wait, []

    def lose_the_reply(doing):
        committing = doing.cr_frame is not None and doing.cr_frame.f_locals.get("query") == "COMMIT"
        done = wait(doing)
        if committing and not commits:
            commits.append(done)
            session._driver.terminate()
            raise ConnectionResetError("the reply is lost")
        return done

    session._wait = lose_the_reply
    rows = encode_events(script().whole())

    committed = await asyncio.to_thread(commit_together, session, [Append(rows)], patience=5)

    assert commits == ["COMMIT"]
    assert [row.position for row in committed.outcomes[0]] == [1, 2, 3, 4, 5]
    assert committed.events == []
    assert database.execute("SELECT count(*) FROM events").fetchone() == (5,)


def commits_of(session: PostgresSession) -> list[str]:
    """The statements with which the session commits from now on."""
    wait, commits = session._wait, []

    def note(doing):
        statement = doing.cr_frame.f_locals.get("query", "")
        if "COMMIT" in statement.upper().split("; "):
            commits.append(statement)
        return wait(doing)

    session._wait = note
    return commits


async def test_a_commit_waits_for_the_disk_only_if_something_was_written(session, script) -> None:
    commits = commits_of(session)
    events = script().whole()
    first, all_of_them = encode_events(events[:2]), encode_events(events)

    for rows in (first, first, all_of_them):
        await asyncio.to_thread(commit_together, session, [Append(rows)])

    assert commits == ["COMMIT", "SET LOCAL synchronous_commit = off; COMMIT", "COMMIT"]


async def test_what_may_be_forgotten_has_nothing_forgotten_that_is_committed_with_it(session, script) -> None:
    commits = commits_of(session)
    sign_of_life = Vouch(worker_ids=["worker"], lease_seconds=15.0)
    append = Append(encode_events(script().whole()))

    for works in ([sign_of_life], [sign_of_life, append, sign_of_life]):
        await asyncio.to_thread(commit_together, session, works)

    assert commits == ["SET LOCAL synchronous_commit = off; COMMIT", "COMMIT"]


async def test_a_commit_that_was_cut_off_says_so_if_nobody_can_be_asked(session, script) -> None:
    wait = session._wait

    def cut_off(doing):
        if doing.cr_frame is not None and doing.cr_frame.f_locals.get("query") == "COMMIT":
            doing.close()
            session._driver.terminate()
            raise ConnectionResetError("cut off")
        return wait(doing)

    session._wait = cut_off

    with pytest.raises(OutcomeUnknownError) as unknown:
        await asyncio.to_thread(commit_together, session, [Append(encode_events(script().whole()))], patience=0.05)

    assert unknown.value.retryable


async def test_who_leaves_repeats_no_transaction_for_a_server_that_is_away(session, script, monkeypatch) -> None:
    leaves_at, tries = [math.inf], []

    async def refuse() -> None:
        tries.append(leaves_at[0])
        leaves_at[0] = 0.0  # told while it waits
        raise ConnectionRefusedError("nobody listens")

    monkeypatch.setattr(PostgresDatabase, "connect_writer", lambda _: refuse())
    works = [Append(encode_events(script().whole()))]

    for _ in range(2):
        with pytest.raises(ServerUnreachableError):
            await asyncio.to_thread(commit_together, session, works, patience=3_600, leaves_at=lambda: leaves_at[0])
        session.leave_by(0.0)

    assert tries == [math.inf, 0.0]


@pytest.mark.parametrize("is_told_before", [False, True])
async def test_who_leaves_does_not_wait_for_a_server_that_takes_a_connection_and_says_nothing(
    script, is_told_before: bool
) -> None:
    works = [Append(encode_events(script().whole()))]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        database = PostgresDatabase.from_url(f"postgresql://me@127.0.0.1:{port}/runs?connect_timeout=3600")
        session = PostgresSession(database)
        if is_told_before:
            session.leave_by(0.0)
        writing = asyncio.create_task(
            asyncio.to_thread(commit_together, session, works, patience=3_600, leaves_at=lambda: 0.0)
        )
        async with asyncio.timeout(PATIENCE):
            asked, _ = await asyncio.to_thread(silent.accept)
            with asked:
                session.leave_by(0.0)
                with pytest.raises(ServerUnreachableError, match="does not answer"):
                    await writing
        await asyncio.to_thread(session.close)


@pytest.mark.parametrize("code", ["08006", "57P01", "57P05", "25P03", "25P04"])
def test_a_session_that_the_server_has_ended_is_lost(code: str) -> None:
    database = PostgresDatabase.from_url("postgresql://me@somewhere/runs")

    error = database.translate(PostgresError.new({"C": code, "M": "it was ended"}))

    assert isinstance(error, ConnectionLostError)
    assert error.retryable


async def test_a_collision_is_told_from_other_failures(session) -> None:
    def collide() -> None:
        with session.transaction():
            session.execute(metadata.tables["counters"].insert().values(name="position", value=1))

    with pytest.raises(CollisionError):
        await asyncio.to_thread(collide)


MAKE_RUNS = textwrap.dedent("""
    import asyncio, sys
    from datetime import UTC, datetime
    from trackside.app.storage import Store
    from trackside.harness.ids import new_id
    from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

    KINDS = ["run_started", "human_message", "run_completed"]

    async def produce(store, runs):
        for number in range(runs):
            run_id, thread_id = new_id(), f"thread-{number}"  # the same new threads in all processes
            for sequence, kind in enumerate(KINDS, 1):
                event = RunLifecycleEvent(
                    new_id(), LifecycleEventType(kind), run_id, thread_id, sequence, datetime.now(UTC), {}
                )
                await store.append([event])

    async def main():
        async with Store.open(sys.argv[1]) as store:
            await asyncio.gather(*(produce(store, 20) for _ in range(4)))

    asyncio.run(main())
""")


async def test_a_reader_that_follows_never_misses_an_event_of_four_processes(store: Store, url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", MAKE_RUNS, url]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    seen: list[int] = []
    while any(writer.poll() is None for writer in writers):
        seen += [event.position for event in await store.events(after=seen[-1] if seen else 0)]
    seen += [event.position for event in await store.events(after=seen[-1] if seen else 0, limit=10_000)]

    assert [writer.communicate()[1] for writer in writers] == [""] * 4
    assert seen == list(range(1, 4 * 4 * 20 * 3 + 1))


SAME_RUN = textwrap.dedent("""
    import asyncio, sys
    from datetime import UTC, datetime
    from trackside.app.storage import Store
    from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

    async def main():
        async with Store.open(sys.argv[1]) as store:
            print("ready", flush=True)
            sys.stdin.readline()
            for number in range(30):
                event = RunLifecycleEvent(
                    f"event-{number}", LifecycleEventType.RUN_STARTED, f"run-{number}", "thread", 1,
                    datetime(2026, 1, 31, tzinfo=UTC), {},
                )
                (stored,) = await store.append([event])
                print(stored.position, flush=True)

    asyncio.run(main())
""")


def test_processes_that_append_the_same_events_at_once_store_them_once(url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", SAME_RUN, url]
    writers = [subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(3)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    said = [writer.communicate() for writer in writers]

    assert [error for _, error in said] == [""] * 3
    assert said[0][0] == said[1][0] == said[2][0]
    assert sorted(map(int, said[0][0].split())) == list(range(1, 31))
