"""PostgreSQL: which databases, users and schemas are taken or refused, and what several processes do to each other there."""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from urllib.parse import quote

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgres_server import PostgresServer, RunningServer
from prepared_databases import make_old_tables
from psycopg import AsyncConnection
from raw_postgres import RawConnection
from sqlalchemy import Connection, text

from trackside.app.storage import Store
from trackside.app.storage._databases.postgres.bus import PostgresBus
from trackside.app.storage._databases.postgres.connections import PostgresDatabase
from trackside.app.storage._rows.fleet_tables import server_metadata
from trackside.app.storage._rows.tables import metadata
from trackside.app.storage._schema import REVISIONS
from trackside.app.storage.errors import (
    AccessRefusedError,
    DatabaseMissingError,
    ForeignDatabaseError,
    NewerDatabaseError,
    NoSchemaError,
    NoSuchDatabaseError,
    ReadOnlyDatabaseError,
    ReadStoppedError,
    RightMissingError,
    ServerUnreachableError,
    StorageError,
    TooManyConnectionsError,
    UnfitEncodingError,
)

DIALECTS = ["postgres"]


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


async def test_those_who_make_one_database_at_once_whatever_it_has_for_transactions(url: str, script) -> None:
    strict = option(url, options="-c default_transaction_isolation=serializable")

    async def write() -> None:
        async with Store.open(strict) as store:
            await store.append(script().whole())

    await refusal(option(url, search_path="nowhere"))  # imports what they would else wait for each other to import
    await asyncio.gather(*(write() for _ in range(6)))
    async with Store.open(url) as store:
        assert len(await store.events()) == 30


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


async def test_a_server_that_takes_no_more_connections(own_postgres_server: PostgresServer) -> None:
    own_postgres_server.execute("CREATE ROLE visitor LOGIN PASSWORD 'v' CONNECTION LIMIT 0")

    error = await refusal(own_postgres_server.tcp_url("postgres", user="visitor", password="v"))

    assert isinstance(error, TooManyConnectionsError)
    assert error.retryable


async def test_a_statement_that_the_server_stops(url: str, script) -> None:
    def ask(connection: Connection) -> None:
        connection.execute(text("SET LOCAL statement_timeout = '0.2s'"))  # here: opening may take long
        connection.execute(text("SELECT pg_sleep(60)"))

    async with Store.open(url) as store:
        with pytest.raises(ReadStoppedError, match="Ask for less"):
            await store._readers.run(ask)


async def test_connections_are_ours_to_see_and_set_up(store: Store, database: RawConnection, script) -> None:
    await store.append(script().whole())

    def settings(connection: Connection) -> list[str]:
        names = ("TimeZone", "application_name", "jit", "default_transaction_read_only", "transaction_isolation")
        return [connection.scalar(text(f"SHOW {name}")) for name in names]

    assert await store._readers.run(settings) == ["UTC", "trackside", "off", "on", "repeatable read"]
    with pytest.raises(ReadOnlyDatabaseError):
        await store._readers.run(lambda connection: connection.execute(text("DELETE FROM counters")))


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
